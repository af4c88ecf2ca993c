"""A payout: where it stands, what is known of it, and what is to be done for it next.

What it may become is in ``payout_transitions``.
Source: payouts contract sections 3 and 5.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.instants import iso_instant
from clawsettle.domain.providers import PayoutOrder, ProviderStatus


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

_ENDS = frozenset({S.PAID, S.FAILED, S.CANCELED, S.RETURNED})


class PayoutStep(StrEnum):
    """What is to be done next for a payout: one effect outside, or one question.

    CANCEL is done only when an operator asks for it.
    """

    LOCK = "lock"
    SEND = "send"
    LOOK = "look"
    FINALIZE = "finalize"
    RECALL = "recall"
    ROLL_BACK = "roll_back"
    RETURN = "return"
    CANCEL = "cancel"


_STEPS: Mapping[PayoutStatus, PayoutStep] = {
    S.INITIATED: PayoutStep.LOCK,
    S.SENDING: PayoutStep.SEND,
    S.UNKNOWN: PayoutStep.LOOK,
    S.SUBMITTED: PayoutStep.LOOK,
    S.FINALIZING_PAID: PayoutStep.FINALIZE,
    S.FINALIZING_FAILED: PayoutStep.ROLL_BACK,
    S.FINALIZING_CANCELED: PayoutStep.ROLL_BACK,
    S.RETURNING: PayoutStep.RETURN,
}
# Nobody gets his amount back while it lies, or may lie, on his account at the provider.
_AFTER_RECALL = frozenset({PayoutStep.ROLL_BACK, PayoutStep.RETURN})


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
    recalled_at: datetime | None = None
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
            self.attempts,
        )

    def next_step(self) -> PayoutStep | None:
        """Return what is to be done; a send that may have been tried is looked for first.

        None when the payout has ended.
        """
        if self.status is S.SENDING and self.attempts > 1:
            return PayoutStep.LOOK
        step = _STEPS.get(self.status)
        if step in _AFTER_RECALL and self.recalled_at is None:
            return PayoutStep.RECALL
        return step

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
