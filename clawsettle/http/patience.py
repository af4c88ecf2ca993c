"""How long a request may wait for work that goes on without it."""

import math
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class Patience:
    """Bounds waiting requests, and cuts all of them short when the daemon drains.

    What they waited for is durable and goes on; they only answer with what is known by then.
    """

    _ends: float = field(default=math.inf, init=False)
    _scopes: set[trio.CancelScope] = field(factory=set, init=False)

    @contextmanager
    def bound(self, seconds: float) -> Iterator[None]:
        """Leave the block after ``seconds``, or sooner once hurried."""
        with trio.CancelScope(deadline=min(trio.current_time() + seconds, self._ends)) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def wait(self, seconds: float, answer: Awaitable[T]) -> T | None:
        """Return an answer, or None when it is not there after ``seconds``, or once hurried."""
        given: T | None = None
        with self.bound(seconds):
            given = await answer
        return given  # noqa: RET504 - the block may be left before its end

    def hurry(self, seconds: float) -> None:
        """Let no request wait longer than ``seconds`` from now, present and future ones."""
        self._ends = trio.current_time() + seconds
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._ends)
