"""Loss events, their deliveries and their resolutions: what is known of each, and how it is shown.

A loss event is recorded once and told to every target that must act on it (apply); when it is over,
what those have done is taken back (resolve). Each telling is one delivery. What a delivery may
become is in ``loss_transitions``, what is sent in ``loss_calls``, what answers mean in
``loss_answers``.
Source: loss-events contract sections 2, 3 and 5; 10 (6, 7, 15).
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from attrs import define, frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.instants import iso_instant

CURRENCY = "USD"


class Target(StrEnum):
    """Who is told of loss events; the values are the stored words, and the ones on the wire."""

    LEDGER = "ledger"
    ESCROW = "escrow"
    CLAWINSURE = "clawinsure"
    CLAWINCOME = "clawincome"
    CLAWBOUNTIES = "clawbounties"


class Operation(StrEnum):
    """What a target is told: that the event has happened, or that it is over."""

    APPLY = "apply"
    RESOLVE = "resolve"


class Severity(StrEnum):
    """How bad a loss event is; clawsettle does nothing by it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class LossStatus(StrEnum):
    """How far the deliveries of an event, or of its resolution, have got."""

    RECORDED = "recorded"
    PROCESSING = "processing"
    PARTIALLY_FORWARDED = "partially_forwarded"
    FORWARDED = "forwarded"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """Where a delivery stands; the values are the stored words.

    ``pending`` waits for its first attempt, ``waiting`` for its target to be configured, ``failed``
    for another attempt. ``dead`` has been refused for good or tried too long, and waits for an
    operator. The target of one that is ``not_applicable`` has nothing to do. A ``canceled`` one had
    not been delivered when its event was resolved.
    """

    PENDING = "pending"
    WAITING = "waiting"
    FAILED = "failed"
    FORWARDED = "forwarded"
    NOT_APPLICABLE = "not_applicable"
    DEAD = "dead"
    CANCELED = "canceled"

    @property
    def wire(self) -> "DeliveryState":
        """Return the word that callers know."""
        return _WIRE.get(self, self)

    @property
    def is_open(self) -> bool:
        """Return whether attempts are to be made."""
        return self in OPEN

    @property
    def is_terminal(self) -> bool:
        """Return whether nothing more happens by itself."""
        return self not in OPEN


OPEN = frozenset({DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.FAILED})
_WIRE = {
    DeliveryState.WAITING: DeliveryState.PENDING,
    DeliveryState.DEAD: DeliveryState.FAILED,
}


@define(slots=False, frozen=True)
class LossEvent:
    """A loss event as stored; the amount in minor units, instants are UTC.

    ``metadata_json`` is the caller's object with the overlays, as JSON text.
    """

    loss_event_id: str
    idempotency_key: str
    request_hash: str
    source_service: str
    source_event_id: str
    account_did: str
    account_id: str | None
    amount_minor: int
    currency: str
    reason_code: str
    severity: Severity
    occurred_at: datetime
    metadata_json: str
    status: LossStatus
    target_count: int
    forwarded_count: int
    failed_count: int
    created_at: datetime
    updated_at: datetime
    last_forwarded_at: datetime | None = None

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata as an object."""
        metadata: Mapping[str, Any] = json.loads(self.metadata_json)
        return metadata

    def view(self) -> dict[str, object]:
        """Render the contract's event JSON."""
        return {
            "loss_event_id": self.loss_event_id,
            "source_service": self.source_service,
            "source_event_id": self.source_event_id,
            "account_did": self.account_did,
            "account_id": self.account_id,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "reason_code": self.reason_code,
            "severity": str(self.severity),
            "occurred_at": iso_instant(self.occurred_at),
            "metadata": self.metadata,
            "status": str(self.status),
            "target_count": self.target_count,
            "forwarded_count": self.forwarded_count,
            "failed_count": self.failed_count,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "last_forwarded_at": _iso(self.last_forwarded_at),
        }


@frozen
class Delivery:
    """One telling of one target, as stored; instants are UTC.

    ``attempts`` counts since it was recorded or requeued, as ``opened_at`` says when that was; or
    when it was first taken up, if it waited for its target to be configured.
    While it is open ``due_at`` is when it may be claimed: the end of its lease, if it has one.
    ``in_doubt`` says that the target may have acted on an attempt without our knowing.
    ``is_shared``: the escrow's hold was there already for another event of ours (apply), or stays
    for one (resolve).
    """

    loss_event_id: str
    operation: Operation
    target: Target
    delivery_id: str
    escrow_id: str | None
    state: DeliveryState
    attempts: int
    opened_at: datetime
    created_at: datetime
    updated_at: datetime
    due_at: datetime | None = None
    lease_token: int | None = None
    in_doubt: bool = False
    is_shared: bool = False
    last_http_status: int | None = None
    last_error_code: str | None = None
    last_error_message: str | None = None
    last_attempted_at: datetime | None = None
    forwarded_at: datetime | None = None

    def view(self, target_url: str) -> dict[str, object]:
        """Render the contract's outbox entry, and after its fields ours.

        ``target_url`` is where it is sent to by the configuration of now.
        """
        retry_at = self.due_at if self.state is DeliveryState.FAILED else None
        return {
            "outbox_id": self.delivery_id,
            "loss_event_id": self.loss_event_id,
            "target_service": str(self.target),
            "target_url": target_url,
            "status": str(self.state.wire),
            "attempts": self.attempts,
            "last_http_status": self.last_http_status,
            "last_error_code": self.last_error_code,
            "last_error_message": self.last_error_message,
            "next_retry_at": _iso(retry_at),
            "forwarded_at": _iso(self.forwarded_at),
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "operation": str(self.operation),
            "state": str(self.state),
            "terminal": self.state.is_terminal,
            "in_doubt": self.in_doubt,
            "shared": self.is_shared,
            "last_attempted_at": _iso(self.last_attempted_at),
        }


@frozen
class Resolution:
    """That an event is over, and how far its taking back has got; instants are UTC."""

    loss_event_id: str
    resolution_id: str
    idempotency_key: str
    request_hash: str
    reason: str | None
    status: LossStatus
    target_count: int
    forwarded_count: int
    failed_count: int
    created_at: datetime
    updated_at: datetime
    last_forwarded_at: datetime | None = None
    resolved_at: datetime | None = None

    def view(self) -> dict[str, object]:
        """Render the contract's resolution JSON."""
        return {
            "resolution_id": self.resolution_id,
            "loss_event_id": self.loss_event_id,
            "reason": self.reason,
            "status": str(self.status),
            "target_count": self.target_count,
            "forwarded_count": self.forwarded_count,
            "failed_count": self.failed_count,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "last_forwarded_at": _iso(self.last_forwarded_at),
            "resolved_at": _iso(self.resolved_at),
        }


def loss_event_id(idempotency_key: str, source_service: str, source_event_id: str) -> str:
    """Return the id that an event has, which follows from its key and its source."""
    named = {
        "idempotency_key": idempotency_key,
        "source_event_id": source_event_id,
        "source_service": source_service,
    }
    return f"lse_{sha256_hex('lse:' + canonical_json(named))[:24]}"


def delivery_id(event_id: str, operation: Operation, target: Target) -> str:
    """Return the id of the one delivery that an event has for an operation and a target."""
    prefix = "lso" if operation is Operation.APPLY else "lro"
    return f"{prefix}_{sha256_hex(f'{prefix}:{event_id}:{target}')[:24]}"


def resolution_id(idempotency_key: str, event_id: str) -> str:
    """Return the id that a resolution has, which follows from its key and its event."""
    named = {"idempotency_key": idempotency_key, "loss_event_id": event_id}
    return f"lsr_{sha256_hex('lsr:' + canonical_json(named))[:24]}"


def resolve_hash(event_id: str, reason: str | None, targets: list[Target]) -> str:
    """Return the contract's hash of a resolution; ``targets`` in the order of ``Target``."""
    asked = {"loss_event_id": event_id, "reason": reason, "targets": [str(t) for t in targets]}
    return sha256_hex(canonical_json(asked))


def escrow_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the escrow that the metadata names; None when they name none."""
    return _named(metadata, "escrow_id")


def bounty_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the bounty that the metadata names; None when they name none."""
    return _named(metadata, "bounty_id")


def _named(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return (value.strip() or None) if isinstance(value, str) else None


def _iso(at: datetime | None) -> str | None:
    return None if at is None else iso_instant(at)
