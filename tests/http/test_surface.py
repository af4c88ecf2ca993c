"""The application as a server sees it: ASGI messages in, ASGI messages out."""

import tempfile
from typing import Any, BinaryIO, cast

import pytest
import trio

from clawsettle.http.routing import Reply, Request
from clawsettle.http.surface import PIECE_BYTES, AsgiApp, Message, build_app
from tests.http.wire import SURFACE, request_bytes, route, serving


@pytest.mark.parametrize("direct", [True, False])
async def test_a_body_that_breaks_off_reaches_no_handler(direct: bool) -> None:
    """What came before the end is valid JSON, and a request all the same it is not."""
    asked: list[Request] = []

    async def handle(request: Request) -> Reply:
        asked.append(request)
        return Reply.json(200, {})

    parts: list[Message] = [
        {"type": "http.request", "body": b'{"pay":1}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(_message: Message) -> None:
        await trio.lowlevel.checkpoint()

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/order",
        "raw_path": b"/order",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x")],
        "client": None,
        "server": None,
    }
    routes = [route("POST", "/order", handle, direct=direct)]
    app = cast("AsgiApp", build_app(routes, surface=SURFACE))
    with trio.fail_after(5):
        await app(scope, receive, send)
    assert (asked, parts) == ([], [])


def spooled(size: int) -> BinaryIO:
    """A file that stands at its start, on disk when it is long."""
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=1000))  # noqa: SIM115
    file.write(bytes(place % 251 for place in range(size)))
    file.seek(0)
    return file


async def closed(file: BinaryIO) -> None:
    with trio.fail_after(5):
        while not file.closed:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [0, 10, 3 * PIECE_BYTES + 7])
async def test_a_file_is_sent_after_the_body_and_closed(direct: bool, size: int) -> None:
    files: list[BinaryIO] = []

    async def handle(_request: Request) -> Reply:
        files.append(spooled(size))
        return Reply(200, b"head:", headers={"x-own": "1"}, file=files[-1], file_bytes=size)

    routes = [route("GET", "/report", handle, direct=direct)]
    async with serving(routes) as served, served.client() as client:
        answers = [await client.request("GET", "/report") for _ in range(2)]
    for answer in answers:
        assert answer.status == 200
        assert (answer.headers["x-own"], answer.headers["x-clawsettle-version"]) == ("1", "0.1.0")
        assert answer.body == b"head:" + bytes(place % 251 for place in range(size))
    assert [file.closed for file in files] == [True, True]


@pytest.mark.parametrize("direct", [True, False])
async def test_a_client_that_hangs_up_ends_the_sending_and_the_file(direct: bool) -> None:
    file = spooled(32 * 1024 * 1024)
    sent = trio.Event()

    async def handle(_request: Request) -> Reply:
        sent.set()
        return Reply(200, b"", file=file, file_bytes=32 * 1024 * 1024)

    async with serving([route("GET", "/report", handle, direct=direct)]) as served:
        async with served.client() as client:
            await client.send(request_bytes("GET", "/report"))
            await sent.wait()
            await client.stream.receive_some(1000)
        await closed(file)
        assert (await served.request("GET", "/elsewhere")).status == 404


@pytest.mark.parametrize("direct", [True, False])
async def test_a_file_that_nobody_waits_for_any_more_is_closed(direct: bool) -> None:
    """The client is gone before the first byte of its answer."""
    file, asked, gone = spooled(10), trio.Event(), trio.Event()

    async def handle(_request: Request) -> Reply:
        asked.set()
        with trio.CancelScope(shield=True):
            await gone.wait()
        return Reply(200, b"", file=file, file_bytes=10)

    async with serving([route("GET", "/report", handle, direct=direct)]) as served:
        async with served.client() as client:
            await client.send(request_bytes("GET", "/report"))
            await asked.wait()
        gone.set()
        await closed(file)
