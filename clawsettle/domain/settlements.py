"""What a ledger settlement may become, and which money event each step writes.

``TRANSITIONS`` is the rule; the database's CHECK and unique constraints are its second copy.
Money follows facts, not words: a step that would undo money that never moved writes nothing.
Source: ledger-api contract sections 4 and 13 (L6, L8), webhook-forwarding section 14 (W6, W8).
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError
from clawsettle.domain.money import currency_code, minor_from_digits

TEXT_MAX = 255
KEY_MAX = 512
DEPTH_MAX = 100
_SURROGATE = re.compile("[\ud800-\udfff]")


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


class EventType(StrEnum):
    """The money events a settlement can write, each at most once."""

    PAYIN_SETTLE = "payin_settle"
    PAYIN_REVERSE = "payin_reverse"
    REFUND_REVERSE = "refund_reverse"
    PAYOUT_SETTLE = "payout_settle"
    PAYOUT_REVERSE = "payout_reverse"


ACCOUNT_EFFECT: Mapping[EventType, int] = {
    EventType.PAYIN_SETTLE: 1,
    EventType.PAYIN_REVERSE: -1,
    EventType.REFUND_REVERSE: 1,
    EventType.PAYOUT_SETTLE: 0,
    EventType.PAYOUT_REVERSE: 0,
}
"""The sign of an event's posting to the account's available bucket; 0 is a memo."""


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
    request_hash: str

    @property
    def natural_key(self) -> tuple[str, str, str]:
        """Return what makes a settlement one of a kind."""
        return (self.provider, self.external_payment_id, self.direction)


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

    Amounts are made canonical first, so ``01000`` and ``1000`` are the same request.

    Raises: CallerError INVALID_REQUEST at the first bad field, and for what no database keeps.
    """
    if not isinstance(body, dict):
        raise CallerError("the body is not a JSON object")
    fields: dict[str, object] = {
        "provider": _required(body, "provider"),
        "external_payment_id": _required(body, "external_payment_id"),
        "direction": _one_of(body, "direction", Direction),
        "status": _one_of(body, "status", Status),
        "account_id": _required(body, "account_id"),
    }
    amount = body.get("amount_minor")
    amount_minor = minor_from_digits(amount.strip()) if isinstance(amount, str) else None
    if amount_minor is None:
        raise CallerError("amount_minor must be a digit string from 1 to 2**63-1")
    currency = currency_code(body.get("currency"))
    if currency is None:
        raise CallerError("currency must be three letters")
    metadata = body.get("metadata")
    if "metadata" in body and not isinstance(metadata, dict):
        raise CallerError("metadata must be an object")
    fields |= {"amount_minor": str(amount_minor), "currency": currency, "metadata": metadata}
    for name in ("network", "rail", "provider_created_at", "provider_updated_at", "settled_at"):
        fields[name] = _optional(body, name)
    present = {name: value for name, value in fields.items() if value is not None}
    text = canonical_json(present)
    if _is_suspect(text) and not _is_storable(present):
        raise CallerError("no U+0000, no lone surrogates, no NaN, no nesting beyond 100 levels")
    return IngestRequest(
        key=key,
        request_hash=sha256_hex(text),
        **{**fields, "amount_minor": amount_minor},  # type: ignore[arg-type]
    )


def _is_suspect(text: str) -> bool:
    """Whether JSON text could hold what is not storable; the walk that tells is for the few."""
    return (
        not text.isascii()
        or any(word in text for word in ("\\u0000", "NaN", "Infinity"))
        or text.count("[") + text.count("{") > DEPTH_MAX
    )


def _is_storable(value: object) -> bool:
    """Whether PostgreSQL keeps it: the port's JSON reader lets nothing else in, a caller might."""
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        if not all(map(_is_storable_alone, level)):
            return False
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return True
        level = [child for container in containers for child in _children(container)]
    return False


def _is_storable_alone(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not _SURROGATE.search(value)
    return not isinstance(value, float) or isfinite(value)


def _children(container: dict[str, object] | list[object]) -> list[object]:
    return [*container, *container.values()] if isinstance(container, dict) else container


def _required(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    trimmed = value.strip() if isinstance(value, str) else ""
    if not 0 < len(trimmed) <= TEXT_MAX:
        raise CallerError(f"{name} must be a text of 1 to {TEXT_MAX} characters")
    return trimmed


def _optional(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    trimmed = value.strip() if isinstance(value, str) else ""
    if len(trimmed) > TEXT_MAX:
        raise CallerError(f"{name} has at most {TEXT_MAX} characters")
    return trimmed or None


def _one_of(
    body: Mapping[str, object], name: str, words: type[Direction] | type[Status]
) -> Direction | Status:
    value = body.get(name)
    if not isinstance(value, str) or value not in list(words):
        raise CallerError(f"{name} must be one of {', '.join(words)}")
    return words(value)
