"""The ledger as its users see it, and the one that is reached over HTTP.

Two implementations stand behind the protocol: ``HttpLedger`` here, and the embedded ledger's
keeper. Neither is asked to remember anything: repeating a settlement or a transfer under its key is
always safe.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import orjson
import trio
from attrs import define, field

from clawsettle.clients.http_transport import HttpTransport, NoAnswer
from clawsettle.domain.canonical import canonical_json, compact_json
from clawsettle.domain.forwarding import Forwardable, LedgerOutcome, Unknown, read_answer
from clawsettle.domain.ledger_orders import (
    Applied,
    LedgerAccount,
    LedgerError,
    LedgerEvent,
    TransferOrder,
    TransferOutcome,
    applied,
    read_account,
    read_event,
    read_transfer,
)

_INGEST = "/v1/payments/settlements/ingest"
_TRANSFERS = "/v1/transfers"
_JSON = "application/json; charset=utf-8"
# The documented 256 KiB of a body, and room for its head and framing.
_ANSWER_MAX_BYTES = (256 + 16) * 1024
# What is no Unicode is sent as it is: the ledger's no is better than an exception.
_NO_UNICODE = "surrogatepass"
# Reading in bulk leaves three of four connections to what moves money.
_BULK_SHARE = 4


class SettlementLedger(Protocol):
    """Somewhere settlements can be recorded, each once however often it is sent."""

    @property
    def batch_max(self) -> int:
        """Return how many settlements one call may carry."""
        ...

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        """Send settlements and return an outcome for each, in order; see the outcomes' meaning.

        The caller bounds the time. A cancelled or failed call is an unknown outcome.
        """
        ...


class Ledger(SettlementLedger, Protocol):
    """A ledger that payouts can be made with, too; the caller bounds the time of every call."""

    @property
    def repeats_safely(self) -> bool:
        """Return whether an event and what it moves are one commit, for certain.

        Then a transfer that is not found has moved nothing, and may be asked for again unseen.
        """
        ...

    async def account(self, account_id: str) -> LedgerAccount | None:
        """Return the account with this id as it stands; None when there is none.

        Raises: LedgerError, StorageError.
        """
        ...

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        """Move an amount, once a key; raises nothing. A cancelled call is an unknown outcome."""
        ...

    async def transferred(self, order: TransferOrder) -> Applied | None:
        """Say whether an order is applied, without any effect.

        None is no promise: a request for it that is still under way may apply it later.

        Raises: AnotherTransfer when its key holds something else; LedgerError, StorageError.
        """
        ...

    async def events_by_key(self, keys: Sequence[str]) -> Mapping[str, LedgerEvent]:
        """Return those events of a page of keys that there are, each under its key.

        Raises: LedgerError, StorageError; nothing is left out silently.
        """
        ...


@define(eq=False)
class HttpLedger:
    """A ledger behind ``base_url``; one settlement a call, so a slow one holds up no other.

    A call ends within ``timeout_s``, whatever the ledger does. The address in the configuration is
    the only place the key is sent to; see ``HttpTransport``.
    Source: webhook-forwarding contract section 8, payouts contract section 4.
    """

    base_url: str
    admin_key: str = field(repr=False)
    connect_timeout_s: float
    timeout_s: float
    connections_max: int
    batch_max: int = field(default=1, init=False)
    repeats_safely: bool = field(default=False, init=False)
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
        self._headers = {"content-type": _JSON, "authorization": f"Bearer {self.admin_key}"}

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        """Send settlements one after another; raises nothing. See the protocol."""
        return [await self._send(settlement) for settlement in settlements]

    async def account(self, account_id: str) -> LedgerAccount | None:
        """Ask for an account; see the protocol."""
        asked = {"account_id": account_id}
        return read_account(account_id, *await self._ask("/accounts/id/", account_id, asked))

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        """Send a transfer once; raises nothing. See the protocol."""
        try:
            ledger_status, body = await self._post(
                _TRANSFERS, {"x-admin-key": self.admin_key}, compact_json(order.body())
            )
        except NoAnswer as error:
            return _unanswered(error)
        return read_transfer(ledger_status, body)

    async def transferred(self, order: TransferOrder) -> Applied | None:
        """Ask for the event under the order's key; see the protocol."""
        return applied(order, await self._event(order.key))

    async def events_by_key(self, keys: Sequence[str]) -> Mapping[str, LedgerEvent]:
        """Ask for one event a call, a few at a time; see the protocol."""
        found: dict[str, LedgerEvent] = {}
        failed: list[LedgerError] = []
        waiting = iter(keys)

        async def look() -> None:
            for key in waiting:
                try:
                    event = await self._event(key)
                except LedgerError as error:
                    failed.append(error)
                    nursery.cancel_scope.cancel()
                    return
                if event is not None:
                    found[key] = event

        async with trio.open_nursery() as nursery:
            for _ in range(max(1, self.connections_max // _BULK_SHARE)):
                nursery.start_soon(look)
        if failed:
            raise failed[0]
        return found

    def close(self) -> None:
        """Close the connections that are idle."""
        self._transport.close()

    async def _send(self, settlement: Forwardable) -> LedgerOutcome:
        payload = canonical_json(_wire_payload(settlement))
        try:
            answer = await self._post(_INGEST, {"idempotency-key": settlement.key}, payload)
        except NoAnswer as error:
            return _unanswered(error)
        return read_answer(settlement, *answer)

    async def _event(self, key: str) -> LedgerEvent | None:
        asked = {"idempotency_key": key}
        return read_event(key, *await self._ask("/events/idempotency/", key, asked))

    async def _ask(self, path: str, name: str, asked: Mapping[str, str]) -> tuple[int, object]:
        """Ask for what has this name. Raises: LedgerError without a whole answer."""
        headers = {**self._headers, "x-admin-key": self.admin_key}
        try:
            answer = await self._transport.get(path + _segment(name), headers)
        except NoAnswer as error:
            raise LedgerError(_unanswered(error).message, asked, error.status) from error
        return answer.status, _json(answer.body)

    async def _post(
        self, path: str, headers: Mapping[str, str], content: str
    ) -> tuple[int, object]:
        """Send JSON. Raises: NoAnswer."""
        answer = await self._transport.post(
            path, {**self._headers, **headers}, content.encode(errors=_NO_UNICODE)
        )
        return answer.status, _json(answer.body)


def _segment(name: str) -> str:
    return quote(name, safe="", errors=_NO_UNICODE)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _unanswered(error: NoAnswer) -> Unknown:
    message = f"no answer from the ledger: {error.message}"
    return Unknown(message, error.status, timed_out=error.timed_out, sent=error.sent)


def _wire_payload(settlement: Forwardable) -> dict[str, object]:
    """Return the contract's payload; the link to a payin is known to the embedded ledger alone."""
    return {name: value for name, value in settlement.payload.items() if name != "refund_of"}
