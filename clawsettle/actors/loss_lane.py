"""The deliveries to one target: as many at once as it may have, apart from all other targets.

Guarantees: a delivery is sent only while its lease runs, and what came of it is stored only while
the lease is still ours. New ones are sent at once, the backlog in due order, and neither starves
the other. A target that does not answer is left alone and then tried with one delivery; what is
kept back meanwhile stays due. An attempt whose result cannot be stored leaves its delivery to
whoever claims it after the lease.
Stops: on ``close``, when the attempts under way have been stored.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import structlog
import trio
from attrs import define, evolve, field, frozen

from clawsettle.actors.batcher import Batcher
from clawsettle.actors.circuit_breaker import Circuit, CircuitBreaker
from clawsettle.actors.mailbox import Reply
from clawsettle.actors.seating import Kind, Seating, Seats
from clawsettle.actors.timer import Timer
from clawsettle.clients.risk_targets import RiskTarget
from clawsettle.domain.errors import Overloaded, StorageError
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.loss_answers import (
    Answered,
    Contested,
    Delivered,
    HeldByAnother,
    Outcome,
    RefusedForGood,
    Sent,
    TriedInVain,
    Unanswered,
    Withheld,
    read_answer,
    settle_contest,
)
from clawsettle.domain.loss_calls import call_of
from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target
from clawsettle.domain.loss_resolutions import Step, apply_step, join_step, release_step
from clawsettle.domain.loss_transitions import AttemptResult, judge
from clawsettle.storage.loss_deliveries import (
    Finished,
    LeasedDelivery,
    LeaseLost,
    LossDeliveries,
)

_log = structlog.get_logger(__name__)
_CLAIM_MAX = 500
_BUSY = "ESCROW_BUSY"
_ENDS_WELL = frozenset({DeliveryState.FORWARDED, DeliveryState.NOT_APPLICABLE})

Attempt = Reply[AttemptResult | None]
"""The result of an attempt under way; None when it ended without one that could be stored."""

Noted = Callable[[LeasedDelivery, AttemptResult, datetime], None]
"""Told of each attempt whose result is stored, and when it began."""


@frozen(eq=False)
class _Work:
    """A leased delivery and its attempt, which ``is_asked`` for though the target be down."""

    leased: LeasedDelivery
    kind: Kind
    is_asked: bool
    attempt: Attempt


@define(eq=False)
class LossLane:
    """See the module.

    ``in_flight_max`` bounds the calls under way, ``attempt_timeout_s`` each of them. ``finished``
    stores what attempts come to, together with those of other lanes; ``escrows`` looks for what
    other events have at an escrow.
    """

    target: Target
    client: RiskTarget
    deliveries: LossDeliveries
    finished: Batcher[Finished, Delivery | None]
    escrows: Batcher[LeasedDelivery, Sequence[Delivery]]
    policy: RetryPolicy
    breaker: CircuitBreaker
    in_flight_max: int
    attempt_timeout_s: float
    poll_s: float
    noted: Noted
    lease_lost_count: int = field(default=0, init=False)
    _seating: Seating = field(init=False)
    _slots: trio.CapacityLimiter = field(init=False)
    _timer: Timer = field(init=False)
    _attempts: trio.Nursery | None = field(default=None, init=False)
    _under_way: set[_Work] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(f"loss_lane_{self.target}", self.poll_s)
        # Two rounds of calls: more would only wait for their leases to end.
        self._seating = Seating(2 * self.in_flight_max, self._timer.ring)
        self._slots = trio.CapacityLimiter(self.in_flight_max)

    def reserve(self, most: int, kind: Kind = "new") -> AbstractContextManager[Seats]:
        """Set aside up to ``most`` seats; none for new ones while the target is not answering."""
        if kind == "new" and self.breaker.state is not Circuit.CLOSED:
            most = 0
        return self._seating.reserve(most if self._attempts else 0, kind)

    def start(self, leased: LeasedDelivery, seats: Seats, *, is_asked: bool = False) -> Attempt:
        """Begin a leased delivery on a seat that was set aside.

        ``is_asked``: somebody wants it made now, whether or not its target answers.
        """
        work = _Work(leased, seats.take(), is_asked, Attempt())
        self._under_way.add(work)
        if self._attempts is None:  # it has ended since; the lease will
            self._leave(work, None)
        else:
            self._attempts.start_soon(self._attempt, work)
        return work.attempt

    def ring(self) -> None:
        """Have it look for due deliveries soon."""
        self._timer.ring()

    async def run(self) -> None:
        """Work until closed and drained."""
        try:
            async with trio.open_nursery() as attempts:
                self._attempts = attempts
                await self._timer.run(self._claim)
        finally:
            self._attempts = None
            for work in list(self._under_way):
                self._leave(work, None)

    def close(self) -> None:
        """Claim no more."""
        self._timer.stop()

    def statistics(self) -> Mapping[str, object]:
        """Return what is under way, and whether the target answers."""
        return {
            "under_way": len(self._under_way),
            "circuit": str(self.breaker.state),
            "lease_lost_count": self.lease_lost_count,
        }

    async def _claim(self) -> bool:
        state = self.breaker.state
        if state is Circuit.OPEN or (state is Circuit.HALF_OPEN and self._under_way):
            return False
        most = 1 if state is Circuit.HALF_OPEN else min(self._seating.claim_max, _CLAIM_MAX)
        with self._seating.reserve(most, "backlog") as seats:
            if not seats.count:
                return False  # whoever makes room rings
            most = seats.count
            rows = await self.deliveries.claim_due(self.target, most)
            for leased in rows:
                self.start(leased, seats, is_asked=state is Circuit.HALF_OPEN)
        return state is Circuit.CLOSED and len(rows) == most

    async def _attempt(self, work: _Work) -> None:
        result: AttemptResult | None = None
        try:
            result = await self._make(work)
        except LeaseLost:
            self.lease_lost_count += 1
            _log.warning(
                "loss_lease_lost",
                delivery_id=work.leased.delivery.delivery_id,
                attempts=work.leased.delivery.attempts,
            )
        except (StorageError, Overloaded) as error:
            _log.warning(
                "loss_attempt_not_stored",
                delivery_id=work.leased.delivery.delivery_id,
                error=error.message,
            )
        except Exception:  # noqa: BLE001 - whatever went wrong, the others go on
            _log.exception("loss_attempt_failed", delivery_id=work.leased.delivery.delivery_id)
        finally:
            self._leave(work, result)

    async def _make(self, work: _Work) -> AttemptResult:
        """Make a delivery, and store and tell what came of it. Raises: LeaseLost."""
        leased = work.leased
        async with self._slots:
            began_at = datetime.now(UTC)
            ends = trio.current_time() + self.attempt_timeout_s
            if leased.lease_ends < ends:
                raise LeaseLost("the lease ends before an attempt would")
            if self.breaker.state is not Circuit.CLOSED and not work.is_asked:
                outcome: Outcome | HeldByAnother = Withheld(0.0)
            elif (kept := await self._decide_release(leased)) is not None:
                return self._told(leased, kept, began_at)
            elif await self._is_being_released(leased):
                message = "the escrow is being released for another event"
                outcome = TriedInVain(None, _BUSY, message)
            else:
                outcome = await self._call(leased, ends)
        if isinstance(outcome, HeldByAnother):
            return self._told(leased, await self._decide_join(leased, outcome), began_at)
        result = self._judged(leased, outcome)
        if await self.finished.ask((leased, result)) is None:
            raise LeaseLost("the delivery was taken up by somebody else")
        return self._told(leased, result, began_at)

    async def _call(self, leased: LeasedDelivery, ends: float) -> Outcome | HeldByAnother:
        try:
            outcome = await self._ask(leased, ends)
        except Exception:  # noqa: BLE001 - whatever went wrong, the row must not be lost sight of
            _log.exception("loss_call_failed", delivery_id=leased.delivery.delivery_id)
            return TriedInVain(None, "CALL_FAILED", "the call could not be made", in_doubt=True)
        self._heed(outcome)
        return outcome

    async def _ask(self, leased: LeasedDelivery, ends: float) -> Outcome | HeldByAnother:
        delivery, event = leased.delivery, leased.event
        call = call_of(event, delivery.operation, delivery.target, leased.reason)
        sent = Sent(
            delivery.operation,
            delivery.target,
            event.loss_event_id,
            event.amount_minor,
            leased.may_be_absent,
        )
        answer: Answered | Unanswered = Unanswered("no answer: not in time")
        with trio.move_on_at(ends):
            answer = await self.client.send(call)
        outcome = read_answer(sent, answer)
        return await self._settle(sent, outcome) if isinstance(outcome, Contested) else outcome

    async def _settle(self, sent: Sent, contested: Contested) -> Outcome:
        hold: Mapping[str, Any] | Unanswered | None = Unanswered("no answer to a look")
        with trio.move_on_after(self.attempt_timeout_s):
            hold = await self.client.hold_of(sent.loss_event_id)
        if isinstance(hold, Unanswered):
            message = f"{contested.message}; {hold.message}"
            return TriedInVain(
                contested.http_status, contested.code, message, in_doubt=True, is_slow=True
            )
        return settle_contest(sent, contested, hold)

    def _heed(self, outcome: Outcome | HeldByAnother) -> None:
        """Tell the breaker how the target fares."""
        before = self.breaker.state
        if not isinstance(outcome, TriedInVain) or not outcome.is_target_down:
            self.breaker.succeed()
            if before is Circuit.HALF_OPEN:
                _log.info("loss_target_answers", target=str(self.target))
                self._timer.ring()
            return
        if outcome.retry_after_s is not None:
            # Rows wait as long as they are asked to. All of them wait no longer than one would
            # without: the header may be a mistake, or about one account's share.
            self.breaker.pause(min(outcome.retry_after_s, self.policy.max_s))
        else:
            self.breaker.fail()
        if before is Circuit.CLOSED and self.breaker.state is not Circuit.CLOSED:
            _log.error(
                "loss_target_down",
                target=str(self.target),
                code=outcome.code,
                reason=outcome.message,
                retry_after_s=outcome.retry_after_s,
            )

    async def _is_being_released(self, leased: LeasedDelivery) -> bool:
        """Whether an apply has to wait, because its escrow's hold is released for another event.

        Looked at without a lock: a release that is leased later sees the lease of this apply.
        """
        delivery = leased.delivery
        if delivery.target is not Target.ESCROW or delivery.operation is not Operation.APPLY:
            return False
        others = await self.escrows.ask(leased)
        return apply_step(delivery, others) is Step.WAIT

    async def _decide_release(self, leased: LeasedDelivery) -> AttemptResult | None:
        """Decide whether an escrow's hold may be released; None when it is to be."""
        delivery = leased.delivery
        if delivery.target is not Target.ESCROW or delivery.operation is not Operation.RESOLVE:
            return None

        def decide(others: Sequence[Delivery]) -> AttemptResult | None:
            step = release_step(delivery, others, may_be_absent=leased.may_be_absent)
            if step is Step.SHARE:
                return self._judged(leased, Delivered(None, is_shared=True))
            if step is Step.WAIT:
                message = "another event is being applied to the escrow"
                return self._judged(leased, TriedInVain(None, _BUSY, message))
            return None

        return await self.deliveries.under_escrow(leased, decide)

    async def _decide_join(self, leased: LeasedDelivery, held: HeldByAnother) -> AttemptResult:
        """Decide what it means that the escrow is held for another event."""
        # So no earlier attempt of this one has it: a release must not wait for that to be known.
        undoubted = evolve(leased, delivery=evolve(leased.delivery, in_doubt=False))

        def decide(others: Sequence[Delivery]) -> AttemptResult:
            step = join_step(leased.delivery, others)
            outcome: Outcome = RefusedForGood(held.http_status, held.code, held.message)
            if step is Step.SHARE:
                outcome = Delivered(held.http_status, is_shared=True)
            elif step is Step.WAIT:
                outcome = TriedInVain(held.http_status, held.code, held.message)
            return self._judged(undoubted, outcome)

        decided = await self.deliveries.under_escrow(leased, decide)
        assert decided is not None  # noqa: S101 - it decides always
        return decided

    def _told(
        self, leased: LeasedDelivery, result: AttemptResult, began_at: datetime
    ) -> AttemptResult:
        """Tell of a result that was stored, and return it."""
        if result.attempted:
            _report(leased, result)
            self.noted(leased, result, began_at)
        return result

    def _judged(self, leased: LeasedDelivery, outcome: Outcome) -> AttemptResult:
        return judge(leased.delivery, outcome, age_s=leased.age_s, policy=self.policy)

    def _leave(self, work: _Work, result: AttemptResult | None) -> None:
        if work in self._under_way:
            self._under_way.remove(work)
            self._seating.leave(work.kind)
        work.attempt.resolve(result)


def _report(leased: LeasedDelivery, result: AttemptResult) -> None:
    delivery = leased.delivery
    tell = _log.warning
    if result.state in _ENDS_WELL:
        tell = _log.info
    elif result.state is DeliveryState.DEAD:
        tell = _log.error
    tell(
        f"loss_delivery_{result.state}",
        delivery_id=delivery.delivery_id,
        loss_event_id=delivery.loss_event_id,
        operation=str(delivery.operation),
        target=str(delivery.target),
        attempts=delivery.attempts,
        http_status=result.http_status,
        code=result.error_code,
        reason=result.error_message,
        retry_in_s=result.retry_in_s,
    )
