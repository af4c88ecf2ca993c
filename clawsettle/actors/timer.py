"""Timers: a step that is repeated for ever, by the clock or when a doorbell rings."""

from collections.abc import Awaitable, Callable

import structlog
import tenacity
import trio
from attrs import define, field

from clawsettle.domain.errors import StorageUnavailable

_log = structlog.get_logger(__name__)
_WAIT_MAX_S = 4.0


@define(eq=False)
class Timer:
    """Repeats a step every ``every_s`` seconds, at once when rung, later when storage fails.

    The step returns True when there is more to do at once. A StorageUnavailable is logged and backs
    off, doubling up to 4 s, or ``every_s`` where that is longer: when storage is back, what waits
    must not wait much longer. Any other error ends ``run`` with it.
    """

    name: str
    every_s: float
    _bell: trio.Event = field(factory=trio.Event, init=False)
    _stopped: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)

    def ring(self) -> None:
        """Have the step run soon; rings while it runs count as one."""
        self._bell.set()

    def stop(self) -> None:
        """End ``run`` after the step that is under way, or one last step when it waits."""
        self._stopped = True
        self._bell.set()

    async def run(self, step: Callable[[], Awaitable[bool]]) -> None:
        """Repeat ``step`` until stopped."""
        await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(StorageUnavailable)
            | tenacity.retry_if_result(lambda _more: not self._stopped),
            wait=self._wait_s,
            sleep=self._sleep,
            before_sleep=self._report,
            stop=lambda _state: self._stopped,
            retry_error_callback=lambda _state: None,
        )(step)

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None  # noqa: S101 - asked only after an attempt
        if state.outcome.failed:
            self._failures += 1
            longest_s = max(self.every_s, _WAIT_MAX_S)
            return min(self.every_s * (1 << min(self._failures, 8)), longest_s)
        self._failures = 0
        more: bool = bool(state.outcome.result())
        return 0.0 if more else self.every_s

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._bell.wait()
        await trio.lowlevel.checkpoint()
        if not self._stopped:
            self._bell = trio.Event()

    def _report(self, state: tenacity.RetryCallState) -> None:
        if state.outcome is not None and state.outcome.failed:
            _log.warning("timer_step_failed", timer=self.name, error=str(state.outcome.exception()))
