"""Loss events, deliveries and resolutions as rows, and back; columns in the order of the tables."""

from attrs import astuple

from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    LossStatus,
    Operation,
    Resolution,
    Severity,
    Target,
)
from clawsettle.storage.bridge import Row

Columns = tuple[object, ...]


def event_row(event: LossEvent) -> Columns:
    """Return the row of ``event``."""
    return astuple(event, recurse=False)


def delivery_row(delivery: Delivery) -> Columns:
    """Return the row of ``delivery``."""
    return astuple(delivery, recurse=False)


def resolution_row(resolution: Resolution) -> Columns:
    """Return the row of ``resolution``."""
    return astuple(resolution, recurse=False)


def read_event(row: Row) -> LossEvent:
    """Return the event of a row."""
    return LossEvent(
        loss_event_id=row["loss_event_id"],
        idempotency_key=row["idempotency_key"],
        request_hash=row["request_hash"],
        source_service=row["source_service"],
        source_event_id=row["source_event_id"],
        account_did=row["account_did"],
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        reason_code=row["reason_code"],
        severity=Severity(row["severity"]),
        occurred_at=row["occurred_at"],
        metadata_json=row["metadata"],
        status=LossStatus(row["status"]),
        target_count=row["target_count"],
        forwarded_count=row["forwarded_count"],
        failed_count=row["failed_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_forwarded_at=row["last_forwarded_at"],
    )


def read_delivery(row: Row) -> Delivery:
    """Return the delivery of a row."""
    return Delivery(
        loss_event_id=row["loss_event_id"],
        operation=Operation(row["operation"]),
        target=Target(row["target"]),
        delivery_id=row["delivery_id"],
        escrow_id=row["escrow_id"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        opened_at=row["opened_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        due_at=row["due_at"],
        lease_token=row["lease_token"],
        in_doubt=row["in_doubt"],
        is_shared=row["is_shared"],
        last_http_status=row["last_http_status"],
        last_error_code=row["last_error_code"],
        last_error_message=row["last_error_message"],
        last_attempted_at=row["last_attempted_at"],
        forwarded_at=row["forwarded_at"],
    )


def read_resolution(row: Row) -> Resolution:
    """Return the resolution of a row."""
    return Resolution(
        loss_event_id=row["loss_event_id"],
        resolution_id=row["resolution_id"],
        idempotency_key=row["idempotency_key"],
        request_hash=row["request_hash"],
        reason=row["reason"],
        status=LossStatus(row["status"]),
        target_count=row["target_count"],
        forwarded_count=row["forwarded_count"],
        failed_count=row["failed_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_forwarded_at=row["last_forwarded_at"],
        resolved_at=row["resolved_at"],
    )
