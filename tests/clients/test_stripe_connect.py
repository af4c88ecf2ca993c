"""Stripe's client on Stripe's sandbox: what it asks for, what is refused, and the way back."""

from datetime import UTC, datetime

import pytest
import stripe
import trio
from attrs import evolve

from clawsettle.domain.errors import ProviderError
from clawsettle.domain.providers import (
    Absent,
    Declined,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)
from clawsettle.domain.stripe_events import STRIPE_API_VERSION
from clawsettle.sandbox.stripe_errors import INVALID_REQUEST, StripeError
from clawsettle.sandbox.stripe_quirks import (
    BALANCE_INSUFFICIENT,
    PAYOUTS_NOT_ALLOWED,
    SILENT_AFTER_ACTING,
    CallQuirk,
    Effect,
)
from tests.clients.providers import (
    PAST_LIFETIME_S,
    REFRESH_URL,
    RETURN_URL,
    known,
    open_stripe,
    ordered,
    stripe_connect,
)

NOT_PENDING = CallQuirk(Effect.NONE, error=StripeError(400, INVALID_REQUEST, "Too late."))


async def test_an_account_is_opened_with_payouts_that_are_made_by_order_only() -> None:
    async with open_stripe() as site:
        made, link = site.sandbox.api.calls[:2]
        assert made.idempotency_key == "connect:account:acc_payout_1"
        assert made.asked.params == {
            "controller": {
                "fees": {"payer": "application"},
                "losses": {"payments": "application"},
                "requirement_collection": "stripe",
                "stripe_dashboard": {"type": "express"},
            },
            "capabilities": {"transfers": {"requested": True}},
            "settings": {"payouts": {"schedule": {"interval": "manual"}}},
            "metadata": {"account_id": "acc_payout_1"},
        }
        assert link.asked.params == {
            "account": site.account_id,
            "type": "account_onboarding",
            "refresh_url": REFRESH_URL,
            "return_url": RETURN_URL,
        }


async def test_an_onboarding_leads_where_its_caller_says() -> None:
    async with open_stripe() as site:
        wanted = {"refresh_url": "https://a.example/r", "return_url": "https://a.example/d"}
        account = await site.provider.open_account("acc_2", keyed_at=datetime.now(UTC), **wanted)
        assert account.onboarding_url.startswith(site.sandbox.base_url)
        assert site.sandbox.api.calls[-1].asked.params.items() >= wanted.items()


async def test_an_account_is_active_once_it_may_be_paid_out_to() -> None:
    async with open_stripe() as site:
        opened = await site.provider.open_account(
            "acc_2", keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        connect_account_id = opened.connect_account_id
        before = await site.provider.refresh_account(
            connect_account_id, refresh_url=None, return_url=None
        )
        site.sandbox.complete_onboarding(connect_account_id)
        after = await site.provider.refresh_account(
            connect_account_id, refresh_url=None, return_url=None
        )
        assert [opened.active, before.active, after.active] == [False, False, True]
        assert after.onboarding_url == RETURN_URL


@pytest.mark.parametrize("lacking", ["payouts_enabled", "capabilities"])
async def test_an_account_that_lacks_one_of_both_is_not_active(lacking: str) -> None:
    async with open_stripe() as site:
        content = site.sandbox.state.accounts[site.account_id].content
        content[lacking] = {"payouts_enabled": False, "capabilities": {"transfers": "pending"}}[
            lacking
        ]
        account = await site.provider.refresh_account(
            site.account_id, refresh_url=None, return_url=None
        )
        assert not account.active


async def test_a_payout_is_a_transfer_and_a_payout_that_names_it() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id, metadata={"invoice": "inv_1"})
        sent = await site.provider.send(order)
        assert isinstance(sent, Sent)
        transfer, payout = site.sandbox.api.calls[-2:]
        ours = {"payout_id": order.payout_id, "account_id": "acc_payout_1"}
        assert transfer.asked.params == {
            "amount": 1200,
            "currency": "usd",
            "destination": site.account_id,
            "transfer_group": order.payout_id,
            "metadata": ours,
        }
        assert transfer.idempotency_key == f"payout:transfer:{order.payout_id}"
        assert payout.asked.account_id == site.account_id
        assert payout.asked.params == {
            "amount": 1200,
            "currency": "usd",
            "metadata": {"invoice": "inv_1", "transfer_id": sent.transfer_id, **ours},
        }
        assert payout.idempotency_key == f"payout:send:{order.payout_id}"
        assert list(site.sandbox.state.transfers) == [sent.transfer_id]
        assert list(site.sandbox.state.payouts) == [sent.external_payout_id]


async def test_stripe_is_told_of_the_callers_metadata_what_it_takes_and_ours_win() -> None:
    async with open_stripe() as site:
        theirs: dict[str, object] = {
            "payout_id": "pout_of_another",
            "flag": True,
            "count": 7,
            "rate": 1.5,
            "nothing": None,
            "list": [1],
            "empty": "",
            "x" * 41: "the name is too long",
            "long": "x" * 501,
            "longest": "ü" * 500,
            "a[b]": "brackets",
            "broken": "\ud800",
        }
        order = ordered(site.account_id, metadata=theirs)
        sent = await site.provider.send(order)
        assert isinstance(sent, Sent)
        assert site.payouts_of(order)[0]["metadata"] == {
            "count": "7",
            "flag": "true",
            "longest": "ü" * 500,
            "rate": "1.5",
            "account_id": "acc_payout_1",
            "payout_id": order.payout_id,
            "transfer_id": sent.transfer_id,
        }


async def test_metadata_are_cut_to_the_same_fifty_keys_in_whatever_order_they_come() -> None:
    async with open_stripe() as site:
        names = [f"key_{number}" for number in range(60)]
        order = ordered(site.account_id, metadata=dict.fromkeys(names, "x"))
        first = await site.provider.send(order)
        reordered = evolve(order, metadata=dict.fromkeys(reversed(names), "x"))
        assert await site.provider.send(reordered) == first
        assert len(site.payouts_of(order)[0]["metadata"]) == 50


async def test_each_call_asks_for_the_pinned_version_which_the_sdk_is_made_for() -> None:
    async with open_stripe() as site:
        await site.provider.send(ordered(site.account_id))
        assert {call.api_version for call in site.sandbox.api.calls} == {STRIPE_API_VERSION}
        assert stripe.api_version == STRIPE_API_VERSION


@pytest.mark.parametrize("quirk", [PAYOUTS_NOT_ALLOWED, BALANCE_INSUFFICIENT])
async def test_a_payout_refused_after_its_transfer_names_what_is_to_be_recalled(
    quirk: CallQuirk,
) -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("payouts.create", quirk)
        refused = await site.provider.send(order)
        assert isinstance(refused, Declined)
        assert quirk.error is not None
        assert (refused.code, refused.http_status) == (quirk.error.code, 400)
        assert refused.transfer_id is not None
        recalled = await site.provider.recall(evolve(order, transfer_id=refused.transfer_id))
        assert isinstance(recalled, Recalled)
        assert recalled.reversal_id is not None
        assert site.transferred_minor(order) == 0
        absent = await site.provider.look(order)
        assert absent == Absent(refused.transfer_id, recalled.reversal_id)


async def test_a_refused_transfer_names_none() -> None:
    async with open_stripe() as site:
        refused = await site.provider.send(ordered("acct_of_nobody"))
        assert isinstance(refused, Declined)
        assert (refused.code, refused.transfer_id) == ("resource_missing", None)


async def test_a_transfer_whose_answer_was_lost_is_recalled() -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("transfers.create", SILENT_AFTER_ACTING)
        await site.provider.send(order)
        recalled = await site.provider.recall(order)
        assert isinstance(recalled, Recalled)
        assert recalled.reversal_id is not None
        assert site.transferred_minor(order) == 0


async def test_a_recall_whose_answer_was_lost_is_found_also_past_its_key() -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        await site.provider.cancel(order)
        site.sandbox.api.script.add("transfers.reversals.create", SILENT_AFTER_ACTING)
        assert isinstance(await site.provider.recall(order), Unanswered)
        site.sandbox.clock.advance(PAST_LIFETIME_S)
        recalled = await site.provider.recall(order)
        assert isinstance(recalled, Recalled)
        assert recalled.reversal_id is not None
        assert site.called("transfers.reversals.create") == 1


async def test_a_recall_takes_what_is_left_after_a_part_was_taken_back_by_hand() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        await site.provider.cancel(order)
        assert order.transfer_id is not None
        site.sandbox.state.reverse_transfer(order.transfer_id, {"amount": 200})
        assert isinstance(await site.provider.recall(order), Recalled)
        assert site.transferred_minor(order) == 0


@pytest.mark.parametrize("status", ["in_transit", "paid", "failed"])
async def test_a_payout_that_is_past_canceling_is_told_as_it_stands(status: str) -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        assert order.external_payout_id is not None
        site.sandbox.state.move_payout(order.external_payout_id, status)
        stands = await site.provider.cancel(order)
        assert isinstance(stands, Sent)
        assert stands.status == status
        assert site.called("payouts.cancel") == 0


async def test_a_payout_that_leaves_while_it_is_being_canceled_is_told_as_it_stands() -> None:
    async with open_stripe() as site, trio.open_nursery() as nursery:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        assert order.external_payout_id is not None
        site.sandbox.api.script.add("payouts.cancel", CallQuirk(delay_s=3600))
        told: list[object] = []

        async def cancel() -> None:
            told.append(await site.provider.cancel(order))

        nursery.start_soon(cancel)
        with trio.fail_after(5):
            while not site.called("payouts.cancel"):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        site.sandbox.state.move_payout(order.external_payout_id, "paid")
        site.sandbox.clock.advance(3600)
    (stands,) = told
    assert isinstance(stands, Sent)
    assert stands.status is ProviderStatus.PAID


async def test_a_cancellation_that_is_refused_while_the_payout_is_pending_is_declined() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        site.sandbox.api.script.add("payouts.cancel", NOT_PENDING)
        assert isinstance(await site.provider.cancel(order), Declined)


async def test_a_cancellation_whose_answer_was_lost_is_found() -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        site.sandbox.api.script.add("payouts.cancel", SILENT_AFTER_ACTING)
        canceled = await site.provider.cancel(order)
        assert isinstance(canceled, Sent)
        assert canceled.status is ProviderStatus.CANCELED


async def test_what_was_never_sent_cannot_be_canceled() -> None:
    async with open_stripe() as site:
        assert isinstance(await site.provider.cancel(ordered(site.account_id)), Declined)


async def test_a_wrong_key_of_ours_fails_no_payout_and_no_account() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        stranger = stripe_connect(site.sandbox.base_url, api_key="sk_live_of_another")
        outcome = await stranger.send(order)
        assert isinstance(outcome, Unanswered)
        assert outcome.http_status == 401
        with pytest.raises(ProviderError) as raised:
            await stranger.refresh_account(site.account_id, refresh_url=None, return_url=None)
        assert raised.value.retryable
        stranger.close()


async def test_a_refused_account_is_an_error_for_good_without_stripes_words() -> None:
    async with open_stripe() as site:
        with pytest.raises(ProviderError) as raised:
            await site.provider.refresh_account("acct_x", refresh_url=None, return_url=None)
        assert not raised.value.retryable
        assert raised.value.details == {"provider_code": "account_invalid"}
        assert "acct_x" not in raised.value.message
