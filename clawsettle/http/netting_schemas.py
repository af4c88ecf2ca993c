"""How netting looks on the wire, and what the OpenAPI document says of it.

Source: netting contract sections 4 and 6; 10 (8, 16, 17).
"""

from collections.abc import Mapping
from typing import Final

from clawsettle.domain.instants import iso_instant
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_requests import LIMIT_MAX
from clawsettle.http.payout_schemas import OK
from clawsettle.http.schemas import INSTANT, OBJECT, TEXT, Schema, listed, shape
from clawsettle.storage.netting_lists import KeptAudit

COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
SIGNED: Final[Schema] = {
    "type": "string",
    "pattern": "^-?[0-9]+$",
    "description": "minor units; below zero it goes back from the target to the source",
}
RUN: Final[Schema] = shape(
    {
        "id": TEXT,
        "idempotency_key": TEXT,
        "request_hash": TEXT,
        "currency": {"const": "USD"},
        "selection_before": INSTANT,
        "source_clearing_domain": TEXT,
        "target_clearing_domain": TEXT,
        "status": {"enum": list(RunStatus)},
        "candidate_count": COUNT,
        "applied_count": COUNT,
        "failed_count": COUNT,
        "total_amount_minor": SIGNED,
        "created_at": INSTANT,
        "updated_at": INSTANT,
    },
    {
        "last_error_code": TEXT,
        "last_error_message": TEXT,
        "report_hash": TEXT,
        "completed_at": INSTANT,
    },
)
ENTRY: Final[Schema] = shape(
    {
        "id": TEXT,
        "run_id": TEXT,
        "entry_key": {"type": "string", "description": "The text that the id is the hash of."},
        "connect_account_id": TEXT,
        "currency": {"const": "USD"},
        "amount_minor": SIGNED,
        "payout_count": COUNT,
        "payout_ids": listed(TEXT),
        "idempotency_key": TEXT,
        "status": {"enum": [status for status in EntryStatus if status is status.wire]},
        "created_at": INSTANT,
        "updated_at": INSTANT,
    },
    {
        "ledger_event_id": TEXT,
        "last_error_code": TEXT,
        "last_error_message": TEXT,
        "applied_at": INSTANT,
        "state": {
            "enum": [status for status in EntryStatus if status is not status.wire],
            "description": "The status as it is stored, where that says more than `status`.",
        },
        "compensated_payout_ids": {
            **listed(TEXT),
            "description": "Payouts that failed after an earlier run had moved them.",
        },
    },
)
ANSWER: Final[Schema] = shape({"ok": OK, "run": RUN, "entries": listed(ENTRY)})
EXECUTED: Final[Schema] = shape(
    {
        "ok": OK,
        "deduped": {**FLAG, "description": "The run was applied before."},
        "complete": {**FLAG, "description": "The run is applied: nothing of it is left to do."},
        "run": RUN,
        "entries": listed(ENTRY),
    }
)
ORDER: Final[Schema] = shape(
    {},
    {
        "currency": {"const": "USD"},
        "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
        "source_clearing_domain": TEXT,
        "target_clearing_domain": TEXT,
        "dry_run": {**FLAG, "description": "Answer 200 with the plan, and do nothing."},
    },
)
AUDIT: Final[Schema] = shape(
    {
        "id": {"type": "integer"},
        "run_id": TEXT,
        "event_type": TEXT,
        "details": OBJECT,
        "created_at": INSTANT,
    },
    {"entry_id": {"type": "string", "description": "Absent where it is about the run itself."}},
)
_RUN_ID: Final = "nrun_7f62d5fe77e066cd99eecc2bc7e4"
_BEGUN_AT, _ENDED_AT = "2026-02-12T00:00:00.000Z", "2026-02-12T00:00:00.250Z"
RUN_EXAMPLE: Final[Mapping[str, object]] = {
    "id": _RUN_ID,
    "idempotency_key": "idem_netting_deterministic",
    "request_hash": "34001455ece9c90480f5ac76847ce21b185c389ff6ff6b539c3abda07d683581",
    "currency": "USD",
    "selection_before": _BEGUN_AT,
    "source_clearing_domain": "clawsettle.payouts",
    "target_clearing_domain": "clawsettle.netting",
    "status": "applied",
    "candidate_count": 1,
    "applied_count": 1,
    "failed_count": 0,
    "total_amount_minor": "700",
    "report_hash": "f693abb148ae574e8f5e5ec4843c3100cc625f4b3ea784439f188a4b61ef5e98",
    "created_at": _BEGUN_AT,
    "updated_at": _ENDED_AT,
    "completed_at": _ENDED_AT,
}
ENTRY_EXAMPLE: Final[Mapping[str, object]] = {
    "id": "nte_29916e3a5eabb38fbf7e10573554",
    "run_id": _RUN_ID,
    "entry_key": (
        '{"connect_account_id":"acct_B","currency":"USD","payout_ids":["p_3"],'
        f'"run_id":"{_RUN_ID}"}}'
    ),
    "connect_account_id": "acct_B",
    "currency": "USD",
    "amount_minor": "700",
    "payout_count": 1,
    "payout_ids": ["p_3"],
    "idempotency_key": "netting:entry:nte_29916e3a5eabb38fbf7e10573554",
    "status": "applied",
    "ledger_event_id": "evt_netting_1",
    "created_at": _BEGUN_AT,
    "updated_at": _ENDED_AT,
    "applied_at": _ENDED_AT,
}


def audit_view(kept: KeptAudit) -> dict[str, object]:
    """Return a row of a run's audit trail as JSON; one about the run names no entry."""
    audit = kept.audit
    entry = {} if audit.entry_id is None else {"entry_id": audit.entry_id}
    return {
        "id": kept.audit_id,
        "run_id": audit.run_id,
        **entry,
        "event_type": audit.event_type,
        "details": audit.details,
        "created_at": iso_instant(kept.at),
    }
