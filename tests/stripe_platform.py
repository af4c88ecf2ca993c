"""A platform's Stripe for houses that pay out through the real client: its sandbox and one account.

It outlives the houses, as Stripe does.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from clawsettle.config import Secret, Settings
from clawsettle.domain.payouts import Payout
from clawsettle.domain.providers import ProviderStatus
from clawsettle.sandbox.stripe_quirks import Fate
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox
from tests.domain.payout_cases import EVENT_TYPES
from tests.house import House, Json, settings
from tests.payouts import SIMULATED, Payee, funded, keeper_of, onboard


@frozen(eq=False)
class Platform:
    """See the module."""

    sandbox: StripeSandbox
    settings: Settings

    async def payee(self, house: House, *, amount_minor: int = 5000) -> Payee:
        """Open an account here and at Stripe, put an amount on it, and have it onboarded."""
        one = await funded(house, amount_minor=amount_minor)
        account = await keeper_of(house).steps.provider.open_account(
            one.account_id, keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        self.sandbox.complete_onboarding(account.connect_account_id)
        await onboard(house.database, one, account.connect_account_id)
        return one

    def tell(self, payout: Payout, status: ProviderStatus) -> Json:
        """Let a payout reach a status, if it has not yet, and return the event of that."""
        object_id, event_type = payout.external_payout_id, EVENT_TYPES[status]
        assert object_id is not None
        if not self._events(object_id, event_type):
            self.sandbox.state.move_payout(object_id, status)
        (event,) = self._events(object_id, event_type)
        return event

    def transfers(self, payout_id: str) -> list[Json]:
        """Return the transfers that were made for a payout."""
        return [
            transfer
            for transfer in self.sandbox.state.transfers.values()
            if transfer["metadata"]["payout_id"] == payout_id
        ]

    def payouts(self, payout_id: str) -> list[Json]:
        """Return the payouts that were made for one of ours."""
        return [
            payout.content
            for payout in self.sandbox.state.payouts.values()
            if payout.content["metadata"]["payout_id"] == payout_id
        ]

    def check(self, payout: Payout, *, given_back: bool = False) -> None:
        """Fail unless a payout was sent once, and is back where it was given back."""
        (transfer,), (made,) = self.transfers(payout.payout_id), self.payouts(payout.payout_id)
        assert (payout.transfer_id, payout.external_payout_id) == (transfer["id"], made["id"])
        assert transfer["amount_reversed"] == (payout.amount_minor if given_back else 0)
        assert (payout.reversal_id is not None) == given_back
        account = self.sandbox.state.accounts[payout.connect_account_id]
        assert not any(account.balance_minor.values())

    def _events(self, object_id: str, event_type: str) -> list[Json]:
        return [
            event
            for event in self.sandbox.events
            if event["type"] == event_type and event["data"]["object"]["id"] == object_id
        ]


@asynccontextmanager
async def stripe_platform(
    *, api_timeout_s: float = 5.0, forwarding: Any = None, **payouts: Any
) -> AsyncIterator[Platform]:
    """Open a sandbox, with the settings of the houses at it."""
    async with open_sandbox(fate=Fate.SILENT) as sandbox:
        configured = settings(
            payouts={
                **SIMULATED,
                "provider": "stripe",
                "onboard_refresh_url": "https://platform.example/refresh",
                "onboard_return_url": "https://platform.example/return",
                **payouts,
            },
            stripe={
                "secret_key": Secret("sk_test_1"),
                "api_base_url": sandbox.base_url,
                "api_timeout_s": api_timeout_s,
            },
            forwarding=forwarding,
        )
        yield Platform(sandbox, configured)
