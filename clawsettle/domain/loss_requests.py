"""What a caller may ask of loss events: to record one, to resolve one, to try deliveries again.

Every reader refuses the first bad field, in the contract's order, and names it in
``details.field``.
Source: loss-events contract sections 3, 4 and 6; 10 (8, 9, 10, 19, 20, 22).
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from attrs import frozen

from clawsettle.domain.canonical import compact_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError
from clawsettle.domain.fields import TEXT_MAX, body_object, refuse_unstorable
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.javascript import canonical_js, parse_js_date
from clawsettle.domain.loss_events import (
    CURRENCY,
    LossEvent,
    Operation,
    Resolution,
    Severity,
    Target,
    bounty_of,
    escrow_of,
    loss_event_id,
)
from clawsettle.domain.money import minor_from_digits
from clawsettle.domain.risk_holds import REASON_MAX

METADATA_BYTES_MAX = 64 * 1024
"""Bytes of an event's metadata as JSON, the overlays included."""

TARGETS_MAX = 32
"""Names in a list of targets, which may repeat them."""

RETRY_LIMIT_MAX = 500
REQUEUE_LIMIT_DEFAULT, REQUEUE_LIMIT_MAX = 100, 1000

DEFAULT_TARGETS = (Target.LEDGER, Target.CLAWINSURE, Target.CLAWINCOME)
_DID = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:-]+")
_SCORES = ((85, Severity.CRITICAL), (65, Severity.HIGH), (35, Severity.MEDIUM))
W = TypeVar("W", bound=StrEnum)


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
            canonical_js(
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
    """An order to try due deliveries now; ``force`` takes those of its one event before they are.

    Without ``loss_event_id`` it is of all events, and never forced.
    """

    operation: Operation
    limit: int
    loss_event_id: str | None
    force: bool


@frozen
class RequeueRequest:
    """An order to bring back what has ended: one delivery, those of an event, or those of a target.

    The first of ``outbox_id``, ``loss_event_id`` and ``target`` that is there says which; the
    others, and ``operation``, narrow it. ``limit`` bounds how many.
    """

    operation: Operation | None
    target: Target | None
    loss_event_id: str | None
    outbox_id: str | None
    limit: int


def parse_loss(key: str, body: object) -> LossRequest:
    """Validate an order to record an event; ``key`` is the caller's.

    A reason is shorter than the ledger's holds allow, because the usual reason of a release names
    it.

    Raises: CallerError INVALID_REQUEST with ``details.field``, which is ``metadata.escrow_id`` or
    ``metadata.bounty_id`` when the target chosen has none; UNSUPPORTED_CURRENCY.
    """
    body = body_object(body)
    refuse_unstorable(body, compact_json(body))
    source = _object(body.get("source"))
    request = LossRequest(
        idempotency_key=key,
        source_service=_text("source_service", source.get("service"), body.get("source_service")),
        source_event_id=_text(
            "source_event_id", source.get("external_event_id"), body.get("source_event_id")
        ),
        account_did=_account_did(body),
        account_id=_optional_text(body, "account_id"),
        amount_minor=_amount(body),
        reason_code=_text("reason_code", body.get("reason_code"), body.get("kind")),
        severity=_severity(body),
        occurred_at=_occurred_at(body),
        metadata=_metadata(body, source),
        asked_targets=_asked_targets(body),
    )
    if body.get("currency") != CURRENCY:
        raise CallerError(
            f"loss events are in {CURRENCY} only",
            code="UNSUPPORTED_CURRENCY",
            details={"field": "currency"}
            | ({"value": body["currency"]} if "currency" in body else {}),
        )
    _check_names(request)
    return request


def parse_resolve(event_id: str, key: str, body: object) -> ResolveRequest:
    """Read an order to resolve an event; what is wrong with its body becomes its ``fault``."""
    try:
        reason = _optional_text(body_object(body), "reason", REASON_MAX)
    except CallerError as fault:
        return ResolveRequest(event_id, key, None, fault)
    return ResolveRequest(event_id, key, reason)


def parse_retry(body: object, limit_default: int) -> RetryRequest:
    """Validate an order to try deliveries again; a limit beyond RETRY_LIMIT_MAX means that.

    Raises: CallerError INVALID_REQUEST with ``details.field``.
    """
    body = body_object(body)
    operation = _optional_word(body, "operation", Operation) or Operation.APPLY
    limit = _limit(body, limit_default)
    event_id = _optional_text(body, "loss_event_id")
    return RetryRequest(
        operation,
        min(limit, RETRY_LIMIT_MAX),
        event_id,
        force=event_id is not None and body.get("force") is True,
    )


def parse_requeue(body: object) -> RequeueRequest:
    """Validate an order to bring deliveries back; a limit beyond REQUEUE_LIMIT_MAX means that.

    Raises: CallerError INVALID_REQUEST with ``details.field``, which is ``loss_event_id`` when
    nothing is named.
    """
    body = body_object(body)
    request = RequeueRequest(
        operation=_optional_word(body, "operation", Operation),
        target=_optional_word(body, "target_service", Target),
        loss_event_id=_optional_text(body, "loss_event_id"),
        outbox_id=_optional_text(body, "outbox_id"),
        limit=min(_limit(body, REQUEUE_LIMIT_DEFAULT), REQUEUE_LIMIT_MAX),
    )
    if request.target is request.loss_event_id is request.outbox_id is None:
        raise _bad("loss_event_id", "or target_service or outbox_id must say what to bring back")
    return request


def _account_did(body: Mapping[str, object]) -> str:
    did = _text("account_did", body.get("account_did"))
    if not _DID.fullmatch(did):
        raise _bad("account_did", "must be a DID, did:<method>:<identifier>")
    return did


def _amount(body: Mapping[str, object]) -> int:
    value = body.get("amount_minor")
    amount_minor = minor_from_digits(value.strip()) if isinstance(value, str) else None
    if amount_minor is None:
        raise _bad("amount_minor", "must be a digit string from 1 to 2**63-1")
    return amount_minor


def _severity(body: Mapping[str, object]) -> Severity:
    value = body.get("severity")
    if value is None:
        score = None if "severity" in body else _object(body.get("risk")).get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            return Severity.HIGH
        return next((level for least, level in _SCORES if score >= least), Severity.LOW)
    return _word("severity", value, Severity)


def _occurred_at(body: Mapping[str, object]) -> datetime | None:
    value = body.get("occurred_at")
    if value is None:
        return None
    at = parse_js_date(value.strip()) if isinstance(value, str) else None
    if at is None:
        raise _bad("occurred_at", "must be an ISO 8601 date or instant, or a usual older form")
    return at


def _metadata(body: Mapping[str, object], source: Mapping[str, object]) -> Mapping[str, Any]:
    given = body.get("metadata")
    if given is not None and not isinstance(given, dict):
        raise _bad("metadata", "must be an object")
    kind, evidence = body.get("kind"), body.get("evidence")
    overlays = {
        name: value
        for name in ("provider", "external_payment_id")
        if isinstance(value := source.get(name), str)
    }
    if isinstance(kind, str) and kind.strip():
        overlays["kind"] = kind
    metadata = {**(given or {}), **overlays}
    if isinstance(evidence, dict):
        metadata["evidence"] = evidence
    if len(compact_json(metadata).encode()) > METADATA_BYTES_MAX:
        raise _bad("metadata", f"must be at most {METADATA_BYTES_MAX} bytes of JSON")
    return metadata


def _asked_targets(body: Mapping[str, object]) -> tuple[Target, ...] | None:
    value = body.get("targets")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > TARGETS_MAX:
        raise _bad("targets", f"must be a list of at most {TARGETS_MAX} targets")
    return tuple(_word("targets", name, Target) for name in value) or None


def _check_names(request: LossRequest) -> None:
    """Check that what the chosen targets are to act on is named."""
    named = {
        Target.ESCROW: ("escrow_id", escrow_of(request.metadata)),
        Target.CLAWBOUNTIES: ("bounty_id", bounty_of(request.metadata)),
    }
    for target in request.targets:
        name, value = named.get(target, ("", "-"))
        if value is None or len(value) > TEXT_MAX:
            raise _bad(f"metadata.{name}", f"must be a text of 1 to {TEXT_MAX} characters")


def _text(field: str, *values: object, most: int = TEXT_MAX) -> str:
    """Return the first of ``values`` that is a text and not blank, trimmed."""
    texts = (value.strip() for value in values if isinstance(value, str))
    text = next(filter(None, texts), "")
    if not 0 < len(text) <= most:
        raise _bad(field, f"must be a text of 1 to {most} characters")
    return text


def _optional_text(body: Mapping[str, object], name: str, most: int = TEXT_MAX) -> str | None:
    value = body.get(name)
    return None if value is None else _text(name, value, most=most)


def _word(field: str, value: object, words: type[W]) -> W:
    if not isinstance(value, str) or value not in list(words):
        raise _bad(field, f"must be one of {', '.join(words)}")
    return words(value)


def _optional_word(body: Mapping[str, object], name: str, words: type[W]) -> W | None:
    """Return a word in any case; None when it is blank."""
    value = body.get(name)
    if isinstance(value, str):
        value = value.strip().lower() or None
    return None if value is None else _word(name, value, words)


def _limit(body: Mapping[str, object], default: int) -> int:
    value = body.get("limit", default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _bad("limit", "must be a whole number above 0")
    return value


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _bad(field: str, message: str) -> CallerError:
    return CallerError(f"{field} {message}", details={"field": field})
