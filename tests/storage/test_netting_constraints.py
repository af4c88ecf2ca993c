"""The database's own copy of the rules of netting: it keeps what can be, and nothing else."""

from itertools import product

import attrs
import pytest

from clawsettle.domain.errors import StorageError
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.netting_rows import entry_row, read_entry, read_run, run_row
from clawsettle.storage.queries import load_queries
from tests.domain.netting_cases import AT, entry, next_entries, next_runs, run
from tests.domain.payout_cases import walk
from tests.storage.payout_histories import history, keep

SQL = load_queries("netting")
_APPLIED_RUN = "UPDATE netting_run SET {} WHERE status = 'applied'"
_RUNNING = "UPDATE netting_run SET {} WHERE status = 'running'"
_APPLIED = "UPDATE netting_entry SET {} WHERE status = 'applied' AND amount_minor <> 0"
_ITEM = "UPDATE netting_item SET {}"
# By constraint: a change that it alone must refuse, among runs and entries of every kind.
IMPOSSIBLE = {
    "netting_run_key_once": _RUNNING.format("idempotency_key = 'key_00001'"),
    "netting_run_domains_differ": _RUNNING.format(
        "source_clearing_domain = target_clearing_domain"
    ),
    "netting_run_counts": _RUNNING.format("candidate_count = -1"),
    "netting_run_status_known": _RUNNING.format(
        "status = 'lost', due_at = NULL, lease_token = NULL"
    ),
    "netting_run_open_is_due": _RUNNING.format("due_at = NULL, lease_token = NULL"),
    "netting_run_leased_is_open": _APPLIED_RUN.format("lease_token = 1"),
    "netting_run_ended_is_reported": _APPLIED_RUN.format("report_hash = NULL"),
    "netting_run_applied_is_whole": _APPLIED_RUN.format("failed_count = 1"),
    "netting_entry_run_fk": _APPLIED.format("run_id = 'nrun_none'"),
    "netting_entry_status_known": (
        "UPDATE netting_entry SET status = 'lost' WHERE status = 'applying'"
    ),
    "netting_entry_has_payouts": _APPLIED.format("payout_ids = '{}'"),
    "netting_entry_applied_has_time": _APPLIED.format("applied_at = NULL"),
    "netting_entry_moved_has_event": _APPLIED.format("ledger_event_id = NULL"),
    "netting_entry_unknown_has_time": (
        "UPDATE netting_entry SET doubt_at = NULL WHERE status = 'unknown'"
    ),
    "netting_item_payout_fk": _ITEM.format("payout_id = 'pout_none'"),
    "netting_item_entry_fk": _ITEM.format("run_id = 'nrun_00001', entry_id = 'nte_none'"),
    "netting_item_taken_by_a_run": _ITEM.format("run_id = 'nrun_00001'"),
    "netting_item_direction": _ITEM.format("direction = 'return'"),
    "netting_audit_run_fk": "UPDATE netting_audit SET run_id = 'nrun_none'",
    "netting_report_run_fk": "UPDATE netting_report SET run_id = 'nrun_none'",
}


async def keep_all(database: Database) -> None:
    """Keep every run and every entry that can come about, an item, a row of a trail, a report."""
    await keep(database, history())
    runs = [
        attrs.evolve(
            one,
            run_id=f"nrun_{number:05}",
            idempotency_key=f"key_{number:05}",
            due_at=AT if one.status.is_open else None,
            lease_token=1 if one.status.is_open else None,
        )
        for number, one in enumerate(walk(run(), next_runs), 1)
    ]
    assert {one.status for one in runs} == set(RunStatus)
    for one in runs:
        await database.fetch(SQL["insert_run"], [run_row(one)])
    cases = walk(entry(), next_entries) | walk(entry(amount_minor=0), next_entries)
    entries = [
        attrs.evolve(one, entry_id=f"nte_{number:05}", run_id="nrun_00001")
        for number, one in enumerate(cases, 1)
    ]
    assert {one.status for one in entries} == set(EntryStatus)
    await database.fetch(SQL["insert_entries"], [entry_row(one) for one in entries])
    await database.fetch(SQL["keep_audit"], "nrun_00001", "netting.run.created", "{}", AT)
    await database.fetch(SQL["keep_report"], "nrun_00001", "applied", "0" * 64, b"", AT)
    stored_runs = await database.fetch("SELECT * FROM netting_run")
    assert {read_run(row) for row in stored_runs} == set(runs)
    stored = await database.fetch("SELECT * FROM netting_entry")
    assert {read_entry(row) for row in stored} == set(entries)


async def test_the_database_keeps_what_can_be_and_refuses_what_cannot(database_url: str) -> None:
    async with open_database(database_url) as database:
        await keep_all(database)
        for constraint, sql in IMPOSSIBLE.items():
            with pytest.raises(StorageError) as caught:
                await database.fetch(sql)
            assert caught.value.details["constraint"] == constraint, sql


async def test_no_constraint_of_netting_is_forgotten_here(database_url: str) -> None:
    async with open_database(database_url) as database:
        rows = await database.fetch(
            "SELECT conname FROM pg_constraint WHERE contype IN ('c', 'f', 'u')"
            " AND conrelid::regclass::text LIKE 'netting%'"
        )
    assert {row["conname"] for row in rows} == IMPOSSIBLE.keys()


async def test_a_run_is_due_while_it_is_open_and_reported_when_it_has_ended(
    database_url: str,
) -> None:
    cases = product((*RunStatus, "lost", ""), (AT, None), ("0" * 64, None), (AT, None))
    async with open_database(database_url) as database:
        for number, (status, due_at, report_hash, completed_at) in enumerate(cases):
            names = {"run_id": f"nrun_{number}", "idempotency_key": f"key_{number}"}
            case = run(
                **names,
                status=status,
                due_at=due_at,
                report_hash=report_hash,
                completed_at=completed_at,
            )
            is_open = isinstance(status, RunStatus) and status.is_open
            can_be = (
                isinstance(status, RunStatus)
                and (due_at is not None) == is_open
                and (report_hash is not None and completed_at is not None) != is_open
            )
            assert await is_kept(database, "insert_run", run_row(case)) == can_be, case


async def test_an_entry_has_its_event_and_its_time_when_it_has_moved(database_url: str) -> None:
    cases = product((*EntryStatus, "lost", ""), (-5, 0, 5), ("evt_1", None), (AT, None), (AT, None))
    async with open_database(database_url) as database:
        await database.fetch(SQL["insert_run"], [run_row(run(due_at=AT))])
        for number, (status, amount_minor, event_id, at, doubt_at) in enumerate(cases):
            case = entry(
                entry_id=f"nte_{number}",
                status=status,
                amount_minor=amount_minor,
                ledger_event_id=event_id,
                applied_at=at,
                doubt_at=doubt_at,
            )
            is_applied = status is EntryStatus.APPLIED
            can_be = (
                isinstance(status, EntryStatus)
                and (at is not None) == is_applied
                and (event_id is not None) == (is_applied and amount_minor != 0)
                and (status is not EntryStatus.UNKNOWN or doubt_at is not None)
            )
            assert await is_kept(database, "insert_entries", entry_row(case)) == can_be, case


async def is_kept(database: Database, statement: str, row: tuple[object, ...]) -> bool:
    """Insert a row, and say whether the constraints let the database keep it."""
    try:
        await database.fetch(SQL[statement], [row])
    except StorageError as error:
        if "constraint" not in error.details:
            raise
        return False
    return True
