"""Stripe's own SDK against the sandbox: what a platform does with Connect, from end to end."""

from collections.abc import Awaitable

import pytest
import stripe

from clawsettle.sandbox.stripe_quirks import (
    CUT_BEFORE_ACTING,
    FAULT_AFTER_ACTING,
    RATE_LIMITED,
    Fate,
)
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


async def refusal(doing: Awaitable[object]) -> str | None:
    """Return the code that Stripe refuses with."""
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await doing
    return refused.value.code


async def test_the_sdk_knows_errors_for_what_they_are() -> None:
    async with open_sandbox() as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        script = sandbox.api.script

        def transfer(amount: int = 1) -> Awaitable[stripe.Transfer]:
            return sdk.v1.transfers.create_async(
                {"amount": amount, "currency": "usd", "destination": account_id},
                {"idempotency_key": "key"},
            )

        script.add("transfers.create", RATE_LIMITED, CUT_BEFORE_ACTING)
        with pytest.raises(stripe.RateLimitError):
            await transfer()
        with pytest.raises(stripe.APIConnectionError):
            await transfer()
        script.add("transfers.create", FAULT_AFTER_ACTING)
        with pytest.raises(stripe.APIError) as fault:
            await transfer()
        with pytest.raises(stripe.IdempotencyError):
            await transfer(2)
    assert fault.value.http_status == 500
    assert len(sandbox.state.transfers) == 1


async def test_what_the_balance_does_not_cover_is_refused() -> None:
    async with open_sandbox(fate=Fate.SILENT) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        on_account: stripe.RequestOptions = {"stripe_account": account_id}
        transfer = await sdk.v1.transfers.create_async(
            {"amount": 100, "currency": "usd", "destination": account_id}
        )
        too_much = sdk.v1.payouts.create_async({"amount": 101, "currency": "usd"}, on_account)
        assert await refusal(too_much) == "balance_insufficient"
        other_money = sdk.v1.payouts.create_async({"amount": 1, "currency": "eur"}, on_account)
        assert await refusal(other_money) == "balance_insufficient"
        payout = await sdk.v1.payouts.create_async({"amount": 60, "currency": "usd"}, on_account)
        reversing = sdk.v1.transfers.reversals.create_async(transfer.id)
        assert await refusal(reversing) == "balance_insufficient"
        sandbox.state.move_payout(payout.id, "failed")
        await sdk.v1.transfers.reversals.create_async(transfer.id)
        assert sandbox.state.accounts[account_id].balance_minor["usd"] == 0


async def test_a_transfer_is_reversed_once_as_a_whole_or_in_parts() -> None:
    async with open_sandbox() as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        transfer = await sdk.v1.transfers.create_async(
            {"amount": 100, "currency": "usd", "destination": account_id}
        )
        reverse = sdk.v1.transfers.reversals.create_async
        part = await reverse(transfer.id, {"amount": 30, "metadata": {"payout_id": "pout_1"}})
        standing = await sdk.v1.transfers.retrieve_async(transfer.id)
        assert (standing.amount_reversed, standing.reversed) == (30, False)
        await refusal(reverse(transfer.id, {"amount": 71}))
        rest = await reverse(transfer.id)
        await refusal(reverse(transfer.id))
        standing = await sdk.v1.transfers.retrieve_async(transfer.id)
    assert (standing.amount_reversed, standing.reversed) == (100, True)
    assert [each.id for each in standing.reversals.data] == [rest.id, part.id]
    assert (part.transfer, rest.amount) == (transfer.id, 70)


async def test_only_an_enabled_account_gets_money() -> None:
    async with open_sandbox() as sandbox, open_sdk(sandbox.base_url) as sdk:
        account = await sdk.v1.accounts.create_async({"type": "express"})
        standard = await sdk.v1.accounts.create_async({})

        def transfer(destination: str) -> Awaitable[stripe.Transfer]:
            return sdk.v1.transfers.create_async(
                {"amount": 1, "currency": "usd", "destination": destination}
            )

        assert await refusal(transfer("acct_none")) == "resource_missing"
        assert await refusal(transfer(standard.id)) == "insufficient_capabilities_for_transfer"
        for account_id in (account.id, standard.id):
            sandbox.complete_onboarding(account_id)
        # One gets what it has asked for, no more.
        assert await refusal(transfer(account.id)) == "insufficient_capabilities_for_transfer"
        await transfer(standard.id)


async def test_objects_of_others_do_not_exist() -> None:
    async with open_sandbox(fate=Fate.SILENT) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id, other_id = [await open_account(sandbox, sdk) for _ in range(2)]
        await sdk.v1.transfers.create_async(
            {"amount": 1, "currency": "usd", "destination": account_id}
        )
        payout = await sdk.v1.payouts.create_async(
            {"amount": 1, "currency": "usd"}, {"stripe_account": account_id}
        )
        retrieve = sdk.v1.payouts.retrieve_async
        strangers: list[stripe.RequestOptions] = [{"stripe_account": other_id}, {}]
        for options in strangers:
            assert await refusal(retrieve(payout.id, None, options)) == "resource_missing"
        listed = await sdk.v1.payouts.list_async(None, {"stripe_account": other_id})
        assert listed.data == []
        assert await refusal(sdk.v1.transfers.retrieve_async("tr_none")) == "resource_missing"
        link: stripe.params.AccountLinkCreateParams = {
            "account": "acct_none",
            "type": "account_onboarding",
        }
        assert await refusal(sdk.v1.account_links.create_async(link)) == "resource_missing"
        with pytest.raises(stripe.PermissionError):
            await sdk.v1.accounts.retrieve_async("acct_none")
        with pytest.raises(stripe.InvalidRequestError, match="Stripe-Account"):
            await sdk.v1.payouts.list_async()


@pytest.mark.parametrize("amount", [0, -1, None])
async def test_an_amount_is_positive_and_there(amount: int | None) -> None:
    async with open_sandbox() as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        params: stripe.params.TransferCreateParams = {"currency": "usd", "destination": account_id}
        if amount is not None:
            params["amount"] = amount
        code = await refusal(sdk.v1.transfers.create_async(params))
    assert code == ("parameter_missing" if amount is None else "parameter_invalid_integer")


async def test_lists_are_paged_through_by_the_sdk() -> None:
    async with open_sandbox(fate=Fate.PAID) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        on_account: stripe.RequestOptions = {"stripe_account": account_id}
        await sdk.v1.transfers.create_async(
            {"amount": 25, "currency": "usd", "destination": account_id}
        )
        made = [
            (await sdk.v1.payouts.create_async({"amount": 1, "currency": "usd"}, on_account)).id
            for _ in range(25)
        ]
        page = await sdk.v1.payouts.list_async({"status": "paid"}, on_account)
        assert [payout.id async for payout in page.auto_paging_iter()] == made[::-1]
        accounts = await sdk.v1.accounts.list_async({"created": {"gte": 1}})
        assert [account.id for account in accounts.data] == [account_id]


async def test_an_objects_attributes_are_those_that_the_sdk_knows() -> None:
    async with open_sandbox(fate=Fate.SILENT) as sandbox, open_sdk(sandbox.base_url) as sdk:
        account_id = await open_account(sandbox, sdk)
        on_account: stripe.RequestOptions = {"stripe_account": account_id}
        transfer = await sdk.v1.transfers.create_async(
            {"amount": 2, "currency": "usd", "destination": account_id}
        )
        payout = await sdk.v1.payouts.create_async({"amount": 1, "currency": "usd"}, on_account)
        objects: list[stripe.StripeObject] = [
            transfer,
            payout,
            await sdk.v1.transfers.reversals.create_async(transfer.id, {"amount": 1}),
            await sdk.v1.accounts.retrieve_async(account_id),
            await sdk.v1.balance.retrieve_async(None, on_account),
            await sdk.v1.account_links.create_async(
                {"account": account_id, "type": "account_onboarding"}
            ),
            stripe.Event.construct_from(sandbox.events[0], None),
        ]
    for each in objects:
        known = set(type(each).__annotations__) - {"OBJECT_NAME", "deleted"}
        # What Stripe leaves out unless it is asked for, or has something to say.
        rare = {
            "company",
            "groups",
            "individual",
            "connect_reserved",
            "instant_available",
            "issuing",
            "refund_and_dispute_prefunding",
            "context",
        }
        assert set(each.to_dict()) == known - rare, type(each)
