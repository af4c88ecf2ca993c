"""What each target is sent: the path below its base URL, the idempotency key and the body.

All of it follows from what is stored of the event, so every repeat is the same request.
Source: loss-events contract section 5; 10 (6, 11).
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from clawsettle.domain.instants import iso_instant
from clawsettle.domain.loss_events import (
    LossEvent,
    Operation,
    Target,
    bounty_of,
    escrow_of,
)

Body = dict[str, Any]


@frozen
class Call:
    """One request to a target; the key goes into its header, too."""

    target: Target
    path: str
    key: str
    body: Mapping[str, Any]


def delivery_key(event_id: str, operation: Operation, target: Target) -> str:
    """Return the idempotency key of a delivery."""
    if operation is Operation.APPLY:
        return f"loss-event:{event_id}:{target}"
    return f"loss-event:resolve:{event_id}:{target}"


def logged_key(event_id: str, operation: Operation, target: Target) -> str:
    """Return what a delivery is called in the delivery log, which is not the key on the wire.

    Source: disputes-ops contract section 10.
    """
    prefix = "loss-event" if operation is Operation.APPLY else "loss-resolve"
    return f"{prefix}:{event_id}:{target}"


def path_of(operation: Operation, target: Target, escrow_id: str | None) -> str:
    """Return where a delivery is sent, below the target's base URL."""
    if escrow_id is not None:
        return f"/v1/escrows/{quote(escrow_id, safe='')}/risk-hold"
    return _PATHS[operation, target]


def call_of(
    event: LossEvent, operation: Operation, target: Target, reason: str | None = None
) -> Call:
    """Return the request of a delivery; ``reason`` is the resolution's."""
    key = delivery_key(event.loss_event_id, operation, target)
    body: Body = {"idempotency_key": key, "source_loss_event_id": event.loss_event_id}
    if operation is Operation.APPLY:
        body |= _APPLY[target](event)
    else:
        body |= _RESOLVE[target](event, reason or f"loss_event_resolved:{event.reason_code}")
    escrow_id = escrow_of(event.metadata) if target is Target.ESCROW else None
    return Call(target, path_of(operation, target, escrow_id), key, body)


def _hold(event: LossEvent) -> Body:
    return {
        "account": event.account_did,
        "amount_minor": str(event.amount_minor),
        "currency": event.currency,
        "reason": event.reason_code,
        "metadata": {
            "source_service": event.source_service,
            "source_event_id": event.source_event_id,
            "severity": str(event.severity),
            "account_did": event.account_did,
            "upstream": event.metadata,
        },
    }


def _escrow_hold(event: LossEvent) -> Body:
    return {
        "action": "apply",
        "reason": event.reason_code,
        "metadata": {
            "source_service": event.source_service,
            "source_event_id": event.source_event_id,
            "severity": str(event.severity),
            "amount_minor": str(event.amount_minor),
            "account_id": event.account_id,
            "account_did": event.account_did,
            "upstream": event.metadata,
        },
    }


def _claim(event: LossEvent) -> Body:
    return {
        "source_service": event.source_service,
        "source_event_id": event.source_event_id,
        "account_id": event.account_id or event.account_did,
        "account_did": event.account_did,
        "amount_minor": str(event.amount_minor),
        "currency": event.currency,
        "reason_code": event.reason_code,
        "severity": str(event.severity),
        "occurred_at": iso_instant(event.occurred_at),
        "metadata": event.metadata,
    }


def _debit(event: LossEvent) -> Body:
    return {**_claim(event), "direction": "debit"}


def _credit(event: LossEvent, reason: str) -> Body:
    return {**_claim(event), "direction": "credit", "reason": reason}


def _bounty(event: LossEvent) -> Body:
    return {
        "source_service": event.source_service,
        "source_event_id": event.source_event_id,
        "bounty_id": bounty_of(event.metadata),
        "account_did": event.account_did,
        "amount_minor": str(event.amount_minor),
        "currency": event.currency,
        "reason_code": event.reason_code,
        "severity": str(event.severity),
        "metadata": event.metadata,
    }


def _cleared_bounty(event: LossEvent, reason: str) -> Body:
    bounty_id = bounty_of(event.metadata)
    return {"bounty_id": bounty_id, "reason": reason, "metadata": event.metadata}


_PATHS = {
    (Operation.APPLY, Target.LEDGER): "/v1/risk/holds/apply",
    (Operation.APPLY, Target.CLAWINSURE): "/v1/claims/auto",
    (Operation.APPLY, Target.CLAWINCOME): "/v1/risk/adjustments",
    (Operation.APPLY, Target.CLAWBOUNTIES): "/v1/risk/loss-events",
    (Operation.RESOLVE, Target.LEDGER): "/v1/risk/holds/release-by-source",
    (Operation.RESOLVE, Target.CLAWINCOME): "/v1/risk/adjustments",
    (Operation.RESOLVE, Target.CLAWBOUNTIES): "/v1/risk/loss-events/clear",
}
_APPLY: Mapping[Target, Callable[[LossEvent], Body]] = {
    Target.LEDGER: _hold,
    Target.ESCROW: _escrow_hold,
    Target.CLAWINSURE: _claim,
    Target.CLAWINCOME: _debit,
    Target.CLAWBOUNTIES: _bounty,
}
_RESOLVE: Mapping[Target, Callable[[LossEvent, str], Body]] = {
    Target.LEDGER: lambda _event, reason: {"reason": reason},
    Target.ESCROW: lambda _event, reason: {"action": "release", "reason": reason},
    Target.CLAWINCOME: _credit,
    Target.CLAWBOUNTIES: _cleared_bounty,
}
