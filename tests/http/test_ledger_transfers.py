"""Transfers and the journal on the ledger's port, as its callers know them."""

import hashlib
import json
from collections.abc import Mapping
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from tests.house import House, Json, open_house, settings
from tests.http.test_ledger_routes import (
    ALICE,
    AMOUNTS_THAT_ARE_NONE,
    BOB,
    QUIET,
    recorded,
    refusal,
)
from tests.storage.books import unguard

TRANSFERS = "/v1/transfers"
ALICE_DID, BOB_DID = "did:key:alice", "did:key:bob"
LONG = {"A": "available", "H": "held", "B": "bonded", "F": "feePool", "P": "promo"}
LOCK: Json = {
    "idempotency_key": "k1",
    "currency": "USD",
    "from": {"account": ALICE_DID, "bucket": "A"},
    "to": {"account": ALICE_DID, "bucket": "H"},
    "amount_minor": "100",
}


async def transfer(house: House, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await house.ledger.post(TRANSFERS, content=content, headers=headers)


def order(
    key: str, source: str, destination: str, amount: str = "100", letters: str = "AA"
) -> Json:
    return {
        **LOCK,
        "idempotency_key": key,
        "from": {"account": source, "bucket": letters[0]},
        "to": {"account": destination, "bucket": letters[1]},
        "amount_minor": amount,
    }


async def moved(
    house: House, key: str, source: str, destination: str, amount: str = "100", letters: str = "AA"
) -> str:
    """Move money that must move, and return the event's id."""
    answer = await transfer(house, order(key, source, destination, amount, letters))
    assert (answer.status_code, answer.json()["status"]) == (200, "applied"), answer.text
    return str(answer.json()["event_id"])


async def funded(house: House, did: str = ALICE_DID, amount: str = "1000") -> str:
    """Open an account with money of its own."""
    account_id = await house.open_account(did)
    await recorded(
        house,
        f"fund:{did}",
        external_payment_id=f"fund:{did}",
        account_id=account_id,
        amount_minor=amount,
    )
    return account_id


async def balances(house: House, account_id: str = ALICE) -> dict[str, int]:
    """Return what an account holds, by letter."""
    account = (await house.ledger.get(f"/accounts/id/{account_id}")).json()
    return {letter: int(account["balances"][name]) for letter, name in LONG.items()}


async def event(house: House, path: str) -> Json:
    answer = await house.ledger.get(f"/events/{path}")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def event_count(house: House) -> int:
    (row,) = await house.database.fetch("SELECT count(*) AS events FROM ledger_event")
    return int(row["events"])


async def test_a_transfer_moves_its_money_once_whatever_the_headers_say(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        first = await transfer(house, LOCK, **{"idempotency-key": "other"})
        assert list(first.json()) == ["event_id", "status"]
        assert (first.status_code, first.json()["status"]) == (200, "applied")
        spaced = {**LOCK, "idempotency_key": " k1 ", "currency": " usd", "amount_minor": " 0100"}
        for again in (LOCK, spaced, {**LOCK, "metadata": {"source": "another"}}):
            answer = await transfer(house, again, **{"content-type": "text/plain"})
            assert (answer.status_code, answer.json()) == (200, first.json())
        assert await balances(house) == {"A": 900, "H": 100, "B": 0, "F": 0, "P": 0}


async def test_another_movement_under_a_used_key_is_a_conflict(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        assert (await transfer(house, LOCK)).status_code == 200
        for change in (
            {"amount_minor": "101"},
            {"to": {"account": BOB_DID, "bucket": "H"}},
            {"to": {"account": ALICE_DID, "bucket": "B"}},
            {"from": {"account": BOB_DID, "bucket": "A"}},
            # Even one that names no account, or could not be covered.
            {"to": {"account": "nobody", "bucket": "A"}},
        ):
            answer = await transfer(house, {**LOCK, **change})
            assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", None), change
        assert (await balances(house))["H"] == 100
        assert (await house.ledger.get(f"/accounts/id/{BOB}")).status_code == 404


async def test_fields_are_checked_in_the_contracts_order(database_url: str) -> None:
    bad: Json = {**dict.fromkeys(LOCK, 7), "metadata": None}
    good: Json = {**LOCK, "metadata": {}}
    async with open_house(database_url, QUIET) as house:
        for name in good:
            answer = await transfer(house, bad)
            code = "UNSUPPORTED_CURRENCY" if name == "currency" else "INVALID_REQUEST"
            assert refusal(answer) == (400, code, None), name
            assert name == "currency" or answer.json()["error"].startswith(name), name
            bad[name] = good[name]
        # Then the accounts, their being one, and last the money.
        nobody, same = {"account": "nobody", "bucket": "A"}, LOCK["from"]
        answer = await transfer(house, {**LOCK, "from": nobody, "to": nobody})
        assert refusal(answer) == (400, "INVALID_ACCOUNT", None)
        answer = await transfer(house, {**LOCK, "to": same})
        assert refusal(answer) == (400, "INVALID_REQUEST", None)
        answer = await transfer(house, LOCK)
        assert refusal(answer)[:2] == (400, "INSUFFICIENT_FUNDS")


async def test_each_field_refuses_what_it_cannot_be(database_url: str) -> None:
    sides: list[object] = [None, 7, "did:key:alice", [], {}, {"account": ALICE_DID}]
    accounts: list[object] = [None, 7, "", "  ", "x" * 256]
    letters: list[object] = [None, "a", "X", "", "available", 7, ["A"], " A"]
    sides += [{"account": account, "bucket": "A"} for account in accounts]
    sides += [{"account": ALICE_DID, "bucket": letter} for letter in letters]
    refused: Mapping[str, list[object]] = {
        "idempotency_key": [None, 7, "", "  ", "k" * 513, ["k"]],
        "from": sides,
        "to": sides,
        "amount_minor": AMOUNTS_THAT_ARE_NONE,
        "metadata": [None, [], "x", 7],
    }
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        for name, values in refused.items():
            for value in values:
                answer = await transfer(house, {**LOCK, name: value})
                assert refusal(answer) == (400, "INVALID_REQUEST", None), (name, value)
        for currency in (None, "EUR", "US", "", 840, "USDT"):
            answer = await transfer(house, {**LOCK, "currency": currency})
            assert refusal(answer) == (400, "UNSUPPORTED_CURRENCY", None), currency
        for key in ("payment_settlement:x", "risk_hold:k:apply"):
            answer = await transfer(house, {**LOCK, "idempotency_key": key})
            assert refusal(answer) == (400, "INVALID_REQUEST", None), key
        for body in (b"", b"{", b"null", b"[]", b"7", b"\xff"):
            assert refusal(await transfer(house, body)) == (400, "INVALID_REQUEST", None), body
        assert await event_count(house) == 1


async def test_money_moves_between_any_two_buckets(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house, amount="100000")
        accounts = (ALICE_DID, BOB_DID, "clearing:d1")
        for place in product(accounts, LONG):
            if place != (ALICE_DID, "A"):
                await moved(house, f"to{place}", ALICE_DID, place[0], "100", f"A{place[1]}")
        places = list(product(accounts, LONG))
        for number, (source, destination) in enumerate(product(places, places)):
            sent = order(f"k{number}", source[0], destination[0], "1", source[1] + destination[1])
            answer = await transfer(house, sent)
            if source == destination:
                assert refusal(answer) == (400, "INVALID_REQUEST", None)
            else:
                assert answer.status_code == 200, answer.text
        for account_id in (ALICE, BOB, "clr_00000c4d"):
            held = await balances(house, account_id)
            assert {n for letter, n in held.items() if (account_id, letter) != (ALICE, "A")} == {
                100
            }


async def test_references_name_accounts_in_every_form_and_nothing_else_does(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        for number, name in enumerate(
            (ALICE_DID, f" {ALICE_DID} ", ALICE, f"did:claw:account:{ALICE}")
        ):
            await moved(house, f"k{number}", name, "clearing:d1", "1")
        none = ["alice", "did:key:", "did:internal:clearing:d1", "clearing:", "clearing: ", "acc"]
        none += ["external:stripe:USD", "clr_00000c4d", "did:claw:account:x"]
        for name in none:
            for sent in (order("k", name, BOB_DID), order("k", ALICE_DID, name)):
                assert refusal(await transfer(house, sent)) == (400, "INVALID_ACCOUNT", None), name
        # A destination by id is opened by nobody.
        answer = await transfer(house, order("k", ALICE_DID, BOB))
        assert refusal(answer) == (400, "INVALID_ACCOUNT", None)
        assert (await house.ledger.get(f"/accounts/id/{BOB}")).status_code == 404


async def test_what_is_not_covered_moves_nothing_and_opens_nobody(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        answer = await transfer(house, order("k1", ALICE_DID, BOB_DID, "1001"))
        short = {"bucket": "available", "requested": "1001", "available": "1000"}
        assert refusal(answer) == (400, "INSUFFICIENT_FUNDS", {"account_id": ALICE, **short})
        answer = await transfer(house, order("k1", BOB_DID, "clearing:d1", "1"))
        assert refusal(answer)[:2] == (400, "INSUFFICIENT_FUNDS")
        assert (await house.ledger.get(f"/accounts/id/{BOB}")).status_code == 404
        assert (await house.ledger.get("/clearing/accounts")).json() == {"accounts": []}
        # The key is free for what is covered.
        await moved(house, "k1", ALICE_DID, BOB_DID, "1000")
        assert (await balances(house, BOB))["A"] == 1000


async def test_a_balance_has_an_end(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house, amount=str(2**63 - 1))
        await recorded(
            house,
            "k0",
            provider="other",
            account_id=await house.open_account(BOB_DID),
            amount_minor="1",
        )
        answer = await transfer(house, order("k1", BOB_DID, ALICE_DID, "1", "AP"))
        details = {"account_id": ALICE, "bucket": "promo"}
        assert refusal(answer) == (422, "BALANCE_LIMIT_EXCEEDED", details)


async def test_a_strict_ledger_pays_nobody_who_was_not_opened(database_url: str) -> None:
    strict = settings(ledger={"strict_accounts": True}, forwarding={"poll_s": 3600.0})
    async with open_house(database_url, strict) as house:
        await funded(house)
        for destination in (BOB_DID, "clearing:d1"):
            answer = await transfer(house, order("k1", ALICE_DID, destination))
            assert refusal(answer) == (404, "NOT_FOUND", {"field": "to.account"})
        await house.open_account(BOB_DID)
        await moved(house, "k1", ALICE_DID, BOB_DID)
        assert await event_count(house) == 2


async def test_a_burst_under_one_key_moves_money_once(database_url: str) -> None:
    answers: list[Json] = []
    async with open_house(database_url, QUIET) as house:
        await funded(house)

        async def send() -> None:
            answer = await transfer(house, LOCK)
            assert answer.status_code == 200
            answers.append(answer.json())

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(send)
        assert answers == [answers[0]] * 12
        assert (await balances(house))["H"] == 100


async def test_parallel_spends_of_one_balance_are_as_many_as_it_covers(database_url: str) -> None:
    statuses: list[int] = []
    async with open_house(database_url, QUIET) as house:
        await funded(house, amount="350")

        async def spend(number: int) -> None:
            sent = order(f"k{number}", ALICE_DID, f"did:key:u{number}")
            statuses.append((await transfer(house, sent)).status_code)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(spend, number)
        assert sorted(statuses) == [200] * 3 + [400] * 7
        assert (await balances(house))["A"] == 50


async def test_a_transfers_event_says_what_moved_and_wins_over_its_caller(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        given = {"source": "payouts", "note": "größer", "spec_v1": "mine", "from_bucket": "mine"}
        answer = await transfer(house, {**LOCK, "idempotency_key": "t/1: %2F", "metadata": given})
        event_id = answer.json()["event_id"]
        found = await event(house, event_id)
        assert found == await event(house, f"idempotency/{quote('t/1: %2F', safe='')}")
        assert list(found) == [
            *("id", "idempotencyKey", "eventType", "accountId", "toAccountId", "amount"),
            *("bucket", "previousHash", "eventHash", "metadata", "createdAt"),
        ]
        assert (found["id"], found["idempotencyKey"]) == (event_id, "t/1: %2F")
        assert (found["eventType"], found["accountId"]) == ("transfer", ALICE)
        assert (found["toAccountId"], found["amount"], found["bucket"]) == (
            ALICE,
            "100",
            "available",
        )
        assert found["metadata"] == {
            "source": "payouts",
            "note": "größer",
            "spec_v1": {
                **{name: LOCK[name] for name in ("currency", "from", "to", "amount_minor")}
            },
            "from_bucket": "available",
            "to_bucket": "held",
        }
        text = "|".join(
            found[name]
            for name in (
                *("previousHash", "eventType", "accountId", "toAccountId", "amount", "bucket"),
                *("idempotencyKey", "createdAt"),
            )
        )
        assert found["eventHash"] == hashlib.sha256(text.encode()).hexdigest()


async def test_events_of_settlements_are_found_and_chained(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        recording = await recorded(house, "k1", metadata={"order": 7})
        key = f"payment_settlement:{recording['settlement']['id']}:payin_settle"
        found = await event(house, f"idempotency/{quote(key, safe='')}")
        assert found == await event(house, recording["event"]["id"])
        assert (found["toAccountId"], found["previousHash"]) == (None, "0" * 64)
        assert found["metadata"]["provider_metadata"] == {"order": 7}
        second = await event(house, await moved(house, "k2", ALICE_DID, BOB_DID))
        assert second["previousHash"] == found["eventHash"]
        for path in ("evt_nothing", "idempotency", "idempotency/nothing", "idempotency/k1"):
            answer = await house.ledger.get(f"/events/{path}")
            assert refusal(answer) == (404, "NOT_FOUND", None), path
        answer = await house.ledger.get("/events/idempotency/%zz")
        assert refusal(answer) == (400, "INVALID_REQUEST", None)


async def test_the_journal_is_verified_from_its_first_event(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        nothing = {"valid": True, "errors": [], "eventsChecked": 0}
        assert (await house.ledger.get("/events/verify")).json() == nothing
        await funded(house)
        await moved(house, "k1", ALICE_DID, BOB_DID)
        assert (await house.ledger.get("/events/verify")).json() == {**nothing, "eventsChecked": 2}
        await unguard(house.database)
        touched = "UPDATE ledger_event SET metadata = {} WHERE seq = 2"
        await house.database.fetch(touched.format("metadata || ' '"))
        found = (await house.ledger.get("/events/verify")).json()
        assert (found["valid"], found["eventsChecked"], len(found["errors"])) == (False, 2, 1)
        assert "event 2" in found["errors"][0]
        await house.database.fetch(touched.format("rtrim(metadata)"))


@pytest.mark.parametrize("end", ["finalize", "rollback"])
async def test_a_payouts_lock_is_spent_by_one_end_and_no_other(database_url: str, end: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await moved(house, "payout:lock:1", ALICE_DID, ALICE_DID, "400", "AH")
        other = await transfer(house, order("x", ALICE_DID, BOB_DID, "1", "HA"))
        assert refusal(other)[:2] == (400, "INSUFFICIENT_FUNDS")
        ends = {
            "finalize": order("payout:finalize:1", ALICE_DID, "clearing:d1", "400", "HA"),
            "rollback": order("payout:rollback:1", ALICE_DID, ALICE_DID, "400", "HA"),
        }
        part = await transfer(house, {**ends[end], "amount_minor": "399"})
        assert refusal(part)[:2] == (409, "CONFLICT")
        assert (await transfer(house, ends.pop(end))).status_code == 200
        await moved(house, "more", ALICE_DID, ALICE_DID, "400", "AH")
        (second,) = ends.values()
        assert refusal(await transfer(house, second))[:2] == (409, "CONFLICT")
        assert (await balances(house))["H"] == 400


async def test_an_admins_move_may_undercut_a_reservation_and_is_told(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await moved(house, "payout:lock:1", ALICE_DID, ALICE_DID, "400", "AH")
        with capture_logs() as logs:
            event_id = await moved(house, "drain", ALICE_DID, ALICE_DID, "400", "HA")
            await moved(house, "drain", ALICE_DID, ALICE_DID, "400", "HA")
            rollback = order("payout:rollback:1", ALICE_DID, ALICE_DID, "400", "HA")
            short = await transfer(house, rollback)
            assert refusal(short)[:2] == (400, "INSUFFICIENT_FUNDS")
            await moved(house, "restore", ALICE_DID, ALICE_DID, "400", "AH")
            assert (await transfer(house, rollback)).status_code == 200
        assert logs == [
            {
                "event": "ledger_reservations_undercut",
                "log_level": "warning",
                "event_id": event_id,
                "held": "0",
                "reserved": "400",
            }
        ]
        found = await event(house, "idempotency/drain")
        assert found["metadata"]["undercut"] == {"held": "0", "reserved": "400"}
        assert (await balances(house))["A"] == 1000
