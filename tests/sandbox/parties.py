"""Who talks to the sandbox in these tests: Stripe's own SDK, and a receiver of webhooks."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import stripe
import trio
from attrs import define, field

from clawsettle.sandbox.http1 import Reply, Request, serving
from clawsettle.sandbox.stripe_sandbox import StripeSandbox

SECRET = "whsec_sandbox"
HEADERS = {"authorization": "Bearer sk_test_1"}

stripe.enable_telemetry = False


@asynccontextmanager
async def open_sdk(base_url: str) -> AsyncIterator[stripe.StripeClient]:
    """The SDK's client, whose own retries are off."""
    http = stripe.HTTPXClient()
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        http._client_async = client
        yield stripe.StripeClient(
            "sk_test_1",
            base_addresses={"api": base_url},
            http_client=http,
            max_network_retries=0,
        )


async def open_account(sandbox: StripeSandbox, sdk: stripe.StripeClient) -> str:
    """An account that may be paid out to."""
    account = await sdk.v1.accounts.create_async(
        {"type": "express", "capabilities": {"transfers": {"requested": True}}}
    )
    sandbox.complete_onboarding(account.id)
    return account.id


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is seen from outside only."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)


@define(eq=False)
class Receiver:
    """A receiver of webhooks that answers what its script says, and 200 from then on."""

    url: str
    statuses: list[int] = field(factory=list)
    events: list[dict[str, Any]] = field(factory=list)
    requests: list[Request] = field(factory=list)

    async def answer(self, request: Request) -> Reply:
        status = self.statuses.pop(0) if self.statuses else 200
        self.requests.append(request)
        if status == 200:
            self.events.append(orjson.loads(request.body))
        return Reply(status, b"")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def until(self, types: Iterable[str]) -> None:
        """Wait until these events have been taken, in whatever order."""
        wanted = sorted(types)
        await until(lambda: sorted(self.types) == wanted)


@asynccontextmanager
async def open_receiver(*statuses: int) -> AsyncIterator[Receiver]:
    async with serving(lambda base_url: Receiver(f"{base_url}/hook", list(statuses))) as receiver:
        yield receiver
