"""The simulated provider: the contract's ids, its scripts, and the events it delivers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve

from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.domain.providers import (
    Absent,
    ConnectAccount,
    Declined,
    PayoutOrder,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)
from clawsettle.domain.stripe_signature import verify_signature
from clawsettle.sandbox.simulated_provider import SimulatedProvider, connect_account_id
from clawsettle.sandbox.stripe_quirks import Fate
from tests.clients.providers import known, ordered, simulated
from tests.sandbox.parties import SECRET, Receiver, open_receiver

ACCOUNT = "acct_2d9613ecee4e99e2374cc591"
PAYOUT = "pout_e441ff0d7cd276eda27d75ca657c"
BASE = "https://dashboard.stripe.com/connect/accounts"


def scripted(word: object, **changes: Any) -> PayoutOrder:
    return ordered(ACCOUNT, metadata={"simulate": word}, **changes)


def begun(order: PayoutOrder, ago_s: float) -> PayoutOrder:
    return evolve(order, keyed_at=datetime.now(UTC) - timedelta(seconds=ago_s))


@asynccontextmanager
async def delivering(**options: Any) -> AsyncIterator[tuple[SimulatedProvider, Receiver]]:
    """A provider that runs, and somebody who takes its events."""
    provider = simulated(**{"delay_s": 0.0, **options})
    async with open_receiver() as receiver, trio.open_nursery() as nursery:
        nursery.start_soon(provider.run)
        provider.deliver_to(receiver.url.removesuffix("/hook"))
        yield provider, receiver
        provider.close()


async def all_told(provider: SimulatedProvider) -> None:
    with trio.fail_after(5):
        while provider.statistics()["waiting"]:  # noqa: ASYNC110 - counts tell nobody
            await trio.sleep(0.01)


async def opened(account_id: str, **urls: str) -> ConnectAccount:
    wanted = {"refresh_url": None, "return_url": None, **urls}
    return await simulated().open_account(account_id, keyed_at=datetime.now(UTC), **wanted)


# Ids.


def test_an_accounts_id_is_the_contracts() -> None:
    assert connect_account_id("acc_payout_1") == ACCOUNT


async def test_a_payouts_id_is_the_contracts() -> None:
    sent = await simulated().send(ordered(ACCOUNT, payout_id=PAYOUT))
    assert sent == Sent("po_a2bcf66ca686e863ed80687f")


async def test_an_onboarding_link_is_a_form_in_the_contracts_order() -> None:
    account = await opened(
        "acc_payout_1", return_url="https://b.example/x y~*", refresh_url="https://a.example/?q=1"
    )
    assert account == ConnectAccount(
        ACCOUNT,
        active=True,
        onboarding_url=(
            f"{BASE}/{ACCOUNT}?refresh_url=https%3A%2F%2Fa.example%2F%3Fq%3D1"
            "&return_url=https%3A%2F%2Fb.example%2Fx+y%7E*&account_id=acc_payout_1"
        ),
    )


async def test_an_onboarding_link_has_no_empty_fields() -> None:
    account = await opened("acc_payout_1")
    assert account.onboarding_url == f"{BASE}/{ACCOUNT}?account_id=acc_payout_1"


# Scripts.


@pytest.mark.parametrize(
    ("word", "statuses"),
    [
        ("paid", ["pending", "in_transit", "paid"]),
        ("failed", ["pending", "in_transit", "failed"]),
        ("paid_then_failed", ["pending", "in_transit", "paid", "failed"]),
        ("canceled", ["pending", "canceled", "canceled"]),
        ("silent", ["pending", "pending", "pending"]),
        ("nonsense", ["pending", "pending", "pending"]),
        (["paid"], ["pending", "pending", "pending"]),
    ],
)
async def test_a_payout_takes_the_course_of_its_script(word: object, statuses: list[str]) -> None:
    order = scripted(word)
    for number, status in enumerate(statuses):
        # A provider of its own each time: nothing of it is remembered.
        found = await simulated(delay_s=60.0).look(begun(order, 60 * number + 30))
        assert isinstance(found, Sent)
        assert found.status == status


async def test_without_a_script_payouts_have_the_fate_of_all() -> None:
    found = await simulated(fate=Fate.FAILED).look(begun(ordered(ACCOUNT), 60))
    assert isinstance(found, Sent)
    assert found.status is ProviderStatus.FAILED


async def test_a_declined_payout_is_not_there() -> None:
    provider, order = simulated(), scripted("declined")
    assert isinstance(await provider.send(order), Declined)
    assert await provider.look(order) == Absent()
    assert isinstance(await provider.cancel(order), Declined)


async def test_a_payout_that_times_out_after_acting_is_there_and_never_answered() -> None:
    provider, order = simulated(), scripted("timeout_after")
    for _ in range(2):
        assert isinstance(await provider.send(order), Unanswered)
        assert isinstance(await provider.look(order), Sent)
    assert isinstance(await simulated().look(order), Sent)


async def test_a_payout_that_times_out_before_acting_is_there_the_second_time() -> None:
    provider, order = simulated(), scripted("timeout_before")
    assert isinstance(await provider.send(order), Unanswered)
    assert await provider.look(order) == Absent()
    sent = await provider.send(order)
    assert isinstance(sent, Sent)
    assert await provider.look(order) == sent
    assert await simulated().look(known(order, sent)) == sent


async def test_a_payout_past_pending_is_not_canceled() -> None:
    provider = simulated(delay_s=1.0)
    stands = await provider.cancel(begun(scripted("paid"), 60))
    assert isinstance(stands, Sent)
    assert stands.status is ProviderStatus.PAID


async def test_nothing_was_transferred_that_could_be_recalled() -> None:
    assert await simulated().recall(scripted("failed")) == Recalled()


def test_no_payouts_are_kept_that_could_be_listed() -> None:
    provider: PayoutProvider = simulated()
    now = datetime.now(UTC)
    assert provider.payouts_between(now, now, connect_account_ids=frozenset()) is None


# Events.


@pytest.mark.parametrize(
    ("word", "types"),
    [
        ("paid", ["payout.updated", "payout.paid"]),
        ("failed", ["payout.updated", "payout.failed"]),
        ("paid_then_failed", ["payout.updated", "payout.paid", "payout.failed"]),
        ("canceled", ["payout.canceled"]),
    ],
)
async def test_each_status_is_delivered_signed_and_in_order(word: str, types: list[str]) -> None:
    async with delivering() as (provider, receiver):
        order = scripted(word)
        sent = await provider.send(order)
        await receiver.until(types)
        assert receiver.types == types
        assert isinstance(sent, Sent)
        for request, event in zip(receiver.requests, receiver.events, strict=True):
            assert request.path == "/v1/stripe/webhook"
            verify_signature(
                request.headers["stripe-signature"],
                request.body,
                secrets=[SECRET],
                now_s=datetime.now(UTC).timestamp(),
                tolerance_s=60,
                future_skew_s=60,
            )
            subject = event["data"]["object"]
            assert subject["metadata"] == {
                "payout_id": order.payout_id,
                "account_id": order.account_id,
            }
            assert (subject["id"], subject["amount"], subject["currency"], event["account"]) == (
                sent.external_payout_id,
                1200,
                "usd",
                ACCOUNT,
            )
            assert event["livemode"] is False


async def test_a_payout_sent_again_after_its_events_has_the_same_events() -> None:
    async with delivering() as (provider, receiver):
        order = scripted("canceled")
        for number in (1, 2):
            await provider.send(order)
            await receiver.until(["payout.canceled"] * number)
            await all_told(provider)
        first, second = receiver.events
        assert first["id"] == second["id"]


async def test_what_is_not_taken_is_delivered_again() -> None:
    async with delivering() as (provider, receiver):
        receiver.statuses += [503, 500, 409]
        await provider.send(scripted("canceled"))
        await receiver.until(["payout.canceled"])
        assert len(receiver.requests) == 4


async def test_deliveries_wait_for_the_daemons_address() -> None:
    provider = simulated(delay_s=0.0)
    async with open_receiver() as receiver, trio.open_nursery() as nursery:
        nursery.start_soon(provider.run)
        await provider.send(scripted("canceled"))
        await trio.testing.wait_all_tasks_blocked()
        provider.deliver_to(receiver.url.removesuffix("/hook"))
        await receiver.until(["payout.canceled"])
        provider.close()


async def test_a_canceled_payout_tells_no_more_of_its_script() -> None:
    async with delivering(delay_s=0.2) as (provider, receiver):
        canceled, other = scripted("paid"), scripted("canceled")
        await provider.send(canceled)
        await provider.cancel(canceled)
        await provider.send(other)
        await all_told(provider)
        told = {event["data"]["object"]["metadata"]["payout_id"] for event in receiver.events}
        assert told == {other.payout_id}


async def test_more_payouts_than_may_wait_are_counted_and_not_told() -> None:
    provider = simulated(waiting_max=2, delay_s=60.0)
    for _ in range(5):
        assert isinstance(await provider.send(scripted("paid")), Sent)
    assert provider.statistics() == {"waiting": 2, "delivered_count": 0, "dropped_count": 3}


async def test_it_stops_at_once_with_events_that_are_not_due() -> None:
    provider = simulated(delay_s=3600.0)
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.run)
            await provider.send(scripted("paid"))
            await trio.testing.wait_all_tasks_blocked()
            provider.close()
    assert isinstance(await provider.send(scripted("paid")), Sent)
