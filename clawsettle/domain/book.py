"""The book: what a batch of requests may look at, and what it has changed so far.

A command is decided on a ``Draft``, which becomes part of the book only when the whole decision
stands: a refused request leaves no trace, however far it came. Money moves in one place,
``Draft.write``, which refuses to take a bucket below zero.
Source: ledger-api contract sections 2.3, 11 and 13 (L1 to L3).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import define, evolve, field, fields, frozen

from clawsettle.domain.accounts import AccountRef
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import ConflictError, NotFoundError
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.journal import (
    ACCOUNT_EFFECT,
    Account,
    AccountKind,
    Bucket,
    Event,
    EventType,
    Posting,
    Tail,
    content_hash,
    event_hash,
)
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.settlements import NaturalKey, Settlement

Place = tuple[str, Bucket]
"""An account id and one of its buckets."""


class ReservationKind(StrEnum):
    """What an amount is held for."""

    PAYOUT = "payout"
    RISK_HOLD = "risk_hold"


@frozen
class Reservation:
    """An amount of an account's held bucket that belongs to one payout or risk hold.

    Active until an event closes it, then never again.
    """

    reservation_id: str
    kind: ReservationKind
    account_id: str
    amount_minor: int
    opened_event_id: str
    closed_event_id: str | None
    opened_at: datetime
    closed_at: datetime | None


@frozen
class RiskHold:
    """A risk hold as recorded; its money is the reservation of the same id."""

    hold_id: str
    idempotency_key: str
    source_loss_event_id: str
    account_ref: str
    account_id: str
    amount_minor: int
    currency: str
    reason: str
    metadata: Mapping[str, object]
    hold_transfer_event_id: str
    release_idempotency_key: str | None
    release_transfer_event_id: str | None
    created_at: datetime
    updated_at: datetime
    released_at: datetime | None

    def view(self) -> dict[str, object]:
        """Render the contract's hold JSON; what is unset is null."""
        return {
            "hold_id": self.hold_id,
            "idempotency_key": self.idempotency_key,
            "source_loss_event_id": self.source_loss_event_id,
            "account_ref": self.account_ref,
            "account_id": self.account_id,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "reason": self.reason,
            "status": "active" if self.released_at is None else "released",
            "hold_transfer_event_id": self.hold_transfer_event_id,
            "release_idempotency_key": self.release_idempotency_key,
            "release_transfer_event_id": self.release_transfer_event_id,
            "metadata": self.metadata,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "released_at": None if self.released_at is None else iso_instant(self.released_at),
        }


@frozen
class StoredAnswer:
    """The first answer under an idempotency key, kept for ever with the request's hash."""

    key: str
    request_hash: str
    settlement_id: str
    body: Mapping[str, object]


@frozen
class Answer:
    """What a command did: ``created`` when it changed the book, and the contract's JSON body.

    ``undercut`` tells of a transfer that took held money which reservations count on.
    """

    created: bool
    body: Mapping[str, object]
    undercut: Mapping[str, object] | None = None


@define
class Records:
    """The ledger's records, each kind by its key; events by idempotency key, in their order.

    ``holds_by_source`` finds the hold of a loss event. ``refunded`` is the confirmed total, in
    minor units, of the refunds that name one payin, by its provider and external id.
    """

    accounts: dict[str, Account] = field(factory=dict)
    settlements: dict[NaturalKey, Settlement] = field(factory=dict)
    answers: dict[str, StoredAnswer] = field(factory=dict)
    events: dict[str, Event] = field(factory=dict)
    holds: dict[str, RiskHold] = field(factory=dict)
    holds_by_source: dict[str, str] = field(factory=dict)
    reservations: dict[str, Reservation] = field(factory=dict)
    refunded: dict[tuple[str, str], int] = field(factory=dict)

    def take(self, others: "Records") -> None:
        """Take others in, which replace those of the same key."""
        for name in _KINDS:
            found: dict[Any, Any] = getattr(others, name)
            if found:
                getattr(self, name).update(found)


_KINDS = tuple(attribute.name for attribute in fields(Records))


@define
class Book:
    """A batch's working set.

    ``now`` is the database's clock cut to the millisecond; it never runs behind the tail.
    ``strict`` refuses transfers to accounts that do not exist, instead of opening them.
    ``known`` is what was loaded with all changes, ``changed`` the changes alone.
    """

    currency: str
    now: datetime
    tail: Tail
    known: Records
    strict: bool = False
    changed: Records = field(factory=Records)


@define
class Draft:
    """What one command would change; ``accept`` makes it part of the book."""

    book: Book
    tail: Tail
    fresh: Records = field(factory=Records)

    def accept(self) -> None:
        """Make the draft part of the book."""
        self.book.known.take(self.fresh)
        self.book.changed.take(self.fresh)
        self.book.tail = self.tail

    def account(self, account_id: str) -> Account | None:
        """Return the account with this id."""
        return self.fresh.accounts.get(account_id) or self.book.known.accounts.get(account_id)

    def find(self, ref: AccountRef) -> Account | None:
        """Return the account that a reference means, if there is one."""
        for account_id in ref.account_ids:
            account = self.account(account_id)
            if account is None:
                return None
            if (ref.did, ref.domain) in ((account.did, account.domain), (None, None)):
                return account
        return None

    def find_or_open(self, ref: AccountRef, *, name: str | None = None) -> Account:
        """Return the account that a reference means, opened if need be.

        A clearing account is called by its domain unless a ``name`` is given.

        Raises: NotFoundError for an id of no account, ConflictError CREATE_FAILED when both ids of
        a name belong to other names.
        """
        found = self.find(ref)
        if found is not None:
            return found
        if ref.did is None and ref.domain is None:
            raise NotFoundError("no such account")
        free = [account_id for account_id in ref.account_ids if self.account(account_id) is None]
        if not free:
            raise ConflictError("both its ids belong to other accounts", code="CREATE_FAILED")
        kind = AccountKind.USER if ref.domain is None else AccountKind.CLEARING
        return self._open(free[0], kind, ref.did, ref.domain, name or ref.domain)

    def contra(self, account_id: str) -> Account:
        """Return a contra account, opened if need be."""
        return self.account(account_id) or self._open(account_id, AccountKind.EXTERNAL)

    def write(
        self,
        event_type: EventType,
        *,
        key: str,
        place: Place,
        amount_minor: int,
        metadata: Mapping[str, object],
        other: Place | None = None,
        to_account_id: str | None = None,
        request_hash: str | None = None,
    ) -> Event:
        """Move the amount between ``place`` and ``other``, and chain the event; no other, a memo.

        Raises: ConflictError INSUFFICIENT_FUNDS or BALANCE_LIMIT_EXCEEDED.
        """
        postings: tuple[Posting, ...] = ()
        if other is not None:
            delta_minor = ACCOUNT_EFFECT[event_type] * amount_minor
            postings = (Posting(*place, delta_minor), Posting(*other, -delta_minor))
            # What is taken is looked at before what is given, so lack of cover is told first.
            for posting in postings if delta_minor < 0 else reversed(postings):
                self._shift(posting)
        account_id, bucket = place
        now, seq = self.book.now, self.tail.seq + 1
        link = event_hash(
            self.tail.event_hash,
            event_type=event_type,
            account_id=account_id,
            to_account_id=to_account_id,
            amount_minor=amount_minor,
            bucket=bucket,
            idempotency_key=key,
            created_at=now,
        )
        # Ids that grow keep their index small in memory; the hash's part makes them unguessable.
        event_id = f"evt_{seq:012x}{link[:20]}"
        metadata_json = compact_json(metadata)
        content = content_hash(
            self.tail.content_hash,
            link,
            event_id=event_id,
            request_hash=request_hash,
            postings=postings,
            metadata_json=metadata_json,
        )
        event = Event(
            seq=seq,
            event_id=event_id,
            idempotency_key=key,
            event_type=event_type,
            account_id=account_id,
            to_account_id=to_account_id,
            amount_minor=amount_minor,
            bucket=bucket,
            previous_hash=self.tail.event_hash,
            event_hash=link,
            content_hash=content,
            request_hash=request_hash,
            metadata_json=metadata_json,
            created_at=now,
            postings=postings,
        )
        self.fresh.events[key] = event
        self.tail = Tail(seq, link, content, now)
        return event

    def reserve(self, kind: ReservationKind, reservation_id: str, event: Event) -> None:
        """Reserve what ``event`` has moved into the held bucket of its account."""
        self.fresh.reservations[reservation_id] = Reservation(
            reservation_id,
            kind,
            event.account_id,
            event.amount_minor,
            event.event_id,
            None,
            self.book.now,
            None,
        )
        self._change_reserved(event.account_id, event.amount_minor)

    def close_reservation(self, reservation: Reservation, event: Event) -> None:
        """Close an active reservation, whose money ``event`` has taken out of the held bucket."""
        self.fresh.reservations[reservation.reservation_id] = evolve(
            reservation, closed_event_id=event.event_id, closed_at=self.book.now
        )
        self._change_reserved(reservation.account_id, -reservation.amount_minor)

    def _open(
        self,
        account_id: str,
        kind: AccountKind,
        did: str | None = None,
        domain: str | None = None,
        name: str | None = None,
    ) -> Account:
        now = self.book.now
        account = Account(
            account_id, kind, did, domain, name, dict.fromkeys(Bucket, 0), 0, now, now
        )
        self.fresh.accounts[account_id] = account
        return account

    def _shift(self, posting: Posting) -> None:
        account = self.account(posting.account_id)
        assert account is not None  # noqa: S101 - whoever moves money has found or opened it
        balance = account.balances[posting.bucket]
        after = balance + posting.delta_minor
        if after < 0 and account.kind is not AccountKind.EXTERNAL:
            raise insufficient_funds(account, posting.bucket, -posting.delta_minor, balance)
        if max(abs(after), abs(account.total_minor + posting.delta_minor)) > MINOR_MAX:
            raise ConflictError(
                f"a balance holds at most {MINOR_MAX}",
                code="BALANCE_LIMIT_EXCEEDED",
                details={"account_id": account.account_id, "bucket": str(posting.bucket)},
            )
        self._put(account, {**account.balances, posting.bucket: after}, account.reserved_minor)

    def _change_reserved(self, account_id: str, delta_minor: int) -> None:
        account = self.account(account_id)
        assert account is not None  # noqa: S101 - its held bucket has just moved
        self._put(account, account.balances, account.reserved_minor + delta_minor)

    def _put(self, account: Account, balances: Mapping[Bucket, int], reserved_minor: int) -> None:
        self.fresh.accounts[account.account_id] = Account(
            account.account_id,
            account.kind,
            account.did,
            account.domain,
            account.name,
            balances,
            reserved_minor,
            account.created_at,
            self.book.now,
        )


def insufficient_funds(
    account: Account, bucket: Bucket, requested_minor: int, available_minor: int
) -> ConflictError:
    """Return the refusal of an amount that a bucket does not cover."""
    return ConflictError(
        "the account does not cover the amount",
        code="INSUFFICIENT_FUNDS",
        details={
            "account_id": account.account_id,
            "bucket": str(bucket),
            "requested": str(requested_minor),
            "available": str(available_minor),
        },
    )
