"""Payouts as rows, for the tests of their storage."""

from datetime import UTC, datetime
from typing import Any

from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database

AT = datetime(2026, 2, 11, 12, tzinfo=UTC)


def payout(number: int = 1, **changes: Any) -> Payout:
    """A payout that was just asked for, by its number, with changes."""
    known: dict[str, Any] = {
        "payout_id": f"pout_{number:04}",
        "idempotency_key": f"key_{number:04}",
        "request_hash": "0" * 64,
        "provider": "stripe",
        "account_id": "acc_1",
        "account_did": "did:key:alice",
        "connect_account_id": "acct_1",
        "clearing_domain": "clawsettle.payouts",
        "amount_minor": 1200,
        "currency": "USD",
        "metadata": None,
        "status": PayoutStatus.INITIATED,
        "keyed_at": AT,
        "created_at": AT,
        "updated_at": AT,
        "status_at": AT,
        "attempts": 1,
        "due_at": AT,
        "lease_token": -1,
    }
    return Payout(**known | changes)


async def open_destination(database: Database) -> None:
    """Keep the account that the payouts above go to."""
    await database.fetch(
        "INSERT INTO connect_account (account_id, account_did, connect_account_id,"
        " onboarding_status, onboarding_url)"
        " VALUES ('acc_1', 'did:key:alice', 'acct_1', 'active', 'https://onboard')"
    )
