"""The ledger as the forwarder sees it, and the one that is reached over HTTP.

Two implementations stand behind the protocol: ``HttpLedger`` here, and the embedded ledger's
keeper. Neither is asked to remember anything: repeating a settlement under its key is always safe.
"""

from collections.abc import Sequence
from typing import Protocol

import httpx
import orjson
from attrs import define, field

from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.forwarding import Forwardable, LedgerOutcome, Unknown, read_answer

_INGEST = "/v1/payments/settlements/ingest"
_ANSWER_MAX_BYTES = 256 * 1024


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

    Redirects are not followed and the environment's proxies are not used: the address in the
    configuration is the only place the key is sent to.
    Source: webhook-forwarding contract section 8.
    """

    base_url: str
    admin_key: str = field(repr=False)
    connect_timeout_s: float
    read_timeout_s: float
    connections_max: int
    batch_max: int = field(default=1, init=False)
    _client: httpx.AsyncClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(self.read_timeout_s, connect=self.connect_timeout_s),
            limits=httpx.Limits(
                max_connections=self.connections_max,
                max_keepalive_connections=self.connections_max,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def ingest(self, settlements: Sequence[Forwardable]) -> Sequence[LedgerOutcome]:
        """Send settlements one after another; see the protocol."""
        return [await self._send(settlement) for settlement in settlements]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, settlement: Forwardable) -> LedgerOutcome:
        try:
            async with self._client.stream(
                "POST",
                self.base_url + _INGEST,
                content=canonical_json(settlement.payload).encode(),
                headers={
                    "content-type": "application/json; charset=utf-8",
                    "authorization": f"Bearer {self.admin_key}",
                    "idempotency-key": settlement.key,
                },
            ) as response:
                raw = bytearray()
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > _ANSWER_MAX_BYTES:
                        return Unknown("the ledger's answer is too large", response.status_code)
        except httpx.HTTPError as error:
            return Unknown(f"no answer from the ledger: {type(error).__name__}")
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        return read_answer(settlement, response.status_code, body)
