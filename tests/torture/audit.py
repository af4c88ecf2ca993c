"""What must hold after every round, whatever was done in it; each fault is one line of text."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import trio
from attrs import frozen

from clawsettle.domain.errors import StorageUnavailable
from clawsettle.storage.bridge import Database, Row
from tests.storage.books import faults
from tests.torture.load import EventLoad
from tests.torture.site import Daemon

_SHOWN_MAX = 5


@frozen
class Audit:
    """The books after a round. ``takeover_s`` is how long work of a dead daemon waited at most.

    ``counts`` are the journal's events by type and the refusals by code.
    """

    problems: list[str]
    takeover_s: float | None
    counts: Mapping[str, int]


async def finish_open_rows(database: Database, within_s: float) -> list[str]:
    """Wait until nothing is under way any more; name the rows that are still open then."""
    query = "SELECT event_id, state, attempts, last_error_message FROM settlement_outbox"
    rows = None
    with trio.move_on_after(within_s):
        while rows is None or rows:
            try:
                rows = await database.fetch(f"{query} WHERE due_at IS NOT NULL ORDER BY due_at")
            except StorageUnavailable:
                rows = None
            await trio.sleep(0.05)
    if rows is None:
        return [f"the database did not answer within {within_s:g} s"]
    return named("still open", (str(dict(row)) for row in rows))


async def audit_events(
    database: Database, daemons: Sequence[Daemon], load: EventLoad, struck_at: datetime | None
) -> Audit:
    """Compare the ledger with what was sent and acknowledged."""
    recorded = {
        row["event_id"] for row in await database.fetch("SELECT event_id FROM stripe_event")
    }
    dead = await database.fetch("SELECT event_id FROM settlement_outbox WHERE state <> 'forwarded'")
    settlements = await database.fetch(
        "SELECT external_payment_id, account_id, amount_minor FROM ledger_settlement"
    )
    settled = Counter(row["external_payment_id"] for row in settlements)
    journal = Counter(
        row["external_payment_id"]
        for row in await database.fetch(
            "SELECT s.external_payment_id FROM ledger_event AS e LEFT JOIN ledger_settlement AS s"
            " ON s.settlement_id = split_part(e.idempotency_key, ':', 2)"
        )
    )
    payments = {event_id: one.payment_id for event_id, one in load.sent.items()}
    problems = named("not forwarded", (row["event_id"] for row in dead))
    problems += named("recorded, but never sent", recorded - payments.keys())
    for event_ids, said in ((load.acknowledged, "acknowledged"), (recorded, "recorded")):
        for counts, where in ((settled, "settlement"), (journal, "journal event")):
            problems += named(
                f"{said}, but without one {where}",
                (event_id for event_id in event_ids if counts[payments[event_id]] != 1),
            )
    for counts, where in ((settled, "settlements"), (journal, "the journal")):
        problems += named(f"twice in {where}", (str(p) for p, n in counts.items() if n > 1))
        problems += named(
            f"not recorded, but in {where}",
            (str(p) for p in counts.keys() - {payments[event_id] for event_id in recorded}),
        )
    due = {one.payment_id: (one.account_id, one.amount_minor) for one in load.sent.values()}
    problems += named(
        "settled otherwise than sent",
        (
            row["external_payment_id"]
            for row in settlements
            if due.get(row["external_payment_id"]) != (row["account_id"], row["amount_minor"])
        ),
    )
    problems += await _check_balances(database, settlements)
    problems += await faults(database)
    verified = await daemons[0].ledger("GET", "/events/verify")
    if verified != {"valid": True, "errors": [], "eventsChecked": journal.total()}:
        problems.append(f"the chain: {verified}")
    takeover_s = None if struck_at is None else await _takeover_s(database, struck_at)
    return Audit(problems, takeover_s, {"payin_settle": journal.total()})


async def _check_balances(database: Database, settlements: Sequence[Row]) -> list[str]:
    sums: Counter[str] = Counter()
    for row in settlements:
        sums[row["account_id"]] += row["amount_minor"]
    balances = await database.fetch(
        "SELECT account_id, available_minor FROM ledger_account WHERE kind = 'user'"
    )
    return [
        f"{row['account_id']} has {row['available_minor']}, its settlements are worth"
        f" {sums[row['account_id']]}"
        for row in balances
        if row["available_minor"] != sums[row["account_id"]]
    ]


async def _takeover_s(database: Database, struck_at: datetime) -> float | None:
    """Return how long after the strike the last event recorded before it was forwarded."""
    rows = await database.fetch(
        "SELECT extract(epoch FROM max(forwarded_at) - $1)::double precision AS taken_s"
        " FROM settlement_outbox WHERE created_at < $1 AND forwarded_at > $1",
        struck_at,
    )
    taken_s: float | None = rows[0]["taken_s"]
    return taken_s


def named(fault: str, names: Iterable[str]) -> list[str]:
    """Return one line that says what is the fault of which, or nothing."""
    found = sorted(names)
    if not found:
        return []
    more = f" and {len(found) - _SHOWN_MAX} more" if len(found) > _SHOWN_MAX else ""
    return [f"{fault}: {', '.join(found[:_SHOWN_MAX])}{more}"]
