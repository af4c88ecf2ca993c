"""A daemon dies after each effect of a payout's life, and yet money, status and trail are right."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import frozen

from clawsettle.domain.payout_transfers import STAGES
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import ProviderStatus
from clawsettle.sandbox.http1 import Reply, Request
from clawsettle.sandbox.stripe_api import StripeApi
from tests.conftest import Postgres
from tests.daemon.payout_lives import (
    AMOUNT_MINOR,
    FUNDS_MINOR,
    UNTOUCHED,
    WRITES,
    Death,
    Life,
    Lives,
    World,
    cancel,
    come_due,
    create,
    grow_old,
    hear,
    lose_answers,
    sent,
)
from tests.domain.payout_cases import EVENT_TYPES
from tests.house import Json, open_house, settings
from tests.payouts import SIMULATED, payee, payout_event
from tests.stripe_platform import stripe_platform

S, P = PayoutStatus, ProviderStatus
QUICK = FORWARDING = {"poll_s": 0.02}
NOTHING, SPENT = (0, 0, 0), (-AMOUNT_MINOR, 0, AMOUNT_MINOR)
LOCKED, PAID = frozenset({"lock"}), frozenset({"lock", "finalize"})
GIVEN_BACK, RETURNED = LOCKED | {"rollback"}, PAID | {"return"}
CREATED = hear(P.PENDING)

LIVES = {
    "paid": Life((create, CREATED, hear(P.PAID)), S.PAID, PAID, SPENT),
    "asked for": Life((create, come_due, hear(P.PAID)), S.PAID, PAID, SPENT),
    "failed": Life((create, hear(P.FAILED)), S.FAILED, GIVEN_BACK, NOTHING),
    "failed late": Life((create, hear(P.PAID), hear(P.FAILED)), S.RETURNED, RETURNED, NOTHING),
    "canceled here": Life((create, cancel), S.CANCELED, GIVEN_BACK, NOTHING),
    "canceled there": Life((create, hear(P.CANCELED)), S.CANCELED, GIVEN_BACK, NOTHING),
    "declined": Life((create,), S.FAILED, GIVEN_BACK, NOTHING, "declined"),
    "not covered": Life(
        (create, grow_old), S.FAILED, frozenset(), NOTHING, amount_minor=2 * FUNDS_MINOR
    ),
    "answer lost": Life((create, sent, hear(P.PAID)), S.PAID, PAID, SPENT, "timeout_after"),
    "order lost": Life((create, sent, hear(P.PAID)), S.PAID, PAID, SPENT, "timeout_before"),
}
AT_STRIPE = ("failed late", "canceled here")
NAMES = [*LIVES, *(f"{name}, at Stripe" for name in AT_STRIPE)]
_deaths: dict[str, list[tuple[PayoutStep | None, str]]] = {}


def told(payout: Payout, status: ProviderStatus) -> Json:
    event_id = f"evt_{payout.payout_id}_{status}"
    return payout_event(EVENT_TYPES[status], event_id, payout.view())


@asynccontextmanager
async def simulated(database_url: str) -> AsyncIterator[World]:
    configured = settings(payouts={**SIMULATED, **QUICK}, forwarding=FORWARDING)
    async with open_house(database_url, configured) as house:
        one = await payee(house, amount_minor=FUNDS_MINOR)
    yield World(database_url, configured, one, told)


@frozen(eq=False)
class _WatchedApi:
    """Stripe's API; a daemon may die after each thing that it has done, before its answer."""

    api: StripeApi
    death: Death

    async def answer(self, request: Request) -> Reply:
        reply = await self.api.answer(request)
        if request.method == "POST":
            self.death.strike(f"stripe.{self.api.calls[-1].operation.name}")
        return reply


@asynccontextmanager
async def at_stripe(database_url: str) -> AsyncIterator[World]:
    async with stripe_platform(forwarding=FORWARDING, **QUICK) as platform:
        api = platform.sandbox.api
        async with open_house(database_url, platform.settings) as house:
            one = await platform.payee(house, amount_minor=FUNDS_MINOR)

        def watch(death: Death) -> None:
            vars(platform.sandbox)["api"] = _WatchedApi(api, death)

        def check(payout: Payout) -> None:
            platform.check(payout, given_back=payout.status is not S.PAID)

        yield World(database_url, platform.settings, one, platform.tell, watch, check)


async def deaths_of(name: str, postgres: Postgres) -> list[tuple[PayoutStep | None, str]]:
    """Live through a life, once for all tests, and return what its daemons died after."""
    if name not in _deaths:
        database = await trio.to_thread.run_sync(postgres.create_database, "migrated")
        url = postgres.server.dsn_of(database)
        life, _, place = name.partition(", ")
        async with at_stripe(url) if place else simulated(url) as world:
            _deaths[name] = await Lives(world, LIVES[life]).run()
    return _deaths[name]


@pytest.mark.parametrize("name", NAMES)
async def test_whenever_a_daemon_dies_the_next_one_ends_the_payout_as_it_should(
    postgres: Postgres, name: str
) -> None:
    assert await deaths_of(name, postgres)


@pytest.mark.parametrize("name", LIVES)
async def test_commits_whose_answers_are_lost_are_made_again_without_another_effect(
    database_url: str, name: str
) -> None:
    async with simulated(database_url) as world:
        lives = Lives(world, LIVES[name])
        async with open_house(database_url, world.settings) as house:
            await lives.act(house, "key_1")
            before = await lives.finish(house, "key_1", UNTOUCHED)
            lose_answers(house)
            await lives.act(house, "key_2")
            await lives.finish(house, "key_2", before)
        untroubled, troubled = lives.trails
        assert troubled == untroubled


async def test_a_daemon_has_died_after_each_step_and_after_each_commit(postgres: Postgres) -> None:
    deaths = {death for name in NAMES for death in await deaths_of(name, postgres)}
    asked = {PayoutStep.SEND, PayoutStep.LOOK, PayoutStep.RECALL, PayoutStep.CANCEL}
    assert asked | STAGES.keys() == set(PayoutStep)
    for step in PayoutStep:
        effect = "ledger.store" if step in STAGES else f"provider.{step}"
        assert {(step, effect), (step, "payouts.store")} <= deaths
    committed = {name for _, effect in deaths for name in effect.split(" and ")}
    assert {name for name in WRITES.values() if name.startswith("payouts.")} <= committed
    assert {"settlement_outbox.record_events", "settlement_outbox.finish"} <= committed
