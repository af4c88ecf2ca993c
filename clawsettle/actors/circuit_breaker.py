"""A circuit breaker: who does not answer is left alone, and then asked once before all others.

Each daemon has its own; what it keeps back stays due, so it decides nothing but when.
"""

from enum import StrEnum

import trio
from attrs import define, field


class Circuit(StrEnum):
    """Whether calls are made: all (closed), none (open), or one to see (half open)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@define(eq=False)
class CircuitBreaker:
    """Opens for ``open_s`` after ``failures_max`` failures in a row; times on trio's clock."""

    failures_max: int
    open_s: float
    _failures: int = field(default=0, init=False)
    _open_until: float | None = field(default=None, init=False)

    @property
    def state(self) -> Circuit:
        """Return whether calls are made now."""
        if self._open_until is None:
            return Circuit.CLOSED
        return Circuit.OPEN if trio.current_time() < self._open_until else Circuit.HALF_OPEN

    def succeed(self) -> None:
        """Note an answer: calls are made again, unless it is open: then it was asked for before."""
        if self.state is not Circuit.OPEN:
            self._failures, self._open_until = 0, None

    def fail(self) -> None:
        """Note that none came."""
        self._failures += 1
        if self._failures >= self.failures_max or self._open_until is not None:
            self._open(self.open_s)

    def pause(self, seconds: float) -> None:
        """Make no calls for so long, as the other side has asked."""
        self._open(seconds)

    def _open(self, seconds: float) -> None:
        until = trio.current_time() + seconds
        self._open_until = max(until, self._open_until or until)
