"""What an operator does about a netting run over HTTP: resuming it, and releasing its payouts."""

import hashlib
from datetime import timedelta

import pytest

from tests.house import ADMIN, House, Json, open_house
from tests.http.netting_site import (
    ALONE,
    HASTY,
    RUNS,
    act,
    ask,
    bad,
    ended,
    gated,
    get,
    made,
    refusal,
)
from tests.netting import SOURCE, cleared, links, paid, transfer

ACTOR = f"key:{hashlib.sha256(b'settle_house').hexdigest()[:8]}"


async def failed(house: House) -> Json:
    """Have a run fail whose money is missing; ``mend`` puts it back."""
    await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
    await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 500)
    told = await made(house)
    assert told["run"]["status"] == "failed"
    return told


async def mend(house: House) -> None:
    await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 500)


async def actions(house: House, run_id: str) -> list[Json]:
    """Return what is kept of operators' actions, without the instants."""
    told = (await get(house, f"/{run_id}/audit")).json()["actions"]
    return [{name: one[name] for name in one if name != "at"} for one in told]


async def test_resuming_a_failed_run_moves_what_has_not_moved(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await failed(house))["run"]["id"]
        await mend(house)
        answer = await act(house, run_id, "resume", {"why": " funded again ", "by": "ann"})
        assert answer.status_code == 200
        told = answer.json()
        assert list(told) == ["ok", "deduped", "complete", "run", "entries"]
        assert (told["ok"], told["deduped"], told["complete"]) == (True, False, True)
        assert {entry["status"] for entry in told["entries"]} == {"applied"}
        assert await cleared(house) == (0, 500)
        again = await act(house, run_id, "resume")
        assert (again.status_code, again.json()) == (200, {**told, "deduped": True})
        assert await actions(house, run_id) == [
            {"action": "resume", "actor": ACTOR, "by": "ann", "why": "funded again"},
            {"action": "resume", "actor": ACTOR, "why": "resume"},
        ]


async def test_a_run_that_fails_again_says_so(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await failed(house))["run"]["id"]
        told = (await act(house, run_id, "resume")).json()
        assert (told["deduped"], told["complete"], told["run"]["status"]) == (
            *(False, False, "failed"),
        )


async def test_resuming_takes_no_new_payouts(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await failed(house))["run"]["id"]
        await mend(house)
        await paid(house, ("c", "acct_A", 50))
        told = (await act(house, run_id, "resume")).json()
        assert (told["run"]["candidate_count"], told["run"]["total_amount_minor"]) == (2, "500")
        assert await cleared(house) == (50, 500)


async def test_releasing_a_failed_run_frees_its_payouts(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        before = await failed(house)
        run_id = before["run"]["id"]
        answer = await act(house, run_id, "release", {"by": "ann"})
        assert answer.status_code == 200
        told = answer.json()
        assert list(told) == ["ok", "run", "entries"]
        assert told["run"]["status"] == "released"
        assert {entry["status"] for entry in told["entries"]} == {"released"}
        assert {"report_hash", "completed_at"} <= set(told["run"])
        assert set((await links(house.database)).values()) == {None}
        assert (await act(house, run_id, "release")).json() == told
        assert await actions(house, run_id) == [
            {"action": "release", "actor": ACTOR, "by": "ann", "why": "release"},
            {"action": "release", "actor": ACTOR, "why": "release"},
        ]
        await mend(house)
        assert (await made(house, "second"))["run"]["total_amount_minor"] == "500"
        assert await cleared(house) == (0, 500)


async def test_what_has_moved_is_not_released(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        run_id = (await made(house))["run"]["id"]
        details = {"run_id": run_id, "from_status": "applied", "to_status": "released"}
        refused = await act(house, run_id, "release")
        assert refusal(refused) == (409, "INVALID_STATUS_TRANSITION", details)
        # It is kept all the same that it was asked for.
        assert [one["action"] for one in await actions(house, run_id)] == ["release"]


async def test_what_may_be_under_way_to_the_ledger_is_not_released_before_it_is_quiet(
    database_url: str,
) -> None:
    async with gated(database_url, ALONE, deaf=True) as (house, _):
        await paid(house, ("a", "acct_A", 200))
        run_id = (await made(house))["run"]["id"]
        answer = await act(house, run_id, "release")
        assert refusal(answer) == (409, "CONFLICT", {"run_id": run_id})
        assert (await get(house, f"/{run_id}")).json()["run"]["status"] == "failed"
        assert None not in (await links(house.database)).values()
        await house.database.fetch(
            "UPDATE netting_entry SET doubt_at = doubt_at - $1::interval", timedelta(minutes=3)
        )
        told = (await act(house, run_id, "release")).json()
        assert told["run"]["status"] == "released"
        assert set((await links(house.database)).values()) == {None}


async def test_what_takes_longer_than_the_deadline_is_answered_as_it_stands(
    database_url: str,
) -> None:
    async with gated(database_url, HASTY, deaf=True) as (house, gate):
        await paid(house, ("a", "acct_A", 200))
        run_id = (await made(house))["run"]["id"]
        gate.deaf = False
        answer = await act(house, run_id, "resume")
        assert (answer.status_code, answer.json()["complete"]) == (200, False)
        assert answer.json()["run"]["status"] == "running"
        gate.opened.set()
        assert (await ended(house, run_id))["run"]["status"] == "applied"
        assert (await ask(house)).status_code == 200
        assert await cleared(house) == (0, 200)


@pytest.mark.parametrize("action", ["resume", "release"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", (400, "INVALID_REQUEST", None)),
        ("[]", (400, "INVALID_REQUEST", None)),
        ("null", (400, "INVALID_REQUEST", None)),
        ('{"why":7}', bad("why")),
        ('{"why":" ","by":7}', bad("why")),
        ('{"by":""}', bad("by")),
        ('{"by":null}', bad("by")),
    ],
)
async def test_a_bad_reason_is_refused_and_nothing_is_done_or_kept(
    database_url: str, action: str, content: str, expected: tuple[int, str, object]
) -> None:
    async with open_house(database_url, ALONE) as house:
        run = (await failed(house))["run"]
        answer = await house.settle.post(
            f"{RUNS}/{run['id']}/{action}", content=content, headers=ADMIN
        )
        assert refusal(answer) == expected
        assert await actions(house, run["id"]) == []
        assert (await get(house, f"/{run['id']}")).json()["run"] == run
