"""The list of runs and a run's audit trail: whole, in order, and strict about what is asked."""

from datetime import timedelta

import pytest

from clawsettle.domain.netting import RunStatus
from clawsettle.http.payout_query import write_opaque_cursor
from tests.house import House, Json, open_house
from tests.http.netting_site import ALONE, UNKNOWN_ID, act, bad, get, made, refusal
from tests.netting import SOURCE, paid, transfer
from tests.storage.netting_runs import MIDNIGHT, keep, stored_run

BAD_CURSOR = (400, "INVALID_CURSOR", {"field": "cursor"})


async def whole(house: House, path: str, name: str, **query: str) -> list[Json]:
    """Follow the cursors to the end."""
    found: list[Json] = []
    cursors = [""]
    while True:
        answer = await get(house, path, **query, cursor=cursors[-1])
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["ok"] is True
        found += page[name]
        if "next_cursor" not in page:
            return found
        assert page["next_cursor"] not in cursors, "the pages go in a circle"
        cursors.append(page["next_cursor"])


async def fill(house: House, count: int) -> list[str]:
    """Store runs, three of them of each instant and every fourth failed; return them newest first.

    With each id comes the status.
    """
    runs = [
        stored_run(
            f"key_{place}",
            created_at=MIDNIGHT + timedelta(milliseconds=place // 3),
            status=RunStatus.APPLIED if place % 4 else RunStatus.FAILED,
        )
        for place in range(count)
    ]
    for run in runs:
        await keep(house.database, run)
    runs.sort(key=lambda run: (run.created_at, run.run_id), reverse=True)
    return [f"{run.run_id} {run.status}" for run in runs]


def names(runs: list[Json]) -> list[str]:
    return [f"{run['id']} {run['status']}" for run in runs]


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["1", "7", "40", "500"])
async def test_runs_are_listed_the_newest_first_and_to_the_last_one(
    database_url: str, limit: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        stored = await fill(house, 40)
        assert names(await whole(house, "", "runs", limit=limit)) == stored
        failed = [name for name in stored if name.endswith("failed")]
        assert names(await whole(house, "", "runs", limit=limit, status=" failed ")) == failed
        assert await whole(house, "", "runs", limit=limit, status="released") == []


async def test_a_listed_run_is_the_run_as_it_is_shown(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        assert (await get(house)).json() == {"ok": True, "runs": []}
        run = (await made(house))["run"]
        assert (await get(house)).json() == {"ok": True, "runs": [run]}


async def test_a_page_has_a_cursor_exactly_when_there_is_more(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        stored = await fill(house, 4)
        first = (await get(house, limit="2")).json()
        assert list(first) == ["ok", "runs", "next_cursor"]
        second = (await get(house, limit="2", cursor=first["next_cursor"])).json()
        assert list(second) == ["ok", "runs"]
        assert names([*first["runs"], *second["runs"]]) == stored


@pytest.mark.parametrize(("limit", "count"), [("", 100), ("3", 3), ("500", 500), ("501", 500)])
async def test_a_limit_has_a_default_and_a_most(database_url: str, limit: str, count: int) -> None:
    async with open_house(database_url, ALONE) as house:
        await house.database.fetch(
            "INSERT INTO netting_run SELECT (r).* FROM (SELECT jsonb_populate_record("
            "NULL::netting_run, $1::jsonb || jsonb_build_object('run_id', n, 'idempotency_key', n))"
            " AS r FROM generate_series(1, 600) AS n) AS made",
            '{"request_hash":"x","asked_hash":"x","currency":"USD","status":"applied",'
            '"selection_before":"2026-02-12","created_at":"2026-02-12","updated_at":"2026-02-12",'
            '"completed_at":"2026-02-12","source_clearing_domain":"a","report_hash":"x",'
            '"target_clearing_domain":"b","candidate_count":0,"applied_count":0,"failed_count":0,'
            '"total_amount_minor":0,"is_scheduled":false}',
        )
        assert len((await get(house, limit=limit)).json()["runs"]) == count


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": "paid", "limit": "x"}, bad("status")),
        ({"status": "APPLIED"}, bad("status")),
        ({"limit": "0", "cursor": "?"}, bad("limit")),
        ({"limit": "-1"}, bad("limit")),
        ({"limit": "1.5"}, bad("limit")),
        ({"cursor": "?"}, BAD_CURSOR),
        ({"cursor": "MjAyNi0wMi0xMQ"}, BAD_CURSOR),
    ],
)
async def test_the_first_wrong_parameter_is_named(
    database_url: str, query: dict[str, str], expected: tuple[int, str, object]
) -> None:
    async with open_house(database_url, ALONE) as house:
        assert refusal(await get(house, **query)) == expected


async def test_a_run_that_is_unknown_is_404_wherever_it_is_asked_for(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        expected = (404, "NOT_FOUND", {"run_id": UNKNOWN_ID})
        for path in ("", "/audit"):
            assert refusal(await get(house, f"/{UNKNOWN_ID}{path}")) == expected
        for action in ("resume", "release"):
            assert refusal(await act(house, UNKNOWN_ID, action)) == expected
        assert await house.database.fetch("SELECT 1 FROM operator_action") == []


# The audit trail --------------------------------------------------------------------------------


async def test_an_audit_trail_tells_each_step_and_who_has_intervened(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 200)
        told = await made(house)
        run_id, entry_id = told["run"]["id"], told["entries"][0]["id"]
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 200)
        assert (await act(house, run_id, "resume", {"why": "funded", "by": "ann"})).is_success
        answer = (await get(house, f"/{run_id}/audit")).json()
        assert list(answer) == ["ok", "run_id", "audit_events", "actions"]
        assert answer["run_id"] == run_id
        events = answer["audit_events"]
        assert [(one["event_type"], one.get("entry_id")) for one in events] == [
            ("netting.run.running", None),
            ("netting.entry.failed", entry_id),
            ("netting.run.failed", None),
            ("netting.run.running", None),
            ("netting.entry.applied", entry_id),
            ("netting.run.applied", None),
        ]
        assert list(events[1]) == [
            "id",
            "run_id",
            "entry_id",
            "event_type",
            "details",
            "created_at",
        ]
        assert events[1]["details"]["code"] == "INSUFFICIENT_FUNDS"
        assert events[-1]["details"]["applied_count"] == 1
        assert [one["action"] for one in answer["actions"]] == ["resume"]
        pages = await whole(house, f"/{run_id}/audit", "audit_events", limit="1")
        assert pages == events


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"limit": "0", "cursor": "?"}, bad("limit")),
        ({"limit": "x"}, bad("limit")),
        ({"cursor": "?"}, BAD_CURSOR),
        ({"cursor": write_opaque_cursor(MIDNIGHT, "x")}, BAD_CURSOR),
        ({"cursor": write_opaque_cursor(MIDNIGHT, "-1")}, BAD_CURSOR),
        ({"cursor": write_opaque_cursor(MIDNIGHT, "9" * 19)}, BAD_CURSOR),
    ],
)
async def test_an_audit_trail_is_strict_about_its_pages(
    database_url: str, query: dict[str, str], expected: tuple[int, str, object]
) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await made(house))["run"]["id"]
        assert refusal(await get(house, f"/{run_id}/audit", **query)) == expected
