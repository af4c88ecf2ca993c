"""Netting runs and entries for tests, and every case that an entry can come to."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import attrs

from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.domain.netting_transitions import (
    ENTRY_TRANSITIONS,
    RUN_TRANSITIONS,
    Begun,
    Claimed,
    Completed,
    EntryEvent,
    Failed,
    GivenBack,
    Moved,
    Orphaned,
    Refused,
    ReleaseAsked,
    Released,
    Resumed,
    RunEvent,
    TakenOver,
    Unanswered,
    Withheld,
    apply_entry,
    apply_run,
)

AT = datetime(2026, 2, 11, 12, tzinfo=UTC)
REPORT_HASH = "0" * 64
ERROR = ("LEDGER_INGEST_FAILED", "no answer")
ENTRY_EVENTS: tuple[EntryEvent, ...] = (
    Claimed(),
    Withheld("INTERNAL_ERROR", "its sums differ"),
    Moved("evt_1"),
    Refused("INSUFFICIENT_FUNDS", "it is not there"),
    Unanswered(*ERROR, is_over=False),
    Unanswered(*ERROR, is_over=True),
    Orphaned(),
    Resumed(),
    GivenBack(),
    GivenBack("PAYOUT_STATE_CHANGED", "a payout is not paid any more"),
)
RUN_EVENTS: tuple[RunEvent, ...] = (
    Begun(),
    TakenOver(),
    ReleaseAsked(),
    Completed(1, 0, None, REPORT_HASH),
    Failed(0, 1, ERROR, REPORT_HASH),
    Released(0, 0, None, REPORT_HASH),
)


def run(**changes: Any) -> Run:
    """A run of one payout that was just prepared, with changes."""
    known: dict[str, Any] = {
        "run_id": "nrun_1",
        "idempotency_key": "key_1",
        "request_hash": "1" * 64,
        "asked_hash": "2" * 64,
        "currency": "USD",
        "selection_before": AT,
        "source_clearing_domain": "clawsettle.payouts",
        "target_clearing_domain": "clawsettle.netting",
        "status": RunStatus.CREATED,
        "candidate_count": 1,
        "applied_count": 0,
        "failed_count": 0,
        "total_amount_minor": 1200,
        "created_at": AT,
        "updated_at": AT,
    }
    return Run(**known | changes)


def entry(**changes: Any) -> Entry:
    """An entry of one payout of the run above, with changes."""
    known: dict[str, Any] = {
        "entry_id": "nte_1",
        "run_id": "nrun_1",
        "connect_account_id": "acct_1",
        "currency": "USD",
        "amount_minor": 1200,
        "payout_ids": ("pout_00001",),
        "compensated_payout_ids": (),
        "status": EntryStatus.PENDING,
        "created_at": AT,
        "updated_at": AT,
    }
    return Entry(**known | changes)


def next_entries(entry: Entry) -> Iterator[Entry]:
    """Every entry that this one can become; more tries than two are not told apart."""
    moved = Moved("evt_1" if entry.amount_minor else None)
    for event in (moved, *(event for event in ENTRY_EVENTS if not isinstance(event, Moved))):
        if type(event) in ENTRY_TRANSITIONS[entry.status]:
            after = apply_entry(entry, event, now=AT)
            yield attrs.evolve(after, attempts=min(after.attempts, 2))


def next_runs(run: Run) -> Iterator[Run]:
    """Every run that this one can become."""
    for event in RUN_EVENTS:
        if type(event) in RUN_TRANSITIONS[run.status]:
            yield apply_run(run, event, now=AT)
