"""The delivery log: written behind the answers, bounded, and forgotten in time."""

from datetime import UTC, datetime, timedelta

import trio

from clawsettle.actors.delivery_recorder import DeliveryRecorder
from clawsettle.actors.supervisor import Supervised
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.delivery_log import DeliveryEntry, DeliveryLog

NOW = datetime.now(UTC)


def entry(number: int, *, days_ago: float = 0) -> DeliveryEntry:
    at = NOW - timedelta(days=days_ago)
    return DeliveryEntry(
        f"dlv_{number}", "payout.paid", at, at + timedelta(milliseconds=7), None, None
    )


async def ids(database: Database) -> list[str]:
    rows = await database.fetch("SELECT delivery_id FROM webhook_delivery_log ORDER BY 1")
    return [row["delivery_id"] for row in rows]


async def test_what_was_noted_is_written_before_it_ends(database_url: str) -> None:
    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        recorder = DeliveryRecorder(DeliveryLog(database, 90), held_max=10, every_s=3600)
        supervised = Supervised(recorder)
        await nursery.start(supervised.run)
        recorder.note(entry(1))
        recorder.note(entry(2))
        await supervised.stop()
        assert await ids(database) == ["dlv_1", "dlv_2"]
        (row,) = await database.fetch("SELECT DISTINCT processing_ms FROM webhook_delivery_log")
        assert row["processing_ms"] == 7


async def test_more_than_it_may_hold_is_dropped_and_counted(database_url: str) -> None:
    async with open_database(database_url) as database:
        recorder = DeliveryRecorder(DeliveryLog(database, 90), held_max=2)
        for number in range(5):
            recorder.note(entry(number))
        assert recorder.statistics() == {"waiting": 2, "dropped_count": 3}


async def test_old_entries_go_a_bounded_number_at_a_time(database_url: str) -> None:
    async with open_database(database_url) as database:
        log = DeliveryLog(database, retention_days=30)
        await log.append([entry(number, days_ago=31) for number in range(5)])
        await log.append([entry(9, days_ago=29)])
        assert [await log.expire(3), await log.expire(3), await log.expire(3)] == [3, 2, 0]
        assert await ids(database) == ["dlv_9"]


async def test_a_log_that_storage_refuses_costs_entries_and_nothing_else(
    database_url: str,
) -> None:
    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        await database.fetch("ALTER TABLE webhook_delivery_log RENAME TO gone")
        recorder = DeliveryRecorder(DeliveryLog(database, 90), held_max=10, every_s=0.01)
        supervised = Supervised(recorder)
        await nursery.start(supervised.run)
        recorder.note(entry(1))
        with trio.fail_after(5):
            while not recorder.dropped_count:  # noqa: ASYNC110 - counts tell nobody
                await trio.sleep(0.01)
        await database.fetch("ALTER TABLE gone RENAME TO webhook_delivery_log")
        recorder.note(entry(2))
        await supervised.stop()
        assert await ids(database) == ["dlv_2"]
        assert recorder.dropped_count == 1


async def test_a_repeated_write_is_one_entry(database_url: str) -> None:
    async with open_database(database_url) as database:
        log = DeliveryLog(database, 90)
        await log.append([entry(1)])
        await log.append([entry(1), entry(2)])
        assert await ids(database) == ["dlv_1", "dlv_2"]
