"""The payout keeper between a ledger and a provider that answer late, wrongly or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from attrs import define, field

from clawsettle.actors.payout_keeper import PayoutKeeper
from clawsettle.clients.ledger import Ledger
from clawsettle.domain.errors import CallerError, ConflictError, IllegalTransition, ProviderError
from clawsettle.domain.forwarding import Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder, TransferOutcome
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import Unanswered
from tests.house import House, open_house, settings
from tests.payouts import (
    SIMULATED,
    Payee,
    audit_types,
    balances,
    cleared,
    order,
    payee,
    payout_event,
)
from tests.provider import Provider

# The janitor looks only at the start: what happens to a payout is what the test asks for.
ALONE = settings(payouts={**SIMULATED, "poll_s": 3600})


@define(eq=False)
class Desk:
    """A house whose payouts go to a provider that does as it is told, and an account to pay."""

    house: House
    keeper: PayoutKeeper
    provider: Provider
    payee: Payee

    async def payout(self, key: str = "key_1") -> Payout:
        rows = await self.house.database.fetch(
            "SELECT payout_id FROM payout WHERE idempotency_key = $1", key
        )
        payout_id = rows[0]["payout_id"]
        return (await self.keeper.payouts.by_ids([payout_id]))[payout_id]

    async def grow_old(self) -> None:
        """Have every payout been in its status for some minutes."""
        await self.house.database.fetch(
            "UPDATE payout SET status_at = status_at - interval '10 minutes'"
        )


@asynccontextmanager
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with open_house(database_url, ALONE) as house:
        assert house.parts.payouts is not None
        keeper, provider = house.parts.payouts.keeper, Provider()
        keeper.steps.provider = provider
        yield Desk(house, keeper, provider, await payee(house))


@define(eq=False)
class Forgetful:
    """A ledger that never hears of the first ``lost`` transfers, and does not say so."""

    ledger: Ledger
    lost: int = 1
    transferred_keys: list[str] = field(factory=list)

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        if self.lost:
            self.lost -= 1
            return Unknown("no answer")
        return await self.ledger.transfer(order)

    async def transferred(self, order: TransferOrder) -> Applied | None:
        return await self.ledger.transferred(order)


async def test_a_refused_lock_is_final_only_when_no_earlier_one_can_be_under_way(
    database_url: str,
) -> None:
    async with desk(database_url) as at:
        at.keeper.steps.ledger = Forgetful(at.keeper.steps.ledger)  # type: ignore[assignment]
        with pytest.raises(ProviderError):
            await at.keeper.create(order(at.payee, amount_minor=9000))
        for _ in range(4):
            with pytest.raises(CallerError) as refused:
                await at.keeper.create(order(at.payee, amount_minor=9000))
            assert refused.value.code == "INSUFFICIENT_FUNDS"
            assert (await at.payout()).status is PayoutStatus.INITIATED
        await at.grow_old()
        with pytest.raises(CallerError):
            await at.keeper.create(order(at.payee, amount_minor=9000))
        assert (await at.payout()).status is PayoutStatus.FAILED


async def test_what_may_be_on_its_way_is_withdrawn_only_when_it_cannot_be_any_more(
    database_url: str,
) -> None:
    async with desk(database_url) as at:
        at.provider.outcome = Unanswered("no answer")
        with pytest.raises(ProviderError):
            await at.keeper.create(order(at.payee))
        payout_id = (await at.payout()).payout_id
        for _ in range(2):
            with pytest.raises(ConflictError):
                await at.keeper.cancel(payout_id)
            assert (await at.payout()).status is PayoutStatus.UNKNOWN
        await at.grow_old()
        assert (await at.keeper.cancel(payout_id)).status is PayoutStatus.CANCELED
        assert await balances(at.house, at.payee) == (5000, 0)
        assert at.provider.sent == {}


async def test_a_cancellation_waits_for_the_sending_and_then_ends_it(database_url: str) -> None:
    async with desk(database_url) as at, trio.open_nursery() as nursery:
        at.provider.gate = trio.Event()
        nursery.start_soon(at.keeper.create, order(at.payee))
        await at.provider.waiting(1)
        payout_id = (await at.payout()).payout_id

        async def cancel() -> None:
            assert (await at.keeper.cancel(payout_id)).status is PayoutStatus.CANCELED

        nursery.start_soon(cancel)
        await trio.testing.wait_all_tasks_blocked()
        at.provider.gate.set()
    async with open_house(database_url) as house:
        assert await balances(house, at.payee) == (5000, 0)


async def test_a_payout_that_has_ended_is_not_cancelled(database_url: str) -> None:
    async with desk(database_url) as at:
        view = (await at.keeper.create(order(at.payee))).payout.view()
        await at.house.deliver(payout_event("payout.paid", "evt_1", view))
        with pytest.raises(IllegalTransition) as refused:
            await at.keeper.cancel(str(view["id"]))
        assert refused.value.details == {
            "payout_id": view["id"],
            "from_status": "paid",
            "to_status": "canceled",
        }


async def test_an_end_with_a_reason_is_heeded_all_the_same(database_url: str) -> None:
    async with desk(database_url) as at:
        payout = (await at.keeper.create(order(at.payee))).payout
        # As after a crash between the provider's refusal and the rollback.
        await at.house.database.fetch(
            "UPDATE payout SET status = 'finalizing_failed',"
            " last_error_code = 'STRIPE_TRANSFER_FAILED', last_error_message = 'refused'"
        )
        assert await at.keeper.settle(payout.payout_id) is None
        assert (await at.payout()).last_error_code == "STRIPE_TRANSFER_FAILED"
        assert await balances(at.house, at.payee) == (5000, 0)


async def test_news_that_overtakes_the_providers_answer_leaves_the_whole_trail(
    database_url: str,
) -> None:
    async with desk(database_url) as at, trio.open_nursery() as nursery:
        at.provider.gate = trio.Event()
        nursery.start_soon(at.keeper.create, order(at.payee))
        await at.provider.waiting(1)
        payout = await at.payout()
        view = {**payout.view(), "external_payout_id": f"po_{payout.payout_id}"}

        async def deliver() -> None:
            answer = await at.house.deliver(payout_event("payout.paid", "evt_1", view))
            assert answer.status_code == 200, answer.text

        nursery.start_soon(deliver)
        with trio.fail_after(5):
            while (await at.payout()).status is PayoutStatus.SENDING:  # noqa: ASYNC110 - rows
                await trio.sleep(0.01)
        at.provider.gate.set()
        with trio.fail_after(5):
            while not (await at.payout()).status.is_end:  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.01)
        paid = await at.payout()
        assert paid.status is PayoutStatus.PAID
        assert paid.submitted_at is not None
        assert await audit_types(at.house.database, paid.payout_id) == [
            "payout.initiated",
            "payout.lock.applied",
            "payout.status.sending",
            "payout.submitted",
            "payout.status.finalizing_paid",
            "payout.finalize.applied",
            "payout.status.paid",
        ]
        assert (await balances(at.house, at.payee), await cleared(at.house)) == ((3800, 0), 1200)


async def test_an_id_of_the_provider_that_is_another_payouts_is_put_aside(
    database_url: str,
) -> None:
    async with desk(database_url) as at:
        other = (await at.keeper.create(order(at.payee, "key_2"))).payout.view()
        at.provider.outcome = Unanswered("no answer")
        with pytest.raises(ProviderError):
            await at.keeper.create(order(at.payee))
        payout = await at.payout()
        told = payout_event("payout.paid", "evt_1", {**payout.view(), **_object_of(other)})
        answer = await at.house.deliver(told)
        assert answer.status_code == 200, answer.text
        assert not answer.json()["forwarded_to_ledger"]
        (row,) = await at.house.database.fetch("SELECT * FROM payout_event")
        assert (row["state"], row["payout_id"]) == ("quarantined", other["id"])
        assert "payout id" in row["reason"]
        assert (await at.payout()).status is PayoutStatus.UNKNOWN
        true = payout_event("payout.paid", "evt_2", other)
        assert (await at.house.deliver(true)).json()["forwarded_to_ledger"]
        assert (await at.payout("key_2")).status is PayoutStatus.PAID


def _object_of(view: dict[str, object]) -> dict[str, object]:
    return {"external_payout_id": view["external_payout_id"]}
