"""What a payout may become, and what is to be done for it next.

``TRANSITIONS`` is the rule; the database's CHECK constraints are its second copy. The state of the
hold is part of it: the money is available until LOCK has been applied, held until FINALIZE or
ROLL_BACK, and in the clearing account from FINALIZE until RETURN. No step of the table leads from
one of these to another without the event of the ledger's transfer that moved it.

Everything here is pure. ``apply`` takes what came of a step, or what the provider said, and returns
the payout as it is afterwards with the audit rows of the change; both are stored in one commit.
Source: payouts contract sections 5 and 7; 11 (1, 2, 4 to 6, 9, 10).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import attrs
from attrs import frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.providers import (
    KEY_LIFETIME,
    Absent,
    Declined,
    PayoutOrder,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)

ERROR_MESSAGE_MAX = 500
_DECLINED = "STRIPE_TRANSFER_FAILED"


class PayoutStatus(StrEnum):
    """Where a payout stands; the values are the stored words."""

    INITIATED = "initiated"
    SENDING = "sending"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    FINALIZING_PAID = "finalizing_paid"
    PAID = "paid"
    FINALIZING_FAILED = "finalizing_failed"
    FAILED = "failed"
    FINALIZING_CANCELED = "finalizing_canceled"
    CANCELED = "canceled"
    RETURNING = "returning"
    RETURNED = "returned"

    @property
    def wire(self) -> "PayoutStatus":
        """Return which of the six words that callers know stands for it."""
        return _WIRE.get(self, self)

    @property
    def is_end(self) -> bool:
        """Return whether nothing is to be done any more, unless the provider has news."""
        return self in _ENDS


S = PayoutStatus
_WIRE: Mapping[PayoutStatus, PayoutStatus] = {
    S.SENDING: S.INITIATED,
    S.UNKNOWN: S.INITIATED,
    S.FINALIZING_CANCELED: S.FINALIZING_FAILED,
    S.RETURNING: S.FINALIZING_FAILED,
    S.CANCELED: S.FAILED,
    S.RETURNED: S.FAILED,
}
WIRE_STATUSES = tuple(status for status in S if status not in _WIRE)
"""The six words of the contract."""

_SENDABLE = frozenset({S.SENDING, S.UNKNOWN})
_ENDS = frozenset({S.PAID, S.FAILED, S.CANCELED, S.RETURNED})


class PayoutStep(StrEnum):
    """What is to be done next for a payout: one effect outside, or one question."""

    LOCK = "lock"
    SEND = "send"
    LOOK = "look"
    FINALIZE = "finalize"
    RECALL = "recall"
    ROLL_BACK = "roll_back"
    RETURN = "return"


@frozen
class LockApplied:
    """The ledger holds the amount, by this event."""

    ledger_event_id: str


@frozen
class LockRefused:
    """The ledger will not hold the amount, for good."""

    code: str
    message: str


@frozen
class SendAnswered:
    """The provider has the payout."""

    sent: Sent


@frozen
class SendDeclined:
    """The provider will not send it."""

    declined: Declined


@frozen
class SendUnanswered:
    """The provider may have sent it."""

    unanswered: Unanswered


@frozen
class NotFound:
    """The provider was asked and has not sent it: it may be sent."""

    absent: Absent


@frozen
class Withdrawn:
    """It was not sent, and is not to be."""

    absent: Absent
    source: str


@frozen
class ProviderPending:
    """The provider has it and has not paid it yet."""

    sent: Sent
    source: str


@frozen
class ProviderPaid:
    """The provider has paid it."""

    sent: Sent
    source: str


@frozen
class ProviderCanceled:
    """The provider has canceled it: it was not paid."""

    sent: Sent
    source: str


@frozen
class ProviderFailed:
    """It failed at the provider, perhaps after it was paid."""

    sent: Sent
    source: str


@frozen
class RecallDone:
    """What was transferred for it at the provider is back."""

    recalled: Recalled


@frozen
class Finalized:
    """The ledger has moved the held amount to the clearing account, by this event."""

    ledger_event_id: str


@frozen
class RolledBack:
    """The ledger has released the held amount, by this event."""

    ledger_event_id: str


@frozen
class Returned:
    """The ledger has moved the amount back from the clearing account, by this event."""

    ledger_event_id: str


@frozen
class StepFailed:
    """A step came to nothing for now; it is tried again."""

    code: str
    message: str


News = ProviderPending | ProviderPaid | ProviderCanceled | ProviderFailed
PayoutEvent = (
    LockApplied
    | LockRefused
    | SendAnswered
    | SendDeclined
    | SendUnanswered
    | NotFound
    | Withdrawn
    | News
    | RecallDone
    | Finalized
    | RolledBack
    | Returned
    | StepFailed
)

_NEWS: Mapping[ProviderStatus, type[News]] = {
    ProviderStatus.PENDING: ProviderPending,
    ProviderStatus.IN_TRANSIT: ProviderPending,
    ProviderStatus.PAID: ProviderPaid,
    ProviderStatus.CANCELED: ProviderCanceled,
    ProviderStatus.FAILED: ProviderFailed,
}


def news(sent: Sent, source: str) -> News:
    """Return the event of what the provider says of a payout; ``source`` says who told us."""
    return _NEWS[sent.status](sent, source)


Row = Mapping[type[object], PayoutStatus]
_SENT_ALREADY = (SendAnswered, SendUnanswered, ProviderPending)


def _stays(status: PayoutStatus, *events: type[object]) -> Row:
    return dict.fromkeys((*events, StepFailed), status)


_UNSENT: Row = {
    SendAnswered: S.SUBMITTED,
    SendDeclined: S.FINALIZING_FAILED,
    SendUnanswered: S.UNKNOWN,
    NotFound: S.SENDING,
    Withdrawn: S.FINALIZING_CANCELED,
    ProviderPending: S.SUBMITTED,
    ProviderPaid: S.FINALIZING_PAID,
    ProviderCanceled: S.FINALIZING_CANCELED,
    ProviderFailed: S.FINALIZING_FAILED,
}
_GIVEN_BACK = (*_SENT_ALREADY, ProviderPaid, ProviderCanceled, ProviderFailed)

TRANSITIONS: Mapping[PayoutStatus, Row] = {
    S.INITIATED: {LockApplied: S.SENDING, LockRefused: S.FAILED, StepFailed: S.INITIATED},
    S.SENDING: {**_UNSENT, StepFailed: S.SENDING},
    S.UNKNOWN: {**_UNSENT, StepFailed: S.UNKNOWN},
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
class Payout:
    """A payout as stored; amounts in minor units, instants UTC and cut to the millisecond.

    ``provider_status`` is the last word of the provider by rank, ``provider_source`` who brought
    it. ``attempts`` counts the claims since the status was entered. ``metadata`` is the caller's.
    """

    payout_id: str
    idempotency_key: str
    request_hash: str
    provider: str
    account_id: str
    account_did: str
    connect_account_id: str
    clearing_domain: str
    amount_minor: int
    currency: str
    metadata: Mapping[str, object] | None
    status: PayoutStatus
    keyed_at: datetime
    created_at: datetime
    updated_at: datetime
    status_at: datetime
    external_payout_id: str | None = None
    transfer_id: str | None = None
    reversal_id: str | None = None
    lock_event_id: str | None = None
    finalize_event_id: str | None = None
    rollback_event_id: str | None = None
    return_event_id: str | None = None
    provider_status: ProviderStatus | None = None
    provider_source: str | None = None
    last_error_code: str | None = None
    last_error_message: str | None = None
    submitted_at: datetime | None = None
    finalized_at: datetime | None = None
    failed_at: datetime | None = None
    attempts: int = 0
    due_at: datetime | None = None
    lease_token: int | None = None

    @property
    def lock_key(self) -> str:
        """Return the ledger's idempotency key of the lock."""
        return f"payout:lock:{self.payout_id}"

    @property
    def finalize_key(self) -> str:
        """Return the ledger's idempotency key of the finalisation."""
        return f"payout:finalize:{self.payout_id}"

    @property
    def rollback_key(self) -> str:
        """Return the ledger's idempotency key of the rollback."""
        return f"payout:rollback:{self.payout_id}"

    @property
    def return_key(self) -> str:
        """Return the ledger's idempotency key of the return after a late failure."""
        return f"payout:return:{self.payout_id}"

    @property
    def order(self) -> PayoutOrder:
        """Return what the provider is told."""
        return PayoutOrder(
            self.payout_id,
            self.account_id,
            self.connect_account_id,
            self.amount_minor,
            self.currency,
            self.keyed_at,
            self.external_payout_id,
            self.transfer_id,
            self.reversal_id,
            self.metadata,
        )

    def next_step(self) -> PayoutStep | None:
        """Return what is to be done; a send that may have been tried is looked for first.

        None when the payout has ended.
        """
        needs_recall = self.transfer_id is not None and self.reversal_id is None
        match self.status:
            case S.INITIATED:
                return PayoutStep.LOCK
            case S.SENDING:
                return PayoutStep.SEND if self.attempts <= 1 else PayoutStep.LOOK
            case S.UNKNOWN | S.SUBMITTED:
                return PayoutStep.LOOK
            case S.FINALIZING_PAID:
                return PayoutStep.FINALIZE
            case S.FINALIZING_FAILED | S.FINALIZING_CANCELED:
                return PayoutStep.RECALL if needs_recall else PayoutStep.ROLL_BACK
            case S.RETURNING:
                return PayoutStep.RECALL if needs_recall else PayoutStep.RETURN
            case _:
                return None

    def view(self) -> dict[str, object]:
        """Render the contract's payout JSON; absent fields are left out.

        After the contract's fields come ours: the stored status where it says more (``state``),
        and the ids that only we keep apart.
        """
        fields: dict[str, object] = {
            "id": self.payout_id,
            "idempotency_key": self.idempotency_key,
            "request_hash": self.request_hash,
            "provider": self.provider,
            "account_id": self.account_id,
            "account_did": self.account_did,
            "connect_account_id": self.connect_account_id,
            "external_payout_id": self.external_payout_id,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "status": str(self.status.wire),
            "lock_idempotency_key": self.lock_key,
            "lock_event_id": self.lock_event_id,
            "finalize_idempotency_key": self.finalize_key,
            "finalize_event_id": self.finalize_event_id,
            "rollback_idempotency_key": self.rollback_key,
            "rollback_event_id": self.rollback_event_id,
            "last_error_code": self.last_error_code,
            "last_error_message": self.last_error_message,
            "metadata": self.metadata,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "submitted_at": self.submitted_at and iso_instant(self.submitted_at),
            "finalized_at": self.finalized_at and iso_instant(self.finalized_at),
            "failed_at": self.failed_at and iso_instant(self.failed_at),
            "state": str(self.status) if self.status is not self.status.wire else None,
            "transfer_id": self.transfer_id,
            "reversal_id": self.reversal_id,
            "return_event_id": self.return_event_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


@frozen
class Audit:
    """A row of a payout's audit trail; ``key`` makes it one of a kind where there is one."""

    event_type: str
    key: str | None
    to_status: PayoutStatus | None
    details: Mapping[str, object]


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
    changed, audits = _record(payout, event, now)
    if status is not payout.status:
        changed = _enter(changed, status, now)
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
    """Return whether news cannot be true of a payout: it is paid, but was given back here.

    Its amount went back to its owner because the provider had refused it, or an operator had
    withdrawn it. Money may be out twice, so somebody has to look.
    """
    given_back = payout.status in {
        S.FINALIZING_FAILED,
        S.FAILED,
        S.FINALIZING_CANCELED,
        S.CANCELED,
    }
    return given_back and said is ProviderStatus.PAID and not is_overruled(payout, said)


def _record(payout: Payout, event: PayoutEvent, now: datetime) -> tuple[Payout, list[Audit]]:
    """Return the payout with what the event says of ids, errors and the provider's word."""
    match event:
        case StepFailed():
            message = event.message[:ERROR_MESSAGE_MAX]
            return _failing(payout, event.code, message), []
        case LockRefused():
            return _failing(payout, event.code, event.message), []
        case LockApplied(ledger_event_id):
            audit = Audit(
                "payout.lock.applied", payout.lock_key, None, {"lock_event_id": ledger_event_id}
            )
            locked = attrs.evolve(payout, lock_event_id=ledger_event_id, keyed_at=now)
            return _cleared(locked), [audit]
        case SendAnswered(sent):
            known = _known(payout, sent)
            return (_cleared(known) if payout.status in _SENDABLE else known), []
        case SendDeclined(declined):
            known = attrs.evolve(payout, transfer_id=payout.transfer_id or declined.transfer_id)
            return _failing(known, _DECLINED, _said(declined)), []
        case SendUnanswered(unanswered):
            if payout.status not in _SENDABLE:
                return payout, []
            known = attrs.evolve(payout, transfer_id=payout.transfer_id or unanswered.transfer_id)
            return _failing(known, "STRIPE_API_ERROR", unanswered.message), []
        case NotFound(absent):
            expired = now - payout.keyed_at >= KEY_LIFETIME
            return attrs.evolve(
                payout,
                transfer_id=payout.transfer_id or absent.transfer_id,
                keyed_at=now if expired else payout.keyed_at,
                attempts=0,
            ), []
        case Withdrawn(absent, source):
            return attrs.evolve(
                payout,
                transfer_id=payout.transfer_id or absent.transfer_id,
                reversal_id=payout.reversal_id or absent.reversal_id,
                provider_source=source,
            ), []
        case RecallDone(recalled):
            return _recalled(payout, recalled)
        case Finalized(ledger_event_id):
            return _moved(payout, "finalize", payout.finalize_key, ledger_event_id)
        case RolledBack(ledger_event_id):
            return _moved(payout, "rollback", payout.rollback_key, ledger_event_id)
        case Returned(ledger_event_id):
            return _moved(payout, "return", payout.return_key, ledger_event_id)
        case _:
            return _heard(payout, event), []


def _heard(payout: Payout, event: News) -> Payout:
    known = _known(payout, event.sent)
    if payout.provider_status is not None and payout.provider_status.rank >= event.sent.status.rank:
        return known
    return attrs.evolve(known, provider_status=event.sent.status, provider_source=event.source)


def _known(payout: Payout, sent: Sent) -> Payout:
    """Fill in the provider's ids; the first ones stay."""
    external_id = payout.external_payout_id or sent.external_payout_id
    transfer_id = payout.transfer_id or sent.transfer_id
    if (external_id, transfer_id) == (payout.external_payout_id, payout.transfer_id):
        return payout
    return attrs.evolve(payout, external_payout_id=external_id, transfer_id=transfer_id)


def _recalled(payout: Payout, recalled: Recalled) -> tuple[Payout, list[Audit]]:
    details = {"reversal_id": recalled.reversal_id, "transfer_id": payout.transfer_id}
    audit = Audit("payout.recall.applied", payout.order.recall_key, None, details)
    if recalled.reversal_id is None:  # there is no such transfer
        return attrs.evolve(payout, transfer_id=None, attempts=0), [audit]
    return attrs.evolve(payout, reversal_id=recalled.reversal_id, attempts=0), [audit]


def _moved(
    payout: Payout, stage: str, key: str, ledger_event_id: str
) -> tuple[Payout, list[Audit]]:
    audit = Audit(
        f"payout.{stage}.applied",
        key,
        None,
        {"event_id": ledger_event_id, "source": payout.provider_source},
    )
    moved: Payout = attrs.evolve(payout, **{f"{stage}_event_id": ledger_event_id})
    return moved, [audit]


def _failing(payout: Payout, code: str, message: str) -> Payout:
    return attrs.evolve(
        payout, last_error_code=code, last_error_message=message[:ERROR_MESSAGE_MAX]
    )


def _cleared(payout: Payout) -> Payout:
    if payout.last_error_code is None:
        return payout
    return attrs.evolve(payout, last_error_code=None, last_error_message=None)


def _said(declined: Declined) -> str:
    status = "" if declined.http_status is None else f" ({declined.http_status})"
    return f"the provider refused: {declined.code}{status}"


_TELLS_CODE = (LockRefused, SendDeclined, SendUnanswered)


def _enter(payout: Payout, status: PayoutStatus, now: datetime) -> Payout:
    entered = attrs.evolve(payout, status=status, status_at=now, attempts=0)
    if status is S.SUBMITTED or (status is S.FINALIZING_PAID and payout.submitted_at is None):
        entered = attrs.evolve(entered, submitted_at=now)
    if status is S.PAID:
        return attrs.evolve(_cleared(entered), finalized_at=now)
    if status in {S.FAILED, S.CANCELED, S.RETURNED}:
        # Why it came to nothing stays; what went wrong on the way to its end is over.
        because = payout.lock_event_id is None or payout.last_error_code == _DECLINED
        return attrs.evolve(entered if because else _cleared(entered), failed_at=now)
    return entered


def _entered(before: Payout, after: Payout, event: PayoutEvent) -> Audit:
    """Return the audit row of a new status, with the names and details of the contract."""
    if after.status is S.SUBMITTED:
        return Audit(
            "payout.submitted",
            after.idempotency_key,
            after.status,
            {
                "external_payout_id": after.external_payout_id,
                "connect_account_id": after.connect_account_id,
            },
        )
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
