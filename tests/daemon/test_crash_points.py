"""A daemon dies after each commit of the main path; the next one finishes what it had begun."""

import json
from collections.abc import Sequence
from functools import partial

import httpx
import pytest
import trio

from clawsettle.actors.ledger_keeper import decide_all
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.stripe_events import map_event, parse_event
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.settlement_outbox import Delivery, LeasedRow, SettlementOutbox
from tests.house import House, open_house, payin, settings

ACCOUNT = "acc_32ca986a"
EVENTS = [payin(f"evt_{number}", ACCOUNT) for number in range(3)]
LEASE_S = 0.2


async def _record(outbox: SettlementOutbox) -> list[LeasedRow]:
    """Commit the events and their leased rows, as the intake does."""
    bodies = [json.dumps(event).encode() for event in EVENTS]
    parsed = [parse_event(json.loads(body)) for body in bodies]
    recorded = await outbox.record(
        [
            Delivery(event, body, map_event(event, currencies=("USD",)))
            for event, body in zip(parsed, bodies, strict=True)
        ],
        leased_max=len(EVENTS),
    )
    return [new.row for new in recorded if new.row is not None]


async def _post(book: LedgerBook, rows: Sequence[LeasedRow]) -> None:
    """Commit the settlements in the ledger, as the keeper does."""
    commands = [
        parse_ingest(f"stripe:event:{row.event_id}", json.loads(row.payload)) for row in rows
    ]
    await book.apply(commands, partial(decide_all, commands=commands))


@pytest.mark.parametrize("posted", [0, 1, 3], ids=["recorded", "one posted", "all posted"])
async def test_what_a_dead_daemon_had_begun_is_finished_once(
    database_url: str, posted: int
) -> None:
    quick = settings(forwarding={"poll_s": 0.05})
    async with open_house(database_url) as before:
        assert await before.open_account() == ACCOUNT
    async with open_database(database_url) as dying:
        rows = await _record(SettlementOutbox(dying, LEASE_S))
        assert len(rows) == len(EVENTS)
        if posted:
            await _post(LedgerBook(dying, "USD"), rows[:posted])
    async with open_house(database_url, quick) as after:
        with trio.fail_after(10):
            while await _open_rows(after):  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.02)
        assert await after.available(ACCOUNT) == 2500 * len(EVENTS)
        answers: list[httpx.Response] = [await after.deliver(event) for event in EVENTS]
        assert [answer.json()["deduped"] for answer in answers] == [True] * len(EVENTS)
        assert all(answer.json()["forwarded_to_ledger"] for answer in answers)
        assert await after.available(ACCOUNT) == 2500 * len(EVENTS)


async def _open_rows(house: House) -> bool:
    return bool(
        await house.database.fetch("SELECT 1 FROM settlement_outbox WHERE state <> 'forwarded'")
    )
