"""The audit of a ledger can fail: what is changed behind its back, or answered twice, is named."""

from collections.abc import Sequence

from attrs import evolve

from tests.torture.audited import open_audited
from tests.torture.ledger_load import LedgerLoad
from tests.torture.load import Answer
from tests.torture.orders import Order, accepts
from tests.torture.traffic import ORDERS

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
    async with open_audited(ORDERS, clients=CLIENTS, count=300, within_s=30) as audited:
        for sql, arguments, fault in changes(audited.load.orders):
            await audited.names_change(sql, arguments, fault)
        await audited.names_telling(_answer_otherwise, "accepted with the events ['evt_")


def _answer_otherwise(load: LedgerLoad) -> None:
    order = next(order for order in load.orders if order.is_accepted)
    order.answers.append(another_answer(order))


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


def another_answer(order: Order) -> Answer:
    """An answer that accepts an order as before, but names another event."""
    answer = next(filter(accepts, order.answers))
    (event_id,) = order.event_ids()
    return evolve(answer, body=answer.body.replace(event_id.encode(), b"evt_another"))
