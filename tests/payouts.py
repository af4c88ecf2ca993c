"""Payouts for tests: funded accounts that may be paid out to, orders, and the provider's events."""

from typing import Any

import trio
from attrs import frozen

from clawsettle.actors.payout_keeper import PayoutKeeper
from clawsettle.domain.payout_requests import PayoutRequest
from clawsettle.sandbox.simulated_provider import connect_account_id
from clawsettle.sandbox.stripe_events import stripe_event
from clawsettle.storage.bridge import Database
from tests.house import House, Json, payin, plan

SIMULATED = {"provider": "simulated", "retry_base_s": 1, "retry_max_s": 1, "poll_s": 0.05}
CLEARING = "clawsettle.payouts"
_UNDER_WAY = (
    "SELECT 1 FROM payout WHERE lease_token IS NOT NULL OR due_at <= now()"
    " UNION ALL SELECT 1 FROM settlement_outbox WHERE due_at IS NOT NULL"
)


@frozen
class Payee:
    """An account that is funded and may be paid out to."""

    account_id: str
    did: str

    @property
    def connect_account_id(self) -> str:
        return connect_account_id(self.account_id)


async def payee(house: House, *, amount_minor: int = 5000, did: str = "did:key:alice") -> Payee:
    """Open an account, put an amount on it, and have it onboarded."""
    one = await funded(house, amount_minor=amount_minor, did=did)
    await onboard(house.database, one)
    return one


async def funded(house: House, *, amount_minor: int = 5000, did: str = "did:key:alice") -> Payee:
    """Open an account and put an amount on it."""
    account_id = await house.open_account(did)
    funds = payin(f"evt_funds_{account_id}", account_id, amount_minor=amount_minor)
    assert (await house.deliver(funds)).json()["forwarded_to_ledger"]
    return Payee(account_id, did)


async def onboard(database: Database, one: Payee, connect_account_id: str | None = None) -> None:
    """Keep what onboarding keeps."""
    await database.fetch(
        "INSERT INTO connect_account (account_id, account_did, connect_account_id,"
        " onboarding_status, onboarding_url) VALUES ($1, $2, $3, 'active', 'https://onboard')",
        one.account_id,
        one.did,
        connect_account_id or one.connect_account_id,
    )


def order(
    one: Payee, key: str = "key_1", amount_minor: int = 1200, **metadata: Any
) -> PayoutRequest:
    """An order of a payout; its metadata, too, when some is given."""
    return PayoutRequest(key, one.account_id, amount_minor, "USD", metadata or None)


def payout_event(
    event_type: str, event_id: str, view: Json, *, named: bool = True, **changed: Any
) -> Json:
    """An event of Stripe's about a payout, as the payout's JSON view describes it."""
    metadata = {"account_id": view["account_id"]}
    if named:
        metadata["payout_id"] = view["id"]
    told: Json = stripe_event(
        plan(event_type, event_id, view["external_payout_id"], view["account_id"])
    )
    told["data"]["object"] |= {
        "amount": int(view["amount_minor"]),
        "metadata": metadata,
        "status": {"payout.created": "pending", "payout.updated": "in_transit"}.get(
            event_type, event_type.removeprefix("payout.")
        ),
        **changed,
    }
    return told


async def balances(house: House, one: Payee) -> tuple[int, int]:
    """Return what is available and held."""
    found = (await house.ledger.get(f"/accounts/id/{one.account_id}")).json()["balances"]
    return int(found["available"]), int(found["held"])


async def cleared(house: House) -> int:
    """Return what is in the payouts' clearing account."""
    answer = await house.ledger.get(f"/clearing/accounts/domain/{CLEARING}")
    return int(answer.json()["balances"]["available"]) if answer.status_code == 200 else 0


def keeper_of(house: House) -> PayoutKeeper:
    """Return the keeper of a house that makes payouts."""
    assert house.parts.payouts is not None
    return house.parts.payouts.keeper


async def ledger_stages(database: Database, payout_id: str) -> list[str]:
    """Return which of a payout's transfers the ledger has applied, in their order."""
    rows = await database.fetch(
        "SELECT idempotency_key FROM ledger_event WHERE idempotency_key LIKE 'payout:%:' || $1"
        " ORDER BY seq",
        payout_id,
    )
    return [row["idempotency_key"].split(":")[1] for row in rows]


async def audit_types(database: Database, payout_id: str) -> list[str]:
    """Return the types of a payout's audit rows, in their order."""
    rows = await database.fetch(
        "SELECT event_type FROM payout_audit WHERE payout_id = $1 ORDER BY audit_id", payout_id
    )
    return [row["event_type"] for row in rows]


async def at_rest(database: Database) -> None:
    """Wait until no payout is under way or due, and everything is forwarded."""
    with trio.fail_after(20):
        while await database.fetch(_UNDER_WAY):  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.01)
