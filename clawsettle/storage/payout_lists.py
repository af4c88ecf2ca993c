"""Reading payouts: one with its history, and pages of many.

A page starts after the last row of the one before, by instant and id, so it costs the same wherever
it begins and leaves nothing out. It asks for one row more than it shows: that there is one says
that there is a next page.
Source: payouts contract section 6; 11 (6, 8, 9, 12).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from attrs import frozen

from clawsettle.domain.payout_news import NewsState, PayoutNews
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database, Row
from clawsettle.storage.payout_rows import read_news, read_payout
from clawsettle.storage.queries import load_queries

_SQL = load_queries("payout_lists")
After = tuple[datetime, str]
"""The instant and id of the last row before a page."""

START = (None, None)
"""What statements take for the first page."""

T = TypeVar("T")


@frozen
class Page(Generic[T]):
    """Rows of a list in their order, and where the next page begins, if there is one."""

    rows: Sequence[T]
    next: After | None


@frozen
class Window:
    """Payouts made from ``start`` on and before ``end``.

    ``status`` is one that callers know, and stands for all stored ones that they see as it. None
    means any, of the status and of the account's DID.
    """

    start: datetime
    end: datetime
    status: PayoutStatus | None = None
    account_did: str | None = None


@frozen
class AuditEntry:
    """A row of a payout's audit trail, at a UTC instant."""

    audit_id: int
    payout_id: str
    event_type: str
    event_idempotency_key: str | None
    to_status: PayoutStatus | None
    details: Mapping[str, object]
    at: datetime


@frozen
class KeptNews:
    """What the provider has said of a payout, and what became of it.

    ``payout_id`` is the payout that it was matched with, ``reason`` why it was put aside.
    """

    news: PayoutNews
    state: NewsState
    payout_id: str | None
    reason: str | None
    received_at: datetime


@frozen
class PayoutLists:
    """The repository's reading side. Raises (every method): StorageUnavailable or StorageError."""

    database: Database

    async def find(self, payout_id: str) -> tuple[Payout, Sequence[AuditEntry]] | None:
        """Return a payout and its audit trail in order, both as of one instant."""
        rows = await self.database.fetch(_SQL["payout_and_audit"], payout_id)
        if not rows:
            return None
        entries = [_entry(row) for row in rows if row["audit_id"] is not None]
        return read_payout(rows[0]), entries

    async def news_of(self, payout_id: str) -> Sequence[KeptNews]:
        """Return what the provider has said of a payout, oldest first."""
        return [_news(row) for row in await self.database.fetch(_SQL["news_of"], payout_id)]

    async def created(self, window: Window, *, after: After | None, limit: int) -> Page[Payout]:
        """Return up to ``limit`` payouts of a window by the instant they were made, then by id."""
        begin = max((window.start, ""), after or (window.start, ""))
        page = (*begin, window.end, limit + 1)
        statuses = None
        if window.status is not None:
            statuses = [str(stored) for stored in PayoutStatus if stored.wire is window.status]
        if window.account_did is not None:
            rows = await self.database.fetch(
                _SQL["payouts_created_for"], *page, window.account_did, statuses
            )
        elif statuses is not None:
            rows = await self.database.fetch(_SQL["payouts_created_in"], *page, statuses)
        else:
            rows = await self.database.fetch(_SQL["payouts_created"], *page)
        payouts = [read_payout(row) for row in rows]
        return page_of(payouts, limit, [(one.created_at, one.payout_id) for one in payouts])

    async def stuck(self, minutes: int, *, after: After | None, limit: int) -> Page[Payout]:
        """Return payouts that have not ended by when they entered their status, then by id.

        Those that entered it at least so many minutes ago, by the database's clock; with 0, all.
        """
        rows = await self.database.fetch(
            _SQL["stuck_payouts"], minutes, *(after or START), limit + 1
        )
        payouts = [read_payout(row) for row in rows]
        return page_of(payouts, limit, [(one.status_at, one.payout_id) for one in payouts])

    async def failed(self, *, after: After | None, limit: int) -> Page[Payout]:
        """Return payouts that have failed, the latest first, then by id, the highest first."""
        rows = await self.database.fetch(_SQL["failed_payouts"], *(after or START), limit + 1)
        payouts = [read_payout(row) for row in rows]
        return page_of(payouts, limit, [(row["failed_at"], row["payout_id"]) for row in rows])

    async def waiting(
        self, states: Sequence[NewsState], *, after: After | None, limit: int
    ) -> Page[KeptNews]:
        """Return news that was parked or quarantined, the newest first."""
        rows = await self.database.fetch(
            _SQL["news_waiting"], [str(state) for state in states], *(after or START), limit + 1
        )
        found = [_news(row) for row in rows]
        return page_of(found, limit, [(one.received_at, one.news.event_id) for one in found])


def page_of(rows: Sequence[T], limit: int, places: Sequence[After]) -> Page[T]:
    """Return the page of up to ``limit`` rows, of which one more was asked for if it is there.

    ``places`` are the instants and ids of all of them.
    """
    return Page(rows[:limit], places[limit - 1] if len(rows) > limit else None)


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        audit_id=row["audit_id"],
        payout_id=row["payout_id"],
        event_type=row["event_type"],
        event_idempotency_key=row["event_idempotency_key"],
        to_status=None if row["to_status"] is None else PayoutStatus(row["to_status"]),
        details=json.loads(row["details"]),
        at=row["at"],
    )


def _news(row: Row) -> KeptNews:
    return KeptNews(
        news=read_news(row),
        state=NewsState(row["state"]),
        payout_id=row["payout_id"],
        reason=row["reason"],
        received_at=row["received_at"],
    )
