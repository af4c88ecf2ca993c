"""A repeated step: by the clock, by its bell, and patiently when storage is away."""

from collections.abc import Callable

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from clawsettle.actors.timer import Timer
from clawsettle.domain.errors import StorageError, StorageUnavailable


@define(eq=False)
class Steps:
    """Counts steps and when they began; each does what the script says, then nothing."""

    clock: MockClock
    script: list[Callable[[], bool]] = field(factory=list)
    lasts_s: float = 0.0
    at: list[float] = field(factory=list)
    _origin: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._origin = self.clock.current_time()

    async def step(self) -> bool:
        self.at.append(round(self.clock.current_time() - self._origin, 6))
        await trio.sleep(self.lasts_s)
        return self.script.pop(0)() if self.script else False


def more() -> bool:
    return True


def nothing() -> bool:
    return False


def away() -> bool:
    raise StorageUnavailable("the database is away")


async def run_for(seconds: float, timer: Timer, steps: Steps) -> None:
    """Run a timer for so long, then cut it."""
    with trio.move_on_after(seconds):
        await timer.run(steps.step)


async def test_a_step_runs_at_once_and_then_by_the_clock(autojump_clock: MockClock) -> None:
    steps = Steps(autojump_clock)
    await run_for(35, Timer("t", 10), steps)
    assert steps.at == [0, 10, 20, 30]


async def test_the_interval_is_counted_from_the_end_of_a_step(autojump_clock: MockClock) -> None:
    steps = Steps(autojump_clock, lasts_s=3)
    await run_for(30, Timer("t", 10), steps)
    assert steps.at == [0, 13, 26]


async def test_a_ring_runs_the_step_at_once(autojump_clock: MockClock) -> None:
    steps, timer = Steps(autojump_clock), Timer("t", 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, steps.step)
        await trio.sleep(7)
        timer.ring()
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    assert steps.at == [0, 7, 107]


async def test_rings_during_a_step_are_one_more_step(autojump_clock: MockClock) -> None:
    steps, timer = Steps(autojump_clock, lasts_s=5), Timer("t", 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, steps.step)
        for _ in range(3):
            await trio.sleep(1)
            timer.ring()
        await trio.sleep(50)
        nursery.cancel_scope.cancel()
    assert steps.at == [0, 5]


async def test_a_ring_before_the_start_costs_no_more_than_one_step(
    autojump_clock: MockClock,
) -> None:
    steps, timer = Steps(autojump_clock), Timer("t", 100)
    timer.ring()
    await run_for(50, timer, steps)
    assert steps.at in ([0], [0, 0])


async def test_more_to_do_runs_at_once(autojump_clock: MockClock) -> None:
    steps = Steps(autojump_clock, [more, more, more, nothing])
    await run_for(15, Timer("t", 10), steps)
    assert steps.at == [0, 0, 0, 0, 10]


async def test_a_step_with_endless_work_still_lets_others_run(autojump_clock: MockClock) -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    steps = Steps(autojump_clock, [more] * 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(Timer("t", 10).run, steps.step)
        while len(steps.at) < 500:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert others > 100


async def test_storage_that_is_away_is_asked_less_and_less_often(autojump_clock: MockClock) -> None:
    steps = Steps(autojump_clock, [away] * 9)
    await run_for(31, Timer("t", 1), steps)
    assert steps.at == [0, 2, 6, 10, 14, 18, 22, 26, 30]


async def test_when_storage_is_back_the_clock_goes_on_and_forgets(
    autojump_clock: MockClock,
) -> None:
    steps = Steps(autojump_clock, [away, away, nothing, nothing, away, nothing])
    await run_for(12, Timer("t", 1), steps)
    assert steps.at == [0, 2, 6, 7, 8, 10, 11]


async def test_an_interval_beyond_the_longest_wait_is_kept(
    autojump_clock: MockClock,
) -> None:
    steps = Steps(autojump_clock, [away, away, nothing])
    await run_for(70, Timer("t", 20), steps)
    assert steps.at == [0, 20, 40, 60]


@pytest.mark.parametrize("error", [StorageError("refused"), ValueError("a bug")])
async def test_any_other_error_ends_the_run_with_it(
    autojump_clock: MockClock, error: Exception
) -> None:
    def fail() -> bool:
        raise error

    steps = Steps(autojump_clock, [nothing, fail])
    with pytest.raises(type(error)) as caught:
        await Timer("t", 1).run(steps.step)
    assert caught.value is error
    assert steps.at == [0, 1]


async def test_stopping_while_it_waits_runs_one_last_step(autojump_clock: MockClock) -> None:
    steps, timer = Steps(autojump_clock), Timer("t", 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, steps.step)
        await trio.sleep(4)
        timer.stop()
    assert steps.at == [0, 4]
    assert trio.current_time() < 100


async def test_stopping_during_a_step_ends_after_it(autojump_clock: MockClock) -> None:
    steps, timer = Steps(autojump_clock, [more], lasts_s=5), Timer("t", 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, steps.step)
        await trio.sleep(2)
        timer.stop()
    assert steps.at == [0]


async def test_stopping_before_the_start_is_one_step(autojump_clock: MockClock) -> None:
    steps, timer = Steps(autojump_clock, [more]), Timer("t", 100)
    timer.stop()
    with trio.fail_after(1):
        await timer.run(steps.step)
    assert steps.at == [0]


async def test_stopping_while_storage_is_away_ends_without_an_error(
    autojump_clock: MockClock,
) -> None:
    steps, timer = Steps(autojump_clock, [away] * 9), Timer("t", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run, steps.step)
        await trio.sleep(3)
        timer.stop()
    assert steps.at == [0, 2, 3]


async def test_cancellation_passes_in_a_step_and_between_steps(autojump_clock: MockClock) -> None:
    for lasts_s in (0.0, 1000.0):
        steps, timer = Steps(autojump_clock, lasts_s=lasts_s), Timer("t", 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.run, steps.step)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
        assert steps.at == [0]
