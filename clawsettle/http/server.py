"""The listening socket, and hypercorn behind it: HTTP/1.1 and nothing else.

Theory of operation. hypercorn's own ``serve`` is not used, for three measured reasons. It lets
the failure of one connection end the whole server, and single requests that nobody has to sign
cause one: a broken ``HTTP2-Settings`` header in an upgrade to h2c, a byte that is not UTF-8 in the
headers of a WebSocket upgrade. It cannot refuse HTTP/2 without TLS. It waits for ever for a client
that does not read. So this module accepts connections itself, runs hypercorn's ``TCPServer``
(its HTTP/1.1, timers and ASGI side) on each, and adds around it:

- ``_Http11``: offers to switch protocols are dropped before hypercorn sees them (RFC 9110 lets a
  server ignore them, and clients go on in HTTP/1.1), HTTP/2 by prior knowledge is answered 505,
  and a head has one size limit however its bytes arrive.
- ``_Wire``: sending must make progress; a connection that cannot be written to ends as a whole,
  which hypercorn by itself leaves half alive when requests were pipelined.
- ``_Exchange``: Quart learns of the end of its own response no sooner than hypercorn is done with
  it; otherwise idle timers and closes get lost. A refused body gets a moment to drain.
- a fence: what a connection raises is logged and ends that connection only.

Stopping: no new connections, idle ones end at once, requests under way are answered within the
drain time, then everything left is cut, whether or not its client reads.

Source: new.
"""

import socket
import struct
import sys
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import attrs
import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from clawsettle.domain.errors import ConfigError
from clawsettle.http.surface import AsgiApp, Message, Receive, Scope, Send

BACKLOG: Final = 1024
HEAD_MAX_BYTES: Final = 16 * 1024
LINGER_S: Final = 1.0
"""How long a body that was refused is taken and dropped before its connection closes."""

_PIECE_BYTES: Final = 64 * 1024

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
    ``keep_alive_s``; one whose client takes no 64 KiB within ``stall_s`` ends too; more than
    ``connection_max`` are closed unanswered, so that files stay free for the database.

    ``app`` gets ``http`` scopes of HTTP/1.x only: no lifespan, no WebSocket. Requests that are not
    HTTP are answered 400, 431 or 505 without a body and without the application's headers.

    Raises ``ConfigError`` when the address cannot be bound.

    Source: new.
    """
    listeners = await _listen(host, port)
    server = _Server(
        wrap_app(cast("Any", _exchanging(app)), 0, "asgi"),
        _config(keep_alive_s),
        WorkerContext(None),
        stall_s,
        connection_max,
    )
    async with trio.open_nursery() as watch:
        watch.start_soon(_cut, server, stop, drain_s)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(
                        trio.serve_listeners,
                        server.serve,
                        listeners,
                        handler_nursery=connections,
                    )
                )
                task_status.started(listeners[0].socket.getsockname()[1])
                await stop.wait()
                accepting.cancel_scope.cancel()
            # Idle connections end now, those with a request when it is answered.
            await server.context.terminated.set()
        watch.cancel_scope.cancel()


async def _cut(server: "_Server", stop: trio.Event, drain_s: float) -> None:
    """End what is left when the drain time is over."""
    await stop.wait()
    await trio.sleep(drain_s)
    for wire in tuple(server.wires):
        wire.abort()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host.strip("[]"), backlog=BACKLOG)
    except OSError as error:
        raise ConfigError([f"cannot listen on {host} port {port}: {error}"]) from error


def _config(keep_alive_s: float) -> Config:
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_max_requests = sys.maxsize
    config.keep_alive_timeout = keep_alive_s
    # read_timeout stays off: it would cut handlers that work longer than it.
    return config


@attrs.frozen(eq=False)
class _Server:
    """The connections of one port."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    stall_s: float
    connection_max: int
    wires: set["_Wire"] = attrs.field(factory=set)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end; raises nothing but ``Cancelled``."""
        if len(self.wires) >= self.connection_max:
            return
        wire = _Wire(stream, self.stall_s)
        self.wires.add(wire)
        try:
            with wire.scope:
                connection = _Connection(
                    self.app, self.config, self.context, ConnectionState({}), cast("Any", wire)
                )
                await connection.run()
        except* Exception as errors:  # noqa: BLE001 - the fence between connections
            _log.warning("connection_failed", exc_info=errors)
        finally:
            self.wires.discard(wire)


class _Wire:
    """The byte stream of one connection, as hypercorn uses it.

    The end of either direction ends the whole connection, with the handler at work on it. After a
    failed send hypercorn would wait for its reader, which waits for the answer that cannot be
    sent; after the client's end it would keep the socket for the rest of the keep-alive time.
    """

    def __init__(self, stream: trio.SocketStream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self.socket = stream.socket
        self.scope = trio.CancelScope()

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                # An own deadline works inside the shield hypercorn puts around this call.
                with trio.fail_after(self._stall_s):
                    await self._stream.send_all(data[start : start + _PIECE_BYTES])
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.abort()
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()
            raise
        if not data:
            # hypercorn cancels the handler too, but keeps the socket until the idle timer ends.
            self.scope.cancel()
        return data

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def abort(self) -> None:
        """End the connection now, forgetting what is not sent yet; harmless when it has ended."""
        self.scope.cancel()
        with suppress(OSError):
            # Zero linger: the kernel, too, stops offering the rest to who does not read.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class _Http11(h11.Connection):
    """h11 that never changes protocol and limits a head by its size alone."""

    def next_event(self) -> Any:  # h11's own return type names private classes
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        if event.http_version not in {b"1.0", b"1.1"}:
            raise h11.RemoteProtocolError("HTTP/1.1 only", error_status_hint=505)
        headers = list(event.headers)
        if sum(len(name) + len(value) for name, value in headers) > HEAD_MAX_BYTES:
            # h11 limits only heads that come in pieces.
            raise h11.RemoteProtocolError("head too large", error_status_hint=431)
        if any(name == b"upgrade" for name, _ in headers):
            event = h11.Request(
                method=event.method,
                target=event.target,
                headers=[(name, value) for name, value in headers if name != b"upgrade"],
                http_version=event.http_version,
            )
        return event


class _Connection(TCPServer):
    """hypercorn's connection, speaking ``_Http11``."""

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        if isinstance(wrapper.protocol, H11Protocol):
            wrapper.protocol.connection = _Http11(
                h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES
            )
        self._protocol = wrapper


def _exchanging(app: AsgiApp) -> AsgiApp:
    async def exchanging(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        await app(scope, exchange.receive, exchange.send)

    return exchanging


class _Exchange:
    """One request and its response, between hypercorn and the application."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._answered = False
        self._whole = trio.Event()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            if self._answered:
                # Quart would cancel the very send in which hypercorn goes on to the next request.
                await trio.sleep_forever()
            self._whole.set()
        elif not message.get("more_body", False):
            self._whole.set()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            if not self._whole.is_set():
                await self._send({**message, "more_body": True})
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                # Closing on unread bytes resets the connection; the answer may be lost with it.
                with trio.move_on_after(LINGER_S):
                    await self._whole.wait()
            self._answered = True
        await self._send(message)
