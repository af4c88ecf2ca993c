"""The listening side against real sockets: time, size, hanging up, stopping, strange bytes."""

import math
import socket
from typing import Any

import attrs
import pytest
import structlog
import trio

from clawsettle.domain.errors import ConfigError
from clawsettle.http import connection
from clawsettle.http.routing import Reply, Request
from clawsettle.http.server import FAREWELL_S, serve_http
from tests.http.wire import SURFACE, Client, Served, request_bytes, route, serving

HEALTH = route("GET", "/health")
ECHO = route("POST", "/echo")
SMALL = attrs.evolve(SURFACE, body_max_bytes=1000, body_timeout_s=0.5)


class Gate:
    """A handler that waits to be let through, and remembers how it ended."""

    def __init__(self) -> None:
        self.entered, self.open, self.cancelled = trio.Event(), trio.Event(), trio.Event()

    async def handle(self, _request: Request) -> Reply:
        self.entered.set()
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return Reply.json(200, {"waited": True})


class Bulk:
    """A handler with an answer no socket buffer holds."""

    def __init__(self) -> None:
        self.entered = trio.Event()

    async def handle(self, _request: Request) -> Reply:
        self.entered.set()
        return Reply(200, bytes(16 * 1024 * 1024))


async def within(event: trio.Event, seconds: float) -> float:
    """Wait for ``event``; return how long it took."""
    started = trio.current_time()
    with trio.fail_after(seconds):
        await event.wait()
    return trio.current_time() - started


async def reset(client: Client) -> None:
    """Hang up the rude way."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await client.stream.aclose()


async def assert_alive(served: Served) -> None:
    assert (await served.request("GET", "/health")).status == 200


# --- time -----------------------------------------------------------------------------------------


async def test_idle_connections_end_after_the_keep_alive_time() -> None:
    async with (
        serving([HEALTH], keep_alive_s=1) as served,
        served.client() as used,
        served.client() as silent,
    ):
        for _ in range(3):
            assert (await used.request("GET", "/health")).status == 200
        started = trio.current_time()
        assert await used.closed(within_s=3) == b""
        assert 0.5 < trio.current_time() - started < 2.5
        assert await silent.closed(within_s=3) == b""


async def test_the_keep_alive_time_does_not_cut_a_working_handler() -> None:
    gate = Gate()
    async with (
        serving([route("GET", "/slow", gate.handle)], keep_alive_s=0.2) as served,
        served.client() as client,
    ):
        await client.send(request_bytes("GET", "/slow"))
        with trio.move_on_after(0.8):
            await gate.cancelled.wait()
        gate.open.set()
        assert (await client.answer()).status == 200


async def test_a_dripping_head_ends_with_the_keep_alive_time() -> None:
    async with (
        serving([HEALTH], keep_alive_s=0.5) as served,
        served.client() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drip, client, b"GET /health HTTP/1.1\r\nX: " + b"x" * 1000)
        assert await client.closed() == b""
        nursery.cancel_scope.cancel()


async def drip(client: Client, data: bytes) -> None:
    try:
        for byte in data:
            await client.send(bytes([byte]))
            await trio.sleep(0.05)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_a_dripping_body_is_408_and_the_connection_ends() -> None:
    async with serving([ECHO, HEALTH], SMALL) as served, served.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, b"x" * 900)
            answer = await client.answer()
            assert (answer.status, answer.json["code"]) == (408, "REQUEST_TIMEOUT")
            assert answer.headers["x-clawsettle-version"] == "0.1.0"
            assert answer.headers["connection"] == "close"
            assert await client.closed() == b""
            nursery.cancel_scope.cancel()
        await assert_alive(served)


# --- size -----------------------------------------------------------------------------------------


async def test_a_declared_body_beyond_the_cap_is_413_before_it_is_sent() -> None:
    async with serving([ECHO], SMALL) as served, served.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.json["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["x-clawsettle-version"] == "0.1.0"
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


async def test_a_body_at_the_cap_is_served() -> None:
    async with serving([ECHO], SMALL) as served:
        answer = await served.request("POST", "/echo", body=b"x" * 1000)
    assert len(answer.json["body"]) == 1000


async def test_a_client_that_sends_before_it_reads_still_gets_its_413() -> None:
    body = bytes(3 * 1024 * 1024)
    async with serving([ECHO], SMALL) as served, served.client() as client:
        answer = await client.request("POST", "/echo", body=body)
        assert answer.status == 413
        assert await client.closed() == b""


async def test_a_chunked_body_is_cut_at_the_cap() -> None:
    chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
    async with serving([ECHO, HEALTH], SMALL) as served, served.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(chunk + chunk)
        assert (await client.answer()).status == 413
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, client, chunk * 100)
            assert await client.closed() == b""
            nursery.cancel_scope.cancel()
        await assert_alive(served)


async def test_an_unread_body_does_not_cost_the_connection_when_it_is_all_there() -> None:
    async with serving([HEALTH], SMALL) as served, served.client() as client:
        for _ in range(5):
            assert (await client.request("POST", "/nowhere", body=b"x" * 900)).status == 404
        assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize("pieces", [1, 8])
async def test_a_head_of_40_kb_is_refused_whole_or_in_pieces(pieces: int) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"
    step = math.ceil(len(head) / pieces)
    async with serving([HEALTH]) as served, served.client() as client:
        try:
            for start in range(0, len(head), step):
                await client.send(head[start : start + step])
        except trio.BrokenResourceError:
            pass  # refused before its end
        rest = await client.closed()
        # In pieces the refusal can be lost to the reset that unread bytes cause.
        assert rest.startswith(b"HTTP/1.1 431 ") or (pieces > 1 and rest == b"")
        await assert_alive(served)


async def test_a_head_of_12_kb_is_served() -> None:
    async with serving([HEALTH]) as served:
        answer = await served.request("GET", "/health", "X: " + "x" * 12_000)
    assert answer.status == 200


# --- load -----------------------------------------------------------------------------------------


async def test_more_requests_than_allowed_are_503_at_once() -> None:
    gate = Gate()
    routes = [route("GET", "/slow", gate.handle), HEALTH, ECHO]
    surface = attrs.evolve(SURFACE, request_max=1)
    async with (
        serving(routes, surface) as served,
        served.client() as slow,
        served.client() as other,
    ):
        await slow.send(request_bytes("GET", "/slow"))
        await within(gate.entered, 2)
        started = trio.current_time()
        await other.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        refused = await other.answer()
        assert trio.current_time() - started < 0.5, "it waited for the body"
        assert (refused.status, refused.json["code"]) == (503, "OVERLOADED")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-clawsettle-version"] == "0.1.0"
        await other.send(b"hello")
        gate.open.set()
        assert (await slow.answer()).status == 200
        # The place is free when the server is done with the answer, just after the client.
        with trio.fail_after(2):
            while (await other.request("GET", "/health")).status != 200:
                await trio.lowlevel.checkpoint()


async def test_connections_beyond_the_limit_are_closed_and_the_others_served() -> None:
    async with serving([HEALTH], connection_max=1) as served, served.client() as first:
        assert (await first.request("GET", "/health")).status == 200
        async with served.client() as second:
            assert await second.closed() == b""
        assert (await first.request("GET", "/health")).status == 200


# --- stopping -------------------------------------------------------------------------------------


async def test_an_idle_server_stops_after_its_farewell() -> None:
    async with serving([HEALTH], drain_s=30) as served:
        async with served.client() as used, served.client() as silent, served.client() as half:
            assert (await used.request("GET", "/health")).status == 200
            await half.send(b"GET /health HT")
            served.stop.set()
            assert await within(served.ended, 5) < FAREWELL_S + 1
            assert await used.closed() == b""
            assert await silent.closed() == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", served.port)


async def test_a_kept_connection_gets_its_last_answer_when_the_server_stops() -> None:
    async with serving([HEALTH], drain_s=30) as served, served.client() as client:
        assert (await client.request("GET", "/health")).status == 200
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        last = await client.request("GET", "/health")
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert await client.closed() == b""
        assert await within(served.ended, 5) < FAREWELL_S + 1


async def test_a_request_under_way_is_answered_before_the_stop() -> None:
    gate = Gate()
    async with (
        serving([route("GET", "/slow", gate.handle)], drain_s=30) as served,
        served.client() as client,
    ):
        await client.send(request_bytes("GET", "/slow"))
        await within(gate.entered, 2)
        served.stop.set()
        with trio.move_on_after(0.2):
            await served.ended.wait()
        assert not served.ended.is_set()
        gate.open.set()
        assert (await client.answer()).status == 200
        assert await within(served.ended, 5) < 1
        assert await client.closed() == b""


async def test_a_handler_slower_than_the_drain_time_is_cut() -> None:
    gate = Gate()
    with structlog.testing.capture_logs() as logs:
        async with (
            serving([route("GET", "/slow", gate.handle)], drain_s=0.5) as served,
            served.client() as client,
        ):
            await client.send(request_bytes("GET", "/slow"))
            await within(gate.entered, 2)
            served.stop.set()
            assert 0.4 < await within(served.ended, 5) < 1.5
            assert gate.cancelled.is_set()
            assert await client.closed() == b""
    assert logs == []


async def test_a_client_that_never_reads_cannot_hold_up_the_stop() -> None:
    bulk = Bulk()
    async with (
        serving([route("GET", "/bulk", bulk.handle)], drain_s=0.5, stall_s=60) as served,
        served.client() as client,
    ):
        await client.send(request_bytes("GET", "/bulk") * 50)
        await within(bulk.entered, 2)
        served.stop.set()
        assert await within(served.ended, 5) < 1.5


async def test_a_client_that_never_reads_loses_its_connection() -> None:
    bulk = Bulk()
    async with serving([route("GET", "/bulk", bulk.handle), HEALTH], stall_s=0.5) as served:
        async with served.client() as client:
            await client.send(request_bytes("GET", "/bulk") * 50)
            await within(bulk.entered, 2)
            with trio.fail_after(5):
                while not client.stream.getsockopt(  # noqa: ASYNC110 - no event tells of a reset
                    socket.SOL_SOCKET, socket.SO_ERROR
                ):
                    await trio.sleep(0.02)
        await assert_alive(served)
        served.stop.set()
        assert await within(served.ended, 5) < 1, "something of the connection was left"


async def test_a_slow_reader_that_goes_on_reading_gets_everything() -> None:
    bulk = Bulk()
    async with (
        serving([route("GET", "/bulk", bulk.handle)], stall_s=0.5) as served,
        served.client() as client,
    ):
        await client.send(request_bytes("GET", "/bulk"))
        # Longer than the stall time in all, but never without progress for so long.
        received = 0
        while received < 16 * 1024 * 1024:
            chunk = await client.stream.receive_some(1024 * 1024)
            assert chunk
            received += len(chunk)
            if len(chunk) > 100_000:
                await trio.sleep(0.04)


# --- hanging up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
async def test_hanging_up_cancels_the_handler_and_is_no_error(way: str) -> None:
    gate = Gate()
    with structlog.testing.capture_logs() as logs:
        async with serving([route("GET", "/slow", gate.handle), HEALTH]) as served:
            async with served.client() as client:
                await client.send(request_bytes("GET", "/slow"))
                await within(gate.entered, 2)
                if way == "close":
                    await client.stream.aclose()
                elif way == "half-close":
                    await client.stream.send_eof()
                else:
                    await reset(client)
                await within(gate.cancelled, 2)
                if way == "half-close":
                    assert await client.closed() == b"", "it gets no answer either"
            await assert_alive(served)
            served.stop.set()
            assert await within(served.ended, 5) < 1
    assert logs == []


async def test_a_client_that_leaves_an_idle_connection_is_let_go_at_once() -> None:
    async with serving([HEALTH], connection_max=1) as served:
        async with served.client() as client:
            assert (await client.request("GET", "/health")).status == 200
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_eof()
            assert await client.closed(within_s=1) == b""
        await assert_alive(served)


async def test_hanging_up_amid_the_body_is_no_error() -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving([ECHO, HEALTH]) as served:
            async with served.client() as client:
                await client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
            await assert_alive(served)
            served.stop.set()
            assert await within(served.ended, 5) < 1
    assert logs == []


async def test_a_pipelining_client_that_resets_leaves_nothing_behind() -> None:
    gate = Gate()
    with structlog.testing.capture_logs() as logs:
        async with serving([route("GET", "/slow", gate.handle)], drain_s=30) as served:
            async with served.client() as client:
                await client.send(request_bytes("GET", "/slow") * 2)
                await within(gate.entered, 2)
                await reset(client)
            gate.open.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
            served.stop.set()
            assert await within(served.ended, 5) < 1
    assert logs == []


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with serving([HEALTH, ECHO]) as served, served.client() as client:
        await client.send(
            request_bytes("GET", "/health?n=1")
            + request_bytes("POST", "/echo", body=b"two")
            + request_bytes("GET", "/nowhere")
        )
        assert (await client.answer()).json["query"] == {"n": "1"}
        assert (await client.answer()).json["body"] == "two"
        assert (await client.answer()).status == 404


# --- strange bytes --------------------------------------------------------------------------------

UPGRADE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
WEBSOCKET = (
    b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        # Each of the first six ends hypercorn's own server, with all its connections.
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n",
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: AAAAAAA=\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, \xff\r\nUpgrade: websocket\r\n\r\n",
        WEBSOCKET + b"Sec-WebSocket-Protocol: \xff\r\n\r\n",
        WEBSOCKET + b"Sec-WebSocket-Extensions: \xff\r\n\r\n",
        WEBSOCKET + b"Content-Length: 5\r\n\r\nhello",
        H2_PREFACE + H2_SETTINGS + b"\0\0\1\1\5\0\0\0\1\x82",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"\r\n" * 100,
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: \xff/@[:::\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1\r\nX-Forwarded-Host: a b\r\n\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?%ff=%zz&&=&a HTTP/1.1\r\nHost: x\r\nCookie: \xff=;;\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhellooo",
        b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n folded: yes\r\n\r\n",
    ],
)
@pytest.mark.parametrize("way", ["wait", "half-close", "reset"])
async def test_no_bytes_end_the_server(data: bytes, way: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving([HEALTH, ECHO]) as served:
            async with served.client() as client:
                await client.send(data)
                if way == "wait":
                    with trio.move_on_after(0.1):
                        await client.closed()
                elif way == "half-close":
                    await client.stream.send_eof()
                    await client.closed()
                else:
                    await reset(client)
            await assert_alive(served)
            served.stop.set()
            await within(served.ended, 5)
    assert logs == [], "a stranger's bytes are no failure of ours"


async def test_http2_by_prior_knowledge_is_refused() -> None:
    async with serving([HEALTH]) as served, served.client() as client:
        await client.send(H2_PREFACE + H2_SETTINGS)
        assert (await client.closed()).startswith(b"HTTP/1.1 505 ")
        async with served.client() as later:
            assert (await later.request("GET", "/health")).status == 200
            await later.send(H2_PREFACE)
            assert (await later.closed()).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize(
    "head", [UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", WEBSOCKET]
)
async def test_offers_to_switch_protocols_are_ignored(head: bytes) -> None:
    async with serving([HEALTH]) as served, served.client() as client:
        await client.send(head if head.endswith(b"\r\n\r\n") else head + b"\r\n")
        assert (await client.answer()).status == 200
        assert (await client.request("GET", "/health")).status == 200


async def test_http_1_0_is_answered_and_closed() -> None:
    async with serving([HEALTH]) as served, served.client() as client:
        await client.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.closed() == b""


async def test_what_a_connection_raises_ends_only_that_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = connection._Http11.next_event

    def broken(self: Any) -> Any:
        event = sound(self)
        if getattr(event, "target", b"") == b"/broken":
            raise RuntimeError("a bug of hypercorn")
        return event

    monkeypatch.setattr(connection._Http11, "next_event", broken)
    with structlog.testing.capture_logs() as logs:
        async with serving([HEALTH]) as served, served.client() as other:
            assert (await other.request("GET", "/health")).status == 200
            async with served.client() as client:
                await client.send(request_bytes("GET", "/broken"))
                assert await client.closed() == b""
            assert (await other.request("GET", "/health")).status == 200
    assert [entry["event"] for entry in logs] == ["connection_failed"]


# --- the address ----------------------------------------------------------------------------------


async def test_an_address_in_use_is_a_configuration_error() -> None:
    async with serving([HEALTH]) as served:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {served.port}"):
            await serve_http(
                _nothing, host="127.0.0.1", port=served.port, drain_s=1, stop=trio.Event()
            )


async def _nothing(*_: Any) -> None:
    pass


async def test_a_port_is_free_again_right_after_the_stop() -> None:
    async with serving([HEALTH]) as served, served.client() as client:
        assert (await client.request("GET", "/health")).status == 200
        served.stop.set()
        await within(served.ended, 5)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_again, served.port, stop)
            stop.set()


async def _serve_again(port: int, stop: trio.Event) -> None:
    await serve_http(_nothing, host="127.0.0.1", port=port, drain_s=1, stop=stop)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_ipv6_is_served(host: str) -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 loopback here")
    async with serving([HEALTH], host=host) as served, served.client("::1") as client:
        assert (await client.request("GET", "/health")).status == 200


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
