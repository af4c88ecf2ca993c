"""Netting runs and their entries as rows, and back; columns in the order of their tables."""

from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.storage.bridge import Row

Columns = tuple[object, ...]


def run_row(run: Run) -> Columns:
    """Return the row of ``run``."""
    return (
        run.run_id,
        run.idempotency_key,
        run.request_hash,
        run.asked_hash,
        run.currency,
        run.selection_before,
        run.source_clearing_domain,
        run.target_clearing_domain,
        run.status,
        run.candidate_count,
        run.applied_count,
        run.failed_count,
        run.total_amount_minor,
        run.created_at,
        run.updated_at,
        run.last_error_code,
        run.last_error_message,
        run.report_hash,
        run.completed_at,
        run.is_scheduled,
        run.due_at,
        run.lease_token,
    )


def read_run(row: Row) -> Run:
    """Return the run of a row."""
    return Run(
        run_id=row["run_id"],
        idempotency_key=row["idempotency_key"],
        request_hash=row["request_hash"],
        asked_hash=row["asked_hash"],
        currency=row["currency"],
        selection_before=row["selection_before"],
        source_clearing_domain=row["source_clearing_domain"],
        target_clearing_domain=row["target_clearing_domain"],
        status=RunStatus(row["status"]),
        candidate_count=row["candidate_count"],
        applied_count=row["applied_count"],
        failed_count=row["failed_count"],
        total_amount_minor=row["total_amount_minor"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_error_code=row["last_error_code"],
        last_error_message=row["last_error_message"],
        report_hash=row["report_hash"],
        completed_at=row["completed_at"],
        is_scheduled=row["is_scheduled"],
        due_at=row["due_at"],
        lease_token=row["lease_token"],
    )


def entry_row(entry: Entry) -> Columns:
    """Return the row of ``entry``."""
    return (
        entry.entry_id,
        entry.run_id,
        entry.connect_account_id,
        entry.currency,
        entry.amount_minor,
        entry.payout_ids,
        entry.compensated_payout_ids,
        entry.status,
        entry.created_at,
        entry.updated_at,
        entry.attempts,
        entry.doubt_at,
        entry.ledger_event_id,
        entry.last_error_code,
        entry.last_error_message,
        entry.applied_at,
        entry.unanswered_at,
    )


def read_entry(row: Row) -> Entry:
    """Return the entry of a row."""
    return Entry(
        entry_id=row["entry_id"],
        run_id=row["run_id"],
        connect_account_id=row["connect_account_id"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        payout_ids=tuple(row["payout_ids"]),
        compensated_payout_ids=tuple(row["compensated_payout_ids"]),
        status=EntryStatus(row["status"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        attempts=row["attempts"],
        doubt_at=row["doubt_at"],
        ledger_event_id=row["ledger_event_id"],
        last_error_code=row["last_error_code"],
        last_error_message=row["last_error_message"],
        applied_at=row["applied_at"],
        unanswered_at=row["unanswered_at"],
    )
