"""Reading loss events over HTTP: who may, in which order, by which filters, and what stands out."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from attrs import evolve

from clawsettle.config import AdminSettings, Secret, Settings
from clawsettle.domain.loss_events import Operation, Target
from tests.house import ADMIN, House, Json, open_house
from tests.http.loss_site import (
    EVENTS,
    OUTBOX,
    REFUSED,
    UNKNOWN_ID,
    bad,
    entry,
    found,
    get,
    open_site,
    quiet,
    recorded,
    refusal,
    resolve,
)
from tests.losses import answer, loss_settings

PATHS = (EVENTS, OUTBOX, f"{EVENTS}/{UNKNOWN_ID}")
# Of each status and of two services; three events share each instant. Every tenth has no account.
_ADD_EVENTS = """
    INSERT INTO loss_event
        (loss_event_id, idempotency_key, request_hash, source_service, source_event_id,
         account_did, account_id, amount_minor, currency, reason_code, severity, occurred_at,
         metadata, status, target_count, created_at, updated_at)
    SELECT 'lse_' || to_char(n, 'FM0000'), 'k' || n, 'hash',
           CASE WHEN n % 2 = 0 THEN 'stripe' ELSE 'fraud' END, 'evt_' || n, 'did:key:zA',
           CASE WHEN n % 10 > 0 THEN 'acc_' || n % 3 END, n, 'USD', 'fraud', 'low', now(), '{}',
           (ARRAY['recorded', 'processing', 'partially_forwarded', 'forwarded', 'failed'])
               [n % 5 + 1],
           2, at.at, at.at
    FROM generate_series(1, $1::integer) AS n,
         LATERAL (SELECT timestamptz '2026-02-11 00:00:00Z' + n / 3 * interval '1 millisecond')
             AS at (at)
"""
# Each event is told to two targets, and every third one is resolved at one of them.
_ADD_DELIVERIES = """
    INSERT INTO loss_delivery
        (loss_event_id, operation, target, delivery_id, state, opened_at, created_at, updated_at,
         due_at, forwarded_at)
    SELECT e.loss_event_id, o.operation, t.target,
           CASE o.operation WHEN 'apply' THEN 'lso_' ELSE 'lro_' END
               || md5(e.loss_event_id || t.target),
           s.state, e.created_at, e.created_at, e.created_at,
           CASE WHEN s.state IN ('pending', 'waiting', 'failed') THEN timestamptz 'infinity' END,
           CASE WHEN s.state = 'forwarded' THEN e.created_at END
    FROM loss_event AS e,
         (VALUES ('apply'), ('resolve')) AS o (operation),
         (VALUES ('ledger', 0), ('clawincome', 1)) AS t (target, place),
         LATERAL (SELECT (ARRAY['pending', 'waiting', 'failed', 'forwarded', 'not_applicable',
             'dead', 'canceled'])[(e.amount_minor + t.place) % 7 + 1]) AS s (state)
    WHERE o.operation = 'apply' OR (e.amount_minor % 3 = 0 AND t.place = 0)
"""


@asynccontextmanager
async def open_shelf(
    database_url: str, count: int, configured: Settings | None = None
) -> AsyncIterator[House]:
    """A house with so many events that nobody works on."""
    async with open_house(database_url, configured or loss_settings()) as house:
        await house.database.fetch(_ADD_EVENTS, count)
        await house.database.fetch(_ADD_DELIVERIES)
        yield house


async def pages(house: House, path: str, **query: str) -> list[list[Json]]:
    """All pages of a list, each begun where the one before has ended."""
    name = "outbox" if path == OUTBOX else "events"
    found: list[list[Json]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await get(house, path, **query, **cursor)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert list(body) == ["ok", name, "next_cursor"]
        found.append(body[name])
        if body["next_cursor"] is None:
            return found
        cursor = {"cursor": body["next_cursor"]}


async def listed(house: House, path: str, **query: str) -> list[Json]:
    """All rows of a list."""
    return [row for page in await pages(house, path, **query) for row in page]


def is_newest_first(rows: Sequence[Json], id_name: str) -> bool:
    """Return whether rows come by instant, then id, descending, and none of them twice."""
    places = [(row["created_at"], row[id_name]) for row in rows]
    return places == sorted(set(places), reverse=True)


def cursor_of(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


# Who may read -------------------------------------------------------------------------------------


async def read(house: House, path: str, headers: Mapping[str, str]) -> httpx.Response:
    return await house.settle.get(path, headers=headers)


async def test_an_admin_or_a_reader_reads_by_either_header(database_url: str) -> None:
    tokens = (Secret("reader_1"), Secret("reader_2"))
    async with open_house(database_url, loss_settings(read_tokens=tokens)) as house:
        for path in PATHS:
            for headers in (
                {"authorization": "Bearer settle_house"},
                {"authorization": "bearer reader_1"},
                {"authorization": "Bearer reader_2"},
                {"x-admin-key": "settle_house"},
                {"x-admin-key": " reader_1 "},
                {"authorization": "Basic eDp5", "x-admin-key": "reader_2"},
            ):
                answer = await read(house, path, headers)
                assert answer.status_code in {200, 404}, (path, headers)
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Bearer "},
                {"x-admin-key": ""},
                {"x-admin-key": "reader"},
                {"authorization": "Bearer wrong", "x-admin-key": "reader_1"},
            ):
                refused = await read(house, f"{path}?limit=x", headers)
                assert refusal(refused) == REFUSED, (path, headers)


async def test_a_read_token_works_where_no_admin_key_is_configured(database_url: str) -> None:
    keyless = AdminSettings(keys=())
    reading = evolve(loss_settings(read_tokens=(Secret("reader"),)), admin=keyless)
    async with open_house(database_url, reading) as house:
        assert (await read(house, EVENTS, {"x-admin-key": "reader"})).status_code == 200
        assert refusal(await read(house, EVENTS, ADMIN)) == REFUSED


async def test_without_any_key_reading_is_closed(database_url: str) -> None:
    closed = evolve(loss_settings(), admin=AdminSettings(keys=()))
    async with open_house(database_url, closed) as house:
        for path in PATHS:
            for headers in ({}, ADMIN, {"x-admin-key": ""}):
                assert refusal(await read(house, path, headers)) == (
                    503,
                    "DEPENDENCY_NOT_CONFIGURED",
                    {"field": "SETTLE_ADMIN_KEY"},
                )


# Pages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"status": "failed"},
        {"status": " recorded "},
        {"account_id": "acc_1"},
        {"source_service": " fraud "},
        {"source_service": "stripe", "status": "forwarded"},
        {"account_id": "acc_1", "source_service": "stripe"},
        {"account_id": "acc_2", "status": "failed"},
        {"status": "", "account_id": " ", "source_service": ""},
        {"account_id": "acc_9"},
        {"source_service": "nobody"},
    ],
)
async def test_pages_of_events_have_what_fits_the_filters_in_order_and_nothing_twice(
    database_url: str, query: dict[str, str]
) -> None:
    async with open_shelf(database_url, 60) as house:
        everything = await listed(house, EVENTS, limit="200")
        assert len(everything) == 60
        wanted = {name: word.strip() for name, word in query.items() if word.strip()}
        fitting = [
            one for one in everything if all(one[name] == word for name, word in wanted.items())
        ]
        assert is_newest_first(everything, "loss_event_id")
        assert await listed(house, EVENTS, limit="4", **query) == fitting


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ({}, None),
        ({"operation": " Resolve "}, None),
        ({"operation": ""}, None),
        ({"status": "pending"}, {"pending", "waiting"}),
        ({"status": "failed"}, {"failed", "dead"}),
        ({"status": "forwarded", "operation": "resolve"}, {"forwarded"}),
        ({"status": " not_applicable "}, {"not_applicable"}),
        ({"status": "canceled"}, {"canceled"}),
        ({"status": "dead"}, {"dead"}),
        ({"status": "waiting", "target_service": "ledger"}, {"waiting"}),
        ({"target_service": "clawincome"}, None),
        ({"target_service": "escrow"}, None),
        ({"loss_event_id": "lse_0003"}, None),
        ({"loss_event_id": "lse_0003", "status": "failed", "target_service": "ledger"},
         {"failed", "dead"}),
        ({"loss_event_id": UNKNOWN_ID}, None),
    ],
)  # fmt: skip
async def test_pages_of_deliveries_have_what_fits_the_filters_in_order_and_nothing_twice(
    database_url: str, query: dict[str, str], states: set[str] | None
) -> None:
    async with open_shelf(database_url, 42) as house:
        operation = query.get("operation", "").strip().lower() or "apply"
        everything = await listed(house, OUTBOX, limit="200", operation=operation)
        assert len(everything) == (84 if operation == "apply" else 14)
        assert is_newest_first(everything, "outbox_id")
        wanted = {
            name: query[name] for name in ("target_service", "loss_event_id") if name in query
        }
        fitting = [
            one
            for one in everything
            if (states is None or one["state"] in states)
            and all(one[name] == word for name, word in wanted.items())
        ]
        assert await listed(house, OUTBOX, limit="3", **query) == fitting


@pytest.mark.parametrize(
    ("limit", "count"), [("1", 1), ("10abc", 10), (" 3.9", 3), ("+2", 2), ("", 50), ("201", 200)]
)
async def test_a_page_has_as_many_rows_as_its_limit_begins_with(
    database_url: str, limit: str, count: int
) -> None:
    async with open_shelf(database_url, 203) as house:
        for path, name in ((EVENTS, "events"), (OUTBOX, "outbox")):
            body = (await get(house, path, limit=limit)).json()
            assert len(body[name]) == count
            assert body["next_cursor"] is not None


async def test_a_page_that_is_just_full_has_no_next_one(database_url: str) -> None:
    async with open_shelf(database_url, 3) as house:
        assert [len(page) for page in await pages(house, EVENTS, limit="3")] == [3]
        assert [len(page) for page in await pages(house, EVENTS, limit="2")] == [2, 1]


@pytest.mark.parametrize("limit", ["0", "-1", "abc", " ", "x1"])
async def test_a_limit_that_is_no_number_from_one_is_refused(database_url: str, limit: str) -> None:
    async with open_house(database_url, loss_settings()) as house:
        for path in (EVENTS, OUTBOX):
            told = await get(house, path, limit=limit, cursor="!", status="x")
            assert refusal(told) == bad("limit", value=limit)


@pytest.mark.parametrize(
    "cursor",
    [
        " ",
        "!",
        cursor_of("2026-02-11T00:00:00.000Z"),
        cursor_of("2026-02-11T00:00:00.000Z::"),
        cursor_of("::lse_1"),
        cursor_of("yesterday::lse_1"),
    ],
)
async def test_a_cursor_that_no_list_gave_out_is_refused(database_url: str, cursor: str) -> None:
    async with open_house(database_url, loss_settings()) as house:
        for path in (EVENTS, OUTBOX):
            told = await get(house, path, cursor=cursor, status="x")
            assert refusal(told) == (400, "INVALID_CURSOR", {"field": "cursor"})
            assert (await get(house, path, cursor="")).status_code == 200


async def test_a_cursor_is_the_last_rows_instant_and_id(database_url: str) -> None:
    async with open_shelf(database_url, 4) as house:
        body = (await get(house, EVENTS, limit="2")).json()
        last = body["events"][-1]
        assert body["next_cursor"] == cursor_of(f"{last['created_at']}::{last['loss_event_id']}")


async def test_the_first_bad_parameter_in_the_contracts_order_is_named(database_url: str) -> None:
    bad_ones = {"target_service": "nobody", "status": "done", "operation": " undo "}
    async with open_house(database_url, loss_settings()) as house:
        operation = bad("operation", value=" undo ")
        assert refusal(await get(house, OUTBOX, **bad_ones, limit="0")) == operation
        del bad_ones["operation"]
        assert refusal(await get(house, OUTBOX, **bad_ones)) == bad("status")
        del bad_ones["status"]
        assert refusal(await get(house, OUTBOX, **bad_ones)) == bad("target_service")
        assert refusal(await get(house, EVENTS, status="pending")) == bad("status")


async def test_a_row_that_cannot_be_read_hides_no_other_and_is_reported(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_shelf(database_url, 5) as house:
        await house.database.fetch(
            "UPDATE loss_event SET metadata = '{' WHERE loss_event_id = 'lse_0004'"
        )
        ids = [
            [one["loss_event_id"] for one in page] for page in await pages(house, EVENTS, limit="2")
        ]
        assert ids == [["lse_0005"], ["lse_0003", "lse_0002"], ["lse_0001"]]
        assert "loss_row_unreadable" in (told := capsys.readouterr().out)
        assert "lse_0004" in told


# One event ----------------------------------------------------------------------------------------


async def test_an_event_that_is_not_there_is_named(database_url: str) -> None:
    async with open_house(database_url, loss_settings()) as house:
        told = await get(house, f"{EVENTS}/lse%2F1")
        assert refusal(told) == (404, "NOT_FOUND", {"loss_event_id": "lse/1"})


async def test_what_somebody_should_look_at_says_why(database_url: str) -> None:
    async with open_site(database_url, without=[Target.CLAWBOUNTIES]) as (house, targets):
        targets.script |= {
            Target.ESCROW: answer(401, {"error": "UNAUTHORIZED", "message": "who?"}),
            Target.CLAWINSURE: answer(409, {"error": "POLICY_NOT_CLAIMABLE", "message": "no"}),
            Target.CLAWINCOME: answer(503, {"error": "DOWN", "message": "later"}),
        }
        names = {"escrow_id": "esc_1", "bounty_id": "bty_1"}
        event_id = await recorded(house, metadata=names, amount_minor="900000")
        alerts = {
            "ledger": "unfunded",
            "escrow": "misconfigured",
            "clawinsure": "refused",
            "clawincome": None,
            "clawbounties": "unconfigured",
        }
        told = await quiet(house, event_id)
        assert {one["target_service"]: one["alert"] for one in told["outbox"]} == alerts
        assert told["alerts"] == ["unconfigured", "refused", "misconfigured", "unfunded"]
        await house.database.fetch(
            "UPDATE loss_delivery SET opened_at = now() - interval '901 seconds'"
        )
        told = await found(house, event_id)
        assert entry(told, "clawincome")["alert"] == "late"
        assert told["alerts"][-1] == "late"
        row = (await get(house, OUTBOX, target_service="escrow")).json()["outbox"][0]
        assert row["alert"] == "misconfigured"


async def test_what_a_target_may_hold_stays_in_the_residual_until_it_is_released(
    database_url: str,
) -> None:
    async with open_site(database_url) as (house, targets):
        event_id = await recorded(house, targets=["clawincome"])
        assert (await quiet(house, event_id))["residual_minor"] == "250"
        targets.script[Target.CLAWINCOME] = answer(503, {"error": "DOWN", "message": "later"})
        assert (await resolve(house, event_id)).status_code == 201
        told = await quiet(house, event_id)
        assert told["resolution"]["status"] == "failed"
        assert told["resolution"]["resolved_at"] is None
        (waits,) = told["resolution"]["outbox"]
        assert (waits["operation"], waits["state"]) == (Operation.RESOLVE, "failed")
        (remains,) = told["residuals"]
        assert (remains["applied_minor"], remains["released_minor"]) == ("250", "0")
        assert told["residual_minor"] == "250"
