"""How loss events look on the wire, and what the OpenAPI document says of it.

Source: loss-events contract section 2; 10 (6, 7, 11, 15).
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from attrs import frozen

from clawsettle.config import Settings, configured_targets, target_addresses
from clawsettle.domain.loss_alerts import Alert, alert_of
from clawsettle.domain.loss_calls import path_of
from clawsettle.domain.loss_events import (
    CURRENCY,
    Delivery,
    DeliveryState,
    LossStatus,
    Operation,
    Severity,
    Target,
)
from clawsettle.http.operator import actions_schema
from clawsettle.http.payout_schemas import OK
from clawsettle.http.schemas import AMOUNT, INSTANT, OBJECT, TEXT, Schema, listed, shape

WIRE_STATES: Final = tuple(state for state in DeliveryState if state is state.wire)
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
FLAG: Final[Schema] = {"type": "boolean"}
MINOR: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$", "description": "minor units"}
TARGET: Final[Schema] = {"enum": list(Target)}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_INSTANT_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_PROGRESS: Final[Mapping[str, Schema]] = {
    "status": {"enum": list(LossStatus)},
    "target_count": COUNT,
    "forwarded_count": COUNT,
    "failed_count": COUNT,
    "created_at": INSTANT,
    "updated_at": INSTANT,
    "last_forwarded_at": _INSTANT_OR_NULL,
}
EVENT: Final[Schema] = shape(
    {
        "loss_event_id": TEXT,
        "source_service": TEXT,
        "source_event_id": TEXT,
        "account_did": TEXT,
        "account_id": _TEXT_OR_NULL,
        "amount_minor": AMOUNT,
        "currency": {"const": CURRENCY},
        "reason_code": TEXT,
        "severity": {"enum": list(Severity)},
        "occurred_at": INSTANT,
        "metadata": OBJECT,
        **_PROGRESS,
    }
)
DELIVERY: Final[Schema] = shape(
    {
        "outbox_id": TEXT,
        "loss_event_id": TEXT,
        "target_service": TARGET,
        "target_url": {
            "type": "string",
            "description": "By the configuration of now; a path where it names no address.",
        },
        "status": {"enum": list(WIRE_STATES)},
        "attempts": {**COUNT, "description": "Since it was recorded or requeued."},
        "last_http_status": {"type": ["integer", "null"]},
        "last_error_code": _TEXT_OR_NULL,
        "last_error_message": _TEXT_OR_NULL,
        "next_retry_at": _INSTANT_OR_NULL,
        "forwarded_at": _INSTANT_OR_NULL,
        "created_at": INSTANT,
        "updated_at": INSTANT,
        "operation": {"enum": list(Operation)},
        "state": {"enum": list(DeliveryState), "description": "The status as it is stored."},
        "terminal": {**FLAG, "description": "Nothing more happens by itself."},
        "in_doubt": {**FLAG, "description": "The target may have acted without our knowing."},
        "shared": {**FLAG, "description": "The escrow's hold serves another event, too."},
        "last_attempted_at": _INSTANT_OR_NULL,
        "alert": {"enum": [*Alert, None], "description": "Why somebody should look at it."},
    }
)
RESOLUTION: Final[Schema] = shape(
    {
        "resolution_id": TEXT,
        "loss_event_id": TEXT,
        "reason": _TEXT_OR_NULL,
        **_PROGRESS,
        "resolved_at": _INSTANT_OR_NULL,
    }
)
_RESIDUAL: Final[Schema] = shape(
    {
        "target_service": TARGET,
        "applied_minor": MINOR,
        "released_minor": MINOR,
        "residual_minor": MINOR,
        "uncertain": {**FLAG, "description": "It may have acted without our knowing."},
        "not_undone": {"type": ["string", "null"], "description": "What it cannot take back."},
    }
)
RECORDED: Final[Schema] = shape(
    {"ok": OK, "deduped": FLAG, "event": EVENT, "outbox": listed(DELIVERY)}
)
RESOLVED: Final[Schema] = shape(
    {
        "ok": OK,
        "deduped": FLAG,
        "event": EVENT,
        "resolution": RESOLUTION,
        "outbox": listed(DELIVERY),
    }
)
FOUND: Final[Schema] = shape(
    {
        "ok": OK,
        "event": EVENT,
        "outbox": {**listed(DELIVERY), "description": "What the targets are told of the event."},
        "resolution": {
            "anyOf": [
                {"allOf": [RESOLUTION, shape({"outbox": listed(DELIVERY)})]},
                {"type": "null"},
            ]
        },
        "residuals": listed(_RESIDUAL),
        "residual_minor": {**MINOR, "description": "minor units, of all targets together"},
        "alerts": {**listed({"enum": list(Alert)}), "description": "Each once."},
        "actions": actions_schema("requeue"),
    }
)
ORDER: Final[Schema] = shape(
    {
        "source_service": {"type": "string", "description": "or source.service"},
        "source_event_id": {"type": "string", "description": "or source.external_event_id"},
        "account_did": TEXT,
        "amount_minor": AMOUNT,
        "reason_code": {"type": "string", "description": "or kind"},
        "currency": {"const": CURRENCY},
    },
    {
        "account_id": _TEXT_OR_NULL,
        "severity": {"enum": [*Severity, None]},
        "occurred_at": {"type": ["string", "null"], "description": "absent: now"},
        "metadata": {"type": ["object", "null"]},
        "targets": {
            "type": ["array", "null"],
            "items": TARGET,
            "description": "absent or empty: the usual ones",
        },
        "source": OBJECT,
        "kind": TEXT,
        "evidence": OBJECT,
        "risk": OBJECT,
    },
)
ORDER_EXAMPLE: Final[Mapping[str, object]] = {
    "source_service": "stripe",
    "source_event_id": "evt_1",
    "account_did": "did:key:zA",
    "account_id": "acc_1",
    "amount_minor": "250",
    "currency": "USD",
    "reason_code": "chargeback",
    "severity": "high",
    "occurred_at": "2026-02-12T00:00:00.000Z",
    "targets": ["ledger"],
}
_EVENT_ID: Final = "lse_821110027e02533693ac2f5e"
_RECORDED_AT: Final = "2026-02-12T00:00:01.000Z"
RECORDED_EXAMPLE: Final[Mapping[str, object]] = {
    "ok": True,
    "deduped": False,
    "event": {
        "loss_event_id": _EVENT_ID,
        **{name: value for name, value in ORDER_EXAMPLE.items() if name != "targets"},
        "metadata": {},
        "status": "recorded",
        "target_count": 1,
        "forwarded_count": 0,
        "failed_count": 0,
        "created_at": _RECORDED_AT,
        "updated_at": _RECORDED_AT,
        "last_forwarded_at": None,
    },
    "outbox": [
        {
            "outbox_id": "lso_a7205bc5f64f855c6fd3e159",
            "loss_event_id": _EVENT_ID,
            "target_service": "ledger",
            "target_url": "http://ledger.internal:8788/v1/risk/holds/apply",
            "status": "pending",
            "attempts": 1,
            "last_http_status": None,
            "last_error_code": None,
            "last_error_message": None,
            "next_retry_at": None,
            "forwarded_at": None,
            "created_at": _RECORDED_AT,
            "updated_at": _RECORDED_AT,
            "operation": "apply",
            "state": "pending",
            "terminal": False,
            "in_doubt": False,
            "shared": False,
            "last_attempted_at": _RECORDED_AT,
            "alert": None,
        }
    ],
}


@frozen
class OutboxView:
    """How deliveries are shown: with where each is sent by now, and why to look at it.

    ``base_urls`` are those of the targets that are reached over HTTP; the others show the path
    alone. What is open for a target that is not among the ``configured`` waits for that. One that
    has been open for ``alert_after_s`` seconds, by this daemon's clock, is late.
    """

    base_urls: Mapping[Target, str]
    configured: Collection[Target]
    alert_after_s: float

    def entries(self, deliveries: Iterable[Delivery]) -> list[dict[str, object]]:
        """Render outbox entries, in the order given."""
        now = datetime.now(UTC)
        return [self._entry(delivery, now) for delivery in deliveries]

    def _entry(self, delivery: Delivery, now: datetime) -> dict[str, object]:
        path = path_of(delivery.operation, delivery.target, delivery.escrow_id)
        alert = alert_of(
            delivery.state,
            delivery.last_http_status,
            delivery.last_error_code,
            is_configured=delivery.target in self.configured,
            is_old=(now - delivery.opened_at).total_seconds() > self.alert_after_s,
        )
        return {
            **delivery.view(self.base_urls.get(delivery.target, "") + path),
            "alert": alert,
        }


def outbox_view(settings: Settings) -> OutboxView:
    """Return how deliveries are shown with these settings."""
    addresses = target_addresses(settings)
    return OutboxView(
        {target: address.base_url for target, address in addresses.items()},
        configured_targets(settings),
        settings.loss_events.alert_after_s,
    )
