"""A Stripe of one's own: its API on a real socket, its webhooks, payouts that take their course.

The state is in memory and ends with it. Everything in it is there to be looked at.

Source: new.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx
import orjson
import trio
from attrs import evolve

from clawsettle.sandbox.clock import SandboxClock
from clawsettle.sandbox.http1 import ANYWHERE, Reply, Request, serving
from clawsettle.sandbox.stripe_api import StripeApi
from clawsettle.sandbox.stripe_objects import Json, event_object, stripe_id
from clawsettle.sandbox.stripe_onboarding import answer_home, answer_onboarding
from clawsettle.sandbox.stripe_quirks import FATE_KEY, Fate
from clawsettle.sandbox.stripe_state import ONBOARDING_PATH, StripeState
from clawsettle.sandbox.stripe_webhooks import ATTEMPT_TIMEOUT_S, Webhooks


class StripeSandbox:
    """See the module; made by ``open_sandbox``.

    A payout takes the course that ``fate`` names, unless its metadata choose another: one status
    every ``step_s`` seconds of the sandbox's time. ``events`` are all there were; they go to
    ``webhooks.endpoint``. What is to go wrong is put into ``api.script``, by the operation's name,
    and into ``webhooks.script``, by the event's type.
    """

    def __init__(
        self,
        base_url: str,
        nursery: trio.Nursery,
        client: httpx.AsyncClient,
        *,
        fate: Fate,
        step_s: float,
    ) -> None:
        self.base_url: Final = base_url
        self.clock: Final = SandboxClock()
        self.events: Final[list[Json]] = []
        self.state: Final = StripeState(self.clock.now_s, self._emit, base_url)
        self.api: Final = StripeApi(self.state, self.clock)
        self.webhooks: Final = Webhooks(self.clock, nursery, client)
        self._nursery: Final = nursery
        self._fate: Final = fate
        self._step_s: Final = step_s

    def complete_onboarding(self, account_id: str) -> None:
        """Enable what an account has asked for, as at the end of the page its link leads to."""
        self.state.enable_account(account_id)

    def _emit(
        self, event_type: str, content: Json, *, account: str, previous: Json | None = None
    ) -> None:
        event = event_object(
            event_type,
            orjson.loads(orjson.dumps(content)),
            event_id=stripe_id("evt"),
            created_s=int(self.clock.now_s()),
            account=account,
            previous=previous,
        )
        self.events.append(event)
        self.webhooks.send(event)
        if event_type == "payout.created":
            self._nursery.start_soon(self._take_course, event["data"]["object"])

    async def _take_course(self, payout: Json) -> None:
        due_s = self.clock.now_s()
        for status in _fate(payout["metadata"], self._fate).statuses:
            due_s += self._step_s
            await self.clock.sleep_until(due_s)
            self.state.move_payout(payout["id"], status)

    async def answer(self, request: Request) -> Reply:
        """Answer a request to the API, or to a page. Raises: as ``StripeApi.answer`` does."""
        if request.path.startswith(ONBOARDING_PATH):
            return answer_onboarding(self.state, request)
        if request.path == "/":
            return answer_home()
        return await self.api.answer(request)


@asynccontextmanager
async def open_sandbox(
    *, fate: Fate = Fate.PAID, step_s: float = 0, port: int = 0
) -> AsyncIterator[StripeSandbox]:
    """Serve a Stripe at 127.0.0.1 while the block runs, on a free port unless one is named."""
    async with (
        httpx.AsyncClient(timeout=ATTEMPT_TIMEOUT_S, trust_env=False) as client,
        trio.open_nursery() as nursery,
        serving(
            lambda base_url: StripeSandbox(base_url, nursery, client, fate=fate, step_s=step_s),
            evolve(ANYWHERE, port=port),
        ) as sandbox,
    ):
        yield sandbox
        nursery.cancel_scope.cancel()


def _fate(metadata: Mapping[str, str], default: Fate) -> Fate:
    chosen = metadata.get(FATE_KEY)
    return Fate(chosen) if chosen in set(Fate) else default
