"""A server for stubs that keep next to nothing: the wire, and no more.

Written on asyncio's protocols with a search for the end of the head, so that it is not what is
measured.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import orjson

Answer = tuple[bytes, object]
"""A status with its reason, and the body, which is sent as JSON."""


class _Connection(asyncio.Protocol):
    def __init__(self, answer: Callable[[bytes, bytes], Answer]) -> None:
        self._answer = answer
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:head_end]
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            end = head_end + 4 + int(length or 0)
            if len(self._received) < end:
                return
            body, self._received = self._received[head_end + 4 : end], self._received[end:]
            self._transport.write(_rendered(*self._answer(head.split(b" ", 2)[1], body)))


def _rendered(status: bytes, told: object) -> bytes:
    body = orjson.dumps(told)
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def serve(answer: Callable[[bytes, bytes], Answer]) -> None:
    """Answer each request by its path and body until killed; the port is printed once bound."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(answer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
