"""The ledger's decisions: what each request of a batch does to the book, or why it may not.

``Book`` is a batch's working set, loaded under the lock on the journal's tail. ``decide`` looks
first and changes last, so a refused request leaves no trace, and the requests of a batch see each
other's effects in order. Nothing here does I/O: the keeper stores what the book says has changed.
Source: ledger-api contract sections 3, 4, 11 and 13 (L1 to L3, L6, L11, L14, L17, L19).
"""

from collections.abc import Mapping
from datetime import datetime

from attrs import define, evolve, field, frozen

from clawsettle.domain.accounts import account_ids
from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError, IllegalTransition, NotFoundError
from clawsettle.domain.instants import iso_instant, parse_instant
from clawsettle.domain.journal import (
    Account,
    AccountKind,
    Bucket,
    Event,
    Posting,
    Settlement,
    Tail,
    event_hash,
)
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.settlements import (
    ACCOUNT_EFFECT,
    TRANSITIONS,
    Direction,
    EventType,
    IngestRequest,
    Status,
    Step,
)


@frozen
class OpenAccount:
    """Ask for a DID's account, which is opened unless it exists."""

    did: str


Command = OpenAccount | IngestRequest


@frozen
class Answer:
    """What a command did: ``created`` when it changed the book, and the contract's JSON body."""

    created: bool
    body: Mapping[str, object]


@frozen
class StoredAnswer:
    """The first answer under an idempotency key, kept for ever with the request's hash."""

    key: str
    request_hash: str
    settlement_id: str
    body: Mapping[str, object]


@define
class Book:
    """What a batch may look at, and what it has changed so far.

    ``now`` is the database's clock cut to the millisecond; it never runs behind the tail.
    """

    currency: str
    now: datetime
    tail: Tail
    accounts: dict[str, Account]
    settlements: dict[tuple[str, str, str], Settlement]
    answers: dict[str, StoredAnswer]
    events: list[Event] = field(factory=list)
    postings: list[Posting] = field(factory=list)
    changed_accounts: set[str] = field(factory=set)
    changed_settlements: set[tuple[str, str, str]] = field(factory=set)
    new_answers: list[StoredAnswer] = field(factory=list)

    @property
    def changed(self) -> bool:
        """Return whether anything is to be stored."""
        return bool(self.new_answers or self.changed_accounts)

    def put_account(self, account: Account) -> None:
        """Take an account's new state into the book."""
        self.accounts[account.account_id] = account
        self.changed_accounts.add(account.account_id)

    def put_settlement(self, settlement: Settlement) -> None:
        """Take a settlement's new state into the book."""
        self.settlements[settlement.natural_key] = settlement
        self.changed_settlements.add(settlement.natural_key)

    def put_answer(self, answer: StoredAnswer) -> None:
        """Keep the first answer under its key."""
        self.answers[answer.key] = answer
        self.new_answers.append(answer)


def external_account_id(provider: str, currency: str) -> str:
    """Return the contra account that a provider's money comes from and goes back to."""
    return f"external:{provider}:{currency}"


def settlement_id(natural_key: tuple[str, str, str]) -> str:
    """Return the id a natural key always has, so that a repeated decision names the same row."""
    provider, external_payment_id, direction = natural_key
    named = {"provider": provider, "external": external_payment_id, "direction": direction}
    return f"set_{sha256_hex(canonical_json(named))[:32]}"


def decide(book: Book, command: Command) -> Answer:
    """Apply one command to the book, or raise and leave the book as it was.

    Raises: ConflictError IDEMPOTENCY_KEY_REUSED or DUPLICATE_CONFLICT, NotFoundError for an
    unknown account, IllegalTransition, CallerError UNSUPPORTED_CURRENCY, and ConflictError
    INSUFFICIENT_FUNDS or BALANCE_LIMIT_EXCEEDED when a balance cannot take the amount.
    """
    if isinstance(command, OpenAccount):
        return _open_account(book, command.did)
    return _ingest(book, command)


def _open_account(book: Book, did: str) -> Answer:
    for account_id in account_ids(did):
        account = book.accounts.get(account_id)
        if account is None:
            account = Account(account_id, AccountKind.USER, did, _no_money(), book.now, book.now)
            book.put_account(account)
            return Answer(created=True, body=account.view())
        if account.did == did:
            return Answer(created=False, body=account.view())
    raise ConflictError("both ids of this DID belong to other accounts", code="CREATE_FAILED")


def _ingest(book: Book, request: IngestRequest) -> Answer:
    stored = book.answers.get(request.key)
    if stored is not None:
        return _replay(stored, request)
    if request.currency != book.currency:
        raise CallerError(f"this ledger keeps {book.currency} only", code="UNSUPPORTED_CURRENCY")
    account = book.accounts.get(request.account_id)
    if account is None or account.kind is not AccountKind.USER:
        raise NotFoundError("no such account", details={"field": "account_id"})
    current = book.settlements.get(request.natural_key)
    step = _step(current, request)
    event = None
    if step is None:
        assert current is not None  # noqa: S101 - a first request always has a step
        settlement = current
    else:
        settlement = _stepped(current, request, step, book.now)
        if step.event is not None:
            event = _write_event(book, settlement, step.event, request.metadata)
            settlement = evolve(settlement, latest_event_id=event.event_id)
        book.put_settlement(settlement)
    body: dict[str, object] = {
        "settlement": settlement.view(),
        "idempotency": {"key": request.key, "replayed": False, "deduped": step is None},
    }
    if event is not None:
        body["event"] = event.summary()
    book.put_answer(StoredAnswer(request.key, request.request_hash, settlement.settlement_id, body))
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
    )
    if not same:
        raise ConflictError(
            "the payment is recorded with another account, amount or currency",
            code="DUPLICATE_CONFLICT",
            details={
                "provider": request.provider,
                "external_payment_id": request.external_payment_id,
                "direction": str(request.direction),
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
        latest_event_id=current.latest_event_id if current else None,
        created_at=current.created_at if current else now,
        updated_at=now,
    )


def _write_event(
    book: Book,
    settlement: Settlement,
    event_type: EventType,
    provider_metadata: Mapping[str, object] | None,
) -> Event:
    """Move the money, chain the event and post its legs; the amount is checked before either."""
    sign = ACCOUNT_EFFECT[event_type]
    moved = _moved(book, settlement, sign * settlement.amount_minor) if sign else ()
    key = f"payment_settlement:{settlement.settlement_id}:{event_type}"
    link = event_hash(
        book.tail.event_hash,
        event_type=event_type,
        account_id=settlement.account_id,
        to_account_id=None,
        amount_minor=settlement.amount_minor,
        bucket=Bucket.AVAILABLE,
        idempotency_key=key,
        created_at=book.now,
    )
    event = Event(
        seq=book.tail.seq + 1,
        event_id=f"evt_{link[:32]}",
        idempotency_key=key,
        event_type=event_type,
        account_id=settlement.account_id,
        to_account_id=None,
        amount_minor=settlement.amount_minor,
        bucket=Bucket.AVAILABLE,
        previous_hash=book.tail.event_hash,
        event_hash=link,
        metadata=_event_metadata(settlement, provider_metadata),
        created_at=book.now,
    )
    for leg, (account, delta_minor) in enumerate(moved):
        book.put_account(account)
        book.postings.append(
            Posting(event.seq, leg, account.account_id, Bucket.AVAILABLE, delta_minor)
        )
    book.events.append(event)
    book.tail = Tail(event.seq, link, book.now)
    return event


def _moved(
    book: Book, settlement: Settlement, delta_minor: int
) -> tuple[tuple[Account, int], tuple[Account, int]]:
    """Return the account and its contra account after the amount has moved between them."""
    account = book.accounts[settlement.account_id]
    available = account.balances[Bucket.AVAILABLE]
    if available + delta_minor < 0:
        raise ConflictError(
            "the account does not cover the amount",
            code="INSUFFICIENT_FUNDS",
            details={
                "account_id": account.account_id,
                "bucket": str(Bucket.AVAILABLE),
                "requested": str(-delta_minor),
                "available": str(available),
            },
        )
    contra_id = external_account_id(settlement.provider, settlement.currency)
    contra = book.accounts.get(contra_id) or Account(
        contra_id, AccountKind.EXTERNAL, None, _no_money(), book.now, book.now
    )
    return (
        (_credited(account, delta_minor, book.now), delta_minor),
        (_credited(contra, -delta_minor, book.now), -delta_minor),
    )


def _credited(account: Account, delta_minor: int, now: datetime) -> Account:
    available = account.balances[Bucket.AVAILABLE] + delta_minor
    total = sum(account.balances.values()) + delta_minor
    if max(abs(available), abs(total)) > MINOR_MAX:
        raise ConflictError(
            f"a balance holds at most {MINOR_MAX}",
            code="BALANCE_LIMIT_EXCEEDED",
            details={"account_id": account.account_id, "bucket": str(Bucket.AVAILABLE)},
        )
    balances = {**account.balances, Bucket.AVAILABLE: available}
    return Account(account.account_id, account.kind, account.did, balances, account.created_at, now)


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
    if settlement.network is not None:
        named["network"] = settlement.network
    if settlement.rail is not None:
        named["rail"] = settlement.rail
    metadata: dict[str, object] = {"payment_settlement": named}
    if provider_metadata is not None:
        metadata["provider_metadata"] = provider_metadata
    return metadata


def _no_money() -> dict[Bucket, int]:
    return dict.fromkeys(Bucket, 0)
