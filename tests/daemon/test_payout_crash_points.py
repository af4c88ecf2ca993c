"""A daemon dies after each effect of a payout's life, and yet money, status and trail are right."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from attrs import frozen

from clawsettle.config import Secret
from clawsettle.domain.payout_transfers import STAGES
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import ProviderStatus
from clawsettle.sandbox.http1 import Reply, Request
from clawsettle.sandbox.stripe_api import StripeApi
from clawsettle.sandbox.stripe_quirks import Fate
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox
from tests.conftest import Postgres
from tests.daemon.payout_lives import (
    AMOUNT_MINOR,
    FUNDS_MINOR,
    WRITES,
    Death,
    Life,
    Lives,
    World,
    cancel,
    create,
    grow_old,
    hear,
    keeper_of,
    sent,
)
from tests.house import Json, open_house, settings
from tests.payouts import SIMULATED, funded, onboard, payee, payout_event

S, P = PayoutStatus, ProviderStatus
QUICK = {**SIMULATED, "poll_s": 0.02}
FORWARDING = {"poll_s": 0.02}
NOTHING, SPENT = (0, 0, 0), (-AMOUNT_MINOR, 0, AMOUNT_MINOR)
LOCKED, PAID = frozenset({"lock"}), frozenset({"lock", "finalize"})
GIVEN_BACK, RETURNED = LOCKED | {"rollback"}, PAID | {"return"}
CREATED = hear(P.PENDING)

LIVES = {
    "paid": Life((create, CREATED, hear(P.PAID)), S.PAID, PAID, SPENT),
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
AT_STRIPE = ("paid", "failed late", "canceled here")
NAMES = [*LIVES, *(f"{name}, at Stripe" for name in AT_STRIPE)]
_deaths: dict[str, list[tuple[PayoutStep | None, str]]] = {}


def told(payout: Payout, status: ProviderStatus) -> Json:
    event_type = "payout.created" if status is P.PENDING else f"payout.{status}"
    return payout_event(event_type, f"evt_{payout.payout_id}_{status}", payout.view())


@asynccontextmanager
async def simulated(database_url: str) -> AsyncIterator[World]:
    configured = settings(payouts=QUICK, forwarding=FORWARDING)
    async with open_house(database_url, configured) as house:
        one = await payee(house, amount_minor=FUNDS_MINOR)
    yield World(database_url, configured, one, told)


@frozen(eq=False)
class _WatchedApi:
    """Stripe's API; a daemon may die after each thing that it has done, before its answer."""

    sandbox: StripeSandbox
    inner: StripeApi
    death: Death

    async def answer(self, request: Request) -> Reply:
        reply = await self.inner.answer(request)
        if request.method == "POST":
            self.death.strike(f"stripe.{self.inner.calls[-1].operation.name}")
        return reply


@frozen(eq=False)
class _Stripe:
    """A Stripe that outlives daemons, and what is to be seen of a payout there."""

    sandbox: StripeSandbox
    api: StripeApi

    def tell(self, payout: Payout, status: ProviderStatus) -> Json:
        object_id = payout.external_payout_id
        assert object_id is not None
        event_type = "payout.created" if status is P.PENDING else f"payout.{status}"
        for moved in (False, True):
            for event in self.sandbox.events:
                if event["type"] == event_type and event["data"]["object"]["id"] == object_id:
                    return event
            assert not moved
            self.sandbox.state.move_payout(object_id, status)
        raise AssertionError("moving a payout tells of it")

    def watch(self, death: Death) -> None:
        vars(self.sandbox)["api"] = _WatchedApi(self.sandbox, self.api, death)

    def check(self, payout: Payout) -> None:
        """Fail unless there is one transfer and one payout, and what was given back is back."""
        state = self.sandbox.state
        (transfer,) = (
            transfer
            for transfer in state.transfers.values()
            if transfer["metadata"]["payout_id"] == payout.payout_id
        )
        (made,) = (
            made.content
            for made in state.payouts.values()
            if made.content["metadata"]["payout_id"] == payout.payout_id
        )
        given_back = payout.status is not S.PAID
        assert transfer["amount_reversed"] == (AMOUNT_MINOR if given_back else 0)
        assert (payout.transfer_id, payout.external_payout_id) == (transfer["id"], made["id"])
        assert (payout.reversal_id is not None) == given_back
        assert not any(state.accounts[payout.connect_account_id].balance_minor.values())


@asynccontextmanager
async def at_stripe(database_url: str) -> AsyncIterator[World]:
    async with open_sandbox(fate=Fate.SILENT) as sandbox:
        configured = settings(
            payouts={
                **QUICK,
                "provider": "stripe",
                "onboard_refresh_url": "https://platform.example/refresh",
                "onboard_return_url": "https://platform.example/return",
            },
            stripe={"secret_key": Secret("sk_test_1"), "api_base_url": sandbox.base_url},
            forwarding=FORWARDING,
        )
        async with open_house(database_url, configured) as house:
            one = await funded(house, amount_minor=FUNDS_MINOR)
            account = await keeper_of(house).steps.provider.open_account(
                one.account_id, keyed_at=datetime.now(UTC), refresh_url=None, return_url=None
            )
            sandbox.complete_onboarding(account.connect_account_id)
            await onboard(house.database, one, account.connect_account_id)
        stripe = _Stripe(sandbox, sandbox.api)
        yield World(database_url, configured, one, stripe.tell, stripe.watch, stripe.check)


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
