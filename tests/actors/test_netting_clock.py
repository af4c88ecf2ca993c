"""Netting runs by the clock: two daemons on one database, and runs that have failed before."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

import attrs
import pytest
import structlog
import trio
from attrs import define, field, frozen

from clawsettle.actors.netting_clock import NettingClock
from clawsettle.clients.ledger import Ledger
from clawsettle.domain.forwarding import Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder, TransferOutcome
from clawsettle.domain.netting import Run, RunStatus
from clawsettle.domain.netting_schedule import slot_at
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting_rows import read_run
from clawsettle.storage.netting_schedule import NettingSchedule
from tests.house import House, open_house, settings
from tests.netting import SOURCE, cleared, paid, request, transfer

DAY_S = 86_400
QUIET = settings(netting={"poll_s": 0.02})
DAILY = settings(netting={"poll_s": 0.02, "every_s": DAY_S})
ELSEWHERE = "clearing:elsewhere"


@define(eq=False)
class Calendar:
    """How many days ago it is for everybody, and how often each daemon has asked."""

    days: int = 30
    look_counts: list[int] = field(factory=list)


@frozen
class Schedule(NettingSchedule):
    """The schedule as of a calendar in the past, and the place of its daemon there."""

    calendar: Calendar
    place: int

    async def read_at(self) -> datetime:
        self.calendar.look_counts[self.place] += 1
        return await super().read_at() - timedelta(days=self.calendar.days)


@frozen(eq=False)
class Daemons:
    """Some daemons on one database, each with a clock."""

    houses: list[House]
    clocks: list[NettingClock]
    calendar: Calendar

    @property
    def database(self) -> Database:
        return self.houses[0].database

    async def looked(self) -> None:
        """Wait until every clock has looked again twice, so that what was due has been done."""
        enough = [count + 2 for count in self.calendar.look_counts]
        with trio.fail_after(20):
            for place, count in enumerate(enough):
                while self.calendar.look_counts[place] < count:  # noqa: ASYNC110 - rows tell nobody
                    await trio.sleep(0.01)

    async def pass_days(self, days: int = 1) -> None:
        """Have it be another day, and wait until what is due then has been done."""
        await self.database.fetch(
            "UPDATE netting_run SET completed_at = completed_at - interval '31 days'"
        )
        self.calendar.days -= days
        await self.looked()

    async def runs(self) -> list[Run]:
        rows = await self.database.fetch("SELECT * FROM netting_run ORDER BY created_at, run_id")
        return [read_run(row) for row in rows]

    async def begun(self) -> list[int]:
        """Return how often each run was begun, in the order of ``runs``."""
        rows = await self.database.fetch(
            "SELECT count(*) FILTER (WHERE a.event_type = 'netting.run.running') AS begun_count"
            " FROM netting_run AS r JOIN netting_audit AS a USING (run_id)"
            " GROUP BY r.run_id ORDER BY r.created_at, r.run_id"
        )
        return [row["begun_count"] for row in rows]


@asynccontextmanager
async def daemons(
    database_url: str, count: int = 1, *, repeats_safely: bool = True
) -> AsyncIterator[Daemons]:
    """Open daemons whose clocks do not tick yet."""
    async with AsyncExitStack() as stack:
        calendar = Calendar(look_counts=[0] * count)
        houses = [
            await stack.enter_async_context(open_house(database_url, QUIET)) for _ in range(count)
        ]
        clocks = [
            NettingClock(
                Schedule(house.database, repeats_safely, calendar, place),
                house.parts.netting.runner,
                DAY_S,
                0.02,
            )
            for place, house in enumerate(houses)
        ]
        yield Daemons(houses, clocks, calendar)


@asynccontextmanager
async def ticking(at: Daemons) -> AsyncIterator[None]:
    """Have the clocks tick; what is due at their start has been done."""
    async with trio.open_nursery() as nursery:
        for clock in at.clocks:
            nursery.start_soon(clock.run)
        await at.looked()
        yield
        for clock in at.clocks:
            clock.close()


@frozen
class Deaf:
    """A ledger that says nothing."""

    async def transfer(self, _order: TransferOrder) -> TransferOutcome:
        return Unknown("no answer")

    async def transferred(self, _order: TransferOrder) -> Applied | None:
        return None


async def test_two_daemons_start_one_run_in_each_slot(database_url: str) -> None:
    async with daemons(database_url, 2) as at:
        amounts = (200, 300, 50)
        first_slot = slot_at(await at.clocks[0].schedule.read_at(), DAY_S)
        await paid(at.houses[0], ("k0", "acct_A", amounts[0]))
        async with ticking(at):
            for day in (1, 2):
                await paid(at.houses[0], (f"k{day}", "acct_A", amounts[day]))
                await at.pass_days()
        runs = await at.runs()
        assert [run.idempotency_key for run in runs] == [
            f"netting:schedule:clawsettle.payouts:clawsettle.netting:{day:%Y-%m-%dT%H:%M:%S}.000Z"
            for day in (first_slot + timedelta(days=days) for days in range(3))
        ]
        assert [run.total_amount_minor for run in runs] == list(amounts)
        assert all(run.is_scheduled and run.status is RunStatus.APPLIED for run in runs)
        assert await at.begun() == [1, 1, 1]
        assert await cleared(at.houses[0]) == (0, sum(amounts))


async def test_slots_that_were_missed_are_not_made_up_for(database_url: str) -> None:
    async with daemons(database_url, 2) as at:
        async with ticking(at):
            await paid(at.houses[0], ("a", "acct_A", 200), ("b", "acct_B", 300))
            await at.pass_days(5)
        assert [run.candidate_count for run in await at.runs()] == [0, 2]
        assert await cleared(at.houses[0]) == (0, 500)


async def test_a_scheduled_run_that_failed_is_resumed_in_the_next_slot_before_its_run(
    database_url: str,
) -> None:
    async with daemons(database_url) as at:
        house = at.houses[0]
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 200)
        async with ticking(at):
            (failed,) = await at.runs()
            assert (failed.status, await at.begun()) == (RunStatus.FAILED, [1])
            await transfer(house, ELSEWHERE, f"clearing:{SOURCE}", 200)
            await at.looked()
            assert await at.begun() == [1]
            await at.pass_days()
        resumed, new = await at.runs()
        assert (resumed.run_id, resumed.status) == (failed.run_id, RunStatus.APPLIED)
        assert resumed.completed_at is not None
        assert resumed.completed_at <= new.created_at
        assert (new.candidate_count, new.status) == (0, RunStatus.APPLIED)
        assert await cleared(house) == (0, 200)


async def test_a_daemon_that_finds_the_run_of_its_slot_leaves_it_as_it_is(
    database_url: str,
) -> None:
    async with daemons(database_url) as first, daemons(database_url) as second:
        house = first.houses[0]
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 200)
        async with ticking(first), ticking(second):
            pass
        assert [run.status for run in await first.runs()] == [RunStatus.FAILED]
        assert await first.begun() == [1]


async def test_runs_that_fail_again_are_tried_once_a_slot_and_hold_up_no_other(
    database_url: str,
) -> None:
    async with daemons(database_url) as at:
        house = at.houses[0]
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 200)
        async with ticking(at):
            await paid(house, ("b", "acct_B", 300))
            await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 300)
            await at.pass_days()
            assert await at.begun() == [2, 1]
            await transfer(house, ELSEWHERE, f"clearing:{SOURCE}", 100)
            await paid(house, ("c", "acct_C", 50))
            await at.pass_days()
            assert await at.begun() == [3, 2, 1]
        assert [run.status for run in await at.runs()] == [
            RunStatus.FAILED,
            RunStatus.FAILED,
            RunStatus.APPLIED,
        ]


async def test_a_run_that_somebody_asked_for_is_left_to_him(database_url: str) -> None:
    async with daemons(database_url) as at:
        house = at.houses[0]
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 200)
        await house.parts.netting.runner.execute(request("his"))
        await transfer(house, ELSEWHERE, f"clearing:{SOURCE}", 200)
        async with ticking(at):
            await at.pass_days()
        asked, *scheduled = await at.runs()
        assert (asked.idempotency_key, asked.status) == ("his", RunStatus.FAILED)
        assert [run.candidate_count for run in scheduled] == [0, 0]


@pytest.mark.parametrize("repeats_safely", [True, False])
async def test_a_run_in_doubt_is_resumed_only_where_repeating_is_safe(
    database_url: str, repeats_safely: bool
) -> None:
    async with daemons(database_url, repeats_safely=repeats_safely) as at:
        runner = at.houses[0].parts.netting.runner
        steps = runner.steps
        runner.steps = attrs.evolve(steps, ledger=Deaf())  # type: ignore[arg-type]
        await paid(at.houses[0], ("a", "acct_A", 200))
        async with ticking(at):
            runner.steps = steps
            await at.pass_days()
            assert await at.begun() == ([2, 1] if repeats_safely else [1, 1])
        assert await cleared(at.houses[0]) == ((0, 200) if repeats_safely else (200, 0))


async def test_what_cannot_be_run_is_told_once_and_the_next_slot_has_its_turn(
    database_url: str,
) -> None:
    async with daemons(database_url) as at:
        runner = at.houses[0].parts.netting.runner
        defaults, runner.defaults = runner.defaults, attrs.evolve(runner.defaults, targets=())
        with structlog.testing.capture_logs() as lines:
            async with ticking(at):
                await at.looked()
                runner.defaults = defaults
                await at.pass_days()
        told = [line for line in lines if line["event"] == "netting_schedule_failed"]
        assert [line["code"] for line in told] == ["INVALID_REQUEST"]
        assert len(await at.runs()) == 1


@define(eq=False)
class Gated:
    """A ledger that takes up an order only when it is let."""

    ledger: Ledger
    asked: trio.Event = field(factory=trio.Event)
    gate: trio.Event = field(factory=trio.Event)

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        self.asked.set()
        await self.gate.wait()
        return await self.ledger.transfer(order)


async def test_a_clock_that_is_closed_waits_for_no_run(database_url: str) -> None:
    async with daemons(database_url) as at:
        house, (clock,) = at.houses[0], at.clocks
        runner = house.parts.netting.runner
        gated = Gated(runner.steps.ledger)
        runner.steps = attrs.evolve(runner.steps, ledger=gated)  # type: ignore[arg-type]
        await paid(house, ("a", "acct_A", 200))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run)
            await gated.asked.wait()
            clock.close()
        await clock.run()
        (run,) = await at.runs()
        assert run.status is RunStatus.RUNNING
        gated.gate.set()
        with trio.fail_after(10):
            while (await at.runs())[0].status is RunStatus.RUNNING:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        assert await cleared(house) == (0, 200)


async def test_a_daemon_has_a_clock_only_when_its_settings_say_so(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        assert "netting_clock" not in {one.actor.name for one in house.parts.actors}
        await paid(house, ("a", "acct_A", 200))
    async with open_house(database_url, DAILY) as house:
        with trio.fail_after(10):
            while await cleared(house) != (0, 200):  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
