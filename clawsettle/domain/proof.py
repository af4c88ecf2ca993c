"""The proof of a book: replay its journal from the first event, and compare what it has become.

Everything follows from the journal: balances from the postings, reservations and risk holds from
what the events say they opened and closed. So a row changed behind the ledger's back disagrees with
it, and a changed event breaks its own hashes. Faults are named by what they were found in, the
first first. What no event tells is not proved: when an account was opened, what a clearing account
is called, and accounts that never had any money.
Source: ledger-api contract sections 2.3, 11 and 13 (L4, L16, L23).
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from attrs import define, evolve, field, frozen

from clawsettle.domain.accounts import account_ids, clearing_ids
from clawsettle.domain.book import Reservation, ReservationKind, RiskHold
from clawsettle.domain.ingestion import receivable_account_id
from clawsettle.domain.instants import to_millisecond
from clawsettle.domain.journal import (
    ACCOUNT_EFFECT,
    GENESIS_HASH,
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
from clawsettle.domain.risk_holds import applied_hash, applied_hash_of, release_key

ERRORS_MAX = 100
_GENESIS = Tail(0, GENESIS_HASH, GENESIS_HASH, datetime.min.replace(tzinfo=UTC))
_HASH = re.compile("[0-9a-f]{64}")


@frozen
class Unreadable:
    """A record that cannot be read as what it should be: its name, and why not."""

    record: str
    why: str


BookItem = Event | Account | Reservation | RiskHold | Tail | Unreadable
"""A record of a book, as a proof is shown it and an export holds it."""


def record_name(item: BookItem) -> str:
    """Return what a record is called in errors."""
    match item:
        case Event():
            return f"event {item.seq}"
        case Account():
            return f"account {item.account_id}"
        case Reservation():
            return f"reservation {item.reservation_id}"
        case RiskHold():
            return f"hold {item.hold_id}"
        case Tail():
            return "tail"
        case Unreadable():
            return item.record


@frozen
class Note:
    """What somebody has noted of a journal: the content hash of one of its events."""

    seq: int
    content_hash: str


@define
class _Standing:
    """What the journal has made of an account so far, in minor units."""

    balances: dict[Bucket, int] = field(factory=lambda: dict.fromkeys(Bucket, 0))
    reserved_minor: int = 0
    moved_at: datetime | None = None

    @property
    def short_minor(self) -> int:
        """Return how much less is held than is reserved; 0 when held covers it."""
        return max(self.reserved_minor - self.balances[Bucket.HELD], 0)


@define
class Proof:
    """Replays a journal and collects what does not hold; ``error_count`` 0 means that all does.

    ``take`` the events in their order first, then any other records, the tail last, then
    ``finish``. After a broken link it goes on from the stored hash. Of more than ``ERRORS_MAX``
    errors the first are kept and all are counted. ``line`` is where the next record stands in an
    export, and then part of its name; ``noted`` must be in the journal.
    """

    noted: Note | None = None
    line: int | None = None
    tail: Tail = _GENESIS
    errors: list[str] = field(factory=list)
    error_count: int = 0
    event_count: int = 0
    _standings: dict[str, _Standing] = field(factory=dict)
    _reservations: dict[str, Reservation] = field(factory=dict)
    _applied_hashes: dict[str, str] = field(factory=dict)
    _release_keys: dict[str, str] = field(factory=dict)
    _shown: set[str] = field(factory=set)

    def take(self, items: Iterable[BookItem]) -> None:
        """Check the next records."""
        for item in items:
            match item:
                case Event():
                    self._event(item)
                case Account():
                    self._account(item)
                case Reservation():
                    self._reservation(item)
                case RiskHold():
                    self._hold(item)
                case Tail():
                    self._tail(item)
                case Unreadable():
                    self.fail(item.record, item.why)

    def reached(self, known: Tail) -> None:
        """Check that the walk came to the tail as the writers knew it: nothing is cut off.

        A walk that was slower than the writers has come further, which is no fault.
        """
        if self.tail.seq < known.seq or (self.tail.seq == known.seq and not self._ends_in(known)):
            self.fail(f"event {known.seq}", "is the tail, but the journal does not end in it")

    def finish(self) -> None:
        """Check that nothing the journal speaks of was missing among the records."""
        if "tail" not in self._shown:
            self.fail("tail", "is missing, and perhaps more before it: this is not a whole book")
            return
        expected = [f"account {account_id}" for account_id in self._standings]
        expected += [f"reservation {reservation_id}" for reservation_id in self._reservations]
        expected += [f"hold {hold_id}" for hold_id in self._applied_hashes]
        for record in expected:
            if record not in self._shown:
                self.fail(record, "is in the journal, but not among the records")
        if self.noted is not None and self.noted.seq > self.tail.seq:
            self.fail(f"event {self.noted.seq}", "was noted, but the journal ends before it")

    def fail(self, record: str, problem: str) -> None:
        """Take note of what does not hold in a record; an empty name for what is none."""
        if self.line is not None:
            record = f"line {self.line} ({record})" if record else f"line {self.line}"
        self.error_count += 1
        if self.error_count <= ERRORS_MAX:
            self.errors.append(f"{record}: {problem}")

    def trial_balance(self) -> Mapping[AccountKind, Mapping[Bucket, int]]:
        """Return the sum of the postings by kind of account and bucket; all together are zero."""
        sums = {kind: dict.fromkeys(Bucket, 0) for kind in AccountKind}
        for account_id, standing in self._standings.items():
            for bucket, balance in standing.balances.items():
                sums[_kind(account_id)][bucket] += balance
        return sums

    def contra_balances(self) -> Mapping[str, int]:
        """Return what each contra account stands at, receivables included."""
        return {
            account_id: standing.balances[Bucket.AVAILABLE]
            for account_id, standing in sorted(self._standings.items())
            if _kind(account_id) is _EXTERNAL
        }

    def owed(self) -> Mapping[str, int]:
        """Return what each account owes for refunds that it did not cover."""
        contra = self.contra_balances()
        receivables = {one: -contra.get(receivable_account_id(one), 0) for one in self._standings}
        return {one: receivables[one] for one in sorted(receivables) if receivables[one]}

    def undercut(self) -> Mapping[str, tuple[int, int]]:
        """Return held and reserved of the accounts from which an admin has moved reserved money."""
        return {
            account_id: (standing.balances[Bucket.HELD], standing.reserved_minor)
            for account_id, standing in sorted(self._standings.items())
            if standing.short_minor
        }

    def _event(self, event: Event) -> None:
        self._check_link(event)
        self._check_postings(event)
        standing = self._standing(event.account_id)
        short_minor = standing.short_minor
        for posting in event.postings:
            self._post(event, posting)
        told = self._told(event)
        if "reservation" in told:
            self._replay_reservation(event, told["reservation"])
        # Held covers the reservations, or an event says since when not.
        if standing.short_minor > short_minor and "undercut" not in told:
            self.fail(record_name(event), f"leaves {event.account_id} less held than is reserved")
        self.tail = Tail(event.seq, event.event_hash, event.content_hash, event.created_at)
        self.event_count += 1

    def _check_link(self, event: Event) -> None:
        name = record_name(event)
        if event.seq != self.tail.seq + 1:
            self.fail(name, f"follows event {self.tail.seq}")
        if event.previous_hash != self.tail.event_hash:
            self.fail(name, "does not link to the event before it")
        if event.created_at < self.tail.created_at:
            self.fail(name, "is older than the event before it")
        link = event_hash(
            event.previous_hash,
            event_type=event.event_type,
            account_id=event.account_id,
            to_account_id=event.to_account_id,
            amount_minor=event.amount_minor,
            bucket=event.bucket,
            idempotency_key=event.idempotency_key,
            created_at=event.created_at,
        )
        if event.event_hash != link:
            self.fail(name, "its content does not match its hash")
        content = content_hash(
            self.tail.content_hash,
            event.event_hash,
            event_id=event.event_id,
            request_hash=event.request_hash,
            postings=event.postings,
            metadata_json=event.metadata_json,
        )
        if event.content_hash != content:
            self.fail(name, "its id, postings or metadata do not match its content hash")
        if self.noted and self.noted.seq == event.seq and self.noted != _note(event):
            self.fail(name, "is not the one that was noted: the journal was written anew")
        # To the hashes an absent field is an empty one, and an instant has milliseconds.
        if (
            (event.to_account_id is None) is (event.event_type is EventType.TRANSFER)
            or not (event.request_hash is None or _HASH.fullmatch(event.request_hash))
            or event.created_at != to_millisecond(event.created_at)
        ):
            self.fail(name, "has a field that no ledger writes so")

    def _check_postings(self, event: Event) -> None:
        """Check that the postings say what the event says, and sum to zero."""
        delta_minor = ACCOUNT_EFFECT[event.event_type] * event.amount_minor
        if not delta_minor:
            expected = event.postings == ()
        else:
            first, *others = event.postings or (None,)
            expected = (
                first == Posting(event.account_id, event.bucket, delta_minor)
                and len(others) == 1
                and others[0].delta_minor == -delta_minor
                and (
                    _kind(others[0].account_id) is _EXTERNAL
                    if event.event_type is not EventType.TRANSFER
                    else others[0].account_id == event.to_account_id
                )
            )
        if not expected:
            self.fail(record_name(event), "its postings do not balance what it says")

    def _post(self, event: Event, posting: Posting) -> None:
        standing = self._standing(posting.account_id)
        standing.moved_at = event.created_at
        standing.balances[posting.bucket] += posting.delta_minor
        if standing.balances[posting.bucket] < 0 and _kind(posting.account_id) is not _EXTERNAL:
            self.fail(
                record_name(event), f"takes {posting.bucket} of {posting.account_id} below zero"
            )

    def _told(self, event: Event) -> Mapping[str, object]:
        """Return the metadata of an event that may say something of reservations, else nothing."""
        told: object = {}
        if '"reservation"' in event.metadata_json or '"undercut"' in event.metadata_json:
            try:
                told = event.metadata
            except (RecursionError, ValueError):
                told = None
        if isinstance(told, dict):
            return told
        self.fail(record_name(event), "its metadata is no JSON object")
        return {}

    def _replay_reservation(self, event: Event, effect: object) -> None:
        told = effect if isinstance(effect, dict) else {}
        reservation_id = str(told.get("reservation_id"))
        known = self._reservations.get(reservation_id)
        money = (event.account_id, event.amount_minor)
        standing = self._standing(event.account_id)
        if known is None and told.get("opened") in list(ReservationKind):
            kind = ReservationKind(told["opened"])
            self._reservations[reservation_id] = Reservation(
                reservation_id, kind, *money, event.event_id, None, event.created_at, None
            )
            standing.reserved_minor += event.amount_minor
            if kind is ReservationKind.RISK_HOLD:
                self._apply_hold(reservation_id, event)
        elif (
            known is not None
            and told.get("closed") == known.kind
            and known.closed_event_id is None
            and money == (known.account_id, known.amount_minor)
        ):
            self._reservations[reservation_id] = evolve(
                known, closed_event_id=event.event_id, closed_at=event.created_at
            )
            standing.reserved_minor -= event.amount_minor
            self._release_keys[reservation_id] = release_key(reservation_id, event)
        else:
            self.fail(record_name(event), f"cannot do to {reservation_id} what it says it does")

    def _apply_hold(self, hold_id: str, event: Event) -> None:
        try:
            self._applied_hashes[hold_id] = applied_hash_of(event)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            self.fail(record_name(event), f"does not tell what {hold_id} is for")

    def _account(self, account: Account) -> None:
        record = record_name(account)
        standing = self._standing(account.account_id)
        self._show(record)
        if not _is_own_id(account):
            self.fail(record, "its id is not that of its kind, DID or domain")
        for bucket, posted_minor in standing.balances.items():
            stated_minor = account.balances[bucket]
            if stated_minor != posted_minor:
                self.fail(record, f"{bucket} is {stated_minor}, its postings sum to {posted_minor}")
        if account.reserved_minor != standing.reserved_minor:
            self.fail(
                record,
                f"reserved is {account.reserved_minor}, "
                f"its reservations sum to {standing.reserved_minor}",
            )
        if account.updated_at != (standing.moved_at or account.created_at):
            self.fail(record, "was not updated when its last event moved it")

    def _reservation(self, reservation: Reservation) -> None:
        record = record_name(reservation)
        self._show(record)
        if reservation != self._reservations.get(reservation.reservation_id):
            self.fail(record, "is not what the journal says of it")

    def _hold(self, hold: RiskHold) -> None:
        record = record_name(hold)
        self._show(record)
        reservation = self._reservations.get(hold.hold_id)
        if reservation is None or (
            applied_hash(hold),
            hold.release_idempotency_key,
            hold.release_transfer_event_id,
            hold.released_at,
            hold.updated_at,
        ) != (
            self._applied_hashes.get(hold.hold_id),
            self._release_keys.get(hold.hold_id),
            reservation.closed_event_id,
            reservation.closed_at,
            reservation.closed_at or reservation.opened_at,
        ):
            self.fail(record, "is not what the journal says of it")

    def _tail(self, known: Tail) -> None:
        self._show("tail")
        if not self._ends_in(known):
            self.fail("tail", f"is not the journal's last event, which is {self.tail.seq}")

    def _show(self, record: str) -> None:
        if record in self._shown:
            self.fail(record, "is there twice")
        self._shown.add(record)

    def _standing(self, account_id: str) -> _Standing:
        standing = self._standings.get(account_id)
        if standing is None:
            standing = self._standings[account_id] = _Standing()
        return standing

    def _ends_in(self, known: Tail) -> bool:
        # The tail of an empty journal has the instant of the installation.
        return self.tail == (
            evolve(known, created_at=self.tail.created_at) if not known.seq else known
        )


_EXTERNAL = AccountKind.EXTERNAL
_KIND_BY_PREFIX = {"acc_": AccountKind.USER, "clr_": AccountKind.CLEARING}


def _kind(account_id: str) -> AccountKind:
    return _KIND_BY_PREFIX.get(account_id[:4], _EXTERNAL)


def _is_own_id(account: Account) -> bool:
    """Return whether an account's id is one that its kind, and its DID or domain, have."""
    match account:
        case Account(kind=AccountKind.USER, did=str(did), domain=None):
            return account.account_id in account_ids(did)
        case Account(kind=AccountKind.CLEARING, did=None, domain=str(domain)):
            return account.account_id in clearing_ids(domain)
        case Account(kind=AccountKind.EXTERNAL, did=None, domain=None):
            return _kind(account.account_id) is _EXTERNAL
        case _:
            return False


def _note(event: Event) -> Note:
    return Note(event.seq, event.content_hash)
