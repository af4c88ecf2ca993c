"""The proof of a book: replay its journal from the first event, and compare what it has become.

Everything follows from the journal: balances from the postings, reservations from what the events
say they opened and closed. So a row changed behind the ledger's back disagrees with it, and a
changed event breaks its own hashes. Faults are named by what they were found in, the first first.
Source: ledger-api contract sections 2.3, 11 and 13 (L4, L16, L23).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from attrs import define, field

from clawsettle.domain.book import Reservation, ReservationKind, RiskHold
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

BookItem = Event | Account | Reservation | RiskHold | Tail
"""A record of a book, as a proof is shown it and an export holds it."""

ERRORS_MAX = 100


@define
class Proof:
    """Replays a journal and collects what does not hold; ``error_count`` 0 means that all does.

    ``take`` the events in their order first, then any other records, then ``finish`` when all were
    shown. After a broken link it goes on from the stored hash, so one fault is named once. Of more
    than ``ERRORS_MAX`` errors the first are kept and all are counted.
    """

    tail: Tail = field(
        factory=lambda: Tail(0, GENESIS_HASH, GENESIS_HASH, datetime.min.replace(tzinfo=UTC))
    )
    errors: list[str] = field(factory=list)
    error_count: int = 0
    event_count: int = 0
    undercut: dict[str, int] = field(factory=dict)
    _balances: dict[str, dict[Bucket, int]] = field(
        factory=lambda: defaultdict(lambda: dict.fromkeys(Bucket, 0))
    )
    _reserved: dict[str, int] = field(factory=lambda: defaultdict(int))
    _reservations: dict[str, Reservation] = field(factory=dict)
    _seen: dict[str, set[str]] = field(factory=lambda: defaultdict(set))

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
                    self.reached(item)

    def reached(self, known: Tail) -> None:
        """Check that the walk came to the tail as the writers know it: nothing is cut off."""
        # A walk that was slower than the writers has come further, which is no fault.
        if self.tail.seq < known.seq or (self.tail.seq == known.seq and self.tail != known):
            self.fail(f"event {known.seq}: is the tail, but the journal does not end in it")

    def finish(self) -> None:
        """Check that nothing the journal speaks of was missing among the records."""
        for account_id, balances in self._balances.items():
            if any(balances.values()) and account_id not in self._seen["account"]:
                self.fail(f"account {account_id}: has postings, but there is no such account")
        for reservation_id in self._reservations:
            if reservation_id not in self._seen["reservation"]:
                self.fail(f"reservation {reservation_id}: was opened, but there is no such row")

    def fail(self, error: str) -> None:
        """Take note of what does not hold."""
        self.error_count += 1
        if self.error_count <= ERRORS_MAX:
            self.errors.append(error)

    def trial_balance(self) -> Mapping[AccountKind, Mapping[Bucket, int]]:
        """Return the sum of the postings by kind of account and bucket; all together are zero."""
        sums = {kind: dict.fromkeys(Bucket, 0) for kind in AccountKind}
        for account_id, balances in self._balances.items():
            for bucket, balance in balances.items():
                sums[_kind(account_id)][bucket] += balance
        return sums

    def contra_balances(self) -> Mapping[str, int]:
        """Return what each contra account stands at; a receivable below zero is owed to us."""
        return {
            account_id: balances[Bucket.AVAILABLE]
            for account_id, balances in sorted(self._balances.items())
            if _kind(account_id) is AccountKind.EXTERNAL
        }

    def _event(self, event: Event) -> None:
        self._check_link(event)
        self._check_postings(event)
        for posting in event.postings:
            balances = self._balances[posting.account_id]
            balances[posting.bucket] += posting.delta_minor
            if balances[posting.bucket] < 0 and _kind(posting.account_id) is not _EXTERNAL:
                self.fail(
                    f"event {event.seq}: takes {posting.bucket} of {posting.account_id} below zero"
                )
        metadata = event.metadata
        self._replay_reservation(event, metadata.get("reservation"))
        self._check_cover(event, flagged="undercut" in metadata)
        self.tail = Tail(event.seq, event.event_hash, event.content_hash, event.created_at)
        self.event_count += 1

    def _check_link(self, event: Event) -> None:
        name = f"event {event.seq}"
        if event.seq != self.tail.seq + 1:
            self.fail(f"{name}: follows event {self.tail.seq}")
        if event.previous_hash != self.tail.event_hash:
            self.fail(f"{name}: does not link to the event before it")
        if event.created_at < self.tail.created_at:
            self.fail(f"{name}: is older than the event before it")
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
            self.fail(f"{name}: its content does not match its hash")
        content = content_hash(
            self.tail.content_hash,
            event.event_hash,
            event_id=event.event_id,
            request_hash=event.request_hash,
            postings=event.postings,
            metadata_json=event.metadata_json,
        )
        if event.content_hash != content:
            self.fail(f"{name}: its id, postings or metadata do not match its content hash")

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
            self.fail(f"event {event.seq}: its postings do not balance what it says")

    def _replay_reservation(self, event: Event, effect: object) -> None:
        if not isinstance(effect, dict):
            return
        reservation_id = str(effect.get("reservation_id"))
        known = self._reservations.get(reservation_id)
        money = (event.account_id, event.amount_minor)
        if "opened" in effect and known is None:
            kind = ReservationKind(effect["opened"])
            self._reservations[reservation_id] = Reservation(
                reservation_id, kind, *money, event.event_id, None, event.created_at, None
            )
            self._reserved[event.account_id] += event.amount_minor
        elif (
            "closed" in effect
            and known is not None
            and known.closed_event_id is None
            and money == (known.account_id, known.amount_minor)
        ):
            self._reservations[reservation_id] = Reservation(
                reservation_id,
                known.kind,
                *money,
                known.opened_event_id,
                event.event_id,
                known.opened_at,
                event.created_at,
            )
            self._reserved[event.account_id] -= event.amount_minor
        else:
            self.fail(f"event {event.seq}: cannot do to {reservation_id} what it says it does")

    def _check_cover(self, event: Event, *, flagged: bool) -> None:
        """Check that held covers the reservations, or that an event says since when not."""
        account_id = event.account_id
        held_minor = self._balances[account_id][Bucket.HELD]
        short_minor = self._reserved[account_id] - held_minor
        if short_minor <= 0:
            self.undercut.pop(account_id, None)
            return
        if account_id not in self.undercut and not flagged:
            self.fail(f"event {event.seq}: leaves {account_id} less held than is reserved")
        self.undercut[account_id] = short_minor

    def _account(self, account: Account) -> None:
        self._seen["account"].add(account.account_id)
        name = f"account {account.account_id}"
        if account.kind is not _kind(account.account_id):
            self.fail(f"{name}: is called {account.kind}")
        for bucket, posted_minor in self._balances[account.account_id].items():
            if account.balances[bucket] != posted_minor:
                self.fail(
                    f"{name}: {bucket} is {account.balances[bucket]}, "
                    f"its postings sum to {posted_minor}"
                )
        if account.reserved_minor != self._reserved[account.account_id]:
            self.fail(
                f"{name}: reserved is {account.reserved_minor}, "
                f"its reservations sum to {self._reserved[account.account_id]}"
            )

    def _reservation(self, reservation: Reservation) -> None:
        self._seen["reservation"].add(reservation.reservation_id)
        if reservation != self._reservations.get(reservation.reservation_id):
            self.fail(
                f"reservation {reservation.reservation_id}: is not what the journal says of it"
            )

    def _hold(self, hold: RiskHold) -> None:
        reservation = self._reservations.get(hold.hold_id)
        if reservation is None or (
            hold.account_id,
            hold.amount_minor,
            hold.hold_transfer_event_id,
            hold.release_transfer_event_id,
        ) != (
            reservation.account_id,
            reservation.amount_minor,
            reservation.opened_event_id,
            reservation.closed_event_id,
        ):
            self.fail(f"hold {hold.hold_id}: is not what the journal says of it")


_EXTERNAL = AccountKind.EXTERNAL
_KIND_BY_PREFIX = {"acc_": AccountKind.USER, "clr_": AccountKind.CLEARING}


def _kind(account_id: str) -> AccountKind:
    return _KIND_BY_PREFIX.get(account_id[:4], AccountKind.EXTERNAL)
