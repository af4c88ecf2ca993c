"""Accounts at the payout provider: which of ours has which, and how far its onboarding is.

A row is there before the provider is asked, so that a crash in between leaves what to ask for, and
since when. Every later write names the status that it replaces.
Source: payouts contract section 5; 11 (7, 26).
"""

from collections.abc import Sequence
from datetime import datetime

from attrs import frozen

from clawsettle.domain.onboarding import OnboardingStatus
from clawsettle.domain.providers import ConnectAccount
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.queries import load_queries

_SQL = load_queries("connect_accounts")


@frozen
class ConnectAccountRecord:
    """An account's onboarding; instants are UTC and cut to the millisecond.

    ``created_at`` is when the provider was first going to be asked for it. ``connect_account_id``
    and ``onboarding_url`` are None while it is being opened, and only then.
    """

    account_id: str
    account_did: str
    provider: str
    connect_account_id: str | None
    onboarding_status: OnboardingStatus
    onboarding_url: str | None
    created_at: datetime
    updated_at: datetime


@frozen
class ConnectAccounts:
    """The repository of onboardings.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError.
    """

    database: Database

    async def find(self, account_id: str) -> ConnectAccountRecord | None:
        """Return an account's onboarding; None when it was never asked for."""
        return _first(await self.database.fetch(_SQL["find"], account_id))

    async def open(self, account_id: str, account_did: str) -> ConnectAccountRecord:
        """Keep that an account is asked for, and return what is kept of it: perhaps more."""
        return _record((await self.database.fetch(_SQL["open"], account_id, account_did))[0])

    async def complete(
        self, account_id: str, opened: ConnectAccount
    ) -> ConnectAccountRecord | None:
        """Keep what the provider has opened; None when somebody else has kept it before.

        ``updated_at`` stays: for whoever asked, the account begins now.
        """
        return _first(
            await self.database.fetch(
                _SQL["complete"],
                account_id,
                opened.connect_account_id,
                _status(active=opened.active),
                opened.onboarding_url,
            )
        )

    async def refresh(self, account_id: str, found: ConnectAccount) -> ConnectAccountRecord | None:
        """Keep how a pending account stands by now; None when it is pending no more."""
        return _first(
            await self.database.fetch(
                _SQL["refresh"], account_id, _status(active=found.active), found.onboarding_url
            )
        )


async def note_account(
    transaction: Transaction, connect_account_id: str, *, active: bool, said_at: datetime
) -> None:
    """Heed an event's word on an account, in the transaction that records the event.

    ``said_at`` is the event's own instant: one that is older than what was heeded changes nothing,
    nor does one about an account that is not known, or is being opened. Repeatable.
    """
    await transaction.fetch(_SQL["note"], connect_account_id, _status(active=active), said_at)


def _status(*, active: bool) -> OnboardingStatus:
    return OnboardingStatus.ACTIVE if active else OnboardingStatus.PENDING


def _first(rows: Sequence[Row]) -> ConnectAccountRecord | None:
    return _record(rows[0]) if rows else None


def _record(row: Row) -> ConnectAccountRecord:
    return ConnectAccountRecord(
        account_id=row["account_id"],
        account_did=row["account_did"],
        provider=row["provider"],
        connect_account_id=row["connect_account_id"],
        onboarding_status=OnboardingStatus(row["onboarding_status"]),
        onboarding_url=row["onboarding_url"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
