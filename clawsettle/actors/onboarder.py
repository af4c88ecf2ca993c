"""Opens accounts at the payout provider, once for each of ours.

Owns: the rows of ``connect_account``, but for what the provider's events say of them.
Guarantees: a row in state ``opening`` is committed before the provider is asked, under a key that
follows from the account. Whoever comes next asks on, under the same key and as of the same
instant, so one account is opened however many callers, daemons and crashes there are. On one
daemon the calls for an account follow one another. On several they meet at the provider's key,
where all get the same account, or one is refused for the moment and its caller comes back.
Stops: with its caller; it keeps nothing in memory.
"""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.clients.ledger import Ledger
from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.domain.errors import NotFoundError, ProviderError
from clawsettle.domain.onboarding import OnboardingStatus
from clawsettle.domain.providers import ConnectAccount
from clawsettle.storage.connect_accounts import ConnectAccountRecord, ConnectAccounts

_log = structlog.get_logger(__name__)


@frozen
class Onboarded:
    """How an account stands; ``deduped`` unless this call has opened it."""

    account: ConnectAccountRecord
    deduped: bool


@define(eq=False)
class Onboarder:
    """See the module. ``step_timeout_s`` bounds each question to the ledger and the provider."""

    accounts: ConnectAccounts
    ledger: Ledger
    provider: PayoutProvider
    step_timeout_s: float
    _locks: WeakValueDictionary[str, trio.Lock] = field(factory=WeakValueDictionary, init=False)

    async def onboard(
        self, account_id: str, refresh_url: str | None, return_url: str | None
    ) -> Onboarded:
        """Open an account's account at the provider, or return it, with a link that works.

        An active account is answered without asking anybody, a pending one is asked about anew:
        its link may be stale, and word of its end may have been missed.

        Raises: NotFoundError with ``details.account_id`` when the ledger has no such account;
        ProviderError LEDGER_INGEST_FAILED, LEDGER_TIMEOUT or STRIPE_API_ERROR;
        StorageUnavailable, StorageError.
        Source: payouts contract section 6; 11 (7, 26).
        """
        async with self._alone(account_id):
            known = await self.accounts.find(account_id)
            if known is None:
                known = await self.accounts.open(account_id, await self._did(account_id))
            if known.onboarding_status is OnboardingStatus.OPENING:
                return await self._open(known, refresh_url, return_url)
            return Onboarded(await self._refreshed(known, refresh_url, return_url), deduped=True)

    async def refresh(self, account_id: str) -> ConnectAccountRecord | None:
        """Return how an account stands; the provider is asked while it is pending.

        None when it was never asked for.

        Raises: ProviderError STRIPE_API_ERROR, StorageUnavailable, StorageError. Source: new.
        """
        known = await self.accounts.find(account_id)
        return None if known is None else await self._refreshed(known, None, None)

    @asynccontextmanager
    async def _alone(self, account_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(account_id, trio.Lock())
        async with lock:
            yield

    async def _did(self, account_id: str) -> str:
        try:
            with trio.fail_after(self.step_timeout_s):
                account = await self.ledger.account(account_id)
        except trio.TooSlowError as error:
            raise ProviderError(
                "the ledger did not answer in time",
                code="LEDGER_TIMEOUT",
                details={"account_id": account_id},
            ) from error
        if account is None:
            raise NotFoundError("no such account", details={"account_id": account_id})
        return account.did

    async def _open(
        self, opening: ConnectAccountRecord, refresh_url: str | None, return_url: str | None
    ) -> Onboarded:
        opened = await self._answer(
            opening.account_id,
            self.provider.open_account(
                opening.account_id,
                keyed_at=opening.created_at,
                refresh_url=refresh_url,
                return_url=return_url,
            ),
        )
        completed = await self.accounts.complete(opening.account_id, opened)
        if completed is not None:
            _log.info(
                "connect_account_opened",
                account_id=completed.account_id,
                connect_account_id=completed.connect_account_id,
            )
            return Onboarded(completed, deduped=False)
        return Onboarded(await self._known(opening), deduped=True)

    async def _refreshed(
        self, known: ConnectAccountRecord, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccountRecord:
        if known.onboarding_status is not OnboardingStatus.PENDING:
            return known
        assert known.connect_account_id is not None  # noqa: S101 - the database has looked
        found = await self._answer(
            known.account_id,
            self.provider.refresh_account(
                known.connect_account_id, refresh_url=refresh_url, return_url=return_url
            ),
        )
        refreshed = await self.accounts.refresh(known.account_id, found)
        return refreshed or await self._known(known)

    async def _known(self, record: ConnectAccountRecord) -> ConnectAccountRecord:
        """Return what somebody else has made of a record; none is ever taken away."""
        return await self.accounts.find(record.account_id) or record

    async def _answer(self, account_id: str, asked: Awaitable[ConnectAccount]) -> ConnectAccount:
        try:
            with trio.fail_after(self.step_timeout_s):
                return await asked
        except (ProviderError, trio.TooSlowError) as error:
            _log.warning("connect_account_failed", account_id=account_id, reason=str(error))
            raise ProviderError(
                "the payout provider has not answered with an account; try again later",
                code="STRIPE_API_ERROR",
            ) from error
