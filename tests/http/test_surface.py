"""The application as a server sees it: ASGI messages in, ASGI messages out."""

from typing import Any, cast

import pytest
import trio

from clawsettle.http.routing import Reply, Request
from clawsettle.http.surface import AsgiApp, Message, build_app
from tests.http.wire import SURFACE, route


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
