"""A ledger over HTTP that takes everything at once and keeps nothing: the wire, and no more.

It answers an ingest with the settlement it was sent, as the contract wants it echoed, and a
transfer with the event that applied it. Written on asyncio's protocols with a search for the end of
the head, so that it is not what is measured.
"""

import asyncio
from typing import cast

import orjson
import uvloop


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:head_end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            end = head_end + 4 + length
            if len(self._received) < end:
                return
            body, self._received = self._received[head_end + 4 : end], self._received[end:]
            self._transport.write(_answer(orjson.loads(body)))


def _answer(asked: dict[str, object]) -> bytes:
    told: dict[str, object]
    if "idempotency_key" in asked:
        status = b"200 OK"
        told = {"event_id": f"evt_{asked['idempotency_key']}", "status": "applied"}
    else:
        status = b"201 Created"
        named = {**asked, "id": f"set_{asked['external_payment_id']}"}
        told = {"settlement": named, "idempotency": {"replayed": False}}
    body = orjson.dumps(told)
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def main() -> None:
    """Serve until killed; the port is printed once it is bound."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
