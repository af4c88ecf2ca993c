"""Watches the deliveries of loss events: tells when somebody should look, and when no longer.

Owns: nothing. Guarantees: an alert is logged within about ``every_s`` of its cause, once, and again
when its cause is gone. Every daemon watches all targets, those that only others can tell included.
Stops: on ``close``, after the look under way.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

import structlog
from attrs import define, field

from clawsettle.actors.timer import Timer
from clawsettle.domain.loss_alerts import Alert, Group, Standing, standing_of
from clawsettle.domain.loss_events import Target
from clawsettle.storage.loss_deliveries import LossDeliveries

_log = structlog.get_logger(__name__)
_COUNT_MAX = 10_000


@define(eq=False)
class LossWatch:
    """See the module. ``standings`` is how each target stood at the last look, where it has any."""

    deliveries: LossDeliveries
    configured: Collection[Target]
    alert_after_s: float
    every_s: float = 15.0
    name: str = field(default="loss_watch", init=False)
    standings: Mapping[Target, Standing] = field(factory=dict, init=False)
    _raised: frozenset[tuple[Target, Alert]] = field(default=frozenset(), init=False)
    _timer: Timer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self.name, self.every_s)

    async def run(self) -> None:
        """Look until closed."""
        await self._timer.run(self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.stop()

    async def _look(self) -> bool:
        grouped: dict[Target, list[Group]] = defaultdict(list)
        for group in await self.deliveries.troubles(self.alert_after_s, _COUNT_MAX):
            grouped[group.target].append(group)
        self.standings = {
            target: standing_of(grouped[target], is_configured=target in self.configured)
            for target in Target
            if target in grouped
        }
        raised = {
            (target, alert): count
            for target, standing in self.standings.items()
            for alert, count in standing.alerts.items()
        }
        for target, alert in sorted(raised.keys() - self._raised):
            _log.error(
                "loss_alert_raised",
                target=str(target),
                alert=str(alert),
                deliveries=raised[target, alert],
            )
        for target, alert in sorted(self._raised - raised.keys()):
            _log.info("loss_alert_cleared", target=str(target), alert=str(alert))
        self._raised = frozenset(raised)
        return False
