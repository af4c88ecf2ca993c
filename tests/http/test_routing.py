"""What a path finds, and what every answer looks like, over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import structlog
import trio

from clawsettle.domain.errors import (
    CallerError,
    ClawsettleError,
    ConfigError,
    ConflictError,
    IllegalTransition,
    NotFoundError,
    Overloaded,
    ProviderError,
    StorageUnavailable,
)
from clawsettle.http.errors import STATUS_BY_CODE, error_status
from clawsettle.http.routing import Reply, Request, Route, RouteTable
from clawsettle.http.strict_json import DEPTH_MAX, parse_json
from clawsettle.http.surface import Guard
from tests.http.wire import SURFACE, Answer, Served, route, serving

ROUTES = (
    route("GET", "/events/{id}"),
    route("GET", "/events/verify", lambda _request: _named("verify")),
    route("GET", "/accounts/id/{id}"),
    route("GET", "/pairs/{first}/{second}", lambda _request: _named("pair")),
    route("GET", "/pairs/{first}/total", lambda _request: _named("total")),
    route("POST", "/echo"),
    route("GET", "/health", public=True),
    route("GET", "/", lambda _request: _page()),
)
LEDGER = attrs.evolve(
    SURFACE,
    service="ledger",
    headers={"x-ledger-version": "1.0.0"},
    json_type="application/json",
    malformed_path_code="INVALID_REQUEST",
)


async def _named(name: str) -> Reply:
    return Reply.json(200, {"route": name})


async def _page() -> Reply:
    return Reply.html(200, "<h1>clawsettle</h1>")


@asynccontextmanager
async def failing(error: BaseException) -> AsyncIterator[Served]:
    async def fail(_request: Request) -> Reply:
        raise error

    async with serving([route("GET", "/fail", fail)]) as served:
        yield served


def assert_not_found(answer: Answer) -> None:
    assert answer.status == 404
    assert answer.json == {"error": "no such route", "code": "NOT_FOUND"}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-clawsettle-version"] == "0.1.0"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/nowhere"),
        ("POST", "/health"),
        ("OPTIONS", "/health"),
        ("OPTIONS", "*"),
        ("TRACE", "/health"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/Health"),
        ("GET", "/%68ealth"),
        ("GET", "/health%3Fx"),
        ("GET", "/accounts/id/"),
        ("GET", "/accounts/id//"),
        ("GET", "/accounts//id"),
        ("GET", "/accounts/id/a/b"),
        ("GET", "/x/../health"),
        ("GET", "http://localhost/health"),
    ],
)
async def test_what_is_not_in_the_table_is_not_found(method: str, target: str) -> None:
    async with serving(ROUTES) as served:
        assert_not_found(await served.request(method, target))


async def test_head_is_not_found_without_a_body_but_with_all_headers() -> None:
    async with serving(ROUTES) as served, served.client() as client:
        answer = await client.request("HEAD", "/health")
        assert (answer.status, answer.body) == (404, b"")
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["x-clawsettle-version"] == "0.1.0"
        assert int(answer.headers["content-length"]) > 0
        # The next answer on the connection proves that no body followed.
        assert (await client.request("GET", "/health")).status == 200


async def test_the_query_is_no_part_of_the_path_and_its_first_value_wins() -> None:
    async with serving(ROUTES) as served:
        answer = await served.request("GET", "/health?a=1&a=2&b=x%20y+z&c&d=%C3%A9/%2F?")
    assert answer.json["path"] == "/health"
    assert answer.json["query"] == {"a": "1", "b": "x y z", "c": "", "d": "é//?"}


@pytest.mark.parametrize(
    ("segment", "value"),
    [
        ("acc_1", "acc_1"),
        ("did%3Akey%3Aalice", "did:key:alice"),
        ("did:key:alice", "did:key:alice"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%C3%A9", "é"),
        ("a+b", "a+b"),
        ("..", ".."),
    ],
)
async def test_a_parameter_is_one_raw_segment_decoded_once(segment: str, value: str) -> None:
    async with serving(ROUTES) as served:
        answer = await served.request("GET", f"/accounts/id/{segment}")
    assert answer.json["params"] == {"id": value}


@pytest.mark.parametrize("segment", ["%", "%4", "%zz", "a%", "%ff", "%C3", "%ED%A0%80", "%00"])
async def test_a_malformed_escape_is_500_on_one_port_and_400_on_the_other(segment: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving(ROUTES) as served:
            answer = await served.request("GET", f"/accounts/id/{segment}")
        async with serving(ROUTES, LEDGER) as served:
            ledger_answer = await served.request("GET", f"/accounts/id/{segment}")
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL_ERROR")
    assert (ledger_answer.status, ledger_answer.json["code"]) == (400, "INVALID_REQUEST")
    assert logs == [], "a caller's mistake is no failure of ours"


async def test_literal_segments_win_over_parameters_from_left_to_right() -> None:
    async with serving(ROUTES) as served, served.client() as client:
        assert (await client.request("GET", "/events/verify")).json == {"route": "verify"}
        assert (await client.request("GET", "/events/other")).json["params"] == {"id": "other"}
        assert (await client.request("GET", "/pairs/a/total")).json == {"route": "total"}
        assert (await client.request("GET", "/pairs/a/b")).json == {"route": "pair"}


def test_two_routes_that_are_one_and_broken_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([route("GET", "/a/{x}"), route("GET", "/a/{y}")])
    for path in ("a", "/a/{x", "/a/{x}y", "/{X}", "/{x}/{x}"):
        with pytest.raises(ValueError, match="not a path template"):
            RouteTable([route("GET", path)])


async def test_a_handler_gets_body_joined_headers_and_a_fresh_correlation_id() -> None:
    headers = ("Stripe-Signature: t=1", "X-Request-Id: mine", "stripe-signature: v1=2")
    async with serving(ROUTES) as served, served.client() as client:
        first = (await client.request("POST", "/echo", *headers, body=b"\x00\xff{}")).json
        second = (await client.request("POST", "/echo", *headers, body=b"")).json
    assert first["body"] == "\x00\xff{}"
    assert first["headers"]["stripe-signature"] == "t=1, v1=2"
    assert second["body"] == ""
    assert first["request_id"] != second["request_id"]
    assert len(bytes.fromhex(first["request_id"])) == 16


async def test_chunked_bodies_arrive_whole() -> None:
    async with serving(ROUTES) as served, served.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"3\r\nabc\r\n")
        await client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer()).json["body"] == "abcde"


async def test_html_carries_the_ports_headers_too() -> None:
    async with serving(ROUTES) as served:
        answer = await served.request("GET", "/")
    assert answer.body == b"<h1>clawsettle</h1>"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-clawsettle-version"] == "0.1.0"


async def test_u0000_in_the_query_is_refused_before_the_handler() -> None:
    async with serving(ROUTES) as served:
        answer = await served.request("GET", "/health?a=%00")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")


# --- the guard ------------------------------------------------------------------------------------


def _guard(request: Request, _route: Route | None) -> None:
    if request.headers.get("authorization") != "Bearer key":
        raise CallerError("who are you?", code="UNAUTHORIZED")


async def _async_guard(request: Request, route: Route | None) -> None:
    await trio.lowlevel.checkpoint()
    _guard(request, route)


@pytest.mark.parametrize("guard", [_guard, _async_guard])
async def test_the_guard_comes_before_routing_and_public_routes_pass_it(guard: Guard) -> None:
    async with serving(ROUTES, attrs.evolve(LEDGER, guard=guard)) as served:
        for method, target in [("GET", "/nowhere"), ("POST", "/health"), ("GET", "/events/%zz")]:
            answer = await served.request(method, target)
            assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
            assert answer.headers["x-ledger-version"] == "1.0.0"
            assert answer.headers["content-type"] == "application/json"
        assert (await served.request("GET", "/health")).status == 200
        key = "Authorization: Bearer key"
        assert (await served.request("GET", "/nowhere", key)).status == 404
        assert (await served.request("GET", "/events/e", key)).status == 200


async def test_the_guard_refuses_without_waiting_for_the_body() -> None:
    async with (
        serving(ROUTES, attrs.evolve(LEDGER, guard=_guard)) as served,
        served.client() as client,
    ):
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert (await client.answer()).status == 401


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CallerError("x", code="SIGNATURE_INVALID"), 401),
        (CallerError("x", code="LIVEMODE_MISMATCH"), 422),
        (ProviderError("x", code="LEDGER_INGEST_FAILED"), 502),
        (ClawsettleError("x", code="DEPENDENCY_NOT_CONFIGURED"), 503),
        (ConflictError("x", code="IDEMPOTENCY_KEY_REUSED"), 409),
        (CallerError("x", code="INSUFFICIENT_FUNDS"), 422),
        (CallerError("x", code="SOMETHING_NEW"), 400),
        (NotFoundError("x", code="DISPUTE_BRIDGE_NOT_FOUND"), 404),
        (IllegalTransition("x", code="SOMETHING_NEW"), 409),
        (ProviderError("x", code="SOMETHING_NEW"), 502),
        (ConfigError(["x"]), 503),
        (ClawsettleError("x", code="SOMETHING_NEW"), 500),
    ],
)
async def test_the_status_follows_the_code_and_then_the_class(
    error: ClawsettleError, status: int
) -> None:
    async with failing(error) as served:
        answer = await served.request("GET", "/fail")
    assert (answer.status, answer.json["code"]) == (status, error.code)


def test_a_route_may_answer_another_status_for_a_code() -> None:
    error = CallerError("x", code="INSUFFICIENT_FUNDS")
    assert error_status(error, {"INSUFFICIENT_FUNDS": 400}) == 400
    assert STATUS_BY_CODE["INSUFFICIENT_FUNDS"] == 422


async def test_details_are_there_only_when_there_are_some() -> None:
    async with failing(CallerError("bad limit", details={"field": "limit"})) as served:
        answer = await served.request("GET", "/fail")
    assert answer.body == (
        b'{"error":"bad limit","code":"INVALID_REQUEST","details":{"field":"limit"}}'
    )
    async with failing(CallerError("bad")) as served:
        answer = await served.request("GET", "/fail")
    assert answer.body == b'{"error":"bad","code":"INVALID_REQUEST"}'


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("password=hunter2"),
        ExceptionGroup("hunter2", [ValueError("hunter2")]),
        CallerError("hunter2", details={"not": object()}),
    ],
)
async def test_an_unexpected_exception_is_opaque_and_found_by_its_id(error: Exception) -> None:
    with structlog.testing.capture_logs() as logs:
        async with failing(error) as served, served.client() as client:
            answer = await client.request("GET", "/fail")
            assert (await client.request("GET", "/nowhere")).status == 404
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL_ERROR")
    assert b"hunter2" not in answer.body
    assert answer.headers["x-clawsettle-version"] == "0.1.0"
    [entry] = logs
    assert entry["event"] == "request_failed"
    assert answer.json["details"] == {"correlation_id": entry["correlation_id"]}
    assert isinstance(entry["exc_info"], Exception)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageUnavailable("host db.internal refused"), "STORAGE_UNAVAILABLE"),
        (Overloaded("mailbox full"), "OVERLOADED"),
    ],
)
async def test_what_passes_says_when_to_come_back(error: ClawsettleError, code: str) -> None:
    async with failing(error) as served:
        answer = await served.request("GET", "/fail")
    assert (answer.status, answer.json["code"]) == (503, code)
    assert answer.headers["retry-after"] == "1"
    assert b"db.internal" not in answer.body


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{}x",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"[" * 20_000,
        b"[" * 20_000 + b"]" * 20_000,
        b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
        b'{"a":' * (DEPTH_MAX + 1) + b"1" + b"}" * (DEPTH_MAX + 1),
        b'"a\\u0000"',
        b'{"a":[{"b":"\\u0000"}]}',
        b'{"\\u0000":1}',
        b'"\x00"',
        b"{'a':1}",
        b"[1,]",
        b"01",
    ],
)
def test_json_that_cannot_be_kept_is_refused(raw: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(raw)
    assert (caught.value.code, caught.value.details) == ("INVALID_REQUEST", {})
    assert caught.value.__cause__ is None


def test_json_that_can_be_kept_is_parsed() -> None:
    assert parse_json(b' {"a":[1,"\\\\u0000","\\u00e9",null]} ') == {"a": [1, "\\u0000", "é", None]}
    assert parse_json(b"9223372036854775807") == 2**63 - 1
    assert parse_json(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX) is not None
    assert parse_json(b"[" + b"{}," * 500 + b"{}]") == [{}] * 501


def test_integers_beyond_64_bits_are_floats_that_the_domain_refuses() -> None:
    wide = parse_json(b"18446744073709551616")
    assert isinstance(wide, float)
    assert wide >= 2**53
