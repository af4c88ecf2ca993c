"""The outside world as tests need it: here, a wire to the database that can be cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qs, urlsplit

import trio
from attrs import define, field


@define(eq=False)
class Proxy:
    """A wire to the database that the test can cut; connections made while it is cut are closed."""

    url: str
    swallow_commits: int = 0
    _cut: bool = field(default=False, init=False)
    _connections: set[trio.CancelScope] = field(factory=set, init=False)

    def cut(self) -> None:
        self._cut = True
        for scope in self._connections:
            scope.cancel()

    def mend(self) -> None:
        self._cut = False

    async def carry(self, socket_path: str, client: trio.SocketStream) -> None:
        if self._cut:
            return
        async with await trio.open_unix_socket(socket_path) as server, trio.open_nursery() as both:
            self._connections.add(both.cancel_scope)
            both.start_soon(self._pump, client, server, both.cancel_scope)
            both.start_soon(self._pump, server, client, both.cancel_scope)
        self._connections.discard(both.cancel_scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                # The server's word that a commit has succeeded, which the client is not to hear.
                if b"COMMIT\0" in data and self.swallow_commits:
                    self.swallow_commits -= 1
                    break
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[Proxy]:
    """Serve a TCP port that leads to the database behind ``database_url``."""
    parts = urlsplit(database_url)
    socket_path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    proxy = Proxy(f"postgresql://postgres@127.0.0.1:{port}{parts.path}?sslmode=disable")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, partial(proxy.carry, socket_path), [listener])
        yield proxy
        nursery.cancel_scope.cancel()
