"""Events that map to nothing yet: kept with their body, and taken up when they map by now."""

import pytest
from attrs import evolve

from clawsettle.storage.bridge import Database, Row
from clawsettle.storage.settlement_outbox import Delivery
from tests.storage.deliveries import delivery, open_outbox, payloads, refund


def quarantined(event_id: str) -> Delivery:
    """A delivery that could not be mapped when it came."""
    return evolve(delivery(event_id), body=b'{"\xc3\xbc": 1}', mapped=None, quarantined=True)


async def stored_event(database: Database, event_id: str) -> Row:
    (row,) = await database.fetch(
        "SELECT disposition, quarantined_body, body_sha256 FROM stripe_event WHERE event_id = $1",
        event_id,
    )
    return row


async def test_a_quarantined_event_is_kept_with_its_body(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        (new,) = await outbox.record([quarantined("evt_1")], leased_max=1)
        assert (new.disposition, new.row, new.due_at) == ("quarantined", None, None)
        stored = await stored_event(outbox.database, "evt_1")
        assert stored["quarantined_body"] == '{"\u00fc": 1}'
        assert stored["body_sha256"] == quarantined("evt_1").body_sha256


async def test_other_events_leave_no_body_behind(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        others = [delivery("evt_1"), delivery("evt_2", "charge.dispute.created")]
        await outbox.record([*others, refund("evt_3", 5), refund("evt_4", 5)], leased_max=0)
        rows = await outbox.database.fetch("SELECT quarantined_body FROM stripe_event")
        assert [row["quarantined_body"] for row in rows] == [None] * 4


async def test_a_quarantined_event_that_is_still_unmappable_is_not_new(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([quarantined("evt_1")], leased_max=1)
        before = await stored_event(outbox.database, "evt_1")
        ignored = evolve(quarantined("evt_1"), quarantined=False)
        for again in (quarantined("evt_1"), ignored):
            assert await outbox.record([again], leased_max=1) == []
        assert await stored_event(outbox.database, "evt_1") == before


@pytest.mark.parametrize("mended", [delivery("evt_1"), refund("evt_1", 700)])
async def test_a_quarantined_event_that_maps_by_now_is_forwarded_once(
    database_url: str, mended: Delivery
) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([quarantined("evt_1")], leased_max=1)
        (new,) = await outbox.record([mended], leased_max=1)
        assert new.disposition == "forwarded"
        assert new.row is not None
        assert new.row.attempts == 1
        stored = await stored_event(outbox.database, "evt_1")
        assert (stored["disposition"], stored["quarantined_body"]) == ("forwarded", None)
        assert stored["body_sha256"] == mended.body_sha256
        assert await outbox.record([mended], leased_max=1) == []
        assert await outbox.record([quarantined("evt_1")], leased_max=1) == []
        assert set(await payloads(outbox.database)) == {"evt_1"}


async def test_a_quarantined_refund_that_is_overtaken_is_superseded(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([quarantined("evt_1"), refund("evt_2", 700)], leased_max=1)
        (new,) = await outbox.record([refund("evt_1", 300)], leased_max=1)
        assert (new.disposition, new.row) == ("superseded", None)
        stored = await stored_event(outbox.database, "evt_1")
        assert (stored["disposition"], stored["quarantined_body"]) == ("superseded", None)
