"""Reading payouts as they were at an instant, for comparing them with other records."""

from collections.abc import Sequence
from datetime import datetime

import attrs
from attrs import frozen

from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database, Row
from clawsettle.storage.payout_rows import read_payout
from clawsettle.storage.queries import load_queries

_SQL = load_queries("payout_comparison")


@frozen
class PastPayout:
    """A payout as it was at the cut, and where it stands now."""

    then: Payout
    status_now: PayoutStatus


@frozen
class Span:
    """When the first of some payouts was created, and the last one submitted."""

    first: datetime
    last: datetime


@frozen
class PayoutPast:
    """The payouts of a day as of a cut. Raises (every method): StorageUnavailable, StorageError."""

    database: Database

    async def read_at(self) -> datetime:
        """Return the database's time, cut to the millisecond."""
        at: datetime = (await self.database.fetch(_SQL["clock"]))[0]["read_at"]
        return at

    async def ids_of_day(self, first: datetime, last: datetime, as_of: datetime) -> list[str]:
        """Return the payouts that were created, submitted, paid or failed in [first, last]."""
        rows = await self.database.fetch(_SQL["ids_of_day"], first, last, as_of)
        return [row["payout_id"] for row in rows]

    async def span(self, payout_ids: Sequence[str], as_of: datetime) -> Span:
        """Return from when to when the objects of these payouts can have been made by the cut."""
        row = (await self.database.fetch(_SQL["span"], list(payout_ids), as_of))[0]
        return Span(row["created_at"], row["submitted_at"] or row["created_at"])

    async def at(self, payout_ids: Sequence[str], as_of: datetime) -> list[PastPayout]:
        """Return those of these payouts that were there, as they were, in the order of their ids.

        Only what a status brings is taken back to the cut: ids, instants and the status itself.
        """
        rows = await self.database.fetch(_SQL["as_of"], list(payout_ids), as_of)
        return [PastPayout(_then(row, as_of), PayoutStatus(row["status"])) for row in rows]

    async def connect_account_ids(self) -> frozenset[str]:
        """Return all accounts at the provider."""
        rows = await self.database.fetch(_SQL["connect_accounts"])
        return frozenset(row["connect_account_id"] for row in rows)


def _then(row: Row, as_of: datetime) -> Payout:
    payout, status = read_payout(row), PayoutStatus(row["status_then"])

    def by(at: datetime | None) -> bool:
        return at is not None and at < as_of

    was_paid, had_failed, was_sent = (
        by(payout.finalized_at),
        by(payout.failed_at),
        by(payout.submitted_at),
    )
    return attrs.evolve(
        payout,
        status=status,
        status_at=row["status_at_then"],
        external_payout_id=payout.external_payout_id if was_sent else None,
        lock_event_id=None if status is PayoutStatus.INITIATED else payout.lock_event_id,
        finalize_event_id=payout.finalize_event_id if was_paid else None,
        rollback_event_id=payout.rollback_event_id if had_failed else None,
        return_event_id=payout.return_event_id if had_failed else None,
        submitted_at=payout.submitted_at if was_sent else None,
        finalized_at=payout.finalized_at if was_paid else None,
        failed_at=payout.failed_at if had_failed else None,
    )
