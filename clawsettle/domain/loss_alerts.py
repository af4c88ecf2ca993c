"""Which deliveries somebody should be told of, and why.

Source: loss-events contract section 10 (10, 14, 17, 21); the words are new.
"""

from enum import StrEnum

from clawsettle.domain.loss_answers import UPSTREAM_ERROR
from clawsettle.domain.loss_events import DeliveryState

_MISCONFIGURED_STATUSES = frozenset({401, 403, *range(300, 400)})
_UNFUNDED_CODES = frozenset({"INSUFFICIENT_FUNDS", "RISK_HOLD_RELEASE_FAILED"})
_NOT_FOUND = 404


class Alert(StrEnum):
    """Why somebody should look at a delivery.

    ``unconfigured``: its target has no address or key here. ``refused``: it is dead.
    ``misconfigured``: its target refuses our key, or is not where the address says. ``unfunded``:
    the account has too little. ``late``: it has been open for too long.
    """

    UNCONFIGURED = "unconfigured"
    REFUSED = "refused"
    MISCONFIGURED = "misconfigured"
    UNFUNDED = "unfunded"
    LATE = "late"


def alert_of(
    state: DeliveryState, http_status: int | None, code: str | None, *, is_old: bool
) -> Alert | None:
    """Return why somebody should look at a delivery; None when nobody need.

    ``is_old``: it has been open for longer than ``[loss_events] alert_after_s``.
    """
    if state is DeliveryState.WAITING:
        return Alert.UNCONFIGURED
    if state is DeliveryState.DEAD:
        return Alert.REFUSED
    if state is DeliveryState.FAILED:
        is_misplaced = http_status == _NOT_FOUND and code == UPSTREAM_ERROR
        if http_status in _MISCONFIGURED_STATUSES or is_misplaced:
            return Alert.MISCONFIGURED
        if code in _UNFUNDED_CODES:
            return Alert.UNFUNDED
    return Alert.LATE if is_old and state.is_open else None
