"""The route of a netting run's report, and what comes of it over a socket."""

import hashlib
from typing import Any

import httpx
import pytest
import trio

from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.netting import RunStatus
from clawsettle.http.payout_reports import AT_ONCE_MAX
from tests.house import House, open_house
from tests.http.netting_site import ALONE, UNKNOWN_ID, act, bad, get, made, refusal
from tests.netting import paid, transfer
from tests.storage.netting_runs import keep, stored_run


async def ask(house: House, run_id: str, **query: str) -> httpx.Response:
    return await get(house, f"/{run_id}/report", **query)


async def run_of(house: House) -> dict[str, Any]:
    """A run of two entries that was applied."""
    await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700))
    run: dict[str, Any] = (await made(house))["run"]
    return run


async def test_a_report_is_for_admins(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        answer = await house.settle.get(f"/v1/netting/runs/{UNKNOWN_ID}/report")
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")


async def test_a_report_comes_as_json_or_csv_with_the_runs_hash(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run = await run_of(house)
        told = await ask(house, run["id"])
        table = await ask(house, run["id"], format=" CSV ")
    found = told.json()
    assert told.headers["content-type"] == "application/json; charset=utf-8"
    assert found["artifact_sha256"] == run["report_hash"]
    assert found["summary"]["total_amount_minor"] == "1200"
    assert found["conservation"]["holds"] is True
    assert len(found["entries"]) == 2
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["x-clawsettle-report-sha256"] == run["report_hash"]
    assert table.headers["x-clawsettle-csv-sha256"] == hashlib.sha256(table.content).hexdigest()
    assert table.text.startswith("entry_id,connect_account_id,payout_count,")
    assert table.text.count("\n") == 2
    for answer in (told, table):
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert answer.headers["x-clawsettle-version"]


async def test_an_unknown_run_is_said_before_a_bad_format(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run = await run_of(house)
        for query in ({}, {"format": "xml"}):
            answer = await ask(house, UNKNOWN_ID, **query)
            assert refusal(answer) == (404, "NOT_FOUND", {"run_id": UNKNOWN_ID})
        assert refusal(await ask(house, run["id"], format="xml")) == bad("format")
        assert (await ask(house, run["id"], format="")).status_code == 200


async def test_a_run_whose_record_was_changed_is_said_before_a_bad_format(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        run = await run_of(house)
        await house.database.fetch(
            "UPDATE netting_entry SET amount_minor = 501 WHERE amount_minor = 500"
        )
        for query in ({}, {"format": "csv"}, {"format": "xml"}):
            status, code, details = refusal(await ask(house, run["id"], **query))
            assert (status, code) == (500, "INTERNAL_ERROR")
            assert isinstance(details, dict)
            assert details["run_id"] == run["id"]
            assert list(details) == ["run_id", "correlation_id"]
        frozen = await ask(house, run["id"], version="1")
    assert hashlib.sha256(frozen.content).hexdigest() == run["report_hash"]


async def test_every_end_of_a_run_can_be_read_and_checked(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, "clearing:clawsettle.payouts", "clearing:elsewhere", 200)
        first = (await made(house))["run"]
        await transfer(house, "clearing:elsewhere", "clearing:clawsettle.payouts", 200)
        second = (await act(house, first["id"], "resume")).json()["run"]
        versions = [await ask(house, first["id"], version=number) for number in ("1", " 2 ")]
        told = (await ask(house, first["id"])).json()
        unknown = await ask(house, first["id"], version="3")
    assert told["version_count"] == 2
    for version, run in zip(versions, (first, second), strict=True):
        assert version.headers["content-type"] == "application/json; charset=utf-8"
        assert version.headers["x-clawsettle-report-sha256"] == run["report_hash"]
        assert hashlib.sha256(version.content).hexdigest() == run["report_hash"]
        assert version.json()["summary"]["status"] == run["status"]
    assert [run["status"] for run in (first, second)] == ["failed", "applied"]
    hashed = {name: told[name] for name in ("entries", "run_id", "summary")}
    assert canonical_json(hashed).encode() == versions[1].content
    assert refusal(unknown) == (404, "NOT_FOUND", {"run_id": first["id"], "version": 3})


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"version": "0"}, "version"),
        ({"version": "-1"}, "version"),
        ({"version": "1.0"}, "version"),
        ({"version": "last"}, "version"),
        ({"version": "1", "format": "csv"}, "format"),
        ({"version": "1", "format": "xml"}, "format"),
    ],
)
async def test_a_version_is_a_number_and_json(
    database_url: str, query: dict[str, str], field: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        run = await run_of(house)
        assert refusal(await ask(house, run["id"], **query)) == bad(field)


async def test_a_run_that_is_under_way_has_a_report(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run = stored_run(status=RunStatus.CREATED)
        await keep(house.database, run)
        told = (await ask(house, run.run_id)).json()
    assert (told["summary"]["status"], told["version_count"]) == ("created", 0)


async def test_more_reports_than_are_read_at_once_wait_for_their_turn(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run = await run_of(house)
        answers: list[str] = []

        async def one() -> None:
            answers.append((await ask(house, run["id"])).json()["artifact_sha256"])

        async with trio.open_nursery() as nursery:
            for _ in range(3 * AT_ONCE_MAX):
                nursery.start_soon(one)
    assert answers == [run["report_hash"]] * (3 * AT_ONCE_MAX)
