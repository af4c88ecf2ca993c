"""``POST /v1/stripe/forwarding/retry``: attempt waiting settlements now.

Source: webhook-forwarding contract sections 10 and 14 (W24).
"""

import math

from attrs import frozen

from clawsettle.actors.settlement_rescuer import SettlementRescuer
from clawsettle.config import AdminSettings, ForwardingSettings
from clawsettle.domain.errors import CallerError
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.operator_actions import Operator

LIMIT_MAX = 200


@frozen
class RetryOptions:
    """What a retry is asked for; ``event_id`` None means whatever is due."""

    limit: int
    force: bool
    event_id: str | None


@frozen(eq=False)
class RetryRoute:
    """The retry handler and what it needs."""

    rescuer: SettlementRescuer
    admin: AdminSettings
    forwarding: ForwardingSettings
    patience: Patience

    def route(self) -> Route:
        """Return the route with its description."""
        return Route(
            "POST",
            "/v1/stripe/forwarding/retry",
            self.handle,
            summary="Attempt waiting settlements now",
            description=(
                "Attempts up to `limit` due settlements side by side, within a time budget. "
                "`force` also takes those whose next attempt is not due; with `event_id`, that "
                "one, even when it is dead: that is a requeue. `remaining` is present when work is "
                "left."
            ),
            auth="settleAdmin",
            request_schema={
                "type": "object",
                "properties": {
                    "limit": {"type": "number", "exclusiveMinimum": 0},
                    "force": {"type": "boolean"},
                    "event_id": {"type": "string"},
                },
            },
            response_schema={
                "type": "object",
                "required": ["ok", "attempted", "forwarded", "failed"],
                "properties": {
                    "ok": {"const": True},
                    "attempted": {"type": "integer"},
                    "forwarded": {"type": "integer"},
                    "failed": {"type": "integer"},
                    "remaining": {"type": "integer"},
                },
            },
            errors=("INVALID_REQUEST", "UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED"),
        )

    async def handle(self, request: Request) -> Reply:
        """Attempt rows and answer with the counts, 200 even when all failed."""
        actor = require_settle_admin(request, self.admin.keys)
        options = parse_options(request, default_limit=self.forwarding.retry_batch_limit)
        summary = await self.rescuer.retry(
            limit=options.limit,
            force=options.force,
            event_id=options.event_id,
            operator=Operator(actor, why="forced retry"),
            budget=self.patience.bound(self.forwarding.retry_budget_s),
        )
        body: dict[str, object] = {
            "ok": True,
            "attempted": summary.attempted,
            "forwarded": summary.forwarded,
            "failed": summary.failed,
        }
        if summary.remaining:
            body["remaining"] = summary.remaining
        return Reply.json(200, body)


def parse_options(request: Request, *, default_limit: int) -> RetryOptions:
    """Read the options; a body that is not JSON by its type, or no object, means none.

    Raises: CallerError INVALID_REQUEST for bad JSON or, with ``details.field``, a bad option.
    """
    options: object = {}
    is_json = "application/json" in request.headers.get("content-type", "").lower()
    if is_json and request.body.strip():
        options = parse_json(request.body)
    if not isinstance(options, dict):
        options = {}
    limit = default_limit
    if "limit" in options:
        limit = _limit(options["limit"])
    force = options.get("force", False)
    if not isinstance(force, bool):
        raise _bad("force", "must be true or false")
    event_id = options.get("event_id")
    if "event_id" in options and not (isinstance(event_id, str) and event_id.strip()):
        raise _bad("event_id", "must be a non-blank text")
    return RetryOptions(limit, force, event_id.strip() if isinstance(event_id, str) else None)


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad("limit", "must be a number")
    limit = math.floor(value)
    if limit <= 0:
        raise _bad("limit", "must be at least 1")
    return min(limit, LIMIT_MAX)


def _bad(field: str, message: str) -> CallerError:
    return CallerError(f"{field} {message}", details={"field": field})
