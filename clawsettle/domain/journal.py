"""The ledger's records: accounts, the hash-chained journal and its postings.

An event states what happened and is chained to the one before it; its postings say which balances
moved, and sum to zero. Records are immutable: a change is a new record.

Two hashes chain an event. ``event_hash`` is the contract's. It leaves out the metadata, the id and
the postings, so ``content_hash`` covers those, with ``event_hash`` and the content hash before it:
whoever has noted one pair of them can prove everything up to that event.
Source: ledger-api contract sections 2 and 3.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.accounts import INTERNAL_PREFIX
from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.instants import iso_instant

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
    CLEARING = "clearing"
    EXTERNAL = "external"


class EventType(StrEnum):
    """What an event did to the balances."""

    PAYIN_SETTLE = "payin_settle"
    PAYIN_REVERSE = "payin_reverse"
    REFUND_REVERSE = "refund_reverse"
    PAYOUT_SETTLE = "payout_settle"
    PAYOUT_REVERSE = "payout_reverse"
    RECEIVABLE_OPEN = "receivable_open"
    RECEIVABLE_COLLECT = "receivable_collect"
    TRANSFER = "transfer"


ACCOUNT_EFFECT: Mapping[EventType, int] = {
    EventType.PAYIN_SETTLE: 1,
    EventType.PAYIN_REVERSE: -1,
    EventType.REFUND_REVERSE: 1,
    EventType.PAYOUT_SETTLE: 0,
    EventType.PAYOUT_REVERSE: 0,
    EventType.RECEIVABLE_OPEN: 1,
    EventType.RECEIVABLE_COLLECT: -1,
    EventType.TRANSFER: -1,
}
"""The sign of an event's posting to its ``account_id`` and ``bucket``; 0 is a memo without any.

The other posting is the opposite: to ``to_account_id`` for a transfer, else to a contra account.
"""


@frozen
class Account:
    """An account and its balances in minor units.

    A user account has a ``did``, a clearing account a ``domain`` and a ``name``, a contra account
    neither. ``reserved_minor`` is the sum of the active reservations behind ``held``.
    """

    account_id: str
    kind: AccountKind
    did: str | None
    domain: str | None
    name: str | None
    balances: Mapping[Bucket, int]
    reserved_minor: int
    created_at: datetime
    updated_at: datetime

    @property
    def total_minor(self) -> int:
        """Return the sum of the buckets."""
        return sum(self.balances.values())

    @property
    def shown_did(self) -> str | None:
        """Return the DID that callers see: a clearing account has one that nobody can open."""
        return self.did if self.domain is None else f"{INTERNAL_PREFIX}clearing:{self.domain}"

    def view(self) -> dict[str, object]:
        """Render the contract's account JSON."""
        return {"id": self.account_id, "did": self.shown_did, **self._state()}

    def clearing_view(self) -> dict[str, object]:
        """Render the contract's clearing account JSON."""
        return {
            "id": self.account_id,
            "domain": self.domain,
            "name": self.name,
            "isActive": True,
            **self._state(),
        }

    def _state(self) -> dict[str, object]:
        balances = {str(bucket): str(self.balances[bucket]) for bucket in Bucket}
        return {
            "balances": {**balances, "total": str(self.total_minor)},
            "createdAt": iso_instant(self.created_at),
            "updatedAt": iso_instant(self.updated_at),
        }


@frozen
class Posting:
    """One leg of an event: how much one bucket of one account moves, in minor units."""

    account_id: str
    bucket: Bucket
    delta_minor: int


@frozen
class Event:
    """One link of the journal; ``seq`` counts without gaps from 1.

    ``metadata_json`` is kept as the text that was hashed. ``request_hash`` is that of the transfer
    request behind it, which a repetition of the key is compared with.
    """

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
    content_hash: str
    request_hash: str | None
    metadata_json: str
    created_at: datetime
    postings: Sequence[Posting]

    @property
    def metadata(self) -> dict[str, object]:
        """Return the metadata as it was when it was written."""
        found: dict[str, object] = json.loads(self.metadata_json)
        return found

    def summary(self) -> dict[str, object]:
        """Render the short form that an ingest answer carries."""
        return {
            "id": self.event_id,
            "event_type": str(self.event_type),
            "event_hash": self.event_hash,
            "created_at": iso_instant(self.created_at),
        }

    def view(self) -> dict[str, object]:
        """Render the contract's event JSON."""
        return {
            "id": self.event_id,
            "idempotencyKey": self.idempotency_key,
            "eventType": str(self.event_type),
            "accountId": self.account_id,
            "toAccountId": self.to_account_id,
            "amount": str(self.amount_minor),
            "bucket": str(self.bucket),
            "previousHash": self.previous_hash,
            "eventHash": self.event_hash,
            "metadata": self.metadata,
            "createdAt": iso_instant(self.created_at),
        }


@frozen
class Tail:
    """The journal's last link: every writer starts from it and leaves a new one."""

    seq: int
    event_hash: str
    content_hash: str
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
        f"{previous_hash}|{event_type}|{account_id}|{to_account_id or ''}|{amount_minor}"
        f"|{bucket}|{idempotency_key}|{iso_instant(created_at)}"
    )


def content_hash(
    previous_content_hash: str,
    link: str,
    *,
    event_id: str,
    request_hash: str | None,
    postings: Sequence[Posting],
    metadata_json: str,
) -> str:
    """Return the hash of what ``link``, the event's chain hash, leaves out.

    One line a part. An account id is preceded by its length in characters, because an outside
    party's name is in some of them; the metadata comes last. Source: new.
    """
    legs = "".join(
        f"{len(p.account_id)}:{p.account_id}:{p.bucket}:{p.delta_minor}\n" for p in postings
    )
    return sha256_hex(
        f"{previous_content_hash}\n{link}\n{event_id}\n{request_hash or ''}\n{legs}{metadata_json}"
    )
