"""News of payouts meets them in one commit, whichever of the two is first."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import trio
from attrs import evolve, frozen

from clawsettle.domain.payout_events import LockApplied, SendAnswered
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderStatus
from clawsettle.domain.stripe_events import StripeEvent
from clawsettle.storage.bridge import open_database
from clawsettle.storage.payout_rows import payout_row
from clawsettle.storage.payouts import Change, Payouts
from clawsettle.storage.queries import load_queries
from clawsettle.storage.settlement_outbox import Delivery, Recorded, SettlementOutbox
from tests.domain.payout_cases import AT, SCHEDULE, payout, sent, told
from tests.payouts import Payee, onboard
from tests.storage.deliveries import held, wait_for_locks

PAYOUT_ID = "pout_00001"
TOKEN = 7


@frozen(eq=False)
class Records:
    """The repositories of payouts and of events, and a payout that is being sent."""

    payouts: Payouts
    outbox: SettlementOutbox

    async def record(self, *deliveries: Delivery) -> list[Recorded]:
        return await self.outbox.record(deliveries, leased_max=0)

    async def submit(self) -> None:
        """Apply that the provider has taken the payout."""
        change = Change(PAYOUT_ID, SendAnswered(sent()), TOKEN)
        (changed,) = await self.payouts.apply([change])
        assert not changed.lost

    async def payout(self) -> Payout:
        return (await self.payouts.by_ids([PAYOUT_ID]))[PAYOUT_ID]

    async def states(self) -> dict[str, tuple[str, str | None]]:
        """Each event's state, and the payout that it was matched with."""
        rows = await self.payouts.database.fetch("SELECT * FROM payout_event")
        return {row["event_id"]: (row["state"], row["payout_id"]) for row in rows}


@asynccontextmanager
async def records(database_url: str, **changes: Any) -> AsyncIterator[Records]:
    known: dict[str, Any] = {
        "status": PayoutStatus.SENDING,
        "lock_event_id": "evt_lock",
        "lease_token": TOKEN,
        "due_at": AT + timedelta(days=36_500),
    }
    async with open_database(database_url) as database:
        await onboard(database, Payee("acc_32ca986a", "did:key:alice"))
        await database.fetch(
            load_queries("payouts")["insert"], [payout_row(payout(**known | changes))]
        )
        yield Records(
            Payouts(database, SCHEDULE), SettlementOutbox(database, 30.0, SCHEDULE.lease_s)
        )


def nameless(status: ProviderStatus = ProviderStatus.PAID, **changes: Any) -> Delivery:
    """An event that names the provider's payout and none of ours, of no concern to the ledger."""
    news = told(status, named_payout_id=None, **changes)
    event = StripeEvent(news.event_id, news.event_type, None, livemode=False, object={})
    return Delivery(event, json.dumps(news.event_id).encode(), None, news=news)


def named(status: ProviderStatus = ProviderStatus.PAID, **changes: Any) -> Delivery:
    delivery = nameless(status, **changes)
    assert delivery.news is not None
    return evolve(delivery, news=evolve(delivery.news, named_payout_id=PAYOUT_ID))


async def test_news_that_comes_before_the_providers_id_waits_for_it(database_url: str) -> None:
    async with records(database_url) as at:
        await at.record(nameless(ProviderStatus.FAILED), nameless(ProviderStatus.PAID))
        assert set((await at.states()).values()) == {("parked", None)}
        await at.submit()
        # The failure was heard first, so that it was paid is no news any more.
        assert await at.states() == {
            "evt_failed": ("applied", PAYOUT_ID),
            "evt_paid": ("superseded", PAYOUT_ID),
        }
        payout = await at.payout()
        assert payout.status is PayoutStatus.FINALIZING_FAILED
        assert (payout.lease_token, payout.external_payout_id) == (None, "po_1")


async def test_what_waited_and_is_not_true_is_put_aside_when_it_is_matched(
    database_url: str,
) -> None:
    async with records(database_url) as at:
        await at.record(nameless(amount_minor=1))
        await at.submit()
        assert await at.states() == {"evt_paid": ("quarantined", PAYOUT_ID)}
        assert (await at.payout()).status is PayoutStatus.SUBMITTED


async def test_news_of_a_payout_that_is_not_locked_yet_waits_for_its_sending(
    database_url: str,
) -> None:
    async with records(database_url, status=PayoutStatus.INITIATED, lock_event_id=None) as at:
        await at.record(named())
        assert await at.states() == {"evt_paid": ("parked", None)}
        assert (await at.payout()).status is PayoutStatus.INITIATED
        await at.payouts.database.fetch(
            "UPDATE payout SET status = 'sending', lock_event_id = 'evt_lock'"
        )
        await at.submit()
        assert await at.states() == {"evt_paid": ("applied", PAYOUT_ID)}
        assert (await at.payout()).status is PayoutStatus.FINALIZING_PAID


@pytest.mark.parametrize("room", [0, 1])
async def test_what_news_gives_to_do_is_leased_to_who_records_it_and_has_room(
    database_url: str, room: int
) -> None:
    async with records(database_url) as at:
        await at.submit()
        (new,) = await at.outbox.record([named()], leased_max=1, payouts_max=room)
        payout = await at.payout()
        assert (payout.status, payout.attempts) == (PayoutStatus.FINALIZING_PAID, room)
        assert (new.payout and new.payout.payout) == (payout if room else None)
        assert len(await at.payouts.claim_due(2)) == 1 - room


@pytest.mark.parametrize("first", ["news", "id"])
async def test_news_and_the_providers_id_that_come_at_once_find_each_other(
    database_url: str, first: str
) -> None:
    async with records(database_url) as at, trio.open_nursery() as nursery:
        # Whoever is first has looked for the other in vain, and waits for this before its commit.
        table = {"news": "stripe_event", "id": "payout_audit"}[first]
        async with held(database_url, f"LOCK TABLE {table} IN EXCLUSIVE MODE"):
            for number, one in enumerate(sorted(("news", "id"), key=lambda one: one != first), 1):
                if one == "news":
                    nursery.start_soon(at.record, nameless())
                else:
                    nursery.start_soon(at.submit)
                await wait_for_locks(at.payouts.database, number)
        with trio.fail_after(5):
            while not await at.states():  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.01)
    async with open_database(database_url) as database:
        (row,) = await database.fetch("SELECT state, payout_id FROM payout_event")
        assert (row["state"], row["payout_id"]) == ("applied", PAYOUT_ID)
        (row,) = await database.fetch("SELECT status FROM payout")
        assert row["status"] == "finalizing_paid"


async def test_an_event_that_was_put_aside_is_judged_anew_when_it_comes_again(
    database_url: str,
) -> None:
    declined = {"status": PayoutStatus.FINALIZING_FAILED}
    async with records(database_url, **declined) as at:
        (new,) = await at.record(named())
        assert (new.disposition, (await at.states())["evt_paid"][0]) == ("quarantined",) * 2
        assert new.heard is not None
        assert new.heard.verdict.reason == (
            "paid at the provider, but the payout is finalizing_failed here"
        )
        await at.record(named(ProviderStatus.FAILED))
        await at.record(named())
        assert await at.states() == {
            "evt_failed": ("applied", PAYOUT_ID),
            "evt_paid": ("superseded", PAYOUT_ID),
        }


async def test_a_step_of_one_who_lost_the_lease_changes_nothing(database_url: str) -> None:
    async with records(database_url) as at:
        before = await at.payout()
        for token in (None, TOKEN + 1):
            (changed,) = await at.payouts.apply([Change(PAYOUT_ID, SendAnswered(sent()), token)])
            assert changed.lost
            assert changed.payout == before == await at.payout()


async def test_what_is_applied_twice_since_its_commit_was_not_answered_is_applied_once(
    database_url: str,
) -> None:
    async with records(database_url, status=PayoutStatus.INITIATED, lock_event_id=None) as at:
        locked = Change(PAYOUT_ID, LockApplied("evt_lock"), TOKEN)
        (first,), (second,) = [await at.payouts.apply([locked]) for _ in range(2)]
        assert not first.lost
        assert not second.lost
        assert second.payout.status is PayoutStatus.SENDING
        assert second.payout.lease_token == TOKEN
        rows = await at.payouts.database.fetch("SELECT event_type FROM payout_audit")
        assert [row["event_type"] for row in rows] == [
            "payout.initiated",
            "payout.lock.applied",
            "payout.status.sending",
        ]
