"""The ledger as the forwarder sees it, and the one that is reached over HTTP.

Two implementations stand behind the protocol: ``HttpLedger`` here, and the embedded ledger's
keeper. Neither is asked to remember anything: repeating a settlement under its key is always safe.
"""

from collections.abc import Sequence
from typing import Protocol

import orjson
from attrs import define, field

from clawsettle.clients.http_transport import HttpTransport, NoAnswer
from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.forwarding import Forwardable, LedgerOutcome, Unknown, read_answer

_INGEST = "/v1/payments/settlements/ingest"
# The documented 256 KiB of a body, and room for its head and framing.
_ANSWER_MAX_BYTES = (256 + 16) * 1024


class Ledger(Protocol):
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


@define(eq=False)
class HttpLedger:
    """A ledger behind ``base_url``; one settlement a call, so a slow one holds up no other.

    A call ends within ``timeout_s``, whatever the ledger does. The address in the configuration is
    the only place the key is sent to; see ``HttpTransport``.
    Source: webhook-forwarding contract section 8.
    """

    base_url: str
    admin_key: str = field(repr=False)
    connect_timeout_s: float
    timeout_s: float
    connections_max: int
    batch_max: int = field(default=1, init=False)
    _transport: HttpTransport = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._transport = HttpTransport(
            self.base_url,
            self.connections_max,
            self.connect_timeout_s,
            self.timeout_s,
            _ANSWER_MAX_BYTES,
        )

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        """Send settlements one after another; raises nothing. See the protocol."""
        return [await self._send(settlement) for settlement in settlements]

    def close(self) -> None:
        """Close the connections that are idle."""
        self._transport.close()

    async def _send(self, settlement: Forwardable) -> LedgerOutcome:
        try:
            answer = await self._transport.post(
                _INGEST,
                {
                    "content-type": "application/json; charset=utf-8",
                    "authorization": f"Bearer {self.admin_key}",
                    "idempotency-key": settlement.key,
                },
                # What is no Unicode is sent as it is: the ledger's no is better than an exception.
                canonical_json(_wire_payload(settlement)).encode(errors="surrogatepass"),
            )
        except NoAnswer as error:
            return Unknown(f"no answer from the ledger: {error.message}", error.status)
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            body = None
        return read_answer(settlement, answer.status, body)


def _wire_payload(settlement: Forwardable) -> dict[str, object]:
    """Return the contract's payload; the link to a payin is known to the embedded ledger alone."""
    return {name: value for name, value in settlement.payload.items() if name != "refund_of"}
