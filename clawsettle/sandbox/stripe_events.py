"""Stripe events as Stripe sends them, made here: for ``clawsettle send`` and for tests."""

from collections.abc import Callable, Mapping

from attrs import frozen

from clawsettle.domain.stripe_signature import sign
from clawsettle.sandbox.stripe_objects import (
    event_object,
    payout_object,
    payout_standing,
    stripe_id,
)


@frozen
class EventPlan:
    """What an event is to say; amounts in minor units, ``created_s`` in Unix seconds."""

    event_type: str
    account_id: str
    amount_minor: int
    currency: str
    livemode: bool
    created_s: int
    event_id: str
    object_id: str


def object_prefix(event_type: str) -> str:
    """Return the id prefix of the objects that events of this type are about."""
    return _PREFIX.get(event_type.rpartition(".")[0], "obj")


def stripe_event(plan: EventPlan) -> dict[str, object]:
    """Return an event with the envelope and the object Stripe would send for ``plan``."""
    kind = event_kind(plan.event_type)
    build = _OBJECTS.get(kind, _other)
    refunded = plan.event_type == "charge.refunded"
    return event_object(
        plan.event_type,
        build(plan),
        event_id=plan.event_id,
        created_s=plan.created_s,
        livemode=plan.livemode,
        previous={"amount_refunded": 0, "refunded": False} if refunded else None,
    )


def event_kind(event_type: str) -> str:
    """Return what an event type is about: ``payment_intent`` for ``payment_intent.succeeded``."""
    return event_type.rpartition(".")[0]


def signature_header(body: bytes, *, secret: str, timestamp_s: int) -> str:
    """Return the ``Stripe-Signature`` header of a delivery."""
    return f"t={timestamp_s},v1={sign(body, timestamp_s=timestamp_s, secret=secret)}"


def _payment_intent(plan: EventPlan) -> dict[str, object]:
    succeeded = plan.event_type == "payment_intent.succeeded"
    return {
        "id": plan.object_id,
        "object": "payment_intent",
        "amount": plan.amount_minor,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": plan.amount_minor if succeeded else 0,
        "application": None,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "capture_method": "automatic_async",
        "client_secret": f"{plan.object_id}_secret_{stripe_id('s')}",
        "confirmation_method": "automatic",
        "created": plan.created_s - 60,
        "currency": plan.currency.lower(),
        "customer": stripe_id("cus"),
        "description": "Order placed on the platform",
        "last_payment_error": None
        if succeeded
        else {"code": "card_declined", "decline_code": "insufficient_funds", "type": "card_error"},
        "latest_charge": stripe_id("ch"),
        "livemode": plan.livemode,
        "metadata": {"account_id": plan.account_id},
        "payment_method": stripe_id("pm"),
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card", "link"],
        "receipt_email": None,
        "shipping": None,
        "statement_descriptor": None,
        "status": "succeeded" if succeeded else "requires_payment_method",
        "transfer_group": None,
    }


def _charge(plan: EventPlan) -> dict[str, object]:
    return {
        "id": plan.object_id,
        "object": "charge",
        "amount": plan.amount_minor,
        "amount_captured": plan.amount_minor,
        "amount_refunded": plan.amount_minor,
        "balance_transaction": stripe_id("txn"),
        "captured": True,
        "created": plan.created_s - 3600,
        "currency": plan.currency.lower(),
        "livemode": plan.livemode,
        "metadata": {"account_id": plan.account_id},
        "outcome": {"network_status": "approved_by_network", "type": "authorized"},
        "paid": True,
        "payment_intent": stripe_id("pi"),
        "payment_method_details": {"card": {"brand": "visa", "last4": "4242"}, "type": "card"},
        "refunded": True,
        "status": "succeeded",
    }


def _payout(plan: EventPlan) -> dict[str, object]:
    payout = payout_object(
        plan.object_id,
        amount_minor=plan.amount_minor,
        currency=plan.currency.lower(),
        destination=stripe_id("ba"),
        created_s=plan.created_s - 3600,
        livemode=plan.livemode,
        metadata={"account_id": plan.account_id},
    )
    status = plan.event_type.rpartition(".")[2]
    return {**payout, **payout_standing(_PAYOUT_STATUS.get(status, status))}


def _dispute(plan: EventPlan) -> dict[str, object]:
    return {
        "id": plan.object_id,
        "object": "dispute",
        "amount": plan.amount_minor,
        "charge": stripe_id("ch"),
        "created": plan.created_s,
        "currency": plan.currency.lower(),
        "evidence_details": {"due_by": plan.created_s + 7 * 86_400, "submission_count": 0},
        "livemode": plan.livemode,
        "metadata": {"account_id": plan.account_id},
        "reason": "fraudulent",
        "status": "needs_response",
    }


def _other(plan: EventPlan) -> dict[str, object]:
    return {
        "id": plan.object_id,
        "object": event_kind(plan.event_type) or "object",
        "created": plan.created_s,
        "livemode": plan.livemode,
        "metadata": {"account_id": plan.account_id},
    }


_PAYOUT_STATUS = {"created": "pending", "updated": "in_transit"}
_PREFIX: Mapping[str, str] = {
    "payment_intent": "pi",
    "charge": "ch",
    "payout": "po",
    "charge.dispute": "du",
}
_OBJECTS: Mapping[str, Callable[[EventPlan], dict[str, object]]] = {
    "payment_intent": _payment_intent,
    "charge": _charge,
    "payout": _payout,
    "charge.dispute": _dispute,
}
