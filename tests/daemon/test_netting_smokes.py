"""The netting smokes of the contract's section 9, over HTTP, and what a late failure comes to."""

import httpx
import trio

from clawsettle.sandbox.simulated_provider import connect_account_id
from tests.house import House, Json, open_house, payin, settings
from tests.http.netting_site import ask, get, made
from tests.netting import cleared
from tests.payouts import SIMULATED, payout_event
from tests.storage.netting_books import netting_faults

ELSEWHERE = "clawsettle.elsewhere"
OPEN = settings(
    payouts=SIMULATED,
    netting={"poll_s": 3600, "target_clearing_domains": (ELSEWHERE,)},
    auth={"payouts": "open"},
)


async def _opened(house: House, name: str, amount_minor: int = 5000) -> str:
    """Open an account, fund it, and have it onboarded; return its id."""
    account_id = await house.open_account(f"did:key:{name}")
    funds = payin(f"evt_funds_{name}", account_id, amount_minor=amount_minor)
    assert (await house.deliver(funds)).status_code == 200
    body = {"account_id": account_id}
    onboarded = await house.settle.post("/v1/payouts/connect/onboard", json=body)
    assert onboarded.status_code == 201
    return account_id


async def _paid(house: House, account_id: str, key: str, amount_minor: int) -> Json:
    """Order a payout, and have it be paid; return what its order was answered."""
    body = {"account_id": account_id, "amount_minor": str(amount_minor), "currency": "USD"}
    headers = {"idempotency-key": key}
    created = await house.settle.post("/v1/payouts", json=body, headers=headers)
    assert created.status_code == 201, created.text
    view: Json = created.json()["payout"]
    assert (await _tell(house, "paid", view)).json()["forwarded_to_ledger"] is True
    return view


async def _tell(house: House, status: str, view: Json) -> httpx.Response:
    """Have the provider's event about a payout be delivered."""
    event_id = f"evt_{status}_{view['id']}"
    return await house.deliver(payout_event(f"payout.{status}", event_id, view))


async def _status(house: House, view: Json) -> str:
    """Return a payout's stored status, which says more than the one that callers see."""
    rows = await house.database.fetch("SELECT status FROM payout WHERE payout_id = $1", view["id"])
    return str(rows[0]["status"])


async def _returned(house: House, view: Json) -> None:
    """Wait until a payout's money is given back."""
    with trio.fail_after(10):
        while await _status(house, view) != "returned":  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.02)


async def _available(house: House, *account_ids: str) -> list[int]:
    return [await house.available(account_id) for account_id in account_ids]


def _summed(told: Json) -> tuple[str, int, str]:
    run = told["run"]
    return run["status"], run["candidate_count"], run["total_amount_minor"]


async def _check_hashes(house: House, run: Json) -> None:
    """Both forms of a run's report have the hash that the run tells."""
    as_json = (await get(house, f"/{run['id']}/report")).json()
    as_csv = await get(house, f"/{run['id']}/report", format="csv")
    assert as_json["artifact_sha256"] == run["report_hash"]
    assert as_csv.headers["x-clawsettle-report-sha256"] == run["report_hash"]
    assert as_csv.text.startswith("entry_id,connect_account_id,payout_count")


async def test_the_full_smoke(database_url: str) -> None:
    async with open_house(database_url, OPEN) as house:
        account_id = await _opened(house, "alice")
        payouts = [
            await _paid(house, account_id, f"payout_{amount_minor}", amount_minor)
            for amount_minor in (1200, 800)
        ]
        assert await cleared(house) == (2000, 0)
        told = await made(house, "netting_1", limit=50)
        assert _summed(told) == ("applied", 2, "2000")
        (entry,) = told["entries"]
        assert entry["payout_ids"] == [payout["id"] for payout in payouts]
        assert entry["connect_account_id"] == connect_account_id(account_id)
        replayed = await ask(house, {"limit": 50}, "netting_1")
        assert replayed.status_code == 200
        assert replayed.json() == {**told, "deduped": True}
        shown = (await get(house, f"/{told['run']['id']}")).json()
        assert shown["run"]["status"] == "applied"
        await _check_hashes(house, told["run"])
        assert await cleared(house) == (0, 2000)
        later = await made(house, "netting_2", limit=50)
        assert _summed(later) == ("applied", 0, "0")
        assert await cleared(house) == (0, 2000)
        assert await netting_faults(house.database) == []


async def test_the_smoke_on_what_is_there_already(database_url: str) -> None:
    async with open_house(database_url, OPEN) as house:
        for name in ("alice", "bob"):
            account_id = await _opened(house, name)
            await _paid(house, account_id, f"payout_{name}", 700)
        told = await made(house, "netting_1", limit=500)
        assert told["run"]["status"] == "applied"
        replayed = await ask(house, {"limit": 500}, "netting_1")
        assert (replayed.status_code, replayed.json()["deduped"]) == (200, True)
        await _check_hashes(house, told["run"])
        assert (await made(house, "netting_2", limit=500))["run"]["candidate_count"] == 0


async def test_a_payout_that_fails_before_any_run_is_given_back_and_never_netted(
    database_url: str,
) -> None:
    async with open_house(database_url, OPEN) as house:
        account_id = await _opened(house, "alice")
        late = await _paid(house, account_id, "late", 1200)
        await _paid(house, account_id, "sound", 800)
        assert (await _tell(house, "failed", late)).status_code == 200
        assert await _status(house, late) == "returned"
        assert await cleared(house) == (800, 0)
        assert _summed(await made(house)) == ("applied", 1, "800")
        assert await cleared(house) == (0, 800)
        assert await house.available(account_id) == 5000 - 800
        assert await netting_faults(house.database) == []


async def test_a_payout_that_fails_after_its_run_is_given_back_once_the_next_run_brings_the_money(
    database_url: str,
) -> None:
    async with open_house(database_url, OPEN) as house:
        alice, bob = await _opened(house, "alice"), await _opened(house, "bob")
        late = await _paid(house, alice, "late", 1200)
        await _paid(house, bob, "swept", 800)
        assert _summed(await made(house, "netting_1")) == ("applied", 2, "2000")
        assert await cleared(house) == (0, 2000)

        # The money has gone on, so there is nothing to give back from.
        refused = await _tell(house, "failed", late)
        assert (refused.status_code, refused.json()["code"]) == (502, "LEDGER_INGEST_FAILED")
        assert await _status(house, late) == "returning"
        shown = (await house.settle.get(f"/v1/payouts/{late['id']}")).json()["payout"]
        assert shown["last_error_code"] == "INSUFFICIENT_FUNDS"
        assert await _available(house, alice, bob) == [3800, 4200]

        # The next run brings it back, and takes what else waits of the same account with it.
        await _paid(house, alice, "another", 500)
        told = await made(house, "netting_2")
        assert _summed(told) == ("applied", 2, "-700")
        (entry,) = told["entries"]
        assert entry["compensated_payout_ids"] == [late["id"]]
        await _returned(house, late)
        assert await cleared(house) == (0, 1300)
        assert await _available(house, alice, bob) == [5000 - 500, 4200]

        # Nothing is left: not the failure's event, nor anything to net.
        assert (await house.retry(force=True))["failed"] == 0
        assert (await _tell(house, "failed", late)).json()["deduped"] is True
        assert _summed(await made(house, "netting_3")) == ("applied", 0, "0")
        assert await cleared(house) == (0, 1300)
        assert await netting_faults(house.database) == []


async def test_a_return_that_took_the_money_of_others_is_made_good_before_theirs_is_moved(
    database_url: str,
) -> None:
    async with open_house(database_url, OPEN) as house:
        alice, bob = await _opened(house, "alice"), await _opened(house, "bob")
        late = await _paid(house, alice, "late", 1200)
        await made(house, "netting_1")
        await _paid(house, bob, "waiting", 1300)
        assert await cleared(house) == (1300, 1200)

        # It is given back at once, out of what bob's payout has left there.
        assert (await _tell(house, "failed", late)).status_code == 200
        assert await _status(house, late) == "returned"
        assert await cleared(house) == (100, 1200)

        # A run to somewhere else can neither bring it back nor cover bob's payout, which is kept.
        short = await made(house, "netting_2", target_clearing_domain=ELSEWHERE)
        assert _summed(short) == ("failed", 1, "1300")
        assert short["run"]["last_error_code"] == "INSUFFICIENT_FUNDS"

        # A run that brings it back lets the other one go on.
        assert _summed(await made(house, "netting_3")) == ("applied", 1, "-1200")
        assert await cleared(house) == (1300, 0)
        again = await made(house, "netting_2", target_clearing_domain=ELSEWHERE)
        assert _summed(again) == ("applied", 1, "1300")
        assert await cleared(house) == (0, 0)
        assert await _available(house, alice, bob) == [5000, 5000 - 1300]
        assert await netting_faults(house.database) == []


async def test_of_one_run_the_returns_move_first_and_what_waits_after_them(
    database_url: str,
) -> None:
    async with open_house(database_url, OPEN) as house:
        alice, bob = await _opened(house, "alice"), await _opened(house, "bob")
        late = await _paid(house, alice, "late", 1200)
        await made(house, "netting_1")
        await _paid(house, bob, "waiting", 1300)
        assert (await _tell(house, "failed", late)).status_code == 200
        assert await cleared(house) == (100, 1200)
        assert _summed(await made(house, "netting_2")) == ("applied", 2, "100")
        assert await cleared(house) == (0, 1300)
        assert await _available(house, alice, bob) == [5000, 5000 - 1300]
        assert await netting_faults(house.database) == []
