"""The lists of payouts: whole, in order, by their filters, and strict about what is asked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from clawsettle.http.payout_query import read_opaque_cursor, write_opaque_cursor
from clawsettle.http.routing import Request
from tests.house import ADMIN, House, Json, open_house, settings

PAYOUTS = "/v1/payouts"
OFF = settings(payouts={"stuck_minutes": 7})
DAY = {"from": "2026-02-11", "to": "2026-02-12"}
VECTOR = (
    "MjAyNi0wMi0xMVQxMjowMDowMC4wMDBaOjpwb3V0X2U0NDFmZjBkN2NkMjc2ZWRhMjdkNzVjYTY1N2M",
    datetime(2026, 2, 11, 12, tzinfo=UTC),
    "pout_e441ff0d7cd276eda27d75ca657c",
)
_ADD_ACCOUNT = """
    INSERT INTO connect_account
        (account_id, account_did, connect_account_id, onboarding_status, onboarding_url)
    VALUES ($1, $2, 'acct_' || $1, 'active', 'https://onboard')
    ON CONFLICT DO NOTHING
"""
# Each stored status with what its constraints ask for. Three payouts share each instant.
_ADD_PAYOUTS = """
    INSERT INTO payout
        (payout_id, idempotency_key, request_hash, provider, account_id, account_did,
         connect_account_id, clearing_domain, amount_minor, currency, status, external_payout_id,
         lock_event_id, finalize_event_id, rollback_event_id, return_event_id, recalled_at,
         keyed_at, created_at, updated_at, status_at, finalized_at, failed_at, due_at)
    SELECT 'pout_' || $1 || to_char(n, 'FM00000'), $1 || n, 'hash', 'stripe', $2, $3, 'acct_' || $2,
           'clawsettle.payouts', n, 'USD', s.status, 'po_' || $1 || n, 'evt_lock',
           CASE WHEN s.paid THEN 'evt_finalize' END, CASE WHEN s.rolled THEN 'evt_rollback' END,
           CASE WHEN s.status = 'returned' THEN 'evt_return' END,
           CASE WHEN s.rolled OR s.status = 'returned' THEN at.at END,
           at.at, at.at, now(), coalesce($6::timestamptz, at.at), CASE WHEN s.paid THEN at.at END,
           CASE WHEN s.rolled OR s.status = 'returned' THEN at.at END,
           CASE WHEN NOT (s.rolled OR s.status IN ('paid', 'returned')) THEN at.at END
    FROM generate_series(1, $5::integer) AS n,
         (SELECT $4::text AS status, $4::text IN ('paid', 'returning', 'returned') AS paid,
                 $4::text IN ('failed', 'canceled') AS rolled) AS s,
         LATERAL (SELECT timestamptz '2026-02-11 00:00:00Z' + n / 3 * interval '1 millisecond')
             AS at (at)
"""
_ADD_NEWS = """
    WITH event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        SELECT 'evt_' || to_char(n, 'FM000'), 'payout.paid', false, sha256('x'), 'ignored'
        FROM generate_series(1, $1::integer) AS n
    )
    INSERT INTO payout_event
        (event_id, event_type, external_payout_id, amount_minor, currency, provider_status, state,
         payout_id, reason, received_at)
    SELECT 'evt_' || to_char(n, 'FM000'), 'payout.paid', 'po_' || n, n, 'USD', 'paid',
           CASE WHEN n % 2 = 0 THEN 'parked' ELSE 'quarantined' END,
           CASE WHEN n % 2 = 1 THEN 'pout_p00001' END, CASE WHEN n % 2 = 1 THEN 'no' END,
           timestamptz '2026-02-11 00:00:00Z' + n / 3 * interval '1 millisecond'
    FROM generate_series(1, $1::integer) AS n
"""


@asynccontextmanager
async def archive(database_url: str) -> AsyncIterator[House]:
    """A daemon without a provider, so that rows stay as the test has laid them."""
    async with open_house(database_url, OFF) as house:
        yield house


async def add(
    house: House,
    count: int,
    status: str = "submitted",
    *,
    prefix: str = "p",
    account_id: str = "acc_1",
    status_at: datetime | None = None,
) -> None:
    did = f"did:key:{account_id}"
    await house.database.fetch(_ADD_ACCOUNT, account_id, did)
    await house.database.fetch(_ADD_PAYOUTS, prefix, account_id, did, status, count, status_at)


async def asked(house: House, path: str = "", **query: str) -> httpx.Response:
    return await house.settle.get(PAYOUTS + path, params=query, headers=ADMIN)


async def whole(house: House, path: str = "", name: str = "payouts", **query: str) -> list[Json]:
    """Follow the cursors to the end."""
    found: list[Json] = []
    cursors = [""]
    while True:
        answer = await asked(house, path, **query, cursor=cursors[-1])
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["ok"] is True
        found += page[name]
        if "next_cursor" not in page:
            return found
        assert page["next_cursor"] not in cursors, "the pages go in a circle"
        cursors.append(page["next_cursor"])


def ids(payouts: Sequence[Json]) -> list[str]:
    return [payout["id"] for payout in payouts]


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


def bad(field: str) -> tuple[int, str, object]:
    return 400, "INVALID_REQUEST", {"field": field}


# Created ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["7", "200", "100"])
async def test_twelve_hundred_payouts_are_listed_to_the_last_one(
    database_url: str, limit: str
) -> None:
    async with archive(database_url) as house:
        await add(house, 1200)
        assert ids(await whole(house, **DAY, limit=limit)) == [
            f"pout_p{n:05}" for n in range(1, 1201)
        ]


async def test_a_full_last_page_has_no_cursor(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 4)
        first = (await asked(house, **DAY, limit="2")).json()
        assert list(first) == ["ok", "payouts", "next_cursor"]
        second = (await asked(house, **DAY, limit="2", cursor=first["next_cursor"])).json()
        assert list(second) == ["ok", "payouts"]
        assert ids(second["payouts"]) == ["pout_p00003", "pout_p00004"]


async def test_the_window_begins_at_its_start_and_ends_before_its_end(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 9)
        window = {"from": "2026-02-11T00:00:00.001Z", "to": "2026-02-11T00:00:00.003Z"}
        assert ids(await whole(house, **window)) == [f"pout_p{n:05}" for n in range(3, 9)]
        # A cursor from before the window leads to its start, not out of it.
        early = write_opaque_cursor(datetime(2026, 2, 10, tzinfo=UTC), "pout_x")
        page = (await asked(house, **window, cursor=early)).json()
        assert ids(page["payouts"]) == [f"pout_p{n:05}" for n in range(3, 9)]


async def test_a_status_stands_for_all_that_callers_see_as_it(database_url: str) -> None:
    async with archive(database_url) as house:
        groups = {
            "initiated": ["sending", "unknown"],
            "submitted": ["submitted"],
            "finalizing_paid": ["finalizing_paid"],
            "paid": ["paid"],
            "finalizing_failed": ["finalizing_failed", "finalizing_canceled", "returning"],
            "failed": ["failed", "canceled", "returned"],
        }
        for stored in (status for group in groups.values() for status in group):
            await add(house, 5, stored, prefix=stored)
        for status, group in groups.items():
            found = await whole(house, **DAY, status=status, limit="4")
            assert {payout["status"] for payout in found} == {status}
            assert {payout.get("state", status) for payout in found} == set(group)
            assert len(found) == len(set(ids(found))) == 5 * len(group)
            places = [(payout["created_at"], payout["id"]) for payout in found]
            assert places == sorted(places)


async def test_filters_are_applied_before_the_page_is_cut(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 1200)
        await add(house, 3, "paid", prefix="z", account_id="acc_2")
        await add(house, 2, "submitted", prefix="y", account_id="acc_2")
        paid = (await asked(house, **DAY, status="paid", limit="2")).json()
        assert ids(paid["payouts"]) == ["pout_z00001", "pout_z00002"]
        assert "next_cursor" in paid
        theirs = await whole(house, **DAY, account_did=" did:key:acc_2 ", limit="2")
        assert ids(theirs) == [
            *("pout_y00001", "pout_y00002", "pout_z00001", "pout_z00002", "pout_z00003")
        ]
        both = await whole(house, **DAY, account_did="did:key:acc_2", status="paid", limit="1")
        assert ids(both) == ["pout_z00001", "pout_z00002", "pout_z00003"]
        assert await whole(house, **DAY, account_did="did:key:acc_3") == []
        assert len(await whole(house, **DAY, account_did=" ", status="")) == 1205


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"to": "x", "limit": "x"}, bad("from")),
        ({"from": " ", "to": ""}, bad("from")),
        ({"from": "x", "limit": "x"}, bad("to")),
        ({"from": "2026-02-30", "to": "x", "limit": "0"},
         (400, "INVALID_REQUEST", {"fields": ["from", "to"]})),
        ({"from": "2026-02-11", "to": "2026-02-30"},
         (400, "INVALID_REQUEST", {"fields": ["from", "to"]})),
        ({"from": "0001-01-01T00:00:00+14:00", "to": "2026-02-11"},
         (400, "INVALID_REQUEST", {"fields": ["from", "to"]})),
        ({"from": "2026-02-11", "to": "10000-01-01"},
         (400, "INVALID_REQUEST", {"fields": ["from", "to"]})),
        ({"from": "2026-02-11", "to": "2026-02-11T01:00:00+01:00", "limit": "x"},
         (400, "INVALID_REQUEST",
          {"from": "2026-02-11T00:00:00.000Z", "to": "2026-02-11T00:00:00.000Z"})),
        ({**DAY, "limit": "5x", "cursor": "x"}, bad("limit")),
        ({**DAY, "limit": "0"}, bad("limit")),
        ({**DAY, "limit": "-1"}, bad("limit")),
        ({**DAY, "limit": "1.9"}, bad("limit")),
        ({**DAY, "limit": "+5"}, bad("limit")),
        ({**DAY, "limit": "\N{ARABIC-INDIC DIGIT ONE}"}, bad("limit")),
        ({**DAY, "limit": "9" * 5000}, bad("limit")),
        ({**DAY, "cursor": "?", "status": "x"}, (400, "INVALID_CURSOR", {"field": "cursor"})),
        ({**DAY, "status": "canceled"}, bad("status")),
        ({**DAY, "status": "PAID"}, bad("status")),
    ],
)  # fmt: skip
async def test_the_first_wrong_parameter_in_the_contracts_order_is_named(
    database_url: str, query: dict[str, str], expected: tuple[int, str, object]
) -> None:
    async with archive(database_url) as house:
        assert refusal(await asked(house, **query)) == expected


@pytest.mark.parametrize(
    ("limit", "count"), [("", 100), (" 3 ", 3), ("003", 3), ("200", 200), ("201", 200)]
)
async def test_a_limit_has_a_default_and_a_most(database_url: str, limit: str, count: int) -> None:
    async with archive(database_url) as house:
        await add(house, 300)
        assert len((await asked(house, **DAY, limit=limit)).json()["payouts"]) == count


@pytest.mark.parametrize(
    ("start", "count"),
    [
        ("2026-02-11", 6),
        (" 2026-02-11T00:00 ", 6),
        ("2026-02-11T00:00:00.001", 4),
        ("2026-02-11T01:00:00.001+01:00", 4),
        ("2026-02-11T00:00:00.001999Z", 4),
        ("2026-02-11 00:00:00.002Z", 1),
    ],
)
async def test_instants_are_read_as_utc_and_cut_to_the_millisecond(
    database_url: str, start: str, count: int
) -> None:
    async with archive(database_url) as house:
        await add(house, 6)
        found = await whole(house, **{"from": start, "to": "2026-02-12"})
        assert len(found) == count


# Cursors ----------------------------------------------------------------------------------------


def with_cursor(cursor: str) -> Request:
    return Request("GET", PAYOUTS, {}, {"cursor": cursor}, {}, b"", "id")


def test_a_cursor_is_the_contracts() -> None:
    cursor, at, payout_id = VECTOR
    assert write_opaque_cursor(at, payout_id) == cursor
    assert read_opaque_cursor(with_cursor(cursor)) == (at, payout_id)
    assert read_opaque_cursor(with_cursor(cursor + "=")) == (at, payout_id)
    assert read_opaque_cursor(with_cursor("")) is None


def test_both_alphabets_are_read() -> None:
    at, row_id = datetime(2026, 2, 11, tzinfo=UTC), "pout_\N{LATIN SMALL LETTER Y WITH DIAERESIS}>?"
    cursor = write_opaque_cursor(at, row_id)
    assert {"-", "_"} & set(cursor)
    assert read_opaque_cursor(with_cursor(cursor)) == (at, row_id)
    standard = cursor.replace("-", "+").replace("_", "/")
    assert read_opaque_cursor(with_cursor(standard)) == (at, row_id)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "MjAyNi0wMi0xMQ",  # an instant alone
        "OjpwMQ",  # no instant
        "MjAyNi0wMi0zMDo6cDE",  # 30 February
        "MjAyNi0wMi0xMTo6",  # no id
        "MjAyNi0wMi0xMTo6cAA",  # U+0000 in the id
        "MjAyNi0wMi0xMTo6_w",  # no UTF-8
        "MjAyNi0wMi0xMTo6cDE!",
        "MjAyNi0wMi0xMTo6cDE===x",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
)
async def test_a_cursor_that_no_list_gave_out_is_refused(database_url: str, cursor: str) -> None:
    async with archive(database_url) as house:
        for path, query in (
            ("", DAY),
            ("/ops/stuck", {}),
            ("/ops/failed", {}),
            ("/ops/events", {}),
        ):
            answer = await asked(house, path, **query, cursor=cursor)
            assert refusal(answer) == (400, "INVALID_CURSOR", {"field": "cursor"}), path


# Operators' lists -------------------------------------------------------------------------------


async def test_stuck_is_what_entered_its_status_long_ago_the_longest_first(
    database_url: str,
) -> None:
    async with archive(database_url) as house:
        entered = {
            "sending": 9,
            "submitted": 8,
            "unknown": 30,
            "returning": 6,
            "finalizing_paid": 0,
        }
        (row,) = await house.database.fetch("SELECT date_trunc('milliseconds', now()) AS now")
        for status, minutes in entered.items():
            at = row["now"] - timedelta(minutes=minutes)
            await add(house, 1, status, prefix=status, status_at=at)
        for status in ("paid", "failed", "canceled", "returned"):
            await add(house, 1, status, prefix=status, status_at=datetime(2026, 1, 1, tzinfo=UTC))
        answer = (await asked(house, "/ops/stuck")).json()
        assert list(answer) == ["ok", "older_than_minutes", "payouts"]
        assert answer["older_than_minutes"] == 7
        assert [one.get("state", one["status"]) for one in answer["payouts"]] == [
            *("unknown", "sending", "submitted"),
        ]
        everything = await whole(house, "/ops/stuck", older_than_minutes="0", limit="1")
        assert [one.get("state", one["status"]) for one in everything] == [
            *("unknown", "sending", "submitted", "returning", "finalizing_paid"),
        ]


async def test_a_payout_of_a_clock_that_is_ahead_is_shown_with_no_minutes(
    database_url: str,
) -> None:
    async with archive(database_url) as house:
        await add(house, 1, status_at=datetime(2100, 1, 1, tzinfo=UTC))
        assert len(await whole(house, "/ops/stuck", older_than_minutes="0")) == 1
        assert await whole(house, "/ops/stuck", older_than_minutes="1") == []


async def test_trying_again_does_not_hide_what_is_stuck(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 1, "finalizing_failed", status_at=datetime(2026, 1, 1, tzinfo=UTC))
        await house.database.fetch("UPDATE payout SET updated_at = now(), attempts = 900")
        assert len(await whole(house, "/ops/stuck")) == 1


async def test_stuck_payouts_of_one_instant_are_paged_by_their_ids(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 25)
        assert ids(await whole(house, "/ops/stuck", limit="4")) == [
            f"pout_p{n:05}" for n in range(1, 26)
        ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"older_than_minutes": "-1", "limit": "x"}, bad("older_than_minutes")),
        ({"older_than_minutes": "5x"}, bad("older_than_minutes")),
        ({"older_than_minutes": "1.5"}, bad("older_than_minutes")),
        ({"older_than_minutes": "5", "limit": "0", "cursor": "x"}, bad("limit")),
    ],
)
async def test_a_stuck_list_is_strict_about_its_numbers(
    database_url: str, query: dict[str, str], expected: tuple[int, str, object]
) -> None:
    async with archive(database_url) as house:
        assert refusal(await asked(house, "/ops/stuck", **query)) == expected


async def test_the_minutes_and_the_limit_are_clamped(database_url: str) -> None:
    async with archive(database_url) as house:
        answer = (await asked(house, "/ops/stuck", older_than_minutes="99999")).json()
        assert answer["older_than_minutes"] == 43_200
        await add(house, 600, "failed")
        page = (await asked(house, "/ops/failed", limit="501")).json()
        assert len(page["payouts"]) == 500


async def test_failed_is_the_latest_first_and_nothing_is_cut(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 1200, "failed")
        await add(house, 2, "paid", prefix="paid")
        await add(house, 2, "returning", prefix="returning")
        found = await whole(house, "/ops/failed", limit="99")
        assert ids(found) == [f"pout_p{n:05}" for n in range(1200, 0, -1)]
        assert refusal(await asked(house, "/ops/failed", limit="x")) == bad("limit")


async def test_what_could_not_be_applied_is_listed_the_newest_first(database_url: str) -> None:
    async with archive(database_url) as house:
        await add(house, 1)
        await house.database.fetch(_ADD_NEWS, 30)
        for query, expected in (
            ({}, range(30, 0, -1)),
            ({"state": "parked"}, range(30, 0, -2)),
            ({"state": "quarantined"}, range(29, 0, -2)),
        ):
            found = await whole(house, "/ops/events", "events", limit="4", **query)
            assert [one["event_id"] for one in found] == [f"evt_{n:03}" for n in expected]
        (quarantined,) = (await asked(house, "/ops/events", state="quarantined", limit="1")).json()[
            "events"
        ]
        assert quarantined == {
            "event_id": "evt_029",
            "event_type": "payout.paid",
            "external_payout_id": "po_29",
            "payout_id": "pout_p00001",
            "amount_minor": "29",
            "currency": "USD",
            "provider_status": "paid",
            "state": "quarantined",
            "reason": "no",
            "received_at": "2026-02-11T00:00:00.009Z",
        }
        assert refusal(await asked(house, "/ops/events", state="applied")) == bad("state")
