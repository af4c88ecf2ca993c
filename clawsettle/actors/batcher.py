"""Many requests, one commit: what waits is done together, and each asker gets its own answer.

Guarantees: a lone request waits for no company; an answer is given only after the work is done; a
request that storage refuses fails alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog
from attrs import define, field

from clawsettle.actors.mailbox import Ask, Mailbox
from clawsettle.domain.errors import StorageError

Q = TypeVar("Q")
A = TypeVar("A")
_log = structlog.get_logger(__name__)


@define(eq=False)
class Batcher(Generic[Q, A]):
    """Hands up to ``batch_max`` waiting requests at a time to ``work``, which answers in order.

    ``waiting_max`` bounds what waits. Both count by ``size``, a request as one unless said.
    """

    name: str
    work: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]
    batch_max: int
    waiting_max: int
    size: Callable[[Q], int] = field(default=lambda _request: 1)
    _mailbox: Mailbox[Ask[Q, A]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._mailbox = Mailbox(self.waiting_max, size=lambda ask: self.size(ask.request))

    async def ask(self, request: Q) -> A:
        """Have a request worked on and return its answer.

        Raises: Overloaded when too many wait, StorageUnavailable (outcome unknown) or StorageError.
        """
        ask: Ask[Q, A] = Ask(request)
        self._mailbox.put(ask)
        return await ask.reply.wait()

    async def run(self) -> None:
        """Work until closed and drained."""
        while asks := await self._mailbox.take(self.batch_max):
            try:
                await self._answer(asks)
            finally:
                lost = StorageError("the work ended before its outcome was known")
                for ask in asks:
                    ask.reply.reject(lost)

    def close(self) -> None:
        """Take no more requests."""
        self._mailbox.close()

    def statistics(self) -> dict[str, int]:
        """Return how many requests wait."""
        return self._mailbox.statistics()

    async def _answer(self, asks: Sequence[Ask[Q, A]]) -> None:
        try:
            answers = await self.work([ask.request for ask in asks])
        except StorageError as error:
            if not error.retryable and len(asks) > 1:
                for ask in asks:
                    await self._answer([ask])
                return
            _log.warning("batch_failed", batch=self.name, requests=len(asks), error=error.message)
            for ask in asks:
                ask.reply.reject(error)
            return
        for ask, answer in zip(asks, answers, strict=True):
            ask.reply.resolve(answer)
