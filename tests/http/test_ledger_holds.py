"""Risk holds on the ledger's port, as the loss loop and the health probe know them."""

import json
from typing import Any

import httpx
import pytest
import trio

from tests.house import House, Json, open_house
from tests.http.test_ledger_routes import ALICE, AMOUNTS_THAT_ARE_NONE, BOB, QUIET, refusal
from tests.http.test_ledger_transfers import ALICE_DID, BOB_DID, balances, event, funded, moved

HOLDS = "/v1/risk/holds"
HOLD: Json = {
    "idempotency_key": "loss-event:l1:ledger",
    "source_loss_event_id": "l1",
    "account": ALICE_DID,
    "amount_minor": "300",
    "reason": "chargeback",
}
BY_SOURCE: Json = {"source_loss_event_id": "l1", "idempotency_key": "loss-event:resolve:l1:ledger"}


async def post(house: House, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"idempotency-key": "ignored"}
    return await house.ledger.post(f"{HOLDS}/{path}", content=content, headers=headers)


async def applied(house: House, source: str = "l1", **changes: object) -> Json:
    """Apply a hold that must be new, and return it."""
    named = {"idempotency_key": f"loss-event:{source}:ledger", "source_loss_event_id": source}
    answer = await post(house, "apply", {**HOLD, **named, **changes})
    assert (answer.status_code, answer.json()["replay"]) == (201, False), answer.text
    hold: Json = answer.json()["hold"]
    return hold


async def listed(house: House, **query: str) -> list[Json]:
    answer = await house.ledger.get(HOLDS, params=query)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    assert (list(body), body["count"]) == (["holds", "count"], len(body["holds"]))
    return list(body["holds"])


async def test_a_hold_is_applied_once_in_the_contracts_shape(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        sent = {**HOLD, "currency": "usd", "metadata": {"reason": "mine", "case": 7}}
        first = await post(house, "apply", sent)
        assert (first.status_code, first.json()["replay"]) == (201, False)
        hold = first.json()["hold"]
        unset = ("release_idempotency_key", "release_transfer_event_id", "released_at")
        assert list(hold) == [
            *("hold_id", "idempotency_key", "source_loss_event_id", "account_ref", "account_id"),
            *("amount_minor", "currency", "reason", "status", "hold_transfer_event_id"),
            *("release_idempotency_key", "release_transfer_event_id", "metadata", "created_at"),
            *("updated_at", "released_at"),
        ]
        assert hold["hold_id"].startswith("rsk_")
        assert {name: hold[name] for name in unset} == dict.fromkeys(unset)
        assert (hold["account_ref"], hold["account_id"]) == (ALICE_DID, ALICE)
        assert (hold["amount_minor"], hold["currency"]) == ("300", "USD")
        assert (hold["status"], hold["metadata"]) == ("active", {"reason": "mine", "case": 7})
        assert await balances(house) == {"A": 700, "H": 300, "B": 0, "F": 0, "P": 0}
        # Neither reason nor metadata are compared, nor how the account is called.
        for change in ({}, {"reason": "another", "metadata": {}}, {"account": ALICE}):
            again = await post(house, "apply", {**HOLD, **change})
            assert (again.status_code, again.json()) == (200, {"hold": hold, "replay": True})
        assert (await balances(house))["H"] == 300


async def test_the_events_of_a_hold_name_it_and_win_over_its_caller(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        given = {"reason": "mine", "source_domain": "mine", "transfer_kind": "mine", "case": 7}
        hold = await applied(house, metadata=given)
        found = await event(house, "idempotency/risk_hold%3Aloss-event%3Al1%3Aledger%3Aapply")
        assert found["id"] == hold["hold_transfer_event_id"]
        assert (found["eventType"], found["amount"], found["bucket"]) == (
            "transfer",
            "300",
            "available",
        )
        named = {
            "source_domain": "clawledger",
            "source_ref": "l1",
            "reason": "chargeback",
            "case": 7,
        }
        assert {**found["metadata"], **named, "transfer_kind": "risk_hold_apply"} == found[
            "metadata"
        ]
        released = (await post(house, "release-by-source", {**BY_SOURCE, "reason": "won"})).json()
        found = await event(house, released["hold"]["release_transfer_event_id"])
        key = f"risk_hold:{hold['hold_id']}:release:loss-event:resolve:l1:ledger"
        assert (found["idempotencyKey"], found["bucket"]) == (key, "held")
        named = {"source_ref": "l1", "reason": "won", "transfer_kind": "risk_hold_release"}
        assert {**found["metadata"], **named} == found["metadata"]


async def test_another_hold_under_a_used_key_or_for_a_bound_source_is_a_conflict(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await funded(house, BOB_DID)
        hold = await applied(house)
        for change in (
            {"amount_minor": "301"},
            {"account": BOB_DID},
            {"account": "nobody"},
            {"source_loss_event_id": "l2"},
        ):
            answer = await post(house, "apply", {**HOLD, **change})
            assert refusal(answer)[:2] == (409, "IDEMPOTENCY_KEY_REUSED"), change
        answer = await post(house, "apply", {**HOLD, "idempotency_key": "other", "account": "x"})
        status, code, details = refusal(answer)
        assert (status, code) == (409, "SOURCE_LOSS_EVENT_ALREADY_BOUND")
        assert isinstance(details, dict)
        assert details["hold_id"] == hold["hold_id"]
        assert ((await balances(house))["H"], (await balances(house, BOB))["H"]) == (300, 0)


async def test_fields_are_checked_in_the_contracts_order(database_url: str) -> None:
    good: Json = {**HOLD, "metadata": {}}
    names = ("idempotency_key", "source_loss_event_id", "account", "amount_minor")
    bad: Json = {**dict.fromkeys(good, 7), "currency": None, "metadata": None}
    async with open_house(database_url, QUIET) as house:
        for name in (*names, "currency", "reason", "metadata"):
            answer = await post(house, "apply", bad)
            code = "UNSUPPORTED_CURRENCY" if name == "currency" else "INVALID_REQUEST"
            assert refusal(answer) == (400, code, None), name
            assert name == "currency" or answer.json()["error"].startswith(name), name
            bad[name] = good.get(name, "USD")
        answer = await post(house, "apply", {**bad, "account": "nobody"})
        assert refusal(answer) == (400, "INVALID_ACCOUNT", None)
        assert refusal(await post(house, "apply", bad))[:2] == (400, "INSUFFICIENT_FUNDS")
        for body in (b"", b"{", b"null", b"[]", b"7"):
            for path in ("apply", "release-by-source", "rsk_1/release"):
                answer = await post(house, path, body)
                assert refusal(answer) == (400, "INVALID_REQUEST", None), (path, body)


async def test_each_field_refuses_what_it_cannot_be(database_url: str) -> None:
    blank: list[object] = [None, 7, "", "  ", ["x"]]
    refused: dict[str, list[object]] = {
        "idempotency_key": [*blank, "k" * 513],
        "source_loss_event_id": [*blank, "l" * 256],
        "account": [*blank, "d" * 256],
        "amount_minor": AMOUNTS_THAT_ARE_NONE,
        "reason": [*blank, "r" * 2001],
        "metadata": [None, [], "x"],
    }
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        for name, values in refused.items():
            for value in values:
                answer = await post(house, "apply", {**HOLD, name: value})
                assert refusal(answer) == (400, "INVALID_REQUEST", None), (name, value)
        for currency in (None, "EUR", "", 840):
            answer = await post(house, "apply", {**HOLD, "currency": currency})
            assert refusal(answer) == (400, "UNSUPPORTED_CURRENCY", None), currency
        assert await listed(house) == []


async def test_what_is_not_covered_leaves_no_hold_and_no_account(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        answer = await post(house, "apply", {**HOLD, "amount_minor": "1001"})
        short = {"bucket": "available", "requested": "1001", "available": "1000"}
        assert refusal(answer) == (400, "INSUFFICIENT_FUNDS", {"account_id": ALICE, **short})
        answer = await post(house, "apply", {**HOLD, "account": BOB_DID})
        assert refusal(answer)[:2] == (400, "INSUFFICIENT_FUNDS")
        assert (await house.ledger.get(f"/accounts/id/{BOB}")).status_code == 404
        assert await listed(house) == []
        await applied(house)


async def test_clearing_accounts_and_aliases_may_be_held(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await moved(house, "k1", ALICE_DID, "clearing:d1", "500")
        await applied(house, account="clearing:d1")
        await applied(house, "l2", account=f"did:claw:account:{ALICE}")
        assert (await balances(house, "clr_00000c4d"))["H"] == 300
        assert (await balances(house))["H"] == 300


@pytest.mark.parametrize("by", ["source", "id"])
async def test_a_hold_is_released_once(database_url: str, by: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        hold = await applied(house)
        path = "release-by-source" if by == "source" else f"{hold['hold_id']}/release"
        first = await post(house, path, {**BY_SOURCE, "reason": None})
        assert (first.status_code, first.json()["replay"]) == (200, False)
        released = first.json()["hold"]
        assert (released["status"], released["release_idempotency_key"]) == (
            "released",
            BY_SOURCE["idempotency_key"],
        )
        assert released["released_at"] == released["updated_at"] >= released["created_at"]
        again = await post(house, path, {**BY_SOURCE, "reason": "another"})
        assert (again.status_code, again.json()) == (200, {"hold": released, "replay": True})
        other = await post(house, path, {**BY_SOURCE, "idempotency_key": "other"})
        details = {"release_idempotency_key": BY_SOURCE["idempotency_key"]}
        assert refusal(other) == (409, "IDEMPOTENCY_CONFLICT", details)
        # A replay of the apply shows what became of it, and holds nothing anew.
        replay = await post(house, "apply", HOLD)
        assert (replay.status_code, replay.json()) == (200, {"hold": released, "replay": True})
        assert await balances(house) == {"A": 1000, "H": 0, "B": 0, "F": 0, "P": 0}


async def test_a_release_by_source_looks_for_the_hold_before_its_key(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        for source in (None, 7, "", " "):
            answer = await post(
                house, "release-by-source", {**BY_SOURCE, "source_loss_event_id": source}
            )
            assert refusal(answer) == (400, "INVALID_REQUEST", None), source
        faults: list[Json] = [{"idempotency_key": " "}, {"reason": ""}, {"reason": 7}]
        for change in ({}, *faults):
            answer = await post(house, "release-by-source", {**BY_SOURCE, **change})
            assert refusal(answer) == (404, "NOT_FOUND", {"source_loss_event_id": "l1"}), change
        await applied(house)
        for change in faults:
            answer = await post(house, "release-by-source", {**BY_SOURCE, **change})
            assert refusal(answer) == (400, "INVALID_REQUEST", None), change
        assert (await balances(house))["H"] == 300


async def test_a_release_by_id_judges_its_body_before_it_looks(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for body in ({}, {"idempotency_key": 7}, {"idempotency_key": "k", "reason": " "}):
            answer = await post(house, "rsk_1/release", body)
            assert refusal(answer) == (400, "INVALID_REQUEST", None), body
        answer = await post(house, "rsk%5F1/release", {"idempotency_key": "k"})
        assert refusal(answer) == (404, "NOT_FOUND", {"hold_id": "rsk_1"})


async def test_a_release_that_held_does_not_cover_fails_and_stays_possible(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        hold = await applied(house)
        await moved(house, "drain", ALICE_DID, ALICE_DID, "300", "HA")
        answer = await post(house, "release-by-source", BY_SOURCE)
        status, code, details = refusal(answer)
        assert (status, code) == (400, "RISK_HOLD_RELEASE_FAILED")
        assert isinstance(details, dict)
        assert details["code"] == "INSUFFICIENT_FUNDS"
        assert details["details"]["bucket"] == "held"
        assert await listed(house, source_loss_event_id="l1") == [hold]
        await moved(house, "restore", ALICE_DID, ALICE_DID, "300", "AH")
        assert (await post(house, "release-by-source", BY_SOURCE)).status_code == 200


async def test_parallel_applies_and_releases_of_one_source_are_one(database_url: str) -> None:
    answers: list[httpx.Response] = []
    async with open_house(database_url, QUIET) as house:
        await funded(house)

        async def send(path: str, body: Json) -> None:
            answers.append(await post(house, path, body))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                keyed = {**HOLD, "idempotency_key": f"k{number}"}
                nursery.start_soon(send, "apply", keyed)
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
        assert (await balances(house))["H"] == 300
        answers.clear()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                keyed = {**BY_SOURCE, "idempotency_key": f"r{number}"}
                nursery.start_soon(send, "release-by-source", keyed)
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
        assert (await balances(house))["A"] == 1000


async def test_holds_are_listed_newest_first_by_exact_filters(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        await funded(house, BOB_DID)
        for source, account in (("l1", ALICE_DID), ("l2", BOB_DID), ("l3", ALICE)):
            await applied(house, source, account=account, amount_minor="10")
        await post(house, "release-by-source", BY_SOURCE)
        for query, sources in (
            ({}, ["l3", "l2", "l1"]),
            ({"status": "active"}, ["l3", "l2"]),
            ({"status": "released"}, ["l1"]),
            ({"account": ALICE_DID}, ["l1"]),
            ({"account": ALICE}, ["l3"]),
            ({"account": BOB_DID, "status": "released"}, []),
            ({"source_loss_event_id": "l2"}, ["l2"]),
            ({"source_loss_event_id": "l2", "status": "released"}, []),
            ({"source_loss_event_id": "L2"}, []),
            ({"limit": "2"}, ["l3", "l2"]),
            ({"status": "active", "limit": "1"}, ["l3"]),
            (
                {"status": "", "account": "", "source_loss_event_id": "", "limit": ""},
                ["l3", "l2", "l1"],
            ),
        ):
            found = [hold["source_loss_event_id"] for hold in await listed(house, **query)]
            assert found == sources, query
        for query in ({"status": "Active"}, {"status": "any"}):
            answer = await house.ledger.get(HOLDS, params=query)
            assert refusal(answer) == (400, "INVALID_REQUEST", None), query


async def test_a_limit_is_a_whole_number_in_range_or_refused(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await funded(house)
        for number in range(102):
            await applied(house, f"l{number}", amount_minor="1")
        for limit, count in (("1", 1), ("007", 7), ("101", 101), ("500", 102), ("", 100)):
            assert len(await listed(house, limit=limit)) == count, limit
        for limit in ("0", "501", "-1", "+5", "1.5", "1e2", "abc", "5x", " 5", "٣", "9" * 40):
            answer = await house.ledger.get(HOLDS, params={"limit": limit})
            assert refusal(answer) == (400, "INVALID_REQUEST", None), limit
