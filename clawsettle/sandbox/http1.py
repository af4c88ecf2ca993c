"""A server of plain HTTP/1.1 that can also misbehave: stay silent, or hang up.

That is why it stands on h11 alone: a server for real use knows neither. A handler goes on when its
client has hung up, as it does at a party whose network failed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol, TypeVar

import h11
import trio
from attrs import field, frozen

from clawsettle.config import Address

ANYWHERE: Final = Address("127.0.0.1", 0)
"""A free port of this machine."""


class Unanswered(Exception):
    """Raised by a handler: nothing more is said until the client hangs up."""


class Cut(Exception):
    """Raised by a handler: the connection ends without an answer."""


@frozen
class Request:
    """One request; header names are lower-case, ``query`` is what follows the question mark."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@frozen
class Reply:
    """One answer; its length is added when it is sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(factory=dict)


Handler = Callable[[Request], Awaitable[Reply]]


class Party(Protocol):
    """Somebody who answers requests."""

    async def answer(self, request: Request) -> Reply:
        """Answer one. Raises: Unanswered and Cut."""
        ...


AnyParty = TypeVar("AnyParty", bound=Party)


@asynccontextmanager
async def serving(
    party_at: Callable[[str], AnyParty], bind: Address = ANYWHERE
) -> AsyncIterator[AnyParty]:
    """Have a party answer requests while the block runs; it is made with its base URL.

    Raises: OSError when the address cannot be bound.
    """
    listeners = await trio.open_tcp_listeners(bind.port, host=bind.host)
    bound = Address(bind.host, listeners[0].socket.getsockname()[1])
    party = party_at(bound.url)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http1, answer=party.answer)
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield party
        nursery.cancel_scope.cancel()


async def serve_http1(stream: trio.abc.Stream, answer: Handler) -> None:
    """Serve one connection until either side ends it, or what either says is not HTTP."""
    http = h11.Connection(h11.SERVER)
    async with stream:
        with suppress(Cut, trio.BrokenResourceError, h11.ProtocolError):
            while (request := await _next_request(http, stream)) is not None:
                try:
                    reply = await answer(request)
                except Unanswered:
                    while await stream.receive_some():
                        pass
                    return
                await stream.send_all(_rendered(http, reply))
                if http.our_state is not h11.DONE:
                    return
                http.start_next_cycle()


async def _next_request(http: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    """Return the next request, whole; None when the client has ended the connection."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    path, _, query = head.target.decode("ascii").partition("?")
    return Request(
        method=head.method.decode("ascii"),
        path=path,
        query=query,
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
        body=body,
    )


def _rendered(http: h11.Connection, reply: Reply) -> bytes:
    headers = {**reply.headers, "content-length": str(len(reply.body))}
    # h11 returns nothing to send for the end of an answer whose length is known.
    return b"".join(
        http.send(event) or b""
        for event in (
            h11.Response(status_code=reply.status, headers=list(headers.items())),
            h11.Data(data=reply.body),
            h11.EndOfMessage(),
        )
    )
