"""Stripe's own SDK against the sandbox: what a platform does with Connect, from end to end."""

import pytest
import stripe

from clawsettle.sandbox.stripe_quirks import Fate
from clawsettle.sandbox.stripe_sandbox import open_sandbox
from tests.sandbox.parties import open_account, open_sdk

# The SDK hands httpx its forms in a way that httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


async def test_money_goes_to_an_account_and_out_of_it() -> None:
    async with open_sandbox(fate=Fate.SILENT) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        on_account: stripe.RequestOptions = {"stripe_account": account_id}
        transfer = await sdk.v1.transfers.create_async(
            {
                "amount": 1200,
                "currency": "usd",
                "destination": account_id,
                "metadata": {"payout_id": "pout_1"},
            },
            {"idempotency_key": "transfer"},
        )
        payout = await sdk.v1.payouts.create_async(
            {"amount": 1200, "currency": "usd", "metadata": {"payout_id": "pout_1"}},
            {**on_account, "idempotency_key": "payout"},
        )
        balance = await sdk.v1.balance.retrieve_async(None, on_account)
        found = await sdk.v1.payouts.retrieve_async(payout.id, None, on_account)
    assert (transfer.amount, transfer.destination) == (1200, account_id)
    assert transfer.metadata is not None
    assert transfer.metadata["payout_id"] == "pout_1"
    assert (payout.id[:3], payout.status) == ("po_", "pending")
    assert found.metadata == payout.metadata
    assert [line.amount for line in balance.available] == [0]
    assert [call.operation.name for call in sandbox.api.calls] == [
        "accounts.create",
        "transfers.create",
        "payouts.create",
        "balance.retrieve",
        "payouts.retrieve",
    ]
    assert sandbox.api.calls[1].idempotency_key == "transfer"


async def test_a_repeated_key_is_answered_as_before() -> None:
    async with open_sandbox(fate=Fate.SILENT) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        first, second = [
            await sdk.v1.transfers.create_async(
                {"amount": 5, "currency": "usd", "destination": account_id},
                {"idempotency_key": "same"},
            )
            for _ in range(2)
        ]
        with pytest.raises(stripe.IdempotencyError):
            await sdk.v1.transfers.create_async(
                {"amount": 6, "currency": "usd", "destination": account_id},
                {"idempotency_key": "same"},
            )
    assert first.id == second.id
    assert list(sandbox.state.transfers) == [first.id]
