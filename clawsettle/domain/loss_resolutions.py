"""Taking a loss event back: when that is possible, what there is to take back, what remains.

Source: loss-events contract section 4; 10 (4, 5, 6, 7).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum

from attrs import frozen

from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target

# What cannot be taken back by any request that the target knows.
_STAYS = {Target.CLAWINSURE: "claim", Target.CLAWBOUNTIES: "bounty_disputed"}
# Who holds or has taken money of the account; a claim and a disputed bounty are none.
_TAKES_MONEY = (Target.LEDGER, Target.ESCROW, Target.CLAWINCOME)
# Who can be asked to let go of what may not be there.
_RELEASES_UNSEEN = frozenset({Target.LEDGER, Target.ESCROW, Target.CLAWBOUNTIES})


def not_ready(
    applies: Iterable[Delivery], configured: Collection[Target], at: datetime
) -> list[Target]:
    """Return the targets that keep an event from being resolved: those that can still be told.

    One that is not among the ``configured`` keeps nobody, but while it is being told: while its
    lease runs, at ``at``.
    """
    return [
        one.target
        for one in applies
        if (one.state.is_open and one.target in configured) or _is_leased(one, at)
    ]


def taken_back(applies: Iterable[Delivery]) -> list[Target]:
    """Return whom a resolution has to tell, in the order of ``Target``: whoever was told.

    Where that is in doubt, those that can be asked to let go of what may not be there.
    """
    told = {
        one.target
        for one in applies
        if one.state is DeliveryState.FORWARDED
        or (_may_have_acted(one) and one.target in _RELEASES_UNSEEN)
    }
    return [target for target in Target if target in told and target is not Target.CLAWINSURE]


def unseen(applies: Iterable[Delivery]) -> set[Target]:
    """Return the targets that need not find what a release of theirs is to take back."""
    return {one.target for one in applies if one.state is not DeliveryState.FORWARDED}


def is_canceled(apply: Delivery) -> bool:
    """Return whether resolving its event ends an apply delivery that was not delivered."""
    return apply.state.is_open or apply.state is DeliveryState.DEAD


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


def _is_leased(one: Delivery, at: datetime) -> bool:
    return one.lease_token is not None and one.due_at is not None and one.due_at > at


def _may_have_acted(one: Delivery) -> bool:
    """Whether a target may have acted unseen: who let a lease run out may have sent."""
    return one.in_doubt or one.lease_token is not None


class Step(Enum):
    """What to do about an escrow whose one hold may serve several of our events."""

    GO_ON = "go_on"
    SHARE = "share"
    WAIT = "wait"


def join_step(apply: Delivery, others: Sequence[Delivery]) -> Step:
    """Return what the refusal of an apply by an escrow that is held for another event means.

    ``others`` are the deliveries to that escrow of our other events. SHARE when one of those has
    the hold and is not letting go of it, WAIT when one may be getting or releasing it just now, or
    has released it since the attempt began, GO_ON when it is nobody's of ours.
    """
    if _holders(others):
        return Step.SHARE
    is_to_wait = _undecided(others) or _is_outdated(apply, others)
    return Step.WAIT if is_to_wait else Step.GO_ON


def apply_step(apply: Delivery, others: Sequence[Delivery]) -> Step:
    """Return what to do about an apply: WAIT while the hold is being released for another event.

    That release may be on its way to the escrow, and would lift the hold of this one. One in doubt
    GOes ON, as releases wait for it.
    """
    is_releasing = any(one.operation is Operation.RESOLVE for one in _undecided(others))
    return Step.WAIT if is_releasing and not apply.in_doubt else Step.GO_ON


def release_step(
    release: Delivery, others: Sequence[Delivery], *, may_be_absent: bool = False
) -> Step:
    """Return what to do about a release: SHARE when the hold has to stay for another event.

    A hold that was never there for certain, or may have been lifted before, by this release or by
    another, may be another event's by now: it WAITs while one is being applied that is to stay.
    """
    if _holders(others):
        return Step.SHARE
    leaving = _leaving(others)
    is_applying = any(
        one.operation is Operation.APPLY and one.loss_event_id not in leaving
        for one in _undecided(others)
    )
    may_be_anothers = may_be_absent or release.in_doubt or bool(leaving)
    return Step.WAIT if may_be_anothers and is_applying else Step.GO_ON


def _is_outdated(apply: Delivery, others: Sequence[Delivery]) -> bool:
    """Whether a hold was released since an apply's attempt began: its refusal may be older."""
    assert apply.last_attempted_at is not None  # noqa: S101 - it was refused
    # Ends are stored in whole milliseconds.
    since = apply.last_attempted_at - timedelta(milliseconds=1)
    return any(
        one.operation is Operation.RESOLVE
        and one.forwarded_at is not None
        and one.forwarded_at > since
        for one in others
    )


def _leaving(others: Sequence[Delivery]) -> set[str]:
    """Return the events that have begun to let go of a hold."""
    return {
        one.loss_event_id
        for one in others
        if one.operation is Operation.RESOLVE and one.last_attempted_at is not None
    }


def _holders(others: Sequence[Delivery]) -> set[str]:
    """Return the events that have a hold and have not begun to let go of it."""
    return {
        one.loss_event_id
        for one in others
        if one.operation is Operation.APPLY and one.state is DeliveryState.FORWARDED
    } - _leaving(others)


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


_OVER = frozenset({DeliveryState.FORWARDED, DeliveryState.NOT_APPLICABLE})
