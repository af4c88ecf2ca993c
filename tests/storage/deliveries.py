"""Deliveries to record and an outbox to record them in, for the tests of the webhook path."""

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from clawsettle.domain.forwarding import AttemptResult, Blame, ForwardingState
from clawsettle.domain.stripe_events import Mapped, StripeEvent, map_event
from clawsettle.storage.bridge import Database, Row, Transaction, open_database
from clawsettle.storage.settlement_outbox import Delivery, LeasedRow, SettlementOutbox

LEASE_S = 30.0
SHORT_S = 0.05
"""A lease that runs out while a test looks on."""

FORWARDED = AttemptResult(ForwardingState.FORWARDED, ledger_status=201, settlement_id="set_1")
DEAD = AttemptResult(
    ForwardingState.DEAD,
    ledger_status=400,
    error_code="LEDGER_INGEST_FAILED",
    error_message="no",
    blame=Blame.US,
)


def failed(retry_in_s: float) -> AttemptResult:
    return AttemptResult(
        ForwardingState.FAILED,
        retry_in_s=retry_in_s,
        ledger_status=503,
        error_code="LEDGER_INGEST_FAILED",
        error_message="the ledger answered 503",
    )


def delivery(
    event_id: str, event_type: str = "payment_intent.succeeded", **subject: object
) -> Delivery:
    """A verified delivery of an event about an object that maps, as the intake would record it."""
    fields = {
        "id": f"obj_{event_id}",
        "amount": 2500,
        "currency": "usd",
        "metadata": {"account_id": "acc_1"},
        **subject,
    }
    event = StripeEvent(event_id, event_type, 1739290000, livemode=False, object=fields)
    mapped: Mapped | None = map_event(event, currencies={"USD"})
    return Delivery(event, event_id.encode(), mapped)


def refund(event_id: str, total_minor: int, *, charge_id: str = "ch_1") -> Delivery:
    """A delivery that says how much of a charge is refunded in all."""
    return delivery(
        event_id,
        "charge.refunded",
        id=charge_id,
        amount=10**6,
        amount_refunded=total_minor,
        payment_intent="pi_1",
    )


@asynccontextmanager
async def open_outbox(url: str, *, lease_s: float = LEASE_S) -> AsyncIterator[SettlementOutbox]:
    """An outbox on connections of its own, as every daemon has them."""
    async with open_database(url) as database:
        yield SettlementOutbox(database, lease_s)


async def record_leased(outbox: SettlementOutbox, *event_ids: str) -> list[LeasedRow]:
    """Record payments and return their rows, all leased, in the order of their ids."""
    recorded = await outbox.record([delivery(i) for i in event_ids], leased_max=len(event_ids))
    rows = [new.row for new in sorted(recorded, key=lambda new: new.event_id)]
    return [row for row in rows if row is not None]


async def finish(outbox: SettlementOutbox, row: LeasedRow, result: AttemptResult) -> None:
    """Finish a row that must still be ours."""
    assert set(await outbox.finish([(row, result)])) == {row.lease_token}


async def wait_until_due(outbox: SettlementOutbox, count: int) -> None:
    """Wait until this many rows may be claimed: leases and waits end by the database's clock."""
    with trio.fail_after(5):
        while await outbox.count_due(count) < count:  # noqa: ASYNC110 - the clock tells nobody
            await trio.sleep(0.005)


@asynccontextmanager
async def held(url: str, sql: str, *args: object) -> AsyncIterator[None]:
    """Run a statement and keep its transaction open, locks and all, while the block runs."""
    begun, released = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    async def hold(transaction: Transaction) -> None:
        await transaction.fetch(sql, *args)
        token.run_sync_soon(begun.set)
        while not released.is_set():
            await transaction.fetch("SELECT pg_sleep(0.005)")

    async with open_database(url) as database, trio.open_nursery() as nursery:
        nursery.start_soon(database.transaction, hold)
        try:
            with trio.fail_after(5):
                await begun.wait()
            yield
        finally:
            released.set()


async def wait_for_locks(database: Database, count: int) -> None:
    """Wait until this many statements wait for a lock on this database."""
    with trio.fail_after(5):
        while True:
            (row,) = await database.fetch(
                "SELECT count(*) AS waiting FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if row["waiting"] >= count:
                return
            await trio.sleep(0.005)


async def stored_row(database: Database, event_id: str) -> Row:
    """A row of the outbox as it is stored."""
    (row,) = await database.fetch("SELECT * FROM settlement_outbox WHERE event_id = $1", event_id)
    return row


async def payloads(database: Database) -> Mapping[str, Any]:
    """The payload texts of the outbox by event id."""
    rows: Sequence[Row] = await database.fetch("SELECT event_id, payload FROM settlement_outbox")
    return {row["event_id"]: row["payload"] for row in rows}
