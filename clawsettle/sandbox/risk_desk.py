"""The door of one stand-in: its key, what goes wrong with its calls, and the record of them."""

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import orjson
import trio
from attrs import define, field, frozen

from clawsettle.config import TargetAddress, matches_any
from clawsettle.sandbox.http1 import Cut, Reply, Request, Unanswered
from clawsettle.sandbox.risk_answers import Asked, Refused, Said, StandIn
from clawsettle.sandbox.risk_faults import Ending, Fault, FaultScript

CALLS_KEPT_MAX = 10_000
_PAGE = b"<!doctype html><title>Welcome</title><h1>It works</h1>"


@frozen
class RiskCall:
    """A call, whatever became of it; ``path`` is below the base URL.

    ``said`` is what the stand-in made of it, None when it was not asked; ``http_status`` what the
    caller saw, None for nothing.
    """

    path: str
    key: str | None
    body: bytes
    said: Said | None
    http_status: int | None


@define(eq=False)
class RiskDesk:
    """See the module. The newest ``CALLS_KEPT_MAX`` calls are kept, ``call_count`` has them all.

    A call is noted when it has had its effect, or would have had it.
    """

    address: TargetAddress
    stand_in: StandIn
    script: FaultScript = field(factory=FaultScript, init=False)
    calls: deque[RiskCall] = field(factory=lambda: deque(maxlen=CALLS_KEPT_MAX), init=False)
    call_count: int = field(default=0, init=False)

    async def answer(self, request: Request, path: str) -> Reply:
        """Answer a call. Raises: Unanswered and Cut, where the script says so."""
        fault = self.script.take()
        if fault.delay_s:
            await trio.sleep(fault.delay_s)
        said = self._said(request, path) if fault.has_effect else None
        is_own = fault.ending is Ending.OWN
        reply = json_reply(said.status, said.body) if said and is_own else _wrong(fault)
        key = request.headers.get("idempotency-key")
        self.calls.append(RiskCall(path, key, request.body, said, reply.status if reply else None))
        self.call_count += 1
        if reply is None:
            raise Cut if fault.ending is Ending.CUT else Unanswered
        return reply

    def _said(self, request: Request, path: str) -> Said:
        try:
            return self.stand_in.answer(self._asked(request, path))
        except Refused as refusal:
            return refusal.said

    def _asked(self, request: Request, path: str) -> Asked:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not matches_any(token, [self.address.key]):
            raise Refused(401, "UNAUTHORIZED", "the bearer key is wrong or missing")
        if request.method != "POST":
            raise Refused(404, "NOT_FOUND", "there is no such route")
        body = json_object(request.body)
        key = request.headers.get("idempotency-key")
        if not key or body.get("idempotency_key") != key:
            message = "the header idempotency-key and the field idempotency_key must be the same"
            raise Refused(400, "INVALID_REQUEST", message)
        digest = hashlib.sha256(path.encode() + b"\n" + request.body).hexdigest()
        return Asked(path, key, body, digest)


def json_object(text: bytes) -> Mapping[str, Any]:
    """Read a body. Raises: Refused when it is no JSON object."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "INVALID_REQUEST", "the body must be a JSON object")
    return body


def json_reply(
    status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Reply:
    """Return an answer in JSON."""
    json_type = {"content-type": "application/json; charset=utf-8"}
    return Reply(status, orjson.dumps(body), {**json_type, **(headers or {})})


def _wrong(fault: Fault) -> Reply | None:
    if fault.ending is Ending.PAGE:
        return Reply(fault.status, _PAGE, {"content-type": "text/html"})
    if fault.ending is not Ending.REFUSAL:
        return None
    later = {} if fault.retry_after_s is None else {"retry-after": str(fault.retry_after_s)}
    body = {"error": fault.code, "message": "the script says so"}
    return json_reply(fault.status, body, later)
