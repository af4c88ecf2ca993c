"""Supervision: each actor is restarted alone, with backoff, until it fails too often.

An actor is an object with a ``name``, a ``run`` that ends after ``close``, and nothing else that a
supervisor needs. When one fails more than ``restarts_max`` times within ``window_s``, its error
ends the nursery around it, the daemon exits non-zero and the service manager starts it afresh.
"""

from collections import deque
from typing import Protocol

import structlog
import tenacity
import trio
from attrs import define, field, frozen

_log = structlog.get_logger(__name__)


class Actor(Protocol):
    """What can be supervised."""

    @property
    def name(self) -> str:
        """Return the name it is known by in logs and in /ready."""
        ...

    async def run(self) -> None:
        """Work until closed and drained; raise when it cannot go on."""
        ...

    def close(self) -> None:
        """Take no more work; ``run`` then finishes what it has and returns."""
        ...


@frozen
class Intensity:
    """How many restarts, in how many seconds, are still an accident."""

    restarts_max: int = 5
    window_s: float = 30.0


@define(eq=False)
class Supervised:
    """One actor under supervision; ``running`` is False while it is down or has ended."""

    actor: Actor
    intensity: Intensity = field(factory=Intensity)
    running: bool = field(default=False, init=False)
    ended: trio.Event = field(factory=trio.Event, init=False)
    _failures: deque[float] = field(factory=deque, init=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the actor until it has drained. Raises: its last error when it fails too often."""
        task_status.started()
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(Exception),
                wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
                stop=self._failed_too_often,
                before_sleep=self._report,
                sleep=trio.sleep,
                reraise=True,
            ):
                with attempt:
                    await self._once()
        finally:
            self.ended.set()

    async def stop(self) -> None:
        """Close the actor and wait until it has finished what it had."""
        self.actor.close()
        await self.ended.wait()

    async def _once(self) -> None:
        self.running = True
        try:
            await self.actor.run()
        finally:
            self.running = False

    def _failed_too_often(self, _state: tenacity.RetryCallState) -> bool:
        now = trio.current_time()
        self._failures.append(now)
        while self._failures[0] < now - self.intensity.window_s:
            self._failures.popleft()
        return len(self._failures) > self.intensity.restarts_max

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.error("actor_restarted", actor=self.actor.name, exc_info=error)
