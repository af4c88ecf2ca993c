"""Netting over HTTP: what becomes of a run, how it is answered, and what a dry run tells."""

from collections.abc import Mapping
from typing import Any

import httpx
import trio

from clawsettle.domain.money import MINOR_MAX
from clawsettle.storage.bridge import Transaction
from clawsettle.storage.netting_lists import PAGE
from clawsettle.storage.queries import load_queries
from clawsettle.storage.report_files import MEMORY_MAX_BYTES
from tests.house import House, Json, open_house, settings
from tests.http.netting_site import (
    ALONE,
    HASTY,
    act,
    ask,
    bad,
    ended,
    gated,
    get,
    made,
    refusal,
)
from tests.netting import SOURCE, TARGET, cleared, fail_late, links, paid, request, transfer
from tests.storage.netting_runs import keep, stored_entry, stored_run
from tests.storage.payout_histories import history
from tests.storage.payout_histories import keep as keep_payouts

_COUNTS = """
    SELECT (SELECT count(*) FROM netting_run) AS runs,
           (SELECT count(*) FROM netting_entry) AS entries,
           (SELECT count(*) FROM netting_audit) AS audits,
           (SELECT count(*) FROM netting_item WHERE entry_id IS NOT NULL) AS taken,
           (SELECT count(*) FROM ledger_event) AS events
"""
_LOCKS = """
    SELECT 1 FROM pg_locks
    WHERE locktype = $1 AND mode = $2 AND granted = $3
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def counts(house: House) -> Mapping[str, Any]:
    return dict((await house.database.fetch(_COUNTS))[0])


async def until(
    house: House, kind: str, mode: str = "ExclusiveLock", *, granted: bool = True, count: int = 1
) -> None:
    """Wait until so many locks of a kind are held, or waited for."""
    with trio.fail_after(5):
        while (  # noqa: ASYNC110 - nobody tells
            len(await house.database.fetch(_LOCKS, kind, mode, granted)) < count
        ):
            await trio.sleep(0.01)


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


async def test_a_run_that_is_longer_than_a_page_and_a_mebibyte_is_answered_whole(
    database_url: str,
) -> None:
    run = stored_run("key_1", request_hash=request("key_1").request_hash)
    entries = [
        stored_entry(run, f"acct_{place}", *(f"pout_{place}_{n}" for n in range(80)))
        for place in range(PAGE * 3 // 2)
    ]
    entries.sort(key=lambda entry: entry.entry_id)
    told = {"run": run.view(), "entries": [entry.view() for entry in entries]}
    async with open_house(database_url, ALONE) as house:
        await keep(house.database, run, entries)
        again, shown = await ask(house), await get(house, f"/{run.run_id}")
        assert (again.status_code, shown.status_code) == (200, 200)
        assert again.json() == {"ok": True, "deduped": True, "complete": True, **told}
        assert shown.json() == {"ok": True, **told}
        for answer in (again, shown):
            assert len(answer.content) == int(answer.headers["content-length"]) > MEMORY_MAX_BYTES


async def test_a_sum_that_no_ledger_holds_is_refused_and_takes_nothing(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        await keep_payouts(
            house.database, *(history(key, amount_minor=MINOR_MAX) for key in ("a", "b"))
        )
        for dry_run in (True, False):
            answer = await ask(house, {"dry_run": dry_run})
            assert refusal(answer) == (422, "BALANCE_LIMIT_EXCEEDED", None)
        assert (await counts(house))["runs"] == 0
        plan = (await ask(house, {"dry_run": True, "limit": 1})).json()
        assert plan["total_amount_minor"] == str(MINOR_MAX)


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
            await until(house, "relation", "ShareLock")
            slow = await ask(house)
            assert refusal(slow) == (503, "OVERLOADED", None)
            assert slow.headers["retry-after"] == "1"
            nursery.cancel_scope.cancel()
        # It goes on meanwhile, so this may come upon it.
        with trio.fail_after(20):
            while (again := await ask(house)).status_code == 409:
                assert refusal(again)[1] == "DUPLICATE_CONFLICT"
        assert again.status_code in {200, 201}


async def test_a_run_that_came_between_is_answered_to_who_asked_for_it_and_to_nobody_else(
    database_url: str,
) -> None:
    patient = settings(netting={"poll_s": 3600, "answer_deadline_s": 1.5})
    async with open_house(database_url, patient) as house:
        answers: dict[int, httpx.Response] = {}

        async def one(limit: int) -> None:
            answers[limit] = await ask(house, {"limit": limit})

        async def hold(transaction: Transaction) -> None:
            await transaction.fetch(load_queries("netting")["serialise"], SOURCE)
            await transaction.fetch("SELECT pg_sleep(60)")

        async with trio.open_nursery() as holding:
            holding.start_soon(house.database.transaction, hold)
            await until(house, "advisory", granted=True, count=1)
            async with trio.open_nursery() as asking:
                asking.start_soon(one, 10)
                asking.start_soon(one, 11)
                await until(house, "advisory", granted=False, count=2)
                # Neither sees it: both wait for their turn to make it.
                run = stored_run("key_1", request_hash=request("key_1", limit=10).request_hash)
                await keep(house.database, run)
            holding.cancel_scope.cancel()
        assert (answers[10].status_code, answers[10].json()["run"]) == (201, run.view())
        reused = (409, "IDEMPOTENCY_KEY_REUSED", {"run_id": run.run_id})
        assert refusal(answers[11]) == reused


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
