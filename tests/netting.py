"""Netting for tests: payouts that are paid and lie in the clearing account, and what moved."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from attrs import evolve

from clawsettle.config import Settings, netting_defaults
from clawsettle.domain.netting_requests import NettingRequest, parse_netting
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database
from tests.house import House, payin
from tests.storage.payout_histories import NOON, History, history, keep, store

SOURCE, TARGET = "clawsettle.payouts", "clawsettle.netting"


async def paid(house: House, *payouts: tuple[str, str, int], **first: Any) -> list[Payout]:
    """Have payouts (key, connected account, amount) be paid, a second after each other.

    Their money lies in the clearing account; the accounts it came from are not told apart.
    """
    made = await queue(house.database, *payouts, **first)
    await fund(house, sum(payout.amount_minor for payout in made))
    return made


async def queue(database: Database, *payouts: tuple[str, str, int], **first: Any) -> list[Payout]:
    """Keep the same payouts, without the money."""
    histories = [
        history(
            key,
            connect_account_id=account,
            amount_minor=amount_minor,
            **{"created_at": NOON + timedelta(seconds=place), **first},
        )
        for place, (key, account, amount_minor) in enumerate(payouts)
    ]
    await keep(database, *histories)
    return [one.payout for one in histories]


async def fund(house: House, amount_minor: int, domain: str = SOURCE) -> None:
    """Put money into a clearing account."""
    did = "did:key:funds"
    answer = await house.ledger.post("/accounts", json={"did": did})
    account_id = (
        answer.json().get("id") or (await house.ledger.get(f"/accounts/{did}")).json()["id"]
    )
    rows = await house.database.fetch("SELECT count(*) AS place FROM ledger_event")
    event = payin(f"evt_clearing_{rows[0]['place']}", account_id, amount_minor=amount_minor)
    assert (await house.deliver(event)).json()["forwarded_to_ledger"]
    await transfer(house, did, f"clearing:{domain}", amount_minor)


async def transfer(house: House, source: str, target: str, amount_minor: int) -> None:
    """Move money in the ledger."""
    rows = await house.database.fetch("SELECT count(*) AS place FROM ledger_event")
    answer = await house.ledger.post(
        "/v1/transfers",
        json={
            "idempotency_key": f"test:{rows[0]['place']}",
            "currency": "USD",
            "from": {"account": source, "bucket": "A"},
            "to": {"account": target, "bucket": "A"},
            "amount_minor": str(amount_minor),
        },
    )
    assert answer.status_code == 200, answer.text


async def fail_late(
    database: Database, payout: Payout, end: PayoutStatus = PayoutStatus.RETURNING
) -> None:
    """Have the provider say of a paid payout that it has failed; the ledger is not asked."""
    late = history(
        payout.idempotency_key,
        end,
        connect_account_id=payout.connect_account_id,
        amount_minor=payout.amount_minor,
        created_at=payout.created_at,
    )
    # It rests there: nobody drives it on.
    rests = late.payout
    if not rests.status.is_end:
        rests = evolve(rests, due_at=rests.status_at + timedelta(days=36500))
    await store(database, [History(rests, late.audits[-1:])])


def request(key: str, **body: object) -> NettingRequest:
    """An order of a run, with the defaults of a fresh configuration."""
    return parse_netting(key, body, netting_defaults(Settings()))


async def cleared(house: House) -> tuple[int, int]:
    """Return what is in the source and in the target clearing account."""
    found = []
    for domain in (SOURCE, TARGET):
        answer = await house.ledger.get(f"/clearing/accounts/domain/{domain}")
        known: Mapping[str, Any] = answer.json() if answer.status_code == 200 else {}
        found.append(int(known["balances"]["available"]) if known else 0)
    return found[0], found[1]


async def links(database: Database) -> dict[str, str | None]:
    """Return for each payout that was queued the entry it is in, its direction in front."""
    rows = await database.fetch("SELECT * FROM netting_item ORDER BY payout_id, direction")
    return {f"{row['direction']}:{row['payout_id']}": row["entry_id"] for row in rows}
