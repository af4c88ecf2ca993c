"""``GET /v1/payouts`` and the operator's lists: what is stuck, failed, or could not be applied.

Every list is a page with a cursor of the next: nothing is cut off unsaid.
Source: payouts contract sections 3, 6 and 11 (6, 8, 9, 12, 14, 16, 22).
"""

from attrs import frozen

from clawsettle.config import AdminSettings
from clawsettle.domain.payout_news import NewsState
from clawsettle.domain.payouts import WIRE_STATUSES, Payout
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.payout_query import (
    CURSOR_PARAMETER,
    Whole,
    next_cursor,
    read_choice,
    read_opaque_cursor,
    read_window,
)
from clawsettle.http.payout_schemas import NEWS, PAYOUT, news_view, paged
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.storage.payout_lists import Page, PayoutLists, Window

LIMIT = Whole("limit", default=100, least=1, most=200)
OPERATOR_LIMIT = Whole("limit", default=100, least=1, most=500)
MINUTES_MAX = 43_200
WAITING = (NewsState.PARKED, NewsState.QUARANTINED)
_ERRORS = ("INVALID_REQUEST", "INVALID_CURSOR", "UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")


@frozen(eq=False)
class PayoutListRoutes:
    """The handlers and what they need; ``stuck_minutes`` is when a payout counts as stuck."""

    lists: PayoutLists
    admin: AdminSettings
    stuck_minutes: int

    @property
    def older_than(self) -> Whole:
        """Return how the stuck list's minutes are read."""
        return Whole("older_than_minutes", self.stuck_minutes, least=0, most=MINUTES_MAX)

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "GET",
                "/v1/payouts",
                self.created,
                "Payouts by the instant they were created, oldest first",
                auth="settleAdmin",
                parameters=(
                    _required("from", "the first instant or day, UTC unless it says otherwise"),
                    _required("to", "the instant or day that it ends before"),
                    LIMIT.parameter,
                    CURSOR_PARAMETER,
                    Parameter("status", "query", f"one of {', '.join(WIRE_STATUSES)}"),
                    Parameter("account_did", "query", "whose payouts; absent: everybody's"),
                ),
                response_schema=paged("payouts", PAYOUT),
                errors=_ERRORS,
            ),
            Route(
                "GET",
                "/v1/payouts/ops/stuck",
                self.stuck,
                "Payouts that have been in one status for too long, the longest first",
                description="Measured from when the status was entered: trying again leaves it.",
                auth="settleAdmin",
                parameters=(self.older_than.parameter, OPERATOR_LIMIT.parameter, CURSOR_PARAMETER),
                response_schema=paged("payouts", PAYOUT, older_than_minutes={"type": "integer"}),
                errors=_ERRORS,
            ),
            Route(
                "GET",
                "/v1/payouts/ops/failed",
                self.failed,
                "Payouts that have failed, the latest first",
                auth="settleAdmin",
                parameters=(OPERATOR_LIMIT.parameter, CURSOR_PARAMETER),
                response_schema=paged("payouts", PAYOUT),
                errors=_ERRORS,
            ),
            Route(
                "GET",
                "/v1/payouts/ops/events",
                self.events,
                "What the provider has said that could not be applied, the newest first",
                description=(
                    "`parked`: no such payout is known yet. `quarantined`: it contradicts the "
                    "payout, `reason` says in what."
                ),
                auth="settleAdmin",
                parameters=(
                    Parameter("state", "query", "parked or quarantined; absent: both"),
                    OPERATOR_LIMIT.parameter,
                    CURSOR_PARAMETER,
                ),
                response_schema=paged("events", NEWS),
                errors=_ERRORS,
            ),
        ]

    async def created(self, request: Request) -> Reply:
        """Answer a page of the payouts created in a window."""
        require_settle_admin(request, self.admin.keys)
        start, end = read_window(request)
        limit, after = LIMIT.read(request), read_opaque_cursor(request)
        status = read_choice(request, "status", WIRE_STATUSES)
        account_did = request.query.get("account_did", "").strip() or None
        window = Window(start, end, status, account_did)
        return _payouts(await self.lists.created(window, after=after, limit=limit))

    async def stuck(self, request: Request) -> Reply:
        """Answer a page of payouts that have not ended and have stood still."""
        require_settle_admin(request, self.admin.keys)
        minutes, limit = self.older_than.read(request), OPERATOR_LIMIT.read(request)
        after = read_opaque_cursor(request)
        page = await self.lists.stuck(minutes, after=after, limit=limit)
        return _payouts(page, older_than_minutes=minutes)

    async def failed(self, request: Request) -> Reply:
        """Answer a page of payouts that have failed."""
        require_settle_admin(request, self.admin.keys)
        limit, after = OPERATOR_LIMIT.read(request), read_opaque_cursor(request)
        return _payouts(await self.lists.failed(after=after, limit=limit))

    async def events(self, request: Request) -> Reply:
        """Answer a page of the provider's events that wait for a payout, or for an operator."""
        require_settle_admin(request, self.admin.keys)
        state = read_choice(request, "state", WAITING)
        limit, after = OPERATOR_LIMIT.read(request), read_opaque_cursor(request)
        states = WAITING if state is None else (state,)
        page = await self.lists.waiting(states, after=after, limit=limit)
        events = [news_view(kept) for kept in page.rows]
        return Reply.json(200, {"ok": True, "events": events, **next_cursor(page.next)})


def _required(name: str, description: str) -> Parameter:
    return Parameter(name, "query", description, required=True)


def _payouts(page: Page[Payout], **more: object) -> Reply:
    payouts = [payout.view() for payout in page.rows]
    return Reply.json(200, {"ok": True, **more, "payouts": payouts, **next_cursor(page.next)})
