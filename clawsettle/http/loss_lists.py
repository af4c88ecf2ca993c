"""``GET /v1/loss-events``, its outbox, and one event with what of it is still held.

Source: loss-events contract sections 1 and 7; 10 (6, 7, 15, 20, 23).
"""

from typing import Final

from attrs import frozen

from clawsettle.domain.errors import CallerError, NotFoundError
from clawsettle.domain.loss_alerts import Alert
from clawsettle.domain.loss_events import DeliveryState, LossStatus, Operation, Target
from clawsettle.domain.loss_resolutions import residuals
from clawsettle.http.auth import LOSS_READER, LossReaders
from clawsettle.http.loss_schemas import DELIVERY, EVENT, FOUND, OutboxView
from clawsettle.http.operator import action_view
from clawsettle.http.payout_query import (
    CURSOR_PARAMETER,
    read_choice,
    read_opaque_cursor,
    write_opaque_cursor,
)
from clawsettle.http.payout_schemas import OK
from clawsettle.http.query import LIMIT_DEFAULT, LIMIT_MAX, leading_integer
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import Schema, listed, shape
from clawsettle.storage.loss_deliveries import KIND
from clawsettle.storage.loss_lists import DeliveryFilter, EventFilter, LossLists
from clawsettle.storage.operator_actions import actions_of
from clawsettle.storage.payout_lists import After

EVENTS: Final = "/v1/loss-events"
OUTBOX: Final = f"{EVENTS}/outbox"
_ADMIN_OR_READER = ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")
_LIST_ERRORS = ("INVALID_REQUEST", "INVALID_CURSOR", *_ADMIN_OR_READER)
_LIMIT_PARAMETER = Parameter(
    "limit", "query", f"from 1, default {LIMIT_DEFAULT}; more than {LIMIT_MAX} means {LIMIT_MAX}"
)


@frozen(eq=False)
class LossListRoutes:
    """The handlers and what they need."""

    lists: LossLists
    readers: LossReaders
    outbox_view: OutboxView

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "GET",
                EVENTS,
                self.events,
                "Loss events, the newest first",
                auth="settleAdmin",
                scopes=(LOSS_READER,),
                parameters=(
                    _LIMIT_PARAMETER,
                    CURSOR_PARAMETER,
                    Parameter("status", "query", f"one of {', '.join(LossStatus)}"),
                    Parameter("account_id", "query", "of which account; absent: of any"),
                    Parameter("source_service", "query", "from which service; absent: from any"),
                ),
                response_schema=_page_schema("events", EVENT),
                errors=_LIST_ERRORS,
            ),
            Route(
                "GET",
                OUTBOX,
                self.outbox,
                "Deliveries of loss events to their targets, the newest first",
                auth="settleAdmin",
                scopes=(LOSS_READER,),
                parameters=(
                    Parameter("operation", "query", "apply (default) or resolve, in any case"),
                    _LIMIT_PARAMETER,
                    CURSOR_PARAMETER,
                    Parameter(
                        "status",
                        "query",
                        f"one of {', '.join(DeliveryState)}; pending is also what is waiting, "
                        "failed also what is dead",
                    ),
                    Parameter("target_service", "query", f"one of {', '.join(Target)}"),
                    Parameter("loss_event_id", "query", "of which event; absent: of any"),
                ),
                response_schema=_page_schema("outbox", DELIVERY),
                errors=_LIST_ERRORS,
            ),
            Route(
                "GET",
                f"{EVENTS}/{{id}}",
                self.show,
                "A loss event, what its targets were told, its resolution, and what is still held",
                auth="settleAdmin",
                scopes=(LOSS_READER,),
                response_schema=FOUND,
                errors=("NOT_FOUND", *_ADMIN_OR_READER),
            ),
        ]

    async def events(self, request: Request) -> Reply:
        """Answer a page of events."""
        self.readers.check(request)
        limit, after = _read_limit(request), read_opaque_cursor(request)
        wanted = EventFilter(
            read_choice(request, "status", LossStatus),
            _read_text(request, "account_id"),
            _read_text(request, "source_service"),
        )
        page = await self.lists.events(wanted, after=after, limit=limit)
        events = [event.view() for event in page.rows]
        return Reply.json(200, {"ok": True, "events": events, "next_cursor": _cursor(page.next)})

    async def outbox(self, request: Request) -> Reply:
        """Answer a page of deliveries for one operation."""
        self.readers.check(request)
        operation = _read_operation(request)
        limit, after = _read_limit(request), read_opaque_cursor(request)
        status = read_choice(request, "status", DeliveryState)
        wanted = DeliveryFilter(
            operation,
            [state for state in DeliveryState if status in (None, state, state.wire)],
            read_choice(request, "target_service", Target),
            _read_text(request, "loss_event_id"),
        )
        page = await self.lists.deliveries(wanted, after=after, limit=limit)
        entries = self.outbox_view.entries(page.rows)
        return Reply.json(200, {"ok": True, "outbox": entries, "next_cursor": _cursor(page.next)})

    async def show(self, request: Request) -> Reply:
        """Answer an event with all that came of it, as of one instant."""
        self.readers.check(request)
        event_id = request.params["id"]
        found = await self.lists.find(event_id)
        if found is None:
            raise NotFoundError("no such loss event", details={"loss_event_id": event_id})
        applies = self.outbox_view.entries(found.told(Operation.APPLY))
        resolves = self.outbox_view.entries(found.told(Operation.RESOLVE))
        resolution = found.resolution
        remain = residuals(
            found.event.amount_minor, found.deliveries, is_resolved=resolution is not None
        )
        actions = await actions_of(self.lists.database, KIND, event_id)
        alerts = {entry["alert"] for entry in (*applies, *resolves)}
        return Reply.json(
            200,
            {
                "ok": True,
                "event": found.event.view(),
                "outbox": applies,
                "resolution": resolution and {**resolution.view(), "outbox": resolves},
                "residuals": [residual.view() for residual in remain],
                "residual_minor": str(sum(residual.residual_minor for residual in remain)),
                "alerts": [alert for alert in Alert if alert in alerts],
                "actions": [action_view(action) for action in actions],
            },
        )


def _page_schema(name: str, schema: Schema) -> Schema:
    return shape({"ok": OK, name: listed(schema), "next_cursor": {"type": ["string", "null"]}})


def _cursor(after: After | None) -> str | None:
    return None if after is None else write_opaque_cursor(*after)


def _read_limit(request: Request) -> int:
    given = request.query.get("limit", "")
    if not given:
        return LIMIT_DEFAULT
    number = leading_integer(given)
    if number is None or number < 1:
        raise CallerError(
            "limit must be a whole number from 1", details={"field": "limit", "value": given}
        )
    return min(number, LIMIT_MAX)


def _read_operation(request: Request) -> Operation:
    given = request.query.get("operation", "")
    word = given.strip().lower() or Operation.APPLY
    if word not in list(Operation):
        raise CallerError(
            f"operation must be one of {', '.join(Operation)}",
            details={"field": "operation", "value": given},
        )
    return Operation(word)


def _read_text(request: Request, name: str) -> str | None:
    return request.query.get(name, "").strip() or None
