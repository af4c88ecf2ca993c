"""Netting over HTTP: making a run, what becomes of it, and every way to be refused."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import trio
from attrs import evolve

from clawsettle.config import AdminSettings
from clawsettle.storage.bridge import Transaction
from tests.house import ADMIN, House, Json, open_house, settings
from tests.http.netting_site import (
    ALONE,
    HASTY,
    RUNS,
    UNKNOWN_ID,
    act,
    ask,
    bad,
    ended,
    gated,
    get,
    made,
    refusal,
)
from tests.netting import SOURCE, TARGET, cleared, fail_late, links, paid, transfer

NO_DETAILS = (400, "INVALID_REQUEST", None)
_COUNTS = """
    SELECT (SELECT count(*) FROM netting_run) AS runs,
           (SELECT count(*) FROM netting_entry) AS entries,
           (SELECT count(*) FROM netting_audit) AS audits,
           (SELECT count(*) FROM netting_item WHERE entry_id IS NOT NULL) AS taken,
           (SELECT count(*) FROM ledger_event) AS events
"""


async def counts(house: House) -> Mapping[str, Any]:
    return dict((await house.database.fetch(_COUNTS))[0])


# What comes of a run ----------------------------------------------------------------------------


async def test_a_run_moves_what_waits_and_is_answered_as_the_contract_has_it(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        one, two, three = await paid(
            house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700)
        )
        assert await cleared(house) == (1200, 0)
        answer = await ask(house, {"limit": 10}, "idem_netting_deterministic")
        assert answer.status_code == 201
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert int(answer.headers["content-length"]) == len(answer.content)
        told = answer.json()
        assert list(told) == ["ok", "deduped", "complete", "run", "entries"]
        assert (told["ok"], told["deduped"], told["complete"]) == (True, False, True)
        run = told["run"]
        assert list(run) == [
            *("id", "idempotency_key", "request_hash", "currency", "selection_before"),
            *("source_clearing_domain", "target_clearing_domain", "status", "candidate_count"),
            *("applied_count", "failed_count", "total_amount_minor", "report_hash"),
            *("created_at", "updated_at", "completed_at"),
        ]
        assert run["id"] == "nrun_7f62d5fe77e066cd99eecc2bc7e4"
        assert run["request_hash"] == (
            "34001455ece9c90480f5ac76847ce21b185c389ff6ff6b539c3abda07d683581"
        )
        assert (run["status"], run["candidate_count"], run["total_amount_minor"]) == (
            *("applied", 3, "1200"),
        )
        assert (run["applied_count"], run["failed_count"]) == (2, 0)
        assert (run["source_clearing_domain"], run["target_clearing_domain"]) == (SOURCE, TARGET)
        assert run["selection_before"] == run["created_at"]
        entries = {entry["connect_account_id"]: entry for entry in told["entries"]}
        assert [entry["id"] for entry in told["entries"]] == sorted(
            entry["id"] for entry in entries.values()
        )
        first, second = entries["acct_A"], entries["acct_B"]
        assert list(first) == [
            *("id", "run_id", "entry_key", "connect_account_id", "currency", "amount_minor"),
            *("payout_count", "payout_ids", "idempotency_key", "status", "ledger_event_id"),
            *("created_at", "updated_at", "applied_at"),
        ]
        assert first["payout_ids"] == [one.payout_id, two.payout_id]
        assert (first["amount_minor"], first["payout_count"]) == ("500", 2)
        assert first["idempotency_key"] == f"netting:entry:{first['id']}"
        assert first["entry_key"] == (
            '{"connect_account_id":"acct_A","currency":"USD","payout_ids":'
            f'["{one.payout_id}","{two.payout_id}"],"run_id":"{run["id"]}"}}'
        )
        assert (second["payout_ids"], second["amount_minor"]) == ([three.payout_id], "700")
        assert {entry["status"] for entry in entries.values()} == {"applied"}
        assert {entry["created_at"] for entry in entries.values()} == {run["created_at"]}
        assert await cleared(house) == (0, 1200)

        again = await ask(house, {"limit": 10}, " idem_netting_deterministic ")
        assert (again.status_code, again.json()) == (200, {**told, "deduped": True})
        shown = await get(house, f"/{run['id']}")
        assert (shown.status_code, list(shown.json())) == (200, ["ok", "run", "entries"])
        assert shown.json() == {"ok": True, "run": run, "entries": told["entries"]}
        later = await made(house, "another")
        assert (later["run"]["candidate_count"], later["entries"]) == (0, [])
        assert await cleared(house) == (0, 1200)


async def test_a_run_with_nothing_to_do_is_applied(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        told = await made(house)
        run = told["run"]
        assert (told["complete"], told["entries"]) == (True, [])
        assert (run["status"], run["candidate_count"], run["total_amount_minor"]) == (
            *("applied", 0, "0"),
        )
        assert {"report_hash", "completed_at"} <= set(run)
        again = await ask(house)
        assert (again.status_code, again.json()["deduped"]) == (200, True)


async def test_a_run_that_fails_is_201_and_its_key_tries_again_what_has_not_moved(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 500)
        failed = await made(house)
        assert (failed["ok"], failed["deduped"], failed["complete"]) == (True, False, False)
        assert (failed["run"]["status"], failed["run"]["failed_count"]) == ("failed", 2)
        assert {entry["status"] for entry in failed["entries"]} == {"failed"}
        for one in (failed["run"], *failed["entries"]):
            assert one["last_error_code"] == "INSUFFICIENT_FUNDS"
            assert "(status=" not in one["last_error_message"]
        assert await cleared(house) == (0, 0)
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 500)
        done = await made(house)
        assert (done["deduped"], done["complete"]) == (False, True)
        assert (done["run"]["applied_count"], done["run"]["failed_count"]) == (2, 0)
        assert not any("last_error_code" in one for one in (done["run"], *done["entries"]))
        third = await ask(house)
        assert (third.status_code, third.json()["deduped"]) == (200, True)
        assert await cleared(house) == (0, 500)


async def test_what_may_have_moved_is_failed_to_callers_and_unknown_to_operators(
    database_url: str,
) -> None:
    async with gated(database_url, ALONE, deaf=True) as (house, gate):
        await paid(house, ("a", "acct_A", 200))
        told = await made(house)
        (entry,) = told["entries"]
        assert (told["complete"], told["run"]["status"]) == (False, "failed")
        assert (entry["status"], entry["state"]) == ("failed", "unknown")
        assert entry["last_error_code"] == "LEDGER_INGEST_FAILED"
        gate.deaf = False
        gate.opened.set()
        assert (await made(house))["complete"] is True


async def test_a_late_failure_comes_back_and_is_named(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        one, _ = await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await made(house)
        await fail_late(house.database, one)
        (three,) = await paid(house, ("c", "acct_A", 50))
        told = await made(house, "second")
        (entry,) = told["entries"]
        assert told["run"]["total_amount_minor"] == entry["amount_minor"] == "-150"
        assert (entry["payout_ids"], entry["compensated_payout_ids"]) == (
            *([three.payout_id], [one.payout_id]),
        )
        assert await cleared(house) == (200, 350)


async def test_a_limit_counts_payouts_and_the_next_run_takes_the_rest(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, *((f"k{place}", "acct_A", 10) for place in range(5)))
        first = await made(house, "first", limit=3)
        second = await made(house, "second", limit=3)
        assert [told["run"]["candidate_count"] for told in (first, second)] == [3, 2]


async def test_thousands_of_entries_are_answered_whole(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, *((f"k{place}", f"acct_{place}", 1) for place in range(3000)))
        told = await made(house, limit=3000)
        assert told["complete"] is True
        names = [entry["id"] for entry in told["entries"]]
        assert names == sorted(set(names))
        assert len(names) == told["run"]["applied_count"] == 3000
        shown = await get(house, f"/{told['run']['id']}")
        assert len(shown.content) > 2**20
        assert int(shown.headers["content-length"]) == len(shown.content)
        assert shown.json()["entries"] == told["entries"]


async def test_fifty_requests_at_once_are_one_run_and_one_201(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, *((f"k{place}", f"acct_{place % 7}", 10) for place in range(60)))
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await ask(house))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        by_status: dict[int, list[Json]] = {}
        for answer in answers:
            by_status.setdefault(answer.status_code, []).append(answer.json())
        assert set(by_status) <= {200, 201, 409}
        (new,) = by_status[201]
        assert (new["deduped"], new["complete"]) == (False, True)
        assert all(told == {**new, "deduped": True} for told in by_status.get(200, ()))
        assert all(
            (told["code"], told["details"]) == ("DUPLICATE_CONFLICT", {"run_id": new["run"]["id"]})
            for told in by_status.get(409, ())
        )
        assert (await counts(house))["runs"] == 1
        assert await cleared(house) == (0, 600)


async def test_what_takes_longer_than_the_deadline_is_answered_as_it_stands_and_goes_on(
    database_url: str,
) -> None:
    async with gated(database_url) as (house, gate):
        await paid(house, ("a", "acct_A", 200))
        told = await made(house)
        run_id = told["run"]["id"]
        assert (told["deduped"], told["complete"]) == (False, False)
        assert (told["run"]["status"], told["entries"][0]["status"]) == ("running", "applying")
        assert "report_hash" not in told["run"]
        under_way = (409, "DUPLICATE_CONFLICT", {"run_id": run_id})
        assert refusal(await ask(house)) == under_way
        for action in ("resume", "release"):
            assert refusal(await act(house, run_id, action)) == under_way
        gate.opened.set()
        assert (await ended(house, run_id))["run"]["status"] == "applied"
        again = await ask(house)
        assert (again.status_code, again.json()["complete"]) == (200, True)
        assert await cleared(house) == (0, 200)


async def test_a_run_goes_on_when_nobody_waits_for_it_any_more(database_url: str) -> None:
    async with gated(database_url, ALONE) as (house, gate):
        await paid(house, ("a", "acct_A", 200))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, house)
            with trio.fail_after(5):
                await gate.reached.wait()
            nursery.cancel_scope.cancel()
        ((row),) = await house.database.fetch("SELECT run_id FROM netting_run")
        gate.opened.set()
        assert (await ended(house, row["run_id"]))["run"]["status"] == "applied"
        assert await cleared(house) == (0, 200)


async def test_a_run_that_is_not_stored_in_time_is_503_and_safe_to_ask_for_again(
    database_url: str,
) -> None:
    async with open_house(database_url, HASTY) as house:

        async def block(transaction: Transaction) -> None:
            await transaction.fetch("LOCK TABLE netting_run IN SHARE MODE")
            await transaction.fetch("SELECT pg_sleep(60)")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.database.transaction, block)
            with trio.fail_after(5):
                while not await house.database.fetch(  # noqa: ASYNC110 - nobody tells
                    "SELECT 1 FROM pg_locks WHERE mode = 'ShareLock' AND granted"
                    " AND relation = 'netting_run'::regclass"
                ):
                    await trio.sleep(0.01)
            slow = await ask(house)
            assert refusal(slow) == (503, "OVERLOADED", None)
            assert slow.headers["retry-after"] == "1"
            nursery.cancel_scope.cancel()
        assert (await ask(house)).status_code in {200, 201}


# Dry runs ---------------------------------------------------------------------------------------


async def test_a_dry_run_tells_the_plan_and_does_nothing(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        one, two, three = await paid(
            house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700)
        )
        before = await counts(house)
        answer = await ask(house, {"dry_run": True, "limit": 10})
        assert answer.status_code == 200
        told = answer.json()
        assert list(told) == [
            *("ok", "dry_run", "run_id", "currency", "limit", "source_clearing_domain"),
            *("target_clearing_domain", "candidate_count", "total_amount_minor", "entries"),
        ]
        assert (told["ok"], told["dry_run"], told["currency"], told["limit"]) == (
            *(True, True, "USD", 10),
        )
        assert (told["source_clearing_domain"], told["target_clearing_domain"]) == (SOURCE, TARGET)
        assert (told["candidate_count"], told["total_amount_minor"]) == (3, "1200")
        assert {tuple(entry["payout_ids"]) for entry in told["entries"]} == {
            (one.payout_id, two.payout_id),
            (three.payout_id,),
        }
        assert await counts(house) == before
        assert set((await links(house.database)).values()) == {None}
        assert (await ask(house, {"dry_run": True, "limit": 10})).content == answer.content
        assert refusal(await get(house, f"/{told['run_id']}"))[0] == 404

        done = await made(house, limit=10)
        assert done["run"]["id"] == told["run_id"]
        assert [
            {name: entry[name] for name in planned}
            for planned, entry in zip(told["entries"], done["entries"], strict=True)
        ] == told["entries"]


async def test_a_dry_run_names_what_comes_back_and_one_of_nothing_is_empty(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        (one,) = await paid(house, ("a", "acct_A", 200))
        await made(house)
        empty = (await ask(house, {"dry_run": True}, "second")).json()
        assert (empty["candidate_count"], empty["total_amount_minor"], empty["entries"]) == (
            *(0, "0", []),
        )
        await fail_late(house.database, one)
        told = (await ask(house, {"dry_run": True}, "second")).json()
        assert told["total_amount_minor"] == "-200"
        assert told["entries"][0]["payout_ids"] == []
        assert told["entries"][0]["compensated_payout_ids"] == [one.payout_id]


async def test_a_dry_run_is_refused_as_the_run_would_be(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        before = await counts(house)
        for body, expected in (
            ({"dry_run": True, "currency": "eur"},
             (400, "UNSUPPORTED_CURRENCY", {"currency": "EUR"})),
            ({"dry_run": True, "target_clearing_domain": "typo"}, bad("target_clearing_domain")),
        ):  # fmt: skip
            assert refusal(await ask(house, body)) == expected
        assert refusal(await ask(house, {"dry_run": True}, None)) == bad("idempotency_key")
        assert await counts(house) == before


# What is asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", " \n\t", "null", " null ", "{}", '{"unknown":[1]}'])
async def test_a_body_that_says_nothing_is_an_order_with_the_defaults(
    database_url: str, content: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        headers = {**ADMIN, "idempotency-key": "key_1"}
        answer = await house.settle.post(RUNS, content=content, headers=headers)
        assert answer.status_code == 201
        assert answer.json()["run"]["request_hash"] == (
            "e825f0f3b87c30ff27be5d543d8de4370b8ec07eee7ad8769ef4e56ba5c843e8"
        )


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "7", "true", "{} {}", '{"limit":NaN}'])
async def test_a_body_that_is_no_json_object_is_refused_without_details(
    database_url: str, content: str
) -> None:
    async with open_house(database_url, ALONE) as house:
        headers = {**ADMIN, "idempotency-key": "key_1"}
        answer = await house.settle.post(RUNS, content=content, headers=headers)
        assert refusal(answer) == NO_DETAILS
        assert (await counts(house))["runs"] == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"currency": None, "limit": 0}, bad("currency")),
        ({"currency": " ", "limit": 0}, bad("currency")),
        ({"currency": 7}, bad("currency")),
        ({"currency": " eur ", "limit": 0}, (400, "UNSUPPORTED_CURRENCY", {"currency": "EUR"})),
        ({"limit": None, "source_clearing_domain": ""}, bad("limit")),
        ({"limit": "10"}, bad("limit")),
        ({"limit": True}, bad("limit")),
        ({"limit": 1.5}, bad("limit")),
        ({"limit": 0.9}, bad("limit")),
        ({"limit": 0}, bad("limit")),
        ({"limit": -1}, bad("limit")),
        ({"limit": 100_001}, bad("limit")),
        ({"limit": 2**70}, bad("limit")),
        ({"source_clearing_domain": None, "target_clearing_domain": ""},
         bad("source_clearing_domain")),
        ({"source_clearing_domain": " "}, bad("source_clearing_domain")),
        ({"source_clearing_domain": 7}, bad("source_clearing_domain")),
        ({"source_clearing_domain": "a\nb"}, bad("source_clearing_domain")),
        ({"source_clearing_domain": "x" * 300}, bad("source_clearing_domain")),
        ({"target_clearing_domain": None}, bad("target_clearing_domain")),
        ({"target_clearing_domain": "\t"}, bad("target_clearing_domain")),
        ({"target_clearing_domain": f" {SOURCE} ", "dry_run": 1},
         (400, "INVALID_REQUEST",
          {"source_clearing_domain": SOURCE, "target_clearing_domain": SOURCE})),
        ({"source_clearing_domain": TARGET},
         (400, "INVALID_REQUEST",
          {"source_clearing_domain": TARGET, "target_clearing_domain": TARGET})),
        ({"dry_run": 1, "target_clearing_domain": "typo"}, bad("dry_run")),
        ({"dry_run": None}, bad("dry_run")),
        ({"target_clearing_domain": "typo"}, bad("target_clearing_domain")),
        ({"target_clearing_domain": SOURCE.upper()}, bad("target_clearing_domain")),
    ],
)  # fmt: skip
async def test_the_first_wrong_field_in_the_contracts_order_is_named(
    database_url: str, body: dict[str, object], expected: tuple[int, str, object]
) -> None:
    async with open_house(database_url, ALONE) as house:
        assert refusal(await ask(house, body)) == expected
        assert (await counts(house))["runs"] == 0


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"idempotency-key": "k"}, True),
        ({"x-idempotency-key": "k"}, True),
        ({"idempotency-key": "k", "x-idempotency-key": ""}, True),
        ({"idempotency-key": "x" * 255}, True),
        ({}, False),
        ({"idempotency-key": "  "}, False),
        ({"idempotency-key": "", "x-idempotency-key": "k"}, False),
        ({"idempotency-key": "x" * 256}, False),
    ],
)
async def test_a_key_is_required_and_bounded_and_looked_at_before_the_body(
    database_url: str, headers: dict[str, str], is_taken: bool
) -> None:
    async with open_house(database_url, ALONE) as house:
        answer = await house.settle.post(RUNS, content="{", headers={**ADMIN, **headers})
        assert refusal(answer) == (NO_DETAILS if is_taken else bad("idempotency_key"))
        if is_taken:
            answer = await house.settle.post(RUNS, headers={**ADMIN, **headers})
            assert answer.status_code == 201


async def test_netting_is_for_admins_and_that_is_looked_at_first(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        for method, path in (
            ("POST", ""),
            ("GET", "?limit=x"),
            ("GET", f"/{UNKNOWN_ID}"),
            ("GET", f"/{UNKNOWN_ID}/audit?limit=x"),
            ("POST", f"/{UNKNOWN_ID}/resume"),
            ("POST", f"/{UNKNOWN_ID}/release"),
        ):
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "settle_house"},
            ):
                answer = await house.settle.request(
                    method, f"{RUNS}{path}", content=b"{", headers=headers
                )
                assert refusal(answer) == (401, "UNAUTHORIZED", None), (method, path, headers)


async def test_without_an_admin_key_every_route_is_closed(database_url: str) -> None:
    async with open_house(database_url, evolve(ALONE, admin=AdminSettings())) as house:
        closed = (503, "DEPENDENCY_NOT_CONFIGURED", {"field": "env.SETTLE_ADMIN_KEY"})
        assert refusal(await ask(house, [], None)) == closed
        for path in ("", f"/{UNKNOWN_ID}", f"/{UNKNOWN_ID}/audit"):
            assert refusal(await get(house, path)) == closed
        for action in ("resume", "release"):
            assert refusal(await act(house, UNKNOWN_ID, action)) == closed


# Keys -------------------------------------------------------------------------------------------


async def test_one_key_for_two_runs_is_refused(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        run_id = (await made(house, limit=10))["run"]["id"]
        for body in ({}, {"limit": 11}, {"limit": 10, "source_clearing_domain": "another"}):
            answer = await ask(house, body)
            assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", {"run_id": run_id}), body
        # What is wrong in itself is said before any run is looked at.
        assert refusal(await ask(house, {"limit": 0})) == bad("limit")


async def test_what_means_the_same_is_the_same_request(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await made(house)
        for body in (
            {"currency": " usd ", "limit": 100},
            {"limit": 100.0},
            {"source_clearing_domain": f" {SOURCE} ", "target_clearing_domain": TARGET},
        ):
            assert (await ask(house, body)).status_code == 200, body


async def test_a_changed_default_makes_an_honest_replay_no_other_request(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        run = (await made(house))["run"]
    changed = settings(
        netting={"poll_s": 3600, "default_limit": 7, "target_clearing_domain": "elsewhere"}
    )
    async with open_house(database_url, changed) as house:
        for body in ({}, {"limit": 100, "target_clearing_domain": TARGET}):
            again = await ask(house, body)
            assert (again.status_code, again.json()["run"]) == (200, run)
        assert refusal(await ask(house, {"limit": 7}))[:2] == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_money_goes_to_a_target_of_the_configuration_alone(database_url: str) -> None:
    listed = settings(netting={"poll_s": 3600, "target_clearing_domains": ("reserve",)})
    async with open_house(database_url, listed) as house:
        await paid(house, ("a", "acct_A", 200))
        told = await made(house, target_clearing_domain=" reserve ")
        assert told["run"]["target_clearing_domain"] == "reserve"
        assert told["run"]["candidate_count"] == 1
        answer = await ask(house, {"target_clearing_domain": "reserv"}, "second")
        assert refusal(answer) == bad("target_clearing_domain")


async def test_a_source_has_only_the_payouts_that_lie_there(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        told = await made(house, source_clearing_domain="another")
        assert (told["run"]["candidate_count"], told["complete"]) == (0, True)
        assert (await made(house, "second"))["run"]["candidate_count"] == 1


async def test_the_key_of_a_released_run_is_used_up(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 200)
        run_id = (await made(house))["run"]["id"]
        assert (await act(house, run_id, "release")).status_code == 200
        details = {"run_id": run_id, "from_status": "released", "to_status": "running"}
        expected = (409, "INVALID_STATUS_TRANSITION", details)
        assert refusal(await ask(house)) == expected
        assert refusal(await act(house, run_id, "resume")) == expected
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 200)
        assert (await made(house, "second"))["run"]["candidate_count"] == 1
