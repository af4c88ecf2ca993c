"""The life of a delivery, what attempts make of it, and what all of them make of their event.

Pure: storage applies it under the event's lock, in the commit that stores what came of it.
Source: loss-events contract section 6; 10 (1, 2, 4, 13, 17, 21).
"""

from collections.abc import Mapping

from attrs import frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.forwarding import RetryPolicy, backoff_s
from clawsettle.domain.loss_answers import (
    Delivered,
    NothingToDo,
    Outcome,
    RefusedForGood,
    TriedInVain,
    Withheld,
)
from clawsettle.domain.loss_events import Delivery, DeliveryState, LossStatus

MESSAGE_MAX = 1000
SLOW_FACTOR = 12
"""How much longer the waits are after a refusal that only people can mend."""

RETRY_AFTER_MAX_S = 3600.0


@frozen
class GaveUp:
    """It has been tried for as long as may be."""


@frozen
class Requeued:
    """An operator brings a delivery back, with its whole life again."""


@frozen
class Canceled:
    """Its loss event is resolved, so it need not be delivered any more."""


_FROM_OPEN: dict[type[object], DeliveryState] = {
    Delivered: DeliveryState.FORWARDED,
    NothingToDo: DeliveryState.NOT_APPLICABLE,
    TriedInVain: DeliveryState.FAILED,
    RefusedForGood: DeliveryState.DEAD,
    GaveUp: DeliveryState.DEAD,
    Canceled: DeliveryState.CANCELED,
}

TRANSITIONS: Mapping[DeliveryState, Mapping[type[object], DeliveryState]] = {
    DeliveryState.PENDING: _FROM_OPEN | {Withheld: DeliveryState.PENDING},
    DeliveryState.WAITING: _FROM_OPEN | {Withheld: DeliveryState.PENDING},
    DeliveryState.FAILED: _FROM_OPEN | {Withheld: DeliveryState.FAILED},
    DeliveryState.FORWARDED: {},
    DeliveryState.NOT_APPLICABLE: {Requeued: DeliveryState.PENDING},
    DeliveryState.DEAD: {
        Requeued: DeliveryState.PENDING,
        Canceled: DeliveryState.CANCELED,
    },
    DeliveryState.CANCELED: {},
}


def next_state(state: DeliveryState, event: object) -> DeliveryState:
    """Return the state after ``event``.

    Raises: IllegalTransition with ``from_status`` when the table has no step.
    """
    try:
        return TRANSITIONS[state][type(event)]
    except KeyError:
        raise IllegalTransition(
            f"a delivery that is {state} does not take {type(event).__name__}",
            details={"from_status": str(state)},
        ) from None


@frozen
class AttemptResult:
    """What an attempt makes of its delivery; ``retry_in_s`` (seconds) only when it stays open.

    One that was not ``attempted`` counts as none.
    """

    state: DeliveryState
    in_doubt: bool
    retry_in_s: float | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    is_shared: bool = False
    attempted: bool = True


def judge(
    delivery: Delivery, outcome: Outcome, *, age_s: float, policy: RetryPolicy
) -> AttemptResult:
    """Decide what an attempt's outcome means for its delivery, whose attempts count this one.

    ``age_s`` is how long it had been open when it was claimed, by the database's clock. No delivery
    is given up without an attempt. A doubt ends with a success, or with a refusal that a late copy
    of the request would meet, too.

    Raises: IllegalTransition when the delivery's state takes no attempts.
    """
    state = next_state(delivery.state, outcome)
    if isinstance(outcome, Delivered):
        return AttemptResult(
            state, in_doubt=False, http_status=outcome.http_status, is_shared=outcome.is_shared
        )
    if isinstance(outcome, Withheld):
        return AttemptResult(
            state,
            in_doubt=delivery.in_doubt,
            retry_in_s=outcome.for_s,
            http_status=delivery.last_http_status,
            error_code=delivery.last_error_code,
            error_message=delivery.last_error_message,
            attempted=False,
        )
    limit, retry_in_s, in_doubt = "", None, False
    if isinstance(outcome, TriedInVain):
        in_doubt = delivery.in_doubt or outcome.in_doubt
        limit = policy.limit_reached(delivery.attempts, age_s)
        if limit:
            state = next_state(delivery.state, GaveUp())
        else:
            retry_in_s = _retry_in_s(delivery, outcome, policy)
    return AttemptResult(
        state,
        in_doubt=in_doubt,
        retry_in_s=retry_in_s,
        http_status=outcome.http_status,
        error_code=outcome.code,
        error_message=outcome.message[: MESSAGE_MAX - len(limit)] + limit,
    )


def roll_up(counts: Mapping[DeliveryState, int]) -> LossStatus:
    """Return the status that follows from how many deliveries are in which state.

    Where nothing is to do counts as done; what was refused for good, or canceled, as failed.
    """
    forwarded = counts.get(DeliveryState.FORWARDED, 0)
    failed = failed_count(counts) + counts.get(DeliveryState.CANCELED, 0)
    untried = counts.get(DeliveryState.PENDING, 0) + counts.get(DeliveryState.WAITING, 0)
    if not failed and not untried:
        return LossStatus.FORWARDED
    if forwarded:
        return LossStatus.PARTIALLY_FORWARDED
    if failed:
        return LossStatus.PROCESSING if untried else LossStatus.FAILED
    return LossStatus.RECORDED


def failed_count(counts: Mapping[DeliveryState, int]) -> int:
    """Return how many deliveries the wire calls failed."""
    return counts.get(DeliveryState.FAILED, 0) + counts.get(DeliveryState.DEAD, 0)


def _retry_in_s(delivery: Delivery, outcome: TriedInVain, policy: RetryPolicy) -> float:
    wait_s = backoff_s(delivery.attempts, policy, seed=delivery.delivery_id)
    if outcome.is_slow:
        wait_s *= SLOW_FACTOR
    return max(wait_s, min(outcome.retry_after_s or 0.0, RETRY_AFTER_MAX_S))
