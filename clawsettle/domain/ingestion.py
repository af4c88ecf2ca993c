"""Deciding on a settlement: which step it takes, and what money that moves.

Two rules go beyond the table of transitions. What leaves through the refunds and the reversal of a
payin never exceeds the payin. And a refund of a confirmed payin always goes through: the part that
its account no longer covers is put to a receivable, ``external:receivable:<account id>``, which the
account's next money from outside repays.
Source: ledger-api contract sections 4 and 13 (L2, L6 to L10, L14, L17, L19).
"""

from collections.abc import Mapping
from datetime import datetime

from attrs import evolve

from clawsettle.domain.book import Answer, Draft, StoredAnswer
from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError, IllegalTransition, NotFoundError
from clawsettle.domain.instants import iso_instant, parse_instant
from clawsettle.domain.journal import ACCOUNT_EFFECT, Account, AccountKind, Bucket, Event, EventType
from clawsettle.domain.settlements import (
    TRANSITIONS,
    Direction,
    IngestRequest,
    NaturalKey,
    Settlement,
    Status,
    Step,
)

_A = Bucket.AVAILABLE


def external_account_id(provider: str, currency: str) -> str:
    """Return the contra account that a provider's money comes from and goes back to."""
    return f"external:{provider}:{currency}"


def receivable_account_id(account_id: str) -> str:
    """Return the contra account of what an account owes; below zero is what is owed."""
    return f"external:receivable:{account_id}"


def settlement_id(natural_key: NaturalKey) -> str:
    """Return the id a natural key always has, so that a repeated decision names the same row."""
    provider, external_payment_id, direction = natural_key
    named = {"provider": provider, "external": external_payment_id, "direction": direction}
    return f"set_{sha256_hex(canonical_json(named))[:32]}"


def ingest(draft: Draft, request: IngestRequest) -> Answer:
    """Record a settlement, once; see ``clawsettle.domain.ledger.decide`` for what is raised."""
    stored = draft.book.known.answers.get(request.key)
    if stored is not None:
        return _replay(stored, request)
    if request.currency != draft.book.currency:
        raise CallerError(
            f"this ledger keeps {draft.book.currency} only", code="UNSUPPORTED_CURRENCY"
        )
    account = draft.account(request.account_id)
    if account is None or account.kind is not AccountKind.USER:
        raise NotFoundError("no such account", details={"field": "account_id"})
    current = draft.book.known.settlements.get(request.natural_key)
    step = _step(current, request)
    event = None
    if step is None:
        assert current is not None  # noqa: S101 - a first request always has a step
        settlement = current
    else:
        settlement = _stepped(current, request, step, draft.book.now)
        if step.event is not None:
            event = _move(draft, settlement, step.event, request.metadata)
            settlement = evolve(settlement, latest_event_id=event.event_id)
        draft.fresh.settlements[settlement.natural_key] = settlement
    body: dict[str, object] = {
        "settlement": settlement.view(),
        "idempotency": {"key": request.key, "replayed": False, "deduped": step is None},
    }
    if event is not None:
        body["event"] = event.summary()
    draft.fresh.answers[request.key] = StoredAnswer(
        request.key, request.request_hash, settlement.settlement_id, body
    )
    return Answer(created=step is not None, body=body)


def _replay(stored: StoredAnswer, request: IngestRequest) -> Answer:
    if stored.request_hash != request.request_hash:
        raise ConflictError(
            "the idempotency key was used for another request", code="IDEMPOTENCY_KEY_REUSED"
        )
    idempotency = stored.body["idempotency"]
    assert isinstance(idempotency, Mapping)  # noqa: S101 - we wrote it
    return Answer(
        created=False, body={**stored.body, "idempotency": {**idempotency, "replayed": True}}
    )


def _step(current: Settlement | None, request: IngestRequest) -> Step | None:
    """Return the step to take; None when the request changes nothing (deduped)."""
    steps = TRANSITIONS[request.direction]
    if current is None:
        return steps[None][request.status]
    _check_same_payment(current, request)
    step = steps[current.status].get(request.status)
    if current.status is request.status or (step is not None and step.to is current.status):
        return None
    age = _age(current, request)
    if step is None:
        # News no newer than what is recorded is only late; a later contradiction is a conflict.
        if age is not None and age <= 0:
            return None
        raise IllegalTransition(
            f"a {current.status} {request.direction} cannot become {request.status}",
            details={"from": str(current.status), "to": str(request.status)},
        )
    # An older failure is overtaken; a reversal can only follow, whatever its clock says.
    if request.status is Status.FAILED and age is not None and age < 0:
        return None
    return step


def _check_same_payment(current: Settlement, request: IngestRequest) -> None:
    # A payment that failed has moved nothing, and may succeed for another (captured) amount.
    failed = request.direction is Direction.PAYIN and Status.FAILED in (
        current.status,
        request.status,
    )
    same = (
        current.account_id == request.account_id
        and current.currency == request.currency
        and (failed or current.amount_minor == request.amount_minor)
        and request.refund_of in (None, current.refund_of)
    )
    if not same:
        raise _conflict(
            "the payment is recorded with another account, amount, currency or payin",
            request.natural_key,
        )


def _conflict(text: str, natural_key: NaturalKey) -> ConflictError:
    provider, external_payment_id, direction = natural_key
    return ConflictError(
        text,
        code="DUPLICATE_CONFLICT",
        details={
            "provider": provider,
            "external_payment_id": external_payment_id,
            "direction": str(direction),
        },
    )


def _age(current: Settlement, request: IngestRequest) -> float | None:
    """Return how much newer the request is by the provider's clock, in seconds, if both say."""
    recorded = parse_instant(current.provider_updated_at)
    offered = parse_instant(request.provider_updated_at)
    if recorded is None or offered is None:
        return None
    return (offered - recorded).total_seconds()


def _stepped(
    current: Settlement | None, request: IngestRequest, step: Step, now: datetime
) -> Settlement:
    """Return the settlement after ``step``; given fields replace, absent ones keep."""

    def kept(name: str) -> str | None:
        given: str | None = getattr(request, name)
        return given or (getattr(current, name) if current else None)

    settled_at = kept("settled_at")
    if settled_at is None and step.to in (Status.CONFIRMED, Status.REVERSED):
        settled_at = iso_instant(now)
    metadata = request.metadata
    if metadata is None and current is not None:
        metadata = current.metadata
    return Settlement(
        settlement_id=settlement_id(request.natural_key),
        provider=request.provider,
        external_payment_id=request.external_payment_id,
        direction=request.direction,
        status=step.to,
        account_id=request.account_id,
        amount_minor=request.amount_minor,
        currency=request.currency,
        network=kept("network"),
        rail=kept("rail"),
        metadata=metadata,
        provider_created_at=kept("provider_created_at"),
        provider_updated_at=kept("provider_updated_at"),
        settled_at=settled_at,
        refund_of=kept("refund_of"),
        latest_event_id=current.latest_event_id if current else None,
        created_at=current.created_at if current else now,
        updated_at=now,
    )


def _move(
    draft: Draft,
    settlement: Settlement,
    event_type: EventType,
    provider_metadata: Mapping[str, object] | None,
) -> Event:
    """Write a settlement's money event, and what a receivable has to do with it."""
    account = draft.account(settlement.account_id)
    assert account is not None  # noqa: S101 - looked at before
    effect = ACCOUNT_EFFECT[event_type]
    metadata = _event_metadata(settlement, provider_metadata)

    def write(one: EventType, amount_minor: int, contra_id: str | None) -> Event:
        return draft.write(
            one,
            key=f"payment_settlement:{settlement.settlement_id}:{one}",
            place=(account.account_id, _A),
            other=None if contra_id is None else (draft.contra(contra_id).account_id, _A),
            amount_minor=amount_minor,
            metadata=metadata,
        )

    receivable_id = receivable_account_id(account.account_id)
    if effect < 0:
        uncovered_minor = _check_payin(draft, settlement, account)
        if uncovered_minor:
            write(EventType.RECEIVABLE_OPEN, uncovered_minor, receivable_id)
    contra_id = external_account_id(settlement.provider, settlement.currency) if effect else None
    event = write(event_type, settlement.amount_minor, contra_id)
    _count_refunded(draft, settlement, effect)
    receivable = draft.account(receivable_id)
    if effect > 0 and receivable is not None and receivable.balances[_A] < 0:
        collected_minor = min(settlement.amount_minor, -receivable.balances[_A])
        write(EventType.RECEIVABLE_COLLECT, collected_minor, receivable_id)
    return event


def _check_payin(draft: Draft, settlement: Settlement, account: Account) -> int:
    """Check money that is to leave against the payin; return what a receivable has to cover.

    Raises: ConflictError DUPLICATE_CONFLICT for a refund of another account's payin,
    REFUND_EXCEEDS_PAYIN when more would leave than came in.
    """
    link = _payin_link(settlement)
    payin = draft.book.known.settlements.get((link[0], link[1], Direction.PAYIN)) if link else None
    # A payin that is not confirmed yet may still come for another amount.
    if payin is None or payin.status in (Status.PENDING, Status.FAILED):
        return 0
    if payin.account_id != account.account_id:
        raise _conflict("the payin that it refunds is another account's", payin.natural_key)
    refunded_minor = draft.book.known.refunded.get(link, 0) if link else 0
    left_minor = 0 if payin.status is Status.REVERSED else payin.amount_minor - refunded_minor
    if settlement.amount_minor > left_minor:
        raise ConflictError(
            "more would leave than the payin brought in",
            code="REFUND_EXCEEDS_PAYIN",
            details={
                "external_payment_id": payin.external_payment_id,
                "payin_status": str(payin.status),
                "amount_minor": str(payin.amount_minor),
                "refunded_minor": str(refunded_minor),
                "requested": str(settlement.amount_minor),
            },
        )
    if settlement.direction is not Direction.REFUND:
        return 0
    return max(settlement.amount_minor - account.balances[_A], 0)


def _payin_link(settlement: Settlement) -> tuple[str, str] | None:
    """Return the provider and external id of the payin that a refund or a reversal is about."""
    if settlement.direction is Direction.PAYIN:
        return settlement.provider, settlement.external_payment_id
    if settlement.refund_of is None:
        return None
    return settlement.provider, settlement.refund_of


def _count_refunded(draft: Draft, settlement: Settlement, effect: int) -> None:
    link = _payin_link(settlement)
    if settlement.direction is Direction.REFUND and link is not None:
        so_far = draft.book.known.refunded.get(link, 0)
        draft.fresh.refunded[link] = so_far - effect * settlement.amount_minor


def _event_metadata(
    settlement: Settlement, provider_metadata: Mapping[str, object] | None
) -> dict[str, object]:
    named: dict[str, object] = {
        "settlement_id": settlement.settlement_id,
        "provider": settlement.provider,
        "external_payment_id": settlement.external_payment_id,
        "direction": str(settlement.direction),
        "status": str(settlement.status),
    }
    for name in ("network", "rail", "refund_of"):
        value = getattr(settlement, name)
        if value is not None:
            named[name] = value
    metadata: dict[str, object] = {"payment_settlement": named}
    if provider_metadata is not None:
        metadata["provider_metadata"] = provider_metadata
    return metadata
