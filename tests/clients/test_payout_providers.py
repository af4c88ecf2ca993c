"""What every payout provider keeps to, whoever stands behind it."""

from datetime import UTC, datetime

import pytest

from clawsettle.domain.providers import ProviderStatus, Recalled, Sent
from tests.clients.providers import known, open_provider, ordered

pytestmark = pytest.mark.parametrize("kind", ["stripe", "simulated"])


async def test_a_payout_sent_again_under_its_key_is_the_same_payout(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        order = ordered(account_id)
        first, second = await provider.send(order), await provider.send(order)
        assert isinstance(first, Sent)
        assert first == second
        assert first.status is ProviderStatus.PENDING


async def test_payouts_of_two_orders_are_two(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        sent = [await provider.send(ordered(account_id)) for _ in range(2)]
        assert len({s.external_payout_id for s in sent if isinstance(s, Sent)}) == 2


async def test_a_look_finds_what_was_sent_with_and_without_its_id(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        order = ordered(account_id)
        sent = await provider.send(order)
        assert await provider.look(order) == sent
        assert await provider.look(known(order, sent)) == sent


async def test_a_look_changes_nothing(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        order = ordered(account_id)
        sent = await provider.send(order)
        looks = [await provider.look(order) for _ in range(3)]
        assert looks == [sent] * 3


async def test_a_recall_has_one_effect_however_often_it_is_asked_for(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        order = ordered(account_id)
        order = known(order, await provider.send(order))
        assert isinstance(await provider.cancel(order), Sent)
        first, second = await provider.recall(order), await provider.recall(order)
        assert isinstance(first, Recalled)
        assert first == second


async def test_a_canceled_payout_says_so_to_whoever_looks_or_cancels_again(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        order = ordered(account_id)
        order = known(order, await provider.send(order))
        canceled = await provider.cancel(order)
        assert isinstance(canceled, Sent)
        assert canceled.status is ProviderStatus.CANCELED
        assert await provider.look(order) == canceled
        assert await provider.cancel(order) == canceled


async def test_an_account_opened_again_is_the_same_account(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        again = await provider.open_account(
            "acc_payout_1", keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        other = await provider.open_account(
            "acc_other", keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
        )
        assert again.connect_account_id == account_id != other.connect_account_id


async def test_an_account_that_may_be_paid_out_to_is_active(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        account = await provider.refresh_account(account_id, refresh_url=None, return_url=None)
        assert account.connect_account_id == account_id
        assert account.active
        assert account.onboarding_url.startswith("https://")


async def test_a_recall_of_what_was_never_transferred_has_nothing_to_take_back(kind: str) -> None:
    async with open_provider(kind) as (provider, account_id):
        assert await provider.recall(ordered(account_id)) == Recalled()
