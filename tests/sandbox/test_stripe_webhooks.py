"""What the sandbox tells the platform of: signed, repeated until taken, in any order."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import stripe
from attrs import frozen

from clawsettle.domain.stripe_signature import verify_signature
from clawsettle.sandbox.stripe_quirks import DUPLICATED, MISSING, OVERTAKEN, Fate, late
from clawsettle.sandbox.stripe_sandbox import StripeSandbox, open_sandbox
from clawsettle.sandbox.stripe_webhooks import Endpoint
from tests.sandbox.parties import SECRET, Receiver, open_account, open_receiver, open_sdk, until

# The SDK hands httpx its forms in a way that httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

COURSES = {
    Fate.PAID: ("paid", ["payout.created", "payout.updated", "payout.paid"], 0),
    Fate.FAILED: ("failed", ["payout.created", "payout.updated", "payout.failed"], 500),
    Fate.PAID_THEN_FAILED: (
        "failed",
        ["payout.created", "payout.updated", "payout.paid", "payout.failed"],
        500,
    ),
    Fate.CANCELED: ("canceled", ["payout.created", "payout.canceled"], 500),
    Fate.SILENT: ("pending", ["payout.created"], 0),
}


@frozen
class Site:
    """A sandbox with an enabled account that holds money, and somebody who is told of it all."""

    sandbox: StripeSandbox
    sdk: stripe.StripeClient
    receiver: Receiver
    account_id: str

    async def pay_out(self, amount: int = 500, **metadata: str) -> str:
        payout = await self.sdk.v1.payouts.create_async(
            {"amount": amount, "currency": "usd", "metadata": metadata},
            {"stripe_account": self.account_id},
        )
        return payout.id

    def status(self, payout_id: str) -> str:
        return str(self.sandbox.state.payouts[payout_id].content["status"])

    def has(self, payout_id: str, status: str) -> bool:
        return self.status(payout_id) == status

    def status_at(self, event_type: str) -> list[str]:
        return [
            event["data"]["object"]["status"]
            for event in self.receiver.events
            if event["type"] == event_type
        ]


@asynccontextmanager
async def open_site(
    *statuses: int, fate: Fate = Fate.PAID, step_s: float = 0
) -> AsyncIterator[Site]:
    async with (
        open_sandbox(fate=fate, step_s=step_s) as sandbox,
        open_sdk(sandbox.base_url) as sdk,
        open_receiver(*statuses) as receiver,
    ):
        account_id = await open_account(sandbox, sdk)
        await sdk.v1.transfers.create_async(
            {"amount": 500, "currency": "usd", "destination": account_id}
        )
        sandbox.webhooks.endpoint = Endpoint(receiver.url, SECRET)
        yield Site(sandbox, sdk, receiver, account_id)


@pytest.mark.parametrize("fate", Fate)
async def test_a_payout_takes_the_course_that_its_metadata_choose(fate: Fate) -> None:
    other = Fate.FAILED if fate is Fate.PAID else Fate.PAID
    status, told, left = COURSES[fate]
    async with open_site(fate=other) as site:
        payout_id = await site.pay_out(simulate=fate)
        await site.receiver.until(told)
        assert site.status(payout_id) == status
        assert site.sandbox.state.accounts[site.account_id].balance_minor["usd"] == left
    assert all(event["account"] == site.account_id for event in site.receiver.events)
    assert [event["type"] for event in site.sandbox.events[1:]] == told


@pytest.mark.parametrize("fate", Fate)
async def test_a_payout_takes_the_sandboxs_course_unless_its_metadata_name_one(fate: Fate) -> None:
    status, told, _ = COURSES[fate]
    async with open_site(fate=fate) as site:
        payout_id = await site.pay_out(simulate="rain")
        await site.receiver.until(told)
        assert site.status(payout_id) == status


async def test_each_step_of_a_course_takes_its_time() -> None:
    async with open_site(fate=Fate.PAID_THEN_FAILED, step_s=60) as site:
        payout_id = await site.pay_out()
        for seconds, status in ((59, "pending"), (2, "in_transit"), (60, "paid"), (60, "failed")):
            site.sandbox.clock.advance(seconds)
            await until(partial(site.has, payout_id, status))


async def test_an_event_says_what_was_true_when_it_happened() -> None:
    async with open_site(fate=Fate.PAID_THEN_FAILED) as site:
        await site.pay_out()
        await site.receiver.until(COURSES[Fate.PAID_THEN_FAILED][1])
    assert site.status_at("payout.created") == ["pending"]
    assert site.status_at("payout.updated") == ["in_transit"]
    assert site.status_at("payout.paid") == ["paid"]
    failed = next(event for event in site.receiver.events if event["type"] == "payout.failed")
    assert failed["data"]["previous_attributes"]["status"] == "paid"
    assert failed["data"]["object"]["failure_code"] == "account_closed"


async def test_a_delivery_is_signed_as_stripe_signs() -> None:
    async with open_site(fate=Fate.SILENT) as site:
        site.sandbox.clock.advance(86_400)
        await site.pay_out()
        await site.receiver.until(["payout.created"])
    (request,) = site.receiver.requests
    header = request.headers["stripe-signature"]
    stripe.WebhookSignature.verify_header(request.body.decode(), header, SECRET, tolerance=60)
    verify_signature(
        header,
        request.body,
        secrets=[SECRET],
        now_s=time.time(),
        tolerance_s=60,
        future_skew_s=0,
    )


async def test_a_delivery_is_repeated_until_it_is_taken() -> None:
    async with open_site(500, 503, 404, fate=Fate.SILENT) as site:
        await site.pay_out()
        # The sender hears of it only after the receiver.
        await until(lambda: len(site.sandbox.webhooks.deliveries) == 4)
        bodies = {request.body for request in site.receiver.requests}
        deliveries = list(site.sandbox.webhooks.deliveries)
    assert [delivery.status for delivery in deliveries] == [500, 503, 404, 200]
    assert site.receiver.types == ["payout.created"]
    assert len(bodies) == 1


async def test_a_delivery_waits_for_a_receiver_that_is_down() -> None:
    async with open_site(fate=Fate.SILENT) as site:
        site.sandbox.webhooks.endpoint = Endpoint("http://127.0.0.1:9/hook", SECRET)
        await site.pay_out()
        await until(lambda: len(site.sandbox.webhooks.deliveries) > 1)
        assert {delivery.status for delivery in site.sandbox.webhooks.deliveries} == {None}


async def test_a_duplicate_comes_twice_and_a_missing_event_never() -> None:
    async with open_site() as site:
        site.sandbox.webhooks.script.add("payout.created", DUPLICATED)
        site.sandbox.webhooks.script.add("payout.updated", MISSING)
        await site.pay_out()
        await site.receiver.until(["payout.created", "payout.created", "payout.paid"])
    ids = [event["id"] for event in site.receiver.events if event["type"] == "payout.created"]
    assert ids[0] == ids[1]


async def test_an_overtaken_event_comes_after_the_next_of_its_object() -> None:
    async with open_site(fate=Fate.SILENT) as site:
        site.sandbox.webhooks.script.add("payout.created", OVERTAKEN)
        payout_id = await site.pay_out()
        site.sandbox.state.move_payout(payout_id, "paid")
        await site.receiver.until(["payout.paid", "payout.created"])
    assert site.receiver.types == ["payout.paid", "payout.created"]


async def test_a_late_event_comes_when_its_time_has_come() -> None:
    async with open_site(fate=Fate.SILENT) as site:
        site.sandbox.webhooks.script.add("payout.created", late(60))
        payout_id = await site.pay_out()
        site.sandbox.state.move_payout(payout_id, "paid")
        await site.receiver.until(["payout.paid"])
        site.sandbox.clock.advance(60)
        await site.receiver.until(["payout.paid", "payout.created"])


async def test_a_quirk_is_for_the_event_it_was_meant_for() -> None:
    async with open_site(fate=Fate.SILENT) as site:
        wanted = {"payout_id": "pout_2"}
        site.sandbox.webhooks.script.add("payout.created", MISSING, metadata=wanted)
        for payout_id in ("pout_1", "pout_2", "pout_3"):
            await site.pay_out(100, payout_id=payout_id)
        await site.receiver.until(["payout.created"] * 2)
        told = {event["data"]["object"]["metadata"]["payout_id"] for event in site.receiver.events}
    assert told == {"pout_1", "pout_3"}


async def test_a_canceled_payout_goes_no_further() -> None:
    async with open_site(step_s=60) as site:
        on_account: stripe.RequestOptions = {"stripe_account": site.account_id}
        payout_id = await site.pay_out()
        canceled = await site.sdk.v1.payouts.cancel_async(payout_id, None, on_account)
        site.sandbox.clock.advance(1000)
        await site.receiver.until(["payout.created", "payout.canceled"])
        with pytest.raises(stripe.InvalidRequestError, match="pending"):
            await site.sdk.v1.payouts.cancel_async(payout_id, None, on_account)
        assert site.sandbox.state.accounts[site.account_id].balance_minor["usd"] == 500
        assert site.status(payout_id) == "canceled"
    assert canceled.status == "canceled"


async def test_the_button_of_an_accounts_page_enables_it_and_returns() -> None:
    async with open_site() as site, httpx.AsyncClient(trust_env=False) as browser:
        account = await site.sdk.v1.accounts.create_async(
            {"type": "express", "capabilities": {"transfers": {"requested": True}}}
        )
        link = await site.sdk.v1.account_links.create_async(
            {
                "account": account.id,
                "type": "account_onboarding",
                "refresh_url": "https://platform.test/again",
                "return_url": "https://platform.test/done",
            }
        )
        page = await browser.get(link.url)
        assert page.status_code == 200
        assert '<form method="post">' in page.text
        done = await browser.post(link.url)
        await site.receiver.until(["account.updated"])
        enabled = await site.sdk.v1.accounts.retrieve_async(account.id)
        site.sandbox.clock.advance(link.expires_at - link.created)
        expired = await browser.get(link.url)
        unknown = await browser.get(f"{site.sandbox.base_url}/connect/onboard/acct_none")
        home = await browser.get(site.sandbox.base_url)
    assert (account.payouts_enabled, enabled.payouts_enabled) == (False, True)
    assert (done.status_code, done.headers["location"]) == (303, "https://platform.test/done")
    assert expired.headers["location"] == "https://platform.test/again"
    assert (unknown.status_code, home.status_code) == (404, 200)
    (event,) = site.receiver.events
    assert event["account"] == account.id
    assert event["data"]["object"]["capabilities"] == {"transfers": "active"}
    assert event["data"]["previous_attributes"]["payouts_enabled"] is False


async def test_an_account_that_is_disabled_again_is_told_of() -> None:
    async with open_site() as site:
        site.sandbox.state.enable_account(site.account_id, enabled=False)
        await site.receiver.until(["account.updated"])
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await site.pay_out()
    assert refused.value.code == "payouts_not_allowed"
    assert site.receiver.events[0]["data"]["object"]["requirements"]["currently_due"]
