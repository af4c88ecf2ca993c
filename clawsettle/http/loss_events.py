"""``POST /v1/loss-events``: recording an event, resolving it, and having deliveries made now.

What is answered is stored; the deliveries go on without their request, which waits for none of
them but where it asks to.
Source: loss-events contract sections 1 to 4 and 6; 10 (1, 18, 20, 22).
"""

from collections.abc import Iterable

from attrs import frozen

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.config import AdminSettings, LossEventSettings
from clawsettle.domain.idempotency import parse_key
from clawsettle.domain.loss_events import Delivery, Operation
from clawsettle.domain.loss_requests import (
    REQUEUE_LIMIT_DEFAULT,
    REQUEUE_LIMIT_MAX,
    RETRY_LIMIT_MAX,
    parse_loss,
    parse_requeue,
    parse_resolve,
    parse_retry,
)
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.idempotency_key import key_headers
from clawsettle.http.loss_lists import EVENTS, OUTBOX
from clawsettle.http.loss_schemas import (
    COUNT,
    DELIVERY,
    FLAG,
    ORDER,
    ORDER_EXAMPLE,
    RECORDED,
    RECORDED_EXAMPLE,
    RESOLVED,
    TARGET,
    OutboxView,
)
from clawsettle.http.operator import BY_SCHEMA, WHY_SCHEMA, read_operator
from clawsettle.http.patience import Patience
from clawsettle.http.payout_schemas import OK
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.schemas import TEXT, Schema, listed, shape
from clawsettle.http.strict_json import parse_body, parse_json

_CREATED, _KNOWN = 201, 200
_ADMIN = ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")
_OPERATION: Schema = {"enum": list(Operation), "description": "In any case."}


@frozen(eq=False)
class LossEventRoutes:
    """The handlers and what they need."""

    fanout: LossFanout
    admin: AdminSettings
    loss_events: LossEventSettings
    patience: Patience
    outbox_view: OutboxView

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [*self._recording_routes(), *self._delivering_routes()]

    async def create(self, request: Request) -> Reply:
        """Record an event, or find the one that its key stands for."""
        require_settle_admin(request, self.admin.keys)
        key = parse_key(request.headers)
        recorded = await self.fanout.record(parse_loss(key, parse_body(request.body)))
        return Reply.json(
            _KNOWN if recorded.deduped else _CREATED,
            {
                "ok": True,
                "deduped": recorded.deduped,
                "event": recorded.event.view(),
                "outbox": self._outbox(recorded.deliveries),
            },
        )

    async def resolve(self, request: Request) -> Reply:
        """Resolve an event, or find the resolution that the key stands for."""
        require_settle_admin(request, self.admin.keys)
        key = parse_key(request.headers)
        body = parse_body(request.body)
        resolved = await self.fanout.resolve(parse_resolve(request.params["id"], key, body))
        return Reply.json(
            _KNOWN if resolved.deduped else _CREATED,
            {
                "ok": True,
                "deduped": resolved.deduped,
                "event": resolved.event.view(),
                "resolution": resolved.resolution.view(),
                "outbox": self._outbox(resolved.deliveries),
            },
        )

    async def retry(self, request: Request) -> Reply:
        """Attempt deliveries and answer with the counts, 200 even when all failed."""
        require_settle_admin(request, self.admin.keys)
        is_json = "application/json" in request.headers.get("content-type", "").lower()
        body = parse_body(request.body) if is_json else {}
        summary = await self.fanout.retry(
            parse_retry(body, self.loss_events.retry_batch_limit),
            budget=self.patience.bound(self.loss_events.retry_budget_s),
        )
        return Reply.json(
            200,
            {
                "ok": True,
                "attempted": summary.attempted,
                "forwarded": summary.forwarded,
                "failed": summary.failed,
            },
        )

    async def requeue(self, request: Request) -> Reply:
        """Bring back deliveries that have ended; the attempts follow by themselves."""
        operator = read_operator(request, self.admin.keys)
        asked = parse_requeue(parse_json(request.body))
        requeued = await self.fanout.requeue(asked, operator)
        return Reply.json(200, {"ok": True, "outbox": self._outbox(requeued)})

    def _outbox(self, deliveries: Iterable[Delivery]) -> list[dict[str, object]]:
        in_order = sorted(deliveries, key=lambda one: (one.created_at, one.delivery_id))
        return self.outbox_view.entries(in_order)

    def _recording_routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                EVENTS,
                self.create,
                "Record a loss event, and tell every target that must act on it",
                description=(
                    "It is stored whether or not its targets are configured or answer: the answer "
                    "waits for none of them. Asking again under the same key is always safe."
                ),
                direct=True,
                auth="settleAdmin",
                parameters=key_headers("event"),
                request_schema=ORDER,
                request_example=ORDER_EXAMPLE,
                response_status=_CREATED,
                response_schema=RECORDED,
                response_example=RECORDED_EXAMPLE,
                errors=(*_ADMIN, "INVALID_REQUEST", "UNSUPPORTED_CURRENCY", "IDEMPOTENCY_CONFLICT"),
            ),
            Route(
                "POST",
                f"{EVENTS}/{{id}}/resolve",
                self.resolve,
                "Take a loss event back: release what was applied, cancel what was not",
                description=(
                    "Refused while a target can still be told of the event. One that has refused "
                    "it for good, or is not configured, keeps nobody."
                ),
                auth="settleAdmin",
                parameters=key_headers("resolution"),
                request_schema=shape({}, {"reason": {"type": ["string", "null"]}}),
                response_status=_CREATED,
                response_schema=RESOLVED,
                errors=(
                    *_ADMIN,
                    "INVALID_REQUEST",
                    "NOT_FOUND",
                    "LOSS_EVENT_NOT_READY",
                    "IDEMPOTENCY_CONFLICT",
                ),
            ),
        ]

    def _delivering_routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                f"{EVENTS}/ops/retry",
                self.retry,
                "Attempt deliveries that are due now",
                description=(
                    "Attempts up to `limit` of them side by side, within a time budget. `force` "
                    "also takes those of the one event whose next attempt is not due."
                ),
                auth="settleAdmin",
                request_schema=shape(
                    {},
                    {
                        "operation": _OPERATION,
                        "limit": {"type": "integer", "minimum": 1, "maximum": RETRY_LIMIT_MAX},
                        "loss_event_id": TEXT,
                        "force": FLAG,
                    },
                ),
                response_schema=shape(
                    {"ok": OK, "attempted": COUNT, "forwarded": COUNT, "failed": COUNT}
                ),
                errors=(*_ADMIN, "INVALID_REQUEST"),
            ),
            Route(
                "POST",
                f"{OUTBOX}/requeue",
                self.requeue,
                "Have deliveries that were given up attempted again",
                description=(
                    "Due at once, with their attempts and their age counted anew. Of a target "
                    "those that are dead; of an event, or by id, also those that are not "
                    "applicable. One of the three must be named, and all that are count."
                ),
                auth="settleAdmin",
                request_schema=shape(
                    {"why": WHY_SCHEMA},
                    {
                        "by": BY_SCHEMA,
                        "operation": _OPERATION,
                        "target_service": TARGET,
                        "loss_event_id": TEXT,
                        "outbox_id": TEXT,
                        "limit": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": REQUEUE_LIMIT_MAX,
                            "default": REQUEUE_LIMIT_DEFAULT,
                        },
                    },
                ),
                response_schema=shape({"ok": OK, "outbox": listed(DELIVERY)}),
                errors=(*_ADMIN, "INVALID_REQUEST", "NOT_FOUND", "INVALID_STATUS_TRANSITION"),
            ),
        ]
