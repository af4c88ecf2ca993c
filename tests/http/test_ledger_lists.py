"""The embedded ledger's settlements looked up, listed page by page, and ingested side by side."""

from typing import cast
from urllib.parse import quote, urlsplit

import trio

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.settlements import parse_ingest
from tests.clients.ledgers import ledger_port
from tests.house import House, Json, open_house
from tests.http.test_ledger_routes import ALICE, BOB, LIST, PAYIN, QUIET, ingest, recorded, refusal
from tests.http.wire import Client

ROWS = 205


async def listed(house: House, **query: str) -> Json:
    answer = await house.ledger.get(LIST, params=query)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def ids(body: Json) -> list[str]:
    return [settlement["external_payment_id"] for settlement in body["settlements"]]


async def filled(house: House) -> None:
    """Record more settlements than a page holds in one commit, so that all have one instant."""
    await house.open_account()
    (keeper,) = [s.actor for s in house.parts.actors if s.actor.name == "ledger_keeper"]
    await cast("LedgerKeeper", keeper).ask_all(
        [
            parse_ingest(f"key_{number}", {**PAYIN, "external_payment_id": f"pi_{number}"})
            for number in range(ROWS)
        ]
    )


async def test_a_payment_is_found_by_its_encoded_id(database_url: str) -> None:
    names = ["a/b:c d", "pi_1/../x", "100%", "größe", "a+b?c#d&e=f", "did:key:alice/1"]
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for number, name in enumerate(names):
            body = await recorded(house, f"k{number}", provider="a/b", external_payment_id=name)
            path = f"{LIST}/{quote('a/b', safe='')}/{quote(name, safe='')}"
            answer = await house.ledger.get(path)
            assert answer.status_code == 200, name
            assert answer.json() == {"settlements": [body["settlement"]]}


async def test_escapes_are_decoded_once_and_broken_ones_refused(database_url: str) -> None:
    key = "Authorization: Bearer ledger_house"
    async with open_house(database_url, QUIET) as house, ledger_port(house) as base_url:
        await house.open_account()
        await recorded(house, "k1", external_payment_id="pi%2F1")
        port = urlsplit(base_url).port
        assert port is not None
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = Client(stream)
            for target, status, code in (
                ("stripe/pi%252F1", 200, None),
                ("stripe/pi%2F1", 404, "NOT_FOUND"),
                ("stripe/%zz", 400, "INVALID_REQUEST"),
                ("stripe/pi%", 400, "INVALID_REQUEST"),
                ("%4/pi_1", 400, "INVALID_REQUEST"),
                ("stripe/%FF", 400, "INVALID_REQUEST"),
                ("stripe/%00", 400, "INVALID_REQUEST"),
                ("stripe/", 404, "NOT_FOUND"),
                ("stripe", 404, "NOT_FOUND"),
            ):
                answer = await client.request("GET", f"{LIST}/{target}", key)
                assert (answer.status, answer.json.get("code")) == (status, code), target
                assert answer.headers["x-ledger-version"] == "1.0.0"


async def test_a_payment_has_up_to_three_settlements_newest_first(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for direction in ("payin", "refund", "payout"):
            await recorded(house, direction, direction=direction, external_payment_id="x")
        await recorded(house, "other", external_payment_id="y")
        answer = await house.ledger.get(f"{LIST}/stripe/x")
        found = answer.json()["settlements"]
        assert {settlement["direction"] for settlement in found} == {"payin", "refund", "payout"}
        order = [(settlement["created_at"], settlement["id"]) for settlement in found]
        assert order == sorted(order, reverse=True)
        for direction in ("payin", "refund", "payout"):
            answer = await house.ledger.get(f"{LIST}/stripe/x?direction={direction}")
            assert [one["direction"] for one in answer.json()["settlements"]] == [direction]
        everything = await house.ledger.get(f"{LIST}/stripe/x?direction=")
        assert everything.json()["settlements"] == found
        for direction in ("sideways", "PAYIN", "%00"):
            answer = await house.ledger.get(f"{LIST}/stripe/x?direction={direction}")
            assert refusal(answer) == (400, "INVALID_REQUEST", None)
        answer = await house.ledger.get(f"{LIST}/stripe/y?direction=payout")
        assert refusal(answer) == (404, "NOT_FOUND", None)


async def test_filters_are_exact_and_empty_ones_are_none(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        await house.open_account("did:key:bob")
        await recorded(house, "k1", external_payment_id="a")
        await recorded(house, "k2", external_payment_id="b", account_id=BOB)
        await recorded(house, "k3", external_payment_id="c", provider="other", status="pending")
        await recorded(house, "k4", external_payment_id="d", direction="payout", status="failed")
        everything = {"a", "b", "c", "d"}
        for query, expected in (
            ({}, everything),
            ({"account_id": BOB}, {"b"}),
            ({"account_id": ALICE, "status": "confirmed"}, {"a"}),
            ({"status": "pending"}, {"c"}),
            ({"provider": "other"}, {"c"}),
            ({"direction": "payout"}, {"d"}),
            ({"direction": "payin", "status": "failed"}, set()),
            ({"provider": "OTHER"}, set()),
            ({"account_id": "", "status": "", "provider": "", "direction": ""}, everything),
            ({"limit": "", "cursor": "", "unknown": "x"}, everything),
        ):
            body = await listed(house, **query)
            assert set(ids(body)) == expected, query
            assert "next_cursor" not in body
        for bad in ({"status": "done"}, {"direction": "in"}, {"status": "Pending"}):
            answer = await house.ledger.get(LIST, params=bad)
            assert refusal(answer) == (400, "INVALID_REQUEST", None), bad


async def test_limits_are_read_leniently_and_clamped(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await filled(house)
        for limit, count in (
            *(("", 50), ("abc", 50), ("-", 50), ("٣", 50), (".5", 50)),
            *(("7", 7), ("7abc", 7), ("7.9", 7), (" 7", 7), ("+7", 7), ("1e3", 1), ("007", 7)),
            *(("0", 1), ("-5", 1), ("200", 200), ("201", 200), ("9" * 40, 200)),
        ):
            body = await listed(house, limit=limit)
            assert len(body["settlements"]) == count, limit
            assert "next_cursor" in body


async def test_pages_follow_each_other_without_gap_or_repetition(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await filled(house)
        pages = [await listed(house, limit="60", account_id=ALICE)]
        while "next_cursor" in pages[-1]:
            last = pages[-1]["settlements"][-1]
            assert pages[-1]["next_cursor"] == f"{last['created_at']}::{last['id']}"
            # What comes later is newer, so it is on no page after the first.
            await recorded(house, f"late_{len(pages)}", external_payment_id=f"late_{len(pages)}")
            cursor = pages[-1]["next_cursor"]
            pages.append(await listed(house, limit="60", account_id=ALICE, cursor=cursor))
        assert [len(page["settlements"]) for page in pages] == [60, 60, 60, 25]
        found = [(s["created_at"], s["id"]) for page in pages for s in page["settlements"]]
        assert found == sorted(set(found), reverse=True)
        assert len(found) == ROWS


async def test_a_page_that_ends_with_the_list_names_no_next(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for number in range(3):
            await recorded(house, f"k{number}", external_payment_id=f"pi_{number}")
        assert "next_cursor" in await listed(house, limit="2")
        assert "next_cursor" not in await listed(house, limit="3")
        cursor = (await listed(house, limit="2"))["next_cursor"]
        assert ids(await listed(house, limit="2", cursor=cursor)) == ["pi_0"]
        assert await listed(house, cursor="2000-01-01T00:00:00.000Z::x") == {"settlements": []}


async def test_a_cursor_that_was_not_given_out_is_refused(database_url: str) -> None:
    at = "2026-01-01T00:00:00.000"
    cursors = ["x", "::", "::set_1", f"{at}Z", f"{at}Z::", f"{at}::set_1", f"{at}Z:set_1"]
    cursors += [f"{at}+01:00::set_1", "2026-01-01::set_1", "2026-13-01T00:00:00.000Z::set_1"]
    cursors += ["0001-01-01T00:00:00.000+14:00::set_1", "9999-12-31T23:59:59.999-14:00::set_1"]
    async with open_house(database_url, QUIET) as house:
        for cursor in cursors:
            answer = await house.ledger.get(LIST, params={"cursor": cursor})
            assert refusal(answer) == (400, "INVALID_CURSOR", None), cursor
        last = "9999-12-31T23:59:59.999Z::set_1"
        assert await listed(house, cursor=last) == {"settlements": []}


async def test_bursts_of_one_payment_move_its_money_once_each_way(database_url: str) -> None:
    """Source: ledger-api contract sections 4 (concurrency) and 12."""
    sent = {**PAYIN, "amount_minor": "777"}
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for status, available in (("confirmed", 777), ("reversed", 0)):
            answers: list[Json] = []
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(_send, house, {**sent, "status": status}, number, answers)
            (winner,) = [a for a in answers if not a["idempotency"]["deduped"]]
            assert (winner["status"], "event" in winner) == (201, True)
            assert sum("event" in answer for answer in answers) == 1
            assert {answer["settlement"]["id"] for answer in answers} == {
                winner["settlement"]["id"]
            }
            assert {answer["settlement"]["status"] for answer in answers} == {status}
            assert await house.available(ALICE) == available
            found = await house.ledger.get(f"{LIST}/stripe/pi_1?direction=payin")
            assert [one["status"] for one in found.json()["settlements"]] == [status]
        events = await house.database.fetch("SELECT event_type FROM ledger_event ORDER BY seq")
        assert [row["event_type"] for row in events] == ["payin_settle", "payin_reverse"]


async def _send(house: House, body: Json, number: int, answers: list[Json]) -> None:
    answer = await ingest(house, body, f"{body['status']}_{number}")
    assert answer.status_code in (200, 201)
    answers.append({**answer.json(), "status": answer.status_code})


async def test_a_burst_under_one_key_is_one_answer(database_url: str) -> None:
    answers: list[Json] = []
    async with open_house(database_url, QUIET) as house:
        await house.open_account()

        async def send() -> None:
            answer = await ingest(house, PAYIN, "k1")
            answers.append({**answer.json(), "status": answer.status_code})

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(send)
        assert sorted(answer["status"] for answer in answers) == [200] * 11 + [201]
        for answer in answers:
            assert answer["idempotency"]["replayed"] is (answer["status"] == 200)
            assert answer["idempotency"]["deduped"] is False
            assert "event" in answer
        assert await house.available(ALICE) == 1000
