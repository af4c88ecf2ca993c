"""A false event of a payout is put aside and seen; the true one after it does its work."""

from typing import Any

import pytest
import trio

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.payouts import PayoutStatus
from tests.house import House, Json, open_house, settings
from tests.payouts import SIMULATED, balances, cleared, keeper_of, order, payee, payout_event

MISMATCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "amount": ({"amount": 1}, {}),
    "currency": ({"currency": "eur"}, {}),
    "account": ({"metadata": {"account_id": "acc_2"}}, {}),
    "connected account": ({}, {"account": "acct_2"}),
    "provider's id": ({"id": "po_another"}, {}),
    "payout id": ({"metadata": {"account_id": "acc_32ca986a", "payout_id": "pout_2"}}, {}),
}


async def put_aside(house: House) -> list[Json]:
    return [
        dict(row)
        for row in await house.database.fetch(
            "SELECT event_id, payout_id, reason FROM payout_event WHERE state = 'quarantined'"
        )
    ]


@pytest.mark.parametrize("mismatch", MISMATCHES)
@pytest.mark.parametrize("event_type", ["payout.paid", "payout.failed"])
async def test_a_false_event_moves_nothing_and_stands_in_no_true_ones_way(
    database_url: str, event_type: str, mismatch: str
) -> None:
    configured = settings(payouts=SIMULATED, stripe={"currencies": ("USD", "EUR")})
    async with open_house(database_url, configured) as house:
        one = await payee(house)
        payout = (await keeper_of(house).create(order(one))).payout
        subject, envelope = MISMATCHES[mismatch]
        false = payout_event(event_type, "evt_false", payout.view(), **subject) | envelope
        for deduped in (False, True):
            answer = await house.deliver(false)
            assert answer.status_code == 200, answer.text
            assert (answer.json()["deduped"], answer.json()["forwarded_to_ledger"]) == (
                deduped,
                False,
            )
        (row,) = await put_aside(house)
        assert (row["event_id"], row["payout_id"]) == ("evt_false", payout.payout_id)
        assert row["reason"].startswith(f"the event's {mismatch} is ")
        assert await balances(house, one) == (3800, 1200)
        assert await house.settlements(str(payout.external_payout_id)) == []
        true = await house.deliver(payout_event(event_type, "evt_true", payout.view()))
        assert true.json()["forwarded_to_ledger"], true.text
        (settlement,) = await house.settlements(str(payout.external_payout_id))
        assert settlement["amount_minor"] == "1200"
        stands = (await keeper_of(house).payouts.by_ids([payout.payout_id]))[payout.payout_id]
        is_paid = event_type == "payout.paid"
        assert stands.status is (PayoutStatus.PAID if is_paid else PayoutStatus.FAILED)
        assert await balances(house, one) == ((3800, 0) if is_paid else (5000, 0))
        assert await cleared(house) == (1200 if is_paid else 0)


async def test_a_payout_that_is_nobodys_here_is_forwarded_as_ever_and_waits(
    database_url: str,
) -> None:
    async with open_house(database_url, settings(payouts=SIMULATED)) as house:
        one = await payee(house)
        foreign = {
            "id": "pout_foreign",
            "external_payout_id": "po_foreign",
            "account_id": one.account_id,
            "amount_minor": "700",
        }
        for named in (True, False):
            event = payout_event("payout.paid", f"evt_{named}", foreign, named=named)
            assert (await house.deliver(event)).json()["forwarded_to_ledger"]
        rows = await house.database.fetch("SELECT state, payout_id FROM payout_event")
        assert [(row["state"], row["payout_id"]) for row in rows] == [("parked", None)] * 2
        assert await balances(house, one) == (5000, 0)


@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
@pytest.mark.parametrize("event_type", ["payout.paid", "payout.failed"])
async def test_news_that_comes_before_its_payout_is_ordered_is_heeded_once_it_is_sent(
    database_url: str, event_type: str, named: bool
) -> None:
    async with open_house(database_url, settings(payouts=SIMULATED)) as house:
        one = await payee(house)
        asked = order(one)
        # The simulated provider's id is the contract's recipe, so it is known before it is given.
        recipe = f"po:{asked.payout_id}:{one.connect_account_id}"
        early = {
            "id": asked.payout_id,
            "external_payout_id": f"po_{sha256_hex(recipe)[:24]}",
            "account_id": one.account_id,
            "amount_minor": str(asked.amount_minor),
        }
        event = payout_event(event_type, "evt_early", early, named=named)
        assert (await house.deliver(event)).json()["forwarded_to_ledger"]
        (row,) = await house.database.fetch("SELECT state, payout_id FROM payout_event")
        assert (row["state"], row["payout_id"]) == ("parked", None)
        payouts = keeper_of(house).payouts
        await keeper_of(house).create(asked)
        with trio.fail_after(10):
            payout = (await payouts.by_ids([asked.payout_id]))[asked.payout_id]
            while not payout.status.is_end:
                await trio.sleep(0.02)
                payout = (await payouts.by_ids([asked.payout_id]))[asked.payout_id]
        is_paid = event_type == "payout.paid"
        assert payout.status is (PayoutStatus.PAID if is_paid else PayoutStatus.FAILED)
        (row,) = await house.database.fetch("SELECT state, payout_id FROM payout_event")
        assert (row["state"], row["payout_id"]) == ("applied", asked.payout_id)
        assert (await house.deliver(event)).json()["deduped"] is True
        assert await balances(house, one) == ((3800, 0) if is_paid else (5000, 0))
        assert await cleared(house) == (1200 if is_paid else 0)
