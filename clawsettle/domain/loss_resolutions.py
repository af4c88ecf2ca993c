"""Taking a loss event back: when that is possible, what there is to take back, what remains.

Source: loss-events contract section 4; 10 (4, 5, 6, 7).
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from attrs import frozen

from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target

# What cannot be taken back by any request that the target knows.
_STAYS = {Target.CLAWINSURE: "claim", Target.CLAWBOUNTIES: "bounty_disputed"}
# Who holds or has taken money of the account; a claim and a disputed bounty are none.
_TAKES_MONEY = (Target.LEDGER, Target.ESCROW, Target.CLAWINCOME)
# Who can be asked to let go of what may not be there.
_RELEASES_UNSEEN = frozenset({Target.LEDGER, Target.ESCROW, Target.CLAWBOUNTIES})


def not_ready(applies: Iterable[Delivery]) -> list[Target]:
    """Return the targets that keep an event from being resolved: those that can still be told.

    One that only waits for its target to be configured keeps nobody: nobody is being told.
    """
    return [
        one.target
        for one in applies
        if one.lease_token is not None or (one.state.is_open and one.state is not _WAITING)
    ]


def taken_back(applies: Iterable[Delivery]) -> list[Target]:
    """Return whom a resolution has to tell, in the order of ``Target``: whoever was told.

    Where that is in doubt, those that can be asked to let go of what may not be there.
    """
    told = {
        one.target
        for one in applies
        if one.state is DeliveryState.FORWARDED or (one.in_doubt and one.target in _RELEASES_UNSEEN)
    }
    return [target for target in Target if target in told and target is not Target.CLAWINSURE]


def unseen(applies: Iterable[Delivery]) -> set[Target]:
    """Return the targets that need not find what a release of theirs is to take back."""
    return {one.target for one in applies if one.state is not DeliveryState.FORWARDED}


def is_canceled(apply: Delivery) -> bool:
    """Return whether resolving its event ends an apply delivery that was not delivered."""
    return apply.state in {_WAITING, DeliveryState.DEAD}


@frozen
class Residual:
    """What one target has done for an event and not yet taken back; amounts in minor units.

    ``is_uncertain``: it may have done it without our knowing. ``stays`` names what it cannot take
    back, once the event is resolved.
    """

    target: Target
    applied_minor: int
    released_minor: int
    is_uncertain: bool
    stays: str | None

    @property
    def residual_minor(self) -> int:
        """Return what is still held or taken."""
        return self.applied_minor - self.released_minor

    def view(self) -> dict[str, object]:
        """Render it as JSON."""
        return {
            "target_service": str(self.target),
            "applied_minor": str(self.applied_minor),
            "released_minor": str(self.released_minor),
            "residual_minor": str(self.residual_minor),
            "uncertain": self.is_uncertain,
            "not_undone": self.stays,
        }


def residuals(
    amount_minor: int, deliveries: Iterable[Delivery], *, is_resolved: bool
) -> list[Residual]:
    """Return what remains at each target of an event, in the order of ``Target``."""
    by_kind: Mapping[tuple[Operation, Target], Delivery] = {
        (one.operation, one.target): one for one in deliveries
    }
    return [
        _residual(
            amount_minor, apply, by_kind.get((Operation.RESOLVE, target)), is_resolved=is_resolved
        )
        for target in Target
        if (apply := by_kind.get((Operation.APPLY, target))) is not None
    ]


def _residual(
    amount_minor: int, apply: Delivery, resolve: Delivery | None, *, is_resolved: bool
) -> Residual:
    is_told = apply.state is DeliveryState.FORWARDED
    is_over = resolve is not None and resolve.state in _OVER
    # A release that was heeded proves that there was something, whether or not we knew.
    took = apply.target in _TAKES_MONEY and (
        is_told or (resolve is not None and resolve.state is DeliveryState.FORWARDED)
    )
    applied_minor = amount_minor if took else 0
    return Residual(
        apply.target,
        applied_minor,
        applied_minor if is_over else 0,
        is_uncertain=apply.in_doubt and not is_over,
        stays=_STAYS.get(apply.target) if is_told and is_resolved else None,
    )


class Step(Enum):
    """What to do about an escrow whose one hold may serve several of our events."""

    GO_ON = "go_on"
    SHARE = "share"
    WAIT = "wait"


def apply_step(apply: Delivery, others: Sequence[Delivery]) -> Step:
    """Return what to do about an apply: WAIT while another event's release is being repeated.

    ``others`` are the deliveries to that escrow of our other events. Such a release lifts whatever
    hold it meets, also one that is applied meanwhile. For an apply in doubt it waits itself.
    """
    is_lifting = any(
        one.operation is Operation.RESOLVE and one.lease_token is not None and one.in_doubt
        for one in others
    )
    return Step.WAIT if is_lifting and not apply.in_doubt else Step.GO_ON


def join_step(others: Sequence[Delivery]) -> Step:
    """Return what a refusal by an escrow that is held for another event means.

    ``others`` are the deliveries to that escrow of our other events. SHARE when one of those has
    the hold and is not letting go of it, WAIT when one may be getting or releasing it just now,
    GO_ON when it is nobody's of ours.
    """
    if _holders(others):
        return Step.SHARE
    return Step.WAIT if _undecided(others) else Step.GO_ON


def release_step(release: Delivery, others: Sequence[Delivery]) -> Step:
    """Return what to do about a release: SHARE when the hold has to stay for another event.

    A release that is repeated may have lifted the hold before, and another event may have it since:
    it WAITs while one is being applied, so as not to lift that one.
    """
    if _holders(others):
        return Step.SHARE
    is_applying = any(one.operation is Operation.APPLY for one in _undecided(others))
    return Step.WAIT if release.in_doubt and is_applying else Step.GO_ON


def _holders(others: Sequence[Delivery]) -> set[str]:
    """Return the events that have a hold and have not begun to let go of it."""
    leaving = {
        one.loss_event_id
        for one in others
        if one.operation is Operation.RESOLVE and one.last_attempted_at is not None
    }
    return {
        one.loss_event_id
        for one in others
        if one.operation is Operation.APPLY and one.state is DeliveryState.FORWARDED
    } - leaving


def _undecided(others: Sequence[Delivery]) -> list[Delivery]:
    """Return what may be getting or releasing a hold; an event that was taken back has none."""
    over = {
        one.loss_event_id
        for one in others
        if one.operation is Operation.RESOLVE and one.state in _OVER
    }
    return [one for one in others if one.loss_event_id not in over and _is_undecided(one)]


def _is_undecided(one: Delivery) -> bool:
    if one.operation is Operation.RESOLVE:
        return one.state.is_open and one.last_attempted_at is not None
    return one.lease_token is not None or one.in_doubt


_WAITING = DeliveryState.WAITING
_OVER = frozenset({DeliveryState.FORWARDED, DeliveryState.NOT_APPLICABLE})
