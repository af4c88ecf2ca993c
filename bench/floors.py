"""The two floors: what hypercorn's trio server does with nothing behind it, and with quart-trio.

Both read the body and answer 200 with a few bytes. They use hypercorn's own ``serve`` with its
defaults, but for the limit of requests a connection, which would end the load's connections.
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import hypercorn.trio
import quart
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio

_BODY = b'{"ok":true}'
_Message = MutableMapping[str, Any]


async def bare(
    scope: _Message,
    receive: Callable[[], Awaitable[_Message]],
    send: Callable[[_Message], Awaitable[None]],
) -> None:
    """Answer any request, as an ASGI application without a framework."""
    if scope["type"] == "lifespan":
        # hypercorn takes an error here as "not supported".
        raise NotImplementedError
    while (await receive()).get("more_body", False):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY, "more_body": False})


def plain_quart() -> QuartTrio:
    """Return the same as a Quart application."""
    app = QuartTrio(__name__)

    @app.post("/v1/stripe/webhook")
    async def answer() -> quart.Response:
        await quart.request.get_data()
        return quart.Response(_BODY, content_type="application/json")

    return app


async def main(floor: str) -> None:
    """Serve until killed; the port is printed once it is bound."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    config.keep_alive_max_requests = sys.maxsize
    app: Any = bare if floor == "bare" else plain_quart()
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(hypercorn.trio.serve, app, config)
        print(address.rpartition(":")[2], flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
