"""The report of a netting run: which rows it has, how they are written, what is hashed.

The hash covers ``run_id``, ``summary`` and ``entries`` alone, so a run that has ended has the same
one whenever its report is made and in whichever format.
Source: netting contract section 7; 10 (9, 21).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from clawsettle.domain.canonical import canonical_json, compact_json
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.netting import Entry, Run

FIELDS = (
    "entry_id",
    "connect_account_id",
    "payout_count",
    "amount_minor",
    "status",
    "ledger_event_id",
    "last_error_code",
    "last_error_message",
    "payout_ids",
)
"""The fields of a row, in the order of JSON and of CSV."""

COMPENSATED = "compensated_payout_ids"
"""The one that comes after them, where payouts are compensated."""

HASHED_HEAD = '{"entries":['
"""What stands before the rows in the text that is hashed; they have their fields sorted."""


def report_row(entry: Entry) -> dict[str, object]:
    """Render an entry as a row; absent fields are left out."""
    fields: dict[str, object] = {
        "entry_id": entry.entry_id,
        "connect_account_id": entry.connect_account_id,
        "payout_count": len(entry.payout_ids),
        "amount_minor": str(entry.amount_minor),
        "status": str(entry.status.wire),
        "ledger_event_id": entry.ledger_event_id,
        "last_error_code": entry.last_error_code,
        "last_error_message": entry.last_error_message,
        "payout_ids": list(entry.payout_ids),
        COMPENSATED: list(entry.compensated_payout_ids) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def summary(run: Run) -> dict[str, object]:
    """Render the contract's ``summary``."""
    return {
        "status": str(run.status),
        "currency": run.currency,
        "source_clearing_domain": run.source_clearing_domain,
        "target_clearing_domain": run.target_clearing_domain,
        "candidate_count": run.candidate_count,
        "applied_count": run.applied_count,
        "failed_count": run.failed_count,
        "total_amount_minor": str(run.total_amount_minor),
    }


def hashed_tail(run: Run) -> str:
    """Return what stands after the rows in the text that is hashed."""
    return "]," + canonical_json({"run_id": run.run_id, "summary": summary(run)})[1:]


def sent_head(run: Run, generated_at: datetime, more: Mapping[str, object]) -> str:
    """Return what stands before the rows in the JSON that is sent; ``more`` follows the summary."""
    head = {
        "run_id": run.run_id,
        "generated_at": iso_instant(generated_at),
        "summary": summary(run),
        **more,
    }
    return f'{compact_json(head)[:-1]},"entries":['


def sent_tail(sha256: str) -> str:
    """Return what stands after the rows in the JSON that is sent."""
    return f'],"artifact_sha256":"{sha256}"}}'


def csv_columns(*, compensates: bool) -> Sequence[str]:
    """Return the columns of a CSV; a run that compensates nothing has the contract's alone."""
    return (*FIELDS, COMPENSATED) if compensates else FIELDS


def csv_cells(row: Mapping[str, object], columns: Sequence[str]) -> list[str | None]:
    """Return a row's cells; ids are joined by ``|``, which none of ours has in it."""
    cells: list[str | None] = []
    for name in columns:
        value = row.get(name)
        joined = "|".join(value) if isinstance(value, list) else value
        cells.append(None if joined is None else str(joined))
    return cells
