"""The targets of loss events, all behind one port: they do everything at once.

It keeps when each event was first told, and when last, on CLOCK_MONOTONIC, which all processes of a
machine share; ``ARRIVALS`` shows that.
"""

import time

import orjson
import uvloop

from bench.stub_server import Answer, serve

ARRIVALS = "/arrivals"
_arrivals: dict[str, tuple[float, float]] = {}


def answer(path: bytes, body: bytes) -> Answer:
    """Answer that what was asked for is done, in the words of every target."""
    now = time.monotonic()
    if path == ARRIVALS.encode():
        return b"200 OK", _arrivals
    asked = orjson.loads(body)
    event_id = asked["source_loss_event_id"]
    _arrivals[event_id] = _arrivals.get(event_id, (now,))[0], now
    told = {"id": f"told_{event_id}", "source_loss_event_id": event_id, "status": "active"}
    names = ("hold", "risk_hold", "claim", "adjustment")
    return b"201 Created", {"ok": True, **dict.fromkeys(names, told)}


if __name__ == "__main__":
    uvloop.run(serve(answer))
