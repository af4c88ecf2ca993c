"""Which deliveries somebody should be told of, and why.

Source: loss-events contract section 10 (10, 14, 17, 21); the words are new.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.loss_answers import UPSTREAM_ERROR
from clawsettle.domain.loss_events import DeliveryState, Target

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


@frozen
class Group:
    """Deliveries to one target that are alike in what is known of them, and how many there are.

    ``due_s`` is how long the longest due of them is due, in seconds.
    """

    target: Target
    state: DeliveryState
    http_status: int | None
    code: str | None
    is_old: bool
    delivery_count: int
    due_s: float


@frozen
class Standing:
    """How one target stands: what is open and dead there, and which alerts that raises.

    Counts stop at the limit of the look. ``oldest_due_s`` is how long the longest due delivery is
    due, in seconds; 0 when none is.
    """

    open_count: int
    dead_count: int
    oldest_due_s: float
    alerts: Mapping[Alert, int]

    def view(self) -> dict[str, object]:
        """Render it as JSON."""
        return {
            "open_count": self.open_count,
            "dead_count": self.dead_count,
            "oldest_due_s": round(self.oldest_due_s, 3),
            "alerts": {str(alert): count for alert, count in self.alerts.items()},
        }


def standing_of(groups: Iterable[Group], *, is_configured: bool) -> Standing:
    """Return how the target of these groups stands."""
    alerts: Counter[Alert] = Counter()
    open_count = dead_count = 0
    oldest_due_s = 0.0
    for group in groups:
        alert = alert_of(
            group.state,
            group.http_status,
            group.code,
            is_configured=is_configured,
            is_old=group.is_old,
        )
        if alert is not None:
            alerts[alert] += group.delivery_count
        if group.state.is_open:
            open_count += group.delivery_count
            oldest_due_s = max(oldest_due_s, group.due_s)
        else:
            dead_count += group.delivery_count
    ordered = {alert: alerts[alert] for alert in Alert if alert in alerts}
    return Standing(open_count, dead_count, oldest_due_s, ordered)


def alert_of(
    state: DeliveryState,
    http_status: int | None,
    code: str | None,
    *,
    is_configured: bool,
    is_old: bool,
) -> Alert | None:
    """Return why somebody should look at a delivery; None when nobody need.

    ``is_configured``: its target is. ``is_old``: it has been open for longer than ``[loss_events]
    alert_after_s``.
    """
    if state.is_open and not is_configured:
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
