"""Dead letters: their order, who may change them, and that each change leaves its trace."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from clawsettle.domain.errors import IllegalTransition, StorageError
from clawsettle.domain.forwarding import ForwardingState
from clawsettle.storage.dead_letters import STATES, DeadLetter, DeadLetters
from clawsettle.storage.operator_actions import Operator, actions_of
from clawsettle.storage.settlement_outbox import SettlementOutbox
from tests.storage.deliveries import (
    DEAD,
    FORWARDED,
    LEASE_S,
    failed,
    finish,
    open_outbox,
    record_leased,
    stored_row,
)

S = ForwardingState
EVENTS = [f"evt_{number:02}" for number in range(30)]
ANN = Operator("key:aaaaaaaa", "mended the account", "ann")
BOB = Operator("key:bbbbbbbb", "not ours")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[SettlementOutbox, DeadLetters]]:
    async with open_outbox(url) as outbox:
        yield outbox, DeadLetters(outbox.database, LEASE_S)


async def bury(outbox: SettlementOutbox, *event_ids: str) -> None:
    """Make dead rows, all in one commit: they share their instant."""
    rows = await record_leased(outbox, *event_ids)
    assert len(await outbox.finish([(row, DEAD) for row in rows])) == len(event_ids)


async def history(letters: DeadLetters, event_id: str) -> list[tuple[str, Operator]]:
    found = await actions_of(letters.database, "settlement", event_id)
    return [(one.action, one.operator) for one in found]


async def walk(letters: DeadLetters, *states: ForwardingState, limit: int) -> list[DeadLetter]:
    """Follow the pages to their end."""
    found: list[DeadLetter] = []
    after = None
    while page := await letters.page(states, after=after, limit=limit):
        assert len(page) <= limit
        found += page
        after = (page[-1].updated_at, page[-1].event_id)
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 200])
async def test_pages_are_newest_first_and_each_row_is_on_one(database_url: str, limit: int) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, *EVENTS[10:17])
        await bury(outbox, *EVENTS[:5])
        for row, result in zip(
            await record_leased(outbox, *EVENTS[20:22]), (FORWARDED, failed(60)), strict=True
        ):
            await finish(outbox, row, result)
        closed = [EVENTS[11], EVENTS[12], EVENTS[4], EVENTS[16]]
        for event_id in closed:
            await letters.discard(event_id, BOB)
        everything = [*reversed(EVENTS[:5]), *reversed(EVENTS[10:17])]
        expected = {
            (S.DEAD,): [i for i in everything if i not in closed],
            (S.DISCARDED,): [i for i in everything if i in closed],
            STATES: everything,
        }
        for states, event_ids in expected.items():
            listed = await walk(letters, *states, limit=limit)
            assert [letter.event_id for letter in listed] == event_ids
            assert {letter.state for letter in listed} == set(states)


async def test_rows_that_come_or_go_between_pages_hide_and_repeat_no_other(
    database_url: str,
) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, *EVENTS[:6])
        first = await letters.page([S.DEAD], after=None, limit=3)
        await letters.requeue(EVENTS[5], ANN)
        await bury(outbox, *EVENTS[6:9])
        after = (first[-1].updated_at, first[-1].event_id)
        rest = await letters.page([S.DEAD], after=after, limit=9)
        assert [one.event_id for one in (*first, *rest)] == [*reversed(EVENTS[:6])]


async def test_a_letter_says_what_its_row_says(database_url: str) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, "evt_1")
        row = await stored_row(outbox.database, "evt_1")
        (letter,) = await letters.page(STATES, after=None, limit=9)
        assert letter == DeadLetter(
            event_id="evt_1",
            event_type="payment_intent.succeeded",
            payload=row["payload"],
            state=S.DEAD,
            attempts=1,
            reason="no",
            code="LEDGER_INGEST_FAILED",
            blame=DEAD.blame,
            ledger_status=400,
            created_at=row["created_at"],
            last_attempted_at=row["last_attempted_at"],
            updated_at=row["updated_at"],
        )
        assert await letters.find("evt_1") == (letter, [])


async def test_a_requeued_row_is_due_with_its_whole_life_again(database_url: str) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, "evt_1")
        await outbox.database.fetch(
            "UPDATE settlement_outbox SET opened_at = now() - interval '9 days', attempts = 1000"
        )
        letter = await letters.requeue("evt_1", ANN)
        assert letter is not None
        assert (letter.state, letter.attempts, letter.blame) == (S.FAILED, 0, None)
        assert letter.reason == "no"
        (row,) = await outbox.claim_due(9)
        assert (row.event_id, row.attempts, row.rescued) == ("evt_1", 1, False)
        assert row.age_s < 60
        known = await outbox.look(["evt_1"])
        assert known["evt_1"].requeued
        await finish(outbox, row, FORWARDED)
        found = await letters.find("evt_1")
        assert found is not None
        assert found[0].state is S.FORWARDED
        assert await history(letters, "evt_1") == [("requeue", ANN)]


async def test_a_discarded_row_keeps_its_reason_and_since_when_it_is_dead(
    database_url: str,
) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, "evt_1")
        before = await stored_row(outbox.database, "evt_1")
        await letters.discard("evt_1", BOB)
        assert dict(await stored_row(outbox.database, "evt_1")) == {**before, "state": "discarded"}
        letter = await letters.requeue("evt_1", ANN)
        assert letter is not None
        assert letter.state is S.FAILED
        assert await history(letters, "evt_1") == [("discard", BOB), ("requeue", ANN)]


async def test_what_is_in_no_state_for_it_is_refused_and_leaves_no_trace(
    database_url: str,
) -> None:
    async with opened(database_url) as (outbox, letters):
        rows = await record_leased(outbox, *EVENTS[:3])
        await finish(outbox, rows[1], failed(60))
        await finish(outbox, rows[2], FORWARDED)
        await bury(outbox, EVENTS[3])
        await letters.discard(EVENTS[3], BOB)
        refused = [(change, i) for i in EVENTS[:3] for change in (letters.requeue, letters.discard)]
        for change, event_id in [*refused, (letters.discard, EVENTS[3])]:
            before = await stored_row(outbox.database, event_id)
            with pytest.raises(IllegalTransition) as raised:
                await change(event_id, ANN)
            to = "failed" if change == letters.requeue else "discarded"
            assert raised.value.details == {"from_status": before["state"], "to_status": to}
            assert await stored_row(outbox.database, event_id) == before
        assert await history(letters, EVENTS[3]) == [("discard", BOB)]
        assert await letters.requeue("evt_none", ANN) is None
        assert await letters.discard("evt_none", ANN) is None
        count = await outbox.database.fetch("SELECT count(*) AS n FROM operator_action")
        assert count[0]["n"] == 1


async def test_what_never_died_is_no_dead_letter(database_url: str) -> None:
    async with opened(database_url) as (outbox, letters):
        await record_leased(outbox, "evt_1")
        assert await letters.find("evt_1") is None
        assert await letters.find("evt_none") is None


@pytest.mark.parametrize("action", ["requeue", "discard"])
async def test_of_many_operators_at_once_exactly_one_acts(database_url: str, action: str) -> None:
    async with opened(database_url) as (outbox, one), opened(database_url) as (_, other):
        await bury(outbox, "evt_1")
        outcomes: list[DeadLetter | IllegalTransition | None] = []

        async def act(change: Callable[[str, Operator], Awaitable[DeadLetter | None]]) -> None:
            try:
                outcomes.append(await change("evt_1", ANN))
            except IllegalTransition as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            for letters in (one, other) * 6:
                nursery.start_soon(act, getattr(letters, action))
        assert [isinstance(o, DeadLetter) for o in outcomes].count(True) == 1
        assert [isinstance(o, IllegalTransition) for o in outcomes].count(True) == 11
        assert await history(one, "evt_1") == [(action, ANN)]


@pytest.mark.parametrize("action", ["requeue", "discard", "revive"])
async def test_without_its_trace_a_change_does_not_happen(database_url: str, action: str) -> None:
    async with opened(database_url) as (outbox, letters):
        await bury(outbox, "evt_1")
        before = await stored_row(outbox.database, "evt_1")
        await outbox.database.fetch("ALTER TABLE operator_action RENAME TO hidden")
        with pytest.raises(StorageError):
            await getattr(letters, action)("evt_1", ANN)
        assert await stored_row(outbox.database, "evt_1") == before


async def test_a_revived_row_is_leased_to_its_caller_and_to_nobody_else(database_url: str) -> None:
    async with opened(database_url) as (outbox, letters), open_outbox(database_url) as other:
        await bury(outbox, "evt_1", "evt_2")
        await letters.discard("evt_2", BOB)
        begun = trio.current_time()
        (row,) = await letters.revive("evt_1", ANN)
        assert (row.state, row.attempts, row.age_s) == (S.FAILED, 1, 0)
        assert begun + LEASE_S <= row.lease_ends <= trio.current_time() + LEASE_S
        assert await other.claim(["evt_1"], force=True) == []
        for event_id in ("evt_1", "evt_2", "evt_none"):
            assert await letters.revive(event_id, ANN) == []
        await finish(outbox, row, FORWARDED)
        assert await history(letters, "evt_1") == [("requeue", ANN)]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("state = 'discarded', blame = NULL", "settlement_outbox_dead_has_blame"),
        ("state = 'discarded', due_at = now()", "settlement_outbox_open_is_due"),
        ("state = 'forgotten', blame = NULL", "settlement_outbox_state_known"),
    ],
)
async def test_the_database_keeps_to_the_states_too(
    database_url: str, change: str, constraint: str
) -> None:
    async with opened(database_url) as (outbox, _):
        await bury(outbox, "evt_1")
        with pytest.raises(StorageError) as raised:
            await outbox.database.fetch(f"UPDATE settlement_outbox SET {change}")  # noqa: S608 - ours
        assert constraint in str(raised.value.details["constraint"])
