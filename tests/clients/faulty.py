"""A server between a client and the real one, that does to each request what a test says.

Each request gets the next fault of the script; when the script has ended, requests are passed on.
Without an upstream it is a stranger that answers whatever its faults say.
"""

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen


class Cut(Exception):
    """The fault has hung up."""


@frozen(eq=False)
class Wire:
    """One request under way: the client's stream, the request's bytes, and the way to upstream."""

    client: trio.abc.Stream
    request: bytes
    server: "FaultyServer"

    async def deliver(self) -> bytes:
        """Pass the request on, on a connection of its own, and return the answer's bytes."""
        assert self.server.upstream is not None
        to = urlsplit(self.server.upstream)
        async with await trio.open_tcp_stream(to.hostname or "", to.port or 0) as upstream:
            await upstream.send_all(self.request)
            answer = await read_message(upstream)
        self.server.delivered_count += 1
        return answer

    async def until_hung_up(self) -> None:
        """Wait until the client has given up, and raise EOFError."""
        if not await self.client.receive_some(1):
            raise EOFError


Fault = Callable[[Wire], Awaitable[None]]


@define(eq=False)
class FaultyServer:
    """See the module; ``requests`` are the bytes that came, ``hung_up`` tells of a lost client."""

    upstream: str | None
    script: Iterator[Fault]
    base_url: str = ""
    requests: list[bytes] = field(factory=list)
    connection_count: int = 0
    delivered_count: int = 0
    hung_up: trio.Event = field(factory=trio.Event)

    @property
    def heads(self) -> list[str]:
        return [request.partition(b"\r\n\r\n")[0].decode() for request in self.requests]

    @property
    def bodies(self) -> list[bytes]:
        return [request.partition(b"\r\n\r\n")[2] for request in self.requests]

    def react(self, *faults: Fault) -> None:
        """Replace what is left of the script."""
        self.script = iter(faults)

    async def serve(self, client: trio.abc.Stream) -> None:
        self.connection_count += 1
        async with client:
            try:
                while True:
                    request = await read_message(client)
                    self.requests.append(request)
                    fault = next(self.script, pass_on)
                    await fault(Wire(client, request, self))
            except Cut:
                return
            except (EOFError, trio.BrokenResourceError):
                self.hung_up.set()


@asynccontextmanager
async def faulty(
    upstream: str | None, script: Iterable[Fault], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FaultyServer]:
    """Serve on a free port while the block runs."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    server = FaultyServer(upstream, iter(script), f"http://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        accepting = listener if tls is None else trio.SSLListener(listener, tls)
        await nursery.start(trio.serve_listeners, server.serve, [accepting])
        yield server
        nursery.cancel_scope.cancel()


async def read_message(stream: trio.abc.Stream) -> bytes:
    """Read one message, framed by content-length if at all. Raises: EOFError at its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    while len(body) < length:
        more = await _more(stream)
        data, body = data + more, body + more
    return data


async def _more(stream: trio.abc.Stream) -> bytes:
    if not (chunk := await stream.receive_some(65536)):
        raise EOFError
    return bytes(chunk)


async def pass_on(wire: Wire) -> None:
    await wire.client.send_all(await wire.deliver())


async def drop_request(_wire: Wire) -> None:
    raise Cut


async def drop_answer(wire: Wire) -> None:
    await wire.deliver()
    raise Cut


async def delay_answer(wire: Wire) -> None:
    await wire.deliver()
    await wire.until_hung_up()


async def deliver_twice(wire: Wire) -> None:
    await wire.deliver()
    await pass_on(wire)


async def deliver_twice_at_once(wire: Wire) -> None:
    async with trio.open_nursery() as both:
        both.start_soon(wire.deliver)
        await pass_on(wire)


async def answer_twice(wire: Wire) -> None:
    answer = await wire.deliver()
    await wire.client.send_all(answer + answer)


async def cut_in_the_head(wire: Wire) -> None:
    await wire.client.send_all((await wire.deliver())[:20])
    raise Cut


async def cut_in_the_body(wire: Wire) -> None:
    await wire.client.send_all((await wire.deliver())[:-5])
    raise Cut


async def promise_more(wire: Wire) -> None:
    """Announce a longer body than there is, and keep the connection open."""
    head, _, body = (await wire.deliver()).partition(b"\r\n\r\n")
    length = b"content-length: %d" % len(body)
    assert length in head
    longer = head.replace(length, b"content-length: %d" % (len(body) + 1))
    await wire.client.send_all(longer + b"\r\n\r\n" + body)
    await wire.until_hung_up()


async def dribble(wire: Wire) -> None:
    """Answer a byte at a time, each well within any read timeout."""
    for byte in await wire.deliver():
        await wire.client.send_all(bytes([byte]))
        await trio.sleep(0.05)  # the slowness is what is tested


async def reset(wire: Wire) -> None:
    """Break the connection off, as a kernel does for a process that died with bytes unread."""
    await wire.deliver()
    assert isinstance(wire.client, trio.SocketStream)
    wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Cut


def held_until(released: trio.Event) -> Fault:
    """Keep the request until then, and deliver it whether or not its client still waits."""

    async def hold(wire: Wire) -> None:
        await released.wait()
        await pass_on(wire)

    return hold


async def answer_and_hang_up(wire: Wire) -> None:
    """Answer in full, keep-alive by its words, and close."""
    await pass_on(wire)
    raise Cut


def rewriting(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Pass the request on, and answer what ``change`` makes of the answer's JSON."""

    async def rewrite(wire: Wire) -> None:
        head, _, body = (await wire.deliver()).partition(b"\r\n\r\n")
        changed = json.dumps(change(json.loads(body))).encode()
        length = b"content-length: %d" % len(body)
        head = head.replace(length, b"content-length: %d" % len(changed))
        await wire.client.send_all(head + b"\r\n\r\n" + changed)

    return rewrite


def answering(status: int, body: bytes, *headers: str) -> Fault:
    """Answer well-formed HTTP and hang up, without asking the ledger."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return saying("\r\n".join([*lines, "", ""]).encode() + body)


def saying(data: bytes) -> Fault:
    """Say these bytes and hang up."""

    async def say(wire: Wire) -> None:
        await wire.client.send_all(data)
        raise Cut

    return say


def pouring(head: bytes, piece: bytes) -> Fault:
    """Say the head, then the piece again and again until the client has gone."""

    async def pour(wire: Wire) -> None:
        await wire.client.send_all(head)
        while True:
            await wire.client.send_all(piece)

    return pour


async def hang(wire: Wire) -> None:
    """Answer nothing until the client has gone."""
    await wire.until_hung_up()
