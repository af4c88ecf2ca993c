"""The embedded ledger's writing: loading the book that a batch is decided on, and storing it.

A batch is stored only if no other was since its book was loaded: the tail's version and number are
compared in the same statement. So the writers of all daemons on one database follow one another.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from attrs import frozen

from clawsettle.domain.book import Book, Records
from clawsettle.domain.instants import to_millisecond
from clawsettle.domain.journal import Tail
from clawsettle.domain.ledger import Command, needs
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.ledger_rows import (
    account_row,
    answer_row,
    event_row,
    hold_row,
    posting_rows,
    read_account,
    read_answer,
    read_event,
    read_hold,
    read_reservation,
    read_settlement,
    reservation_row,
    settlement_row,
)
from clawsettle.storage.queries import load_queries

T = TypeVar("T")
Fetch = Callable[..., Awaitable[Sequence[Row]]]

_SQL = load_queries("ledger")


@frozen
class LedgerBook:
    """The one way into the ledger's tables; its book is kept in one ``currency``.

    ``strict`` refuses transfers to accounts that nobody has opened.
    """

    database: Database
    currency: str
    strict: bool = False

    async def apply(self, commands: Sequence[Command], decide_all: Callable[[Book], T]) -> T:
        """Load what ``commands`` touch, let ``decide_all`` change the book, store it: one commit.

        ``decide_all`` must be pure: it may run again on a freshly loaded book.

        Raises: StorageUnavailable (outcome unknown) or StorageError.
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

    async def _decide(
        self, fetch: Fetch, commands: Sequence[Command], decide_all: Callable[[Book], T]
    ) -> tuple[T, bool]:
        """Decide on the book as it is; False when it was another by the time of storing."""
        (row,) = await fetch(_SQL["load"], *_touched(commands))
        book = Book(
            currency=self.currency,
            now=max(to_millisecond(row["now_at"]), row["created_at"]),
            tail=read_tail(row),
            known=_known(row),
            strict=self.strict,
        )
        result = decide_all(book)
        if book.changed == Records():
            return result, True
        stored = await fetch(_SQL["store"], row["version"], row["seq"], *_changes(book))
        return result, bool(stored)


def read_tail(row: Row) -> Tail:
    """Return the journal's tail of a row."""
    return Tail(row["seq"], row["event_hash"], row["content_hash"], row["created_at"])


def _touched(commands: Sequence[Command]) -> tuple[object, ...]:
    """Return the parameters of ``load``: what a batch may look at or change."""
    touched = needs(commands)
    return (
        list(touched.account_ids),
        [provider for provider, _, _ in touched.natural_keys],
        [external for _, external, _ in touched.natural_keys],
        [direction for _, _, direction in touched.natural_keys],
        touched.answer_keys,
        touched.event_keys,
        touched.reservation_ids,
        [provider for provider, _ in touched.refund_links],
        [payin for _, payin in touched.refund_links],
        touched.hold_keys,
        touched.hold_sources,
        touched.hold_ids,
    )


def _known(row: Row) -> Records:
    settlements = map(read_settlement, row["settlements"])
    holds = [read_hold(hold) for hold in row["holds"]]
    links = zip(row["refund_providers"] or (), row["refund_payins"] or (), strict=True)
    return Records(
        accounts={
            account["account_id"]: read_account(account) for account in row["accounts"] or ()
        },
        settlements={settlement.natural_key: settlement for settlement in settlements},
        answers={answer["idempotency_key"]: read_answer(answer) for answer in row["answers"] or ()},
        events={event["idempotency_key"]: read_event(event) for event in row["events"] or ()},
        holds={hold.hold_id: hold for hold in holds},
        holds_by_source={hold.source_loss_event_id: hold.hold_id for hold in holds},
        reservations={
            reservation["reservation_id"]: read_reservation(reservation)
            for reservation in row["reservations"] or ()
        },
        refunded=dict(zip(links, map(int, row["refunded_minor"] or ()), strict=True)),
    )


def _changes(book: Book) -> tuple[object, ...]:
    """Return the parameters of ``store`` that follow the version and seq decided on."""
    changed, tail = book.changed, book.tail
    return (
        tail.seq,
        tail.event_hash,
        tail.content_hash,
        tail.created_at,
        [account_row(changed.accounts[key]) for key in sorted(changed.accounts)],
        [settlement_row(changed.settlements[key]) for key in sorted(changed.settlements)],
        [answer_row(answer, book.now) for answer in changed.answers.values()],
        [event_row(event) for event in changed.events.values()],
        [row for event in changed.events.values() for row in posting_rows(event)],
        [reservation_row(reservation) for reservation in changed.reservations.values()],
        [hold_row(hold) for hold in changed.holds.values()],
    )
