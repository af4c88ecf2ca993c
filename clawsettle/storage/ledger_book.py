"""The embedded ledger's tables: loading the book that a batch is decided on, and storing it.

A batch is stored only if no other was since its book was loaded: the tail's version and number are
compared in the same statement. So the writers of all daemons on one database follow one another.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from attrs import frozen

from clawsettle.domain.accounts import account_ids
from clawsettle.domain.instants import to_millisecond
from clawsettle.domain.journal import (
    Account,
    AccountKind,
    Bucket,
    Event,
    Posting,
    Settlement,
    Tail,
)
from clawsettle.domain.ledger import (
    Book,
    Command,
    OpenAccount,
    StoredAnswer,
    external_account_id,
)
from clawsettle.domain.settlements import Direction, EventType, IngestRequest, Status
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.queries import load_queries

T = TypeVar("T")
Fetch = Callable[..., Awaitable[Sequence[Row]]]

_SQL = load_queries("ledger")
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_COLUMNS = {
    Bucket.AVAILABLE: "available_minor",
    Bucket.HELD: "held_minor",
    Bucket.BONDED: "bonded_minor",
    Bucket.FEE_POOL: "fee_pool_minor",
    Bucket.PROMO: "promo_minor",
}


@frozen
class SettlementFilter:
    """What a list of settlements is narrowed to; None means any."""

    account_id: str | None = None
    status: str | None = None
    provider: str | None = None
    direction: str | None = None


@frozen
class LedgerBook:
    """The repository of the embedded ledger, whose book is kept in one ``currency``.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError.
    """

    database: Database
    currency: str

    async def apply(self, commands: Sequence[Command], decide_all: Callable[[Book], T]) -> T:
        """Load what ``commands`` touch, let ``decide_all`` change the book, store it: one commit.

        ``decide_all`` must be pure: it may run again on a freshly loaded book.
        """
        result, kept = await self._decide(self.database.fetch, commands, decide_all)
        if kept:
            return result

        # Another daemon was faster. Under the lock nobody can be, so this is the last time.
        async def locked(transaction: Transaction) -> T:
            await transaction.fetch(_SQL["lock_tail"])
            result, _ = await self._decide(transaction.fetch, commands, decide_all)
            return result

        return await self.database.transaction(locked)

    async def account(self, account_id: str) -> Account | None:
        """Return the account with this id."""
        rows = await self.database.fetch(_SQL["accounts"], [account_id])
        return _account(rows[0]) if rows else None

    async def account_by_did(self, did: str) -> Account | None:
        """Return the account of this DID."""
        rows = await self.database.fetch(_SQL["account_by_did"], did)
        return _account(rows[0]) if rows else None

    async def settlements_of_payment(
        self, provider: str, external_payment_id: str, direction: str | None
    ) -> list[Settlement]:
        """Return the settlements of one external payment, newest first, one a direction."""
        rows = await self.database.fetch(
            _SQL["settlements_of_payment"], provider, external_payment_id, direction
        )
        return [_settlement(row) for row in rows]

    async def list_settlements(
        self, narrow: SettlementFilter, *, after: tuple[datetime, str] | None, limit: int
    ) -> list[Settlement]:
        """Return settlements newest first (``created_at``, then id), past the ``after`` row."""
        at, settlement_id = after or (None, None)
        rows = await self.database.fetch(
            _SQL["list_settlements"],
            narrow.account_id,
            narrow.status,
            narrow.provider,
            narrow.direction,
            at,
            settlement_id,
            limit,
        )
        return [_settlement(row) for row in rows]

    async def tail(self) -> Tail:
        """Return the journal's tail as the writers know it."""
        row = (await self.database.fetch(_SQL["tail"]))[0]
        return Tail(row["seq"], row["event_hash"], row["created_at"])

    async def journal(self, after_seq: int, limit: int) -> list[Event]:
        """Return up to ``limit`` events of the journal in order, past ``after_seq``."""
        rows = await self.database.fetch(_SQL["journal_page"], after_seq, limit)
        return [_event(row) for row in rows]

    async def imbalances(self) -> list[str]:
        """Return every event and account whose figures disagree with the postings; [] is sound.

        Reads the whole book: for proofs and tests, not for the hot path.
        """
        rows = await self.database.fetch(_SQL["trial_balance"])
        return [f"{row['kind']} {row['subject']}: off by {row['difference']}" for row in rows]

    async def _decide(
        self, fetch: Fetch, commands: Sequence[Command], decide_all: Callable[[Book], T]
    ) -> tuple[T, bool]:
        """Decide on the book as it is; False when it was another by the time of storing."""
        (row,) = await fetch(_SQL["load"], *_touched(commands))
        book = _book(row, self.currency)
        result = decide_all(book)
        if not book.changed:
            return result, True
        stored = await fetch(_SQL["store"], row["version"], row["seq"], *_changes(book))
        return result, bool(stored)


def _touched(commands: Sequence[Command]) -> tuple[object, ...]:
    """Return the parameters of ``load``: what a batch may look at or change."""
    ingests = [command for command in commands if isinstance(command, IngestRequest)]
    accounts = {external_account_id(i.provider, i.currency) for i in ingests}
    accounts |= {i.account_id for i in ingests}
    for command in commands:
        if isinstance(command, OpenAccount):
            accounts |= set(account_ids(command.did))
    natural_keys = {i.natural_key for i in ingests}
    return (
        list(accounts),
        [provider for provider, _, _ in natural_keys],
        [external for _, external, _ in natural_keys],
        [str(direction) for _, _, direction in natural_keys],
        [i.key for i in ingests],
    )


def _book(row: Row, currency: str) -> Book:
    settlements = [_settlement(settlement) for settlement in row["settlements"] or ()]
    return Book(
        currency=currency,
        now=max(to_millisecond(row["now_at"]), row["created_at"]),
        tail=Tail(row["seq"], row["event_hash"], row["created_at"]),
        accounts={account["account_id"]: _account(account) for account in row["accounts"] or ()},
        settlements={settlement.natural_key: settlement for settlement in settlements},
        answers={answer["idempotency_key"]: _answer(answer) for answer in row["answers"] or ()},
    )


def _changes(book: Book) -> tuple[object, ...]:
    """Return the parameters of ``store`` that follow the version and seq decided on."""
    return (
        book.tail.seq,
        book.tail.event_hash,
        book.tail.created_at,
        *_account_columns([book.accounts[key] for key in sorted(book.changed_accounts)]),
        *_settlement_columns([book.settlements[key] for key in sorted(book.changed_settlements)]),
        *_answer_columns(book.new_answers),
        book.now,
        *_event_columns(book.events),
        *_posting_columns(book.postings),
    )


def _account_columns(accounts: Sequence[Account]) -> tuple[object, ...]:
    return (
        [account.account_id for account in accounts],
        [str(account.kind) for account in accounts],
        [account.did for account in accounts],
        *([account.balances[bucket] for account in accounts] for bucket in _COLUMNS),
        [account.created_at for account in accounts],
        [account.updated_at for account in accounts],
    )


def _settlement_columns(settlements: Sequence[Settlement]) -> tuple[object, ...]:
    return (
        [s.settlement_id for s in settlements],
        [s.provider for s in settlements],
        [s.external_payment_id for s in settlements],
        [str(s.direction) for s in settlements],
        [str(s.status) for s in settlements],
        [s.account_id for s in settlements],
        [s.amount_minor for s in settlements],
        [s.currency for s in settlements],
        [s.network for s in settlements],
        [s.rail for s in settlements],
        [None if s.metadata is None else _to_json(s.metadata) for s in settlements],
        [s.provider_created_at for s in settlements],
        [s.provider_updated_at for s in settlements],
        [s.settled_at for s in settlements],
        [s.latest_event_id for s in settlements],
        [s.created_at for s in settlements],
        [s.updated_at for s in settlements],
    )


def _answer_columns(answers: Sequence[StoredAnswer]) -> tuple[object, ...]:
    return (
        [answer.key for answer in answers],
        [answer.request_hash for answer in answers],
        [answer.settlement_id for answer in answers],
        [_to_json(answer.body) for answer in answers],
    )


def _event_columns(events: Sequence[Event]) -> tuple[object, ...]:
    return (
        [event.seq for event in events],
        [event.event_id for event in events],
        [event.idempotency_key for event in events],
        [str(event.event_type) for event in events],
        [event.account_id for event in events],
        [event.to_account_id for event in events],
        [event.amount_minor for event in events],
        [str(event.bucket) for event in events],
        [event.previous_hash for event in events],
        [event.event_hash for event in events],
        [_to_json(event.metadata) for event in events],
        [event.created_at for event in events],
    )


def _posting_columns(postings: Sequence[Posting]) -> tuple[object, ...]:
    return (
        [posting.seq for posting in postings],
        [posting.leg for posting in postings],
        [posting.account_id for posting in postings],
        [str(posting.bucket) for posting in postings],
        [posting.delta_minor for posting in postings],
    )


def _account(row: Row) -> Account:
    return Account(
        account_id=row["account_id"],
        kind=AccountKind(row["kind"]),
        did=row["did"],
        balances={bucket: row[column] for bucket, column in _COLUMNS.items()},
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _settlement(row: Row) -> Settlement:
    return Settlement(
        settlement_id=row["settlement_id"],
        provider=row["provider"],
        external_payment_id=row["external_payment_id"],
        direction=Direction(row["direction"]),
        status=Status(row["status"]),
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        network=row["network"],
        rail=row["rail"],
        metadata=None if row["metadata"] is None else json.loads(row["metadata"]),
        provider_created_at=row["provider_created_at"],
        provider_updated_at=row["provider_updated_at"],
        settled_at=row["settled_at"],
        latest_event_id=row["latest_event_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _answer(row: Row) -> StoredAnswer:
    return StoredAnswer(
        key=row["idempotency_key"],
        request_hash=row["request_hash"],
        settlement_id=row["settlement_id"],
        body=json.loads(row["answer"]),
    )


def _event(row: Row) -> Event:
    return Event(
        seq=row["seq"],
        event_id=row["event_id"],
        idempotency_key=row["idempotency_key"],
        event_type=EventType(row["event_type"]),
        account_id=row["account_id"],
        to_account_id=row["to_account_id"],
        amount_minor=row["amount_minor"],
        bucket=Bucket(row["bucket"]),
        previous_hash=row["previous_hash"],
        event_hash=row["event_hash"],
        metadata=json.loads(row["metadata"]),
        created_at=row["created_at"],
    )


def _to_json(value: Mapping[str, object]) -> str:
    """Render JSON for keeping, in the order it was given: answers are shown as they were."""
    return _ENCODER.encode(value)
