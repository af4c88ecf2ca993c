"""The daemon's own pages, its readiness, and the retry route: every form of asking and refusing."""

from collections.abc import Mapping
from html.parser import HTMLParser

import httpx
import trio
from attrs import evolve

from clawsettle.config import AdminSettings, DaemonSettings, Secret
from tests.clients import proxied
from tests.house import ADMIN, House, Json, open_house, payin, settings

RETRY = "/v1/stripe/forwarding/retry"
ROUTES = {
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/stripe/webhook"),
    ("POST", RETRY),
    ("GET", "/v1/dead-letters"),
    ("GET", "/v1/dead-letters/{id}"),
    ("POST", "/v1/dead-letters/{id}/requeue"),
    ("POST", "/v1/dead-letters/{id}/discard"),
    ("POST", "/v1/payouts/connect/onboard"),
    ("POST", "/v1/payouts"),
    ("GET", "/v1/payouts"),
    ("GET", "/v1/payouts/{id}"),
    ("GET", "/v1/payouts/{id}/audit"),
    ("POST", "/v1/payouts/{id}/retry"),
    ("POST", "/v1/payouts/{id}/cancel"),
    ("GET", "/v1/payouts/ops/stuck"),
    ("GET", "/v1/payouts/ops/failed"),
    ("GET", "/v1/payouts/ops/events"),
    ("GET", "/v1/reconciliation/payouts/daily"),
    ("GET", "/v1/reconciliation/payouts/compare"),
    ("POST", "/v1/netting/runs"),
    ("GET", "/v1/netting/runs"),
    ("GET", "/v1/netting/runs/{id}"),
    ("GET", "/v1/netting/runs/{id}/audit"),
    ("GET", "/v1/netting/runs/{id}/report"),
    ("POST", "/v1/netting/runs/{id}/resume"),
    ("POST", "/v1/netting/runs/{id}/release"),
    ("POST", "/v1/loss-events"),
    ("GET", "/v1/loss-events"),
    ("GET", "/v1/loss-events/{id}"),
    ("GET", "/v1/loss-events/outbox"),
    ("POST", "/v1/loss-events/{id}/resolve"),
    ("POST", "/v1/loss-events/ops/retry"),
    ("POST", "/v1/loss-events/outbox/requeue"),
}
QUIET = settings(forwarding={"poll_s": 3600.0})
_ADD_DUE_ROWS = """
    WITH event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        SELECT 'evt_' || n, 'payment_intent.succeeded', false, sha256('x'), 'forwarded'
        FROM generate_series(1, $1::integer) AS n
    )
    INSERT INTO settlement_outbox (event_id, payload, due_at)
    SELECT 'evt_' || n, json_build_object(
        'provider', 'stripe', 'external_payment_id', 'pi_' || n, 'direction', 'payin',
        'status', 'confirmed', 'account_id', $2::text, 'amount_minor', '1', 'currency', 'USD'
    ), now() FROM generate_series(1, $1::integer) AS n
"""


async def asked(
    house: House,
    body: bytes | str = b"",
    *,
    content_type: str | None = "application/json",
    headers: Mapping[str, str] = ADMIN,
) -> httpx.Response:
    """Ask for a retry with exactly this body and content type."""
    typed = {} if content_type is None else {"content-type": content_type}
    return await house.settle.post(RETRY, content=body, headers={**headers, **typed})


def counts(attempted: int, forwarded: int, failed: int) -> Json:
    return {"ok": True, "attempted": attempted, "forwarded": forwarded, "failed": failed}


async def ready_when(house: House, status: int) -> Json:
    """Ask for readiness until it has this status; it is looked up anew once a second."""
    with trio.fail_after(10):
        while (answer := await house.settle.get("/ready")).status_code != status:  # noqa: ASYNC110
            await trio.sleep(0.05)
    body: Json = answer.json()
    return body


class Page(HTMLParser):
    """Reads a page; fails on tags that do not nest."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data.strip())
        if "td" in self._open:
            self.rows[-1][-1] += data


async def test_health_answers_whatever_else_is_wrong(database_url: str) -> None:
    async with proxied(database_url) as proxy, open_house(proxy.url, QUIET) as house:
        for _ in range(2):
            answer = await house.settle.get("/health?query=is+ignored")
            assert (answer.status_code, answer.json()) == (
                200,
                {"status": "ok", "service": "clawsettle"},
            )
            proxy.cut()
        proxy.mend()


async def test_a_working_daemon_is_ready_and_says_what_waits(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        await house.deliver(payin("evt_1", "acc_nobody"))
        await house.database.fetch(
            "UPDATE settlement_outbox SET due_at = now() - interval '90 seconds'"
        )
        answer = await house.settle.get("/ready")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["status"], body["reasons"]) == ("ready", [])
        assert (body["database"], body["migrations"]) == ("ok", "current")
        assert (body["backlog"]["open_count"], body["backlog"]["dead_count"]) == (1, 0)
        assert 89 < body["backlog"]["oldest_due_s"] < 100
        names = {supervised.actor.name for supervised in house.parts.actors}
        assert body["actors"] == dict.fromkeys(names, "running")


async def test_without_its_database_a_daemon_is_not_ready_until_it_is_back(
    database_url: str,
) -> None:
    async with proxied(database_url) as proxy, open_house(proxy.url, QUIET) as house:
        proxy.cut()
        answer = await house.settle.get("/ready")
        assert answer.status_code == 503
        body = answer.json()
        assert (body["status"], body["database"]) == ("not_ready", "unreachable")
        assert body["reasons"] == ["the database does not answer"]
        assert "backlog" not in body
        refused = await asked(house, "{}")
        assert (refused.status_code, refused.json()["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert refused.headers["retry-after"] == "1"
        assert list(refused.json()["details"]) == ["correlation_id"]
        proxy.mend()
        assert (await ready_when(house, 200))["reasons"] == []


async def test_with_an_actor_down_or_when_draining_a_daemon_is_not_ready(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        recorder = house.parts.actors[-1]
        await recorder.stop()
        house.parts.readiness.draining = True
        answer = await house.settle.get("/ready")
        assert answer.status_code == 503
        body = answer.json()
        assert body["actors"][recorder.actor.name] == "down"
        assert list(body["actors"].values()).count("down") == 1
        assert body["reasons"] == [
            "the daemon is draining",
            f"actor {recorder.actor.name} is down",
        ]


async def test_a_schema_with_a_migration_missing_is_a_reason_a_newer_one_is_none(
    database_url: str,
) -> None:
    async with open_house(database_url, QUIET) as house:
        (last,) = await house.database.fetch(
            "DELETE FROM schema_migration WHERE number = 2 RETURNING *"
        )
        body = (await house.settle.get("/ready")).json()
        assert (body["migrations"], body["reasons"]) == ("pending", ["migrations are pending"])
        await house.database.fetch(
            "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
            *(last["number"], last["name"], last["sha256"]),
        )
        await house.database.fetch(
            "INSERT INTO schema_migration (number, name, sha256) VALUES (999, 'later', $1)",
            last["sha256"],
        )
        assert "newer" in (await ready_when(house, 200))["migrations"]


async def test_the_front_page_lists_every_endpoint(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        answer = await house.settle.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith("<!doctype html>")
        page = Page(answer.text)
        assert page.texts["title"] == page.texts["h1"] == ["clawsettle"]
        assert {(method, path) for method, path, _ in filter(None, page.rows)} == ROUTES
        assert all(summary for _, _, summary in filter(None, page.rows))
        assert "Dispute automation" in page.texts["h2"]
        assert "charge.dispute.created" in answer.text


async def test_the_document_lists_every_route_and_no_other(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        document = (await house.settle.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        listed = {
            (method.upper(), path)
            for path, operations in document["paths"].items()
            for method in operations
        }
        assert listed == ROUTES
        for method, path in ROUTES:
            answer = await house.settle.request(method, path)
            assert answer.status_code != 404, (method, path)


async def test_whatever_is_not_listed_does_not_exist(database_url: str) -> None:
    absent = [
        ("GET", path)
        for path in ("/docs", "/skill.md", "/robots.txt", "/health/", "//health", "/Health")
    ]
    absent += [(method, "/health") for method in ("POST", "PUT", "OPTIONS", "DELETE")]
    absent += [("GET", RETRY), ("POST", f"{RETRY}/"), ("GET", "/v1/stripe/webhook"), ("PATCH", "/")]
    async with open_house(database_url, QUIET) as house:
        for method, path in absent:
            answer = await house.settle.request(method, f"http://house{path}")
            assert answer.status_code == 404, (method, path)
            assert answer.json()["code"] == "NOT_FOUND"
            assert "details" not in answer.json()
        assert (await house.settle.head("/health")).status_code == 404


async def test_every_kind_of_answer_carries_the_version(database_url: str) -> None:
    configured = evolve(QUIET, daemon=DaemonSettings(version_header="0.1.1", body_max_bytes=4096))
    async with open_house(database_url, configured) as house:
        get, post = house.settle.get, house.settle.post
        answers = [await get(path) for path in ("/", "/health", "/ready", "/openapi.json", "/no")]
        answers += [await house.settle.head("/"), await post(RETRY), await asked(house, "{")]
        answers += [await post("/v1/stripe/webhook"), await asked(house, b" " * 5000)]
        answers += [await asked(house), await house.deliver(payin("evt_1", "acc_nobody"))]
        await house.database.fetch("ALTER TABLE settlement_outbox RENAME TO hidden")
        answers += [await asked(house, '{"force":true}')]
        await house.database.fetch("ALTER TABLE hidden RENAME TO settlement_outbox")
        assert [answer.status_code for answer in answers] == [
            *(200, 200, 200, 200, 404),
            *(404, 401, 400),
            *(401, 413),
            *(200, 502),
            500,
        ]
        assert {answer.headers["x-clawsettle-version"] for answer in answers} == {"0.1.1"}
        json_type = "application/json; charset=utf-8"
        assert {answer.headers["content-type"] for answer in answers[1:]} == {json_type}
        # No exception text leaves the process.
        assert "settlement_outbox" not in answers[-1].text
        assert list(answers[-1].json()["details"]) == ["correlation_id"]


async def test_only_a_bearer_token_opens_the_retry_route(database_url: str) -> None:
    forms = ("Bearer settle_house", "bearer settle_house", "BEARER   settle_new ")
    none = ["", "Bearer", "settle_house", "Basic settle_house", "Bearer settle_hous"]
    none += ["Bearer settle_house2", "Bearer SETTLE_HOUSE", "Bearer settle_house trailing"]
    none += ["Bearer settle_house,settle_new", "Bearer ledger_house", "Bearersettle_house"]
    refused: list[Mapping[str, str]] = [{"authorization": value} for value in none]
    refused += [{}, {"x-admin-key": "settle_house"}, {"x-admin-key": "Bearer settle_house"}]
    keys = (Secret("settle_house"), Secret("settle_new"))
    async with open_house(database_url, evolve(QUIET, admin=AdminSettings(keys=keys))) as house:
        for value in forms:
            answer = await asked(house, "{}", headers={"authorization": value})
            assert answer.status_code == 200, value
        for headers in refused:
            answer = await asked(house, "{}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), headers
            assert "details" not in answer.json()


async def test_without_keys_the_retry_route_is_closed(database_url: str) -> None:
    keyless = evolve(QUIET, admin=AdminSettings(keys=()))
    async with open_house(database_url, keyless) as house:
        for headers in ({}, ADMIN, {"authorization": "Bearer "}):
            answer = await asked(house, "{", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "DEPENDENCY_NOT_CONFIGURED")
            assert answer.json()["details"] == {"field": "env.SETTLE_ADMIN_KEY"}


async def test_auth_comes_before_the_body_and_the_body_before_the_limit(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        assert (await asked(house, "{", headers={})).status_code == 401
        answer = await asked(house, '{"limit":0,')
        assert (answer.status_code, "details" in answer.json()) == (400, False)
        answer = await asked(house, '{"event_id":1,"force":1,"limit":0}')
        assert answer.json()["details"] == {"field": "limit"}
        answer = await asked(house, '{"event_id":1,"force":1}')
        assert answer.json()["details"] == {"field": "force"}


_BAD_OPTIONS = {
    "limit": ["0", "0.5", "-1", "null", '"5"', "true", "false", "[]", "{}", "-0.0", "-1e300"],
    "force": ["1", "0", "null", '"true"', "[]"],
    "event_id": ["null", "1", "true", '""', '"  "', "[]"],
}


async def test_each_bad_option_is_named(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for name, values in _BAD_OPTIONS.items():
            for value in values:
                answer = await asked(house, f'{{"event_id":"evt_1","{name}":{value}}}')
                assert answer.status_code == 400, (name, value)
                assert answer.json()["code"] == "INVALID_REQUEST"
                assert answer.json()["details"] == {"field": name}, (name, value)


async def test_bodies_that_are_no_json_are_refused(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for body in (
            "{",
            "nonsense",
            '{"limit":NaN}',
            '{"limit":1e999}',
            "{} {}",
            b"\xff",
            "[" * 999,
        ):
            answer = await asked(house, body)
            assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST"), body
            assert "details" not in answer.json()


async def test_a_body_that_is_no_object_or_no_json_by_its_type_is_no_options(
    database_url: str,
) -> None:
    force = '{"force":true,"limit":3}'
    async with open_house(database_url, QUIET) as house:
        await house.deliver(payin("evt_1", "acc_nobody"))
        for body in ("", "  \r\n", "[]", '[{"force":true}]', "null", "7", '"text"', "true", "{}"):
            assert (await asked(house, body)).json() == counts(0, 0, 0), body
        for content_type in (None, "text/plain", "application/x-www-form-urlencoded", "json"):
            for body in (force, "{", '{"limit":0}'):
                answer = await asked(house, body, content_type=content_type)
                assert answer.json() == counts(0, 0, 0), (content_type, body)
        for content_type in (
            "application/json",
            "APPLICATION/JSON",
            "application/json; charset=utf-8",
            "text/plain, application/json",
        ):
            answer = await asked(house, force, content_type=content_type)
            assert answer.json() == counts(1, 0, 1), content_type


async def test_limits_are_floored_capped_and_default_to_the_configuration(
    database_url: str,
) -> None:
    few = settings(forwarding={"poll_s": 3600.0, "retry_batch_limit": 7})
    async with open_house(database_url, few) as house:
        account_id = await house.open_account()
        await house.database.fetch(_ADD_DUE_ROWS, 215, account_id)
        steps = [
            ("{}", 7),
            ('{"limit":1.9}', 1),
            ('{"limit":2,"other":0}', 2),
            ('{"limit":5e2}', 200),
        ]
        left = 215
        for body, attempted in steps:
            left -= attempted
            answer = await asked(house, body)
            assert answer.json() == {**counts(attempted, attempted, 0), "remaining": left}, body
        assert (await asked(house, '{"limit":200}')).json() == counts(5, 5, 0)
        assert await house.available(account_id) == 215


async def test_force_and_event_id_choose_what_is_attempted(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house:
        for number in (1, 2, 3):
            await house.deliver(payin(f"evt_{number}", "acc_32ca986a"))
        await house.open_account()
        for body in ("{}", '{"force":false}', '{"event_id":"evt_1"}', '{"event_id":"evt_9"}'):
            assert (await asked(house, body)).json() == counts(0, 0, 0), body
        by_name = '{"event_id":" evt_2 ","force":true}'
        assert (await asked(house, by_name)).json() == counts(1, 1, 0)
        assert (await asked(house, by_name)).json() == counts(0, 0, 0)
        assert (await asked(house, '{"force":true}')).json() == counts(2, 2, 0)
        assert await house.available("acc_32ca986a") == 7500
