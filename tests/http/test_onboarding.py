"""Onboarding over HTTP: what is answered, when, and every way to be refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from clawsettle.domain.errors import ProviderError
from tests.house import ADMIN, House, open_house, settings
from tests.payouts import SIMULATED
from tests.provider import Provider

ONBOARD = "/v1/payouts/connect/onboard"


@asynccontextmanager
async def site(
    database_url: str, provider: Provider | None = None, **payouts: object
) -> AsyncIterator[tuple[House, str]]:
    async with open_house(database_url, settings(payouts={**SIMULATED, **payouts})) as house:
        if provider is not None:
            assert house.parts.payouts is not None
            house.parts.payouts.onboarder.provider = provider
        yield house, await house.open_account()


async def onboard(house: House, account_id: object, **urls: object) -> httpx.Response:
    body = {"account_id": account_id, **urls}
    return await house.settle.post(ONBOARD, json=body, headers=ADMIN)


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


async def test_an_account_is_opened_as_the_contract_has_it(database_url: str) -> None:
    async with site(database_url, onboard_base_url="https://onboard.example/base") as (house, _):
        account_id = await house.open_account("did:key:payee")
        answer = await onboard(
            house,
            f" {account_id} ",
            refresh_url="https://a.example/~x*",
            return_url="https://b.example/",
        )
        assert answer.status_code == 201
        assert list(answer.json()) == ["ok", "deduped", "account"]
        account = answer.json()["account"]
        assert list(account) == [
            *("account_id", "provider", "connect_account_id", "onboarding_status"),
            *("onboarding_url", "created_at", "updated_at"),
        ]
        assert (account["account_id"], account["provider"]) == (account_id, "stripe")
        assert account["onboarding_status"] == "active"
        assert account["created_at"] == account["updated_at"]
        assert account["onboarding_url"] == (
            f"https://onboard.example/base/{account['connect_account_id']}"
            "?refresh_url=https%3A%2F%2Fa.example%2F%7Ex*&return_url=https%3A%2F%2Fb.example%2F"
            f"&account_id={account_id}"
        )
        again = await onboard(house, account_id, return_url="https://c.example/")
        assert (again.status_code, again.json()["deduped"]) == (200, True)
        assert again.json()["account"] == account


async def test_first_calls_at_once_are_one_201_and_one_account(database_url: str) -> None:
    provider = Provider()
    async with site(database_url, provider) as (house, account_id):
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await onboard(house, account_id))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.json()["account"]["connect_account_id"] for answer in answers}) == 1
        assert len(provider.asked) == 1


async def test_a_pending_account_is_answered_200_with_a_fresh_link(database_url: str) -> None:
    async with site(database_url, Provider(active=False)) as (house, account_id):
        first = await onboard(house, account_id)
        assert first.json()["account"]["onboarding_status"] == "pending"
        again = await onboard(house, account_id)
        assert (again.status_code, again.json()["deduped"]) == (200, True)
        assert (
            again.json()["account"]["onboarding_url"] != (first.json()["account"]["onboarding_url"])
        )


@pytest.mark.parametrize("url", ["http://shop.example", "https://me@shop.example", "javascript:1"])
async def test_a_link_leads_nowhere_that_is_not_safe(database_url: str, url: str) -> None:
    async with site(database_url) as (house, account_id):
        for field in ("refresh_url", "return_url"):
            answer = await onboard(house, account_id, **{field: url})
            assert refusal(answer) == (400, "INVALID_REQUEST", {"field": field})
        assert await house.database.fetch("SELECT 1 FROM connect_account") == []


async def test_the_account_id_is_named_before_a_bad_link(database_url: str) -> None:
    async with site(database_url) as (house, _):
        answer = await onboard(house, None, refresh_url="ftp://x", return_url="ftp://x")
        assert refusal(answer) == (400, "INVALID_REQUEST", {"field": "account_id"})


async def test_an_account_that_the_ledger_does_not_know_is_404(database_url: str) -> None:
    async with site(database_url) as (house, _):
        answer = await onboard(house, "acc_nobody")
        assert refusal(answer) == (404, "NOT_FOUND", {"account_id": "acc_nobody"})


async def test_a_provider_that_fails_is_502_and_says_nothing_of_it(database_url: str) -> None:
    provider = Provider(failure=ProviderError("sk_live_1 is wrong"))
    async with site(database_url, provider) as (house, account_id):
        answer = await onboard(house, account_id)
        assert refusal(answer) == (502, "STRIPE_API_ERROR", None)
        assert "sk_live_1" not in answer.text


async def test_a_provider_that_is_slow_is_503_and_the_account_comes_later(
    database_url: str,
) -> None:
    provider = Provider(gate=trio.Event())
    async with site(database_url, provider, answer_deadline_s=0.1) as (house, account_id):
        answer = await onboard(house, account_id)
        assert refusal(answer) == (503, "OVERLOADED", None)
        provider.gate = None
        assert (await onboard(house, account_id)).status_code == 201
