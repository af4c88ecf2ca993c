"""Stripe does not answer: what it has done is found out, and nothing is done a second time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio
from attrs import frozen

from clawsettle.domain.errors import ClawsettleError, ProviderError
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import KEY_LIFETIME, ProviderStatus
from clawsettle.sandbox.stripe_quirks import (
    FAULT_AFTER_ACTING,
    FAULT_BEFORE_ACTING,
    SILENT_AFTER_ACTING,
    SILENT_BEFORE_ACTING,
    CallQuirk,
    slow,
)
from tests.house import ADMIN, House, Json, open_house
from tests.payouts import Payee, balances, keeper_of, order
from tests.stripe_platform import Platform, stripe_platform

PAST_LIFETIME = KEY_LIFETIME + timedelta(hours=1)
ALONE = {"poll_s": 3600}


@frozen(eq=False)
class Site:
    """A house at a Stripe that does not wait long for answers, and an account to pay out."""

    house: House
    platform: Platform
    payee: Payee

    def let(self, call: str, *quirks: CallQuirk) -> None:
        """Let the next calls of this name go these ways."""
        self.platform.sandbox.api.script.add(call, *quirks)

    async def create(self) -> Payout:
        """Create a payout whose sending is not answered."""
        with pytest.raises(ProviderError) as silence:
            await keeper_of(self.house).create(order(self.payee))
        assert silence.value.code == "STRIPE_API_ERROR"
        payout = await self.payout()
        assert payout.status is PayoutStatus.UNKNOWN
        return payout

    async def payout(self) -> Payout:
        (row,) = await self.house.database.fetch("SELECT payout_id FROM payout")
        payout_id = row["payout_id"]
        return (await keeper_of(self.house).payouts.by_ids([payout_id]))[payout_id]

    async def retry(self) -> Payout:
        """Have the payout taken on at once, as an operator would."""
        payout_id = (await self.payout()).payout_id
        try:
            return (await keeper_of(self.house).retry(payout_id)).payout
        except ClawsettleError:
            return await self.payout()

    async def outlive_the_keys(self) -> None:
        """Let more than the keys' lifetime pass, at Stripe and here."""
        self.platform.sandbox.clock.advance(PAST_LIFETIME.total_seconds())
        await self.house.database.fetch(
            "UPDATE payout SET keyed_at = keyed_at - $1::interval,"
            " status_at = status_at - $1::interval",
            PAST_LIFETIME,
        )

    async def becomes(self, status: PayoutStatus) -> Payout:
        """Wait until the payout has come to a status by itself."""
        with trio.fail_after(20):
            while (await self.payout()).status is not status:  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.02)
        return await self.payout()

    async def get(self, path: str) -> Json:
        answer = await self.house.settle.get(path, headers=ADMIN)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body


@asynccontextmanager
async def site(database_url: str, **payouts: float) -> AsyncIterator[Site]:
    async with (
        stripe_platform(api_timeout_s=0.3, **payouts) as platform,
        open_house(database_url, platform.settings) as house,
    ):
        yield Site(house, platform, await platform.payee(house))


@pytest.mark.parametrize(
    ("call", "quirk"),
    [
        ("transfers.create", SILENT_AFTER_ACTING),
        ("payouts.create", SILENT_BEFORE_ACTING),
        ("payouts.create", FAULT_AFTER_ACTING),
    ],
)
async def test_an_unknown_outcome_is_shown_and_resolved_by_the_janitor(
    database_url: str, call: str, quirk: CallQuirk
) -> None:
    async with site(database_url) as at:
        at.let(call, quirk)
        at.let("payouts.list", SILENT_BEFORE_ACTING)
        payout = await at.create()
        shown = (await at.get(f"/v1/payouts/{payout.payout_id}"))["payout"]
        assert (shown["status"], shown["state"]) == ("initiated", "unknown")
        assert shown["last_error_code"] == "STRIPE_API_ERROR"
        stuck = (await at.get("/v1/payouts/ops/stuck?older_than_minutes=0"))["payouts"]
        assert [one["id"] for one in stuck] == [payout.payout_id]
        submitted = await at.becomes(PayoutStatus.SUBMITTED)
        assert submitted.last_error_code is None
        at.platform.check(submitted)
        assert await balances(at.house, at.payee) == (3800, 1200)
        told = at.platform.tell(submitted, ProviderStatus.PAID)
        assert (await at.house.deliver(told)).status_code == 200
        assert (await at.payout()).status is PayoutStatus.PAID


@pytest.mark.parametrize("call", ["transfers.create", "payouts.create"])
@pytest.mark.parametrize(
    "quirk",
    [
        SILENT_BEFORE_ACTING,
        SILENT_AFTER_ACTING,
        FAULT_BEFORE_ACTING,
        slow(PAST_LIFETIME.total_seconds() - 60),
    ],
    ids=["not acted", "acted", "fault is kept", "acts after the lifetime"],
)
async def test_past_the_lifetime_of_its_keys_a_payout_is_sent_only_after_a_look(
    database_url: str, call: str, quirk: CallQuirk
) -> None:
    async with site(database_url, **ALONE) as at:
        at.let(call, quirk)
        keyed_at = (await at.create()).keyed_at
        await at.outlive_the_keys()
        sent_at = len(at.platform.sandbox.api.calls)
        payout = await at.retry()
        assert payout.status is PayoutStatus.SUBMITTED
        at.platform.check(payout)
        asked = [one.operation.name for one in at.platform.sandbox.api.calls[sent_at:]]
        assert asked[0] == "payouts.list"
        resent = asked[-1] == "payouts.create"
        assert (payout.keyed_at > keyed_at) == resent
        assert await balances(at.house, at.payee) == (3800, 1200)


@pytest.mark.parametrize("call", ["transfers.create", "payouts.create"])
async def test_what_a_dead_daemon_has_sent_is_found_also_past_the_lifetime_of_its_keys(
    database_url: str, call: str
) -> None:
    async with site(database_url, **ALONE) as at:
        at.let(call, SILENT_AFTER_ACTING)
        await at.create()
        # As if it had died before it could store that there was no answer.
        await at.house.database.fetch(
            "UPDATE payout SET status = 'sending', transfer_id = NULL, attempts = 1"
        )
        await at.outlive_the_keys()
        payout = await at.retry()
        assert payout.status is PayoutStatus.SUBMITTED
        at.platform.check(payout)


@pytest.mark.parametrize("quirk", [SILENT_BEFORE_ACTING, SILENT_AFTER_ACTING])
async def test_a_reversal_without_an_answer_is_made_once_before_the_money_is_given_back(
    database_url: str, quirk: CallQuirk
) -> None:
    async with site(database_url) as at:
        await keeper_of(at.house).create(order(at.payee))
        at.let("transfers.reversals.create", quirk)
        failed = at.platform.tell(await at.payout(), ProviderStatus.FAILED)
        assert (await at.house.deliver(failed)).status_code == 502
        assert (await at.payout()).status is PayoutStatus.FINALIZING_FAILED
        assert await balances(at.house, at.payee) == (3800, 1200)
        payout = await at.becomes(PayoutStatus.FAILED)
        at.platform.check(payout, given_back=True)
        assert await balances(at.house, at.payee) == (5000, 0)


async def test_a_payout_whose_news_never_come_is_asked_for(database_url: str) -> None:
    async with site(database_url, ask_after_s=1) as at:
        await keeper_of(at.house).create(order(at.payee))
        at.platform.tell(await at.payout(), ProviderStatus.PAID)
        at.platform.check(await at.becomes(PayoutStatus.PAID))
        assert await balances(at.house, at.payee) == (3800, 0)
