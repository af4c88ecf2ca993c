"""The payout providers a keeper may meet: Stripe's client on its sandbox, and the simulation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import trio
from attrs import define, evolve, field

from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.clients.stripe_connect import StripeConnect
from clawsettle.domain.providers import KEY_LIFETIME, PayoutOrder, Sent
from clawsettle.sandbox.simulated_provider import SimulatedProvider
from clawsettle.sandbox.stripe_quirks import Fate
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox

REFRESH_URL = "https://platform.example/refresh"
RETURN_URL = "https://platform.example/return"
PAST_LIFETIME_S = KEY_LIFETIME.total_seconds() + 3600
_numbers = count(1)


def ordered(connect_account_id: str, **changes: Any) -> PayoutOrder:
    """A payout of 12 dollars that was asked for just now."""
    payout_id = f"pout_{next(_numbers)}"
    order = PayoutOrder(
        payout_id, "acc_payout_1", connect_account_id, 1200, "USD", datetime.now(UTC)
    )
    return evolve(order, **changes)


def known(order: PayoutOrder, sent: object) -> PayoutOrder:
    """The order once it is known what was made for it."""
    assert isinstance(sent, Sent)
    return evolve(order, external_payout_id=sent.external_payout_id, transfer_id=sent.transfer_id)


@define(eq=False)
class StripeSite:
    """Stripe's client, the sandbox that it speaks to, and an account that may be paid out to."""

    provider: StripeConnect
    sandbox: StripeSandbox
    account_id: str = field(default="", init=False)

    async def open_account(self) -> str:
        account = await self.provider.open_account(
            "acc_payout_1", keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        self.sandbox.complete_onboarding(account.connect_account_id)
        return account.connect_account_id

    def called(self, name: str) -> int:
        """How often an operation was called."""
        return sum(call.operation.name == name for call in self.sandbox.api.calls)

    def transferred_minor(self, order: PayoutOrder) -> int:
        """What was transferred for an order, less what was taken back."""
        return sum(
            transfer["amount"] - transfer["amount_reversed"]
            for transfer in self.sandbox.state.transfers.values()
            if transfer["metadata"]["payout_id"] == order.payout_id
        )

    def payouts_of(self, order: PayoutOrder) -> list[dict[str, Any]]:
        return [
            payout.content
            for payout in self.sandbox.state.payouts.values()
            if payout.content["metadata"].get("payout_id") == order.payout_id
        ]

    def is_paid_once(self, order: PayoutOrder) -> bool:
        made = [payout["amount"] for payout in self.payouts_of(order)]
        return made == [order.amount_minor] == [self.transferred_minor(order)]

    def pay_out_by_hand(self, **changes: Any) -> None:
        """Make a payout as the account's dashboard, or another program, would."""
        asked = {"amount": 1200, "currency": "usd", **changes}
        balance_minor = self.sandbox.state.accounts[self.account_id].balance_minor
        balance_minor[asked["currency"]] += asked["amount"]
        self.sandbox.state.make_payout(self.account_id, asked)


def stripe_connect(
    base_url: str, *, api_key: str = "sk_test_1", timeout_s: float = 5.0
) -> StripeConnect:
    return StripeConnect(
        api_key,
        REFRESH_URL,
        RETURN_URL,
        connect_timeout_s=2.0,
        timeout_s=timeout_s,
        connections_max=4,
        base_url=base_url,
    )


@asynccontextmanager
async def open_stripe(
    *, fate: Fate = Fate.SILENT, step_s: float = 0, timeout_s: float = 5.0
) -> AsyncIterator[StripeSite]:
    async with open_sandbox(fate=fate, step_s=step_s) as sandbox:
        site = StripeSite(stripe_connect(sandbox.base_url, timeout_s=timeout_s), sandbox)
        site.account_id = await site.open_account()
        try:
            yield site
        finally:
            site.provider.close()


def simulated(**changes: Any) -> SimulatedProvider:
    options: dict[str, Any] = {
        "onboard_base_url": "https://dashboard.stripe.com/connect/accounts",
        "webhook_secret": "whsec_sandbox",
        "livemode": False,
        **changes,
    }
    return SimulatedProvider(**options)


@asynccontextmanager
async def open_provider(kind: str) -> AsyncIterator[tuple[PayoutProvider, str]]:
    """A provider and an active account there."""
    if kind == "stripe":
        async with open_stripe() as site:
            yield site.provider, site.account_id
        return
    provider = simulated()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.run)
        account = await provider.open_account(
            "acc_payout_1", keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        yield provider, account.connect_account_id
        provider.close()
