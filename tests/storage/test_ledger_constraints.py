"""The database's own copy of the ledger's rules: each constraint refuses what it is there for."""

import pytest

from clawsettle.domain.errors import StorageError
from clawsettle.storage.bridge import open_database
from tests.storage.books import faults, unguard
from tests.storage.whole_book import write_history

# By constraint: a change that it alone must refuse, in a book with everything in it.
IMPOSSIBLE = {
    "ledger_account_not_negative": "UPDATE ledger_account SET held_minor = -1",
    "ledger_account_reserved_not_negative": "UPDATE ledger_account SET reserved_minor = -1",
    "ledger_account_kind_known": "UPDATE ledger_account SET kind = 'bank' WHERE kind = 'external'",
    "ledger_account_user_has_did": "UPDATE ledger_account SET did = NULL",
    "ledger_account_did_once": "UPDATE ledger_account SET did = 'x' WHERE kind = 'user'",
    "ledger_account_clearing_has_domain": "UPDATE ledger_account SET domain = account_id",
    "ledger_account_domain_once": "UPDATE ledger_account SET domain = 'd' WHERE kind = 'clearing'",
    "ledger_settlement_amount_positive": "UPDATE ledger_settlement SET amount_minor = 0",
    "ledger_settlement_status_known": "UPDATE ledger_settlement SET status = 'paid'",
    "ledger_settlement_direction_known": "UPDATE ledger_settlement SET direction = 'in'",
    "ledger_settlement_natural_key": "UPDATE ledger_settlement SET external_payment_id = 'pi_1'",
    "ledger_settlement_account_fk": "UPDATE ledger_settlement SET account_id = 'acc_nobody'",
    "ledger_ingestion_settlement_fk": "UPDATE ledger_ingestion SET settlement_id = 'set_none'",
    "ledger_event_amount_positive": "UPDATE ledger_event SET amount_minor = 0",
    "ledger_event_bucket_known": "UPDATE ledger_event SET bucket = 'A'",
    "ledger_event_id_once": "UPDATE ledger_event SET event_id = 'evt_1'",
    "ledger_event_key_once": "UPDATE ledger_event SET idempotency_key = 'k1'",
    "ledger_posting_moves": "UPDATE ledger_posting SET delta_minor = 0",
    "ledger_posting_bucket_known": "UPDATE ledger_posting SET bucket = 'A'",
    "ledger_tail_single": "UPDATE ledger_tail SET one = false",
    "ledger_reservation_kind_known": "UPDATE ledger_reservation SET kind = 'gift'",
    "ledger_reservation_amount_positive": "UPDATE ledger_reservation SET amount_minor = 0",
    "ledger_reservation_account_fk": "UPDATE ledger_reservation SET account_id = 'acc_nobody'",
    "ledger_reservation_opened_once": "UPDATE ledger_reservation SET opened_event_id = 'evt_1'",
    "ledger_reservation_closed_by_event": "UPDATE ledger_reservation SET closed_event_id = NULL",
    "ledger_risk_hold_amount_positive": "UPDATE ledger_risk_hold SET amount_minor = 0",
    "ledger_risk_hold_key_once": "UPDATE ledger_risk_hold SET idempotency_key = 'k1'",
    "ledger_risk_hold_source_once": "UPDATE ledger_risk_hold SET source_loss_event_id = 'loss_1'",
    "ledger_risk_hold_reservation_fk": "UPDATE ledger_risk_hold SET hold_id = 'x' || hold_id",
    "ledger_risk_hold_released_once": "UPDATE ledger_risk_hold SET released_at = NULL",
}


async def test_the_database_itself_refuses_a_book_that_cannot_be(database_url: str) -> None:
    await write_history(database_url)
    async with open_database(database_url) as database:
        await unguard(database)
        for constraint, sql in IMPOSSIBLE.items():
            with pytest.raises(StorageError) as caught:
                await database.fetch(sql)
            assert caught.value.details["constraint"] == constraint, sql
        assert await faults(database) == []


async def test_no_constraint_is_forgotten_here(database_url: str) -> None:
    async with open_database(database_url) as database:
        rows = await database.fetch(
            "SELECT conname FROM pg_constraint"
            " WHERE contype IN ('c', 'f', 'u') AND conrelid::regclass::text LIKE 'ledger_%'"
        )
    assert {row["conname"] for row in rows} == IMPOSSIBLE.keys()
