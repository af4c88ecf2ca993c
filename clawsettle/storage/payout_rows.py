"""Payouts and their audit trail as rows, and back; columns in the order of their tables."""

import json
from datetime import datetime

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.payout_news import PayoutNews
from clawsettle.domain.payout_transitions import Audit
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderStatus
from clawsettle.storage.bridge import Row

Columns = tuple[object, ...]


def payout_row(payout: Payout) -> Columns:
    """Return the row of ``payout``."""
    return (
        payout.payout_id,
        payout.idempotency_key,
        payout.request_hash,
        payout.provider,
        payout.account_id,
        payout.account_did,
        payout.connect_account_id,
        payout.clearing_domain,
        payout.amount_minor,
        payout.currency,
        None if payout.metadata is None else compact_json(payout.metadata),
        payout.status,
        payout.external_payout_id,
        payout.transfer_id,
        payout.reversal_id,
        payout.recalled_at,
        payout.lock_event_id,
        payout.finalize_event_id,
        payout.rollback_event_id,
        payout.return_event_id,
        payout.provider_status,
        payout.provider_source,
        payout.last_error_code,
        payout.last_error_message,
        payout.keyed_at,
        payout.created_at,
        payout.updated_at,
        payout.status_at,
        payout.submitted_at,
        payout.finalized_at,
        payout.failed_at,
        payout.attempts,
        payout.due_at,
        payout.lease_token,
    )


def read_payout(row: Row) -> Payout:
    """Return the payout of a row."""
    said = row["provider_status"]
    return Payout(
        payout_id=row["payout_id"],
        idempotency_key=row["idempotency_key"],
        request_hash=row["request_hash"],
        provider=row["provider"],
        account_id=row["account_id"],
        account_did=row["account_did"],
        connect_account_id=row["connect_account_id"],
        clearing_domain=row["clearing_domain"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        metadata=None if row["metadata"] is None else json.loads(row["metadata"]),
        status=PayoutStatus(row["status"]),
        external_payout_id=row["external_payout_id"],
        transfer_id=row["transfer_id"],
        reversal_id=row["reversal_id"],
        recalled_at=row["recalled_at"],
        lock_event_id=row["lock_event_id"],
        finalize_event_id=row["finalize_event_id"],
        rollback_event_id=row["rollback_event_id"],
        return_event_id=row["return_event_id"],
        provider_status=None if said is None else ProviderStatus(said),
        provider_source=row["provider_source"],
        last_error_code=row["last_error_code"],
        last_error_message=row["last_error_message"],
        keyed_at=row["keyed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        status_at=row["status_at"],
        submitted_at=row["submitted_at"],
        finalized_at=row["finalized_at"],
        failed_at=row["failed_at"],
        attempts=row["attempts"],
        due_at=row["due_at"],
        lease_token=row["lease_token"],
    )


def audit_row(payout_id: str, audit: Audit, at: datetime) -> Columns:
    """Return the columns of ``payout_audit`` that its writer gives."""
    return (
        payout_id,
        audit.event_type,
        audit.key,
        audit.to_status,
        compact_json(audit.details),
        at,
    )


def read_news(row: Row) -> PayoutNews:
    """Return the news of a row of ``payout_event``."""
    return PayoutNews(
        event_id=row["event_id"],
        event_type=row["event_type"],
        external_payout_id=row["external_payout_id"],
        named_payout_id=row["named_payout_id"],
        connect_account_id=row["connect_account_id"],
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        status=ProviderStatus(row["provider_status"]),
    )
