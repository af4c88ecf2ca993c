"""A ledger over HTTP that takes everything at once and keeps nothing.

It answers an ingest with the settlement it was sent, as the contract wants it echoed, and a
transfer with the event that applied it.
"""

import orjson
import uvloop

from bench.stub_server import Answer, serve


def answer(_path: bytes, body: bytes) -> Answer:
    """Answer that what was asked for is done."""
    asked = orjson.loads(body)
    if "idempotency_key" in asked:
        return b"200 OK", {"event_id": f"evt_{asked['idempotency_key']}", "status": "applied"}
    named = {**asked, "id": f"set_{asked['external_payment_id']}"}
    return b"201 Created", {"settlement": named, "idempotency": {"replayed": False}}


if __name__ == "__main__":
    uvloop.run(serve(answer))
