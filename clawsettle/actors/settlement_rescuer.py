"""Claims the settlements that are due: waiting ones, and those whose holder let go of them.

Owns: no rows of its own; it leases due rows and hands them to the forwarder.
Guarantees: a row whose time has come, or whose lease has run out on any daemon, is claimed within
one poll interval, as far as the forwarder has room. Nothing depends on who held it before.
Stops: on ``close``, after the claim under way.
"""

from contextlib import AbstractContextManager

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.actors.settlement_forwarder import Attempt, SettlementForwarder
from clawsettle.actors.timer import Timer
from clawsettle.domain.errors import Overloaded
from clawsettle.domain.forwarding import ForwardingState, Standing
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.operator_actions import Operator
from clawsettle.storage.settlement_outbox import LeasedRow, SettlementOutbox

_log = structlog.get_logger(__name__)
_REMAINING_MAX = 10_000


@frozen
class RetrySummary:
    """What a retry on request came to; ``remaining`` counts what is still due or under way."""

    attempted: int
    forwarded: int
    failed: int
    remaining: int


@define(eq=False)
class SettlementRescuer:
    """See the module. ``poll_s`` is the interval, ``batch_max`` the most rows of one claim."""

    outbox: SettlementOutbox
    letters: DeadLetters
    forwarder: SettlementForwarder
    batch_max: int
    poll_s: float
    name: str = field(default="settlement_rescuer", init=False)
    _timer: Timer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self.name, self.poll_s)

    def ring(self) -> None:
        """Have it look soon."""
        self._timer.ring()

    async def run(self) -> None:
        """Claim what is due until closed."""
        await self._timer.run(self._claim)

    def close(self) -> None:
        """Claim no more."""
        self._timer.stop()

    async def retry(
        self,
        *,
        limit: int,
        force: bool,
        event_id: str | None,
        operator: Operator,
        budget: AbstractContextManager[object],
    ) -> RetrySummary:
        """Attempt rows now, in the caller's task, for as long as ``budget`` lets a block run.

        With ``event_id`` that row alone, and with ``force`` also before its time or when it is
        dead, which is a requeue in the ``operator``'s name; a row that somebody is working on is
        left to them.

        Raises: Overloaded when the named row finds no room, StorageUnavailable or StorageError.
        """
        with self.forwarder.seating.reserve(limit if event_id is None else 1) as seats:
            if event_id is None:
                rows = await self.outbox.claim_due(seats.count, force=force)
            elif not seats.count:
                raise Overloaded("too many attempts are under way")
            else:
                rows = await self._claim_named(event_id, operator, force=force)
            attempts = self.forwarder.take(seats, rows)
        results: list[Standing | None] = []
        with budget:
            async with trio.open_nursery() as nursery:
                for attempt in attempts.values():
                    nursery.start_soon(_collect, attempt, results)
        forwarded = sum(r is not None and r.state is ForwardingState.FORWARDED for r in results)
        remaining = len(rows) - len(results)
        if event_id is None:
            remaining += await self.outbox.count_due(_REMAINING_MAX)
        return RetrySummary(len(rows), forwarded, len(results) - forwarded, remaining)

    async def _claim_named(
        self, event_id: str, operator: Operator, *, force: bool
    ) -> list[LeasedRow]:
        rows = await self.outbox.claim([event_id], force=force)
        if force and not rows:
            rows = await self.letters.revive(event_id, operator)
            if rows:
                _log.info(
                    "dead_letter_requeued", event_id=event_id, actor=operator.actor, by=operator.by
                )
        return rows

    async def _claim(self) -> bool:
        most = min(self.batch_max, self.forwarder.seating.claim_max)
        with self.forwarder.seating.reserve(most, "backlog") as seats:
            if not most:
                return False  # whoever makes room rings
            rows = await self.outbox.claim_due(most)
            self.forwarder.take(seats, rows)
        return len(rows) == most


async def _collect(attempt: Attempt, results: list[Standing | None]) -> None:
    results.append(await attempt.wait())
