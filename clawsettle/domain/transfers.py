"""Transfers between any two buckets, and what stands behind the held one.

A payout's lock, finalisation and rollback are transfers whose keys say so. The lock reserves its
amount; the other two spend that reservation, once and whole. Any other transfer may take only held
money that nothing is reserved from, save one: an admin's move between the buckets of one account
may undercut the reservations, and then its event and its answer say so.
Source: ledger-api contract sections 6 and 13 (L3, L5, L13, L16, L18); payouts contract section 4.
"""

from collections.abc import Mapping

from attrs import frozen

from clawsettle.domain.accounts import AccountRef, account_ref
from clawsettle.domain.book import (
    Answer,
    Draft,
    Reservation,
    ReservationKind,
    insufficient_funds,
)
from clawsettle.domain.canonical import canonical_json, compact_json, sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError, NotFoundError
from clawsettle.domain.fields import (
    KEY_MAX,
    amount,
    body_object,
    optional_object,
    refuse_unstorable,
    required_text,
)
from clawsettle.domain.journal import Account, Bucket, Event, EventType
from clawsettle.domain.money import currency_code

BUCKETS: Mapping[str, Bucket] = {
    "A": Bucket.AVAILABLE,
    "H": Bucket.HELD,
    "B": Bucket.BONDED,
    "F": Bucket.FEE_POOL,
    "P": Bucket.PROMO,
}
"""The letters of the wire."""

RESERVED_PREFIXES = ("payment_settlement:", "risk_hold:")
"""Keys of the ledger's own events, which no transfer may take."""

OWN_FIELDS = frozenset({"spec_v1", "from_bucket", "to_bucket", "reservation", "undercut"})
"""What only the ledger says in a transfer's metadata."""

_LOCK = "payout:lock:"
_PAYOUT_PREFIXES = (_LOCK, "payout:finalize:", "payout:rollback:")


@frozen
class Side:
    """One end of a transfer: the account as it was named, and the letter of its bucket.

    ``ref`` is None when the text names no account.
    """

    text: str
    letter: str
    ref: AccountRef | None

    @classmethod
    def of(cls, text: str, letter: str) -> "Side":
        """Return the end that is named so."""
        return cls(text, letter, account_ref(text))

    @property
    def bucket(self) -> Bucket:
        """Return the bucket."""
        return BUCKETS[self.letter]


@frozen
class TransferRequest:
    """A validated request to move an amount, in minor units, from one bucket to another.

    ``request_hash`` covers what moves money: a repetition may give other metadata.
    """

    key: str
    source: Side
    destination: Side
    amount_minor: int
    currency: str
    metadata: Mapping[str, object]
    request_hash: str

    @property
    def payout_id(self) -> str | None:
        """Return the payout that the key says this transfer is about."""
        prefix = next((one for one in _PAYOUT_PREFIXES if self.key.startswith(one)), None)
        return self.key.removeprefix(prefix) if prefix else None


def payout_reservation_id(payout_id: str) -> str:
    """Return the id of what a payout has reserved."""
    return f"payout:{payout_id}"


def parse_transfer(body: object, *, currency: str) -> TransferRequest:
    """Validate a transfer's body in the contract's order; ``currency`` is the book's.

    Raises: CallerError INVALID_REQUEST at the first bad field, UNSUPPORTED_CURRENCY. Whether the
    accounts exist, or are none, is decided with the book.
    """
    body = body_object(body)
    key = required_text(body, "idempotency_key", KEY_MAX)
    require_currency(body.get("currency"), currency)
    source, destination = _side(body, "from"), _side(body, "to")
    amount_minor = amount(body)
    metadata = optional_object(body, "metadata") or {}
    refuse_unstorable(metadata, compact_json(metadata))
    if key.startswith(RESERVED_PREFIXES):
        raise CallerError(f"keys of {' and '.join(RESERVED_PREFIXES)} are the ledger's own")
    money = {
        "currency": currency,
        "from": {"account": source.text, "bucket": source.letter},
        "to": {"account": destination.text, "bucket": destination.letter},
        "amount_minor": str(amount_minor),
    }
    return TransferRequest(
        key,
        source,
        destination,
        amount_minor,
        currency,
        metadata,
        sha256_hex(canonical_json(money)),
    )


def require_currency(value: object, currency: str) -> None:
    """Return when ``value`` is the book's currency, in any case.

    Raises: CallerError UNSUPPORTED_CURRENCY.
    """
    if currency_code(value) != currency:
        raise CallerError(f"this ledger keeps {currency} only", code="UNSUPPORTED_CURRENCY")


def _side(body: Mapping[str, object], name: str) -> Side:
    side = body_object(body.get(name), name)
    text = required_text(side, "account")
    letter = side.get("bucket")
    if not isinstance(letter, str) or letter not in BUCKETS:
        raise CallerError(f"{name}.bucket must be one of {', '.join(BUCKETS)}")
    return Side.of(text, letter)


@frozen
class Movement:
    """An amount on its way from one bucket to another, and what it does to reservations.

    ``opens`` names the reservation it makes, ``closes`` the one it spends, ``undercut`` tells what
    it takes from others. ``metadata`` is the caller's; the ledger's own fields win over it.
    """

    key: str
    source: Side
    destination: Side
    accounts: tuple[Account, Account]
    amount_minor: int
    currency: str
    metadata: Mapping[str, object]
    request_hash: str | None = None
    opens: tuple[ReservationKind, str] | None = None
    closes: Reservation | None = None
    undercut: Mapping[str, object] | None = None


def transfer(draft: Draft, request: TransferRequest) -> Answer:
    """Move money, once a key; see ``clawsettle.domain.ledger.decide`` for what is raised."""
    written = draft.book.known.events.get(request.key)
    if written is not None:
        if written.request_hash != request.request_hash:
            raise ConflictError(
                "the idempotency key was used for another request", code="IDEMPOTENCY_KEY_REUSED"
            )
        return Answer(created=False, body=_applied(written))
    accounts = _accounts(draft, request)
    source = accounts[0]
    own_move = source is accounts[1]
    closes = _spent(draft, request, source)
    undercut = None
    if request.source.bucket is Bucket.HELD and closes is None:
        undercut = _undercut(request, source, own_move=own_move)
    event = move(
        draft,
        Movement(
            request.key,
            request.source,
            request.destination,
            accounts,
            request.amount_minor,
            request.currency,
            request.metadata,
            request.request_hash,
            _opened(request, own_move=own_move),
            closes,
            undercut,
        ),
    )
    return Answer(created=True, body=_applied(event), undercut=undercut)


def source_account(draft: Draft, side: Side, amount_minor: int) -> Account:
    """Return the account that is to pay; one that nobody has opened has nothing.

    Raises: CallerError INVALID_ACCOUNT, ConflictError INSUFFICIENT_FUNDS.
    """
    account = _known(draft, _ref(side))
    if account is None:
        raise ConflictError(
            "the account does not exist, so it does not cover the amount",
            code="INSUFFICIENT_FUNDS",
            details={
                "account": side.text,
                "bucket": str(side.bucket),
                "requested": str(amount_minor),
                "available": "0",
            },
        )
    return account


def move(draft: Draft, movement: Movement) -> Event:
    """Write the event of a movement, and open or close the reservation it is about.

    Raises: ConflictError INSUFFICIENT_FUNDS or BALANCE_LIMIT_EXCEEDED.
    """
    source, destination = movement.source, movement.destination
    metadata = {name: value for name, value in movement.metadata.items() if name not in OWN_FIELDS}
    metadata |= {
        "spec_v1": {
            "currency": movement.currency,
            "from": {"account": source.text, "bucket": source.letter},
            "to": {"account": destination.text, "bucket": destination.letter},
            "amount_minor": str(movement.amount_minor),
        },
        "from_bucket": str(source.bucket),
        "to_bucket": str(destination.bucket),
    }
    if movement.opens is not None:
        kind, reservation_id = movement.opens
        metadata["reservation"] = {"reservation_id": reservation_id, "opened": str(kind)}
    if movement.closes is not None:
        metadata["reservation"] = {
            "reservation_id": movement.closes.reservation_id,
            "closed": str(movement.closes.kind),
        }
    if movement.undercut is not None:
        metadata["undercut"] = movement.undercut
    from_id, to_id = (account.account_id for account in movement.accounts)
    event = draft.write(
        EventType.TRANSFER,
        key=movement.key,
        place=(from_id, source.bucket),
        other=(to_id, destination.bucket),
        to_account_id=to_id,
        amount_minor=movement.amount_minor,
        metadata=metadata,
        request_hash=movement.request_hash,
    )
    if movement.opens is not None:
        draft.reserve(*movement.opens, event)
    if movement.closes is not None:
        draft.close_reservation(movement.closes, event)
    return event


def _applied(event: Event) -> dict[str, object]:
    return {"event_id": event.event_id, "status": "applied"}


def _ref(side: Side) -> AccountRef:
    if side.ref is None:
        raise CallerError(f"{side.text} names no account", code="INVALID_ACCOUNT")
    return side.ref


def _known(draft: Draft, ref: AccountRef) -> Account | None:
    """Return the account that a reference means; None when it is yet to be opened.

    Raises: CallerError INVALID_ACCOUNT for the id of no account: it opens nothing.
    """
    account = draft.find(ref)
    if account is None and ref.did is None and ref.domain is None:
        raise CallerError(f"{ref.text} names no account", code="INVALID_ACCOUNT")
    return account


def _accounts(draft: Draft, request: TransferRequest) -> tuple[Account, Account]:
    """Return both accounts, the same object twice when they are one."""
    source_ref, destination_ref = _ref(request.source), _ref(request.destination)
    source, destination = _known(draft, source_ref), _known(draft, destination_ref)
    same = source_ref == destination_ref or (source is not None and source is destination)
    if same and request.source.bucket is request.destination.bucket:
        raise CallerError("from and to are the same bucket of the same account")
    source = source_account(draft, request.source, request.amount_minor)
    if destination is None:
        if draft.book.strict:
            raise NotFoundError("no such account", details={"field": "to.account"})
        destination = draft.find_or_open(destination_ref)
    return source, destination


def _opened(request: TransferRequest, *, own_move: bool) -> tuple[ReservationKind, str] | None:
    """Return the reservation that a payout's lock makes: a move from available to held."""
    if (
        request.payout_id is None
        or not request.key.startswith(_LOCK)
        or not own_move
        or (request.source.bucket, request.destination.bucket) != (Bucket.AVAILABLE, Bucket.HELD)
    ):
        return None
    return ReservationKind.PAYOUT, payout_reservation_id(request.payout_id)


def _spent(draft: Draft, request: TransferRequest, source: Account) -> Reservation | None:
    """Return the reservation that a payout's finalisation or rollback spends, if it has one.

    Raises: ConflictError CONFLICT when it is spent already, or is for another account or amount.
    """
    if (
        request.payout_id is None
        or request.key.startswith(_LOCK)
        or request.source.bucket is not Bucket.HELD
    ):
        return None
    reservation = draft.book.known.reservations.get(payout_reservation_id(request.payout_id))
    if reservation is None:
        return None
    details = {
        "reservation_id": reservation.reservation_id,
        "account_id": reservation.account_id,
        "amount_minor": str(reservation.amount_minor),
    }
    if reservation.closed_event_id is not None:
        raise ConflictError(
            "the payout's reservation is spent already",
            details={**details, "closed_event_id": reservation.closed_event_id},
        )
    if (reservation.account_id, reservation.amount_minor) != (
        source.account_id,
        request.amount_minor,
    ):
        raise ConflictError(
            "the payout has reserved another amount, or another account's", details=details
        )
    return reservation


def _undercut(
    request: TransferRequest, source: Account, *, own_move: bool
) -> Mapping[str, object] | None:
    """Return what a move out of the held bucket takes from reservations, if it does.

    Raises: ConflictError INSUFFICIENT_FUNDS when it may not.
    """
    held_minor = source.balances[Bucket.HELD]
    left_minor = held_minor - request.amount_minor
    if left_minor >= source.reserved_minor or left_minor < 0:
        return None  # nothing is undercut, or the bucket itself refuses
    if not own_move:
        free_minor = max(held_minor - source.reserved_minor, 0)
        raise insufficient_funds(source, Bucket.HELD, request.amount_minor, free_minor)
    return {"held": str(left_minor), "reserved": str(source.reserved_minor)}
