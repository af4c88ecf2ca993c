"""What a ledger settlement may become, and which money event each step writes.

``TRANSITIONS`` is the rule; the database's CHECK and unique constraints are its second copy.
Money follows facts, not words: a step that would undo money that never moved writes nothing.
Source: ledger-api contract sections 4 and 13 (L6, L8), webhook-forwarding section 14 (W6, W8).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError
from clawsettle.domain.fields import (
    KEY_MAX,
    amount,
    body_object,
    one_of,
    optional_object,
    optional_text,
    refuse_unstorable,
    required_text,
)
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.journal import EventType
from clawsettle.domain.money import currency_code


class Direction(StrEnum):
    """Which way a settlement goes, seen from the platform."""

    PAYIN = "payin"
    REFUND = "refund"
    PAYOUT = "payout"


class Status(StrEnum):
    """Where a settlement stands; the values are the stored words."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REVERSED = "reversed"


@frozen
class Step:
    """One allowed step: the status it leads to and the money event it writes, if any."""

    to: Status
    event: EventType | None = None


def _first_steps(confirmed: EventType) -> Mapping[Status, Step]:
    return {
        Status.PENDING: Step(Status.PENDING),
        Status.CONFIRMED: Step(Status.CONFIRMED, confirmed),
        Status.FAILED: Step(Status.FAILED),
        Status.REVERSED: Step(Status.REVERSED),
    }


TRANSITIONS: Mapping[Direction, Mapping[Status | None, Mapping[Status, Step]]] = {
    Direction.PAYIN: {
        None: _first_steps(EventType.PAYIN_SETTLE),
        Status.PENDING: _first_steps(EventType.PAYIN_SETTLE),
        Status.CONFIRMED: {Status.REVERSED: Step(Status.REVERSED, EventType.PAYIN_REVERSE)},
        # A provider's failed payment can still succeed, and it has moved no money: success wins.
        Status.FAILED: {Status.CONFIRMED: Step(Status.CONFIRMED, EventType.PAYIN_SETTLE)},
        Status.REVERSED: {},
    },
    Direction.REFUND: {
        None: _first_steps(EventType.PAYIN_REVERSE),
        Status.PENDING: _first_steps(EventType.PAYIN_REVERSE),
        Status.CONFIRMED: {Status.REVERSED: Step(Status.REVERSED, EventType.REFUND_REVERSE)},
        Status.FAILED: {},
        Status.REVERSED: {},
    },
    Direction.PAYOUT: {
        None: _first_steps(EventType.PAYOUT_SETTLE),
        Status.PENDING: _first_steps(EventType.PAYOUT_SETTLE),
        # A bank may return a payout that was paid: that is a reversal, whatever it is called.
        Status.CONFIRMED: {
            Status.REVERSED: Step(Status.REVERSED, EventType.PAYOUT_REVERSE),
            Status.FAILED: Step(Status.REVERSED, EventType.PAYOUT_REVERSE),
        },
        Status.FAILED: {},
        Status.REVERSED: {Status.FAILED: Step(Status.REVERSED)},
    },
}
"""direction -> current status (None: not recorded yet) -> requested status -> step.

The same status again is always allowed and changes nothing; what is not listed is refused.
"""


NaturalKey = tuple[str, str, str]
"""Provider, external payment id, direction: what makes a settlement one of a kind."""


@frozen
class Settlement:
    """A settlement as recorded; ``latest_event_id`` names its last money event.

    ``refund_of`` is the ``external_payment_id`` of the payin that a refund gives back.
    """

    settlement_id: str
    provider: str
    external_payment_id: str
    direction: Direction
    status: Status
    account_id: str
    amount_minor: int
    currency: str
    network: str | None
    rail: str | None
    metadata: Mapping[str, object] | None
    provider_created_at: str | None
    provider_updated_at: str | None
    settled_at: str | None
    refund_of: str | None
    latest_event_id: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def natural_key(self) -> NaturalKey:
        """Return what makes a settlement one of a kind."""
        return (self.provider, self.external_payment_id, self.direction)

    def view(self) -> dict[str, object]:
        """Render the contract's settlement JSON; absent fields are left out."""
        fields = {
            "id": self.settlement_id,
            "provider": self.provider,
            "external_payment_id": self.external_payment_id,
            "direction": str(self.direction),
            "status": str(self.status),
            "account_id": self.account_id,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "network": self.network,
            "rail": self.rail,
            "metadata": self.metadata,
            "provider_created_at": self.provider_created_at,
            "provider_updated_at": self.provider_updated_at,
            "settled_at": self.settled_at,
            "refund_of": self.refund_of,
            "latest_event_id": self.latest_event_id,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
        }
        return {name: value for name, value in fields.items() if value is not None}


@frozen
class IngestRequest:
    """A validated, normalised request to record a settlement; amounts in minor units."""

    key: str
    provider: str
    external_payment_id: str
    direction: Direction
    status: Status
    account_id: str
    amount_minor: int
    currency: str
    metadata: Mapping[str, object] | None
    network: str | None
    rail: str | None
    provider_created_at: str | None
    provider_updated_at: str | None
    settled_at: str | None
    refund_of: str | None
    request_hash: str

    @property
    def natural_key(self) -> NaturalKey:
        """Return what makes a settlement one of a kind."""
        return (self.provider, self.external_payment_id, self.direction)


_OPTIONAL = (
    "network",
    "rail",
    "provider_created_at",
    "provider_updated_at",
    "settled_at",
    "refund_of",
)


def parse_key(value: str | None) -> str:
    """Return the trimmed idempotency key.

    Raises: CallerError MISSING_IDEMPOTENCY_KEY when blank, INVALID_REQUEST beyond KEY_MAX.
    """
    key = (value or "").strip()
    if not key:
        raise CallerError("an idempotency key is required", code="MISSING_IDEMPOTENCY_KEY")
    if len(key) > KEY_MAX:
        raise CallerError(f"an idempotency key has at most {KEY_MAX} characters")
    return key


def parse_ingest(key: str, body: object) -> IngestRequest:
    """Validate and normalise an ingest body in the contract's field order.

    Amounts are made canonical first, so ``01000`` and ``1000`` are the same request. The optional
    ``refund_of`` is ours: the payin a refund gives back, by its ``external_payment_id``.

    Raises: CallerError INVALID_REQUEST at the first bad field, and for what no database keeps.
    """
    body = body_object(body)
    fields: dict[str, object] = {
        "provider": required_text(body, "provider"),
        "external_payment_id": required_text(body, "external_payment_id"),
        "direction": one_of(body, "direction", Direction),
        "status": one_of(body, "status", Status),
        "account_id": required_text(body, "account_id"),
    }
    amount_minor = amount(body)
    currency = currency_code(body.get("currency"))
    if currency is None:
        raise CallerError("currency must be three letters")
    metadata = optional_object(body, "metadata")
    fields |= {"amount_minor": str(amount_minor), "currency": currency, "metadata": metadata}
    for name in _OPTIONAL:
        fields[name] = optional_text(body, name)
    if fields["refund_of"] is not None and fields["direction"] is not Direction.REFUND:
        raise CallerError("refund_of belongs to a refund")
    present = {name: value for name, value in fields.items() if value is not None}
    text = canonical_json(present)
    refuse_unstorable(present, text)
    return IngestRequest(
        key=key,
        request_hash=sha256_hex(text),
        **{**fields, "amount_minor": amount_minor},  # type: ignore[arg-type]
    )
