"""What Stripe's client lists for reconciliation."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from clawsettle.domain.errors import ProviderError
from clawsettle.domain.providers import (
    Absent,
    ProviderPayout,
    ProviderStatus,
    Sent,
    Unanswered,
)
from clawsettle.sandbox.stripe_quirks import (
    FAULT_BEFORE_ACTING,
    RATE_LIMITED,
)
from tests.clients.providers import (
    StripeSite,
    known,
    open_stripe,
    ordered,
)


async def listed(site: StripeSite, start: datetime, end: datetime) -> list[ProviderPayout]:
    accounts = frozenset(site.sandbox.state.accounts)
    async with aclosing(
        site.provider.payouts_between(start, end, connect_account_ids=accounts)
    ) as payouts:
        return [payout async for payout in payouts]


async def test_the_payouts_of_a_time_are_listed_account_by_account() -> None:
    async with open_stripe() as site:
        start = datetime.fromtimestamp(int(site.sandbox.clock.now_s()), UTC)
        orders = [ordered(site.account_id) for _ in range(3)]
        sent = [await site.provider.send(order) for order in orders]
        site.pay_out_by_hand()
        canceled = known(orders[1], sent[1])
        await site.provider.cancel(canceled)
        await site.provider.recall(canceled)
        site.sandbox.clock.advance(3600)
        later = ordered(site.account_id)
        await site.provider.send(later)

        retrieved = site.called("transfers.retrieve")
        found = await listed(site, start, start + timedelta(seconds=3000))
        by_payout = {payout.payout_id: payout for payout in found}
        assert set(by_payout) == {None, *(order.payout_id for order in orders)}
        of_canceled = by_payout[canceled.payout_id]
        assert of_canceled == ProviderPayout(
            canceled.external_payout_id or "",
            canceled.payout_id,
            site.account_id,
            1200,
            "USD",
            ProviderStatus.CANCELED,
            of_canceled.created_at,
            canceled.transfer_id,
            reversed=True,
        )
        assert start <= of_canceled.created_at < start + timedelta(seconds=3000)
        assert not by_payout[orders[0].payout_id].reversed
        assert site.called("transfers.retrieve") == retrieved
        assert len(await listed(site, start, start + timedelta(hours=2))) == 5


async def test_the_end_of_the_time_is_not_in_it() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        await site.provider.send(order)
        made_at = datetime.fromtimestamp(site.payouts_of(order)[0]["created"], UTC)
        second = timedelta(seconds=1)
        assert len(await listed(site, made_at, made_at + second)) == 1
        assert not await listed(site, made_at - second, made_at)
        assert not await listed(site, made_at + timedelta(milliseconds=1), made_at + second)


async def test_the_transfer_of_a_payout_may_be_much_older_than_the_payout() -> None:
    async with open_stripe() as site:
        order = ordered(site.account_id)
        site.sandbox.api.script.add("payouts.create", FAULT_BEFORE_ACTING)
        assert isinstance(await site.provider.send(order), Unanswered)
        absent = await site.provider.look(order)
        assert isinstance(absent, Absent)
        site.sandbox.clock.advance(7 * 24 * 3600)
        sent = await site.provider.send(evolve(order, transfer_id=absent.transfer_id))
        assert isinstance(sent, Sent)
        await site.provider.cancel(known(order, sent))
        await site.provider.recall(known(order, sent))
        now = datetime.fromtimestamp(site.sandbox.clock.now_s(), UTC)
        (payout,) = await listed(site, now - timedelta(minutes=5), now + timedelta(minutes=5))
        assert payout.transfer_id == absent.transfer_id
        assert payout.reversed


async def test_a_list_that_breaks_off_is_an_error() -> None:
    async with open_stripe() as site:
        await site.provider.send(ordered(site.account_id))
        site.sandbox.api.script.add("transfers.list", RATE_LIMITED)
        now = datetime.now(UTC)
        with pytest.raises(ProviderError) as raised:
            await listed(site, now - timedelta(hours=1), now + timedelta(hours=1))
        assert raised.value.retryable
