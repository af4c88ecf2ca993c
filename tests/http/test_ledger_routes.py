"""The embedded ledger's port as its callers know it: keys, accounts, settlements, pages."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import trio

from clawsettle.config import Secret
from clawsettle.daemon.composition import assemble
from clawsettle.storage.bridge import open_database
from tests.house import House, Json, open_house, settings

ALICE, BOB = "acc_32ca986a", "acc_61720de1"
INGEST, LIST = "/v1/payments/settlements/ingest", "/v1/payments/settlements"
QUIET = settings(forwarding={"poll_s": 3600.0})
PAYIN: Json = {
    "provider": "stripe",
    "external_payment_id": "pi_1",
    "direction": "payin",
    "status": "confirmed",
    "account_id": ALICE,
    "amount_minor": "1000",
    "currency": "USD",
}
AMOUNTS_THAT_ARE_NONE: list[object] = [
    *(1000, 10.0, None, True, "", " ", "0", "-5", "1.0", "1e3", "+5", "1_000", "٣", "9" * 40),
    str(2**63),
]


async def ingest(house: House, body: Any, key: str | None = "k1", **headers: str) -> httpx.Response:
    keyed = {} if key is None else {"idempotency-key": key}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await house.ledger.post(INGEST, content=content, headers={**keyed, **headers})


async def recorded(house: House, key: str, **changes: object) -> Json:
    """Ingest a payin with changes that must succeed, and return the answer."""
    answer = await ingest(house, {**PAYIN, **changes}, key)
    assert answer.status_code in (200, 201), answer.text
    body: Json = answer.json()
    return body


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    """Return status, code and details (None when absent) of an error."""
    body = answer.json()
    assert isinstance(body["error"], str)
    return answer.status_code, body["code"], body.get("details")


async def test_auth_comes_before_routing(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for method, path in (
            ("GET", "/nothing"),
            ("GET", "/docs"),
            ("DELETE", "/accounts"),
            ("GET", INGEST + "/"),
            ("HEAD", "/health"),
            ("POST", "/health"),
            ("GET", f"/accounts/id/{ALICE}/"),
        ):
            answer = await house.ledger.request(method, path, headers={"authorization": ""})
            assert answer.status_code == 401, (method, path)
            answer = await house.ledger.request(method, path)
            assert answer.status_code == 404, (method, path)
        answer = await house.ledger.get("/health", headers={"authorization": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "service": "ledger"})


async def test_either_header_may_carry_the_key(database_url: str) -> None:
    keys = (Secret("ledger_house"), Secret("ledger_new"))
    rotating = settings(ledger={"admin_keys": keys}, forwarding={"poll_s": 3600.0})
    forms: list[tuple[Mapping[str, str], int]] = [
        ({"authorization": "Bearer ledger_house"}, 404),
        ({"authorization": "bEARER  ledger_new "}, 404),
        ({"authorization": "", "x-admin-key": " ledger_house "}, 404),
        ({"authorization": "Bearer wrong", "x-admin-key": "ledger_new"}, 404),
        ({"authorization": "Bearer ledger_house", "x-admin-key": "wrong"}, 404),
        ({"authorization": ""}, 401),
        ({"authorization": "Basic ledger_house"}, 401),
        ({"authorization": "ledger_house"}, 401),
        ({"authorization": "Bearer LEDGER_HOUSE"}, 401),
        ({"authorization": "Bearer ledger_house x"}, 401),
        ({"authorization": "Bearer settle_house"}, 401),
        ({"authorization": "", "x-admin-key": ""}, 401),
        ({"authorization": "", "x-admin-key": "Bearer ledger_house"}, 401),
    ]
    async with open_house(database_url, rotating) as house:
        for headers, status in forms:
            answer = await house.ledger.get(f"/accounts/id/{ALICE}", headers=headers)
            assert answer.status_code == status, headers
            if status == 401:
                assert refusal(answer) == (401, "UNAUTHORIZED", None)


async def test_without_a_key_the_port_is_closed_but_for_its_health(database_url: str) -> None:
    async with open_database(database_url) as database:
        app: Any = assemble(settings(ledger={"admin_keys": ()}), database).ledger_app
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger") as client:
            headers = {"x-admin-key": "ledger_house"}
            answer = await client.get(f"/accounts/id/{ALICE}", headers=headers)
            assert refusal(answer) == (503, "LEDGER_ADMIN_KEY_MISSING", None)
            assert (await client.get("/health")).status_code == 200


async def test_every_answer_has_the_ledgers_headers(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        get = house.ledger.get
        answers = [await get("/health"), await get("/nothing"), await get(LIST)]
        answers += [await get(LIST, headers={"authorization": ""}), await ingest(house, PAYIN)]
        answers += [await ingest(house, b" " * 2_000_000), await ingest(house, PAYIN, None)]
        assert [answer.status_code for answer in answers] == [200, 404, 200, 401, 404, 413, 400]
        for answer in answers:
            assert answer.headers["x-ledger-version"] == "1.0.0"
            assert answer.headers["content-type"] == "application/json"
            assert "x-clawsettle-version" not in answer.headers


async def test_an_account_is_opened_once_and_found_by_id_and_by_did(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        first = await house.ledger.post("/accounts", json={"did": "did:key:alice", "more": 1})
        again = await house.ledger.post("/accounts", json={"did": "did:key:alice"})
        assert (first.status_code, again.status_code) == (201, 201)
        account = first.json()
        assert list(account) == ["id", "did", "balances", "createdAt", "updatedAt"]
        assert (account["id"], account["did"]) == (ALICE, "did:key:alice")
        buckets = ("available", "held", "bonded", "feePool", "promo", "total")
        assert account["balances"] == dict.fromkeys(buckets, "0")
        assert account["createdAt"].endswith("Z")
        assert again.json() == account
        for path in (f"/accounts/id/{ALICE}", "/accounts/did:key:alice"):
            answer = await house.ledger.get(path)
            assert (answer.status_code, answer.json()) == (200, account)


async def test_what_is_no_account_is_not_found(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        await recorded(house, "k1")
        missing = ["id/acc_nobody", "did:key:nobody", "did%3Akey%3Anobody", "did:key:a:b", "alice"]
        missing += ["id", "id/external:stripe:USD", "id/external%3Astripe%3AUSD", f"id/{ALICE} "]
        missing += [f"did:claw:account:{BOB}", f"id/{ALICE.replace('_', '%5F')}"]
        for path in missing:
            answer = await house.ledger.get(f"/accounts/{path}")
            assert refusal(answer) == (404, "NOT_FOUND", None), path
        none = ["did:key:", "did:KEY:alice", "xdid:key:alice", "did:", "%20did:key:alice"]
        none += ["did:internal:clearing:d1", "did:claw:account:external:stripe:USD"]
        none += ["did:claw:account:", "clearing:did:key:alice"]
        for path in none:
            answer = await house.ledger.get(f"/accounts/{path}")
            assert refusal(answer) == (400, "INVALID_DID", None), path
        for path in ("did%zz", "did%3Akey%3", "%FFdid:key:alice"):
            answer = await house.ledger.get(f"/accounts/{path}")
            assert refusal(answer) == (400, "INVALID_REQUEST", None), path
        rows = await house.database.fetch("SELECT did FROM ledger_account WHERE kind = 'user'")
        assert [row["did"] for row in rows] == ["did:key:alice"]


async def test_a_did_may_have_colons_and_stand_encoded_and_an_alias_means_its_account(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        did = "did:web:claw.example:user:7"
        account_id = await house.open_account(did)
        alias = f"did:claw:account:{account_id}"
        for path in (did, quote(did, safe=""), alias, quote(alias, safe="")):
            answer = await house.ledger.get(f"/accounts/{path}")
            assert (answer.status_code, answer.json()["id"]) == (200, account_id), path
            assert answer.json()["did"] == did
        for taken in (alias, "did:internal:clearing:d1"):
            answer = await house.ledger.post("/accounts", json={"did": taken})
            assert refusal(answer) == (400, "INVALID_DID", None)


async def test_dids_that_are_none_open_nothing(database_url: str) -> None:
    falsy = ['{"did":null}', '{"did":""}', '{"did":0}', '{"did":false}', '{"did":[]}', "{}"]
    bodies = [(body, "INVALID_REQUEST") for body in ("", "{", "null", "[]", '"did:key:a"', *falsy)]
    dids = ["did:key:", "did:Key:a", "did:key:a b", "did:key:a\n", " did:key:a", "key:a", "did:k:é"]
    bodies += [(json.dumps({"did": did}), "INVALID_DID") for did in (*dids, 7, ["x"], True)]
    bodies += [(json.dumps({"did": "did:key:" + "a" * 300}), "INVALID_DID")]
    async with open_house(database_url, QUIET) as house:
        for body, code in bodies:
            answer = await house.ledger.post("/accounts", content=body)
            assert refusal(answer) == (400, code, None), body
        assert await house.database.fetch("SELECT 1 FROM ledger_account") == []


async def test_dids_whose_ids_collide_have_accounts_of_their_own(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        first = await house.open_account("did:key:Aa")
        second = await house.open_account("did:key:BB")
        assert first == "acc_76c1a16a"
        assert second.startswith("acc_76c1a16a_")
        assert await house.open_account("did:key:BB") == second
        await recorded(house, "k1", account_id=second)
        assert (await house.available(first), await house.available(second)) == (0, 1000)


async def test_many_openings_of_one_did_at_once_are_one_account(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(house.open_account)
        assert len(await house.database.fetch("SELECT 1 FROM ledger_account")) == 1


async def test_the_key_is_looked_at_before_the_body(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for key in (None, "", "   "):
            answer = await ingest(house, b"{", key)
            assert refusal(answer) == (400, "MISSING_IDEMPOTENCY_KEY", None)
        answer = await ingest(house, b"{", " ", **{"x-idempotency-key": "\t"})
        assert refusal(answer) == (400, "MISSING_IDEMPOTENCY_KEY", None)
        assert refusal(await ingest(house, PAYIN, "k" * 513)) == (400, "INVALID_REQUEST", None)
        for body in (b"", b"{", b"null", b"[]", b"7", b'{"provider":"a\\u0000"}', b"\xff"):
            assert refusal(await ingest(house, body)) == (400, "INVALID_REQUEST", None), body


async def test_either_header_may_carry_the_idempotency_key(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        first = await ingest(house, PAYIN, " k1 ", **{"x-idempotency-key": "other"})
        assert first.json()["idempotency"]["key"] == "k1"
        for key in (None, " "):
            answer = await ingest(house, PAYIN, key, **{"x-idempotency-key": " k1"})
            assert answer.json()["idempotency"] == {"key": "k1", "replayed": True, "deduped": False}


async def test_fields_are_checked_in_the_contracts_order(database_url: str) -> None:
    bad: Json = {**dict.fromkeys(PAYIN, 7), "metadata": None}
    async with open_house(database_url, QUIET) as house:
        for name in (*PAYIN, "metadata"):
            answer = await ingest(house, bad)
            assert refusal(answer) == (400, "INVALID_REQUEST", None)
            assert answer.json()["error"].startswith(name)
            bad[name] = PAYIN.get(name, {})
        assert refusal(await ingest(house, bad)) == (404, "NOT_FOUND", {"field": "account_id"})


async def test_each_field_refuses_what_it_cannot_be(database_url: str) -> None:
    blank: list[object] = ["", "  ", None, 7, ["x"], "x" * 256]
    refused: dict[str, list[object]] = {
        **dict.fromkeys(("provider", "external_payment_id", "account_id"), blank),
        "direction": ["PAYIN", " payin", "", None, 1, ["payin"], {}],
        "status": ["Confirmed", "settled", None, True],
        "amount_minor": AMOUNTS_THAT_ARE_NONE,
        "currency": ["US", "USDT", "U$D", "", None, 840, "\u017fsd", "\uff35\uff33\uff24"],
        "metadata": [None, [], "x", 1],
    }
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        for name, values in refused.items():
            for value in values:
                answer = await ingest(house, {**PAYIN, name: value})
                assert refusal(answer) == (400, "INVALID_REQUEST", None), (name, value)
        answer = await ingest(house, {**PAYIN, "currency": "EUR"})
        assert refusal(answer) == (400, "UNSUPPORTED_CURRENCY", None)
        assert await house.database.fetch("SELECT 1 FROM ledger_ingestion") == []


async def test_a_confirmed_payin_is_answered_in_the_contracts_shape(database_url: str) -> None:
    given = {"network": " stripe ", "rail": "card", "metadata": {"order": 7, "a": None}}
    ignored = {"provider_created_at": 12, "provider_updated_at": " ", "other": 1}
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        sent = {**PAYIN, **given, **ignored, "provider": " stripe", "amount_minor": " 01000"}
        answer = await ingest(house, {**sent, "currency": "usd"})
        assert answer.status_code == 201
        body = answer.json()
        assert list(body) == ["settlement", "idempotency", "event"]
        settlement, event = body["settlement"], body["event"]
        at = {name: settlement.pop(name) for name in ("settled_at", "created_at", "updated_at")}
        assert settlement.pop("id").startswith("set_")
        assert settlement.pop("latest_event_id") == event["id"]
        assert settlement == {**PAYIN, **given, "network": "stripe"}
        assert body["idempotency"] == {"key": "k1", "replayed": False, "deduped": False}
        assert list(event) == ["id", "event_type", "event_hash", "created_at"]
        assert event["event_type"] == "payin_settle"
        assert set(at.values()) == {event["created_at"]}
        assert datetime.fromisoformat(event["created_at"]).tzinfo is not None


async def test_hashes_are_the_ones_callers_compute(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        body = await recorded(house, "k1", currency="usd")
        (row,) = await house.database.fetch("SELECT request_hash FROM ledger_ingestion")
        vector = "2970bf379c029aeb32b54a1886a5145fbec92dae4455d2a4df1a242eccd714a5"
        assert row["request_hash"] == vector
        key = f"payment_settlement:{body['settlement']['id']}:payin_settle"
        at = body["event"]["created_at"]
        text = f"{'0' * 64}|payin_settle|{ALICE}||1000|available|{key}|{at}"
        assert body["event"]["event_hash"] == hashlib.sha256(text.encode()).hexdigest()


async def test_a_replay_is_a_snapshot_and_another_request_under_its_key_a_conflict(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        first = await recorded(house, "k1")
        reversed_ = await ingest(house, {**PAYIN, "status": "reversed"}, "k2")
        assert reversed_.status_code == 201
        assert reversed_.json()["event"]["event_type"] == "payin_reverse"
        same = {**PAYIN, "currency": " usd", "amount_minor": "001000", "provider": "stripe "}
        for body in (PAYIN, same):
            again = await ingest(house, body)
            assert again.status_code == 200
            assert again.json()["idempotency"]["replayed"] is True
            assert again.json()["settlement"] == first["settlement"]
            assert again.json()["event"] == first["event"]
        changes: list[Json] = [{"amount_minor": "1001"}, {"status": "failed"}, {"metadata": {}}]
        for change in changes:
            answer = await ingest(house, {**PAYIN, **change})
            assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", None)
        assert await house.available(ALICE) == 0


async def test_the_same_news_under_another_key_is_deduped(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        first = await recorded(house, "k1", metadata={"first": True})
        answer = await ingest(house, {**PAYIN, "metadata": {"second": True}}, "k2")
        assert answer.status_code == 200
        assert answer.json() == {
            "settlement": first["settlement"],
            "idempotency": {"key": "k2", "replayed": False, "deduped": True},
        }
        replay = (await ingest(house, {**PAYIN, "metadata": {"second": True}}, "k2")).json()
        assert replay["idempotency"] == {"key": "k2", "replayed": True, "deduped": True}
        assert await house.available(ALICE) == 1000


async def test_refused_settlements_leave_no_trace(database_url: str) -> None:
    named = {"provider": "stripe", "external_payment_id": "pi_1", "direction": "payin"}
    short = {"bucket": "available", "requested": "1001", "available": "1000"}
    refused: list[tuple[Json, tuple[int, str, object]]] = [
        ({"account_id": BOB}, (409, "DUPLICATE_CONFLICT", named)),
        ({"amount_minor": "999", "status": "reversed"}, (409, "DUPLICATE_CONFLICT", named)),
        (
            {"status": "pending"},
            (409, "INVALID_STATUS_TRANSITION", {"from": "confirmed", "to": "pending"}),
        ),
        (
            {"direction": "refund", "external_payment_id": "re_1", "amount_minor": "1001"},
            (422, "INSUFFICIENT_FUNDS", {"account_id": ALICE, **short}),
        ),
        (
            {"external_payment_id": "pi_2", "account_id": "external:stripe:USD"},
            (404, "NOT_FOUND", {"field": "account_id"}),
        ),
    ]
    async with open_house(database_url, QUIET) as house:
        await house.open_account()
        await house.open_account("did:key:bob")
        await recorded(house, "k1")
        for change, expected in refused:
            assert refusal(await ingest(house, {**PAYIN, **change}, "k2")) == expected
        for external_id in ("re_1", "pi_2"):
            answer = await house.ledger.get(f"{LIST}/stripe/{external_id}")
            assert refusal(answer) == (404, "NOT_FOUND", None)
        # A key that only ever failed is free, for another request too.
        assert (await ingest(house, {**PAYIN, "external_payment_id": "pi_3"}, "k2")).is_success
        assert await house.available(ALICE) == 2000
