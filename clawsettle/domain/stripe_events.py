"""From a verified Stripe event to what the ledger is told: envelope, livemode, mapping.

Everything here is decided before anything is stored, and nothing here needs a clock.
Source: webhook-forwarding contract sections 5 to 7 and 14 (W7, W12, W20, W22).
"""

import re
from collections.abc import Collection, Mapping

from attrs import frozen

from clawsettle.domain.errors import CallerError
from clawsettle.domain.instants import iso_from_unix
from clawsettle.domain.money import MINOR_MAX, currency_code, minor_from_json

STRIPE_API_VERSION = "2026-10-28.endive"
"""The version of Stripe's API that is asked for, and that its sandbox speaks."""

ID_MAX = 255
"""Characters in an event id, event type or account id."""

OBJECT_ID_MAX = 230
"""Characters in an object's id, which must leave room for a refund's ``:<total>``."""

_EVENT_ID = re.compile(r"[!-~]+\Z")


class EventUnmappable(CallerError):
    """A signed event of a type we forward lacks what the ledger needs; names the field."""

    code = "INVALID_EVENT_PAYLOAD"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, details={"field": field})


class LivemodeMismatch(CallerError):
    """A test event in production, a live event in staging, or an event that does not say."""

    code = "LIVEMODE_MISMATCH"


@frozen
class StripeEvent:
    """The parts of an event's envelope that matter; ``created`` is Unix seconds as sent.

    ``account`` is the connected account that it is of; None for the platform's own.
    """

    event_id: str
    event_type: str
    created: object
    livemode: bool | None
    object: Mapping[str, object]
    account: str | None = None

    @property
    def idempotency_key(self) -> str:
        """The key the ledger sees for this event."""
        return idempotency_key(self.event_id)


@frozen
class RefundTotal:
    """What ``charge.refunded`` really says: how much of a charge is refunded in all, so far."""

    charge_id: str
    payment_intent_id: str | None
    total_minor: int


@frozen
class Mapped:
    """A settlement for the ledger, as the contract's payload; ``refund`` when it is cumulative."""

    payload: Mapping[str, object]
    refund: RefundTotal | None


@frozen
class _Rule:
    direction: str
    status: str
    amount_fields: tuple[str, ...]


_RULES: Mapping[str, _Rule] = {
    "payment_intent.succeeded": _Rule("payin", "confirmed", ("amount_received", "amount")),
    "payment_intent.payment_failed": _Rule("payin", "failed", ("amount",)),
    "payment_intent.canceled": _Rule("payin", "failed", ("amount",)),
    "charge.refunded": _Rule("refund", "confirmed", ("amount_refunded", "amount")),
    "payout.paid": _Rule("payout", "confirmed", ("amount",)),
    "payout.failed": _Rule("payout", "failed", ("amount",)),
}

FORWARDED_TYPES = tuple(_RULES)
"""The event types that become settlements; every other type is recorded and ignored."""


def idempotency_key(event_id: str) -> str:
    """Return the ledger's idempotency key for a Stripe event id."""
    return f"stripe:event:{event_id}"


def parse_event(document: object) -> StripeEvent:
    """Read an event's envelope from parsed JSON; ids are trimmed.

    Raises: CallerError INVALID_REQUEST, without details, at the first thing that is missing.
    """
    if not isinstance(document, dict):
        raise CallerError("the event is not a JSON object")
    event_id = short_text(document.get("id"))
    # It becomes an idempotency key, which travels in a header.
    if event_id is None or not _EVENT_ID.match(event_id):
        raise CallerError("the event has no usable id")
    event_type = short_text(document.get("type"))
    if event_type is None:
        raise CallerError("the event has no usable type")
    data = document.get("data")
    if not isinstance(data, dict):
        raise CallerError("the event has no data object")
    subject = data.get("object")
    if not isinstance(subject, dict):
        raise CallerError("the event has no data.object object")
    livemode = document.get("livemode")
    return StripeEvent(
        event_id,
        event_type,
        document.get("created"),
        livemode if isinstance(livemode, bool) else None,
        subject,
        short_text(document.get("account")),
    )


def check_livemode(event: StripeEvent, *, environment: str, allow_testmode: bool) -> None:
    """Return when the event's mode belongs to this environment (``staging``, ``production``).

    Raises: LivemodeMismatch with the details of the contract.
    """
    expected = environment == "production"
    details: dict[str, object] = {
        "settle_env": environment,
        "expected_livemode": expected,
        "event_livemode": event.livemode,
    }
    if event.livemode is None:
        details["reason"] = "missing_livemode"
    elif event.livemode == expected or (expected and allow_testmode):
        return
    elif expected:
        details["allow_testmode_in_prod"] = False
    raise LivemodeMismatch("the event's livemode does not belong here", details=details)


def map_event(event: StripeEvent, *, currencies: Collection[str]) -> Mapped | None:
    """Return the settlement an event stands for; None for a type that is not forwarded.

    Amounts become canonical decimal text of minor units, 1 to 2**63-1. A ``currencies`` list
    bounds what is taken, because a ledger of one currency must not be sent another. A refund names
    the payin it gives back in ``refund_of``, which is for the embedded ledger.

    Raises: EventUnmappable naming the first bad field, in the order id, amount, currency, account.
    """
    rule = _RULES.get(event.event_type)
    if rule is None:
        return None
    subject = event.object
    external_id = short_text(subject.get("id"), OBJECT_ID_MAX)
    if external_id is None:
        raise EventUnmappable("data.object.id", "the object has no usable id")
    amount_minor = _amount(subject, rule.amount_fields)
    currency = currency_code(subject.get("currency"))
    if currency is None or currency not in currencies:
        raise EventUnmappable("data.object.currency", "the currency is not one that is taken here")
    metadata = subject.get("metadata")
    account_id = short_text(metadata.get("account_id")) if isinstance(metadata, dict) else None
    if account_id is None:
        raise EventUnmappable("data.object.metadata.account_id", "the object names no account")
    payload: dict[str, object | None] = {
        "provider": "stripe",
        "external_payment_id": external_id,
        "direction": rule.direction,
        "status": rule.status,
        "account_id": account_id,
        "amount_minor": str(amount_minor),
        "currency": currency,
        "network": "stripe",
        "rail": _rail(subject),
        "provider_created_at": iso_from_unix(subject.get("created")),
        "provider_updated_at": iso_from_unix(event.created),
        "settled_at": iso_from_unix(event.created) if rule.status == "confirmed" else None,
        "metadata": {
            "stripe_event_id": event.event_id,
            "stripe_event_type": event.event_type,
            "stripe_object_id": external_id,
        },
    }
    refund = None
    if rule.direction == "refund":
        payment_intent = short_text(subject.get("payment_intent"))
        refund = RefundTotal(external_id, payment_intent, amount_minor)
        payload["refund_of"] = payment_intent
    return Mapped({k: v for k, v in payload.items() if v is not None}, refund)


def refund_since(mapped: Mapped, *, recorded_minor: int) -> Mapping[str, object] | None:
    """Return the payload for the part of a cumulative refund that is not recorded yet.

    The first refund of a charge keeps the charge's id; a later one is a settlement of its own
    under ``<charge>:<total>``, which no other refund of the charge can share because totals
    only grow. None when ``recorded_minor`` already covers the total (an older event, late):
    whatever the order of arrival, the parts add up to the largest total seen.
    """
    refund = mapped.refund
    if refund is None or refund.total_minor <= recorded_minor:
        return None
    if recorded_minor == 0:
        return mapped.payload
    return {
        **mapped.payload,
        "external_payment_id": f"{refund.charge_id}:{refund.total_minor}",
        "amount_minor": str(refund.total_minor - recorded_minor),
    }


def _amount(subject: Mapping[str, object], fields: tuple[str, ...]) -> int:
    """Read the first field that is present; a cumulative refund may not exceed its charge."""
    named = f"data.object.{fields[0]}"
    value = next((subject[f] for f in fields if subject.get(f) is not None), None)
    minor = minor_from_json(value)
    if minor is None:
        raise EventUnmappable(named, f"the amount is not a whole number from 1 to {MINOR_MAX}")
    charged = minor_from_json(subject.get("amount"))
    if fields[0] == "amount_refunded" and charged is not None and minor > charged:
        raise EventUnmappable(named, "the refund exceeds the charge")
    return minor


def _rail(subject: Mapping[str, object]) -> str | None:
    types = subject.get("payment_method_types")
    first = types[0] if isinstance(types, list) and types else None
    return short_text(first) or short_text(subject.get("method"))


def short_text(value: object, most: int = ID_MAX) -> str | None:
    """Trim a text; None unless something is left and it is no longer than ``most``."""
    if not isinstance(value, str):
        return None
    trimmed = value.strip()
    return trimmed if 0 < len(trimmed) <= most else None
