"""Who works on a row: leases that end, are stolen or let go of, and who claims what is due."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import frozen
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from clawsettle.actors.settlement_rescuer import RetrySummary, SettlementRescuer
from clawsettle.actors.supervisor import Intensity, Supervised
from clawsettle.domain.errors import Overloaded
from clawsettle.domain.forwarding import Forwardable, LedgerOutcome, Refused
from clawsettle.storage.bridge import Transaction, open_database
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.operator_actions import Operator, actions_of
from tests.actors.test_settlement_forwarder import (
    Bench,
    TestLedger,
    accepted,
    bench,
    states,
    until,
)

OPERATOR = Operator("key:12345678", "tried by hand")
_STEAL = "UPDATE settlement_outbox SET lease_token = nextval('lease_token') WHERE event_id = $1"


@frozen(eq=False)
class Rescue:
    """A forwarder and the rescuer that feeds it."""

    on: Bench
    rescuer: SettlementRescuer

    async def retry(
        self,
        *,
        limit: int = 200,
        force: bool = False,
        event_id: str | None = None,
        budget_s: float = math.inf,
    ) -> RetrySummary:
        return await self.rescuer.retry(
            limit=limit,
            force=force,
            event_id=event_id,
            operator=OPERATOR,
            budget=trio.move_on_after(budget_s),
        )


@asynccontextmanager
async def rescue(
    on: Bench, *, poll_s: float = 3600, batch_max: int = 100, running: bool = True
) -> AsyncIterator[Rescue]:
    """Run a rescuer on a bench; it only polls once, at its start, unless told otherwise."""
    letters = DeadLetters(on.outbox.database, on.outbox.lease_s)
    rescuer = SettlementRescuer(on.outbox, letters, on.forwarder, batch_max, poll_s)
    on.forwarder.seating.when_roomy = rescuer.ring
    supervised = Supervised(rescuer, Intensity(restarts_max=0))
    async with trio.open_nursery() as nursery:
        if running:
            await nursery.start(supervised.run)
        yield Rescue(on, rescuer)
        nursery.cancel_scope.cancel()


async def all_forwarded(on: Bench, event_ids: Sequence[str]) -> None:
    with trio.fail_after(10):
        while await on.states() != dict.fromkeys(event_ids, "forwarded"):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_an_attempt_ends_before_its_lease(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(database_url, ledger, attempt_timeout_s=0.3, lease_s=0.8) as on:
        await on.add("evt_1")
        begun = trio.current_time()
        assert await states(await on.send("evt_1")) == ["failed"]
        assert ledger.left_at["evt_1"] < begun + 0.8
        assert on.forwarder.lease_lost_count == 0


async def test_a_row_whose_lease_will_not_last_is_not_sent(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(
        database_url, ledger, in_flight_max=1, attempt_timeout_s=0.3, lease_s=0.5
    ) as on:
        await on.add("evt_1", "evt_2")
        assert await states(await on.send("evt_1", "evt_2")) == ["failed", None]
        assert ledger.asked == ["evt_1"]
        assert on.forwarder.lease_lost_count == 1
        row = await on.row("evt_2")
        assert (row["state"], row["attempts"]) == ("pending", 1)
        assert on.forwarder.seating.room == on.forwarder.capacity


async def test_a_result_is_not_recorded_over_another_owner(database_url: str) -> None:
    ledger = TestLedger(2)
    ledger.shut("evt_1")
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", "evt_2")
        attempts = await on.send("evt_1", "evt_2")
        await until(lambda: ledger.under_way == 1)
        await on.database.fetch(_STEAL, "evt_1")
        stolen = await on.row("evt_1")
        ledger.open("evt_1")
        assert await states(attempts) == [None, "forwarded"]
        assert await on.row("evt_1") == stolen
        assert on.forwarder.statistics()["lease_lost_count"] == 1


async def test_a_result_that_cannot_be_recorded_is_found_again_after_the_lease(
    database_url: str,
) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(database_url, ledger, attempt_timeout_s=0.8, lease_s=1) as on:
        await on.add("evt_1")
        (attempt,) = await on.send("evt_1")
        await on.database.fetch("ALTER TABLE settlement_outbox RENAME TO hidden")
        ledger.open("evt_1")
        assert await states([attempt]) == [None]
        await on.database.fetch("ALTER TABLE hidden RENAME TO settlement_outbox")
        row = await on.row("evt_1")
        assert (row["state"], row["attempts"]) == ("pending", 1)
        async with rescue(on, poll_s=0.05) as by:
            await all_forwarded(on, ["evt_1"])
            assert by.on.forwarder.rescued_count == 1
        assert ledger.asked == ["evt_1", "evt_1"]
        assert (await on.row("evt_1"))["attempts"] == 2


async def test_seats_are_counted_from_their_reservation(database_url: str) -> None:
    ledger, rings = TestLedger(), 0

    def ring() -> None:
        nonlocal rings
        rings += 1

    ledger.shut("evt_1", "evt_2")
    async with bench(database_url, ledger, capacity=2) as on:
        await on.add("evt_1", "evt_2")
        with on.forwarder.seating.reserve(1) as first, on.forwarder.seating.reserve(5) as second:
            assert (first.count, second.count, on.forwarder.seating.room) == (1, 1, 0)
            with on.forwarder.seating.reserve(1) as third:
                assert third.count == 0
        assert on.forwarder.seating.room == 2
        attempts = await on.send("evt_1", "evt_2")
        assert (on.forwarder.seating.room, on.forwarder.statistics()["under_way"]) == (0, 2)
        on.forwarder.seating.when_roomy = ring
        with on.forwarder.seating.reserve(1) as missed:
            assert missed.count == 0
        ledger.open("evt_1")
        assert await states(attempts[:1]) == ["forwarded"]
        assert (on.forwarder.seating.room, rings) == (1, 1)
        ledger.open("evt_2")
        assert await states(attempts[1:]) == ["forwarded"]
        # Nobody has missed a seat since, so nobody had to be told again.
        assert (on.forwarder.seating.room, rings) == (2, 1)


async def test_a_forwarder_that_fails_lets_go_of_everything_and_goes_on(
    database_url: str,
) -> None:
    class Short(TestLedger):
        """Forgets an outcome, which no ledger may."""

        async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
            outcomes = await super().ingest(settlements)
            return [] if self.asked[-1] == "evt_bad" else outcomes

    ledger = Short()
    ledger.shut("evt_1", "evt_2")
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", "evt_2", "evt_bad", "evt_4")
        attempts = await on.send("evt_1", "evt_2", "evt_bad")
        assert await states(attempts) == [None] * 3
        assert on.forwarder.seating.room == on.forwarder.capacity
        assert set((await on.states()).values()) == {"pending"}
        await until(lambda: on.supervised.running)
        assert await states(await on.send("evt_4")) == ["forwarded"]


async def test_leases_of_a_daemon_that_died_are_taken_over(database_url: str) -> None:
    ledger, lost = TestLedger(), ["evt_1", "evt_2", "evt_3"]
    async with bench(database_url, ledger) as on:
        await on.add(*lost, attempts=1, due_in_s=-5, leased=True)
        await on.add("evt_due", state="failed", attempts=1, due_in_s=-1)
        await on.add("evt_held", attempts=1, due_in_s=60, leased=True)
        await on.add("evt_later", state="failed", attempts=1, due_in_s=60)
        async with rescue(on) as by:
            with trio.fail_after(10):
                while (await on.row("evt_due"))["state"] != "forwarded":  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert by.on.forwarder.rescued_count == 3
        # Longest due first; what somebody holds and what is not due is left alone.
        assert ledger.asked == [*lost, "evt_due"]
        assert (await on.row("evt_1"))["attempts"] == 2
        assert (await on.row("evt_held"))["attempts"] == 1


async def test_the_longest_due_is_claimed_first(database_url: str) -> None:
    ledger = TestLedger()
    async with bench(database_url, ledger, in_flight_max=1) as on:
        for number in (3, 1, 2):
            await on.add(f"evt_{number}", due_in_s=number - 100)
        async with rescue(on, batch_max=1):
            await all_forwarded(on, ["evt_1", "evt_2", "evt_3"])
        assert ledger.asked == ["evt_1", "evt_2", "evt_3"]


async def test_no_more_is_claimed_than_fits_and_the_rest_when_room_appears(
    database_url: str,
) -> None:
    ledger, names = TestLedger(), [f"evt_{number}" for number in range(7)]
    ledger.shut(*names)
    async with bench(database_url, ledger, capacity=2) as on:
        await on.add(*names, due_in_s=-1)
        async with rescue(on, batch_max=3) as by:
            await until(lambda: len(ledger.asked) == 2)
            by.rescuer.ring()
            rows = await on.database.fetch(
                "SELECT 1 FROM settlement_outbox WHERE lease_token IS NOT NULL"
            )
            assert (len(rows), on.forwarder.seating.room) == (2, 0)
            ledger.open()
            # Nothing polls for an hour: whoever makes room has to ring.
            await all_forwarded(on, names)
        assert sorted(ledger.asked) == names
        assert await on.database.fetch("SELECT 1 FROM settlement_outbox WHERE attempts > 1") == []


async def test_batch_after_batch_is_claimed_without_waiting_for_the_clock(
    database_url: str,
) -> None:
    ledger, names = TestLedger(), [f"evt_{number}" for number in range(9)]
    async with bench(database_url, ledger) as on:
        await on.add(*names, due_in_s=-1)
        async with rescue(on, batch_max=2):
            await all_forwarded(on, names)


async def test_an_idle_rescuer_comes_to_rest(database_url: str) -> None:
    # A claim may reserve every seat there is; giving them back is no news to itself.
    async with bench(database_url, TestLedger(), capacity=5) as on, rescue(on, batch_max=100):
        with trio.fail_after(2):
            await wait_all_tasks_blocked(0.2)
        assert on.forwarder.seating.room == 5


async def test_storage_that_stalls_is_asked_again_and_the_rescuer_lives(
    database_url: str,
) -> None:
    async def stall(transaction: Transaction) -> None:
        await transaction.fetch("LOCK TABLE settlement_outbox IN ACCESS EXCLUSIVE MODE")
        await transaction.fetch("SELECT pg_sleep(0.6)")

    async with (
        bench(database_url, TestLedger(), statement_timeout_s=0.2) as on,
        open_database(database_url) as other,
    ):
        await on.add("evt_1", due_in_s=0.2)
        with capture_logs() as logs:
            async with rescue(on, poll_s=0.05):
                await other.transaction(stall)
                await all_forwarded(on, ["evt_1"])
        assert "timer_step_failed" in {entry["event"] for entry in logs}


async def test_two_daemons_share_the_work_and_send_each_row_once(database_url: str) -> None:
    ledger, names = TestLedger(), [f"evt_{number:02}" for number in range(40)]
    async with bench(database_url, ledger) as one, bench(database_url, ledger) as two:
        await one.add(*names, due_in_s=-1)
        async with rescue(one, batch_max=3), rescue(two, batch_max=3):
            await all_forwarded(one, names)
        assert sorted(ledger.asked) == names


async def test_a_retry_attempts_what_is_due_and_says_what_is_left(database_url: str) -> None:
    def answer(sent: Forwardable) -> LedgerOutcome:
        return Refused(404, "no") if sent.key.endswith("evt_2") else accepted(sent)

    async with bench(database_url, TestLedger(answer=answer)) as on:
        for number in range(5):
            await on.add(f"evt_{number}", due_in_s=number - 10)
        await on.add("evt_later", state="failed", attempts=1, due_in_s=60)
        async with rescue(on, running=False) as by:
            assert await by.retry(limit=3) == RetrySummary(3, 2, 1, 2)
            assert await by.retry(limit=3) == RetrySummary(2, 2, 0, 0)
            assert await by.retry(limit=3) == RetrySummary(0, 0, 0, 0)
            # By now evt_2 waits for its next attempt and evt_later for its first.
            assert await by.retry(limit=3, force=True) == RetrySummary(2, 1, 1, 0)


@pytest.mark.parametrize(
    ("state", "due_in_s", "leased", "force", "expected"),
    [
        ("failed", -1, False, False, RetrySummary(1, 1, 0, 0)),
        ("failed", 60, False, False, RetrySummary(0, 0, 0, 0)),
        ("failed", 60, False, True, RetrySummary(1, 1, 0, 0)),
        ("failed", 60, True, True, RetrySummary(0, 0, 0, 0)),
        ("failed", -1, True, False, RetrySummary(1, 1, 0, 0)),
    ],
)
async def test_a_retry_of_one_row_keeps_to_its_time_and_its_holder(
    database_url: str,
    state: str,
    due_in_s: float,
    leased: bool,
    force: bool,
    expected: RetrySummary,
) -> None:
    async with bench(database_url, TestLedger()) as on:
        await on.add("evt_1", state=state, attempts=1, due_in_s=due_in_s, leased=leased)
        await on.add("evt_2")
        async with rescue(on, running=False) as by:
            assert await by.retry(event_id="evt_1", force=force) == expected
        assert (await on.row("evt_2"))["attempts"] == 0


async def test_a_dead_row_comes_back_by_force_and_by_name_only(database_url: str) -> None:
    ledger = TestLedger(answer=lambda _sent: Refused(409, "no"))
    async with bench(database_url, ledger) as on:
        await on.add("evt_1")
        await states(await on.send("evt_1"))
        ledger.answer = accepted
        async with rescue(on, running=False) as by:
            assert (await by.retry(event_id="evt_1")).attempted == 0
            assert (await by.retry(force=True)).attempted == 0
            assert (await on.row("evt_1"))["state"] == "dead"
            assert await by.retry(event_id="evt_1", force=True) == RetrySummary(1, 1, 0, 0)
        row = await on.row("evt_1")
        assert (row["state"], row["blame"], row["attempts"]) == ("forwarded", None, 1)
        actions = await actions_of(on.outbox.database, "settlement", "evt_1")
        assert [(one.action, one.operator) for one in actions] == [("requeue", OPERATOR)]
        async with rescue(on, running=False) as by:
            assert (await by.retry(event_id="evt_1", force=True)).attempted == 0
            assert (await by.retry(event_id="evt_unknown", force=True)).attempted == 0


async def test_a_retry_of_a_discarded_row_leaves_it_and_its_history_alone(
    database_url: str,
) -> None:
    async with bench(database_url, TestLedger(answer=lambda _sent: Refused(409, "no"))) as on:
        await on.add("evt_1")
        await states(await on.send("evt_1"))
        async with rescue(on, running=False) as by:
            await by.rescuer.letters.discard("evt_1", OPERATOR)
            before = await on.row("evt_1")
            assert await by.retry(event_id="evt_1", force=True) == RetrySummary(0, 0, 0, 0)
            assert await by.retry(force=True) == RetrySummary(0, 0, 0, 0)
        assert await on.row("evt_1") == before
        actions = await actions_of(on.outbox.database, "settlement", "evt_1")
        assert [one.action for one in actions] == ["discard"]


async def test_a_retry_past_its_budget_counts_what_is_still_under_way(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_2")
    async with bench(database_url, ledger) as on:
        await on.add("evt_1", "evt_2")
        async with rescue(on, running=False) as by:
            assert await by.retry(budget_s=0.5) == RetrySummary(2, 1, 0, 1)
            assert on.forwarder.attempt_of("evt_2") is not None
            ledger.open("evt_2")
            await all_forwarded(on, ["evt_1", "evt_2"])


async def test_a_retry_without_room_says_so(database_url: str) -> None:
    ledger = TestLedger()
    ledger.shut("evt_1")
    async with bench(database_url, ledger, capacity=1) as on:
        await on.add("evt_1", "evt_2", "evt_3")
        (attempt,) = await on.send("evt_1")
        async with rescue(on, running=False) as by:
            assert await by.retry() == RetrySummary(0, 0, 0, 2)
            with pytest.raises(Overloaded):
                await by.retry(event_id="evt_2")
            ledger.open("evt_1")
            assert await states([attempt]) == ["forwarded"]
            assert await by.retry() == RetrySummary(1, 1, 0, 1)


async def test_retries_side_by_side_take_no_more_than_fits(database_url: str) -> None:
    ledger, names = TestLedger(), [f"evt_{number:02}" for number in range(12)]
    summaries: list[RetrySummary] = []
    async with bench(database_url, ledger, capacity=2) as on:
        await on.add(*names, due_in_s=-1)
        async with rescue(on, running=False) as by:

            async def retry() -> None:
                while (summary := await by.retry()).remaining:
                    summaries.append(summary)

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(retry)
        assert sorted(ledger.asked) == names
        assert sum(summary.failed for summary in summaries) == 0
        assert set((await on.states()).values()) == {"forwarded"}


async def test_closing_ends_the_rescuer_after_its_claim(database_url: str) -> None:
    async with bench(database_url, TestLedger()) as on:
        await on.add("evt_1")
        letters = DeadLetters(on.outbox.database, on.outbox.lease_s)
        rescuer = SettlementRescuer(on.outbox, letters, on.forwarder, 10, 3600)
        supervised = Supervised(rescuer)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervised.run)
            with trio.fail_after(5):
                await supervised.stop()
        assert not supervised.running
        await all_forwarded(on, ["evt_1"])


async def test_a_backlog_leaves_seats_for_new_events(database_url: str) -> None:
    ledger, old = TestLedger(), [f"old_{number}" for number in range(12)]
    ledger.shut(*old)
    async with bench(database_url, ledger, capacity=8) as on:
        await on.add(*old, due_in_s=-60)
        async with rescue(on):
            await until(lambda: len(ledger.asked) == 6)
            await on.add("evt_new")
            # It is the youngest of all, and at its turn at once.
            assert await states(await on.send("evt_new")) == ["forwarded"]
            assert set(ledger.asked) == {*old[:6], "evt_new"}
            ledger.open()
            await all_forwarded(on, [*old, "evt_new"])


async def test_new_events_leave_seats_for_the_backlog(database_url: str) -> None:
    ledger, new = TestLedger(), [f"new_{number}" for number in range(6)]
    ledger.shut(*new)
    async with bench(database_url, ledger, capacity=8) as on:
        await on.add(*new, "evt_old")
        with on.forwarder.seating.reserve(12) as seats:
            assert seats.count == 6
            on.forwarder.take(seats, await on.outbox.claim(new))
        async with rescue(on, batch_max=1):
            with trio.fail_after(5):
                while "evt_old" not in ledger.asked:  # noqa: ASYNC110
                    await trio.sleep(0.005)
            ledger.open()
            await all_forwarded(on, [*new, "evt_old"])


async def test_a_claim_waits_until_a_quarter_of_the_seats_is_free(database_url: str) -> None:
    ledger, names = TestLedger(), [f"evt_{number}" for number in range(8)]
    ledger.shut(*names)
    async with bench(database_url, ledger, capacity=8) as on:
        await on.add(*names, due_in_s=-1)
        async with rescue(on):
            await until(lambda: len(ledger.asked) == 6)
            ledger.open("evt_0")
            await until(lambda: on.forwarder.seating.room == 3)
            await wait_all_tasks_blocked(0.05)
            assert len(ledger.asked) == 6
            ledger.open("evt_1")
            await until(lambda: len(ledger.asked) == 8)
            ledger.open()
            await all_forwarded(on, names)
