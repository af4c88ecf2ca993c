"""The embedded ledger's reading: single records, lists, and the whole book for a proof."""

from collections.abc import Callable, Sequence
from datetime import datetime

from attrs import frozen

from clawsettle.domain.book import RiskHold
from clawsettle.domain.errors import StorageError
from clawsettle.domain.journal import Account, Bucket, Event, Tail
from clawsettle.domain.proof import BookItem, Unreadable
from clawsettle.domain.settlements import Settlement
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.ledger_book import read_tail
from clawsettle.storage.ledger_rows import (
    read_account,
    read_event,
    read_hold,
    read_reservation,
    read_settlement,
)
from clawsettle.storage.queries import load_queries

PAGE = 500
_SQL = load_queries("ledger")


@frozen
class SettlementFilter:
    """What a list of settlements is narrowed to; None means any."""

    account_id: str | None = None
    status: str | None = None
    provider: str | None = None
    direction: str | None = None


@frozen
class HoldFilter:
    """What a list of risk holds is narrowed to; None means any."""

    source_loss_event_id: str | None = None
    account_ref: str | None = None
    active: bool | None = None


@frozen
class LedgerReader:
    """Reads the embedded ledger's tables and changes nothing.

    Every method raises StorageUnavailable or StorageError.
    """

    database: Database

    async def account(self, account_id: str) -> Account | None:
        """Return the account with this id."""
        rows = await self.database.fetch(_SQL["accounts"], [account_id])
        return read_account(rows[0]) if rows else None

    async def account_by_did(self, did: str) -> Account | None:
        """Return the account of this DID."""
        rows = await self.database.fetch(_SQL["account_by_did"], did)
        return read_account(rows[0]) if rows else None

    async def clearing_account(
        self, *, domain: str | None = None, account_id: str | None = None
    ) -> Account | None:
        """Return the clearing account of this domain, or with this id."""
        rows = await self.database.fetch(_SQL["clearing_account"], domain, account_id)
        return read_account(rows[0]) if rows else None

    async def clearing_accounts(self) -> list[Account]:
        """Return every clearing account, by domain."""
        return [read_account(row) for row in await self.database.fetch(_SQL["clearing_accounts"])]

    async def totals(self) -> dict[Bucket, int]:
        """Return what all user and clearing accounts hold together; reads every account."""
        row = (await self.database.fetch(_SQL["totals"]))[0]
        return {
            Bucket.AVAILABLE: int(row["available_minor"]),
            Bucket.HELD: int(row["held_minor"]),
            Bucket.BONDED: int(row["bonded_minor"]),
            Bucket.FEE_POOL: int(row["fee_pool_minor"]),
            Bucket.PROMO: int(row["promo_minor"]),
        }

    async def settlements_of_payment(
        self, provider: str, external_payment_id: str, direction: str | None
    ) -> list[Settlement]:
        """Return the settlements of one external payment, newest first, one a direction."""
        rows = await self.database.fetch(
            _SQL["settlements_of_payment"], provider, external_payment_id, direction
        )
        return [read_settlement(row) for row in rows]

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
        return [read_settlement(row) for row in rows]

    async def list_holds(self, narrow: HoldFilter, *, limit: int) -> list[RiskHold]:
        """Return risk holds newest first (``created_at``, then id)."""
        rows = await self.database.fetch(
            _SQL["list_holds"],
            narrow.source_loss_event_id,
            narrow.account_ref,
            narrow.active,
            limit,
        )
        return [read_hold(row) for row in rows]

    async def event_by_key(self, key: str) -> Event | None:
        """Return the event under this idempotency key, without its postings."""
        events = await self.events_by_key([key])
        return events[0] if events else None

    async def events_by_key(self, keys: Sequence[str]) -> list[Event]:
        """Return the events under these idempotency keys, in no order and without postings."""
        rows = await self.database.fetch(_SQL["events_by_key"], list(keys))
        return [read_event(row) for row in rows]

    async def event_by_id(self, event_id: str) -> Event | None:
        """Return the event with this id, without its postings."""
        rows = await self.database.fetch(_SQL["event_by_id"], event_id)
        return read_event(rows[0]) if rows else None

    async def tail(self) -> Tail:
        """Return the journal's tail as the writers know it."""
        return read_tail((await self.database.fetch(_SQL["tail"]))[0])

    async def journal(self, after_seq: int, limit: int = PAGE) -> tuple[list[BookItem], int]:
        """Return up to ``limit`` events in order, past ``after_seq``, and the last one's number."""
        rows = await self.database.fetch(_SQL["journal_page"], after_seq, limit)
        last_seq: int = rows[-1]["event"]["seq"] if rows else after_seq
        return [_EVENTS.item(row) for row in rows], last_seq

    async def read_whole(self, visit: Callable[[Sequence[BookItem]], None]) -> None:
        """Show ``visit`` the whole book as of one instant, a page at a time, once.

        Events come in their order, then accounts, reservations and risk holds by id, and the tail
        last. ``visit`` runs in the database thread. Writers are not held up. Unlike other reading
        it is not begun again when the connection breaks: what was shown cannot be taken back.

        Raises: StorageError, too, for an instant that is in no calendar.
        """
        shown = False

        async def work(transaction: Transaction) -> None:
            nonlocal shown
            if shown:
                raise StorageError("the connection broke off midway: begin again")
            await transaction.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for page in _PAGES:
                after = page.start
                while rows := await _fetch(transaction, page, after):
                    shown = True
                    visit([page.item(row) for row in rows])
                    after = page.key(rows[-1])
            visit([read_tail(row) for row in await transaction.fetch(_SQL["tail"])])

        await self.database.transaction(work)


@frozen
class _Page:
    """How a table is walked by its key: the query, where to begin, and what its rows are."""

    query: str
    record: str
    start: object
    key: Callable[[Row], object]
    read: Callable[[Row], BookItem]

    def item(self, row: Row) -> BookItem:
        """Return the record of a row; Unreadable for a row that no ledger has written."""
        try:
            return self.read(row)
        except (RecursionError, TypeError, ValueError) as error:
            return Unreadable(f"{self.record} {self.key(row)}", f"cannot be read: {error}")


async def _fetch(transaction: Transaction, page: _Page, after: object) -> Sequence[Row]:
    try:
        return await transaction.fetch(_SQL[page.query], after, PAGE)
    except OverflowError as error:
        place = f"a row after {page.record} {after}"
        raise StorageError(f"{place} has an instant before the year 1 or after 9999") from error


_EVENTS = _Page(
    "journal_page",
    "event",
    0,
    lambda row: row["event"]["seq"],
    lambda row: read_event(row["event"], row["postings"]),
)
_PAGES = (
    _EVENTS,
    _Page("account_page", "account", "", lambda row: row["account_id"], read_account),
    _Page(
        "reservation_page", "reservation", "", lambda row: row["reservation_id"], read_reservation
    ),
    _Page("hold_page", "hold", "", lambda row: row["hold_id"], read_hold),
)
