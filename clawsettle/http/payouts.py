"""``/v1/payouts``: creating a payout, reading it, and what an operator does about one.

A request only waits for what goes on without it: the keeper finishes what it has begun.
Source: payouts contract sections 2, 6, 9 and 11 (3, 7, 18, 20).
"""

from collections.abc import Awaitable, Sequence
from typing import Literal, TypeVar

from attrs import frozen

from clawsettle.actors.onboarder import Onboarder
from clawsettle.actors.payout_keeper import Creation, PayoutKeeper
from clawsettle.config import AdminSettings
from clawsettle.domain.errors import ClawsettleError, NotFoundError, Overloaded
from clawsettle.domain.idempotency import parse_key
from clawsettle.domain.onboarding import OnboardingStatus
from clawsettle.domain.payout_requests import PayoutRequest, parse_payout
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.http.auth import Door, require_settle_admin
from clawsettle.http.idempotency_key import key_headers
from clawsettle.http.operator import (
    OPTIONAL_ACTION_SCHEMA,
    action_view,
    actions_schema,
    read_operator,
)
from clawsettle.http.patience import Patience
from clawsettle.http.payout_provider import configured
from clawsettle.http.payout_schemas import (
    AUDIT_ENTRY,
    NEWS,
    OK,
    PAYOUT,
    PAYOUT_EXAMPLE,
    WIRE_STATUS,
    audit_view,
    news_view,
)
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.schemas import AMOUNT, OBJECT, TEXT, listed, shape
from clawsettle.http.strict_json import parse_body
from clawsettle.storage.operator_actions import Operator, actions_of, record_action
from clawsettle.storage.payout_lists import AuditEntry, PayoutLists

KIND = "payout"
T = TypeVar("T")
_CREATED, _KNOWN = 201, 200
_STATUSES = {"INSUFFICIENT_FUNDS": 400}
_ADMIN = ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")
_OUTSIDE = ("LEDGER_INGEST_FAILED", "LEDGER_TIMEOUT", "STRIPE_API_ERROR", "STRIPE_TRANSFER_FAILED")


@frozen(eq=False)
class PayoutRoutes:
    """The handlers and what they need; without a provider there is no keeper and no onboarder.

    ``door`` says who may create and read a payout, ``admin`` who may do the rest.
    ``answer_deadline_s`` bounds what a request waits for.
    """

    keeper: PayoutKeeper | None
    onboarder: Onboarder | None
    lists: PayoutLists
    door: Door
    admin: AdminSettings
    patience: Patience
    answer_deadline_s: float

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [self._create_route(), *self._reading_routes(), *self._acting_routes()]

    async def create(self, request: Request) -> Reply:
        """Create a payout, or find the one that its key stands for: 201 while this call makes it.

        What has not got further within the deadline is answered as it stands.
        """
        self.door.check(request)
        keeper = configured(self.keeper)
        asked = parse_payout(parse_key(request.headers), parse_body(request.body))
        created = await self._answer(self._create(keeper, asked)) or await self._so_far(asked)
        body = {"ok": True, "deduped": created.deduped, "payout": created.payout.view()}
        return Reply.json(_KNOWN if created.deduped else _CREATED, body)

    async def show(self, request: Request) -> Reply:
        """Answer a payout and its audit trail."""
        self.door.check(request)
        payout, entries = await self._find(request.params["id"])
        return Reply.json(
            200,
            {
                "ok": True,
                "payout": payout.view(),
                "audit_events": [audit_view(entry) for entry in entries],
            },
        )

    async def audit(self, request: Request) -> Reply:
        """Answer what was done to a payout, what its provider has said, and who has intervened."""
        require_settle_admin(request, self.admin.keys)
        payout_id = request.params["id"]
        _, entries = await self._find(payout_id)
        news = await self.lists.news_of(payout_id)
        actions = await actions_of(self.lists.database, KIND, payout_id)
        return Reply.json(
            200,
            {
                "ok": True,
                "payout_id": payout_id,
                "audit_events": [audit_view(entry) for entry in entries],
                "provider_events": [news_view(one) for one in news],
                "actions": [action_view(action) for action in actions],
            },
        )

    async def retry(self, request: Request) -> Reply:
        """Take a payout on before its time; the body is not looked at."""
        actor = require_settle_admin(request, self.admin.keys)
        keeper, payout_id = configured(self.keeper), request.params["id"]
        await self._record(payout_id, "retry", Operator(actor, "forced retry"))
        came_to = await self._answer(keeper.retry(payout_id))
        if came_to is None:
            raise _unfinished()
        return Reply.json(
            200,
            {
                "ok": True,
                "payout_id": payout_id,
                "previous_status": came_to.previous.wire,
                "status": came_to.payout.status.wire,
                "retried": came_to.retried,
            },
        )

    async def cancel(self, request: Request) -> Reply:
        """End a payout that was not paid yet."""
        operator = read_operator(request, self.admin.keys, unless_said="cancel")
        keeper, payout_id = configured(self.keeper), request.params["id"]
        await self._record(payout_id, "cancel", operator)
        canceled = await self._answer(keeper.cancel(payout_id))
        if canceled is None:
            raise _unfinished()
        return Reply.json(200, {"ok": True, "payout": canceled.view()})

    async def _answer(self, asked: Awaitable[T]) -> T | None:
        return await self.patience.wait(self.answer_deadline_s, asked)

    async def _create(self, keeper: PayoutKeeper, asked: PayoutRequest) -> Creation:
        """Create a payout; an account that is pending is asked about once more before a no."""
        try:
            return await keeper.create(asked)
        except ClawsettleError as error:
            if error.details.get("onboarding_status") != OnboardingStatus.PENDING:
                raise
            account = await configured(self.onboarder).refresh(asked.account_id)
            if account is None or account.onboarding_status is not OnboardingStatus.ACTIVE:
                raise
        return await keeper.create(asked)

    async def _so_far(self, asked: PayoutRequest) -> Creation:
        """Return the payout that was asked for, as it stands. Raises: Overloaded."""
        found = await self.lists.find(asked.payout_id)
        if found is not None:
            payout, _ = found
            if payout.request_hash == asked.request_hash(payout.connect_account_id):
                return Creation(payout, payout.status.wire is not PayoutStatus.INITIATED)
        raise _unfinished()

    async def _find(self, payout_id: str) -> tuple[Payout, Sequence[AuditEntry]]:
        found = await self.lists.find(payout_id)
        if found is None:
            raise NotFoundError("no such payout", details={"payout_id": payout_id})
        return found

    async def _record(
        self, payout_id: str, action: Literal["retry", "cancel"], operator: Operator
    ) -> None:
        """Keep what an operator asks for before it is done, so that nothing is done unseen."""
        await self._find(payout_id)
        await self.lists.database.transaction(
            lambda transaction: record_action(transaction, KIND, payout_id, action, operator)
        )

    def _create_route(self) -> Route:
        return Route(
            "POST",
            "/v1/payouts",
            self.create,
            "Create a payout: lock the amount, then send it",
            description=(
                "Asking again under the same key is always safe: it answers 200 with the payout as "
                "it stands, or goes on with what is unfinished (201)."
            ),
            direct=True,
            auth=self.door.scheme,
            parameters=key_headers("payout"),
            request_schema=shape(
                {"account_id": TEXT, "amount_minor": AMOUNT, "currency": {"const": "USD"}},
                {"metadata": OBJECT},
            ),
            request_example={
                "account_id": "acc_payout_1",
                "amount_minor": "1200",
                "currency": "USD",
                "metadata": {"invoice": "inv_1"},
            },
            response_status=_CREATED,
            response_schema=shape({"ok": OK, "deduped": {"type": "boolean"}, "payout": PAYOUT}),
            response_example={"ok": True, "deduped": False, "payout": PAYOUT_EXAMPLE},
            errors=(
                *self.door.codes,
                "DEPENDENCY_NOT_CONFIGURED",
                "INVALID_REQUEST",
                "UNSUPPORTED_CURRENCY",
                "INSUFFICIENT_FUNDS",
                "IDEMPOTENCY_KEY_REUSED",
                "PAYOUT_DESTINATION_NOT_CONFIGURED",
                *_OUTSIDE,
            ),
            statuses=_STATUSES,
        )

    def _reading_routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/v1/payouts/{id}",
                self.show,
                "A payout and what was done to it",
                auth=self.door.scheme,
                response_schema=shape(
                    {"ok": OK, "payout": PAYOUT, "audit_events": listed(AUDIT_ENTRY)}
                ),
                errors=(*self.door.codes, "NOT_FOUND"),
            ),
            Route(
                "GET",
                "/v1/payouts/{id}/audit",
                self.audit,
                "What was done to a payout, what its provider has said, and who has intervened",
                auth="settleAdmin",
                response_schema=shape(
                    {
                        "ok": OK,
                        "payout_id": TEXT,
                        "audit_events": listed(AUDIT_ENTRY),
                        "provider_events": listed(NEWS),
                        "actions": actions_schema("retry", "cancel"),
                    }
                ),
                errors=(*_ADMIN, "NOT_FOUND"),
            ),
        ]

    def _acting_routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/v1/payouts/{id}/retry",
                self.retry,
                "Take a payout on before its time",
                description="One that waits for its provider has it asked.",
                auth="settleAdmin",
                response_schema=shape(
                    {
                        "ok": OK,
                        "payout_id": TEXT,
                        "previous_status": WIRE_STATUS,
                        "status": WIRE_STATUS,
                        "retried": {"type": "boolean"},
                    }
                ),
                errors=(*_ADMIN, "NOT_FOUND", "INSUFFICIENT_FUNDS", *_OUTSIDE),
                statuses=_STATUSES,
            ),
            Route(
                "POST",
                "/v1/payouts/{id}/cancel",
                self.cancel,
                "End a payout that was not paid yet, and give the amount back",
                auth="settleAdmin",
                request_schema=OPTIONAL_ACTION_SCHEMA,
                response_schema=shape({"ok": OK, "payout": PAYOUT}),
                errors=(
                    *_ADMIN,
                    "INVALID_REQUEST",
                    "NOT_FOUND",
                    "CONFLICT",
                    "INVALID_STATUS_TRANSITION",
                    *_OUTSIDE,
                    "INSUFFICIENT_FUNDS",
                ),
                statuses=_STATUSES,
            ),
        ]


def _unfinished() -> Overloaded:
    return Overloaded("it is still under way, and goes on; asking again is safe")
