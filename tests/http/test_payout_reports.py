"""The route of the daily report, and what comes of it over a socket."""

import hashlib
import json
from datetime import timedelta

import httpx
import pytest

from clawsettle.http.payout_reports import AT_ONCE_MAX
from tests.house import ADMIN, House, open_house
from tests.storage.payout_histories import NOON, history, keep

PATH = "/v1/reconciliation/payouts/daily"


async def ask(house: House, **query: str) -> httpx.Response:
    return await house.settle.get(PATH, params=query, headers=ADMIN)


async def test_a_report_is_for_admins(database_url: str) -> None:
    async with open_house(database_url) as house:
        answer = await house.settle.get(PATH, params={"date": "2026-02-11"})
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "date"),
        ({"date": "2026-02-30"}, "date"),
        ({"date": "2026-02-30", "format": "xml"}, "format"),
        ({"date": "2026-02-11", "as_of": "yesterday"}, "as_of"),
        ({"date": "2026-02-11", "as_of": "2100-01-01T00:00:00Z"}, "as_of"),
    ],
)
async def test_what_is_wrong_is_named_the_format_first(
    database_url: str, query: dict[str, str], field: str
) -> None:
    async with open_house(database_url) as house:
        answer = await ask(house, **query)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json()["details"]) == (
        "INVALID_REQUEST",
        {"field": field},
    )


async def test_a_report_comes_as_json_or_csv_with_one_hash(database_url: str) -> None:
    async with open_house(database_url) as house:
        await keep(house.database, *[history(f"key_{place}") for place in range(3000)])
        told = await ask(house, date="2026-02-11")
        table = await ask(house, date=" 2026-02-11 ", format="CSV")
    assert told.headers["content-type"] == "application/json; charset=utf-8"
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["x-clawsettle-report-sha256"] == told.json()["artifact_sha256"]
    assert table.headers["x-clawsettle-csv-sha256"] == hashlib.sha256(table.content).hexdigest()
    assert "x-clawsettle-as-of" not in table.headers
    for answer in (told, table):
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert answer.headers["x-clawsettle-version"]
    assert len(told.json()["rows"]) == table.text.count("\n") == 3000


async def test_a_cut_has_the_same_bytes_every_time(database_url: str) -> None:
    cut = {"date": "2026-02-11", "as_of": "2026-02-11T12:00:02.500Z"}
    async with open_house(database_url) as house:
        await keep(house.database, history(), history("key", created_at=NOON + timedelta(hours=1)))
        told = await ask(house, **cut)
        table = await ask(house, **cut, format="csv")
        assert (await ask(house, **cut)).content == told.content
    assert json.loads(told.content)["rows"][0]["status"] == "submitted"
    assert told.json()["as_of"] == table.headers["x-clawsettle-as-of"] == cut["as_of"]


async def test_more_reports_than_are_read_at_once_wait_for_their_turn(database_url: str) -> None:
    import trio

    async with open_house(database_url) as house:
        await keep(house.database, *[history(f"key_{place}") for place in range(500)])
        answers: list[bytes] = []

        async def one() -> None:
            answers.append((await ask(house, date="2026-02-11")).json()["artifact_sha256"])

        async with trio.open_nursery() as nursery:
            for _ in range(3 * AT_ONCE_MAX):
                nursery.start_soon(one)
    assert len(answers) == 3 * AT_ONCE_MAX
    assert len(set(answers)) == 1
