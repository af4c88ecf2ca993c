"""Restarting one actor alone: with backoff, visibly, and not for ever."""

from collections.abc import Iterable

import pytest
import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from clawsettle.actors.supervisor import Intensity, Supervised


@define(eq=False)
class Scripted:
    """Fails as it is told, each time after so many seconds; then works until it is closed."""

    clock: MockClock
    failures: list[tuple[float, Exception]] = field(factory=list)
    drain_s: float = 0.0
    name: str = "scripted"
    begun: list[float] = field(factory=list)
    ended: list[float] = field(factory=list)
    closed: trio.Event = field(factory=trio.Event)

    async def run(self) -> None:
        self.begun.append(self.clock.current_time())
        try:
            if self.failures:
                after_s, error = self.failures.pop(0)
                await trio.sleep(after_s)
                raise error
            await self.closed.wait()
            await trio.sleep(self.drain_s)
        finally:
            self.ended.append(self.clock.current_time())

    def close(self) -> None:
        self.closed.set()


def failing(count: int, *, after_s: float = 0.0) -> list[tuple[float, Exception]]:
    return [(after_s, OSError(number)) for number in range(count)]


async def test_a_failing_actor_is_started_again_until_it_works(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(3))
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await trio.sleep(60)
        assert len(actor.begun) == 4
        assert supervised.running
        await supervised.stop()


async def test_waits_before_restarts_grow_and_stay_bounded(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(25))
    supervised = Supervised(actor, Intensity(restarts_max=1000))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await trio.sleep(25 * 5 + 1)
        await supervised.stop()
    waits = [begun - ended for begun, ended in zip(actor.begun[1:], actor.ended[:25], strict=True)]
    assert len(waits) == 25
    assert max(waits) <= 5
    assert all(wait > 0 for wait in waits)
    assert sum(waits[:3]) <= 0.1 + 0.2 + 0.4
    assert sum(waits[-15:]) > 5


async def test_running_says_whether_the_actor_is_up(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock)
    supervised = Supervised(actor)
    seen = [supervised.running]
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await wait_all_tasks_blocked()
        seen.append(supervised.running)
        await supervised.stop()
        seen.append(supervised.running)
    assert seen == [False, True, False]


async def test_an_actor_waiting_for_its_restart_is_not_running(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(1))
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await wait_all_tasks_blocked()
        assert (len(actor.ended), supervised.running) == (1, False)
        await trio.sleep(1)
        assert (len(actor.begun), supervised.running) == (2, True)
        await supervised.stop()


async def test_too_many_failures_within_the_window_end_with_the_last_error(
    autojump_clock: MockClock,
) -> None:
    failures = failing(10)
    last = failures[5][1]
    actor = Scripted(autojump_clock, list(failures))
    supervised = Supervised(actor, Intensity(restarts_max=5, window_s=30))
    with pytest.raises(OSError, match="5") as caught:
        await supervised.run()
    assert caught.value is last
    assert len(actor.begun) == 6
    assert supervised.ended.is_set()
    assert not supervised.running


async def test_as_many_failures_as_are_allowed_are_survived(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(5))
    supervised = Supervised(actor, Intensity(restarts_max=5, window_s=30))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await trio.sleep(100)
        assert supervised.running
        await supervised.stop()


async def test_failures_far_apart_are_survived_for_ever(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(20, after_s=16))
    supervised = Supervised(actor, Intensity(restarts_max=2, window_s=30))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await trio.sleep(20 * (16 + 5) + 1)
        assert len(actor.begun) == 21
        assert supervised.running
        await supervised.stop()


async def test_the_last_error_ends_the_nursery_around_it(autojump_clock: MockClock) -> None:
    actor, neighbour = Scripted(autojump_clock, failing(9)), Scripted(autojump_clock)
    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervised(neighbour).run)
            await nursery.start(Supervised(actor, Intensity(restarts_max=1)).run)
            await trio.sleep_forever()
    assert len(neighbour.ended) == 1


async def test_a_group_of_errors_from_an_actors_own_nursery_is_a_failure_like_any_other(
    autojump_clock: MockClock,
) -> None:
    actor = Scripted(
        autojump_clock, [(0, ExceptionGroup("two at once", [OSError(1), ValueError(2)]))]
    )
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await trio.sleep(10)
        assert (len(actor.begun), supervised.running) == (2, True)
        await supervised.stop()


async def test_cancellation_passes_while_the_actor_runs(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock)
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert len(actor.begun) == len(actor.ended) == 1
    assert supervised.ended.is_set()
    assert not supervised.running


async def test_cancellation_passes_while_a_restart_is_waited_for(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, failing(1000))
    supervised = Supervised(actor, Intensity(restarts_max=1000))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await wait_all_tasks_blocked()
        begun = len(actor.begun)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert len(actor.begun) == begun
    assert supervised.ended.is_set()


async def test_an_actor_that_has_ended_is_not_started_again(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock)
    actor.close()
    supervised = Supervised(actor)
    with trio.fail_after(1):
        await supervised.run()
    assert len(actor.begun) == 1


async def test_stopping_waits_until_the_actor_has_drained(autojump_clock: MockClock) -> None:
    actor = Scripted(autojump_clock, drain_s=7)
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        await wait_all_tasks_blocked()
        asked = trio.current_time()
        await supervised.stop()
        assert trio.current_time() == asked + 7
        assert actor.ended == [asked + 7]
        await supervised.stop()
        assert trio.current_time() == asked + 7


async def test_stopping_an_actor_that_is_down_lets_it_drain_once_more(
    autojump_clock: MockClock,
) -> None:
    actor = Scripted(autojump_clock, failing(1), drain_s=1)
    supervised = Supervised(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervised.run)
        with trio.fail_after(20):
            await supervised.stop()
    assert len(actor.ended) == 2


async def test_one_actors_failure_does_not_touch_another(autojump_clock: MockClock) -> None:
    failing_one, other = Scripted(autojump_clock, failing(4)), Scripted(autojump_clock)
    both: Iterable[Supervised] = (Supervised(failing_one), Supervised(other))
    async with trio.open_nursery() as nursery:
        for supervised in both:
            await nursery.start(supervised.run)
        await trio.sleep(60)
        assert (len(failing_one.begun), len(other.begun)) == (5, 1)
        for supervised in both:
            await supervised.stop()
