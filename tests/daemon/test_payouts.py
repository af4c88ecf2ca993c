"""Payouts from order to end: the money, the status, and what a repetition changes (nothing)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from clawsettle.actors.payout_keeper import Creation, PayoutKeeper
from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import CallerError, ConflictError
from clawsettle.domain.payouts import PayoutStatus
from tests.house import House, open_house, settings
from tests.payouts import SIMULATED, Payee, balances, cleared, order, payee, payout_event


@asynccontextmanager
async def site(database_url: str) -> AsyncIterator[tuple[House, PayoutKeeper, Payee]]:
    async with open_house(database_url, settings(payouts=SIMULATED)) as house:
        assert house.parts.payouts is not None
        yield house, house.parts.payouts.keeper, await payee(house)


async def test_a_payout_is_locked_sent_and_paid_once(database_url: str) -> None:
    async with site(database_url) as (house, keeper, one):
        created = await keeper.create(order(one))
        assert not created.deduped
        view = created.payout.view()
        assert view["status"] == "submitted"
        assert view["lock_event_id"]
        assert str(view["external_payout_id"]).startswith("po_")
        assert await balances(house, one) == (3800, 1200)
        again = await keeper.create(order(one))
        assert again.deduped
        assert again.payout == created.payout
        for event_id in ("evt_1", "evt_1", "evt_2"):
            answer = await house.deliver(payout_event("payout.paid", event_id, view))
            assert answer.status_code == 200, answer.text
        paid = (await keeper.payouts.by_ids([created.payout.payout_id]))[created.payout.payout_id]
        assert paid.status is PayoutStatus.PAID
        assert await balances(house, one) == (3800, 0)
        assert await cleared(house) == 1200


async def test_a_failed_payout_gives_everything_back(database_url: str) -> None:
    async with site(database_url) as (house, keeper, one):
        created = await keeper.create(order(one))
        answer = await house.deliver(payout_event("payout.failed", "evt_1", created.payout.view()))
        assert answer.json()["forwarded_to_ledger"]
        retried = await keeper.retry(created.payout.payout_id)
        assert (retried.payout.status, retried.retried) == (PayoutStatus.FAILED, False)
        assert await balances(house, one) == (5000, 0)


async def test_a_payout_that_is_not_covered_ends_as_failed(database_url: str) -> None:
    async with site(database_url) as (house, keeper, one):
        with pytest.raises(CallerError) as refused:
            await keeper.create(order(one, amount_minor=9000))
        assert refused.value.code == "INSUFFICIENT_FUNDS"
        assert refused.value.details == {
            "account_id": one.account_id,
            "amount_minor": "9000",
            "available_minor": "5000",
        }
        again = await keeper.create(order(one, amount_minor=9000))
        assert again.deduped
        assert again.payout.status is PayoutStatus.FAILED
        assert again.payout.last_error_code == "INSUFFICIENT_FUNDS"
        with pytest.raises(ConflictError) as reused:
            await keeper.create(order(one, amount_minor=1))
        assert reused.value.code == "IDEMPOTENCY_KEY_REUSED"
        assert await balances(house, one) == (5000, 0)


async def test_fifty_orders_under_one_key_are_one_payout(database_url: str) -> None:
    async with site(database_url) as (house, keeper, one):
        created: list[Creation] = []

        async def create() -> None:
            created.append(await keeper.create(order(one)))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(create)
        assert sorted(creation.deduped for creation in created) == [False] + [True] * 49
        assert len({creation.payout for creation in created}) == 1
        assert created[0].payout.status is PayoutStatus.SUBMITTED
        assert await balances(house, one) == (3800, 1200)


async def test_one_event_delivered_twenty_times_at_once_moves_the_money_once(
    database_url: str,
) -> None:
    async with site(database_url) as (house, keeper, one):
        await keeper.create(order(one, "another"))
        view = (await keeper.create(order(one))).payout.view()
        answers: list[int] = []

        async def deliver() -> None:
            answers.append(
                (await house.deliver(payout_event("payout.paid", "evt_1", view))).status_code
            )

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(deliver)
        assert answers == [200] * 20
        assert await balances(house, one) == (2600, 1200)
        assert await cleared(house) == 1200


async def test_a_late_failure_of_a_paid_payout_gives_the_money_back(database_url: str) -> None:
    async with site(database_url) as (house, keeper, one):
        view = (await keeper.create(order(one))).payout.view()
        await house.deliver(payout_event("payout.paid", "evt_1", view))
        assert (await house.deliver(payout_event("payout.failed", "evt_2", view))).is_success
        payout_id = str(view["id"])
        payout = (await keeper.payouts.by_ids([payout_id]))[payout_id]
        assert payout.status is PayoutStatus.RETURNED
        assert payout.view()["status"] == "failed"
        assert await balances(house, one) == (5000, 0)
        assert await cleared(house) == 0


@pytest.mark.parametrize("named", [True, False])
async def test_news_that_came_before_its_payout_is_heeded_when_it_is_sent(
    database_url: str, named: bool
) -> None:
    async with site(database_url) as (house, keeper, one):
        asked = order(one)
        external_id = sha256_hex(f"po:{asked.payout_id}:{one.connect_account_id}")[:24]
        view = {
            "id": asked.payout_id,
            "account_id": one.account_id,
            "external_payout_id": f"po_{external_id}",
            "amount_minor": "1200",
        }
        early = payout_event("payout.paid", "evt_1", view, named=named)
        assert (await house.deliver(early)).is_success
        created = await keeper.create(asked)
        assert created.payout.external_payout_id == view["external_payout_id"]
        assert created.payout.status is PayoutStatus.FINALIZING_PAID
        assert await keeper.settle(asked.payout_id) is None
        assert await balances(house, one) == (3800, 0)
        assert await cleared(house) == 1200
