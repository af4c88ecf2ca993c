"""Stripe's HTTP API on the sandbox's state: credentials, parameters, idempotency keys, quirks."""

import re

import orjson
from attrs import define, field, frozen

from clawsettle.sandbox.clock import SandboxClock
from clawsettle.sandbox.http1 import Cut, Reply, Request, Unanswered
from clawsettle.sandbox.idempotency import Answer, IdempotencyKeys
from clawsettle.sandbox.stripe_errors import IDEMPOTENCY, Refused, StripeError, invalid
from clawsettle.sandbox.stripe_objects import stripe_id
from clawsettle.sandbox.stripe_operations import OPERATIONS, Asked, Operation
from clawsettle.sandbox.stripe_parameters import read_parameters
from clawsettle.sandbox.stripe_quirks import ORDINARY, CallQuirk, Effect, Ending, Script
from clawsettle.sandbox.stripe_state import StripeState

IDEMPOTENCY_KEY_MAX_CHARS = 255

_BEARER = re.compile(r"Bearer sk_test_[A-Za-z0-9_]+")


@frozen
class Call:
    """A call whose credentials and parameters were in order, whatever became of it then."""

    operation: Operation
    asked: Asked
    idempotency_key: str | None
    api_version: str | None

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the call says in its metadata."""
        return self.asked.params.get("metadata") or {}


@define(eq=False)
class StripeApi:
    """See the module; ``calls`` are in the order in which they came."""

    state: StripeState
    clock: SandboxClock
    script: Script[CallQuirk] = field(factory=Script)
    calls: list[Call] = field(factory=list)
    _keys: IdempotencyKeys = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._keys = IdempotencyKeys(self.clock.now_s)

    async def answer(self, request: Request) -> Reply:
        """Answer one request. Raises: Unanswered and Cut, where the script says so."""
        try:
            call = self._read(request)
        except Refused as refusal:
            return _reply(_error(refusal.error), request)
        self.calls.append(call)
        quirk = self.script.take(call.operation.name, call.metadata) or ORDINARY
        reply = await self._outcome(call, quirk, request)
        if quirk.ending is Ending.CUT:
            raise Cut
        if quirk.ending is Ending.SILENCE or reply is None:
            raise Unanswered
        return reply

    def _read(self, request: Request) -> Call:
        """Return the call that a request makes. Raises: Refused."""
        if not _BEARER.fullmatch(request.headers.get("authorization", "")):
            raise invalid("You did not provide a valid API key.", status=401)
        operation, object_id = _operation(request)
        account_id = request.headers.get("stripe-account")
        if account_id is not None:
            self.state.account(account_id)
        key = request.headers.get("idempotency-key") if operation.method == "POST" else None
        if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_CHARS:
            text = f"Idempotency keys have up to {IDEMPOTENCY_KEY_MAX_CHARS} characters."
            raise Refused(StripeError(400, IDEMPOTENCY, text))
        form = request.query if operation.method == "GET" else request.body.decode(errors="replace")
        asked = Asked(object_id, read_parameters(form, operation.params), account_id)
        return Call(operation, asked, key, request.headers.get("stripe-version"))

    async def _outcome(self, call: Call, quirk: CallQuirk, request: Request) -> Reply | None:
        if quirk.effect is Effect.NONE:
            return _reply(_error(quirk.error), request) if quirk.error else None
        if call.idempotency_key is None:
            return _reply(await self._act(call, quirk), request)
        key = (call.asked.account_id, call.idempotency_key)
        try:
            kept = self._keys.begin(key, _fingerprint(call))
        except Refused as refusal:
            return _reply(_error(refusal.error), request)
        if kept is not None:
            return _reply(kept, request, replayed=True)
        answer = await self._act(call, quirk)
        self._keys.finish(key, answer)
        return _reply(answer, request)

    async def _act(self, call: Call, quirk: CallQuirk) -> Answer:
        await self.clock.sleep_until(self.clock.now_s() + quirk.delay_s)
        result, error = None, quirk.error
        if quirk.effect is Effect.DONE:
            try:
                result = call.operation.handle(self.state, call.asked)
            except Refused as refusal:
                error = error or refusal.error
        return _error(error) if error else Answer(200, orjson.dumps(result))


def _operation(request: Request) -> tuple[Operation, str]:
    for operation in OPERATIONS:
        object_id = operation.match(request.method, request.path)
        if object_id is not None:
            return operation, object_id
    text = f"Unrecognized request URL ({request.method}: {request.path})."
    raise invalid(text, status=404)


def _fingerprint(call: Call) -> bytes:
    """Return what two uses of one key must agree in."""
    asked = call.asked
    named = [call.operation.name, asked.object_id, asked.params]
    return orjson.dumps(named, option=orjson.OPT_SORT_KEYS)


def _error(error: StripeError) -> Answer:
    return Answer(error.status, orjson.dumps(error.body))


def _reply(answer: Answer, request: Request, *, replayed: bool = False) -> Reply:
    headers = {"content-type": "application/json", "request-id": stripe_id("req")}
    for echoed in ("stripe-version", "idempotency-key"):
        if echoed in request.headers:
            headers[echoed] = request.headers[echoed]
    if replayed:
        headers["idempotent-replayed"] = "true"
    return Reply(answer.status, answer.body, headers)
