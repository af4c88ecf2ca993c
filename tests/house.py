"""A whole daemon inside the test: real database, real actors, both ports without sockets."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import trio
from attrs import evolve, frozen

from clawsettle.config import (
    AdminSettings,
    AuthSettings,
    ForwardingSettings,
    LedgerSettings,
    LossEventSettings,
    NettingSettings,
    PayoutSettings,
    Secret,
    Settings,
    StripeSettings,
)
from clawsettle.daemon.composition import Parts, assemble
from clawsettle.sandbox.stripe_events import EventPlan, signature_header, stripe_event
from clawsettle.storage.bridge import Database, open_database
from tests.storage.books import faults

SECRET = "whsec_house"
ADMIN = {"authorization": "Bearer settle_house"}
LEDGER_ADMIN = {"authorization": "Bearer ledger_house"}

Json = dict[str, Any]


def settings(
    *,
    forwarding: Mapping[str, Any] | None = None,
    stripe: Mapping[str, Any] | None = None,
    ledger: Mapping[str, Any] | None = None,
    payouts: Mapping[str, Any] | None = None,
    netting: Mapping[str, Any] | None = None,
    loss_events: Mapping[str, Any] | None = None,
    auth: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of a staging daemon with one key of each kind."""
    return Settings(
        admin=AdminSettings(keys=(Secret("settle_house"),)),
        stripe=StripeSettings(
            **{"webhook_secrets": (Secret(SECRET),), "environment": "staging", **(stripe or {})}
        ),
        forwarding=ForwardingSettings(**(forwarding or {})),
        ledger=LedgerSettings(**{"admin_keys": (Secret("ledger_house"),), **(ledger or {})}),
        payouts=PayoutSettings(**(payouts or {})),
        netting=NettingSettings(**(netting or {})),
        loss_events=LossEventSettings(**(loss_events or {})),
        auth=AuthSettings(**(auth or {})),
    )


@frozen(eq=False)
class House:
    """The daemon's parts, its database, and a client for each of its ports."""

    parts: Parts
    database: Database
    settle: httpx.AsyncClient
    ledger: httpx.AsyncClient

    async def deliver(
        self,
        event: Mapping[str, object] | bytes,
        *,
        secret: str = SECRET,
        header: str | None = None,
    ) -> httpx.Response:
        """Post an event (or raw bytes), signed now unless a header is given."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        if header is None:
            header = signature_header(body, secret=secret, timestamp_s=int(time.time()))
        return await self.settle.post(
            "/v1/stripe/webhook", content=body, headers={"stripe-signature": header}
        )

    async def open_account(self, did: str = "did:key:alice") -> str:
        answer = await self.ledger.post("/accounts", json={"did": did})
        assert answer.status_code == 201
        return str(answer.json()["id"])

    async def available(self, account_id: str) -> int:
        answer = await self.ledger.get(f"/accounts/id/{account_id}")
        return int(answer.json()["balances"]["available"])

    async def settlements(self, external_id: str) -> list[Json]:
        answer = await self.ledger.get(f"/v1/payments/settlements/stripe/{external_id}")
        return list(answer.json().get("settlements", []))

    async def retry(self, **options: object) -> Json:
        answer = await self.settle.post("/v1/stripe/forwarding/retry", json=options, headers=ADMIN)
        assert answer.status_code == 200
        body: Json = answer.json()
        return body

    async def row(self, event_id: str) -> Mapping[str, Any]:
        rows = await self.database.fetch(
            "SELECT * FROM settlement_outbox WHERE event_id = $1", event_id
        )
        return rows[0]

    async def check_books(self) -> None:
        """Assert what must hold after every test: the whole book follows from its journal."""
        assert await faults(self.database) == []


@asynccontextmanager
async def open_house(database_url: str, configured: Settings | None = None) -> AsyncIterator[House]:
    """Run a daemon's parts on a database; the books are checked when it closes without error."""
    async with (
        AsyncExitStack() as stack,
        open_database(database_url) as database,
        trio.open_nursery() as nursery,
    ):
        parts = assemble(configured or settings(), database)
        stack.callback(parts.close)
        for supervised in reversed(parts.actors):
            await nursery.start(supervised.run)
        async with (
            _client(parts.app) as settle,
            _client(parts.ledger_app, LEDGER_ADMIN) as ledger,
        ):
            house = House(parts, database, settle, ledger)
            yield house
            for supervised in parts.actors:
                if supervised.actor.name not in {"ledger_keeper", "delivery_recorder"}:
                    await supervised.stop()
            if parts.ledger_app is not None:
                await house.check_books()
        for supervised in parts.actors:
            await supervised.stop()


def _client(app: Any, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://house", headers=headers, timeout=60
    )


def plan(
    event_type: str, event_id: str, object_id: str, account_id: str, **other: Any
) -> EventPlan:
    """A plan for an event of the staging environment; 2500 USD now unless told otherwise."""
    known = EventPlan(
        event_type=event_type,
        account_id=account_id,
        amount_minor=2500,
        currency="usd",
        livemode=False,
        created_s=int(time.time()),
        event_id=event_id,
        object_id=object_id,
    )
    return evolve(known, **other)


def payin(event_id: str, account_id: str, **other: Any) -> dict[str, object]:
    """A payment_intent.succeeded event with a payment of its own."""
    return stripe_event(
        plan("payment_intent.succeeded", event_id, f"pi_{event_id}", account_id, **other)
    )
