"""Risk holds: money set aside for a loss event, once, and released at most once.

The hold, its transfer and its reservation are one decision, so none of them is ever without the
others; the source loss event is as unique as the key.
Source: ledger-api contract sections 9 and 13 (L13, L15, L16, L20).
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from clawsettle.domain.accounts import AccountRef, account_ref
from clawsettle.domain.book import Answer, Draft, ReservationKind, RiskHold
from clawsettle.domain.canonical import compact_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError, NotFoundError
from clawsettle.domain.fields import (
    KEY_MAX,
    amount,
    body_object,
    optional_object,
    refuse_unstorable,
    required_text,
)
from clawsettle.domain.journal import Event
from clawsettle.domain.transfers import (
    OWN_FIELDS,
    Movement,
    Side,
    move,
    require_currency,
    source_account,
)

REASON_MAX = 2000
_ID_PREFIX = "rsk_"
_OWN_FIELDS = OWN_FIELDS | {"source_domain", "source_ref", "transfer_kind", "reason"}


@frozen
class ApplyHold:
    """A validated request to hold an amount, in minor units, of an account's available money."""

    key: str
    source_loss_event_id: str
    account: str
    ref: AccountRef | None
    amount_minor: int
    currency: str
    reason: str
    metadata: Mapping[str, object]


@frozen
class ReleaseHold:
    """A validated request to release the hold of a loss event, or the one with an id.

    Exactly one of ``source_loss_event_id`` and ``hold_id`` is given. ``fault`` is what is wrong
    with the rest of a request by source, which is told only when the hold exists.
    """

    key: str
    reason: str | None
    source_loss_event_id: str | None = None
    hold_id: str | None = None
    fault: CallerError | None = None


def parse_apply_hold(body: object, *, currency: str) -> ApplyHold:
    """Validate the body in the contract's order; ``currency`` is the book's.

    No key begins like a hold's id, or the event of an apply, ``risk_hold:<key>:apply``, could have
    the key of a release's, ``risk_hold:<hold id>:release:<key>``.

    Raises: CallerError INVALID_REQUEST at the first bad field, UNSUPPORTED_CURRENCY.
    """
    body = body_object(body)
    key = required_text(body, "idempotency_key", KEY_MAX)
    source_loss_event_id = required_text(body, "source_loss_event_id")
    account = required_text(body, "account")
    amount_minor = amount(body)
    if "currency" in body:
        require_currency(body["currency"], currency)
    reason = required_text(body, "reason", REASON_MAX)
    metadata = optional_object(body, "metadata") or {}
    refuse_unstorable(metadata, compact_json(metadata))
    if key.startswith(_ID_PREFIX):
        raise CallerError(f"keys of {_ID_PREFIX} are the ledger's own")
    return ApplyHold(
        key,
        source_loss_event_id,
        account,
        account_ref(account),
        amount_minor,
        currency,
        reason,
        metadata,
    )


def parse_release_by_source(body: object) -> ReleaseHold:
    """Validate a release by source: the source now, the rest when its hold is found.

    Raises: CallerError INVALID_REQUEST.
    """
    body = body_object(body)
    source_loss_event_id = required_text(body, "source_loss_event_id")
    try:
        return _release(body, source_loss_event_id=source_loss_event_id)
    except CallerError as fault:
        return ReleaseHold("", None, source_loss_event_id=source_loss_event_id, fault=fault)


def parse_release(hold_id: str, body: object) -> ReleaseHold:
    """Validate a release by the hold's id.

    Raises: CallerError INVALID_REQUEST.
    """
    return _release(body_object(body), hold_id=hold_id)


def _release(
    body: Mapping[str, object],
    *,
    source_loss_event_id: str | None = None,
    hold_id: str | None = None,
) -> ReleaseHold:
    key = required_text(body, "idempotency_key", KEY_MAX)
    reason = None
    if body.get("reason") is not None:
        reason = required_text(body, "reason", REASON_MAX)
    return ReleaseHold(key, reason, source_loss_event_id, hold_id)


def apply_hold(draft: Draft, request: ApplyHold) -> Answer:
    """Hold money for a loss event; see ``clawsettle.domain.ledger.decide`` for what is raised."""
    records = draft.book.known
    hold_id = _hold_id(request.key)
    known = records.holds.get(hold_id)
    if known is not None:
        if not _same_hold(draft, known, request):
            raise ConflictError(
                "the idempotency key was used for another hold",
                code="IDEMPOTENCY_KEY_REUSED",
                details={"hold_id": known.hold_id},
            )
        return _answer(known, replay=True)
    source = request.source_loss_event_id
    if source in records.holds_by_source:
        bound = records.holds[records.holds_by_source[source]]
        raise ConflictError(
            "the loss event has a hold under another key",
            code="SOURCE_LOSS_EVENT_ALREADY_BOUND",
            details={
                "hold_id": bound.hold_id,
                "account_id": bound.account_id,
                "amount_minor": str(bound.amount_minor),
                "status": "active" if bound.released_at is None else "released",
            },
        )
    side = Side(request.account, "A", request.ref)
    account = source_account(draft, side, request.amount_minor)
    event = move(
        draft,
        Movement(
            key=f"risk_hold:{request.key}:apply",
            source=side,
            destination=Side(request.account, "H", request.ref),
            accounts=(account, account),
            amount_minor=request.amount_minor,
            currency=request.currency,
            metadata={
                **request.metadata,
                "source_domain": "clawledger",
                "source_ref": source,
                "transfer_kind": "risk_hold_apply",
                "reason": request.reason,
            },
            opens=(ReservationKind.RISK_HOLD, hold_id),
        ),
    )
    now = draft.book.now
    hold = RiskHold(
        hold_id=hold_id,
        idempotency_key=request.key,
        source_loss_event_id=source,
        account_ref=request.account,
        account_id=account.account_id,
        amount_minor=request.amount_minor,
        currency=request.currency,
        reason=request.reason,
        metadata=request.metadata,
        hold_transfer_event_id=event.event_id,
        release_idempotency_key=None,
        release_transfer_event_id=None,
        created_at=now,
        updated_at=now,
        released_at=None,
    )
    draft.fresh.holds[hold_id] = hold
    draft.fresh.holds_by_source[source] = hold_id
    return _answer(hold, replay=False)


def release_hold(draft: Draft, request: ReleaseHold) -> Answer:
    """Release a hold; see ``clawsettle.domain.ledger.decide`` for what is raised."""
    hold = _find_hold(draft, request)
    if request.fault is not None:
        raise request.fault
    if hold.released_at is not None:
        if hold.release_idempotency_key == request.key:
            return _answer(hold, replay=True)
        raise ConflictError(
            "the hold was released under another key",
            code="IDEMPOTENCY_CONFLICT",
            details={"release_idempotency_key": hold.release_idempotency_key},
        )
    event = _give_back(draft, hold, request)
    now = draft.book.now
    released = evolve(
        hold,
        release_idempotency_key=request.key,
        release_transfer_event_id=event.event_id,
        updated_at=now,
        released_at=now,
    )
    draft.fresh.holds[hold.hold_id] = released
    return _answer(released, replay=False)


def applied_hash(hold: RiskHold) -> str:
    """Return the hash of what a hold was when it was applied; ``applied_hash_of`` tells the same.

    The caller's metadata counts but for the names that are the ledger's own in the event.
    """
    metadata = {name: value for name, value in hold.metadata.items() if name not in _OWN_FIELDS}
    return _applied_hash(
        hold_id=hold.hold_id,
        key=hold.idempotency_key,
        source=hold.source_loss_event_id,
        account_ref=hold.account_ref,
        account_id=hold.account_id,
        amount_minor=hold.amount_minor,
        currency=hold.currency,
        reason=hold.reason,
        metadata=metadata,
        event_id=hold.hold_transfer_event_id,
        created_at=hold.created_at.isoformat(),
    )


def applied_hash_of(event: Event) -> str:
    """Return the ``applied_hash`` of the hold that the event of its transfer tells of.

    Raises: AttributeError, LookupError or TypeError when the event tells of none.
    """
    key = event.idempotency_key.removeprefix("risk_hold:").removesuffix(":apply")
    told: Any = event.metadata
    return _applied_hash(
        hold_id=_hold_id(key),
        key=key,
        source=told["source_ref"],
        account_ref=told["spec_v1"]["from"]["account"],
        account_id=event.account_id,
        amount_minor=event.amount_minor,
        currency=told["spec_v1"]["currency"],
        reason=told["reason"],
        metadata={name: value for name, value in told.items() if name not in _OWN_FIELDS},
        event_id=event.event_id,
        created_at=event.created_at.isoformat(),
    )


def release_key(hold_id: str, event: Event) -> str:
    """Return the idempotency key of the release whose transfer an event is."""
    return event.idempotency_key.removeprefix(f"risk_hold:{hold_id}:release:")


def _applied_hash(**facts: object) -> str:
    # In ASCII, unlike canonical JSON: a forged row may hold what UTF-8 has no bytes for.
    return sha256_hex(json.dumps(facts, sort_keys=True))


def _same_hold(draft: Draft, hold: RiskHold, request: ApplyHold) -> bool:
    account = draft.find(request.ref) if request.ref else None
    return (
        account is not None
        and hold.account_id == account.account_id
        and hold.source_loss_event_id == request.source_loss_event_id
        and hold.amount_minor == request.amount_minor
    )


def _hold_id(key: str) -> str:
    """Return the id that the hold of an idempotency key always has."""
    return f"{_ID_PREFIX}{UUID(sha256_hex(key)[:32])}"


def _find_hold(draft: Draft, request: ReleaseHold) -> RiskHold:
    source, records = request.source_loss_event_id, draft.book.known
    hold_id = request.hold_id if source is None else records.holds_by_source.get(source)
    hold = records.holds.get(hold_id) if hold_id else None
    if hold is None:
        named = {"hold_id": hold_id} if source is None else {"source_loss_event_id": source}
        raise NotFoundError("no such hold", details=named)
    return hold


def _give_back(draft: Draft, hold: RiskHold, request: ReleaseHold) -> Event:
    account = draft.account(hold.account_id)
    assert account is not None  # noqa: S101 - the hold's account is loaded with it
    metadata: dict[str, object] = {
        "source_domain": "clawledger",
        "source_ref": hold.source_loss_event_id,
        "transfer_kind": "risk_hold_release",
    }
    if request.reason is not None:
        metadata["reason"] = request.reason
    ref = account_ref(hold.account_ref)
    try:
        return move(
            draft,
            Movement(
                key=f"risk_hold:{hold.hold_id}:release:{request.key}",
                source=Side(hold.account_ref, "H", ref),
                destination=Side(hold.account_ref, "A", ref),
                accounts=(account, account),
                amount_minor=hold.amount_minor,
                currency=hold.currency,
                metadata=metadata,
                closes=draft.book.known.reservations[hold.hold_id],
            ),
        )
    except ConflictError as error:
        raise ConflictError(
            "the held money does not cover the hold",
            code="RISK_HOLD_RELEASE_FAILED",
            details={"error": error.message, "code": error.code, "details": dict(error.details)},
        ) from error


def _answer(hold: RiskHold, *, replay: bool) -> Answer:
    return Answer(created=not replay, body={"hold": hold.view(), "replay": replay})
