"""One port's application: overload, guard, route, body, handler, error table, headers.

The order is fixed: too many requests -> guard -> route -> body -> handler.

Quart carries the request and the reply, but for ``direct`` routes, those whose rate matters: Quart
costs a request twice what such a handler does. Quart's routing is never asked, because it matches
decoded paths, redirects slashes and answers OPTIONS and 405 by itself; nor does it see a body,
because some of its versions look at the size of a chunked one only when it is whole.

Source: webhook-forwarding contract section 1, ledger-api contract section 1.
"""

import inspect
import secrets
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from contextlib import ExitStack, aclosing
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import attrs
import quart
import structlog
import trio
from quart_trio import QuartTrio

from clawsettle.domain.errors import CallerError, NotFoundError, Overloaded, StorageError
from clawsettle.http.errors import STATUS_BY_CODE, envelope, error_answer
from clawsettle.http.routing import MalformedPath, Match, Reply, Request, Route, RouteTable

Guard = Callable[[Request, Route | None], Awaitable[None] | None]
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PIECE_BYTES: Final = 256 * 1024
"""How much of a reply's file is read at once."""

_CARRIED: Final = "clawsettle.carried"  # where Quart's request finds ours
_log = structlog.stdlib.get_logger(__name__)


@attrs.frozen
class Surface:
    """What differs between the two ports, and the limits of one.

    ``headers`` go onto every response. ``guard`` is asked before anything is said of the path, with
    an empty body and no path parameters, and the route that they lead to, None for no route; it
    refuses by raising one of ``guard_codes``. Public routes pass it. ``malformed_path_code`` is the
    answer to a path parameter that does not decode. ``body_timeout_s`` is the time the whole
    body may take to arrive. ``request_max`` requests may be under way at once, the sending of
    their answers included; each may hold ``body_max_bytes`` of memory.

    Source: webhook-forwarding contract section 1, ledger-api contract section 1.
    """

    service: str
    headers: Mapping[str, str]
    json_type: str
    guard: Guard | None = None
    guard_codes: tuple[str, ...] = ()
    malformed_path_code: str = "INTERNAL_ERROR"
    body_max_bytes: int = 1024 * 1024
    body_timeout_s: float = 60.0
    request_max: int = 512


def build_app(routes: Iterable[Route], *, surface: Surface) -> QuartTrio:
    """Return the ASGI application that answers ``routes`` and nothing else.

    Whatever happens, the answer is the route's, or the error envelope, with the port's headers.

    Raises ``ValueError`` for paths that are no templates and for routes that are the same.

    Source: webhook-forwarding contract section 1.
    """
    app = QuartTrio(__name__, static_folder=None)
    # The body never reaches Quart, and a large answer to a slow reader is the server's concern.
    app.config["MAX_CONTENT_LENGTH"] = app.config["RESPONSE_TIMEOUT"] = None

    dispatcher = _Dispatcher(surface, RouteTable(routes))

    async def answer() -> quart.Response:
        reply = await dispatcher.answer(cast("Scope", quart.request.scope)[_CARRIED])
        body = reply.body if reply.file is None else _pieces(reply)
        return quart.Response(body, status=reply.status, headers=_headers(reply, surface))

    # A before-request function that answers is the last word: Quart's routing is skipped.
    app.before_request(answer)
    # Quart's own way to put a layer around an application; its types name every kind of message.
    frame: Any = _Frame(cast("AsgiApp", app.asgi_app), dispatcher)
    app.asgi_app = frame  # type: ignore[method-assign]
    return app


@attrs.frozen
class _Carried:
    """One request on its way to its handler: its head, its route, and where its body comes from.

    ``files`` closes what its reply is sent from.
    """

    request: Request
    match: Match | None
    receive: Receive
    files: ExitStack


@attrs.frozen
class _Dispatcher:
    """Turns one request into one reply; raises only ``Cancelled``."""

    surface: Surface
    routes: RouteTable

    def carry(self, scope: Scope, receive: Receive, files: ExitStack) -> _Carried:
        request = _request(scope)
        return _Carried(request, self.routes.find(request.method, request.path), receive, files)

    async def answer(self, carried: _Carried) -> Reply:
        request, match = carried.request, carried.match
        # A request has its task, and a task its context: there is nothing to take back.
        structlog.contextvars.bind_contextvars(correlation_id=request.request_id)
        try:
            reply = await self._handle(request, match, carried.receive)
        except Exception as error:  # noqa: BLE001 - the boundary: all become an envelope
            return _error_reply(error, request, match.route.statuses if match else None)
        if reply.file is not None:
            carried.files.callback(reply.file.close)
        return reply

    async def _handle(self, request: Request, match: Match | None, receive: Receive) -> Reply:
        if self.surface.guard is not None and not (match and match.route.public):
            verdict = self.surface.guard(request, match.route if match else None)
            if inspect.isawaitable(verdict):
                await verdict
        if match is None:
            raise NotFoundError("no such route")
        try:
            params = match.params()
        except MalformedPath:
            return self._malformed_path()
        if any("\0" in text for pair in request.query.items() for text in pair):
            raise CallerError("the query contains U+0000")
        body = await self._body(request, receive)
        return await match.route.handler(request.completed(params, body))

    async def _body(self, request: Request, receive: Receive) -> bytes:
        """Return the whole body; refuse one that is too large or takes too long."""
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        data = bytearray()
        with trio.move_on_after(self.surface.body_timeout_s):
            while max(size, len(data)) <= self.surface.body_max_bytes:
                message = await receive()
                if message["type"] != "http.request":
                    # What came is no request, even where it reads like one. Nobody is told.
                    raise CallerError("the connection ended within the body")
                data += message.get("body", b"")
                if not message.get("more_body", False):
                    return bytes(data)
            raise CallerError("the body is too large", code="PAYLOAD_TOO_LARGE")
        raise CallerError("the body took too long to arrive", code="REQUEST_TIMEOUT")

    def _malformed_path(self) -> Reply:
        # The caller's fault even where the contract calls it 500, so nothing goes to the log.
        code = self.surface.malformed_path_code
        return Reply.json(STATUS_BY_CODE[code], envelope("malformed escape in the path", code))


class _Frame:
    """The outermost layer: counts requests under way, and carries those that Quart does not."""

    def __init__(self, quart_app: AsgiApp, dispatcher: _Dispatcher) -> None:
        self._quart_app: Final = quart_app
        self._dispatcher: Final = dispatcher
        self._surface: Final = dispatcher.surface
        self._under_way_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._quart_app(scope, receive, send)
        elif self._under_way_count >= self._surface.request_max:
            error = Overloaded("too many requests are under way")
            await self._send(_error_reply(error, _request(scope), None), send)
        else:
            self._under_way_count += 1
            try:
                with ExitStack() as files:
                    await self._answer(self._dispatcher.carry(scope, receive, files), scope, send)
            finally:
                self._under_way_count -= 1

    async def _answer(self, carried: _Carried, scope: Scope, send: Send) -> None:
        if carried.match is not None and carried.match.route.direct:
            await self._send(await self._dispatcher.answer(carried), send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._quart_app({**scope, _CARRIED: carried}, _no_body(), watched)
        except Exception as error:
            if started:
                raise
            await self._send(_error_reply(error, carried.request, None), send)

    async def _send(self, reply: Reply, send: Send) -> None:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in _headers(reply, self._surface).items()
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        body = reply.body
        if reply.file is not None:
            async with aclosing(_pieces(reply)) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _pieces(reply: Reply) -> AsyncGenerator[bytes, None]:
    """Yield a reply's body and then its file, so that not more than a piece is in memory."""
    assert reply.file is not None  # noqa: S101 - only such replies are sent in pieces
    yield reply.body
    while piece := await trio.to_thread.run_sync(reply.file.read, PIECE_BYTES):
        yield piece


def _no_body() -> Receive:
    """Return what Quart receives of a request: an empty body, and nothing ever after."""
    told = False

    async def receive() -> Message:
        nonlocal told
        if told:
            # Who hangs up is noticed by the server, which cancels the request.
            await trio.sleep_forever()
        told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def _error_reply(error: Exception, request: Request, statuses: Mapping[str, int] | None) -> Reply:
    answer = error_answer(error, correlation_id=request.request_id, statuses=statuses)
    if answer.opaque:
        _log.error(
            "request_failed",
            correlation_id=request.request_id,
            method=request.method,
            path=request.path,
            code=answer.envelope["code"],
            reason=error.message if isinstance(error, StorageError) else None,
            # Storage faults come by the hundred and say all in their message.
            exc_info=None if isinstance(error, StorageError) else error,
        )
    try:
        return Reply.json(answer.status, answer.envelope, answer.headers)
    except TypeError as unwritable:  # details that are no JSON: our fault, not the caller's
        return _error_reply(unwritable, request, None)


def _headers(reply: Reply, surface: Surface) -> dict[str, str]:
    return {
        **reply.headers,
        "content-type": reply.content_type or surface.json_type,
        "content-length": str(len(reply.body) + reply.file_bytes),
        **surface.headers,
    }


def _request(scope: Scope) -> Request:
    """Return the head of a request, without body and path parameters."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    query: dict[str, str] = {}
    if scope["query_string"]:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for name, value in pairs:
            query.setdefault(name, value)
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    return Request(
        method=scope["method"],
        path=raw_path.decode("latin-1"),
        params={},
        query=query,
        headers=headers,
        body=b"",
        request_id=secrets.token_hex(16),
    )
