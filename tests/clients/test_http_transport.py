"""The HTTP client's connections: kept, replaced, bounded, and secured."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from clawsettle.clients.http_transport import Answer, HttpTransport, NoAnswer
from tests.clients.faulty import Fault, Wire, faulty, hang, saying

PEM = Path(__file__).with_name("localhost.pem")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def keeping(data: bytes) -> Fault:
    """Say these bytes and keep the connection."""

    async def say(wire: Wire) -> None:
        await wire.client.send_all(data)

    return say


@asynccontextmanager
async def transport_to(base_url: str, **options: Any) -> AsyncIterator[HttpTransport]:
    bounds = {
        "connections_max": 2,
        "connect_timeout_s": 2,
        "timeout_s": 5,
        "answer_max_bytes": 9999,
        **options,
    }
    transport = HttpTransport(base_url, **bounds)
    try:
        yield transport
    finally:
        transport.close()


async def posted(transport: HttpTransport, body: bytes = b"{}") -> Answer:
    return await transport.post("/x", {}, body)


async def test_a_connection_is_kept_for_the_next_call() -> None:
    script = [keeping(OK + b"%02d" % number) for number in range(20)]
    async with faulty(None, script) as server, transport_to(server.base_url) as transport:
        answers = [await posted(transport) for _ in script]
        assert answers == [Answer(200, b"%02d" % number) for number in range(20)]
        assert server.connection_count == 1


async def test_a_question_has_no_body_and_goes_over_the_same_connection() -> None:
    async with (
        faulty(None, [keeping(OK + b"{}")] * 3) as server,
        transport_to(f"{server.base_url}/books") as transport,
    ):
        assert await posted(transport) == Answer(200, b"{}")
        assert await transport.get("/a%2Fb", {"x-key": "k"}) == Answer(200, b"{}")
        assert await posted(transport) == Answer(200, b"{}")
        assert server.connection_count == 1
    line, *headers = server.heads[1].split("\r\n")
    assert line == "GET /books/a%2Fb HTTP/1.1"
    host = server.base_url.removeprefix("http://")
    assert {header.lower() for header in headers} == {
        f"host: {host}",
        "accept-encoding: identity",
        "x-key: k",
    }
    assert server.bodies == [b"{}", b"", b"{}"]


async def test_calls_at_once_share_no_connection_and_open_no_more_than_allowed() -> None:
    open_now = most = 0

    async def meet(wire: Wire) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if len(server.requests) == 2:
            both.set()
        await both.wait()
        open_now -= 1
        await wire.client.send_all(OK + wire.request[-2:])

    both, answers = trio.Event(), list[bytes]()
    async with faulty(None, [meet] * 20) as server, transport_to(server.base_url) as transport:

        async def post(number: int) -> None:
            answer = await posted(transport, b"%02d" % number)
            assert answer.body == b"%02d" % number
            answers.append(answer.body)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(post, number)
        assert len(answers) == 20
        assert most == server.connection_count == 2


async def test_waiting_for_a_connection_counts_towards_the_time_of_a_call() -> None:
    async with (
        faulty(None, [hang] * 3) as server,
        transport_to(server.base_url, connections_max=1, timeout_s=0.3) as transport,
    ):
        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_post_in_vain, transport)
        assert len(server.requests) == 1


async def _post_in_vain(transport: HttpTransport) -> None:
    with pytest.raises(NoAnswer, match="not in time"):
        await posted(transport)


async def test_the_connection_of_a_call_under_way_at_the_end_is_not_kept() -> None:
    async def say_goodbye(wire: Wire) -> None:
        transport.close()
        await wire.client.send_all(OK + b"{}")
        assert await wire.client.receive_some() == b""
        hung_up.set()

    hung_up = trio.Event()
    async with faulty(None, [say_goodbye]) as server, transport_to(server.base_url) as transport:
        assert await posted(transport) == Answer(200, b"{}")
        with trio.fail_after(2):
            await hung_up.wait()


UNKEPT: dict[str, bytes] = {
    "the server says so": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    "the server speaks 1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "more than the answer came": OK + b"{}HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("said", UNKEPT.values(), ids=UNKEPT)
async def test_a_connection_is_not_kept_when(said: bytes) -> None:
    async with faulty(None, [keeping(said)] * 3) as server:
        async with transport_to(server.base_url) as transport:
            for _ in range(3):
                assert await posted(transport) == Answer(200, b"{}")
        assert server.connection_count == 3


async def test_what_is_said_unasked_between_two_calls_answers_nothing() -> None:
    said = trio.Event()

    async def say_more(wire: Wire) -> None:
        await wire.client.send_all(OK + b"{}")
        await called.wait()
        await wire.client.send_all(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n")
        said.set()

    called = trio.Event()
    script = [say_more, keeping(OK + b"[]")]
    async with faulty(None, script) as server, transport_to(server.base_url) as transport:
        assert await posted(transport) == Answer(200, b"{}")
        called.set()
        await said.wait()
        assert await posted(transport) == Answer(200, b"[]")


async def test_an_idle_connection_is_not_trusted_for_long() -> None:
    async with (
        faulty(None, [keeping(OK + b"{}")] * 3) as server,
        transport_to(server.base_url, idle_max_s=0) as transport,
    ):
        for _ in range(3):
            await posted(transport)
        assert server.connection_count == 3


async def test_interim_answers_are_passed_over() -> None:
    async with (
        faulty(None, [keeping(CONTINUE * 3 + OK + b"{}")]) as server,
        transport_to(server.base_url) as transport,
    ):
        assert await posted(transport) == Answer(200, b"{}")


async def test_a_body_that_ends_with_the_connection_is_read_to_its_end() -> None:
    async with (
        faulty(None, [saying(b"HTTP/1.1 200 OK\r\n\r\n{}")]) as server,
        transport_to(server.base_url) as transport,
    ):
        assert await posted(transport) == Answer(200, b"{}")


@pytest.mark.parametrize(
    ("body_bytes", "hangs_up"), [(2, False), (50_000, False), (2, True), (50_000_000, True)]
)
async def test_an_answer_before_the_request_was_read_is_an_answer(
    body_bytes: int, hangs_up: bool
) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\n{}")
        if not hangs_up:
            await trio.sleep_forever()
        await stream.aclose()

    async with serving(refuse) as base_url, transport_to(base_url) as transport:
        assert await posted(transport, b"x" * body_bytes) == Answer(413, b"{}")


async def test_a_server_that_never_reads_cannot_hold_up_a_call() -> None:
    async def ignore(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(ignore) as base_url, transport_to(base_url, timeout_s=0.3) as transport:
        with trio.fail_after(2), pytest.raises(NoAnswer, match="not in time"):
            await posted(transport, b"x" * 50_000_000)


@asynccontextmanager
async def serving(handle: Any) -> AsyncIterator[str]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "value"), [("x", "a\r\nb: c"), ("x\n", "a"), ("x", "a\0"), ("x", "\nGET")]
)
async def test_a_header_that_is_none_is_never_sent(name: str, value: str) -> None:
    async with faulty(None, []) as server, transport_to(server.base_url) as transport:
        with pytest.raises(NoAnswer, match="LocalProtocolError"):
            await transport.post("/x", {name: value}, b"{}")
        assert server.connection_count == 0


async def test_https_is_spoken_with_whom_the_certificate_names() -> None:
    speaking = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    speaking.load_cert_chain(PEM)
    trusting = ssl.create_default_context(cafile=str(PEM))
    async with faulty(None, [keeping(OK + b"{}")] * 2, tls=speaking) as server:
        port = server.base_url.rpartition(":")[2]
        async with transport_to(f"https://localhost:{port}", tls=trusting) as transport:
            for _ in range(2):
                assert await posted(transport) == Answer(200, b"{}")
        assert server.connection_count == 1
        assert server.heads[0].split("\r\n")[1].lower() == f"host: localhost:{port}"
        for base_url, tls in (
            (f"https://127.0.0.1:{port}", trusting),
            (f"https://localhost:{port}", None),
        ):
            async with transport_to(base_url, tls=tls) as transport:
                with pytest.raises(NoAnswer, match="no connection: SSLCertVerificationError"):
                    await posted(transport)
        assert len(server.requests) == 2


async def test_https_is_not_spoken_with_who_does_not() -> None:
    async def hello(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 400 No\r\n\r\n")

    async with (
        serving(hello) as base_url,
        transport_to(base_url.replace("http", "https")) as transport,
    ):
        with pytest.raises(NoAnswer, match="no connection: SSLError"):
            await posted(transport)


async def test_who_takes_connections_and_says_nothing_is_given_up() -> None:
    async def mute(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with (
        serving(mute) as base_url,
        transport_to(base_url.replace("http", "https"), connect_timeout_s=0.2) as transport,
    ):
        with trio.fail_after(2), pytest.raises(NoAnswer, match="no connection in time"):
            await posted(transport)
