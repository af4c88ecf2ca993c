"""New deliveries of loss events: which are leased to their recorder from birth, how all begin.

Source: loss-events contract section 3; 10 (10).
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from attrs import define, evolve, field

from clawsettle.domain.loss_answers import NOT_CONFIGURED
from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    Operation,
    Target,
    delivery_id,
    escrow_of,
)
from clawsettle.storage.lease_tokens import birth_token


@define(eq=False)
class Births:
    """Which deliveries are leased to their recorder from birth, and how the others begin.

    ``seats`` says how many there may be a target, ``configured`` which targets can be told at all.
    The tokens are drawn once, and what is made is noted, so that a try whose answer was lost is
    known by them. ``unseen`` are the targets where a resolution releases what may never have been
    applied.
    """

    configured: Collection[Target]
    seats: Mapping[Target, int]
    lease_s: float
    unseen: Collection[Target] = field(default=(), init=False)
    _tokens: dict[str, int] = field(factory=dict, init=False)
    _left: dict[Target, int] = field(factory=dict, init=False)
    _made: set[tuple[str, datetime]] = field(factory=set, init=False)

    def begin(self) -> None:
        """Give out the seats anew; a try that is repeated gives the same ones."""
        self._left = dict(self.seats)

    def note(self, name: str, at: datetime) -> None:
        """Note an event or a resolution that is made here at ``at``."""
        self._made.add((name, at))

    def has_made(self, name: str, at: datetime) -> bool:
        """Whether the event or the resolution of that name and instant was made here."""
        return (name, at) in self._made

    def is_ours(self, delivery: Delivery) -> bool:
        """Whether a delivery has a token that was drawn here."""
        token = self._tokens.get(delivery.delivery_id)
        return token is not None and token == delivery.lease_token

    def deliver(
        self, event: LossEvent, operation: Operation, targets: Iterable[Target], at: datetime
    ) -> list[Delivery]:
        """Return an event's new deliveries, recorded at ``at``."""
        return [self._deliver(event, operation, target, at) for target in targets]

    def _deliver(
        self, event: LossEvent, operation: Operation, target: Target, at: datetime
    ) -> Delivery:
        is_configured = target in self.configured
        new = Delivery(
            loss_event_id=event.loss_event_id,
            operation=operation,
            target=target,
            delivery_id=delivery_id(event.loss_event_id, operation, target),
            escrow_id=escrow_of(event.metadata) if target is Target.ESCROW else None,
            state=DeliveryState.PENDING if is_configured else DeliveryState.WAITING,
            attempts=0,
            opened_at=at,
            created_at=at,
            updated_at=at,
            due_at=at,
            last_error_code=None if is_configured else NOT_CONFIGURED,
            last_error_message=None if is_configured else f"{target} is not configured",
        )
        if not is_configured or not self._left.get(target):
            return new
        self._left[target] -= 1
        return evolve(
            new,
            attempts=1,
            due_at=at + timedelta(seconds=self.lease_s),
            lease_token=self._tokens.setdefault(new.delivery_id, birth_token()),
            last_attempted_at=at,
        )
