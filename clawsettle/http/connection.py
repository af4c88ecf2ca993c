"""One HTTP/1.1 connection: hypercorn's protocol and ASGI side on a byte stream of ours.

hypercorn's ``H11Protocol`` parses requests, starts the application for each and writes its answer.
What it stands on is ours, because hypercorn's own connection starts and ends a task for the idle
time of every request, sends an answer in three pieces, and can be left half alive:

- ``Wire``: sending must make progress, and a connection that is broken one way ends as a whole.
- ``_Http11``: offers to switch protocols are dropped before hypercorn sees them (RFC 9110 lets a
  server ignore them, and clients go on in HTTP/1.1), HTTP/2 by prior knowledge is answered 505,
  and a head has one size limit however its bytes arrive.
- ``_Messages``: what the application receives, without a turn of the scheduler for each piece.
- ``_Exchange``: a refused body gets a moment to drain, so that its answer is not lost.

Source: new.
"""

import math
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from clawsettle.http.surface import AsgiApp, Message, Receive, Scope, Send

HEAD_MAX_BYTES: Final = 16 * 1024
LINGER_S: Final = 1.0
"""How long a body that was refused is taken and dropped before its connection closes."""

_PIECE_BYTES: Final = 64 * 1024
_MESSAGES_MAX: Final = 10
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Wire:
    """The byte stream of one connection, as HTTP uses it.

    The end of either direction ends the whole connection, with the handler at work on it. After a
    failed send hypercorn would wait for its reader, which waits for the answer that cannot be
    sent; after the client's end it would keep the socket for the rest of the keep-alive time.

    ``idle_since`` is infinite while a request is under way. Sending 64 KiB may take ``stall_s``.
    """

    def __init__(self, stream: trio.SocketStream, stall_s: float) -> None:
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        self.idle_since = trio.current_time()
        self._stream = stream
        self._stall_s = stall_s
        self._sending = trio.Lock()

    async def send(self, data: bytes) -> None:
        """Send bytes; ends the connection when that fails or makes no progress.

        Raises: trio.BrokenResourceError.
        """
        try:
            if not self._sending.locked():
                data = self._send_now(data)
            if data:
                await self._send_in_time(data)
        except (OSError, trio.TooSlowError, *_GONE) as error:
            self.abort()
            raise trio.BrokenResourceError from error

    def _send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once, nearly always all, and return the rest.

        Trio's own way costs an answer two scopes and two turns of the scheduler.
        """
        with suppress(BlockingIOError):
            return data[os.write(self.socket.fileno(), data) :]
        return data

    async def _send_in_time(self, data: bytes) -> None:
        # What has begun is finished, whatever becomes of its handler; the deadlines still work.
        with trio.CancelScope(shield=True):
            async with self._sending:
                for start in range(0, len(data), _PIECE_BYTES):
                    with trio.fail_after(self._stall_s):
                        await self._stream.send_all(data[start : start + _PIECE_BYTES])

    async def receive(self) -> bytes:
        """Return what has come; nothing when the connection has ended."""
        try:
            data = bytes(await self._stream.receive_some(_PIECE_BYTES))
        except _GONE:
            data = b""
        if not data:
            self.scope.cancel()
        return data

    async def close(self) -> None:
        """End the connection; the kernel delivers what was sent."""
        with suppress(*_GONE, trio.BusyResourceError):
            await self._stream.send_eof()
        await self._stream.aclose()
        self.scope.cancel()

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
        size, upgrades = 0, False
        for name, value in event.headers:
            size += len(name) + len(value)
            upgrades |= name == b"upgrade"
        if size > HEAD_MAX_BYTES:
            # h11 limits only heads that come in pieces.
            raise h11.RemoteProtocolError("head too large", error_status_hint=431)
        if upgrades:
            event = h11.Request(
                method=event.method,
                target=event.target,
                headers=[(name, value) for name, value in event.headers if name != b"upgrade"],
                http_version=event.http_version,
            )
        return event


class _Messages:
    """The parts of one request on their way to the application, at most a few at a time.

    Neither side yields unless it must wait: there are three of these for every request.
    """

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self._bell: trio.Event | None = None

    async def put(self, message: Message) -> None:
        # Only a body waits for its reader: the end of the request may find nobody reading.
        while len(self._queue) >= _MESSAGES_MAX and message["type"] == "http.request":
            await self._change()
        self._queue.append(message)
        self._ring()

    async def get(self) -> Message:
        while not self._queue:
            await self._change()
        self._ring()
        return self._queue.popleft()

    async def _change(self) -> None:
        self._bell = trio.Event()
        await self._bell.wait()

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.set()
            self._bell = None


class _Requests:
    """hypercorn's task group: the requests of one connection."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def spawn_app(
        self,
        app: AsgiApp,
        _config: Config,
        scope: Scope,
        send: Callable[[Message | None], Awaitable[None]],
    ) -> Callable[[Message], Awaitable[None]]:
        messages = _Messages()

        async def answer() -> None:
            await app(scope, messages.get, send)
            await send(None)

        self._nursery.start_soon(answer)
        return messages.put


class Connection:
    """Serves the requests of one wire, one after another; an answer leaves in one piece."""

    def __init__(self, app: AsgiApp, config: Config, context: WorkerContext, wire: Wire) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._wire = wire
        self._held = bytearray()

    async def run(self) -> None:
        """Serve until either side ends the connection. Raises: what the application raises."""
        here = self._wire.socket
        try:
            client = parse_socket_addr(here.family, here.getpeername())
            server = parse_socket_addr(here.family, here.getsockname())
        except OSError:
            return  # gone before it was looked at
        async with trio.open_nursery() as nursery:
            self._protocol = H11Protocol(
                cast("Any", self._exchange),
                self._config,
                self._context,
                cast("Any", _Requests(nursery)),
                ConnectionState({}),
                False,  # noqa: FBT003 - hypercorn's own signature: no TLS here
                client,
                server,
                self._send,
            )
            self._http = _Http11(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
            self._protocol.connection = self._http
            while data := await self._wire.receive():
                await self._protocol.handle(RawData(data))

    async def flush(self) -> None:
        """Send what was held back."""
        if not self._held:
            return
        data, self._held = bytes(self._held), bytearray()
        with suppress(trio.BrokenResourceError):  # the wire has ended the connection
            await self._wire.send(data)

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._held += event.data
            if self._http.our_state is h11.SEND_BODY and len(self._held) < _PIECE_BYTES:
                return
        await self.flush()
        if isinstance(event, Updated):
            self._wire.idle_since = trio.current_time() if event.idle else math.inf
        elif isinstance(event, Closed):
            await self._wire.close()
            await self._protocol.handle(event)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send, self.flush, self._context.terminated.is_set)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response, between hypercorn and the application."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        flush: Callable[[], Awaitable[None]],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._receive = receive
        self._send = send
        self._flush = flush
        self._is_stopping = is_stopping
        self._whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_stopping():
            # A client that is told does not send its next request into a closed connection.
            headers = [field for field in message["headers"] if field[0] != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        if not self._whole:
            await self._send({**message, "more_body": True})
            await self._flush()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
            # Closing on unread bytes resets the connection; the answer may be lost with it.
            with trio.move_on_after(LINGER_S):
                while not self._whole:
                    await self.receive()
        await self._send(message)
