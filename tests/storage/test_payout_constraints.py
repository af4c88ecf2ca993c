"""The database's own copy of the rules of payouts: it keeps what can be, and nothing else."""

import attrs
import pytest

from clawsettle.domain.errors import StorageError
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.payout_rows import payout_row
from clawsettle.storage.queries import load_queries
from tests.domain.payout_cases import Case, begin, payout, walk, whatever_happens
from tests.payouts import Payee, onboard

SQL = load_queries("payouts")
_PAID = "UPDATE payout SET {} WHERE status = 'paid'"
_SUBMITTED = "UPDATE payout SET {} WHERE status = 'submitted'"
_FAILED = "UPDATE payout SET {} WHERE status = 'failed'"
_RETURNED = "UPDATE payout SET {} WHERE status = 'returned'"
# By constraint: a change that it alone must refuse, among payouts of every kind.
IMPOSSIBLE = {
    "connect_account_connect_once": (
        "INSERT INTO connect_account SELECT 'acc_2', account_did, provider, connect_account_id,"
        " onboarding_status, onboarding_url FROM connect_account"
    ),
    "connect_account_status_known": "UPDATE connect_account SET onboarding_status = 'closed'",
    "connect_account_opened_is_known": (
        "UPDATE connect_account SET connect_account_id = NULL, onboarding_url = NULL"
    ),
    "payout_key_once": _PAID.format("idempotency_key = 'key_00001'"),
    "payout_external_once": "UPDATE payout SET external_payout_id = 'po_1'",
    "payout_account_fk": _PAID.format("account_id = 'acc_nobody'"),
    "payout_amount_positive": _PAID.format("amount_minor = 0"),
    "payout_status_known": "UPDATE payout SET status = 'lost' WHERE status = 'finalizing_paid'",
    "payout_provider_status_known": _PAID.format("provider_status = 'lost'"),
    "payout_open_is_due": _SUBMITTED.format("due_at = NULL, lease_token = NULL"),
    "payout_leased_is_open": _PAID.format("lease_token = 1"),
    "payout_sent_is_locked": _SUBMITTED.format("lock_event_id = NULL"),
    "payout_sent_is_known": _SUBMITTED.format("external_payout_id = NULL"),
    "payout_paid_is_finalized": _PAID.format("finalize_event_id = NULL"),
    "payout_failed_is_rolled_back": _FAILED.format(
        "rollback_event_id = CASE WHEN lock_event_id IS NULL THEN 'evt_1' END, recalled_at = now()"
    ),
    "payout_returned_is_returned": _RETURNED.format("return_event_id = NULL"),
    "payout_given_back_is_recalled": _RETURNED.format("recalled_at = NULL"),
    "payout_failed_has_time": _FAILED.format("failed_at = NULL"),
    "payout_audit_payout_fk": "UPDATE payout_audit SET payout_id = 'pout_none'",
    "payout_audit_once": (
        "INSERT INTO payout_audit (payout_id, event_type, event_idempotency_key, details, at)"
        " SELECT 'pout_00001', 'payout.lock.applied', 'payout:lock:1', '{}', now()"
        " FROM generate_series(1, 2)"
    ),
    "payout_event_event_fk": "UPDATE payout_event SET event_id = 'evt_none'",
    "payout_event_payout_fk": "UPDATE payout_event SET payout_id = 'pout_none', state = 'applied'",
    "payout_event_provider_status_known": "UPDATE payout_event SET provider_status = 'lost'",
    "payout_event_state_known": "UPDATE payout_event SET state = 'lost', payout_id = 'pout_00001'",
    "payout_event_parked_is_unmatched": "UPDATE payout_event SET payout_id = 'pout_00001'",
    "payout_event_quarantined_has_reason": "UPDATE payout_event SET reason = 'why not'",
}


async def keep_all(database: Database) -> None:
    """Keep every payout that can come about, a row of a trail, and an event of no payout."""
    await onboard(database, Payee("acc_32ca986a", "did:key:alice"))
    cases = walk(begin(Case(payout())), whatever_happens)
    rows = []
    for number, one in enumerate({case.payout for case in cases}, 1):
        apart = attrs.evolve(
            one,
            payout_id=f"pout_{number:05}",
            idempotency_key=f"key_{number:05}",
            external_payout_id=one.external_payout_id and f"po_{number}",
        )
        rows.append(payout_row(apart))
    assert len(rows) > 1000
    kept = await database.fetch(SQL["insert"], rows)
    assert len(kept) == len(rows)
    await database.fetch(
        "INSERT INTO payout_audit (payout_id, event_type, details, at)"
        " VALUES ('pout_00001', 'payout.initiated', '{}', now())"
    )
    await database.fetch(
        "INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)"
        " VALUES ('evt_1', 'payout.paid', false, sha256(''), 'ignored')"
    )
    await database.fetch(
        "INSERT INTO payout_event (event_id, event_type, external_payout_id, amount_minor,"
        " currency, provider_status, state)"
        " VALUES ('evt_1', 'payout.paid', 'po_none', 1200, 'USD', 'paid', 'parked')"
    )


async def test_the_database_keeps_what_can_be_and_refuses_what_cannot(database_url: str) -> None:
    async with open_database(database_url) as database:
        await keep_all(database)
        for constraint, sql in IMPOSSIBLE.items():
            with pytest.raises(StorageError) as caught:
                await database.fetch(sql)
            assert caught.value.details["constraint"] == constraint, sql


async def test_no_constraint_of_payouts_is_forgotten_here(database_url: str) -> None:
    async with open_database(database_url) as database:
        rows = await database.fetch(
            "SELECT conname FROM pg_constraint WHERE contype IN ('c', 'f', 'u')"
            " AND conrelid::regclass::text IN"
            " ('connect_account', 'payout', 'payout_audit', 'payout_event')"
        )
    assert {row["conname"] for row in rows} == IMPOSSIBLE.keys()
