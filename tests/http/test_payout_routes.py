"""Payouts over HTTP: creating, reading, retrying, canceling, and every way to be refused."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from attrs import evolve

from clawsettle.config import AdminSettings, Settings
from clawsettle.domain.providers import Declined, Unanswered
from clawsettle.storage.bridge import Transaction
from tests.house import ADMIN, House, Json, open_house, settings
from tests.payouts import SIMULATED, Payee, balances, payee, payout_event
from tests.provider import Provider

PAYOUTS = "/v1/payouts"
ACTOR = f"key:{hashlib.sha256(b'settle_house').hexdigest()[:8]}"
KEYED = {**ADMIN, "idempotency-key": "key_1"}
CLOSED = settings(payouts=SIMULATED)
OPEN = settings(payouts=SIMULATED, auth={"payouts": "open"})
OFF = settings()


def body_of(one: Payee, **changes: Any) -> Json:
    order = {"account_id": one.account_id, "amount_minor": "1200", "currency": "USD", **changes}
    return {name: value for name, value in order.items() if value is not ...}


async def create(
    house: House,
    body: object,
    key: str | None = "key_1",
    headers: Mapping[str, str] = ADMIN,
) -> httpx.Response:
    keyed = {} if key is None else {"idempotency-key": key}
    return await house.settle.post(PAYOUTS, json=body, headers={**headers, **keyed})


async def created(house: House, one: Payee, key: str = "key_1", **changes: Any) -> Json:
    answer = await create(house, body_of(one, **changes), key)
    assert answer.status_code == 201, answer.text
    payout: Json = answer.json()["payout"]
    return payout


def refusal(answer: httpx.Response) -> tuple[int, str, object]:
    body = answer.json()
    return answer.status_code, body["code"], body.get("details")


def bad(field: str) -> tuple[int, str, object]:
    return 400, "INVALID_REQUEST", {"field": field}


@asynccontextmanager
async def site(
    database_url: str, configured: Settings = CLOSED, provider: Provider | None = None
) -> AsyncIterator[tuple[House, Payee]]:
    """A house with a funded account that may be paid out to, perhaps with a provider of ours."""
    async with open_house(database_url, configured) as house:
        if provider is not None:
            assert house.parts.payouts is not None
            house.parts.payouts.keeper.steps.provider = provider
            house.parts.payouts.onboarder.provider = provider
        yield house, await payee(house)


async def test_a_payout_is_created_and_answered_as_the_contract_has_it(database_url: str) -> None:
    async with site(database_url) as (house, one):
        answer = await create(house, body_of(one, metadata={"b": 1, "a": "x"}), "idem_payout_1")
        assert answer.status_code == 201
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert list(answer.json()) == ["ok", "deduped", "payout"]
        assert (answer.json()["ok"], answer.json()["deduped"]) == (True, False)
        payout = answer.json()["payout"]
        assert list(payout) == [
            *("id", "idempotency_key", "request_hash", "provider", "account_id", "account_did"),
            *("connect_account_id", "external_payout_id", "amount_minor", "currency", "status"),
            *("lock_idempotency_key", "lock_event_id", "finalize_idempotency_key"),
            *("rollback_idempotency_key", "metadata", "created_at", "updated_at", "submitted_at"),
        ]
        assert payout["id"] == "pout_e441ff0d7cd276eda27d75ca657c"
        assert payout["metadata"] == {"b": 1, "a": "x"}
        assert (payout["amount_minor"], payout["status"]) == ("1200", "submitted")
        assert await balances(house, one) == (3800, 1200)
        again = await create(house, body_of(one, metadata={"a": "x", "b": 1}), " idem_payout_1 ")
        assert (again.status_code, again.json()["deduped"]) == (200, True)
        assert again.json()["payout"] == payout
        assert await balances(house, one) == (3800, 1200)


async def test_leading_zeros_of_an_amount_mean_nothing(database_url: str) -> None:
    async with site(database_url) as (house, one):
        await created(house, one, amount_minor="01200")
        again = await create(house, body_of(one, amount_minor=" 1200 "))
        assert (again.status_code, again.json()["payout"]["amount_minor"]) == (200, "1200")


async def test_fifty_requests_at_once_are_one_payout_and_one_201(database_url: str) -> None:
    async with site(database_url) as (house, one):
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await create(house, body_of(one)))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
        assert len({answer.json()["payout"]["id"] for answer in answers}) == 1
        assert await balances(house, one) == (3800, 1200)


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
    async with site(database_url) as (house, one):
        answer = await house.settle.post(PAYOUTS, content=b"{", headers={**ADMIN, **headers})
        if not is_taken:
            assert refusal(answer) == bad("idempotency_key")
            return
        assert refusal(answer) == (400, "INVALID_REQUEST", None)
        answer = await house.settle.post(PAYOUTS, json=body_of(one), headers={**ADMIN, **headers})
        assert answer.status_code == 201


@pytest.mark.parametrize("content", ["{", "[]", "null", '"x"', '{"account_id":"a"} x', '{"a":NaN}'])
async def test_a_body_that_is_no_json_object_is_refused_without_details(
    database_url: str, content: str
) -> None:
    async with site(database_url) as (house, _):
        for path, headers in (
            (PAYOUTS, {"idempotency-key": "k"}),
            (f"{PAYOUTS}/connect/onboard", {}),
        ):
            answer = await house.settle.post(path, content=content, headers={**ADMIN, **headers})
            assert refusal(answer) == (400, "INVALID_REQUEST", None)


@pytest.mark.parametrize("content", ["", " \n\t", "{}"])
async def test_a_blank_body_counts_as_an_empty_object(database_url: str, content: str) -> None:
    async with site(database_url) as (house, _):
        for path, headers in (
            (PAYOUTS, {"idempotency-key": "k"}),
            (f"{PAYOUTS}/connect/onboard", {}),
        ):
            answer = await house.settle.post(path, content=content, headers={**ADMIN, **headers})
            assert refusal(answer) == bad("account_id")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"account_id": ..., "amount_minor": ...}, bad("account_id")),
        ({"account_id": " "}, bad("account_id")),
        ({"account_id": 7}, bad("account_id")),
        ({"amount_minor": ..., "currency": ...}, bad("amount_minor")),
        ({"amount_minor": 1200}, bad("amount_minor")),
        ({"amount_minor": " ", "currency": "EUR"}, bad("amount_minor")),
        ({"currency": ..., "amount_minor": "x"}, bad("currency")),
        ({"currency": "eur", "amount_minor": "x"},
         (400, "UNSUPPORTED_CURRENCY", {"currency": "EUR"})),
        ({"metadata": None, "amount_minor": "x"}, bad("metadata")),
        ({"metadata": []}, bad("metadata")),
        ({"amount_minor": "0"}, bad("amount_minor")),
        ({"amount_minor": "-1"}, bad("amount_minor")),
        ({"amount_minor": "1.0"}, bad("amount_minor")),
        ({"amount_minor": "\N{ARABIC-INDIC DIGIT ONE}"}, bad("amount_minor")),
        ({"amount_minor": str(2**63)}, bad("amount_minor")),
        ({"amount_minor": "0" * 300 + "1"}, bad("amount_minor")),
        ({"account_id": "acc_nobody"},
         (422, "PAYOUT_DESTINATION_NOT_CONFIGURED", {"account_id": "acc_nobody"})),
    ],
)  # fmt: skip
async def test_the_first_wrong_field_in_the_contracts_order_is_named(
    database_url: str, changes: dict[str, object], expected: tuple[int, str, object]
) -> None:
    async with site(database_url) as (house, one):
        assert refusal(await create(house, body_of(one, **changes))) == expected
        assert await house.database.fetch("SELECT 1 FROM payout") == []


async def test_a_currency_is_read_in_any_case(database_url: str) -> None:
    async with site(database_url) as (house, one):
        assert (await created(house, one, currency=" usd "))["currency"] == "USD"


async def test_one_key_for_two_payouts_is_refused(database_url: str) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        for changes in ({"amount_minor": "1201"}, {"metadata": {"a": 1}}):
            answer = await create(house, body_of(one, **changes))
            assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", {"payout_id": payout["id"]})


async def test_a_clash_with_somebody_elses_key_does_not_tell_his_payout(database_url: str) -> None:
    async with site(database_url) as (house, one):
        await created(house, one)
        other = await payee(house, did="did:key:bob")
        answer = await create(house, body_of(other))
        assert refusal(answer) == (409, "IDEMPOTENCY_KEY_REUSED", None)


async def test_what_the_balance_does_not_cover_is_refused_with_400(database_url: str) -> None:
    async with site(database_url) as (house, one):
        answer = await create(house, body_of(one, amount_minor="9000"))
        details = {
            "account_id": one.account_id,
            "amount_minor": "9000",
            "available_minor": "5000",
        }
        assert refusal(answer) == (400, "INSUFFICIENT_FUNDS", details)
        failed = await create(house, body_of(one, amount_minor="9000"))
        assert (failed.status_code, failed.json()["payout"]["status"]) == (200, "failed")
        assert failed.json()["payout"]["last_error_code"] == "INSUFFICIENT_FUNDS"


async def test_a_provider_that_refuses_is_502_and_the_money_goes_back(database_url: str) -> None:
    provider = Provider(outcome=Declined("balance_insufficient", "sk_live_1 is poor", 400))
    async with site(database_url, provider=provider) as (house, one):
        answer = await create(house, body_of(one))
        assert answer.status_code == 502
        assert answer.json()["code"] == "STRIPE_TRANSFER_FAILED"
        assert answer.json()["details"]["stripe_status"] == 400
        assert "sk_live_1" not in answer.text
        assert await balances(house, one) == (5000, 0)


async def test_a_provider_that_does_not_answer_is_502_and_the_payout_stays_known(
    database_url: str,
) -> None:
    provider = Provider(outcome=Unanswered("timed out"))
    async with site(database_url, provider=provider) as (house, one):
        answer = await create(house, body_of(one))
        assert (answer.status_code, answer.json()["code"]) == (502, "STRIPE_API_ERROR")
        payout_id = answer.json()["details"]["payout_id"]
        shown = await house.settle.get(f"{PAYOUTS}/{payout_id}", headers=ADMIN)
        assert shown.json()["payout"]["status"] in {"initiated", "submitted"}


async def test_what_takes_longer_than_the_deadline_is_answered_as_it_stands(
    database_url: str,
) -> None:
    provider = Provider(gate=trio.Event())
    configured = settings(payouts={**SIMULATED, "answer_deadline_s": 0.3})
    async with site(database_url, configured, provider) as (house, one):
        answer = await create(house, body_of(one))
        assert (answer.status_code, answer.json()["deduped"]) == (201, False)
        assert (answer.json()["payout"]["status"], answer.json()["payout"]["state"]) == (
            "initiated",
            "sending",
        )
        other = await create(house, body_of(one, amount_minor="1"))
        assert refusal(other)[:2] == (409, "IDEMPOTENCY_KEY_REUSED")
        path = f"{PAYOUTS}/{answer.json()['payout']['id']}"
        for action in ("retry", "cancel"):
            slow = await house.settle.post(f"{path}/{action}", headers=ADMIN)
            assert refusal(slow) == (503, "OVERLOADED", None)
            assert slow.headers["retry-after"] == "1"
        assert provider.gate is not None
        provider.gate.set()
        with trio.fail_after(5):
            while (await create(house, body_of(one))).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await balances(house, one) == (3800, 1200)


async def test_what_cannot_be_decided_in_time_tells_nothing_of_another_payout(
    database_url: str,
) -> None:
    async with site(database_url, settings(payouts={**SIMULATED, "answer_deadline_s": 0.3})) as (
        house,
        one,
    ):
        payout = await created(house, one)

        async def block(transaction: Transaction) -> None:
            await transaction.fetch("LOCK TABLE connect_account IN ACCESS EXCLUSIVE MODE")
            await transaction.fetch("SELECT pg_sleep(60)")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.database.transaction, block)
            with trio.fail_after(5):
                while not await house.database.fetch(  # noqa: ASYNC110 - nobody tells
                    "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
                    " AND relation = 'connect_account'::regclass"
                ):
                    await trio.sleep(0.01)
            same = await create(house, body_of(one))
            assert (same.status_code, same.json()["deduped"]) == (200, True)
            assert same.json()["payout"] == payout
            for other in (body_of(one, amount_minor="1"), body_of(one, account_id="acc_other")):
                assert refusal(await create(house, other)) == (503, "OVERLOADED", None)
            assert refusal(await create(house, body_of(one), "key_2")) == (503, "OVERLOADED", None)
            nursery.cancel_scope.cancel()


async def test_a_pending_account_is_asked_about_before_a_payout_is_refused(
    database_url: str,
) -> None:
    provider = Provider(active=False)
    async with site(database_url, provider=provider) as (house, one):
        await house.database.fetch("UPDATE connect_account SET onboarding_status = 'pending'")
        answer = await create(house, body_of(one))
        assert answer.status_code == 422
        assert answer.json()["code"] == "PAYOUT_DESTINATION_NOT_CONFIGURED"
        assert answer.json()["details"]["account_id"] == one.account_id
        assert [kind for kind, *_ in provider.asked] == ["refresh"]
        provider.active = True
        await created(house, one)


# Reading ----------------------------------------------------------------------------------------


async def test_a_payout_is_shown_with_its_audit_trail(database_url: str) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        await house.deliver(payout_event("payout.paid", "evt_1", payout))
        answer = await house.settle.get(f"{PAYOUTS}/{payout['id']}", headers=ADMIN)
        assert list(answer.json()) == ["ok", "payout", "audit_events"]
        assert answer.json()["payout"]["status"] == "paid"
        events = answer.json()["audit_events"]
        assert [event["id"] for event in events] == sorted(event["id"] for event in events)
        for event in events:
            assert list(event)[:6] == [
                *("id", "payout_id", "event_type", "event_idempotency_key", "details"),
                "created_at",
            ]
        by_type = {event["event_type"]: event for event in events}
        assert (
            by_type["payout.lock.applied"]["event_idempotency_key"]
            == (payout["lock_idempotency_key"])
        )
        assert by_type["payout.status.paid"]["event_idempotency_key"] is None
        assert by_type["payout.submitted"]["details"] == {
            "external_payout_id": payout["external_payout_id"],
            "connect_account_id": one.connect_account_id,
        }


async def test_the_audit_tells_what_the_provider_said_and_who_intervened(
    database_url: str,
) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        path = f"{PAYOUTS}/{payout['id']}"
        await house.settle.post(f"{path}/retry", headers=ADMIN)
        await house.deliver(payout_event("payout.paid", "evt_other", payout, amount=1))
        await house.deliver(payout_event("payout.paid", "evt_1", payout))
        answer = await house.settle.get(f"{path}/audit", headers=ADMIN)
        assert list(answer.json()) == [
            *("ok", "payout_id", "audit_events", "provider_events", "actions"),
        ]
        shown = await house.settle.get(path, headers=ADMIN)
        assert answer.json()["audit_events"] == shown.json()["audit_events"]
        other, paid = answer.json()["provider_events"]
        assert (other["event_id"], other["state"], other["amount_minor"]) == (
            "evt_other",
            "quarantined",
            "1",
        )
        assert "amount" in other["reason"]
        assert (paid["event_id"], paid["state"], paid["payout_id"]) == (
            "evt_1",
            "applied",
            payout["id"],
        )
        (retried,) = answer.json()["actions"]
        assert (retried["action"], retried["actor"]) == ("retry", ACTOR)


@pytest.mark.parametrize("tail", ["", "/audit"])
async def test_an_unknown_payout_is_404(database_url: str, tail: str) -> None:
    async with site(database_url) as (house, _):
        answer = await house.settle.get(f"{PAYOUTS}/pout%2F1{tail}", headers=ADMIN)
        assert refusal(answer) == (404, "NOT_FOUND", {"payout_id": "pout/1"})


# Acting -----------------------------------------------------------------------------------------


async def test_a_retry_of_what_waits_or_has_ended_does_nothing(database_url: str) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        path = f"{PAYOUTS}/{payout['id']}/retry"
        answer = await house.settle.post(path, content=b"no json", headers=ADMIN)
        assert answer.status_code == 200
        assert list(answer.json().items()) == [
            ("ok", True),
            ("payout_id", payout["id"]),
            ("previous_status", "submitted"),
            ("status", "submitted"),
            ("retried", False),
        ]
        await house.deliver(payout_event("payout.paid", "evt_1", payout))
        answer = await house.settle.post(path, headers=ADMIN)
        assert (answer.json()["status"], answer.json()["retried"]) == ("paid", False)


async def test_a_payout_is_canceled_and_who_did_it_is_kept(database_url: str) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        path = f"{PAYOUTS}/{payout['id']}"
        answer = await house.settle.post(
            f"{path}/cancel", json={"why": " wrong account ", "by": "Ann"}, headers=ADMIN
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["ok"] is True
        assert answer.json()["payout"]["status"] in {"finalizing_failed", "failed"}
        assert answer.json()["payout"]["state"] in {"finalizing_canceled", "canceled"}
        audit = await house.settle.get(f"{path}/audit", headers=ADMIN)
        (action,) = audit.json()["actions"]
        assert {name: action[name] for name in ("action", "actor", "by", "why")} == {
            "action": "cancel",
            "actor": ACTOR,
            "by": "Ann",
            "why": "wrong account",
        }
        again = await house.settle.post(f"{path}/cancel", headers=ADMIN)
        assert again.status_code == 200
        assert await balances(house, one) == (5000, 0)


async def test_a_paid_payout_cannot_be_canceled(database_url: str) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        await house.deliver(payout_event("payout.paid", "evt_1", payout))
        answer = await house.settle.post(f"{PAYOUTS}/{payout['id']}/cancel", headers=ADMIN)
        assert answer.status_code == 409
        assert answer.json()["code"] == "INVALID_STATUS_TRANSITION"
        assert answer.json()["details"]["from_status"] == "paid"
        assert await balances(house, one) == (3800, 0)


@pytest.mark.parametrize("action", ["retry", "cancel"])
async def test_nobody_acts_on_a_payout_that_does_not_exist(database_url: str, action: str) -> None:
    async with site(database_url) as (house, _):
        answer = await house.settle.post(f"{PAYOUTS}/pout_1/{action}", headers=ADMIN)
        assert refusal(answer) == (404, "NOT_FOUND", {"payout_id": "pout_1"})
        assert await house.database.fetch("SELECT 1 FROM operator_action") == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", (400, "INVALID_REQUEST", None)),
        ("[]", (400, "INVALID_REQUEST", None)),
        ('{"why":" "}', bad("why")),
        ('{"why":null}', bad("why")),
        ('{"by":""}', bad("by")),
    ],
)
async def test_a_bad_reason_cancels_nothing(
    database_url: str, content: str, expected: tuple[int, str, object]
) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
        path = f"{PAYOUTS}/{payout['id']}"
        answer = await house.settle.post(f"{path}/cancel", content=content, headers=ADMIN)
        assert refusal(answer) == expected
        shown = await house.settle.get(path, headers=ADMIN)
        assert shown.json()["payout"]["status"] == "submitted"


# Who may ----------------------------------------------------------------------------------------

ROUTES = (
    ("POST", "/connect/onboard"),
    ("POST", ""),
    ("GET", "/pout_1"),
    ("GET", "/pout_1/audit"),
    ("POST", "/pout_1/retry"),
    ("POST", "/pout_1/cancel"),
    ("GET", ""),
    ("GET", "/ops/stuck"),
    ("GET", "/ops/failed"),
    ("GET", "/ops/events"),
)
OPENED = ROUTES[:3]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_is_closed_by_default(database_url: str, method: str, path: str) -> None:
    async with open_house(database_url, CLOSED) as house:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-admin-key": "settle_house"}):
            answer = await house.settle.request(method, PAYOUTS + path, headers=headers)
            assert refusal(answer) == (401, "UNAUTHORIZED", None)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_configured_every_route_is_503(
    database_url: str, method: str, path: str
) -> None:
    async with open_house(database_url, evolve(CLOSED, admin=AdminSettings())) as house:
        answer = await house.settle.request(method, PAYOUTS + path, headers=ADMIN)
        assert refusal(answer) == (
            503,
            "DEPENDENCY_NOT_CONFIGURED",
            {"field": "env.SETTLE_ADMIN_KEY"},
        )


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_open_payouts_open_three_routes_and_no_more(
    database_url: str, method: str, path: str
) -> None:
    async with open_house(database_url, OPEN) as house:
        answer = await house.settle.request(method, PAYOUTS + path)
        assert (answer.status_code != 401) is ((method, path) in OPENED)
        document = (await house.settle.get("/openapi.json")).json()
        template = PAYOUTS + path.replace("pout_1", "{id}")
        operation = document["paths"][template][method.lower()]
        assert (operation["security"] == []) is ((method, path) in OPENED)


async def test_an_open_daemon_creates_and_shows_a_payout_without_a_key(database_url: str) -> None:
    async with site(database_url, OPEN) as (house, one):
        answer = await create(house, body_of(one), headers={})
        assert answer.status_code == 201
        shown = await house.settle.get(f"{PAYOUTS}/{answer.json()['payout']['id']}")
        assert shown.status_code == 200


@pytest.mark.parametrize("path", ["", "/connect/onboard", "/{id}/retry", "/{id}/cancel"])
async def test_without_a_provider_nothing_is_begun_and_everything_can_be_read(
    database_url: str, path: str
) -> None:
    async with site(database_url) as (house, one):
        payout = await created(house, one)
    async with open_house(database_url, OFF) as house:
        answer = await house.settle.post(
            PAYOUTS + path.format(id=payout["id"]), content=b"{", headers=ADMIN
        )
        if path.endswith("cancel"):
            answer = await house.settle.post(f"{PAYOUTS}/{payout['id']}/cancel", headers=ADMIN)
        assert refusal(answer) == (
            503,
            "DEPENDENCY_NOT_CONFIGURED",
            {"field": "payouts.provider"},
        )
        shown = await house.settle.get(f"{PAYOUTS}/{payout['id']}", headers=ADMIN)
        assert shown.status_code == 200
        assert shown.json()["payout"]["id"] == payout["id"]
        stuck = await house.settle.get(
            f"{PAYOUTS}/ops/stuck", params={"older_than_minutes": "0"}, headers=ADMIN
        )
        assert [one["id"] for one in stuck.json()["payouts"]] == [payout["id"]]
        assert await house.database.fetch("SELECT 1 FROM operator_action") == []


async def test_a_route_that_is_none_is_404(database_url: str) -> None:
    async with open_house(database_url, CLOSED) as house:
        for method, path in (
            ("GET", "/v1/payouts/"),
            ("DELETE", "/v1/payouts/pout_1"),
            ("POST", "/v1/payouts/ops/stuck/"),
            ("POST", "/v1/payouts/pout_1/retry/"),
        ):
            answer = await house.settle.request(method, path, headers=ADMIN)
            assert refusal(answer) == (404, "NOT_FOUND", None)
