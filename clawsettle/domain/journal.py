"""The ledger's records: accounts, settlements, the hash-chained journal and its postings.

An event states what happened and is chained to the one before it; its postings say which balances
moved, and sum to zero. Records are immutable: a change is a new record.
Source: ledger-api contract sections 2, 3 and 4.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from attrs import define, field, frozen

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.settlements import Direction, EventType, Status

GENESIS_HASH = "0" * 64


class Bucket(StrEnum):
    """The parts of an account's balance; the values are the words in JSON and in storage."""

    AVAILABLE = "available"
    HELD = "held"
    BONDED = "bonded"
    FEE_POOL = "feePool"
    PROMO = "promo"


class AccountKind(StrEnum):
    """Who an account belongs to; only ``external`` contra accounts may be negative."""

    USER = "user"
    EXTERNAL = "external"


@frozen
class Account:
    """An account and its balances in minor units; ``did`` is None for contra accounts."""

    account_id: str
    kind: AccountKind
    did: str | None
    balances: Mapping[Bucket, int]
    created_at: datetime
    updated_at: datetime

    def view(self) -> dict[str, object]:
        """Render the contract's account JSON."""
        balances = {str(bucket): str(self.balances[bucket]) for bucket in Bucket}
        return {
            "id": self.account_id,
            "did": self.did,
            "balances": {**balances, "total": str(sum(self.balances.values()))},
            "createdAt": iso_instant(self.created_at),
            "updatedAt": iso_instant(self.updated_at),
        }


@frozen
class Settlement:
    """A settlement as recorded; ``latest_event_id`` names its last money event."""

    settlement_id: str
    provider: str
    external_payment_id: str
    direction: Direction
    status: Status
    account_id: str
    amount_minor: int
    currency: str
    network: str | None
    rail: str | None
    metadata: Mapping[str, object] | None
    provider_created_at: str | None
    provider_updated_at: str | None
    settled_at: str | None
    latest_event_id: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def natural_key(self) -> tuple[str, str, str]:
        """Return what makes a settlement one of a kind."""
        return (self.provider, self.external_payment_id, self.direction)

    def view(self) -> dict[str, object]:
        """Render the contract's settlement JSON; absent fields are left out."""
        fields = {
            "id": self.settlement_id,
            "provider": self.provider,
            "external_payment_id": self.external_payment_id,
            "direction": str(self.direction),
            "status": str(self.status),
            "account_id": self.account_id,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "network": self.network,
            "rail": self.rail,
            "metadata": self.metadata,
            "provider_created_at": self.provider_created_at,
            "provider_updated_at": self.provider_updated_at,
            "settled_at": self.settled_at,
            "latest_event_id": self.latest_event_id,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
        }
        return {name: value for name, value in fields.items() if value is not None}


@frozen
class Event:
    """One link of the journal; ``seq`` counts without gaps from 1."""

    seq: int
    event_id: str
    idempotency_key: str
    event_type: EventType
    account_id: str
    to_account_id: str | None
    amount_minor: int
    bucket: Bucket
    previous_hash: str
    event_hash: str
    metadata: Mapping[str, object]
    created_at: datetime

    def summary(self) -> dict[str, object]:
        """Render the short form that an ingest answer carries."""
        return {
            "id": self.event_id,
            "event_type": str(self.event_type),
            "event_hash": self.event_hash,
            "created_at": iso_instant(self.created_at),
        }


@frozen
class Posting:
    """One leg of an event: how much one bucket of one account moves, in minor units."""

    seq: int
    leg: int
    account_id: str
    bucket: Bucket
    delta_minor: int


@frozen
class Tail:
    """The journal's last link: every writer starts from it and leaves a new one."""

    seq: int
    event_hash: str
    created_at: datetime


def event_hash(
    previous_hash: str,
    *,
    event_type: str,
    account_id: str,
    to_account_id: str | None,
    amount_minor: int,
    bucket: str,
    idempotency_key: str,
    created_at: datetime,
) -> str:
    """Return an event's chain hash. Source: ledger-api contract section 2.3."""
    return sha256_hex(
        "|".join(
            (
                previous_hash,
                event_type,
                account_id,
                to_account_id or "",
                str(amount_minor),
                bucket,
                idempotency_key,
                iso_instant(created_at),
            )
        )
    )


@define
class ChainCheck:
    """Walks the journal in order and collects what does not hold; empty errors mean it does.

    After a broken link the walk goes on from the stored hash, so one fault is named once.
    """

    tail: Tail = field(factory=lambda: Tail(0, GENESIS_HASH, datetime.min.replace(tzinfo=UTC)))
    errors: list[str] = field(factory=list)
    count: int = 0

    def walk(self, events: Iterable[Event]) -> None:
        """Check the next stretch of the journal."""
        for event in events:
            self._check(event)
            self.tail = Tail(event.seq, event.event_hash, event.created_at)
            self.count += 1

    def reached(self, known: Tail) -> None:
        """Check that the walk came to the tail as it was known before: nothing is cut off."""
        cut_off = self.tail.seq < known.seq
        replaced = self.tail.seq == known.seq and self.tail.event_hash != known.event_hash
        if cut_off or replaced:
            self.errors.append(
                f"event {known.seq}: is the tail, but the journal does not end in it"
            )

    def _check(self, event: Event) -> None:
        if event.seq != self.tail.seq + 1:
            self.errors.append(f"event {event.seq}: follows event {self.tail.seq}")
        if event.previous_hash != self.tail.event_hash:
            self.errors.append(f"event {event.seq}: does not link to the event before it")
        if event.created_at < self.tail.created_at:
            self.errors.append(f"event {event.seq}: is older than the event before it")
        if event.event_hash != _recomputed(event):
            self.errors.append(f"event {event.seq}: its content does not match its hash")


def _recomputed(event: Event) -> str:
    return event_hash(
        event.previous_hash,
        event_type=event.event_type,
        account_id=event.account_id,
        to_account_id=event.to_account_id,
        amount_minor=event.amount_minor,
        bucket=event.bucket,
        idempotency_key=event.idempotency_key,
        created_at=event.created_at,
    )
