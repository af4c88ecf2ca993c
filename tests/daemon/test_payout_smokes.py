"""The payout smokes of the contract's section 10, over HTTP and in their order."""

from typing import Any

from tests.house import ADMIN, House, Json, open_house, payin, settings
from tests.payouts import SIMULATED, payout_event

DID = "did:key:alice"
OPEN = settings(payouts=SIMULATED, auth={"payouts": "open"})


async def _funded(house: House, amount_minor: int = 5000) -> str:
    account_id = await house.open_account(DID)
    funds = payin("evt_funds", account_id, amount_minor=amount_minor)
    assert (await house.deliver(funds)).status_code == 200
    onboarded = await house.settle.post(
        "/v1/payouts/connect/onboard", json={"account_id": account_id}
    )
    assert onboarded.status_code == 201
    assert onboarded.json()["account"]["onboarding_status"] == "active"
    return account_id


async def _create(house: House, account_id: str, key: str, amount_minor: int, status: int) -> Json:
    answer = await house.settle.post(
        "/v1/payouts",
        json={"account_id": account_id, "amount_minor": str(amount_minor), "currency": "USD"},
        headers={"idempotency-key": key},
    )
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


async def _balances(house: House, account_id: str) -> tuple[str, str]:
    found = (await house.ledger.get(f"/accounts/id/{account_id}")).json()["balances"]
    return found["available"], found["held"]


async def _admin(house: House, method: str, path: str, **options: Any) -> Json:
    answer = await house.settle.request(method, path, headers=ADMIN, **options)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def _move(house: House, key: str, source: str, destination: str) -> None:
    moved = await house.ledger.post(
        "/v1/transfers",
        json={
            "idempotency_key": key,
            "currency": "USD",
            "from": {"account": DID, "bucket": source},
            "to": {"account": DID, "bucket": destination},
            "amount_minor": "600",
        },
    )
    assert moved.status_code == 200, moved.text


async def test_the_lifecycle_smoke(database_url: str) -> None:
    async with open_house(database_url, OPEN) as house:
        account_id = await _funded(house)
        first = await _create(house, account_id, "idem_1", 1200, 201)
        assert (first["deduped"], first["payout"]["status"]) == (False, "submitted")
        again = await _create(house, account_id, "idem_1", 1200, 200)
        assert (again["deduped"], again["payout"]) == (True, first["payout"])
        assert await _balances(house, account_id) == ("3800", "1200")
        paid = payout_event("payout.paid", "evt_paid", first["payout"])
        assert (await house.deliver(paid)).json()["forwarded_to_ledger"] is True
        assert (await house.deliver(paid)).json()["deduped"] is True
        assert await _balances(house, account_id) == ("3800", "0")
        second = await _create(house, account_id, "idem_2", 700, 201)
        assert await _balances(house, account_id) == ("3100", "700")
        failed = payout_event("payout.failed", "evt_failed", second["payout"])
        assert (await house.deliver(failed)).status_code == 200
        assert (await house.deliver(failed)).json()["deduped"] is True
        assert await _balances(house, account_id) == ("3800", "0")
        for view, status in ((first["payout"], "paid"), (second["payout"], "failed")):
            shown = await house.settle.get(f"/v1/payouts/{view['id']}")
            assert (shown.status_code, shown.json()["payout"]["status"]) == (200, status)


async def test_the_reconciliation_smoke(database_url: str) -> None:
    patient = settings(
        payouts={**SIMULATED, "retry_base_s": 60, "retry_max_s": 60}, auth={"payouts": "open"}
    )
    async with open_house(database_url, patient) as house:
        account_id = await _funded(house)
        view = (await _create(house, account_id, "idem_1", 600, 201))["payout"]
        await _move(house, "drain", "H", "A")
        failed = payout_event("payout.failed", "evt_failed", view)
        refused = await house.deliver(failed)
        assert refused.status_code == 502
        assert refused.json()["code"] == "LEDGER_INGEST_FAILED"
        assert refused.json()["details"]["ledger_status"] == 201
        stuck = await _admin(
            house, "GET", "/v1/payouts/ops/stuck", params={"older_than_minutes": 0, "limit": 20}
        )
        assert [(p["id"], p["status"]) for p in stuck["payouts"]] == [
            (view["id"], "finalizing_failed")
        ]
        assert stuck["payouts"][0]["last_error_code"] == "INSUFFICIENT_FUNDS"
        await _move(house, "lock again", "A", "H")
        retried = await _admin(house, "POST", f"/v1/payouts/{view['id']}/retry")
        assert retried == {
            "ok": True,
            "payout_id": view["id"],
            "previous_status": "finalizing_failed",
            "status": "failed",
            "retried": True,
        }
        assert (await house.retry(force=True))["forwarded"] == 1
        assert (await house.deliver(failed)).json()["deduped"] is True
        assert await _balances(house, account_id) == ("5000", "0")
        stuck = await _admin(house, "GET", "/v1/payouts/ops/stuck?older_than_minutes=0")
        assert stuck["payouts"] == []
        listed = await _admin(house, "GET", "/v1/payouts/ops/failed")
        assert [payout["id"] for payout in listed["payouts"]] == [view["id"]]
