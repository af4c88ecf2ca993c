"""Recording loss events over HTTP, resolving them, and having deliveries made again."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from attrs import evolve

from clawsettle.config import AdminSettings, DaemonSettings, Secret
from clawsettle.domain.loss_events import Target
from tests.house import ADMIN, House, Json
from tests.http.loss_site import (
    BODY,
    EVENTS,
    NO_DETAILS,
    REFUSED,
    REQUEUE,
    RETRY,
    UNKNOWN_ID,
    ask,
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
from tests.losses import HANG, Targets, answer, loss_settings, until

NAMED = {"escrow_id": "esc_1", "bounty_id": "bty_1"}
UNINSURED = answer(404, {"error": "NOT_FOUND", "message": "no policy"})
NOT_CLAIMABLE = answer(409, {"error": "POLICY_NOT_CLAIMABLE", "message": "lapsed"})
DOWN = answer(503, {"error": "DOWN", "message": "later"})
EVENT_FIELDS = [
    *("loss_event_id", "source_service", "source_event_id", "account_did", "account_id"),
    *("amount_minor", "currency", "reason_code", "severity", "occurred_at", "metadata", "status"),
    *("target_count", "forwarded_count", "failed_count", "created_at", "updated_at"),
    "last_forwarded_at",
]
ENTRY_FIELDS = [
    *("outbox_id", "loss_event_id", "target_service", "target_url", "status", "attempts"),
    *("last_http_status", "last_error_code", "last_error_message", "next_retry_at"),
    *("forwarded_at", "created_at", "updated_at"),
]
RESOLUTION_FIELDS = [
    *("resolution_id", "loss_event_id", "reason", "status", "target_count", "forwarded_count"),
    *("failed_count", "created_at", "updated_at", "last_forwarded_at", "resolved_at"),
]
POSTS = (EVENTS, f"{EVENTS}/{UNKNOWN_ID}/resolve", RETRY, REQUEUE)


async def is_untouched(house: House) -> bool:
    """Return whether no event was stored."""
    return not await house.database.fetch("SELECT 1 FROM loss_event")


async def tried(house: House, **options: object) -> Json:
    """Have deliveries attempted now."""
    told = await house.settle.post(RETRY, json=options, headers=ADMIN)
    assert told.status_code == 200, told.text
    body: Json = told.json()
    return body


def counts(attempted: int, forwarded: int, failed: int) -> Json:
    return {"ok": True, "attempted": attempted, "forwarded": forwarded, "failed": failed}


# Recording ----------------------------------------------------------------------------------------


async def test_a_new_event_is_told_with_all_the_contracts_members(database_url: str) -> None:
    async with open_site(database_url) as (house, targets):
        body = {
            **BODY,
            "account_did": "did:key:zA",
            "account_id": "acc_1",
            "occurred_at": "2026-02-12",
        }
        told = await ask(house, body)
        assert told.status_code == 201
        answered = told.json()
        assert list(answered) == ["ok", "deduped", "event", "outbox"]
        event = answered["event"]
        assert (answered["ok"], answered["deduped"]) == (True, False)
        assert list(event) == EVENT_FIELDS
        assert event["loss_event_id"] == "lse_821110027e02533693ac2f5e"
        assert (event["status"], event["target_count"]) == ("recorded", 3)
        assert (event["severity"], event["metadata"]) == ("high", {})
        assert event["occurred_at"] == "2026-02-12T00:00:00.000Z"
        assert event["last_forwarded_at"] is None
        for one in answered["outbox"]:
            assert list(one)[: len(ENTRY_FIELDS)] == ENTRY_FIELDS
            assert (one["status"], one["forwarded_at"], one["alert"]) == ("pending", None, None)
            assert one["created_at"] == event["created_at"]
        ids = [one["outbox_id"] for one in answered["outbox"]]
        assert ids == sorted(ids)
        assert entry(answered, "ledger")["outbox_id"] == "lso_a7205bc5f64f855c6fd3e159"
        # The embedded ledger has no address.
        assert entry(answered, "ledger")["target_url"] == "/v1/risk/holds/apply"
        claims = f"{targets.base_url}/clawinsure/v1/claims/auto"
        assert entry(answered, "clawinsure")["target_url"] == claims


async def test_what_was_recorded_is_delivered_while_nobody_asks(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        event_id = await recorded(house, metadata={**NAMED, "escrow_id": "esc/1"})
        told = await quiet(house, event_id)
        assert told["event"]["status"] == "forwarded"
        assert told["event"]["forwarded_count"] == 5
        assert told["event"]["last_forwarded_at"] is not None
        for one in told["outbox"]:
            assert (one["status"], one["terminal"], one["next_retry_at"]) == (
                "forwarded",
                True,
                None,
            )
            assert one["forwarded_at"] is not None
        assert entry(told, "escrow")["target_url"].endswith("/v1/escrows/esc%2F1/risk-hold")


async def test_a_hanging_target_keeps_no_answer_waiting(database_url: str) -> None:
    async with open_site(database_url, attempt_timeout_s=2.0) as (house, targets):
        targets.script[Target.CLAWINSURE] = HANG
        with trio.fail_after(1.5):
            await recorded(house)


async def test_a_replay_is_answered_200_with_how_it_stands(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        first = (await ask(house)).json()
        await quiet(house, first["event"]["loss_event_id"])
        again = await ask(house)
        assert again.status_code == 200
        assert again.json()["deduped"] is True
        assert again.json()["event"]["status"] == "forwarded"
        assert again.json()["event"]["occurred_at"] == first["event"]["occurred_at"]
        assert [one["status"] for one in again.json()["outbox"]] == ["forwarded"] * 3


async def test_identical_requests_at_once_are_one_event(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        statuses: list[int] = []

        async def create() -> None:
            statuses.append((await ask(house)).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(create)
        assert sorted(statuses) == [200] * 7 + [201]


async def test_a_key_or_a_source_stands_for_one_event(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        event_id = (await ask(house)).json()["event"]["loss_event_id"]
        other = await ask(house, {**BODY, "amount_minor": "251"})
        details: dict[str, object] = {"idempotency_key": "k1", "existing_loss_event_id": event_id}
        assert refusal(other) == (409, "IDEMPOTENCY_CONFLICT", details)
        status, code, told = refusal(await ask(house, key="k2"))
        assert (status, code) == (409, "IDEMPOTENCY_CONFLICT")
        assert isinstance(told, dict)
        assert told["existing_loss_event_id"] == event_id


async def test_without_its_targets_an_event_is_recorded_and_waits(database_url: str) -> None:
    without = [Target.CLAWINSURE]
    async with open_site(database_url, without=without) as (house, targets):
        event_id = await recorded(house, targets=["clawinsure", "clawincome", "clawinsure"])
        told = await quiet(house, event_id)
        assert told["event"]["target_count"] == 2
        waiting = entry(told, "clawinsure")
        assert (waiting["status"], waiting["state"]) == ("pending", "waiting")
        assert (waiting["terminal"], waiting["alert"]) == (False, "unconfigured")
        assert waiting["last_error_code"] == "DEPENDENCY_NOT_CONFIGURED"
        assert waiting["target_url"] == "/v1/claims/auto"
        assert told["alerts"] == ["unconfigured"]
        assert [target for target, _ in targets.asked] == [Target.CLAWINCOME]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", bad("source_service")),
        ("  ", bad("source_service")),
        ("{}", bad("source_service")),
        ("{", NO_DETAILS),
        ("[]", NO_DETAILS),
        ("null", NO_DETAILS),
        ('"x"', NO_DETAILS),
    ],
)
async def test_a_body_that_is_no_order_is_refused(
    database_url: str, content: str, expected: tuple[int, str, object]
) -> None:
    async with open_site(database_url) as (house, _):
        headers = {**ADMIN, "idempotency-key": "k1"}
        told = await house.settle.post(EVENTS, content=content, headers=headers)
        assert refusal(told) == expected
        assert await is_untouched(house)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"account_did": "zA"}, bad("account_did")),
        ({"amount_minor": 250, "currency": "EUR"}, bad("amount_minor")),
        ({"metadata": {"big": "x" * 70_000}}, bad("metadata")),
        ({"targets": ["escrow"]}, bad("metadata.escrow_id")),
        ({"targets": ["nobody"]}, bad("targets")),
        ({"currency": "EUR"},
         (400, "UNSUPPORTED_CURRENCY", {"field": "currency", "value": "EUR"})),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named_and_nothing_is_stored(
    database_url: str, changed: Mapping[str, Any], expected: tuple[int, str, object]
) -> None:
    async with open_site(database_url) as (house, _):
        assert refusal(await ask(house, {**BODY, **changed})) == expected
        assert await is_untouched(house)


async def test_a_body_beyond_the_ports_bound_is_refused(database_url: str) -> None:
    small = evolve(loss_settings(), daemon=DaemonSettings(body_max_bytes=4096))
    async with open_site(database_url, small) as (house, _):
        told = await ask(house, {**BODY, "metadata": {"big": "x" * 5000}})
        assert (told.status_code, told.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("path", [EVENTS, f"{EVENTS}/{UNKNOWN_ID}/resolve"])
@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"idempotency-key": " k "}, True),
        ({"x-idempotency-key": "k"}, True),
        ({"idempotency-key": "k", "x-idempotency-key": ""}, True),
        ({"idempotency-key": "x" * 255}, True),
        ({}, False),
        ({"idempotency-key": "  "}, False),
        ({"idempotency-key": "", "x-idempotency-key": "k"}, False),
        ({"idempotency-key": "x" * 256}, False),
    ],
)
async def test_a_key_is_required_and_looked_at_before_the_body(
    database_url: str, path: str, headers: dict[str, str], is_taken: bool
) -> None:
    async with open_site(database_url) as (house, _):
        told = await house.settle.post(path, content="{", headers={**ADMIN, **headers})
        assert refusal(told) == (NO_DETAILS if is_taken else bad("idempotency_key"))


async def test_only_a_settle_admins_bearer_token_opens_what_changes_something(
    database_url: str,
) -> None:
    tokens = (Secret("reader"),)
    async with open_site(database_url, loss_settings(read_tokens=tokens)) as (house, _):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer reader"},
            {"authorization": "settle_house"},
            {"x-admin-key": "settle_house"},
        ):
            for path in POSTS:
                told = await house.settle.post(path, content="{", headers=headers)
                assert refusal(told) == REFUSED, (path, headers)
        for path in POSTS:
            told = await house.settle.post(
                path, content="{", headers={"authorization": "bearer  settle_house"}
            )
            assert told.status_code != 401, path


async def test_without_admin_keys_what_changes_something_is_closed(database_url: str) -> None:
    keyless = evolve(loss_settings(read_tokens=(Secret("reader"),)), admin=AdminSettings(keys=()))
    async with open_site(database_url, keyless) as (house, _):
        for path in POSTS:
            told = await house.settle.post(path, headers={"authorization": "Bearer reader"})
            assert refusal(told) == (
                503,
                "DEPENDENCY_NOT_CONFIGURED",
                {"field": "env.SETTLE_ADMIN_KEY"},
            )


async def test_what_is_wrong_inside_stays_inside(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        await house.database.fetch("ALTER TABLE loss_delivery RENAME TO hidden")
        try:
            told = await ask(house)
        finally:
            await house.database.fetch("ALTER TABLE hidden RENAME TO loss_delivery")
        assert (told.status_code, told.json()["code"]) == (500, "INTERNAL_ERROR")
        assert "loss_delivery" not in told.text
        assert list(told.json()["details"]) == ["correlation_id"]
        assert await is_untouched(house)


# Resolving ----------------------------------------------------------------------------------------


async def test_resolving_releases_what_was_applied_until_nothing_is_held(
    database_url: str,
) -> None:
    async with open_site(database_url) as (house, targets):
        event_id = await recorded(house, metadata=NAMED)
        held = await quiet(house, event_id)
        assert held["resolution"] is None
        assert held["residual_minor"] == "750"
        told = await resolve(house, event_id, {"reason": " dispute won "})
        assert told.status_code == 201
        body = told.json()
        assert list(body) == ["ok", "deduped", "event", "resolution", "outbox"]
        assert (body["deduped"], body["event"]["loss_event_id"]) == (False, event_id)
        assert list(body["resolution"]) == RESOLUTION_FIELDS
        assert body["resolution"]["reason"] == "dispute won"
        assert {one["target_service"] for one in body["outbox"]} == {
            *("ledger", "escrow", "clawincome", "clawbounties")
        }
        over = await quiet(house, event_id)
        assert over["event"]["status"] == "forwarded"
        assert over["resolution"]["status"] == "forwarded"
        assert over["resolution"]["resolved_at"] is not None
        assert {one["operation"] for one in over["outbox"]} == {"apply"}
        assert {one["operation"] for one in over["resolution"]["outbox"]} == {"resolve"}
        assert over["residual_minor"] == "0"
        remains = {one["target_service"]: one for one in over["residuals"]}
        assert remains["ledger"] == {
            "target_service": "ledger",
            "applied_minor": "250",
            "released_minor": "250",
            "residual_minor": "0",
            "uncertain": False,
            "not_undone": None,
        }
        assert remains["clawinsure"]["not_undone"] == "claim"
        assert remains["clawbounties"]["not_undone"] == "bounty_disputed"
        assert targets.bodies(Target.ESCROW)[1]["reason"] == "dispute won"


async def test_a_resolution_is_replayed_by_its_key_alone(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        event_id = await recorded(house)
        await quiet(house, event_id)
        first = (await resolve(house, event_id)).json()["resolution"]
        again = await resolve(house, event_id)
        assert (again.status_code, again.json()["deduped"]) == (200, True)
        assert again.json()["resolution"]["resolution_id"] == first["resolution_id"]
        for body, key in (({"reason": "another"}, "rk1"), ({}, "rk2")):
            status, code, details = refusal(await resolve(house, event_id, body, key))
            assert (status, code) == (409, "IDEMPOTENCY_CONFLICT")
            assert isinstance(details, dict)
            assert details["existing_resolution_id"] == first["resolution_id"]


async def test_who_refuses_for_good_or_has_nothing_to_do_keeps_no_event_from_being_resolved(
    database_url: str,
) -> None:
    async with open_site(database_url) as (house, targets):
        targets.script[Target.CLAWINSURE] = NOT_CLAIMABLE
        event_id = await recorded(house)
        told = await quiet(house, event_id)
        assert told["event"]["status"] == "partially_forwarded"
        dead = entry(told, "clawinsure")
        assert (dead["status"], dead["state"], dead["alert"]) == ("failed", "dead", "refused")
        assert (dead["terminal"], dead["next_retry_at"]) == (True, None)
        assert (await resolve(house, event_id)).status_code == 201
        over = await quiet(house, event_id)
        assert entry(over, "clawinsure")["status"] == "canceled"
        assert (over["residual_minor"], over["alerts"]) == ("0", [])


async def test_an_uninsured_account_is_not_applicable(database_url: str) -> None:
    async with open_site(database_url) as (house, targets):
        targets.script[Target.CLAWINSURE] = UNINSURED
        told = await quiet(house, await recorded(house))
        assert told["event"]["status"] == "forwarded"
        assert entry(told, "clawinsure")["status"] == "not_applicable"


async def test_while_somebody_can_still_be_told_an_event_is_not_ready(database_url: str) -> None:
    async with open_site(database_url) as (house, targets):
        targets.script[Target.CLAWINSURE] = DOWN
        event_id = await recorded(house)
        told = await quiet(house, event_id)
        failed = entry(told, "clawinsure")
        assert (failed["status"], failed["state"], failed["terminal"]) == ("failed",) * 2 + (False,)
        assert failed["next_retry_at"] is not None
        for body in ({}, {"reason": 7}):
            assert refusal(await resolve(house, event_id, body)) == (
                409,
                "LOSS_EVENT_NOT_READY",
                {
                    "loss_event_id": event_id,
                    "status": "partially_forwarded",
                    "open_targets": ["clawinsure"],
                },
            )


@pytest.mark.parametrize("body", [{"reason": 7}, {"reason": " "}, [], "x"])
async def test_a_bad_reason_is_told_of_an_event_that_can_be_resolved(
    database_url: str, body: object
) -> None:
    unknown = (404, "NOT_FOUND", {"loss_event_id": UNKNOWN_ID})
    async with open_site(database_url) as (house, _):
        assert refusal(await resolve(house, UNKNOWN_ID, body)) == unknown
        event_id = await recorded(house)
        await quiet(house, event_id)
        expected = bad("reason") if isinstance(body, dict) else NO_DETAILS
        assert refusal(await resolve(house, event_id, body)) == expected
        assert (await found(house, event_id))["resolution"] is None


# Trying again -------------------------------------------------------------------------------------


async def waiting(house: House, targets: Targets) -> str:
    """Record an event whose insurer was down and is back, and return its id."""
    targets.script[Target.CLAWINSURE] = [DOWN]
    event_id = await recorded(house)
    told = await quiet(house, event_id)
    assert entry(told, "clawinsure")["state"] == "failed"
    return event_id


async def test_force_takes_the_deliveries_of_one_event_before_their_time(
    database_url: str,
) -> None:
    async with open_site(database_url) as (house, targets):
        event_id = await waiting(house, targets)
        assert await tried(house) == counts(0, 0, 0)
        assert await tried(house, force=True) == counts(0, 0, 0)
        assert await tried(house, loss_event_id=event_id) == counts(0, 0, 0)
        assert await tried(house, loss_event_id=UNKNOWN_ID, force=True) == counts(0, 0, 0)
        resolves = await tried(house, loss_event_id=event_id, force=True, operation=" RESOLVE ")
        assert resolves == counts(0, 0, 0)
        assert await tried(house, loss_event_id=event_id, force=True) == counts(1, 1, 0)
        assert (await found(house, event_id))["event"]["status"] == "forwarded"


async def test_a_retry_takes_what_is_due_up_to_its_limit(database_url: str) -> None:
    async with open_site(database_url, retry_batch_limit=2) as (house, targets):
        targets.script[Target.CLAWINCOME] = [DOWN] * 4
        for place in range(4):
            await quiet(house, await recorded(house, f"k{place}", targets=["clawincome"]))
        await house.database.fetch(
            "UPDATE loss_delivery SET due_at = now() WHERE due_at IS NOT NULL"
        )
        targets.script[Target.CLAWINCOME] = [answer(400, {"error": "NO", "message": "never"})]
        assert await tried(house, limit=1) == counts(1, 0, 1)
        assert await tried(house) == counts(2, 2, 0)
        assert await tried(house, limit=10**6) == counts(1, 1, 0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", NO_DETAILS),
        ("[]", NO_DETAILS),
        ("null", NO_DETAILS),
        ('{"operation":"undo"}', bad("operation")),
        ('{"limit":null}', bad("limit")),
        ('{"limit":0}', bad("limit")),
        ('{"limit":true}', bad("limit")),
        ('{"loss_event_id":" "}', bad("loss_event_id")),
    ],
)
async def test_a_bad_retry_is_refused_where_its_body_is_json_by_its_type(
    database_url: str, content: str, expected: tuple[int, str, object]
) -> None:
    async with open_site(database_url) as (house, _):
        for content_type in ("application/json", "Application/JSON; charset=utf-8"):
            headers = {**ADMIN, "content-type": content_type}
            told = await house.settle.post(RETRY, content=content, headers=headers)
            assert refusal(told) == expected
        for headers in (ADMIN, {**ADMIN, "content-type": "text/plain"}):
            told = await house.settle.post(RETRY, content=content, headers=headers)
            assert told.json() == counts(0, 0, 0)


# Bringing back ------------------------------------------------------------------------------------


async def test_what_is_dead_is_brought_back_in_an_operators_name(database_url: str) -> None:
    async with open_site(database_url) as (house, targets):
        targets.script[Target.CLAWINSURE] = [NOT_CLAIMABLE]
        event_id = await recorded(house)
        dead = entry(await quiet(house, event_id), "clawinsure")
        asked = {
            "why": "policy renewed",
            "by": "alice",
            "target_service": "clawinsure",
            "operation": "apply",
        }
        told = await ask(house, asked, None, path=REQUEUE)
        assert told.status_code == 200
        (back,) = told.json()["outbox"]
        assert (back["outbox_id"], back["status"]) == (dead["outbox_id"], "pending")
        assert (back["attempts"], back["terminal"]) == (0, False)
        await until(lambda: len(targets.keys(Target.CLAWINSURE)) == 2)
        assert (await quiet(house, event_id))["event"]["status"] == "forwarded"
        (action,) = (await quiet(house, event_id))["actions"]
        assert (action["action"], action["by"], action["why"]) == (
            "requeue",
            "alice",
            "policy renewed",
        )
        assert action["actor"].startswith("key:")


async def test_a_requeue_finds_nothing_where_nothing_is_dead(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        event_id = await recorded(house)
        told = await quiet(house, event_id)
        for named in ({"target_service": "ledger"}, {"loss_event_id": event_id}):
            none = await ask(house, {"why": "x", **named}, None, path=REQUEUE)
            assert (none.status_code, none.json()) == (200, {"ok": True, "outbox": []})
        by_id = {"why": "x", "outbox_id": entry(told, "ledger")["outbox_id"]}
        refused = await ask(house, by_id, None, path=REQUEUE)
        assert refused.status_code == 409
        assert refused.json()["code"] == "INVALID_STATUS_TRANSITION"
        nobody = await ask(house, {"why": "x", "outbox_id": "lso_nobody"}, None, path=REQUEUE)
        assert (nobody.status_code, nobody.json()["code"]) == (404, "NOT_FOUND")
        assert await house.database.fetch("SELECT 1 FROM operator_action") == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", NO_DETAILS),
        ("[]", NO_DETAILS),
        ('{"target_service":"ledger"}', bad("why")),
        ('{"why":"x"}', bad("loss_event_id")),
        ('{"why":"x","by":""}', bad("by")),
        ('{"why":"x","target_service":"nobody"}', bad("target_service")),
        ('{"why":"x","target_service":"ledger","limit":0}', bad("limit")),
        ('{"why":"x","target_service":"ledger","operation":"undo"}', bad("operation")),
    ],
)
async def test_a_requeue_says_why_and_of_what(
    database_url: str, content: str, expected: tuple[int, str, object]
) -> None:
    async with open_site(database_url) as (house, _):
        told = await house.settle.post(REQUEUE, content=content, headers=ADMIN)
        assert refusal(told) == expected


async def test_paths_are_matched_exactly(database_url: str) -> None:
    async with open_site(database_url) as (house, _):
        for method, path in (
            ("GET", f"{EVENTS}/"),
            ("PUT", EVENTS),
            ("GET", RETRY),
            ("POST", f"{EVENTS}/{UNKNOWN_ID}"),
            ("GET", f"{EVENTS}/{UNKNOWN_ID}/resolve"),
        ):
            told = await house.settle.request(method, f"http://house{path}", headers=ADMIN)
            assert refusal(told) == (404, "NOT_FOUND", None), (method, path)
        assert (await get(house, f"{EVENTS}/%zz")).status_code == 500
