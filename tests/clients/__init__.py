"""The outside world as tests need it: here, a wire to the database that can be cut."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qs, urlsplit

import trio
from attrs import define, field

_STORE = b"UPDATE ledger_tail"


@define(eq=False)
class _Connection:
    """One connection to the database, with what has been asked on it."""

    _store_name: bytes | None = None
    storing: bool = False

    def ask(self, data: bytes) -> None:
        """Take what the client sends; statements are prepared by name first, then bound."""
        name = data[5:].partition(b"\0")[0]
        if data.startswith(b"P"):
            self.storing = False
            if _STORE in data:
                self._store_name = name
        elif data.startswith(b"B"):
            self.storing = data[5:].split(b"\0")[1] == self._store_name


@define(eq=False)
class Proxy:
    """A wire to the database that the test can cut; connections made while it is cut are closed.

    ``swallow_stores`` is how many times the server's word that a batch of the ledger is stored,
    and thereby committed, does not reach the client: the connection ends instead.
    """

    url: str
    swallow_stores: int = 0
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
        connection = _Connection()

        def asked(data: bytes) -> bool:
            connection.ask(data)
            return True

        def answered(_data: bytes) -> bool:
            swallowed = connection.storing and self.swallow_stores > 0
            self.swallow_stores -= swallowed
            return not swallowed

        async with await trio.open_unix_socket(socket_path) as server, trio.open_nursery() as both:
            self._connections.add(both.cancel_scope)
            both.start_soon(_pump, client, server, asked, both.cancel_scope)
            both.start_soon(_pump, server, client, answered, both.cancel_scope)
        self._connections.discard(both.cancel_scope)


async def _pump(
    source: trio.SocketStream,
    sink: trio.SocketStream,
    passes: Callable[[bytes], bool],
    scope: trio.CancelScope,
) -> None:
    try:
        async for data in source:
            if not passes(bytes(data)):
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
