"""The smoke scripts of the ledger's callers, replayed on a whole house.

Source: ledger-api contract section 12.
"""

from typing import Any

import httpx
import pytest
import trio

from tests.house import House, Json, open_house, payin, settings

ALICE, ALICE_DID = "acc_32ca986a", "did:key:alice"
INGEST, LIST = "/v1/payments/settlements/ingest", "/v1/payments/settlements"
QUIET = settings(forwarding={"poll_s": 3600.0})
PAYOUTS, NETTING = "clawsettle.payouts", "clawsettle.netting"


async def sent(house: House, key: str, status: str = "confirmed", **changes: str) -> httpx.Response:
    body: Json = {
        "provider": "stripe",
        "external_payment_id": "pi_smoke",
        "direction": "payin",
        "status": status,
        "account_id": ALICE,
        "amount_minor": "2500",
        "currency": "USD",
        "network": "stripe",
        "rail": "card",
        "metadata": {"smoke": True},
        **changes,
    }
    return await house.ledger.post(INGEST, json=body, headers={"idempotency-key": key})


async def ordered(
    house: House, key: str, source: tuple[str, str], destination: tuple[str, str], amount: int
) -> httpx.Response:
    """Order a transfer between two places, each an account and a bucket's letter."""
    places = {"from": source, "to": destination}
    body: Json = {
        "idempotency_key": key,
        "currency": "USD",
        "amount_minor": str(amount),
        "metadata": {"source": "smoke"},
        **{name: {"account": one, "bucket": letter} for name, (one, letter) in places.items()},
    }
    return await house.ledger.post("/v1/transfers", json=body)


async def paid(
    house: House, key: str, source: tuple[str, str], destination: tuple[str, str], amount: int
) -> None:
    """Order a transfer that must be applied, and find it by its key."""
    answer = await ordered(house, key, source, destination, amount)
    assert (answer.status_code, answer.json()["status"]) == (200, "applied"), answer.text
    found = await house.ledger.get(f"/events/idempotency/{key.replace(':', '%3A')}")
    assert found.json()["id"] == answer.json()["event_id"]


async def money(house: House) -> tuple[int, int]:
    """Return what is available and what is held of Alice's money."""
    answer = await house.ledger.get(f"/accounts/id/{ALICE}")
    balances = answer.json()["balances"]
    return int(balances["available"]), int(balances["held"])


async def cleared(house: House, domain: str) -> int:
    """Return what is in a clearing account; nothing where there is none."""
    answer = await house.ledger.get(f"/clearing/accounts/domain/{domain}")
    return 0 if answer.status_code == 404 else int(answer.json()["balances"]["available"])


async def lock(house: House, payout: str, amount: int) -> None:
    await paid(house, f"payout:lock:{payout}", (ALICE_DID, "A"), (ALICE_DID, "H"), amount)


async def roll_back(house: House, payout: str, amount: int) -> httpx.Response:
    key = f"payout:rollback:{payout}"
    return await ordered(house, key, (ALICE_DID, "H"), (ALICE_DID, "A"), amount)


@pytest.mark.parametrize("burst", [6, 12])
async def test_ledger(database_url: str, burst: int) -> None:
    async with open_house(database_url, QUIET) as house:
        assert await house.open_account() == ALICE
        first = await sent(house, "k1")
        assert (first.status_code, first.json()["settlement"]["status"]) == (201, "confirmed")
        assert first.json()["event"]["event_type"] == "payin_settle"
        again = await sent(house, "k1")
        assert (again.status_code, again.json()["idempotency"]["replayed"]) == (200, True)
        undone = await sent(house, "k2", "reversed")
        assert (undone.status_code, undone.json()["settlement"]["status"]) == (201, "reversed")
        assert undone.json()["event"]["event_type"] == "payin_reverse"
        found = await house.ledger.get(f"{LIST}/stripe/pi_smoke")
        assert (found.status_code, len(found.json()["settlements"])) == (200, 1)
        assert await money(house) == (0, 0)
        page = await house.ledger.get(LIST, params={"provider": "stripe", "limit": "1"})
        assert (page.status_code, len(page.json()["settlements"])) == (200, 1)

        for status, available in (("confirmed", 777), ("reversed", 0)):
            answers: list[httpx.Response] = []

            async def send(number: int, status: str, answers: list[httpx.Response]) -> None:
                key, payment = f"{status}_{number}", {"external_payment_id": "pi_burst"}
                answers.append(await sent(house, key, status, amount_minor="777", **payment))

            async with trio.open_nursery() as nursery:
                for number in range(burst):
                    nursery.start_soon(send, number, status, answers)
            assert {answer.status_code for answer in answers} <= {200, 201}
            news = [one for one in answers if not one.json()["idempotency"]["deduped"]]
            assert len(news) == 1
            assert await money(house) == (available, 0)
            found = await house.ledger.get(f"{LIST}/stripe/pi_burst?direction=payin")
            assert [one["status"] for one in found.json()["settlements"]] == [status]


async def test_webhook_and_retry(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        early = await house.deliver(payin("evt_1", ALICE, amount_minor=1234))
        assert (early.status_code, early.json()["details"]["ledger_status"]) == (502, 404)
        assert await house.open_account() == ALICE
        assert await house.retry(force=True) == {
            "ok": True,
            "attempted": 1,
            "forwarded": 1,
            "failed": 0,
        }
        for _ in range(3):
            again = await house.deliver(payin("evt_1", ALICE, amount_minor=1234))
            assert (again.status_code, again.json()["deduped"]) == (200, True)
        assert await money(house) == (1234, 0)


async def test_payout_lifecycle(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        await sent(house, "k1", amount_minor="5000")
        assert await money(house) == (5000, 0)
        await lock(house, "pout_1", 1200)
        assert await money(house) == (3800, 1200)
        await paid(
            house,
            "payout:finalize:pout_1",
            (ALICE_DID, "H"),
            (f"clearing:{PAYOUTS}", "A"),
            1200,
        )
        memo = await sent(
            house, "k2", direction="payout", external_payment_id="po_1", amount_minor="1200"
        )
        assert memo.json()["event"]["event_type"] == "payout_settle"
        assert await money(house) == (3800, 0)
        await lock(house, "pout_2", 700)
        assert await money(house) == (3100, 700)
        for _ in range(2):  # its caller may not have heard the answer
            assert (await roll_back(house, "pout_2", 700)).status_code == 200
        assert await money(house) == (3800, 0)
        assert await cleared(house, PAYOUTS) == 1200


async def test_reconciliation(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        await sent(house, "k1", amount_minor="5000")
        await lock(house, "pout_1", 700)
        await paid(house, "drain", (ALICE_DID, "H"), (ALICE_DID, "A"), 700)
        failed = await roll_back(house, "pout_1", 700)
        assert (failed.status_code, failed.json()["code"]) == (400, "INSUFFICIENT_FUNDS")
        looked_up = await house.ledger.get("/events/idempotency/payout%3Arollback%3Apout_1")
        assert looked_up.status_code == 404
        await paid(house, "restore", (ALICE_DID, "A"), (ALICE_DID, "H"), 700)
        assert (await roll_back(house, "pout_1", 700)).status_code == 200
        assert await money(house) == (5000, 0)


async def test_netting(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        assert (await cleared(house, PAYOUTS), await cleared(house, NETTING)) == (0, 0)
        await house.open_account()
        await sent(house, "k1", amount_minor="5000")
        for payout, amount in (("pout_1", 1200), ("pout_2", 800)):
            await lock(house, payout, amount)
            key, to = f"payout:finalize:{payout}", (f"clearing:{PAYOUTS}", "A")
            await paid(house, key, (ALICE_DID, "H"), to, amount)
        before = await cleared(house, PAYOUTS), await cleared(house, NETTING)
        entries = {"netting:entry:1": 1200, "netting:entry:2": 800}
        for _ in range(2):  # the second run finds both entries applied
            for key, amount in entries.items():
                places = (f"clearing:{PAYOUTS}", "A"), (f"clearing:{NETTING}", "A")
                await paid(house, key, *places, amount)
            after = await cleared(house, PAYOUTS), await cleared(house, NETTING)
            assert (after[0] - before[0], after[1] - before[1]) == (-2000, 2000)


async def test_loss_loop(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        hold: Json = {
            "idempotency_key": "loss-event:loss_1:ledger",
            "source_loss_event_id": "loss_1",
            "account": ALICE_DID,
            "amount_minor": "500",
            "currency": "USD",
            "reason": "chargeback",
        }
        release = {
            "source_loss_event_id": "loss_1",
            "idempotency_key": "loss-event:resolve:loss_1:ledger",
        }

        async def post(path: str, body: Json) -> tuple[int, Any]:
            headers = {"idempotency-key": body["idempotency_key"]}
            answer = await house.ledger.post(f"/v1/risk/holds/{path}", json=body, headers=headers)
            return answer.status_code, answer.json()

        status, answer = await post("apply", hold)
        assert (status, answer["code"]) == (400, "INSUFFICIENT_FUNDS")
        await sent(house, "k1", amount_minor="5000")
        assert [(await post("apply", hold))[0] for _ in range(2)] == [201, 200]
        assert await money(house) == (4500, 500)
        probe = await house.ledger.get("/v1/risk/holds?status=active&limit=1")
        assert (probe.status_code, probe.json()["count"]) == (200, 1)
        assert [(await post("release-by-source", release))[0] for _ in range(2)] == [200, 200]
        listed = await house.ledger.get("/v1/risk/holds?source_loss_event_id=loss_1&limit=10")
        assert [one["status"] for one in listed.json()["holds"]] == ["released"]
        assert await money(house) == (5000, 0)
