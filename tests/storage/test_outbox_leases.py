"""Leases: who may claim which row, when, and what is left to one who has lost it."""

import pytest
import trio

from clawsettle.domain.forwarding import AttemptResult, Blame, ForwardingState
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.operator_actions import Operator
from clawsettle.storage.queries import load_queries
from clawsettle.storage.settlement_outbox import LeasedRow, SettlementOutbox
from tests.storage.deliveries import (
    DEAD,
    FORWARDED,
    LEASE_S,
    SHORT_S,
    delivery,
    failed,
    finish,
    held,
    open_outbox,
    record_leased,
    stored_row,
    wait_until_due,
)

EVENTS = [f"evt_{number:02}" for number in range(40)]


async def every_claim(outbox: SettlementOutbox, *event_ids: str) -> list[LeasedRow]:
    """Try every way there is to get at these rows."""
    return [
        *await outbox.claim(event_ids),
        *await outbox.claim(event_ids, force=True),
        *await outbox.claim_due(100),
        *await outbox.claim_due(100, force=True),
    ]


async def test_no_claim_takes_a_row_from_under_a_live_lease(database_url: str) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        (row,) = await record_leased(one, "evt_1")
        before = await stored_row(one.database, "evt_1")
        assert await every_claim(other, "evt_1") == []
        assert await every_claim(one, "evt_1") == []
        assert await stored_row(one.database, "evt_1") == before
        await finish(one, row, FORWARDED)


async def test_no_claim_takes_what_is_forwarded(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        (row,) = await record_leased(outbox, "evt_1")
        await finish(outbox, row, FORWARDED)
        assert await every_claim(outbox, "evt_1") == []


async def test_a_row_that_does_not_exist_is_not_claimed(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        assert await every_claim(outbox, "evt_none") == []
        assert await outbox.claim([]) == []


async def test_a_waiting_row_is_claimed_before_its_time_with_force_only(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        rows = await record_leased(outbox, "evt_1", "evt_2")
        for row in rows:
            await finish(outbox, row, failed(3600))
        assert await outbox.claim(["evt_1", "evt_2"]) == []
        assert await outbox.claim_due(9) == []
        named = await outbox.claim(["evt_1"], force=True)
        due = await outbox.claim_due(9, force=True)
        assert [row.event_id for row in (*named, *due)] == ["evt_1", "evt_2"]
        for row, claimed in zip(rows, (*named, *due), strict=True):
            assert (claimed.state, claimed.attempts) == (ForwardingState.FAILED, 2)
            assert claimed.lease_token > row.lease_token
            assert not claimed.rescued


async def test_a_row_whose_time_has_come_is_claimed_with_force_or_without(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as outbox:
        for row in await record_leased(outbox, *EVENTS[:4]):
            await finish(outbox, row, failed(0))
        claimed = [
            *await outbox.claim([EVENTS[0]]),
            *await outbox.claim([EVENTS[1]], force=True),
            *await outbox.claim_due(1),
            *await outbox.claim_due(9, force=True),
        ]
        assert [row.event_id for row in claimed[:2]] == EVENTS[:2]
        assert sorted(row.event_id for row in claimed) == EVENTS[:4]
        assert not any(row.rescued for row in claimed)


async def test_no_claim_takes_what_is_dead_or_discarded(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        for row in await record_leased(outbox, "evt_1", "evt_2"):
            await finish(outbox, row, DEAD)
        await DeadLetters(outbox.database, LEASE_S).discard("evt_2", Operator("key:0", "closed"))
        before = [await stored_row(outbox.database, i) for i in ("evt_1", "evt_2")]
        assert await every_claim(outbox, "evt_1", "evt_2") == []
        assert [await stored_row(outbox.database, i) for i in ("evt_1", "evt_2")] == before


async def test_a_claim_tells_how_long_its_row_has_been_tried(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        for row in await record_leased(outbox, *EVENTS[:3]):
            assert row.age_s == 0
            await finish(outbox, row, failed(0))
        await outbox.database.fetch(
            "UPDATE settlement_outbox SET opened_at = now() - interval '1 hour'"
        )
        claimed = [*await outbox.claim([EVENTS[0]]), *await outbox.claim_due(9)]
        assert len(claimed) == 3
        assert all(3600 <= row.age_s < 3630 for row in claimed)


async def test_the_longest_due_rows_are_claimed_first(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery(i) for i in EVENTS[:6]], leased_max=0)
        for age_s, event_id in enumerate(["evt_03", "evt_00", "evt_05"], start=1):
            await outbox.database.fetch(
                "UPDATE settlement_outbox SET due_at = now() - $2 * interval '1 minute'"
                " WHERE event_id = $1",
                event_id,
                age_s,
            )
        taken = [{row.event_id for row in await outbox.claim_due(limit)} for limit in (1, 1, 2, 9)]
        assert taken == [{"evt_05"}, {"evt_00"}, {"evt_03", "evt_01"}, {"evt_02", "evt_04"}]


async def test_the_lease_of_a_claim_is_counted_from_before_it_was_sent(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery("evt_1")], leased_max=0)
        begun = trio.current_time()
        (row,) = await outbox.claim(["evt_1"])
        assert begun + LEASE_S <= row.lease_ends <= trio.current_time() + LEASE_S


@pytest.mark.parametrize("by_id", [True, False])
async def test_expired_leases_are_claimed_once_however_many_try(
    database_url: str, by_id: bool
) -> None:
    async with open_outbox(database_url, lease_s=SHORT_S) as gone:
        lost = await record_leased(gone, *EVENTS)
        await wait_until_due(gone, len(EVENTS))
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        claimed: list[LeasedRow] = []

        async def claim(outbox: SettlementOutbox) -> None:
            rows = await (outbox.claim(EVENTS) if by_id else outbox.claim_due(len(EVENTS)))
            claimed.extend(rows)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(claim, one)
                nursery.start_soon(claim, other)
        # A claim passes over rows that another is just taking, so one more may find a rest.
        await claim(one)
        assert sorted(row.event_id for row in claimed) == EVENTS
        assert {row.attempts for row in claimed} == {2}
        assert min(row.lease_token for row in claimed) > max(row.lease_token for row in lost)
        if not by_id:
            assert all(row.rescued for row in claimed)


async def test_a_claim_passes_over_rows_that_another_is_just_taking(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([delivery(i) for i in EVENTS[:6]], leased_max=0)
        claim_due = load_queries("settlement_outbox")["claim_due"]
        async with held(database_url, claim_due, 2, False, LEASE_S):
            with trio.fail_after(5):
                named = await outbox.claim(EVENTS[:3])
                forced = await outbox.claim(EVENTS[:4], force=True)
                due = await outbox.claim_due(1)
                rest = await outbox.claim_due(9, force=True)
        claimed = [row.event_id for row in (*named, *forced, *due, *rest)]
        assert claimed == EVENTS[2:6]
        assert await every_claim(outbox, *EVENTS[:6]) == []


async def test_one_who_lost_the_lease_changes_nothing(database_url: str) -> None:
    async with (
        open_outbox(database_url, lease_s=SHORT_S) as slow,
        open_outbox(database_url) as other,
    ):
        results = [FORWARDED, failed(0), DEAD]
        lost = await record_leased(slow, *EVENTS[: len(results)])
        await wait_until_due(slow, len(results))
        taken = {row.event_id: row for row in await other.claim(EVENTS)}
        assert set(taken) == set(EVENTS[: len(results)])
        for row, result in zip(lost, results, strict=True):
            before = await stored_row(slow.database, row.event_id)
            assert await slow.finish([(row, result)]) == {}
            assert await stored_row(slow.database, row.event_id) == before
            await finish(other, taken[row.event_id], failed(3600))
            before = await stored_row(slow.database, row.event_id)
            assert await slow.finish([(row, result)]) == {}
            again = await other.finish([(taken[row.event_id], result)])
            assert again == {}, "a lease ends with its first result"
            assert await stored_row(slow.database, row.event_id) == before


async def test_a_lost_row_does_not_hold_up_the_rest_of_its_batch(database_url: str) -> None:
    async with (
        open_outbox(database_url, lease_s=SHORT_S) as slow,
        open_outbox(database_url) as other,
    ):
        rows = await record_leased(slow, *EVENTS[:3])
        await wait_until_due(slow, 3)
        await other.claim([EVENTS[1]])
        due = await slow.finish([(row, FORWARDED) for row in rows])
        assert due == {rows[0].lease_token: None, rows[2].lease_token: None}


async def test_a_lease_that_ran_out_unclaimed_may_still_be_finished(database_url: str) -> None:
    async with open_outbox(database_url, lease_s=SHORT_S) as outbox:
        (row,) = await record_leased(outbox, "evt_1")
        await wait_until_due(outbox, 1)
        await finish(outbox, row, FORWARDED)
        assert await outbox.claim_due(9, force=True) == []


async def test_each_death_is_told_with_its_own_blame(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        rows = await record_leased(outbox, *EVENTS[: len(Blame)])
        results = [
            AttemptResult(ForwardingState.DEAD, error_code="X", error_message="x", blame=blame)
            for blame in Blame
        ]
        await outbox.finish(list(zip(rows, results, strict=True)))
        stored = [(await stored_row(outbox.database, row.event_id))["blame"] for row in rows]
        assert stored == [str(blame) for blame in Blame]
