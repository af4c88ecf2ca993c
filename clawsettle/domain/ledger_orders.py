"""What a ledger is asked for payouts, and what it can have answered.

A transfer has one effect a key, so its order may be repeated whenever the outcome is unknown. The
key is looked up before that: what is found under it counts only when it is this very transfer.
Every answer is compared with what was asked, because it may be another party's who is in the way.
Source: payouts contract section 4; 11 (1, 19, 24, 25).
"""

from collections.abc import Mapping
from datetime import datetime

from attrs import frozen

from clawsettle.domain.errors import ProviderError
from clawsettle.domain.forwarding import Refused, Unknown, identifier, read_refusal
from clawsettle.domain.instants import parse_instant
from clawsettle.domain.journal import Account, Bucket, Event, EventType
from clawsettle.domain.money import balance_from_digits, minor_from_digits
from clawsettle.domain.transfers import Side

_NOT_FOUND = 404


class LedgerError(ProviderError):
    """The ledger has not told what it was asked for; ``retryable`` when time can mend that.

    ``details`` name what it was asked about, and ``ledger_status`` when that is what was wrong.
    """

    code = "LEDGER_INGEST_FAILED"

    def __init__(
        self,
        message: str,
        asked: Mapping[str, str],
        ledger_status: int | None = None,
        *,
        retryable: bool = True,
    ) -> None:
        status = {} if ledger_status is None else {"ledger_status": ledger_status}
        super().__init__(message, details={**asked, **status})
        self.retryable = retryable


class AnotherTransfer(LedgerError):
    """An order's key holds something else: neither repeating nor waiting can apply the order."""

    def __init__(self, key: str, event_id: str, difference: str) -> None:
        super().__init__(
            f"the key holds another transfer, {event_id}: it has another {difference}",
            {"idempotency_key": key},
            retryable=False,
        )


@frozen
class TransferOrder:
    """A transfer as a ledger is told of it: the amount in minor units, its one effect's key."""

    key: str
    source: Side
    destination: Side
    amount_minor: int
    currency: str
    metadata: Mapping[str, object]

    def body(self) -> dict[str, object]:
        """Return the contract's JSON body, its keys in the contract's order."""
        return {
            "idempotency_key": self.key,
            "currency": self.currency,
            "from": {"account": self.source.text, "bucket": self.source.letter},
            "to": {"account": self.destination.text, "bucket": self.destination.letter},
            "amount_minor": str(self.amount_minor),
            "metadata": self.metadata,
        }


@frozen
class Applied:
    """The transfer's money has moved, in this event of the ledger."""

    event_id: str


TransferOutcome = Applied | Refused | Unknown
"""A final refusal has moved nothing; after any other one, and after Unknown, look the key up."""


@frozen
class LedgerAccount:
    """An account of the ledger and what two of its buckets hold, in minor units."""

    account_id: str
    did: str
    available_minor: int
    held_minor: int


@frozen
class LedgerEvent:
    """An event as a ledger tells of it; what it does not say is None, or no metadata.

    The amount is in minor units, ``bucket`` the word for the bucket of ``account_id`` that paid.
    """

    event_id: str
    key: str
    event_type: str | None
    account_id: str | None
    to_account_id: str | None
    amount_minor: int | None
    bucket: str | None
    metadata: Mapping[str, object]
    created_at: datetime | None

    @classmethod
    def of(cls, event: Event) -> "LedgerEvent":
        """Return what the embedded ledger tells of an event."""
        return cls(
            event.event_id,
            event.idempotency_key,
            event.event_type,
            event.account_id,
            event.to_account_id,
            event.amount_minor,
            event.bucket,
            event.metadata,
            event.created_at,
        )


def read_transfer(ledger_status: int, body: object) -> TransferOutcome:
    """Judge a ledger's answer to a transfer: only one that names the event that applied it is yes.

    A 2xx that says anything else may come from a proxy or a wrong address, so it is unknown.
    """
    refused = read_refusal(ledger_status, body)
    if refused is not None:
        return refused
    said = body if isinstance(body, dict) else {}
    event_id = identifier(said.get("event_id"))
    if event_id is None:
        return Unknown("the ledger's answer names no event", ledger_status)
    if said.get("status", "applied") != "applied":
        return Unknown("the ledger's answer is not that it was applied", ledger_status)
    return Applied(event_id)


def read_account(account_id: str, ledger_status: int, body: object) -> LedgerAccount | None:
    """Return the account that a ledger answers with; None for its 404.

    Raises: LedgerError for anything else than an account with this id.
    """
    asked = {"account_id": account_id}
    said = _found(asked, ledger_status, body)
    if said is None:
        return None
    did, balances = said.get("did"), said.get("balances")
    available_minor, held_minor = _balance(balances, "available"), _balance(balances, "held")
    if not isinstance(did, str) or not did.strip() or available_minor is None or held_minor is None:
        raise LedgerError("the ledger's answer is no account", asked)
    if said.get("id") != account_id:
        raise LedgerError("the ledger's answer is about another account", asked)
    return LedgerAccount(account_id, did, available_minor, held_minor)


def shown_account(account: Account) -> LedgerAccount | None:
    """Return an account as the embedded ledger shows it; None for its own contra accounts."""
    if account.shown_did is None:
        return None
    balances = account.balances
    return LedgerAccount(
        account.account_id,
        account.shown_did,
        balances[Bucket.AVAILABLE],
        balances[Bucket.HELD],
    )


def read_event(key: str, ledger_status: int, body: object) -> LedgerEvent | None:
    """Return the event that a ledger has under a key; None for its 404.

    Raises: LedgerError for anything else than an event under this key.
    """
    asked = {"idempotency_key": key}
    said = _found(asked, ledger_status, body)
    if said is None:
        return None
    event_id = identifier(said.get("id"))
    amount = said.get("amount")
    amount_minor = minor_from_digits(amount) if isinstance(amount, str) else None
    if event_id is None or (amount is not None and amount_minor is None):
        raise LedgerError("the ledger's answer is no event", asked)
    if said.get("idempotencyKey") != key:
        raise LedgerError("the ledger's answer is about another key", asked)
    return LedgerEvent(
        event_id,
        key,
        _text(said, "eventType"),
        _text(said, "accountId"),
        _text(said, "toAccountId"),
        amount_minor,
        _text(said, "bucket"),
        _member(said, "metadata"),
        parse_instant(_text(said, "createdAt")),
    )


def applied(order: TransferOrder, event: LedgerEvent | None) -> Applied | None:
    """Return that the order is applied, when the event under its key says so; None without one.

    The event's type, amount, currency, accounts and buckets are compared as far as it tells them.

    Raises: AnotherTransfer.
    """
    if event is None:
        return None
    difference = _difference(order, event)
    if difference is not None:
        raise AnotherTransfer(order.key, event.event_id, difference)
    return Applied(event.event_id)


def moved_minor(event: LedgerEvent, source: Side, destination: Side) -> int:
    """Return what an event says it has moved between two accounts, in minor units.

    Below zero when it has moved the other way; 0 when it is about others.
    """
    amount_minor = event.amount_minor or 0
    if _goes(event, source, destination):
        return amount_minor
    return -amount_minor if _goes(event, destination, source) else 0


def _goes(event: LedgerEvent, source: Side, destination: Side) -> bool:
    """Whether an event, as far as it tells, goes from one account to the other."""
    spec = _member(event.metadata, "spec_v1")
    source_text, destination_text = (_member(spec, end).get("account") for end in ("from", "to"))
    return _is_named(source, source_text, event.account_id) and _is_named(
        destination, destination_text, event.to_account_id
    )


def _difference(order: TransferOrder, event: LedgerEvent) -> str | None:
    """Return the name of what an event tells otherwise than the order has it."""
    source, destination = order.source, order.destination
    spec = _member(event.metadata, "spec_v1")
    source_spec, destination_spec = _member(spec, "from"), _member(spec, "to")
    for name, told, ordered in (
        ("type", event.event_type, EventType.TRANSFER),
        ("amount", event.amount_minor, order.amount_minor),
        ("amount", spec.get("amount_minor"), str(order.amount_minor)),
        ("currency", spec.get("currency"), order.currency),
        ("bucket", event.bucket, source.bucket),
        ("bucket", source_spec.get("bucket"), source.letter),
        ("bucket", destination_spec.get("bucket"), destination.letter),
    ):
        if told is not None and told != ordered:
            return name
    if not _is_named(source, source_spec.get("account"), event.account_id):
        return "source"
    if not _is_named(destination, destination_spec.get("account"), event.to_account_id):
        return "destination"
    return None


def _is_named(side: Side, text: object, account_id: str | None) -> bool:
    """Whether an event names an end of a transfer as the order does, or by an id that it may have.

    An account has several names, so one that is the order's suffices; none at all tells nothing.
    """
    if text is None and account_id is None:
        return True
    account_ids = side.ref.account_ids if side.ref is not None else ()
    return text == side.text or account_id in account_ids


def _found(
    asked: Mapping[str, str], ledger_status: int, body: object
) -> Mapping[str, object] | None:
    """Return what a ledger has found. Raises: LedgerError when it answers neither that nor 404."""
    if ledger_status == _NOT_FOUND:
        return None
    refused = read_refusal(ledger_status, body)
    if refused is not None:
        raise LedgerError(refused.message, asked, ledger_status, retryable=not refused.final)
    return body if isinstance(body, dict) else {}


def _balance(balances: object, bucket: str) -> int | None:
    told = balances.get(bucket) if isinstance(balances, dict) else None
    return balance_from_digits(told) if isinstance(told, str) else None


def _text(said: Mapping[str, object], name: str) -> str | None:
    value = said.get(name)
    return value if isinstance(value, str) else None


def _member(said: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = said.get(name)
    return value if isinstance(value, dict) else {}
