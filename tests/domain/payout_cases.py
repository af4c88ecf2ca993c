"""A payout for tests of its rules, and every case that it can come to, walked to the last one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs
from attrs import frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.payout_events import (
    Finalized,
    LockApplied,
    LockRefused,
    NotFound,
    PayoutEvent,
    RecallDone,
    Returned,
    RolledBack,
    SendAnswered,
    SendDeclined,
    SendUnanswered,
    StepFailed,
    Withdrawn,
    news,
)
from clawsettle.domain.payout_news import NewsState, PayoutNews, judge_news
from clawsettle.domain.payout_schedule import PayoutSchedule, due_by_news
from clawsettle.domain.payout_transfers import STAGES
from clawsettle.domain.payout_transitions import apply
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import (
    Absent,
    Declined,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)

AT = datetime(2026, 2, 11, 12, tzinfo=UTC)
OBJECT_ID, TRANSFER_ID = "po_1", "tr_1"
SCHEDULE = PayoutSchedule(30.0, RetryPolicy(15, 300, 2**31 - 1, 2**31 - 1), 3600.0)
EVENT_TYPES: Mapping[ProviderStatus, str] = {
    ProviderStatus.PENDING: "payout.created",
    ProviderStatus.IN_TRANSIT: "payout.updated",
    ProviderStatus.PAID: "payout.paid",
    ProviderStatus.CANCELED: "payout.canceled",
    ProviderStatus.FAILED: "payout.failed",
}
OPEN, PAID, GIVEN_BACK = (
    (PayoutStatus.SUBMITTED, 3800, 1200, 0),
    (PayoutStatus.PAID, 3800, 0, 1200),
    (PayoutStatus.FAILED, 5000, 0, 0),
)
BY_EVENTS: Mapping[frozenset[ProviderStatus], tuple[PayoutStatus, int, int, int]] = {
    frozenset(): OPEN,
    frozenset({ProviderStatus.PAID}): PAID,
    frozenset({ProviderStatus.FAILED}): GIVEN_BACK,
    frozenset({ProviderStatus.CANCELED}): GIVEN_BACK,
    frozenset({ProviderStatus.PAID, ProviderStatus.FAILED}): GIVEN_BACK,
    frozenset({ProviderStatus.PAID, ProviderStatus.CANCELED}): GIVEN_BACK,
    frozenset({ProviderStatus.FAILED, ProviderStatus.CANCELED}): GIVEN_BACK,
    frozenset({ProviderStatus.PAID, ProviderStatus.FAILED, ProviderStatus.CANCELED}): GIVEN_BACK,
}
"""By what the provider has said, in any order and however often: the status on the wire, and what
is available, held and cleared of 5000 after a payout of 1200. ``UNTELLING`` changes nothing."""
UNTELLING = frozenset({ProviderStatus.PENDING, ProviderStatus.IN_TRANSIT})
T = TypeVar("T")


def payout(number: int = 1, **changes: Any) -> Payout:
    """A payout that was just asked for and is leased from birth, by its number, with changes."""
    known: dict[str, Any] = {
        "payout_id": f"pout_{number:05}",
        "idempotency_key": f"key_{number:05}",
        "request_hash": "0" * 64,
        "provider": "stripe",
        "account_id": "acc_32ca986a",
        "account_did": "did:key:alice",
        "connect_account_id": "acct_1",
        "clearing_domain": "clawsettle.payouts",
        "amount_minor": 1200,
        "currency": "USD",
        "metadata": None,
        "status": PayoutStatus.INITIATED,
        "keyed_at": AT,
        "created_at": AT,
        "updated_at": AT,
        "status_at": AT,
        "attempts": 1,
        "due_at": AT + timedelta(seconds=SCHEDULE.lease_s),
        "lease_token": -1,
    }
    return Payout(**known | changes)


def told(status: ProviderStatus, **changes: Any) -> PayoutNews:
    """True news of the payout above, with changes."""
    known: dict[str, Any] = {
        "event_id": f"evt_{status}",
        "event_type": EVENT_TYPES[status],
        "external_payout_id": OBJECT_ID,
        "named_payout_id": "pout_00001",
        "connect_account_id": "acct_1",
        "account_id": "acc_32ca986a",
        "amount_minor": 1200,
        "currency": "USD",
        "status": status,
    }
    return PayoutNews(**known | changes)


@frozen
class Case:
    """A payout, the step that its holder is at, and what the ledger has applied for it.

    ``heard`` is what the provider has said so far.
    """

    payout: Payout
    step: PayoutStep | None = None
    applied: frozenset[PayoutStep] = frozenset()
    heard: frozenset[ProviderStatus] = frozenset()


def sent(status: ProviderStatus = ProviderStatus.PENDING) -> Sent:
    return Sent(OBJECT_ID, TRANSFER_ID, status)


_FAILED = StepFailed("LEDGER_INGEST_FAILED", "no answer")
_FOUND = (SendAnswered(sent()), *(news(sent(status), "provider:look") for status in ProviderStatus))
_NOT_SENT = SendUnanswered(Unanswered("no answer"))
OUTCOMES: Mapping[PayoutStep, tuple[PayoutEvent, ...]] = {
    PayoutStep.LOCK: (
        LockApplied("evt_lock"),
        LockRefused("INSUFFICIENT_FUNDS", "it is not there"),
        _FAILED,
    ),
    PayoutStep.SEND: (
        *_FOUND,
        SendDeclined(Declined("balance_insufficient", "no", 400, TRANSFER_ID)),
        SendDeclined(Declined("account_invalid", "no", 403)),
        _NOT_SENT,
        _FAILED,
    ),
    PayoutStep.LOOK: (
        *_FOUND,
        NotFound(Absent()),
        NotFound(Absent(TRANSFER_ID)),
        _NOT_SENT,
        _FAILED,
    ),
    PayoutStep.FINALIZE: (Finalized("evt_finalize"), _FAILED),
    PayoutStep.RECALL: (RecallDone(Recalled("trr_1")), RecallDone(Recalled()), _FAILED),
    PayoutStep.ROLL_BACK: (RolledBack("evt_rollback"), _FAILED),
    PayoutStep.RETURN: (Returned("evt_return"), _FAILED),
    PayoutStep.CANCEL: (
        *_FOUND,
        Withdrawn(Absent(TRANSFER_ID), "ops:cancel"),
        _NOT_SENT,
        _FAILED,
    ),
}
"""What each step can come to; the first one is what it was done for."""
_CANCELABLE = frozenset({PayoutStatus.UNKNOWN, PayoutStatus.SUBMITTED})


def walk(start: T, follow: Callable[[T], Iterable[T]]) -> set[T]:
    """Everything that can follow from ``start``, and it."""
    found, waiting = {start}, [start]
    while waiting:
        for case in follow(waiting.pop()):
            if case not in found:
                found.add(case)
                waiting.append(case)
    return found


def hear(case: Case, status: ProviderStatus) -> Case:
    """The case after news, as storage has it heard."""
    before, said = case.payout, told(status)
    heard = attrs.evolve(case, heard=case.heard | {status})
    if judge_news(said, before).state is not NewsState.APPLIED:
        return heard
    after = apply(before, news(said.sent, "provider"), now=AT).payout
    return attrs.evolve(heard, payout=due_by_news(before, after, now=AT))


def finish(case: Case, event: PayoutEvent) -> Case:
    """The case after its holder has recorded what his step came to, and begun the next one."""
    try:
        after = apply(case.payout, event, now=AT).payout
    except IllegalTransition:
        after = case.payout
    after = SCHEDULE.owned(after, event, now=AT)
    return begin(attrs.evolve(case, payout=after))


def succeed(case: Case) -> Case:
    """The case after its step has done what it is done for."""
    assert case.step is not None
    applied = case.applied | {case.step} if case.step in STAGES else case.applied
    return finish(attrs.evolve(case, applied=applied), OUTCOMES[case.step][0])


def begin(case: Case) -> Case:
    """The case after its holder, if there is one, has turned to what is to be done next."""
    held = case.payout.lease_token is not None
    return attrs.evolve(case, step=case.payout.next_step() if held else None)


def claim(case: Case) -> Case:
    """The case after somebody has leased the payout, its holder being dead or none there."""
    # More tries than two are not told apart.
    attempts = min(case.payout.attempts + 1, 2)
    return begin(
        attrs.evolve(case, payout=attrs.evolve(case.payout, attempts=attempts, lease_token=1))
    )


def whatever_happens(case: Case) -> Iterator[Case]:
    """Every case that can come next: answers, lost ones, crashes, news, an operator's wish."""
    case = attrs.evolve(case, heard=frozenset())
    for status in ProviderStatus:
        yield hear(case, status)
    if case.payout.due_at is not None:
        yield claim(case)
        if case.payout.status in _CANCELABLE and case.payout.lease_token is not None:
            yield attrs.evolve(case, step=PayoutStep.CANCEL)
    if case.step is None:
        return
    yield succeed(case)
    if case.step in STAGES:  # it is applied, and nobody is told
        yield attrs.evolve(case, applied=case.applied | {case.step})
    for event in OUTCOMES[case.step][1:]:
        # A lock that is refused was never applied, nor can it be any more.
        if not isinstance(event, LockRefused) or case.step not in case.applied:
            yield finish(case, event)


def as_ordered(case: Case) -> Iterator[Case]:
    """Every case that can come next when all steps do what they are done for.

    The provider says nothing of a payout that it was not asked for yet.
    """
    for status in ProviderStatus if case.payout.lock_event_id is not None else ():
        yield hear(case, status)
    if case.step is not None:
        yield succeed(case)
    elif case.payout.due_at is not None and case.payout.status is not PayoutStatus.SUBMITTED:
        yield claim(case)
