"""The risk targets: whoever must act on a loss event, over HTTP or in this process.

Two implementations stand behind the protocol: ``HttpRiskTarget`` here, and the embedded ledger in
``actors.risk_ledger``. Repeating a call under its key is always safe; redirects are answers, so no
key goes anywhere but to the address in the configuration.
Source: loss-events contract section 5; 10 (11, 12, 19).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote

import orjson
from attrs import define, evolve, field

from clawsettle.clients.http_transport import Answer, HttpTransport, NoAnswer
from clawsettle.domain.accounts import ALIAS_PREFIX
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.loss_answers import Answered, Unanswered
from clawsettle.domain.loss_calls import Call

_JSON = "application/json; charset=utf-8"
_ANSWER_MAX_BYTES = 256 * 1024
_OK = 200
# What is no Unicode is sent as it is: the target's no is better than an exception.
_NO_UNICODE = "surrogatepass"


class RiskTarget(Protocol):
    """Somebody who is told of loss events; every call ends in time by itself."""

    async def send(self, call: Call) -> Answered | Unanswered:
        """Make a call and return what came back; raises nothing."""
        ...

    async def hold_of(self, loss_event_id: str) -> Mapping[str, Any] | Unanswered | None:
        """Return the risk hold of a loss event as a ledger shows it; None when it shows none.

        Only ledgers are asked. Raises nothing.
        """
        ...


@define(eq=False)
class HttpRiskTarget:
    """A target behind ``base_url``, with at most ``connections_max`` calls under way."""

    base_url: str
    key: str = field(repr=False)
    connect_timeout_s: float
    timeout_s: float
    connections_max: int
    _transport: HttpTransport = field(init=False)
    _headers: Mapping[str, str] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._transport = HttpTransport(
            self.base_url,
            self.connections_max,
            self.connect_timeout_s,
            self.timeout_s,
            _ANSWER_MAX_BYTES,
        )
        self._headers = {"content-type": _JSON, "authorization": f"Bearer {self.key}"}

    async def send(self, call: Call) -> Answered | Unanswered:
        """Post a call; see the protocol."""
        headers = {**self._headers, "idempotency-key": call.key}
        body = compact_json(call.body).encode(errors=_NO_UNICODE)
        try:
            answer = await self._transport.post(call.path, headers, body)
        except NoAnswer as error:
            return _unanswered(error)
        return self._answered(answer)

    async def hold_of(self, loss_event_id: str) -> Mapping[str, Any] | Unanswered | None:
        """Ask for the hold of a loss event; see the protocol."""
        query = f"/v1/risk/holds?source_loss_event_id={_quoted(loss_event_id)}&limit=1"
        body = await self._get(query)
        if isinstance(body, Answered):
            return Unanswered(f"the ledger answered {body.http_status} to a look", body.http_status)
        if isinstance(body, Unanswered):
            return body
        holds = body.get("holds")
        if not isinstance(holds, list):
            return Unanswered("the ledger's answer lists no holds")
        return holds[0] if holds and isinstance(holds[0], dict) else None

    async def did_of(self, account_id: str) -> str | Answered | Unanswered:
        """Ask a ledger for the DID of an account; what it answers instead. Raises nothing."""
        body = await self._get(f"/accounts/id/{_quoted(account_id)}")
        if isinstance(body, Answered | Unanswered):
            return body
        did = body.get("did")
        return did if isinstance(did, str) else Unanswered("the ledger's answer names no DID")

    def close(self) -> None:
        """Close the connections that are idle."""
        self._transport.close()

    async def _get(self, path: str) -> Mapping[str, Any] | Answered | Unanswered:
        """Return the object that a look finds, or else what comes instead of one."""
        try:
            answer = await self._transport.get(path, self._headers)
        except NoAnswer as error:
            return _unanswered(error)
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            body = None
        return body if answer.status == _OK and isinstance(body, dict) else self._answered(answer)

    def _answered(self, answer: Answer) -> Answered:
        # Pages that show errors may show the request's headers: what is answered is stored.
        credentials = self._headers["authorization"]
        text = answer.body.decode(errors="replace").replace(credentials, "Bearer [...]")
        return Answered(answer.status, text, _retry_after_s(answer))


@define(eq=False)
class HttpRiskLedger:
    """The ledger behind HTTP as a risk target.

    Some ledgers know no DID with a colon in its identifier, and so not the alias
    ``did:claw:account:<account id>``: they are sent the DID that they have for that account.
    """

    target: HttpRiskTarget

    async def send(self, call: Call) -> Answered | Unanswered:
        """Make a call; see the protocol."""
        account = call.body.get("account")
        if isinstance(account, str) and account.startswith(ALIAS_PREFIX):
            did = await self.target.did_of(account.removeprefix(ALIAS_PREFIX))
            if isinstance(did, Answered):
                return did  # a refusal is one, whichever of the two requests it answers
            if isinstance(did, Unanswered):
                return evolve(did, sent=False)
            call = evolve(call, body={**call.body, "account": did})
        return await self.target.send(call)

    async def hold_of(self, loss_event_id: str) -> Mapping[str, Any] | Unanswered | None:
        """Ask for the hold of a loss event; see the protocol."""
        return await self.target.hold_of(loss_event_id)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors=_NO_UNICODE)


def _unanswered(error: NoAnswer) -> Unanswered:
    return Unanswered(f"no answer: {error.message}", error.status, sent=error.sent)


def _retry_after_s(answer: Answer) -> float | None:
    """Return how long an answer asks to be left alone, in seconds; None when it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
