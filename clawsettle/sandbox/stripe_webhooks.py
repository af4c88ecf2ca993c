"""Deliveries of events, signed as Stripe signs them and repeated until they are taken."""

import time

import httpx
import orjson
import tenacity
import trio
from attrs import define, field, frozen

from clawsettle.sandbox.clock import SandboxClock
from clawsettle.sandbox.stripe_events import signature_header
from clawsettle.sandbox.stripe_objects import Json
from clawsettle.sandbox.stripe_quirks import PROMPT, DeliveryQuirk, Script

ATTEMPT_TIMEOUT_S = 20.0
BACKOFF_S = 0.1
BACKOFF_MAX_S = 5.0


@frozen
class Endpoint:
    """Where events are delivered to, and the secret they are signed with."""

    url: str
    secret: str = field(repr=False)


@frozen
class Delivery:
    """One attempt: the event's id, and the status it was answered with, if it was."""

    event_id: str
    status: int | None


class _Untaken(Exception):
    """The receiver did not answer 2xx."""


@frozen
class _Parcel:
    event_id: str
    body: bytes
    quirk: DeliveryQuirk


@define(eq=False)
class Webhooks:
    """Sends each event on its own: none waits for another, and any may overtake any.

    Events that come while there is no ``endpoint`` are not delivered later either.
    """

    clock: SandboxClock
    nursery: trio.Nursery
    client: httpx.AsyncClient
    endpoint: Endpoint | None = None
    script: Script[DeliveryQuirk] = field(factory=Script)
    deliveries: list[Delivery] = field(factory=list)
    _held: dict[str, list[_Parcel]] = field(init=False, factory=dict)

    def send(self, event: Json) -> None:
        """Begin to deliver an event as it stands now."""
        if self.endpoint is None:
            return
        content = event["data"]["object"]
        quirk = self.script.take(event["type"], content["metadata"]) or PROMPT
        parcel = _Parcel(event["id"], orjson.dumps(event), quirk)
        if quirk.after_next:
            self._held.setdefault(content["id"], []).append(parcel)
            return
        parcels = [parcel, *self._held.pop(content["id"], [])]
        self.nursery.start_soon(self._deliver, self.endpoint, parcels)

    async def _deliver(self, endpoint: Endpoint, parcels: list[_Parcel]) -> None:
        for parcel in parcels:
            await self.clock.sleep_until(self.clock.now_s() + parcel.quirk.delay_s)
            async with trio.open_nursery() as copies:
                for _ in range(parcel.quirk.copies):
                    copies.start_soon(self._deliver_copy, endpoint, parcel)

    async def _deliver_copy(self, endpoint: Endpoint, parcel: _Parcel) -> None:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((_Untaken, httpx.HTTPError)),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_S, max=BACKOFF_MAX_S),
            sleep=trio.sleep,
        )
        await attempts(self._attempt, endpoint, parcel)

    async def _attempt(self, endpoint: Endpoint, parcel: _Parcel) -> None:
        # The receiver's clock has not been moved on, so the signature's is the real one.
        signature = signature_header(
            parcel.body, secret=endpoint.secret, timestamp_s=int(time.time())
        )
        headers = {"content-type": "application/json", "stripe-signature": signature}
        status: int | None = None
        try:
            reply = await self.client.post(endpoint.url, content=parcel.body, headers=headers)
            status = reply.status_code
        finally:
            self.deliveries.append(Delivery(parcel.event_id, status))
        if not reply.is_success:
            raise _Untaken
