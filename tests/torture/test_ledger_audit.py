"""The audit of a ledger can fail: what is changed behind its back, or answered twice, is named."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio
from attrs import evolve

from clawsettle.sandbox.risk_targets import open_risk_sandbox
from clawsettle.storage.bridge import Database, Transaction, open_database
from tests.torture.load import Answer
from tests.torture.orders import Order, accepts
from tests.torture.round import open_accounts
from tests.torture.site import open_site
from tests.torture.traffic import ORDERS, Plan

CLIENTS = 8
HOT, OTHER = "did:key:torture-0", "did:key:torture-1"

_BONDED = "UPDATE ledger_account SET bonded_minor = bonded_minor + 1 WHERE did = $1"
_RESERVED = "UPDATE ledger_account SET reserved_minor = reserved_minor + 1 WHERE did = $1"
_RELEASED = (
    "DELETE FROM ledger_reservation AS r USING ledger_account AS a"
    " WHERE a.account_id = r.account_id AND a.did = $1 AND r.closed_event_id IS NULL"
)
_GONE = "DELETE FROM ledger_event WHERE idempotency_key = $1"
_RENAMED = "UPDATE ledger_event SET idempotency_key = 'nobody' WHERE idempotency_key = $1"
_MISNAMED = "UPDATE ledger_event SET idempotency_key = $2 WHERE idempotency_key = $1"
_ANOTHER = "UPDATE ledger_event SET event_id = 'evt_another' WHERE idempotency_key = $1"


async def test_each_fault_in_the_books_is_named() -> None:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        async with open_site(Path(folder)) as site:
            url = site.server.dsn_of(await site.create_database())
            async with (
                open_risk_sandbox() as targets,
                site.daemons(("a", "b"), url, "attempted", targets.addresses) as daemons,
            ):
                accounts = await open_accounts(daemons[0])
                load = ORDERS.load(Plan(daemons, targets, accounts, CLIENTS, "attempted", "audit"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.run)
                    await load.acknowledges(300)
                    load.stop()
                async with open_database(url) as database:

                    async def finds(fault: str) -> bool:
                        found = await ORDERS.audit(database, daemons, load, None)
                        return any(problem.startswith(fault) for problem in found.problems)

                    assert not await finds("")
                    for sql, arguments, fault in changes(load.orders):
                        assert not await finds(fault)
                        await change(database, sql, arguments)
                        assert await finds(fault), fault
                    order = next(order for order in load.orders if order.is_accepted)
                    order.answers.append(another_answer(order))
                    assert await finds("accepted with the events ['evt_")


def changes(orders: Sequence[Order]) -> Sequence[tuple[str, Sequence[str], str]]:
    """Statements with their arguments, and what the audit says of what they change."""
    transfers = [one for one in orders if one.path == "/v1/transfers"]
    refused = next(one.key for one in transfers if not one.is_accepted)
    gone, renamed, misnamed, other = [one.key for one in transfers if one.is_accepted][:4]
    return (
        (_BONDED, [HOT], f"bonded_minor of {HOT} is "),
        (_RESERVED, [OTHER], f"reserved_minor of {OTHER} is "),
        (_RELEASED, [HOT], f"the reservations of {HOT} are 0 in all"),
        (_GONE, [gone], f"accepted, but not in the journal: {gone}"),
        (_RENAMED, [renamed], "in the journal, but nobody's: nobody"),
        (_MISNAMED, [misnamed, refused], f"refused, but in the journal: {refused}"),
        (_ANOTHER, [other], f"in the journal otherwise than answered: {other}"),
    )


async def change(database: Database, sql: str, arguments: Sequence[str]) -> None:
    """Change a table as somebody could who may do everything."""

    async def work(transaction: Transaction) -> None:
        await transaction.script("SET LOCAL session_replication_role = replica")
        await transaction.fetch(sql, *arguments)

    await database.transaction(work)


def another_answer(order: Order) -> Answer:
    """An answer that accepts an order as before, but names another event."""
    answer = next(filter(accepts, order.answers))
    (event_id,) = order.event_ids()
    return evolve(answer, body=answer.body.replace(event_id.encode(), b"evt_another"))
