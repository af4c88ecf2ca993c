"""A loss event and its deliveries for tests of their rules."""

from datetime import UTC, datetime
from typing import Any

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    LossStatus,
    Operation,
    Severity,
    Target,
    delivery_id,
)

AT = datetime(2026, 2, 12, tzinfo=UTC)
EVENT_ID = "lse_821110027e02533693ac2f5e"


def loss_event(metadata: dict[str, object] | None = None, **changes: Any) -> LossEvent:
    fields: dict[str, Any] = {
        "loss_event_id": EVENT_ID,
        "idempotency_key": "k1",
        "request_hash": "",
        "source_service": "stripe",
        "source_event_id": "evt_1",
        "account_did": "did:key:zA",
        "account_id": "acc_1",
        "amount_minor": 250,
        "currency": "USD",
        "reason_code": "chargeback",
        "severity": Severity.HIGH,
        "occurred_at": AT,
        "metadata_json": compact_json(metadata or {}),
        "status": LossStatus.RECORDED,
        "target_count": 3,
        "forwarded_count": 0,
        "failed_count": 0,
        "created_at": AT,
        "updated_at": AT,
    }
    return LossEvent(**{**fields, **changes})


def delivery(
    target: Target = Target.LEDGER,
    state: DeliveryState = DeliveryState.PENDING,
    operation: Operation = Operation.APPLY,
    *,
    event_id: str = EVENT_ID,
    **changes: Any,
) -> Delivery:
    """A delivery as storage keeps one in that state, so far as the database's constraints go."""
    fields: dict[str, Any] = {
        "loss_event_id": event_id,
        "operation": operation,
        "target": target,
        "delivery_id": delivery_id(event_id, operation, target),
        "escrow_id": "esc_1" if target is Target.ESCROW else None,
        "state": state,
        "attempts": 0,
        "opened_at": AT,
        "created_at": AT,
        "updated_at": AT,
        "due_at": AT if state.is_open else None,
        "forwarded_at": AT if state is DeliveryState.FORWARDED else None,
    }
    return Delivery(**{**fields, **changes})
