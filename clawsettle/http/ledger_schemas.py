"""The shapes of the ledger port's records, for its OpenAPI document.

Source: ledger-api contract sections 2 to 9.
"""

from collections.abc import Mapping
from typing import Final

from clawsettle.domain.journal import Bucket, EventType
from clawsettle.domain.settlements import Direction, Status
from clawsettle.http.schemas import AMOUNT, INSTANT, OBJECT, TEXT, Schema, shape

BUCKET_LETTER: Final[Schema] = {"enum": ["A", "H", "B", "F", "P"]}
_BALANCE: Final[Schema] = {"type": "string", "description": "minor units"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}


def named(name: str) -> Schema:
    """Return the reference to one of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


_BALANCES = shape(dict.fromkeys((*map(str, Bucket), "total"), _BALANCE))

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Account": shape(
        {
            "id": TEXT,
            "did": TEXT,
            "balances": _BALANCES,
            "createdAt": INSTANT,
            "updatedAt": INSTANT,
        }
    ),
    "ClearingAccount": shape(
        {
            "id": TEXT,
            "domain": TEXT,
            "name": TEXT,
            "isActive": {"const": True},
            "balances": _BALANCES,
            "createdAt": INSTANT,
            "updatedAt": INSTANT,
        }
    ),
    "Event": shape(
        {
            "id": TEXT,
            "idempotencyKey": TEXT,
            "eventType": {"enum": list(EventType)},
            "accountId": TEXT,
            "toAccountId": _TEXT_OR_NULL,
            "amount": AMOUNT,
            "bucket": {"enum": list(Bucket)},
            "previousHash": TEXT,
            "eventHash": TEXT,
            "metadata": OBJECT,
            "createdAt": INSTANT,
        }
    ),
    "Settlement": shape(
        {
            "id": TEXT,
            "provider": TEXT,
            "external_payment_id": TEXT,
            "direction": {"enum": list(Direction)},
            "status": {"enum": list(Status)},
            "account_id": TEXT,
            "amount_minor": AMOUNT,
            "currency": TEXT,
            "created_at": INSTANT,
            "updated_at": INSTANT,
        },
        {
            "network": TEXT,
            "rail": TEXT,
            "metadata": OBJECT,
            "provider_created_at": TEXT,
            "provider_updated_at": TEXT,
            "settled_at": TEXT,
            "refund_of": {"type": "string", "description": "external_payment_id of its payin"},
            "latest_event_id": TEXT,
        },
    ),
    "RiskHold": shape(
        {
            "hold_id": TEXT,
            "idempotency_key": TEXT,
            "source_loss_event_id": TEXT,
            "account_ref": TEXT,
            "account_id": TEXT,
            "amount_minor": AMOUNT,
            "currency": TEXT,
            "reason": TEXT,
            "status": {"enum": ["active", "released"]},
            "hold_transfer_event_id": TEXT,
            "release_idempotency_key": _TEXT_OR_NULL,
            "release_transfer_event_id": _TEXT_OR_NULL,
            "metadata": OBJECT,
            "created_at": INSTANT,
            "updated_at": INSTANT,
            "released_at": _TEXT_OR_NULL,
        }
    ),
}
"""The components of the document, by name."""
