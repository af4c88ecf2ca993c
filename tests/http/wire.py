"""A served application and a client that speaks bytes, for tests on real sockets."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import orjson
import trio

from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.server import serve_http
from clawsettle.http.surface import AsgiApp, Surface, build_app

SURFACE = Surface(
    service="clawsettle",
    headers={"x-clawsettle-version": "0.1.0"},
    json_type="application/json; charset=utf-8",
)


@attrs.frozen
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Client:
    """One connection; every wait has a deadline."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        with trio.fail_after(5):
            while b"\r\n\r\n" not in self._buffer:
                await self._more()
            raw_head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            status_line, *lines = raw_head.decode("latin-1").split("\r\n")
            headers: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(": ")
                assert name.lower() not in headers, f"{name} twice"
                headers[name.lower()] = value
            length = 0 if head_only else int(headers["content-length"])
            while len(self._buffer) < length:
                await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(int(status_line.split()[1]), headers, body)

    async def request(self, method: str, target: str, *headers: str, body: bytes = b"") -> Answer:
        await self.send(request_bytes(method, target, *headers, body=body))
        return await self.answer(head_only=method == "HEAD")

    async def closed(self, within_s: float = 3.0) -> bytes:
        """Return what still arrives before the server closes; a reset counts as closing."""
        with trio.fail_after(within_s):
            try:
                while chunk := await self.stream.receive_some(65536):
                    self._buffer += chunk
            except trio.BrokenResourceError:
                pass
        return self._buffer

    async def _more(self) -> None:
        chunk = await self.stream.receive_some(65536)
        if not chunk:
            raise EOFError(self._buffer)
        self._buffer += chunk


def request_bytes(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Served:
    """A running server; ``ended`` is set when ``serve_http`` has returned."""

    def __init__(self, port: int, stop: trio.Event, ended: trio.Event) -> None:
        self.port, self.stop, self.ended = port, stop, ended

    @asynccontextmanager
    async def client(self, host: str = "127.0.0.1") -> AsyncIterator[Client]:
        stream = await trio.open_tcp_stream(host, self.port)
        async with stream:
            yield Client(stream)

    async def request(self, method: str, target: str, *headers: str, body: bytes = b"") -> Answer:
        async with self.client() as client:
            return await client.request(method, target, *headers, body=body)


@asynccontextmanager
async def serving(
    routes: Iterable[Route],
    surface: Surface = SURFACE,
    *,
    host: str = "127.0.0.1",
    drain_s: float = 5.0,
    **options: Any,
) -> AsyncIterator[Served]:
    stop, ended = trio.Event(), trio.Event()
    app = cast("AsgiApp", build_app(routes, surface=surface))

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        await serve_http(
            app,
            host=host,
            port=0,
            drain_s=drain_s,
            stop=stop,
            task_status=task_status,
            **options,
        )
        ended.set()

    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve))
        try:
            yield Served(port, stop, ended)
        finally:
            stop.set()
            with trio.move_on_after(10) as deadline:
                await ended.wait()
            nursery.cancel_scope.cancel()
            assert not deadline.cancelled_caught, "the server did not stop"


async def echo(request: Request) -> Reply:
    """Answer with the request as it was understood."""
    return Reply.json(
        200,
        {
            "method": request.method,
            "path": request.path,
            "params": request.params,
            "query": request.query,
            "headers": request.headers,
            "body": request.body.decode("latin-1"),
            "request_id": request.request_id,
        },
    )


def route(method: str, path: str, handler: Any = echo, **options: Any) -> Route:
    return Route(method, path, handler, summary=f"{method} {path}", **options)
