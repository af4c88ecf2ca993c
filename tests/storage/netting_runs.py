"""Netting runs for tests that read them: rows as they are stored, at instants of the test's."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from clawsettle.domain.canonical import compact_json, sha256_hex
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus, entry_id, entry_key
from clawsettle.storage.bridge import Database, Transaction
from clawsettle.storage.netting_reports import freeze_report
from clawsettle.storage.netting_rows import entry_row, run_row
from clawsettle.storage.queries import load_queries

MIDNIGHT = datetime(2026, 2, 12, tzinfo=UTC)


def stored_run(key: str = "idem_netting", **changes: Any) -> Run:
    """A run without entries that was applied at midnight, unless told otherwise."""
    known: dict[str, Any] = {
        "run_id": f"nrun_{sha256_hex(f'nrun:{key}')[:28]}",
        "idempotency_key": key,
        "request_hash": sha256_hex(key),
        "asked_hash": sha256_hex(f"asked:{key}"),
        "currency": "USD",
        "selection_before": MIDNIGHT,
        "source_clearing_domain": "clawsettle.payouts",
        "target_clearing_domain": "clawsettle.netting",
        "status": RunStatus.APPLIED,
        "candidate_count": 0,
        "applied_count": 0,
        "failed_count": 0,
        "total_amount_minor": 0,
        "created_at": MIDNIGHT,
        "updated_at": MIDNIGHT,
    }
    run = Run(**known | changes)
    if run.status.is_open:
        return Run(**known | {"due_at": MIDNIGHT} | changes)
    return Run(**known | {"report_hash": "0" * 64, "completed_at": MIDNIGHT} | changes)


def stored_entry(run: Run, account: str, *payout_ids: str, **changes: Any) -> Entry:
    """An entry that was applied at midnight, unless told otherwise."""
    key = entry_key(run.run_id, account, "USD", payout_ids, ())
    known: dict[str, Any] = {
        "entry_id": entry_id(key),
        "run_id": run.run_id,
        "connect_account_id": account,
        "currency": "USD",
        "amount_minor": 700,
        "payout_ids": payout_ids,
        "compensated_payout_ids": (),
        "status": EntryStatus.APPLIED,
        "created_at": MIDNIGHT,
        "updated_at": MIDNIGHT,
    }
    if changes.get("status", EntryStatus.APPLIED) is EntryStatus.APPLIED:
        known |= {"ledger_event_id": f"evt_{account}", "applied_at": MIDNIGHT}
    return Entry(**known | changes)


async def keep(database: Database, run: Run, entries: Sequence[Entry] = ()) -> None:
    """Store a run and its entries."""
    statements = load_queries("netting")
    await database.fetch(statements["insert_run"], [run_row(run)])
    await database.fetch(statements["insert_entries"], [entry_row(entry) for entry in entries])


async def link(database: Database, *entries: Entry) -> None:
    """Put the paid payouts of stored entries into them."""
    for entry in entries:
        entry_ids = compact_json(dict.fromkeys(entry.payout_ids, entry.entry_id))
        await database.fetch(load_queries("netting")["link"], entry.run_id, "sweep", entry_ids)


async def end(database: Database, run: Run, status: RunStatus = RunStatus.APPLIED) -> Run:
    """End a run that is stored, as whoever works on it does."""
    ended = attrs.evolve(run, status=status, completed_at=MIDNIGHT, due_at=None, lease_token=None)

    statements = load_queries("netting")

    async def work(transaction: Transaction) -> Run:
        report = await freeze_report(transaction, ended)
        stored = attrs.evolve(ended, report_hash=report.sha256)
        await transaction.fetch(statements["store_run"], run.run_id, [run_row(stored)])
        kept = (status, report.sha256, report.content, MIDNIGHT)
        await transaction.fetch(statements["keep_report"], run.run_id, *kept)
        return stored

    return await database.transaction(work)


async def keep_ended(database: Database, run: Run, entries: Sequence[Entry]) -> Run:
    """Store a run that has ended, with its report."""
    await keep(database, run, entries)
    return await end(database, run, run.status)
