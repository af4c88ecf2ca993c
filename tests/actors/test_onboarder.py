"""One account at the provider for each of ours, whatever comes in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
from attrs import define, field

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.actors.onboarder import Onboarded, Onboarder
from clawsettle.clients.ledger import HttpLedger, Ledger
from clawsettle.domain.errors import NotFoundError, ProviderError
from clawsettle.domain.onboarding import OnboardingStatus
from clawsettle.storage.connect_accounts import (
    ConnectAccountRecord,
    ConnectAccounts,
    note_account,
)
from tests.house import House, open_house
from tests.provider import Provider

PAGE = "https://shop.example/done"


@define(eq=False)
class Office:
    """An onboarder on an embedded ledger that knows one account, and a provider of the test's."""

    house: House
    ledger: Ledger
    provider: Provider = field(factory=Provider)
    account_id: str = ""

    def onboarder(self, timeout_s: float = 5.0) -> Onboarder:
        return Onboarder(
            ConnectAccounts(self.house.database), self.ledger, self.provider, timeout_s
        )

    async def onboard(self, **urls: str) -> Onboarded:
        return await self.onboarder().onboard(
            self.account_id, urls.get("refresh_url"), urls.get("return_url")
        )

    async def record(self) -> ConnectAccountRecord:
        found = await ConnectAccounts(self.house.database).find(self.account_id)
        assert found is not None
        return found

    async def hear(self, connect_account_id: str, said_at: datetime, *, active: bool) -> None:
        await self.house.database.transaction(
            lambda transaction: note_account(
                transaction, connect_account_id, active=active, said_at=said_at
            )
        )


@asynccontextmanager
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_house(database_url) as house:
        (keeper,) = (
            supervised.actor
            for supervised in house.parts.actors
            if isinstance(supervised.actor, LedgerKeeper)
        )
        opened = Office(house, keeper)
        opened.account_id = await house.open_account()
        yield opened


async def test_an_account_is_opened_once_and_then_answered_from_what_is_kept(
    database_url: str,
) -> None:
    async with office(database_url) as one:
        first = await one.onboard(refresh_url="https://shop.example/again", return_url=PAGE)
        assert not first.deduped
        account = first.account
        assert account.onboarding_status is OnboardingStatus.ACTIVE
        assert account.created_at == account.updated_at
        assert (account.account_did, account.provider) == ("did:key:alice", "stripe")
        assert one.provider.asked == [
            ("open", one.account_id, account.created_at, "https://shop.example/again", PAGE)
        ]
        second = await one.onboard(return_url="https://shop.example/other")
        assert second == Onboarded(account, deduped=True)
        assert len(one.provider.asked) == 1


async def test_fifty_calls_at_once_open_one_account(database_url: str) -> None:
    async with office(database_url) as one:
        onboarder, answers = one.onboarder(), []

        async def ask() -> None:
            answers.append(await onboarder.onboard(one.account_id, None, None))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert sorted(answer.deduped for answer in answers) == [False] + [True] * 49
        assert len({answer.account for answer in answers}) == 1
        assert [kind for kind, *_ in one.provider.asked] == ["open"]
        assert one.provider.under_way_max == 1
        assert not onboarder._locks


async def test_two_daemons_at_once_open_one_account(database_url: str) -> None:
    async with office(database_url) as one:
        one.provider.gate = gate = trio.Event()
        answers: list[Onboarded] = []

        async def ask() -> None:
            answers.append(await one.onboard())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await one.provider.waiting(2)
            gate.set()
        assert sorted(answer.deduped for answer in answers) == [False, True]
        assert len({answer.account for answer in answers}) == 1
        assert len({keyed_at for _, _, keyed_at, *_ in one.provider.asked}) == 1


@pytest.mark.parametrize("acted", [True, False])
async def test_a_crash_while_the_provider_is_asked_is_resumed_as_of_the_same_instant(
    database_url: str, acted: bool
) -> None:
    async with office(database_url) as one:
        one.provider.gate = gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.onboard)
            await one.provider.waiting(1)
            if not acted:
                one.provider.accounts.clear()
            nursery.cancel_scope.cancel()
        opening = await one.record()
        assert opening.onboarding_status is OnboardingStatus.OPENING
        assert (opening.connect_account_id, opening.onboarding_url) == (None, None)
        gate.set()
        resumed = await one.onboard()
        assert not resumed.deduped
        assert resumed.account.created_at == opening.created_at
        assert [keyed_at for _, _, keyed_at, *_ in one.provider.asked] == [opening.created_at] * 2
        assert len(one.provider.accounts) == 1


async def test_the_ledger_is_not_asked_about_an_account_that_is_known(database_url: str) -> None:
    async with office(database_url) as one:
        await one.onboard()
        await one.house.database.fetch("UPDATE connect_account SET account_id = 'acc_elsewhere'")
        one.account_id = "acc_elsewhere"
        assert (await one.onboard()).deduped


async def test_an_account_that_the_ledger_does_not_know_leaves_no_trace(database_url: str) -> None:
    async with office(database_url) as one:
        with pytest.raises(NotFoundError) as refusal:
            await one.onboarder().onboard("acc_nobody", None, None)
        assert refusal.value.details == {"account_id": "acc_nobody"}
        assert await one.house.database.fetch("SELECT 1 FROM connect_account") == []
        assert one.provider.asked == []


async def test_a_ledger_that_does_not_answer_is_given_up_in_time(database_url: str) -> None:
    async with office(database_url) as one:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            one.ledger = silent = HttpLedger(f"http://127.0.0.1:{port}", "key", 60.0, 60.0, 1)
            with pytest.raises(ProviderError) as failure:
                await one.onboarder(timeout_s=0.05).onboard(one.account_id, None, None)
            silent.close()
        assert failure.value.code == "LEDGER_TIMEOUT"
        assert failure.value.details == {"account_id": one.account_id}


@pytest.mark.parametrize("silent", [True, False])
async def test_a_provider_that_fails_is_a_fixed_answer_and_asked_again_next_time(
    database_url: str, silent: bool
) -> None:
    async with office(database_url) as one:
        if silent:
            one.provider.gate = trio.Event()
        else:
            one.provider.failure = ProviderError("sk_live_1 was refused", details={"raw": "x"})
        with pytest.raises(ProviderError) as failure:
            await one.onboarder(timeout_s=0.05 if silent else 5.0).onboard(
                one.account_id, None, None
            )
        assert (failure.value.code, failure.value.details) == ("STRIPE_API_ERROR", {})
        assert "sk_live_1" not in failure.value.message
        one.provider.gate = one.provider.failure = None
        assert not (await one.onboard()).deduped


async def test_a_pending_account_is_asked_about_anew_and_its_link_renewed(
    database_url: str,
) -> None:
    async with office(database_url) as one:
        one.provider.active = False
        first = await one.onboard()
        assert first.account.onboarding_status is OnboardingStatus.PENDING
        again = await one.onboard(return_url=PAGE)
        assert again.deduped
        assert again.account.onboarding_url != first.account.onboarding_url
        assert again.account.updated_at >= first.account.updated_at
        assert one.provider.asked[-1] == (
            "refresh",
            first.account.connect_account_id,
            None,
            None,
            PAGE,
        )
        one.provider.active = True
        done = await one.onboarder().refresh(one.account_id)
        assert done is not None
        assert done.onboarding_status is OnboardingStatus.ACTIVE
        assert await one.onboarder().refresh(one.account_id) == done
        assert [kind for kind, *_ in one.provider.asked] == ["open", "refresh", "refresh"]


async def test_an_old_answer_does_not_undo_what_an_event_has_said_meanwhile(
    database_url: str,
) -> None:
    async with office(database_url) as one:
        one.provider.active = False
        first = (await one.onboard()).account
        assert first.connect_account_id is not None
        one.provider.gate = gate = trio.Event()
        answers: list[Onboarded] = []

        async def ask() -> None:
            answers.append(await one.onboard())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await one.provider.waiting(1)
            await one.hear(first.connect_account_id, datetime.now(UTC), active=True)
            gate.set()
        assert [answer.account.onboarding_status for answer in answers] == ["active"]
        assert (await one.record()).onboarding_status is OnboardingStatus.ACTIVE


async def test_an_older_event_changes_nothing_and_one_of_the_same_second_does(
    database_url: str,
) -> None:
    async with office(database_url) as one:
        one.provider.active = False
        connect_account_id = (await one.onboard()).account.connect_account_id
        assert connect_account_id is not None
        now = datetime(2026, 2, 11, 12, tzinfo=UTC)
        seen = []
        for said_at, active in (
            (now, True),
            (now - timedelta(seconds=1), False),
            (now, False),
            (now + timedelta(seconds=1), True),
        ):
            await one.hear(connect_account_id, said_at, active=active)
            seen.append((await one.record()).onboarding_status)
        assert seen == ["active", "active", "pending", "active"]
        await one.hear("acct_unknown", now, active=False)
        assert (await one.record()).onboarding_status is OnboardingStatus.ACTIVE


async def test_an_account_that_was_never_asked_for_is_not_refreshed(database_url: str) -> None:
    async with office(database_url) as one:
        assert await one.onboarder().refresh(one.account_id) is None


async def test_an_account_that_is_being_opened_is_not_refreshed(database_url: str) -> None:
    async with office(database_url) as one:
        accounts = ConnectAccounts(one.house.database)
        opening = await accounts.open(one.account_id, "did:key:alice")
        assert await one.onboarder().refresh(one.account_id) == opening
        assert one.provider.asked == []
