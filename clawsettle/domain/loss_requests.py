"""What a caller may ask of loss events: to record one, to resolve one, to try deliveries again.

Source: loss-events contract sections 3, 4 and 6; 10 (8, 9, 10, 19, 20).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.loss_events import (
    CURRENCY,
    LossEvent,
    Operation,
    Resolution,
    Severity,
    Target,
    loss_event_id,
)

DEFAULT_TARGETS = (Target.LEDGER, Target.CLAWINSURE, Target.CLAWINCOME)


@frozen
class LossRequest:
    """A validated order to record a loss event; the amount in minor units.

    ``occurred_at`` is None when the caller did not say. ``asked_targets`` is the list that was
    given, None when none was.
    """

    idempotency_key: str
    source_service: str
    source_event_id: str
    account_did: str
    account_id: str | None
    amount_minor: int
    reason_code: str
    severity: Severity
    occurred_at: datetime | None
    metadata: Mapping[str, Any]
    asked_targets: tuple[Target, ...] | None = None

    @property
    def loss_event_id(self) -> str:
        """Return the id that the event has, which follows from its key and its source."""
        return loss_event_id(self.idempotency_key, self.source_service, self.source_event_id)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return who is to be told: whoever was named, each once, or else the usual ones."""
        if self.asked_targets:
            return tuple(dict.fromkeys(self.asked_targets))
        named = {"escrow_id": Target.ESCROW, "bounty_id": Target.CLAWBOUNTIES}
        more = [t for name, t in named.items() if isinstance(self.metadata.get(name), str)]
        return (*DEFAULT_TARGETS, *more)

    def request_hash(self, occurred_at: datetime) -> str:
        """Return the contract's hash, with the instant that the event has."""
        return sha256_hex(
            canonical_json(
                {
                    "account_did": self.account_did,
                    "account_id": self.account_id,
                    "amount_minor": str(self.amount_minor),
                    "currency": CURRENCY,
                    "metadata": self.metadata,
                    "occurred_at": iso_instant(self.occurred_at or occurred_at),
                    "reason_code": self.reason_code,
                    "severity": str(self.severity),
                    "source_event_id": self.source_event_id,
                    "source_service": self.source_service,
                    "targets": self.asked_targets,
                }
            )
        )

    def conflict_with(self, event: LossEvent) -> ConflictError | None:
        """Return why ``event``, of the same key or source, is not what is asked for; None if it is.

        An instant that the caller did not say is the one that the event has.
        """
        if event.idempotency_key != self.idempotency_key:
            return ConflictError(
                "the source event was recorded under another idempotency key",
                code="IDEMPOTENCY_CONFLICT",
                details={
                    "source_service": event.source_service,
                    "source_event_id": event.source_event_id,
                    "existing_loss_event_id": event.loss_event_id,
                },
            )
        if event.request_hash == self.request_hash(event.occurred_at):
            return None
        return ConflictError(
            "the idempotency key was used for another loss event",
            code="IDEMPOTENCY_CONFLICT",
            details={
                "idempotency_key": event.idempotency_key,
                "existing_loss_event_id": event.loss_event_id,
            },
        )


@frozen
class ResolveRequest:
    """An order to resolve an event; ``fault`` is what is wrong with its body.

    That is told only of an event that can be resolved.
    """

    loss_event_id: str
    idempotency_key: str
    reason: str | None
    fault: CallerError | None = None

    def conflict_with(self, resolution: Resolution) -> ConflictError | None:
        """Return why a resolution of the key or of the event is not what is asked for, if so."""
        if resolution.idempotency_key != self.idempotency_key:
            return ConflictError(
                "the loss event was resolved under another idempotency key",
                code="IDEMPOTENCY_CONFLICT",
                details={
                    "loss_event_id": self.loss_event_id,
                    "existing_resolution_id": resolution.resolution_id,
                    "existing_idempotency_key": resolution.idempotency_key,
                },
            )
        is_same = (resolution.loss_event_id, resolution.reason) == (self.loss_event_id, self.reason)
        if is_same:
            return None
        return ConflictError(
            "the idempotency key was used for another resolution",
            code="IDEMPOTENCY_CONFLICT",
            details={
                "idempotency_key": self.idempotency_key,
                "existing_resolution_id": resolution.resolution_id,
                "existing_loss_event_id": resolution.loss_event_id,
            },
        )


@frozen
class RetryRequest:
    """An order to make deliveries now: those that are due, up to ``limit``, or those of an event.

    ``force`` is for those of one event, and makes them before their time.
    """

    operation: Operation
    limit: int
    loss_event_id: str | None = None
    force: bool = False


@frozen
class RequeueRequest:
    """An order to bring back what has ended: one delivery, those of an event, or those of a target.

    The first of ``outbox_id``, ``loss_event_id`` and ``target`` that is there says which; the
    others, and ``operation``, narrow it. ``limit`` bounds how many.
    """

    limit: int
    outbox_id: str | None = None
    loss_event_id: str | None = None
    target: Target | None = None
    operation: Operation | None = None
