"""The dead-letter routes: who may ask, what is answered, and every way to be refused."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from attrs import evolve

from clawsettle.config import AdminSettings, Secret
from tests.house import ADMIN, House, Json, open_house, payin, settings

LIST = "/v1/dead-letters"
QUIET = settings(forwarding={"poll_s": 3600.0})
ACTOR = f"key:{hashlib.sha256(b'settle_house').hexdigest()[:8]}"
_ADD_DEAD_ROWS = """
    WITH event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        SELECT 'evt_' || to_char(n, 'FM000'), 'payout.paid', false, sha256('x'), 'forwarded'
        FROM generate_series(1, $1::integer) AS n
    )
    INSERT INTO settlement_outbox (event_id, payload, state, blame, attempts, updated_at)
    SELECT 'evt_' || to_char(n, 'FM000'), '{"n":1}', 'dead', 'target', 1,
           -- Three share each instant, and an instant has microseconds.
           timestamptz '2026-01-01 00:00:00.000001Z' + n / 3 * interval '1 microsecond'
    FROM generate_series(1, $1::integer) AS n
"""


@asynccontextmanager
async def resting(database_url: str) -> AsyncIterator[House]:
    """A daemon whose rescuer has stopped: what is requeued stays as the answer said."""
    async with open_house(database_url, QUIET) as house:
        await house.parts.actors[0].stop()
        yield house


async def asked(house: House, path: str = "", **query: str) -> httpx.Response:
    return await house.settle.get(LIST + path, params=query, headers=ADMIN)


async def act(house: House, letter_id: str, action: str, **body: Any) -> httpx.Response:
    return await house.settle.post(f"{LIST}/{letter_id}/{action}", json=body, headers=ADMIN)


async def listed(house: House, **query: str) -> Json:
    answer = await asked(house, **query)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def event_ids(body: Json) -> list[str]:
    return [letter["event_id"] for letter in body["dead_letters"]]


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


async def test_a_dead_letter_is_listed_with_what_is_known_of_it(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        assert await listed(house) == {
            "dead_letters": [
                {
                    "id": "settlement:evt_001",
                    "kind": "settlement",
                    "event_id": "evt_001",
                    "event_type": "payout.paid",
                    "state": "dead",
                    "blame": "target",
                    "attempts": 1,
                    "created_at": (await listed(house))["dead_letters"][0]["created_at"],
                    "dead_at": "2026-01-01T00:00:00.000Z",
                }
            ]
        }
        await house.database.fetch(
            "UPDATE settlement_outbox SET ledger_status = 409, last_error_code = 'X',"
            " last_error_message = 'no', last_attempted_at = timestamptz '2025-12-31 00:00:00Z'"
        )
        (letter,) = (await listed(house))["dead_letters"]
        assert list(letter) == [
            *("id", "kind", "event_id", "event_type", "state", "reason", "blame", "code"),
            *("ledger_status", "attempts", "created_at", "last_attempted_at", "dead_at"),
        ]
        assert (letter["reason"], letter["code"], letter["ledger_status"]) == ("no", "X", 409)
        assert letter["last_attempted_at"] == "2025-12-31T00:00:00.000Z"


@pytest.mark.parametrize("limit", ["1", "4", "200"])
async def test_pages_follow_one_another_to_the_end(database_url: str, limit: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 13)
        found: list[str] = []
        page = await listed(house, limit=limit)
        while True:
            found += event_ids(page)
            if "next_cursor" not in page:
                break
            page = await listed(house, limit=limit, cursor=page["next_cursor"])
        assert found == [f"evt_{n:03}" for n in range(13, 0, -1)]


async def test_state_and_kind_choose_and_unknown_words_are_refused(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 3)
        await act(house, "settlement:evt_002", "discard", why="not ours")
        for query, expected in (
            ({}, ["evt_003", "evt_001"]),
            ({"state": "dead"}, ["evt_003", "evt_001"]),
            ({"state": "discarded"}, ["evt_002"]),
            ({"state": "any"}, ["evt_003", "evt_002", "evt_001"]),
            ({"kind": "settlement", "state": "", "cursor": ""}, ["evt_003", "evt_001"]),
        ):
            assert event_ids(await listed(house, **query)) == expected, query
        for bad in ({"state": "failed"}, {"state": "DEAD"}, {"kind": "payout"}):
            assert refusal(await asked(house, **bad)) == (400, "INVALID_REQUEST", None), bad
        for cursor in ("x", "::", "2026-01-01::evt_1", "2026-01-01T00:00:00.0000010Z::evt_1"):
            answer = await asked(house, cursor=cursor)
            assert refusal(answer) == (400, "INVALID_CURSOR", None), cursor


async def test_limits_are_read_leniently_and_clamped(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 203)
        for limit, count in (("", 50), ("x", 50), ("0", 1), ("-5", 1), ("7x", 7), ("201", 200)):
            assert len(event_ids(await listed(house, limit=limit))) == count, limit


async def test_the_whole_of_a_letter_has_its_payload_and_its_history(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 2)
        await house.database.fetch(
            "UPDATE settlement_outbox SET payload = '{broken' WHERE event_id = 'evt_002'"
        )
        whole = (await asked(house, "/settlement:evt_001")).json()
        assert (whole["payload"], whole["actions"]) == ({"n": 1}, [])
        assert "payload_text" not in whole
        broken = (await asked(house, "/settlement:evt_002")).json()
        assert broken["payload_text"] == "{broken"
        assert "payload" not in broken
        await act(house, "settlement:evt_001", "discard", why=" not ours ")
        await act(house, "settlement:evt_001", "requeue", why="it is ours", by="Ann B.")
        whole = (await asked(house, "/settlement:evt_001")).json()
        assert (whole["state"], whole["attempts"]) == ("failed", 0)
        assert "dead_at" not in whole
        assert "blame" not in whole
        first, second = whole["actions"]
        assert first == {
            "action": "discard",
            "actor": ACTOR,
            "why": "not ours",
            "at": first["at"],
        }
        assert list(second) == ["action", "actor", "by", "why", "at"]
        assert (second["by"], second["actor"]) == ("Ann B.", ACTOR)
        assert event_ids(await listed(house, state="any")) == ["evt_002"]


async def test_what_never_was_a_dead_letter_is_not_found(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.deliver(payin("evt_1", "acc_nobody"))
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        not_found = (404, "DEAD_LETTER_NOT_FOUND", None)
        for letter_id in ("settlement:evt_1", "settlement:evt_9", "settlement:", "evt_001"):
            assert refusal(await asked(house, f"/{letter_id}")) == not_found, letter_id
        for letter_id in ("settlement:evt_9", "payout:evt_001", "evt_001", "SETTLEMENT:evt_001"):
            for action in ("requeue", "discard"):
                answer = await act(house, letter_id, action, why="x")
                assert refusal(answer) == not_found, letter_id


async def test_a_step_that_a_row_cannot_take_is_a_conflict(database_url: str) -> None:
    def conflict(from_status: str, to_status: str) -> tuple[int, str, object]:
        details = {"from_status": from_status, "to_status": to_status}
        return 409, "INVALID_STATUS_TRANSITION", details

    async with resting(database_url) as house:
        await house.deliver(payin("evt_1", "acc_nobody"))
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        requeued = await act(house, "settlement:evt_1", "requeue", why="x")
        assert refusal(requeued) == conflict("failed", "failed")
        discarded = await act(house, "settlement:evt_1", "discard", why="x")
        assert refusal(discarded) == conflict("failed", "discarded")
        answer = await act(house, "settlement:evt_001", "discard", why="x")
        assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
        assert answer.json()["dead_at"] == "2026-01-01T00:00:00.000Z"
        again = await act(house, "settlement:evt_001", "discard", why="x")
        assert refusal(again) == conflict("discarded", "discarded")
        answer = await act(house, "settlement:evt_001", "requeue", why="x")
        assert (answer.status_code, answer.json()["state"]) == (200, "failed")
        again = await act(house, "settlement:evt_001", "requeue", why="x")
        assert refusal(again) == conflict("failed", "failed")
        await house.deliver(payin("evt_2", await house.open_account()))
        forwarded = await act(house, "settlement:evt_2", "requeue", why="x")
        assert refusal(forwarded) == conflict("forwarded", "failed")


async def test_ids_of_any_form_are_found_when_they_are_encoded(database_url: str) -> None:
    async with resting(database_url) as house:
        odd = "evt/:%2F?#"
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        await house.database.fetch(
            "ALTER TABLE settlement_outbox DROP CONSTRAINT IF EXISTS settlement_outbox_event_fk"
        )
        for table in ("stripe_event", "settlement_outbox"):
            await house.database.fetch(f"UPDATE {table} SET event_id = $1", odd)  # noqa: S608 - ours
        assert event_ids(await listed(house)) == [odd]
        path = "/settlement:evt%2F:%252F%3F%23"
        assert (await asked(house, path)).json()["event_id"] == odd


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", None),
        ("{", None),
        ("[]", None),
        ('"why"', None),
        ("{}", "why"),
        ('{"why":null}', "why"),
        ('{"why":7}', "why"),
        ('{"why":"  "}', "why"),
        ('{"why":"' + "x" * 501 + '"}', "why"),
        ('{"why":"a\\u0000b"}', None),
        ('{"why":"x","by":null}', "by"),
        ('{"why":"x","by":""}', "by"),
        ('{"why":"x","by":"a\\nb"}', "by"),
        ('{"why":"x","by":"' + "x" * 101 + '"}', "by"),
        ('{"why":"x","by":7}', "by"),
    ],
)
@pytest.mark.parametrize("action", ["requeue", "discard"])
async def test_a_bad_body_is_refused_and_changes_nothing(
    database_url: str, action: str, body: str, field: str | None
) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        answer = await house.settle.post(
            f"{LIST}/settlement:evt_001/{action}", content=body, headers=ADMIN
        )
        details = field and {"field": field}
        assert refusal(answer) == (400, "INVALID_REQUEST", details)
        assert (await house.row("evt_001"))["state"] == "dead"
        assert await house.database.fetch("SELECT 1 FROM operator_action") == []


async def test_the_longest_reason_and_name_are_kept_whole(database_url: str) -> None:
    async with resting(database_url) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        why, by = "ä" * 500, "é" * 100
        answer = await act(house, "settlement:evt_001", "discard", why=f"  {why}\n", by=by)
        assert answer.status_code == 200
        (kept,) = (await asked(house, "/settlement:evt_001")).json()["actions"]
        assert (kept["why"], kept["by"]) == (why, by)


ROUTES = [
    ("GET", ""),
    ("GET", "/settlement:evt_001"),
    ("POST", "/settlement:evt_001/requeue"),
    ("POST", "/settlement:evt_001/discard"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_a_key_opens_the_routes_and_without_keys_they_are_closed(
    database_url: str, method: str, path: str
) -> None:
    async with open_house(database_url, evolve(QUIET, admin=AdminSettings(keys=()))) as house:
        for headers in ({}, ADMIN):
            answer = await house.settle.request(method, LIST + path, headers=headers, content="{")
            field = {"field": "env.SETTLE_ADMIN_KEY"}
            assert refusal(answer) == (503, "DEPENDENCY_NOT_CONFIGURED", field)
    keys = (Secret("settle_house"), Secret("settle_new"))
    async with open_house(database_url, evolve(QUIET, admin=AdminSettings(keys=keys))) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        values = ("settle_house", "Basic settle_house", "Bearer settle_hous", "Bearer a b")
        wrong = [{"authorization": value} for value in values]
        for headers in ({}, {"x-admin-key": "settle_house"}, *wrong):
            answer = await house.settle.request(
                method, f"{LIST}{path}?state=no", headers=headers, content="{"
            )
            assert refusal(answer) == (401, "UNAUTHORIZED", None), headers
        assert (await house.row("evt_001"))["state"] == "dead"
        answer = await house.settle.request(
            method,
            LIST + path,
            headers={"authorization": "Bearer settle_new"},
            content='{"why":"x"}' if method == "POST" else "",
        )
        assert answer.status_code == 200


async def test_each_key_has_its_own_fingerprint_and_none_is_told(database_url: str) -> None:
    keys = (Secret("settle_house"), Secret("settle_new"))
    async with open_house(database_url, evolve(QUIET, admin=AdminSettings(keys=keys))) as house:
        await house.database.fetch(_ADD_DEAD_ROWS, 1)
        for key, action in (("settle_house", "discard"), ("settle_new", "requeue")):
            await house.settle.post(
                f"{LIST}/settlement:evt_001/{action}",
                json={"why": "x"},
                headers={"authorization": f"Bearer {key}"},
            )
        actions = (await asked(house, "/settlement:evt_001")).json()["actions"]
        assert [one["actor"] for one in actions] == [
            f"key:{hashlib.sha256(key).hexdigest()[:8]}" for key in (b"settle_house", b"settle_new")
        ]
