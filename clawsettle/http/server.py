"""The listening socket: accepts connections, keeps them apart, and stops in time.

hypercorn's own ``serve`` is not used, for three measured reasons. It lets the failure of one
connection end the whole server, and single requests that nobody has to sign cause one: a broken
``HTTP2-Settings`` header in an upgrade to h2c, a byte that is not UTF-8 in the headers of a
WebSocket upgrade. It cannot refuse HTTP/2 without TLS. It waits for ever for a client that does
not read. So this module accepts connections itself and serves each with ``connection.Connection``,
behind a fence: what a connection raises is logged and ends that connection only.

Stopping: no new connections. Requests under way are answered within the drain time, and each answer
says that its connection ends. An idle connection may bring one more request, for ``FAREWELL_S``:
its client may have sent it already, and would never know whether it was heard. Then everything
left is cut, whether or not its client reads.

Source: new.
"""

import sys
import time
from functools import partial
from typing import Final

import attrs
import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from clawsettle.domain.errors import ConfigError
from clawsettle.http.connection import Connection, Wire
from clawsettle.http.surface import AsgiApp

BACKLOG: Final = 1024
FAREWELL_S: Final = 1.0
"""How long idle connections may still bring a request once the server stops."""

_LOOK_SHARE: Final = 0.1

_log = structlog.stdlib.get_logger(__name__)


async def serve_http(
    app: AsgiApp,
    *,
    host: str,
    port: int,
    drain_s: float,
    stop: trio.Event,
    keep_alive_s: float = 75.0,
    stall_s: float = 5.0,
    connection_max: int = 2048,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on ``host`` and ``port`` until ``stop`` is set and all requests are answered.

    Starts with the bound port (``port`` 0 takes a free one). Returns as soon as the last request
    is answered, ``drain_s`` seconds after ``stop`` at the latest; handlers still at work then are
    cancelled and their clients see the connection end. A connection without a request ends after
    ``keep_alive_s``, or a tenth of that later; one whose client takes no 64 KiB within ``stall_s``
    ends too; more than ``connection_max`` are closed unanswered, so that files stay free for the
    database.

    ``app`` gets ``http`` scopes of HTTP/1.x only: no lifespan, no WebSocket. Requests that are not
    HTTP are answered 400, 431 or 505 without a body and without the application's headers.

    Raises ``ConfigError`` when the address cannot be bound.

    Source: new.
    """
    listeners = await _listen(host, port)
    server = _Server(app, _Config(), WorkerContext(None), keep_alive_s, stall_s, connection_max)
    async with trio.open_nursery() as watch:
        watch.start_soon(server.end_idle)
        watch.start_soon(_cut, server, stop, drain_s)
        async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, server.serve, listeners, handler_nursery=connections)
            )
            task_status.started(listeners[0].socket.getsockname()[1])
            await stop.wait()
            # From here on answers end their connections.
            await server.context.terminated.set()
            accepting.cancel_scope.cancel()
        watch.cancel_scope.cancel()


async def _cut(server: "_Server", stop: trio.Event, drain_s: float) -> None:
    """End idle connections after the farewell, and what is left when the drain time is over."""
    await stop.wait()
    farewell_s = min(FAREWELL_S, drain_s)
    await trio.sleep(farewell_s)
    server.end_idle_since(trio.current_time())
    await trio.sleep(drain_s - farewell_s)
    for wire in tuple(server.wires):
        wire.abort()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host.strip("[]"), backlog=BACKLOG)
    except OSError as error:
        raise ConfigError([f"cannot listen on {host} port {port}: {error}"]) from error


class _Config(Config):
    """hypercorn's configuration, whose headers of every response are made once a second."""

    accesslog = errorlog = None
    include_server_header = False
    keep_alive_max_requests = sys.maxsize
    _made_at = -1

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        if (now := int(time.time())) != self._made_at:
            self._made_at, self._headers = now, super().response_headers(protocol)
        return self._headers


@attrs.frozen(eq=False)
class _Server:
    """The connections of one port."""

    app: AsgiApp
    config: Config
    context: WorkerContext
    keep_alive_s: float
    stall_s: float
    connection_max: int
    wires: set[Wire] = attrs.field(factory=set)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end; raises nothing but ``Cancelled``."""
        if len(self.wires) >= self.connection_max:
            return
        wire = Wire(stream, self.stall_s)
        self.wires.add(wire)
        try:
            with wire.scope:
                await Connection(self.app, self.config, self.context, wire).run()
        except* Exception as errors:  # noqa: BLE001 - the fence between connections
            _log.warning("connection_failed", exc_info=errors)
        finally:
            self.wires.discard(wire)

    async def end_idle(self) -> None:
        """End connections that are idle for too long; looking costs less than a timer for each."""
        while True:
            await trio.sleep(self.keep_alive_s * _LOOK_SHARE)
            self.end_idle_since(trio.current_time() - self.keep_alive_s)

    def end_idle_since(self, instant: float) -> None:
        """End the connections that have been without a request since ``instant`` or longer."""
        for wire in tuple(self.wires):
            if wire.idle_since <= instant:
                wire.scope.cancel()
