"""Mailboxes and replies: how work enters an actor and how its answer leaves.

Nothing here waits for room: a full mailbox refuses, so that pressure shows at the door and not as
memory. The order of a mailbox is the order of arrival.
"""

import copy
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio
from attrs import define, field, frozen

from clawsettle.domain.errors import Overloaded

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


@define(eq=False)
class Reply(Generic[T]):
    """An answer that is given once and may be awaited by any number of tasks."""

    _done: trio.Event = field(factory=trio.Event, init=False)
    _value: T | None = field(default=None, init=False)
    _error: Exception | None = field(default=None, init=False)

    def resolve(self, value: T) -> None:
        """Give the answer; a second one is ignored."""
        if not self._done.is_set():
            self._value = value
            self._done.set()

    def reject(self, error: Exception) -> None:
        """Give an error instead; a second answer is ignored."""
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> T:
        """Return the answer when it is there, or raise the error that was given."""
        await self._done.wait()
        if self._error is not None:
            # Each waiter raises its own: a shared one would grow by every traceback.
            raise copy.copy(self._error)
        return self._value  # type: ignore[return-value]


@frozen(eq=False)
class Ask(Generic[Q, A]):
    """A request to an actor, with the place for its answer."""

    request: Q
    reply: Reply[A] = field(factory=Reply)


@define(eq=False)
class Mailbox(Generic[T]):
    """A bounded queue into one actor; ``capacity`` counts by ``size`` (an item counts as one)."""

    capacity: int
    size: Callable[[T], int] = field(default=lambda _item: 1)
    _items: deque[T] = field(factory=deque, init=False)
    _held: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    _bell: trio.Event = field(factory=trio.Event, init=False)

    def put(self, item: T) -> None:
        """Add an item. Raises: Overloaded when it does not fit or the mailbox is closed.

        An item larger than the whole mailbox is taken when nothing else waits.
        """
        size = self.size(item)
        if self._closed or (self._items and self._held + size > self.capacity):
            raise Overloaded("the mailbox is closed" if self._closed else "the mailbox is full")
        self._items.append(item)
        self._held += size
        self._bell.set()

    async def take(self, limit: int) -> list[T]:
        """Wait for an item, then return all that wait, up to ``limit`` by size.

        Returns an empty list when the mailbox is closed and nothing is left.
        """
        while not self._items:
            if self._closed:
                return []
            self._bell = trio.Event()
            await self._bell.wait()
        taken = [self._items.popleft()]
        size = self.size(taken[0])
        while self._items and size + self.size(self._items[0]) <= limit:
            size += self.size(self._items[0])
            taken.append(self._items.popleft())
        self._held -= size
        return taken

    def clear(self) -> None:
        """Drop what waits."""
        self._items.clear()
        self._held = 0

    def close(self) -> None:
        """Take no more; what waits is still handed out."""
        self._closed = True
        self._bell.set()

    def statistics(self) -> dict[str, int]:
        """Return how much waits, of how much may."""
        return {"waiting": self._held, "capacity": self.capacity}
