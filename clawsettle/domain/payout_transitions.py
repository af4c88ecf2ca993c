"""What a payout may become, and what is to be done for it next.

``TRANSITIONS`` is the rule; the database's CHECK constraints are its second copy. The state of the
hold is part of it: the money is available until LOCK has been applied, held until FINALIZE or
ROLL_BACK, and in the clearing account from FINALIZE until RETURN. No step of the table leads from
one of these to another without the event of the ledger's transfer that moved it.

Everything here is pure. ``apply`` takes what came of a step, or what the provider said, and returns
the payout as it is afterwards with the audit rows of the change; both are stored in one commit.
Source: payouts contract sections 5 and 7; 11 (1, 2, 4 to 6, 9, 10).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from attrs import frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.payout_events import (
    NEWS,
    Finalized,
    LockApplied,
    LockRefused,
    News,
    NotFound,
    PayoutEvent,
    ProviderCanceled,
    ProviderFailed,
    ProviderPaid,
    ProviderPending,
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
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import (
    KEY_LIFETIME,
    Absent,
    ProviderStatus,
    Sent,
)

ERROR_MESSAGE_MAX = 500
_DECLINED = "STRIPE_TRANSFER_FAILED"
S = PayoutStatus
_SENDABLE = frozenset({S.SENDING, S.UNKNOWN})


Row = Mapping[type[object], PayoutStatus]
_SENT_ALREADY = (SendAnswered, SendUnanswered, ProviderPending)


def _stays(status: PayoutStatus, *events: type[object]) -> Row:
    return dict.fromkeys((*events, StepFailed), status)


_UNSENT: Row = {
    SendAnswered: S.SUBMITTED,
    SendDeclined: S.FINALIZING_FAILED,
    SendUnanswered: S.UNKNOWN,
    NotFound: S.SENDING,
    ProviderPending: S.SUBMITTED,
    ProviderPaid: S.FINALIZING_PAID,
    ProviderCanceled: S.FINALIZING_CANCELED,
    ProviderFailed: S.FINALIZING_FAILED,
}
_GIVEN_BACK = (*_SENT_ALREADY, ProviderPaid, ProviderCanceled, ProviderFailed)

TRANSITIONS: Mapping[PayoutStatus, Row] = {
    S.INITIATED: {LockApplied: S.SENDING, LockRefused: S.FAILED, StepFailed: S.INITIATED},
    S.SENDING: {**_UNSENT, StepFailed: S.SENDING},
    S.UNKNOWN: {**_UNSENT, Withdrawn: S.FINALIZING_CANCELED, StepFailed: S.UNKNOWN},
    S.SUBMITTED: {
        **_stays(S.SUBMITTED, *_SENT_ALREADY),
        ProviderPaid: S.FINALIZING_PAID,
        ProviderCanceled: S.FINALIZING_CANCELED,
        ProviderFailed: S.FINALIZING_FAILED,
    },
    # What is being finalised is finalised first: its transfer may be under way.
    S.FINALIZING_PAID: {**_stays(S.FINALIZING_PAID, *_GIVEN_BACK), Finalized: S.PAID},
    S.PAID: {
        **_stays(S.PAID, *_SENT_ALREADY, ProviderPaid),
        ProviderCanceled: S.RETURNING,
        ProviderFailed: S.RETURNING,
    },
    S.FINALIZING_FAILED: {
        **_stays(S.FINALIZING_FAILED, *_GIVEN_BACK, RecallDone),
        RolledBack: S.FAILED,
    },
    S.FAILED: _stays(S.FAILED, *_GIVEN_BACK),
    S.FINALIZING_CANCELED: {
        **_stays(S.FINALIZING_CANCELED, *_GIVEN_BACK, RecallDone),
        RolledBack: S.CANCELED,
    },
    S.CANCELED: _stays(S.CANCELED, *_GIVEN_BACK),
    S.RETURNING: {**_stays(S.RETURNING, *_GIVEN_BACK, RecallDone), Returned: S.RETURNED},
    S.RETURNED: _stays(S.RETURNED, *_GIVEN_BACK),
}
"""status -> event -> status; what is not listed is refused. What is listed as leading to where it
comes from changes no status: a repetition, or news that what is known already overrules."""


@frozen
class Audit:
    """A row of a payout's audit trail; ``key`` makes it one of a kind where there is one."""

    event_type: str
    key: str | None
    to_status: PayoutStatus | None
    details: Mapping[str, object]


_Recorded = tuple[Payout, list[Audit]]


@frozen
class Transition:
    """A payout after an event, and the audit rows of the change."""

    payout: Payout
    audits: Sequence[Audit]


def apply(payout: Payout, event: PayoutEvent, *, now: datetime) -> Transition:
    """Return what ``event`` makes of a payout at ``now``; leases are not its concern.

    Raises: IllegalTransition with ``payout_id``, ``from_status`` and ``to_status`` when the table
    has no such step.
    """
    try:
        status = TRANSITIONS[payout.status][type(event)]
    except KeyError:
        raise IllegalTransition(
            f"a payout that is {payout.status} takes no {type(event).__name__}",
            details={"payout_id": payout.payout_id, "from_status": str(payout.status.wire)},
        ) from None
    changed, audits = _RECORD[type(event)](payout, event, now)
    if status is not payout.status:
        changed = _enter(changed, status, now)
        if payout.status in _SENDABLE and isinstance(event, _TELLS_OF_SENDING):
            changed = attrs.evolve(changed, submitted_at=now)
            audits.append(_submitted(changed))
        if status is not S.SUBMITTED:
            audits.append(_entered(payout, changed, event))
    if changed is payout:
        return Transition(payout, ())
    after = attrs.evolve(changed, updated_at=now)
    if after.status is S.PAID and (late := _late_failure(after)) is not None:
        then = apply(after, late, now=now)
        return Transition(then.payout, (*audits, *then.audits))
    return Transition(after, audits)


def is_overruled(payout: Payout, said: ProviderStatus) -> bool:
    """Return whether the provider has said something later than ``said`` of this payout."""
    return payout.provider_status is not None and payout.provider_status.rank > said.rank


def contradicts(payout: Payout, said: ProviderStatus) -> bool:
    """Return whether news cannot be true of a payout: it is on its way, but was given back here.

    Its amount went back to its owner because the provider had refused it, or an operator had
    withdrawn it. Money may be out twice, so somebody has to look.
    """
    given_back = payout.status in {
        S.FINALIZING_FAILED,
        S.FAILED,
        S.FINALIZING_CANCELED,
        S.CANCELED,
    }
    is_alive = said.rank <= ProviderStatus.PAID.rank
    return given_back and is_alive and not is_overruled(payout, said)


def _step_failed(payout: Payout, event: StepFailed, _now: datetime) -> _Recorded:
    return _failing(payout, event.code, event.message), []


def _lock_refused(payout: Payout, event: LockRefused, _now: datetime) -> _Recorded:
    return _failing(payout, event.code, event.message), []


def _lock_applied(payout: Payout, event: LockApplied, now: datetime) -> _Recorded:
    details = {"lock_event_id": event.ledger_event_id}
    locked = attrs.evolve(payout, lock_event_id=event.ledger_event_id, keyed_at=now)
    return _cleared(locked), [Audit("payout.lock.applied", payout.lock_key, None, details)]


def _send_answered(payout: Payout, event: SendAnswered, _now: datetime) -> _Recorded:
    known = _known(payout, event.sent)
    return (_cleared(known) if payout.status in _SENDABLE else known), []


def _send_declined(payout: Payout, event: SendDeclined, _now: datetime) -> _Recorded:
    declined = event.declined
    status = "" if declined.http_status is None else f" ({declined.http_status})"
    known = attrs.evolve(payout, transfer_id=payout.transfer_id or declined.transfer_id)
    return _failing(known, _DECLINED, f"the provider refused: {declined.code}{status}"), []


def _send_unanswered(payout: Payout, event: SendUnanswered, _now: datetime) -> _Recorded:
    if payout.status not in _SENDABLE:
        return payout, []  # news was faster: it was sent
    transfer_id = payout.transfer_id or event.unanswered.transfer_id
    known = attrs.evolve(payout, transfer_id=transfer_id)
    return _failing(known, "STRIPE_API_ERROR", event.unanswered.message), []


def _not_found(payout: Payout, event: NotFound, now: datetime) -> _Recorded:
    expired = now - payout.keyed_at >= KEY_LIFETIME
    found = _found_transfer(payout, event.absent)
    return attrs.evolve(found, keyed_at=now if expired else payout.keyed_at, attempts=0), []


def _withdrawn(payout: Payout, event: Withdrawn, _now: datetime) -> _Recorded:
    found = _found_transfer(payout, event.absent)
    return attrs.evolve(found, provider_source=event.source), []


def _recall_done(payout: Payout, event: RecallDone, now: datetime) -> _Recorded:
    reversal_id = payout.reversal_id or event.recalled.reversal_id
    details = {"reversal_id": reversal_id, "transfer_id": payout.transfer_id}
    audit = Audit("payout.recall.applied", f"payout:recall:{payout.payout_id}", None, details)
    return attrs.evolve(payout, reversal_id=reversal_id, recalled_at=now, attempts=0), [audit]


def _finalized(payout: Payout, event: Finalized, _now: datetime) -> _Recorded:
    moved = attrs.evolve(payout, finalize_event_id=event.ledger_event_id)
    return moved, [_moved(payout, "finalize", payout.finalize_key, event.ledger_event_id)]


def _rolled_back(payout: Payout, event: RolledBack, _now: datetime) -> _Recorded:
    moved = attrs.evolve(payout, rollback_event_id=event.ledger_event_id)
    return moved, [_moved(payout, "rollback", payout.rollback_key, event.ledger_event_id)]


def _returned(payout: Payout, event: Returned, _now: datetime) -> _Recorded:
    moved = attrs.evolve(payout, return_event_id=event.ledger_event_id)
    return moved, [_moved(payout, "return", payout.return_key, event.ledger_event_id)]


def _heard(payout: Payout, event: News, _now: datetime) -> _Recorded:
    known = _known(payout, event.sent)
    said = event.sent.status
    if payout.provider_status is not None and payout.provider_status.rank >= said.rank:
        return known, []
    return attrs.evolve(known, provider_status=said, provider_source=event.source), []


_RECORD: Mapping[type[object], Callable[[Payout, Any, datetime], _Recorded]] = {
    StepFailed: _step_failed,
    LockApplied: _lock_applied,
    LockRefused: _lock_refused,
    SendAnswered: _send_answered,
    SendDeclined: _send_declined,
    SendUnanswered: _send_unanswered,
    NotFound: _not_found,
    Withdrawn: _withdrawn,
    RecallDone: _recall_done,
    Finalized: _finalized,
    RolledBack: _rolled_back,
    Returned: _returned,
    **dict.fromkeys(NEWS.values(), _heard),
}
"""What each event says of ids, errors and the provider's word, and the audit rows of it."""


def _found_transfer(payout: Payout, absent: Absent) -> Payout:
    return attrs.evolve(
        payout,
        transfer_id=payout.transfer_id or absent.transfer_id,
        reversal_id=payout.reversal_id or absent.reversal_id,
    )


def _known(payout: Payout, sent: Sent) -> Payout:
    """Fill in the provider's ids; the first ones stay."""
    external_id = payout.external_payout_id or sent.external_payout_id
    transfer_id = payout.transfer_id or sent.transfer_id
    if (external_id, transfer_id) == (payout.external_payout_id, payout.transfer_id):
        return payout
    return attrs.evolve(payout, external_payout_id=external_id, transfer_id=transfer_id)


def _moved(payout: Payout, stage: str, key: str, ledger_event_id: str) -> Audit:
    details = {"event_id": ledger_event_id, "source": payout.provider_source}
    return Audit(f"payout.{stage}.applied", key, None, details)


def _failing(payout: Payout, code: str, message: str) -> Payout:
    return attrs.evolve(
        payout, last_error_code=code, last_error_message=message[:ERROR_MESSAGE_MAX]
    )


def _cleared(payout: Payout) -> Payout:
    if payout.last_error_code is None:
        return payout
    return attrs.evolve(payout, last_error_code=None, last_error_message=None)


_TELLS_CODE = (LockRefused, SendDeclined, SendUnanswered)
_TELLS_OF_SENDING = (SendAnswered, *NEWS.values())


def _enter(payout: Payout, status: PayoutStatus, now: datetime) -> Payout:
    entered = attrs.evolve(payout, status=status, status_at=now, attempts=0)
    if status is S.PAID:
        return attrs.evolve(_cleared(entered), finalized_at=now)
    if status in {S.FAILED, S.CANCELED, S.RETURNED}:
        # Why it came to nothing stays; what went wrong on the way to its end is over.
        because = payout.lock_event_id is None or payout.last_error_code == _DECLINED
        return attrs.evolve(entered if because else _cleared(entered), failed_at=now)
    return entered


def _submitted(after: Payout) -> Audit:
    """Return the audit row of a payout's sending, whichever status it is found to have by then."""
    details = {
        "external_payout_id": after.external_payout_id,
        "connect_account_id": after.connect_account_id,
    }
    to_status = after.status if after.status is S.SUBMITTED else None
    return Audit("payout.submitted", after.idempotency_key, to_status, details)


def _entered(before: Payout, after: Payout, event: PayoutEvent) -> Audit:
    """Return the audit row of a new status, with the names and details of the contract."""
    details: dict[str, object] = {"from_status": str(before.status), "to_status": str(after.status)}
    if after.status.is_end:
        details = {"source": after.provider_source}
    if isinstance(event, _TELLS_CODE):
        details |= {"code": after.last_error_code}
    return Audit(f"payout.status.{after.status}", None, after.status, details)


def _late_failure(payout: Payout) -> News | None:
    """Return the news of a failure that came in while the payout was being finalised."""
    if payout.provider_status not in {ProviderStatus.CANCELED, ProviderStatus.FAILED}:
        return None
    sent = Sent(payout.external_payout_id or "", payout.transfer_id, payout.provider_status)
    return news(sent, payout.provider_source or "")
