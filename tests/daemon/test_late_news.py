"""What Stripe says late, twice, or in the wrong order ends in the right books, not in a 409."""

import itertools
import time
from typing import Any

import pytest
import trio

from clawsettle.sandbox.stripe_events import stripe_event
from tests.house import House, open_house, plan

_NOW = int(time.time())


async def _send(house: House, event_type: str, event_id: str, object_id: str, **other: Any) -> int:
    event = stripe_event(plan(event_type, event_id, object_id, "acc_32ca986a", **other))
    answer = await house.deliver(event)
    assert answer.status_code == 200, answer.json()
    assert answer.json()["forwarded_to_ledger"] is True
    return answer.status_code


async def _statuses(house: House, object_id: str) -> list[str]:
    return [settlement["status"] for settlement in await house.settlements(object_id)]


async def test_a_payment_that_failed_and_then_succeeded_is_credited(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await _send(house, "payment_intent.payment_failed", "evt_1", "pi_1", created_s=_NOW - 9)
        assert await house.available(account_id) == 0
        await _send(house, "payment_intent.succeeded", "evt_2", "pi_1", created_s=_NOW)
        assert await _statuses(house, "pi_1") == ["confirmed"]
        assert await house.available(account_id) == 2500


async def test_a_failure_that_arrives_after_the_success_changes_nothing(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await _send(house, "payment_intent.succeeded", "evt_2", "pi_1", created_s=_NOW)
        await _send(house, "payment_intent.payment_failed", "evt_1", "pi_1", created_s=_NOW - 9)
        await _send(house, "payment_intent.canceled", "evt_3", "pi_1", created_s=_NOW)
        assert await _statuses(house, "pi_1") == ["confirmed"]
        assert await house.available(account_id) == 2500


async def test_a_success_for_another_amount_than_the_failure_counts(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        for event_type, event_id, amount in (
            ("payment_intent.payment_failed", "evt_1", 1000),
            ("payment_intent.succeeded", "evt_2", 900),
            ("payment_intent.payment_failed", "evt_3", 1000),
        ):
            await _send(house, event_type, event_id, "pi_1", amount_minor=amount, created_s=_NOW)
        assert await house.available(account_id) == 900


async def test_a_payout_returned_after_it_was_paid_is_reversed(database_url: str) -> None:
    async with open_house(database_url) as house:
        await house.open_account()
        await _send(house, "payout.paid", "evt_1", "po_1", created_s=_NOW - 9)
        await _send(house, "payout.failed", "evt_2", "po_1", created_s=_NOW)
        await _send(house, "payout.failed", "evt_3", "po_1", created_s=_NOW + 1)
        assert await _statuses(house, "po_1") == ["reversed"]
        events = await house.database.fetch("SELECT event_type FROM ledger_event ORDER BY seq")
        assert [row["event_type"] for row in events] == ["payout_settle", "payout_reverse"]


async def test_a_payout_known_to_have_failed_is_not_paid_by_older_news(database_url: str) -> None:
    async with open_house(database_url) as house:
        await house.open_account()
        await _send(house, "payout.failed", "evt_2", "po_1", created_s=_NOW)
        await _send(house, "payout.paid", "evt_1", "po_1", created_s=_NOW - 9)
        assert await _statuses(house, "po_1") == ["failed"]


@pytest.mark.parametrize("order", list(itertools.permutations((300, 700, 1000))))
async def test_partial_refunds_add_up_in_any_order(
    database_url: str, order: tuple[int, ...]
) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        await _send(house, "payment_intent.succeeded", "evt_p", "pi_1")
        for total in order:
            answer = await house.deliver(_refund(total))
            assert answer.status_code == 200
        assert await house.available(account_id) == 1500
        refunds = await house.database.fetch(
            "SELECT amount_minor FROM ledger_settlement WHERE direction = 'refund'"
        )
        assert sum(row["amount_minor"] for row in refunds) == 1000


async def test_refunds_of_one_charge_at_two_daemons_add_up(database_url: str) -> None:
    async with open_house(database_url) as one, open_house(database_url) as other:
        account_id = await one.open_account()
        await _send(one, "payment_intent.succeeded", "evt_p", "pi_1")
        async with trio.open_nursery() as nursery:
            for total in range(100, 2600, 100):
                for house in (one, other, one):
                    nursery.start_soon(house.deliver, _refund(total))
        assert await one.available(account_id) == 0


async def test_the_first_refund_keeps_the_charges_id_and_a_later_one_has_its_own(
    database_url: str,
) -> None:
    async with open_house(database_url) as house:
        await house.open_account()
        await _send(house, "payment_intent.succeeded", "evt_p", "pi_1")
        await house.deliver(_refund(300))
        await house.deliver(_refund(700))
        (first,) = await house.settlements("ch_1")
        (second,) = await house.settlements("ch_1%3A700")
        assert (first["amount_minor"], second["amount_minor"]) == ("300", "400")
        (link,) = await house.database.fetch("SELECT * FROM charge_refund")
        assert (link["total_minor"], link["payment_intent_id"]) == (700, "pi_1")


async def test_a_refund_beyond_its_charge_is_refused(database_url: str) -> None:
    async with open_house(database_url) as house:
        await house.open_account()
        event: Any = _refund(700)
        event["data"]["object"]["amount"] = 600
        answer = await house.deliver(event)
        assert answer.status_code == 422
        assert answer.json()["details"] == {"field": "data.object.amount_refunded"}


async def test_two_payins_whose_sum_overflows_leave_the_first_alone(database_url: str) -> None:
    async with open_house(database_url) as house:
        account_id = await house.open_account()
        most = 2**63 - 1
        await _send(house, "payment_intent.succeeded", "evt_1", "pi_1", amount_minor=most)
        event = stripe_event(plan("payment_intent.succeeded", "evt_2", "pi_2", account_id))
        answer = await house.deliver(event)
        assert (answer.status_code, answer.json()["ledger_status"]) == (200, 422)
        assert answer.json()["forwarded_to_ledger"] is False
        assert await house.available(account_id) == most
        assert await house.settlements("pi_2") == []
        direct = await house.ledger.post(
            "/v1/payments/settlements/ingest",
            headers={"idempotency-key": "k"},
            json={
                "provider": "other",
                "external_payment_id": "x",
                "direction": "payin",
                "status": "confirmed",
                "account_id": account_id,
                "amount_minor": "1",
                "currency": "USD",
            },
        )
        assert (direct.status_code, direct.json()["code"]) == (422, "BALANCE_LIMIT_EXCEEDED")


def _refund(total: int) -> dict[str, object]:
    event: Any = stripe_event(plan("charge.refunded", f"evt_{total}", "ch_1", "acc_32ca986a"))
    event["data"]["object"] |= {"amount_refunded": total, "payment_intent": "pi_1"}
    return dict(event)
