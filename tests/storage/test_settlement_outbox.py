"""The inbox and the outbox: recording events once, looking at them, finishing attempts."""

import json
import tempfile
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import evolve

from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.errors import StorageError
from clawsettle.domain.forwarding import ForwardingState, Standing
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import SOCKET_NAME
from clawsettle.storage.settlement_outbox import Backlog, Delivery
from tests.conftest import Postgres
from tests.storage.deliveries import (
    DEAD,
    FORWARDED,
    LEASE_S,
    delivery,
    failed,
    finish,
    open_outbox,
    payloads,
    record_leased,
    refund,
    stored_row,
    wait_until_due,
)
from tests.torture.commit_cutter import CommitCutter

EVENTS = [f"evt_{number:02}" for number in range(20)]


async def seconds_until(database: Database, at: datetime) -> float:
    rows = await database.fetch(
        "SELECT extract(epoch FROM $1::timestamptz - now())::double precision AS left_s", at
    )
    left_s: float = rows[0]["left_s"]
    return left_s


async def test_a_new_event_is_recorded_with_its_row_leased_to_the_recorder(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as outbox:
        begun = trio.current_time()
        (recorded,) = await outbox.record([delivery("evt_1")], leased_max=1)
        row = recorded.row
        assert row is not None
        assert (recorded.event_id, recorded.disposition) == ("evt_1", "forwarded")
        assert (row.event_id, row.state, row.attempts) == ("evt_1", ForwardingState.PENDING, 1)
        assert row.due_at == recorded.due_at
        assert not row.rescued
        assert begun + LEASE_S <= row.lease_ends <= trio.current_time() + LEASE_S
        assert LEASE_S - 5 < await seconds_until(outbox.database, row.due_at) <= LEASE_S
        mapped = delivery("evt_1").mapped
        assert mapped is not None
        assert row.payload == canonical_json(mapped.payload)


@pytest.mark.parametrize("passes_on", [True, False], ids=["answer lost", "commit lost"])
@pytest.mark.parametrize("other", [delivery("evt_2"), refund("evt_2", 100)], ids=["pay", "refund"])
async def test_what_was_recorded_is_the_recorders_also_when_the_commit_was_cut(
    postgres: Postgres, database_name: str, other: Delivery, *, passes_on: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="cutter-") as folder:
        async with trio.open_nursery() as nursery:
            cutter = CommitCutter(Path(folder), postgres.server.socket_dir / SOCKET_NAME)
            await nursery.start(cutter.run)
            async with open_outbox(cutter.dsn_of(database_name)) as outbox:
                cut = partial(cutter.cut_next_commit, passes_on=passes_on)
                async with trio.open_nursery() as cutting:
                    cutting.start_soon(cut)
                    await trio.testing.wait_all_tasks_blocked()
                    recorded = await outbox.record([delivery("evt_1"), other], leased_max=2)
                rows = [new.row for new in recorded if new.row is not None]
                assert sorted(row.event_id for row in rows) == ["evt_1", "evt_2"]
                await finish(outbox, rows[0], FORWARDED)
                await finish(outbox, rows[1], FORWARDED)
                again = await outbox.record([delivery("evt_1"), other], leased_max=2)
                assert again == []
            nursery.cancel_scope.cancel()


async def test_each_lease_has_a_token_of_its_own(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        rows = await record_leased(outbox, *EVENTS)
        assert len({row.lease_token for row in rows}) == len(EVENTS)


async def test_no_more_rows_are_leased_than_asked_and_the_others_are_due_at_once(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as outbox:
        recorded = await outbox.record([delivery(i) for i in EVENTS], leased_max=3)
        assert {new.event_id for new in recorded if new.row is not None} == set(EVENTS[:3])
        assert all(new.due_at is not None for new in recorded)
        claimed = await outbox.claim_due(100)
        assert {row.event_id for row in claimed} == set(EVENTS[3:])
        assert {(row.attempts, row.rescued) for row in claimed} == {(1, False)}


async def test_recording_without_leases_leaves_everything_to_others(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        (recorded,) = await outbox.record([delivery("evt_1")], leased_max=0)
        assert recorded.row is None
        assert [row.event_id for row in await outbox.claim_due(9)] == ["evt_1"]


async def test_recording_nothing_records_nothing(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        assert await outbox.record([], leased_max=5) == []


async def test_events_that_are_not_forwarded_have_no_row(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        ignored = delivery("evt_1", "charge.dispute.created")
        quarantined = evolve(delivery("evt_2"), mapped=None, quarantined=True)
        recorded = await outbox.record([ignored, quarantined, delivery("evt_3")], leased_max=1)
        found = {new.event_id: (new.disposition, new.due_at is not None) for new in recorded}
        assert found == {
            "evt_1": ("ignored", False),
            "evt_2": ("quarantined", False),
            "evt_3": ("forwarded", True),
        }
        assert {new.event_id for new in recorded if new.row} == {"evt_3"}, "the lease is not lost"
        assert set(await payloads(outbox.database)) == {"evt_3"}


async def test_the_second_recorder_of_an_event_gets_nothing_and_changes_nothing(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        await one.record([delivery("evt_1")], leased_max=1)
        before = await stored_row(one.database, "evt_1")
        again = [delivery("evt_1", amount=9), delivery("evt_2")]
        recorded = await other.record(again, leased_max=2)
        assert [new.event_id for new in recorded] == ["evt_2"]
        assert await stored_row(one.database, "evt_1") == before


async def test_two_daemons_recording_the_same_events_get_each_event_once(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        got: list[str] = []

        async def record(outbox_number: int, event_ids: list[str]) -> None:
            outbox = (one, other)[outbox_number % 2]
            recorded = await outbox.record([delivery(i) for i in event_ids], leased_max=99)
            got.extend(new.event_id for new in recorded if new.row is not None)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(record, number, EVENTS[::-1] if number % 3 else EVENTS)
        assert sorted(got) == EVENTS


async def test_what_is_known_of_an_event_follows_its_row(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery("evt_0", "charge.dispute.created")], leased_max=0)
        rows = await record_leased(outbox, "evt_1", "evt_2", "evt_3", "evt_4")
        await finish(outbox, rows[1], FORWARDED)
        await finish(outbox, rows[2], failed(3600))
        await finish(outbox, rows[3], DEAD)
        await outbox.record([delivery("evt_5")], leased_max=0)
        ids = [f"evt_{number}" for number in range(7)]
        known = await outbox.look(ids)
        assert set(known) == set(ids[:6])
        facts = {
            event_id: (event.standing and event.standing.state, event.due, event.leased)
            for event_id, event in known.items()
        }
        assert facts == {
            "evt_0": (None, False, False),
            "evt_1": ("pending", False, True),
            "evt_2": ("forwarded", False, False),
            "evt_3": ("failed", False, False),
            "evt_4": ("dead", False, False),
            "evt_5": ("pending", True, False),
        }
        assert known["evt_2"].standing == Standing(ForwardingState.FORWARDED, None, 201, "set_1")
        assert known["evt_0"].event_type == "charge.dispute.created"
        assert known["evt_1"].body_sha256 == delivery("evt_1").body_sha256


async def test_a_finished_attempt_is_stored_whole(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        rows = await record_leased(outbox, "evt_1", "evt_2", "evt_3")
        results = [FORWARDED, failed(60), DEAD]
        due = await outbox.finish(list(zip(rows, results, strict=True)))
        assert set(due) == {row.lease_token for row in rows}
        forwarded_at, failed_at, dead_at = (due[row.lease_token] for row in rows)
        assert (forwarded_at, dead_at) == (None, None)
        assert failed_at is not None
        assert 55 < await seconds_until(outbox.database, failed_at) <= 60
        names = ("state", "ledger_status", "settlement_id", "last_error_code", "blame", "attempts")
        stored = [await stored_row(outbox.database, row.event_id) for row in rows]
        assert [tuple(row[name] for name in names) for row in stored] == [
            ("forwarded", 201, "set_1", None, None, 1),
            ("failed", 503, None, "LEDGER_INGEST_FAILED", None, 1),
            ("dead", 400, None, "LEDGER_INGEST_FAILED", "us", 1),
        ]
        assert [row["last_error_message"] for row in stored] == [
            None,
            "the ledger answered 503",
            "no",
        ]
        assert [row["forwarded_at"] is not None for row in stored] == [True, False, False]
        assert [row["lease_token"] for row in stored] == [None, None, None]


async def test_a_success_clears_what_an_earlier_failure_left(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        (row,) = await record_leased(outbox, "evt_1")
        await finish(outbox, row, failed(0))
        (row,) = await outbox.claim_due(1)
        assert (row.state, row.attempts) == (ForwardingState.FAILED, 2)
        await finish(outbox, row, FORWARDED)
        stored = await stored_row(outbox.database, "evt_1")
        assert (stored["last_error_code"], stored["last_error_message"]) == (None, None)
        assert (stored["due_at"], stored["attempts"]) == (None, 2)


async def test_the_backlog_counts_what_is_open_or_dead_up_to_its_limit(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        assert await outbox.backlog(10) == Backlog(0, 0, 0.0)
        rows = await record_leased(outbox, *EVENTS[:4])
        assert await outbox.backlog(10) == Backlog(4, 0, 0.0)
        await finish(outbox, rows[0], FORWARDED)
        await finish(outbox, rows[1], DEAD)
        await finish(outbox, rows[2], failed(3600))
        assert await outbox.backlog(10) == Backlog(2, 1, 0.0)
        await outbox.record([delivery(i) for i in EVENTS[10:]], leased_max=0)
        await outbox.database.fetch(
            "UPDATE settlement_outbox SET due_at = now() - interval '90 seconds'"
            " WHERE event_id = 'evt_12'"
        )
        for row in await record_leased(outbox, *EVENTS[4:10]):
            await finish(outbox, row, DEAD)
        backlog = await outbox.backlog(6)
        assert (backlog.open_count, backlog.dead_count) == (6, 6)
        assert 90 <= backlog.oldest_due_s < 100


async def test_what_is_due_is_counted_up_to_the_limit(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery(i) for i in EVENTS], leased_max=5)
        assert await outbox.count_due(100) == 15
        assert await outbox.count_due(4) == 4


async def test_a_corrupt_payload_does_not_disturb_the_rows_beside_it(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery(i) for i in EVENTS[:5]], leased_max=0)
        for event_id, payload in [("evt_01", ""), ("evt_02", "{"), ("evt_03", "\x01\ud7ff")]:
            await outbox.database.fetch(
                "UPDATE settlement_outbox SET payload = $2 WHERE event_id = $1", event_id, payload
            )
        await wait_until_due(outbox, 5)
        claimed = {row.event_id: row for row in await outbox.claim_due(9)}
        assert set(claimed) == set(EVENTS[:5])
        assert [claimed[i].payload for i in EVENTS[1:4]] == ["", "{", "\x01\ud7ff"]
        assert json.loads(claimed["evt_00"].payload)["direction"] == "payin"
        await finish(outbox, claimed["evt_01"], DEAD)
        await finish(outbox, claimed["evt_04"], FORWARDED)


IMPOSSIBLE_ROWS = [
    ("SET state = 'lost', due_at = NULL, lease_token = NULL", "state_known"),
    ("SET attempts = -1", "attempts_counted"),
    ("SET due_at = NULL, lease_token = NULL", "open_is_due"),
    ("SET state = 'failed', due_at = NULL, lease_token = NULL", "open_is_due"),
    ("SET state = 'dead', blame = 'us', lease_token = NULL", "open_is_due"),
    ("SET state = 'dead', blame = 'us', due_at = NULL", "leased_is_open"),
    ("SET state = 'forwarded', due_at = NULL, lease_token = NULL", "forwarded_is_known"),
    ("SET settlement_id = 'set_1', forwarded_at = now()", "forwarded_is_known"),
    ("SET state = 'dead', due_at = NULL, lease_token = NULL", "dead_has_blame"),
    ("SET blame = 'us'", "dead_has_blame"),
    ("SET event_id = 'evt_2'", "event_fk"),
]


async def test_the_database_refuses_rows_that_cannot_be(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await record_leased(outbox, "evt_1")
        before = await stored_row(outbox.database, "evt_1")
        for sql, constraint in IMPOSSIBLE_ROWS:
            with pytest.raises(StorageError) as caught:
                await outbox.database.fetch(f"UPDATE settlement_outbox {sql}")
            assert caught.value.details["constraint"] == f"settlement_outbox_{constraint}", sql
        assert await stored_row(outbox.database, "evt_1") == before


IMPOSSIBLE_RECORDS = {
    "stripe_event_body_sha256_length": (
        "INSERT INTO stripe_event VALUES ('e', 't', true, 'short', 'ignored')"
    ),
    "stripe_event_disposition_known": (
        "INSERT INTO stripe_event VALUES ('e', 't', true, sha256(''), 'lost')"
    ),
    "stripe_event_body_while_quarantined": (
        "INSERT INTO stripe_event VALUES ('e', 't', true, sha256(''), 'quarantined')"
    ),
    "stripe_event_pk": (
        "INSERT INTO stripe_event SELECT 'e', 't', true, sha256(''), 'ignored'"
        " FROM generate_series(1, 2)"
    ),
    "settlement_outbox_open_is_due": "INSERT INTO settlement_outbox VALUES ('e', '{}')",
    "settlement_outbox_event_fk": (
        "INSERT INTO settlement_outbox (event_id, payload, due_at) VALUES ('e', '{}', now())"
    ),
    "charge_refund_total_not_negative": (
        "INSERT INTO charge_refund (charge_id, total_minor) VALUES ('ch_1', -1)"
    ),
}


async def test_the_database_refuses_records_that_cannot_be(database_url: str) -> None:
    async with open_database(database_url) as database:
        for constraint, sql in IMPOSSIBLE_RECORDS.items():
            with pytest.raises(StorageError) as caught:
                await database.fetch(sql)
            assert caught.value.details["constraint"] == constraint, sql
