"""How payouts look on the wire, and what the OpenAPI document says of it.

Source: payouts contract sections 5 and 6.
"""

from collections.abc import Mapping
from typing import Final

from clawsettle.domain.instants import iso_instant
from clawsettle.domain.payout_news import NewsState
from clawsettle.domain.payouts import WIRE_STATUSES, PayoutStatus
from clawsettle.domain.providers import ProviderStatus
from clawsettle.http.schemas import AMOUNT, INSTANT, OBJECT, TEXT, Schema, listed, shape
from clawsettle.storage.payout_lists import AuditEntry, KeptNews

OK: Final[Schema] = {"const": True}
WIRE_STATUS: Final[Schema] = {"enum": list(WIRE_STATUSES)}
PAYOUT: Final[Schema] = shape(
    {
        "id": TEXT,
        "idempotency_key": TEXT,
        "request_hash": TEXT,
        "provider": TEXT,
        "account_id": TEXT,
        "account_did": TEXT,
        "connect_account_id": TEXT,
        "amount_minor": AMOUNT,
        "currency": {"const": "USD"},
        "status": WIRE_STATUS,
        "lock_idempotency_key": TEXT,
        "finalize_idempotency_key": TEXT,
        "rollback_idempotency_key": TEXT,
        "created_at": INSTANT,
        "updated_at": INSTANT,
    },
    {
        "external_payout_id": TEXT,
        "lock_event_id": TEXT,
        "finalize_event_id": TEXT,
        "rollback_event_id": TEXT,
        "last_error_code": TEXT,
        "last_error_message": TEXT,
        "metadata": OBJECT,
        "submitted_at": INSTANT,
        "finalized_at": INSTANT,
        "failed_at": INSTANT,
        "state": {
            "enum": [status for status in PayoutStatus if status is not status.wire],
            "description": "The status as it is stored, where that says more than `status`.",
        },
        "transfer_id": TEXT,
        "reversal_id": TEXT,
        "return_event_id": TEXT,
    },
)
AUDIT_ENTRY: Final[Schema] = shape(
    {
        "id": {"type": "integer"},
        "payout_id": TEXT,
        "event_type": TEXT,
        "event_idempotency_key": {"type": ["string", "null"]},
        "details": OBJECT,
        "created_at": INSTANT,
    },
    {"to_status": {"enum": list(PayoutStatus)}},
)
NEWS: Final[Schema] = shape(
    {
        "event_id": TEXT,
        "event_type": TEXT,
        "external_payout_id": TEXT,
        "amount_minor": AMOUNT,
        "currency": TEXT,
        "provider_status": {"enum": list(ProviderStatus)},
        "state": {"enum": list(NewsState)},
        "received_at": INSTANT,
    },
    {
        "payout_id": {"type": "string", "description": "The payout that it was matched with."},
        "named_payout_id": {"type": "string", "description": "The one that its metadata names."},
        "connect_account_id": TEXT,
        "account_id": TEXT,
        "reason": {"type": "string", "description": "Why it was put aside."},
    },
)
PAYOUT_EXAMPLE: Final[Mapping[str, object]] = {
    "id": "pout_e441ff0d7cd276eda27d75ca657c",
    "idempotency_key": "idem_payout_1",
    "request_hash": "f79c78c7b897711db74b98fe4b1c27373bacb933dc59463eb8329ccec14fddac",
    "provider": "stripe",
    "account_id": "acc_payout_1",
    "account_did": "did:key:alice",
    "connect_account_id": "acct_2d9613ecee4e99e2374cc591",
    "external_payout_id": "po_a2bcf66ca686e863ed80687f",
    "amount_minor": "1200",
    "currency": "USD",
    "status": "submitted",
    "lock_idempotency_key": "payout:lock:pout_e441ff0d7cd276eda27d75ca657c",
    "lock_event_id": "evt_ledger_1",
    "finalize_idempotency_key": "payout:finalize:pout_e441ff0d7cd276eda27d75ca657c",
    "rollback_idempotency_key": "payout:rollback:pout_e441ff0d7cd276eda27d75ca657c",
    "created_at": "2026-02-11T12:00:00.000Z",
    "updated_at": "2026-02-11T12:00:00.000Z",
    "submitted_at": "2026-02-11T12:00:00.000Z",
}


def paged(name: str, schema: Schema, **more: Schema) -> Schema:
    """Return the schema of a page of these under ``name``, with ``more`` beside them."""
    return shape({"ok": OK, **more, name: listed(schema)}, {"next_cursor": TEXT})


def audit_view(entry: AuditEntry) -> dict[str, object]:
    """Return an entry of the audit trail as JSON, with the contract's one null."""
    status = {} if entry.to_status is None else {"to_status": entry.to_status}
    return {
        "id": entry.audit_id,
        "payout_id": entry.payout_id,
        "event_type": entry.event_type,
        "event_idempotency_key": entry.event_idempotency_key,
        "details": entry.details,
        "created_at": iso_instant(entry.at),
        **status,
    }


def news_view(kept: KeptNews) -> dict[str, object]:
    """Return what a provider has said as JSON, without what it has not."""
    news = kept.news
    fields: dict[str, object] = {
        "event_id": news.event_id,
        "event_type": news.event_type,
        "external_payout_id": news.external_payout_id,
        "payout_id": kept.payout_id,
        "named_payout_id": news.named_payout_id,
        "connect_account_id": news.connect_account_id,
        "account_id": news.account_id,
        "amount_minor": str(news.amount_minor),
        "currency": news.currency,
        "provider_status": news.status,
        "state": kept.state,
        "reason": kept.reason,
        "received_at": iso_instant(kept.received_at),
    }
    return {name: value for name, value in fields.items() if value is not None}
