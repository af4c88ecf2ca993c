"""The payout provider as the payout keeper sees it; Stripe and the simulation stand behind it.

Nothing is retried here: who asks decides when to ask again. Every effect carries the order's own
idempotency key, and every object the provider makes carries ``metadata.payout_id``.
"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Protocol

from clawsettle.domain.providers import (
    CancelOutcome,
    ConnectAccount,
    LookOutcome,
    PayoutOrder,
    ProviderPayout,
    RecallOutcome,
    SendOutcome,
)


class PayoutProvider(Protocol):
    """Somewhere payouts can be sent; the caller bounds each call's time.

    A cancelled call is an unknown outcome. Calls for one payout never overlap.
    """

    async def open_account(
        self,
        account_id: str,
        *,
        keyed_at: datetime,
        refresh_url: str | None,
        return_url: str | None,
    ) -> ConnectAccount:
        """Open the provider's account for one of ours, or find it, and link to its onboarding.

        ``keyed_at`` is when this account was first asked for: past the key's lifetime the provider
        is searched before anything is made.

        Raises: ProviderError, ``retryable`` unless the provider refused.
        """
        ...

    async def refresh_account(
        self, connect_account_id: str, *, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccount:
        """Return how an account stands now, with a fresh link while it is not active.

        Raises: ProviderError, ``retryable`` unless the provider refused.
        """
        ...

    async def send(self, order: PayoutOrder) -> SendOutcome:
        """Make the transfer, unless the order names it, and then the payout, under their keys."""
        ...

    async def look(self, order: PayoutOrder) -> LookOutcome:
        """Say what the provider has of a payout, without any effect.

        By the ids that the order names, else by the metadata of what was made since ``keyed_at``.
        """
        ...

    async def recall(self, order: PayoutOrder) -> RecallOutcome:
        """Take back the transfer of a payout that has failed, whole and once."""
        ...

    async def cancel(self, order: PayoutOrder) -> CancelOutcome:
        """Ask for the end of a payout that was sent; ``Sent`` tells how it stands afterwards."""
        ...

    def payouts_between(
        self, start: datetime, end: datetime, *, connect_account_ids: frozenset[str]
    ) -> AsyncGenerator[ProviderPayout, None] | None:
        """List the payouts made in [start, end) for these accounts; None where none are kept.

        Raises: ProviderError while iterating.
        """
        ...
