"""Tells the targets of loss events: records each event once, and delivers it to all of them.

Owns: every delivery of this daemon, from its recording to what came of it.
Guarantees: an event is acknowledged only when it is stored with all its deliveries, and is then on
its way at once; a target that is slow, down or not configured keeps nobody else from being told;
what ends together is stored in one commit with what follows for its events.
Stops: on ``close``, when the attempts under way have been stored; the rest waits for whoever
claims it.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.actors.batcher import Batcher
from clawsettle.actors.loss_lane import Attempt, LossLane
from clawsettle.actors.seating import Kind, Seats
from clawsettle.domain.errors import ConflictError
from clawsettle.domain.loss_events import Delivery, DeliveryState, Target
from clawsettle.domain.loss_requests import (
    LossRequest,
    RequeueRequest,
    ResolveRequest,
    RetryRequest,
)
from clawsettle.domain.loss_transitions import AttemptResult
from clawsettle.storage.loss_deliveries import Finished, LeasedDelivery, LossDeliveries
from clawsettle.storage.loss_events import LossEvents, Recorded, Resolved
from clawsettle.storage.operator_actions import Operator

_log = structlog.get_logger(__name__)


@frozen
class RetrySummary:
    """What a pass on request came to: how many attempts it began, and how those ended.

    What is not applicable is neither forwarded nor failed, and nor is what is still under way.
    """

    attempted: int
    forwarded: int
    failed: int


@define(eq=False)
class LossFanout:
    """See the module. ``lanes`` are those of the targets that are configured.

    ``finished`` and ``escrows`` are those of the lanes. ``batch_max`` bounds the events of one
    commit, ``waiting_max`` those that wait to be recorded.
    """

    events: LossEvents
    deliveries: LossDeliveries
    finished: Batcher[Finished, Delivery | None]
    escrows: Batcher[LeasedDelivery, Sequence[Delivery]]
    lanes: Mapping[Target, LossLane]
    batch_max: int
    waiting_max: int
    name: str = field(default="loss_fanout", init=False)
    _recorded: Batcher[LossRequest, Recorded | ConflictError] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._recorded = Batcher("loss_events", self._record, self.batch_max, self.waiting_max)

    @property
    def configured(self) -> Collection[Target]:
        """Return the targets that can be told."""
        return self.lanes.keys()

    async def record(self, request: LossRequest) -> Recorded:
        """Record an event, or find the one of its key; its deliveries are on their way.

        Raises: ConflictError IDEMPOTENCY_CONFLICT, Overloaded, StorageUnavailable (outcome
        unknown) or StorageError. Asking again under the key is always safe.
        """
        answer = await self._recorded.ask(request)
        if isinstance(answer, ConflictError):
            raise answer
        return answer

    async def resolve(self, request: ResolveRequest) -> Resolved:
        """Resolve an event; its deliveries are on their way.

        Raises: as ``LossEvents.resolve``.
        """
        with ExitStack() as stack:
            seats = self._reserve(stack, 1)
            resolved = await self.events.resolve(
                request, configured=self.configured, seats=_counts(seats)
            )
            self._start(resolved.leased, seats)
        return resolved

    async def retry(
        self, request: RetryRequest, *, budget: AbstractContextManager[object]
    ) -> RetrySummary:
        """Make deliveries now, whether or not their targets seem to answer.

        It is waited for as long as ``budget`` lets a block run. What somebody is working on is left
        to them. Raises: StorageUnavailable or StorageError.
        """
        with ExitStack() as stack:
            seats = self._reserve(stack, request.limit, is_asked=True)
            attempts = self._start(await self._claim(request, seats), seats, is_asked=True)
        results: list[AttemptResult | None] = []
        with budget:
            async with trio.open_nursery() as nursery:
                for attempt in attempts:
                    nursery.start_soon(_collect, attempt, results)
        states = [result.state.wire for result in results if result is not None]
        return RetrySummary(
            len(attempts),
            states.count(DeliveryState.FORWARDED),
            states.count(DeliveryState.FAILED),
        )

    async def requeue(self, request: RequeueRequest, operator: Operator) -> list[Delivery]:
        """Bring back what has ended, in an operator's name; it is tried at once.

        Raises: as ``LossDeliveries.requeue``.
        """
        requeued = await self.deliveries.requeue(request, operator)
        for one in requeued:
            _log.info(
                "loss_delivery_requeued",
                delivery_id=one.delivery_id,
                actor=operator.actor,
                by=operator.by,
            )
        self.ring()
        return requeued

    def ring(self) -> None:
        """Have the lanes look for due deliveries soon."""
        for lane in self.lanes.values():
            lane.ring()

    async def run(self) -> None:
        """Work until closed and drained."""
        async with trio.open_nursery() as storing:
            storing.start_soon(self.finished.run)
            storing.start_soon(self.escrows.run)
            async with trio.open_nursery() as working:
                working.start_soon(self._recorded.run)
                for lane in self.lanes.values():
                    working.start_soon(lane.run)
            self.finished.close()
            self.escrows.close()

    def close(self) -> None:
        """Take no more events, and claim no more deliveries."""
        self._recorded.close()
        for lane in self.lanes.values():
            lane.close()

    def statistics(self) -> Mapping[str, object]:
        """Return what waits, and how each lane is."""
        lanes = {str(target): lane.statistics() for target, lane in self.lanes.items()}
        return {**self._recorded.statistics(), "lanes": lanes}

    async def _record(self, requests: Sequence[LossRequest]) -> list[Recorded | ConflictError]:
        with ExitStack() as stack:
            seats = self._reserve(stack, len(requests))
            answers = await self.events.record(
                requests, configured=self.configured, seats=_counts(seats)
            )
            for answer in answers:
                if isinstance(answer, Recorded):
                    self._start(answer.leased, seats)
        return answers

    async def _claim(
        self, request: RetryRequest, seats: Mapping[Target, Seats]
    ) -> Sequence[LeasedDelivery]:
        roomy = [target for target, reserved in seats.items() if reserved.count]
        if request.loss_event_id is not None:
            return await self.deliveries.claim_open(
                request.loss_event_id,
                request.operation,
                roomy,
                request.limit,
                force=request.force,
            )
        most = min([request.limit, *(seats[target].count for target in roomy)])
        return await self.deliveries.claim_longest_due(request.operation, roomy, most)

    def _reserve(
        self, stack: ExitStack, most: int, *, is_asked: bool = False
    ) -> Mapping[Target, Seats]:
        kind: Kind = "backlog" if is_asked else "new"
        return {
            target: stack.enter_context(lane.reserve(most, kind))
            for target, lane in self.lanes.items()
        }

    def _start(
        self,
        leased: Sequence[LeasedDelivery],
        seats: Mapping[Target, Seats],
        *,
        is_asked: bool = False,
    ) -> list[Attempt]:
        attempts: list[Attempt] = []
        for one in leased:
            target = one.delivery.target
            attempts.append(self.lanes[target].start(one, seats[target], is_asked=is_asked))
        return attempts


def finishing(
    deliveries: LossDeliveries, batch_max: int, waiting_max: int
) -> Batcher[Finished, Delivery | None]:
    """Return what stores attempts, many in one commit; the answer is None for a lost lease."""

    async def store(finished: Sequence[Finished]) -> list[Delivery | None]:
        stored = await deliveries.finish(finished)
        return [stored.get(leased.delivery.lease_token or 0) for leased, _ in finished]

    return Batcher("loss_attempts", store, batch_max, waiting_max)


def looking(
    deliveries: LossDeliveries, batch_max: int, waiting_max: int
) -> Batcher[LeasedDelivery, Sequence[Delivery]]:
    """Return what looks for the deliveries of other events to an escrow, many in one statement."""
    return Batcher("loss_escrows", deliveries.others_at_escrows, batch_max, waiting_max)


def _counts(seats: Mapping[Target, Seats]) -> dict[Target, int]:
    return {target: reserved.count for target, reserved in seats.items()}


async def _collect(attempt: Attempt, results: list[AttemptResult | None]) -> None:
    results.append(await attempt.wait())
