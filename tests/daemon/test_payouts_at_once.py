"""Many at once, on one daemon and on two: one payout, one effect of a kind, answers that agree."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle, islice, permutations

import httpx
import trio
from attrs import define, field, frozen

from clawsettle.actors.payout_keeper import Creation
from clawsettle.domain.payout_requests import PayoutRequest
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.domain.providers import PayoutOrder, ProviderStatus, SendOutcome
from tests.domain.payout_cases import BY_EVENTS, EVENT_TYPES, UNTELLING
from tests.house import House, open_house, settings
from tests.payouts import (
    SIMULATED,
    Payee,
    at_rest,
    audit_types,
    balances,
    cleared,
    keeper_of,
    ledger_stages,
    order,
    payee,
    payout_event,
)
from tests.provider import Provider

CREATES, DELIVERIES, UNDER_WAY_MAX = 50, 20, 24


@define(eq=False)
class CountedProvider(Provider):
    """A provider that notes what it was asked to send."""

    orders: list[str] = field(factory=list, kw_only=True)

    async def send(self, order: PayoutOrder) -> SendOutcome:
        self.orders.append(order.payout_id)
        return await super().send(order)


@frozen(eq=False)
class Two:
    """Two daemons on one database and at one provider, and an account to pay out."""

    one: House
    other: House
    provider: CountedProvider
    payee: Payee

    def in_turn(self, count: int) -> Iterator[House]:
        return islice(cycle((self.one, self.other)), count)


@asynccontextmanager
async def two_daemons(database_url: str) -> AsyncIterator[Two]:
    configured, provider = settings(payouts=SIMULATED), CountedProvider()
    async with (
        open_house(database_url, configured) as one,
        open_house(database_url, configured) as other,
    ):
        for house in (one, other):
            keeper_of(house).steps.provider = provider
        yield Two(one, other, provider, await payee(one))


async def create_at_once(two: Two, request: PayoutRequest) -> list[Creation]:
    created: list[Creation] = []

    async def create(house: House) -> None:
        created.append(await keeper_of(house).create(request))

    async with trio.open_nursery() as nursery:
        for house in two.in_turn(CREATES):
            nursery.start_soon(create, house)
    return created


async def test_fifty_orders_under_one_key_on_two_daemons_are_one_payout(database_url: str) -> None:
    async with two_daemons(database_url) as two:
        created = await create_at_once(two, order(two.payee))
        assert sorted(creation.deduped for creation in created) == [False] + [True] * (CREATES - 1)
        (payout,) = {creation.payout for creation in created}
        assert payout.status is PayoutStatus.SUBMITTED
        assert two.provider.orders == [payout.payout_id]
        assert await ledger_stages(two.one.database, payout.payout_id) == ["lock"]
        assert await balances(two.one, two.payee) == (3800, 1200)
        trail = await audit_types(two.one.database, payout.payout_id)
        assert len(set(trail)) == len(trail) == 4


async def test_one_event_delivered_to_two_daemons_at_once_moves_the_money_once(
    database_url: str,
) -> None:
    async with two_daemons(database_url) as two:
        await keeper_of(two.one).create(order(two.payee, "another"))
        payout = (await keeper_of(two.one).create(order(two.payee))).payout
        answers: list[httpx.Response] = []

        async def deliver(house: House) -> None:
            event = payout_event("payout.paid", "evt_1", payout.view())
            answers.append(await house.deliver(event))

        async with trio.open_nursery() as nursery:
            for house in two.in_turn(DELIVERIES):
                nursery.start_soon(deliver, house)
        assert [answer.status_code for answer in answers] == [200] * DELIVERIES
        assert all(answer.json()["forwarded_to_ledger"] for answer in answers)
        assert sum(not answer.json()["deduped"] for answer in answers) == 1
        assert await ledger_stages(two.one.database, payout.payout_id) == ["lock", "finalize"]
        # The other payout keeps what is locked for it.
        assert await balances(two.one, two.payee) == (2600, 1200)
        assert await cleared(two.one) == 1200


async def test_every_order_of_a_payouts_events_with_duplicates_ends_in_the_books_of_the_table(
    database_url: str,
) -> None:
    orders = [
        events
        for count in range(len(ProviderStatus) + 1)
        for events in permutations(ProviderStatus, count)
    ]
    assert len(orders) == 326
    expected = [BY_EVENTS[frozenset(events) - UNTELLING] for events in orders]
    async with open_house(database_url, settings(payouts=SIMULATED)) as house:
        keeper = keeper_of(house)
        one = await payee(house, amount_minor=5000 * len(orders))
        slots, payout_ids = trio.CapacityLimiter(UNDER_WAY_MAX), {}

        async def live(number: int, events: tuple[ProviderStatus, ...]) -> None:
            async with slots:
                payout = (await keeper.create(order(one, f"key_{number}"))).payout
                payout_ids[number] = payout.payout_id
                for status in [status for status in events for _ in range(2)]:
                    event_id = f"evt_{number}_{status}"
                    told = payout_event(EVENT_TYPES[status], event_id, payout.view())
                    assert (await house.deliver(told)).status_code == 200

        async with trio.open_nursery() as nursery:
            for number, events in enumerate(orders):
                nursery.start_soon(live, number, events)
        await at_rest(house.database)
        payouts = await keeper.payouts.by_ids(payout_ids.values())
        for number, events in enumerate(orders):
            assert payouts[payout_ids[number]].status.wire is expected[number][0], events
        books = [sum(amounts) for amounts in zip(*(end[1:] for end in expected), strict=True)]
        assert [*await balances(house, one), await cleared(house)] == books
