"""Stripe's client when answers are lost and keys forgotten: nothing is sent twice, all is found."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from clawsettle.domain.providers import (
    Absent,
    ProviderStatus,
    Sent,
    Unanswered,
)
from clawsettle.sandbox.stripe_quirks import (
    CUT_AFTER_ACTING,
    CUT_BEFORE_ACTING,
    FAULT_AFTER_ACTING,
    FAULT_BEFORE_ACTING,
    RATE_LIMITED,
    SILENT_AFTER_ACTING,
    SILENT_BEFORE_ACTING,
    CallQuirk,
)
from tests.clients.providers import (
    PAST_LIFETIME_S,
    known,
    open_stripe,
    ordered,
)


@pytest.mark.parametrize(
    "quirk", [SILENT_AFTER_ACTING, CUT_AFTER_ACTING, FAULT_AFTER_ACTING], ids=["time", "cut", "500"]
)
async def test_a_payout_that_was_made_without_an_answer_is_found(quirk: CallQuirk) -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("payouts.create", quirk)
        unknown = await site.provider.send(order)
        assert isinstance(unknown, Unanswered)
        found = await site.provider.look(order)
        assert isinstance(found, Sent)
        assert unknown.transfer_id == found.transfer_id is not None
        assert site.is_paid_once(order)


@pytest.mark.parametrize(
    "quirk", [SILENT_AFTER_ACTING, CUT_AFTER_ACTING, FAULT_AFTER_ACTING], ids=["time", "cut", "500"]
)
async def test_a_transfer_that_was_made_without_an_answer_is_found_and_used(
    quirk: CallQuirk,
) -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("transfers.create", quirk)
        assert isinstance(await site.provider.send(order), Unanswered)
        found = await site.provider.look(order)
        assert isinstance(found, Absent)
        assert found.transfer_id is not None
        sent = await site.provider.send(evolve(order, transfer_id=found.transfer_id))
        assert isinstance(sent, Sent)
        assert site.is_paid_once(order)
        assert site.called("transfers.create") == 1


@pytest.mark.parametrize(
    "quirk", [SILENT_BEFORE_ACTING, CUT_BEFORE_ACTING, RATE_LIMITED], ids=["time", "cut", "429"]
)
@pytest.mark.parametrize("call", ["transfers.create", "payouts.create"])
async def test_what_was_not_done_is_done_when_it_is_sent_again(call: str, quirk: CallQuirk) -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add(call, quirk)
        assert isinstance(await site.provider.send(order), Unanswered)
        assert isinstance(await site.provider.look(order), Absent)
        assert isinstance(await site.provider.send(order), Sent)
        assert site.is_paid_once(order)


@pytest.mark.parametrize("call", ["transfers.create", "payouts.create"])
async def test_a_500_is_told_again_until_its_key_is_forgotten_and_then_it_is_sent(
    call: str,
) -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add(call, FAULT_BEFORE_ACTING)
        for _ in range(3):
            outcome = await site.provider.send(order)
            assert isinstance(outcome, Unanswered)
            assert outcome.http_status == 500
        absent = await site.provider.look(order)
        assert isinstance(absent, Absent)
        site.sandbox.clock.advance(PAST_LIFETIME_S)
        sent = await site.provider.send(evolve(order, transfer_id=absent.transfer_id))
        assert isinstance(sent, Sent)
        assert site.is_paid_once(order)


async def test_nothing_is_sent_again_within_a_call() -> None:
    async with open_stripe() as site:
        site.sandbox.api.script.add("transfers.create", RATE_LIMITED, RATE_LIMITED)
        assert isinstance(await site.provider.send(ordered(site.account_id)), Unanswered)
        assert site.called("transfers.create") == 1


async def test_a_request_that_is_under_way_still_is_not_taken_for_a_refusal() -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("transfers.create", CallQuirk(delay_s=3600))
        assert isinstance(await site.provider.send(order), Unanswered)
        assert await site.provider.look(order) == Absent()
        meanwhile = await site.provider.send(order)
        assert isinstance(meanwhile, Unanswered)
        assert meanwhile.http_status == 409


async def test_past_the_lifetime_of_its_keys_a_payout_is_found_by_its_metadata() -> None:
    async with open_stripe(timeout_s=0.3) as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("payouts.create", SILENT_AFTER_ACTING)
        assert isinstance(await site.provider.send(order), Unanswered)
        site.sandbox.clock.advance(PAST_LIFETIME_S)
        assert isinstance(await site.provider.look(order), Sent)
        assert site.is_paid_once(order)


async def test_past_the_lifetime_of_its_key_an_account_is_found_among_many() -> None:
    async with open_stripe() as site:
        for number in range(150):
            site.sandbox.state.open_account({"metadata": {"account_id": f"acc_{number}"}})
        site.sandbox.clock.advance(PAST_LIFETIME_S)
        account = await site.provider.open_account(
            "acc_payout_1",
            keyed_at=datetime.now(UTC) - timedelta(seconds=PAST_LIFETIME_S),
            refresh_url=None,
            return_url=None,
        )
        assert account.connect_account_id == site.account_id
        assert site.called("accounts.create") == 1


async def test_past_the_lifetime_of_its_key_an_account_that_is_not_there_is_made() -> None:
    async with open_stripe() as site:
        await site.provider.open_account(
            "acc_2",
            keyed_at=datetime.now(UTC) - timedelta(seconds=PAST_LIFETIME_S),
            refresh_url=None,
            return_url=None,
        )
        assert site.called("accounts.list") == 1
        assert site.called("accounts.create") == 2


async def test_a_look_reads_all_pages() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        sent = await site.provider.send(order)
        for _ in range(250):
            site.pay_out_by_hand()
        assert await site.provider.look(order) == sent
        assert site.called("payouts.list") == 3


async def test_a_look_does_not_believe_a_list_that_breaks_off() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        await site.provider.send(order)
        for _ in range(150):
            site.pay_out_by_hand()
        site.sandbox.api.script.add("payouts.list", CallQuirk(), RATE_LIMITED)
        assert isinstance(await site.provider.look(order), Unanswered)


@pytest.mark.parametrize("change", [{"amount": 1100}, {"currency": "eur"}])
async def test_a_payout_that_is_not_what_was_ordered_is_taken_for_nothing(
    change: dict[str, Any],
) -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        site.sandbox.state.accounts[site.account_id].balance_minor["eur"] += 1200
        site.pay_out_by_hand(metadata={"payout_id": order.payout_id}, **change)
        assert isinstance(await site.provider.look(order), Unanswered)


async def test_more_than_one_payout_of_an_order_is_for_people_to_look_at() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        await site.provider.send(order)
        site.pay_out_by_hand(metadata={"payout_id": order.payout_id})
        assert isinstance(await site.provider.look(order), Unanswered)


async def test_a_payout_that_stripe_does_not_know_any_more_is_not_called_absent() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id, external_payout_id="po_gone")
        unanswered = await site.provider.look(order)
        assert isinstance(unanswered, Unanswered)
        assert unanswered.http_status == 404


async def test_a_look_tells_how_a_payout_stands() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        order = known(order, await site.provider.send(order))
        assert order.external_payout_id is not None
        for status in (ProviderStatus.IN_TRANSIT, ProviderStatus.PAID, ProviderStatus.FAILED):
            site.sandbox.state.move_payout(order.external_payout_id, status)
            found = await site.provider.look(order)
            assert isinstance(found, Sent)
            assert found.status is status
