"""``/v1/netting/runs``: making a run, reading it, and what an operator does about one.

A request only waits for what goes on without it: the runner finishes what it has begun.
Source: netting contract sections 2, 4, 6 and 8; 10 (3, 8, 17, 18, 22).
"""

from collections.abc import Awaitable
from typing import Literal, TypeVar

import orjson
import trio
from attrs import frozen

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.config import AdminSettings
from clawsettle.domain.errors import NotFoundError, Overloaded
from clawsettle.domain.idempotency import parse_key
from clawsettle.domain.netting import Run, RunStatus
from clawsettle.domain.netting_plan import Plan
from clawsettle.domain.netting_requests import NettingRequest, parse_netting
from clawsettle.http.auth import require_settle_admin
from clawsettle.http.idempotency_key import key_headers
from clawsettle.http.netting_schemas import (
    ANSWER,
    AUDIT,
    ENTRY_EXAMPLE,
    EXECUTED,
    ORDER,
    RUN,
    RUN_EXAMPLE,
    audit_view,
)
from clawsettle.http.operator import (
    OPTIONAL_ACTION_SCHEMA,
    action_view,
    actions_schema,
    read_operator,
)
from clawsettle.http.patience import Patience
from clawsettle.http.payout_lists import OPERATOR_LIMIT
from clawsettle.http.payout_query import (
    CURSOR_PARAMETER,
    next_cursor,
    read_choice,
    read_opaque_cursor,
    read_row_cursor,
)
from clawsettle.http.payout_schemas import paged
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import TEXT
from clawsettle.http.strict_json import parse_body
from clawsettle.storage.netting_lists import NettingLists, WholeRun
from clawsettle.storage.operator_actions import actions_of, record_action

RUNS = "/v1/netting/runs"
KIND = "netting_run"
T = TypeVar("T")
_CREATED, _KNOWN = 201, 200
_ADMIN = ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")
_LISTS = ("INVALID_REQUEST", "INVALID_CURSOR", *_ADMIN)
_STEPS = ("DUPLICATE_CONFLICT", "INVALID_STATUS_TRANSITION")


@frozen(eq=False)
class NettingRoutes:
    """The handlers and what they need; ``answer_deadline_s`` bounds what a request waits for."""

    runner: NettingRunner
    lists: NettingLists
    admin: AdminSettings
    patience: Patience
    answer_deadline_s: float

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [self._create_route(), *self._reading_routes(), *self._acting_routes()]

    async def create(self, request: Request) -> Reply:
        """Make a run, or go on with the one that its key stands for: 200 when it was applied.

        What has not ended within the deadline is answered as it stands. A dry run is answered with
        its plan.
        """
        require_settle_admin(request, self.admin.keys)
        key = parse_key(request.headers)
        asked = parse_netting(key, parse_body(request.body), self.runner.defaults)
        if asked.dry_run:
            plan = await self.runner.plan(asked)
            return await trio.to_thread.run_sync(_planned, asked, plan)
        execution = await self._answer(self.runner.execute(asked))
        if execution is None:
            await self._check_stored(asked)
        deduped = execution is not None and execution.deduped
        found = await self._whole(asked.run_id)
        return _executed(_KNOWN if deduped else _CREATED, found, deduped=deduped)

    async def runs(self, request: Request) -> Reply:
        """Answer a page of runs."""
        require_settle_admin(request, self.admin.keys)
        status = read_choice(request, "status", RunStatus)
        limit, after = OPERATOR_LIMIT.read(request), read_opaque_cursor(request)
        page = await self.lists.runs(status, after=after, limit=limit)
        runs = [run.view() for run in page.rows]
        return Reply.json(200, {"ok": True, "runs": runs, **next_cursor(page.next)})

    async def show(self, request: Request) -> Reply:
        """Answer a run and its entries."""
        require_settle_admin(request, self.admin.keys)
        return _whole(200, await self._whole(request.params["id"]))

    async def audit(self, request: Request) -> Reply:
        """Answer a page of what was done to a run and its entries, and who has intervened."""
        require_settle_admin(request, self.admin.keys)
        limit, after = OPERATOR_LIMIT.read(request), read_row_cursor(request)
        run = await self._find(request.params["id"])
        page = await self.lists.audit(run.run_id, after=after, limit=limit)
        actions = await actions_of(self.lists.database, KIND, run.run_id)
        return Reply.json(
            200,
            {
                "ok": True,
                "run_id": run.run_id,
                "audit_events": [audit_view(kept) for kept in page.rows],
                "actions": [action_view(action) for action in actions],
                **next_cursor(page.next),
            },
        )

    async def resume(self, request: Request) -> Reply:
        """Try again what of a run has not moved."""
        run_id = await self._record(request, "resume")
        execution = await self._answer(self.runner.resume(run_id))
        deduped = execution is not None and execution.deduped
        return _executed(200, await self._whole(run_id), deduped=deduped)

    async def release(self, request: Request) -> Reply:
        """Give back the payouts of a run that have not moved."""
        run_id = await self._record(request, "release")
        await self._answer(self.runner.release(run_id))
        return _whole(200, await self._whole(run_id))

    async def _answer(self, asked: Awaitable[T]) -> T | None:
        return await self.patience.wait(self.answer_deadline_s, asked)

    async def _check_stored(self, asked: NettingRequest) -> None:
        """Check that the run of a request is there by now, to be answered as it stands.

        Raises: Overloaded, ConflictError IDEMPOTENCY_KEY_REUSED.
        """
        run = await self.lists.run(asked.run_id)
        if run is None:
            raise Overloaded("it is still under way, and goes on; asking again is safe")
        asked.check_same(run)

    async def _find(self, run_id: str) -> Run:
        run = await self.lists.run(run_id)
        if run is None:
            raise _unknown(run_id)
        return run

    async def _whole(self, run_id: str) -> WholeRun:
        found = await self.lists.whole(run_id)
        if found is None:
            raise _unknown(run_id)
        return found

    async def _record(self, request: Request, action: Literal["resume", "release"]) -> str:
        """Keep what an operator asks for before it is done, so that nothing is done unseen."""
        operator = read_operator(request, self.admin.keys, unless_said=action)
        run_id = (await self._find(request.params["id"])).run_id
        await self.lists.database.transaction(
            lambda transaction: record_action(transaction, KIND, run_id, action, operator)
        )
        return run_id

    def _create_route(self) -> Route:
        return Route(
            "POST",
            RUNS,
            self.create,
            "Net the payouts that wait: one transfer for each connected account",
            description=(
                "Asking again under the same key is always safe: it answers 200 with a run that "
                "was applied, and tries again what has not moved of another (201). A run that "
                "fails in part, or altogether, is 201, too: `complete` tells."
            ),
            auth="settleAdmin",
            parameters=key_headers("run"),
            request_schema=ORDER,
            request_example={"currency": "USD", "limit": 10},
            response_status=_CREATED,
            response_schema=EXECUTED,
            response_example={
                "ok": True,
                "deduped": False,
                "complete": True,
                "run": RUN_EXAMPLE,
                "entries": [ENTRY_EXAMPLE],
            },
            errors=(
                *_ADMIN,
                "INVALID_REQUEST",
                "UNSUPPORTED_CURRENCY",
                "IDEMPOTENCY_KEY_REUSED",
                *_STEPS,
                "BALANCE_LIMIT_EXCEEDED",
            ),
        )

    def _reading_routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                RUNS,
                self.runs,
                "Netting runs, the newest first",
                auth="settleAdmin",
                parameters=(
                    Parameter("status", "query", f"one of {', '.join(RunStatus)}"),
                    OPERATOR_LIMIT.parameter,
                    CURSOR_PARAMETER,
                ),
                response_schema=paged("runs", RUN),
                errors=_LISTS,
            ),
            Route(
                "GET",
                f"{RUNS}/{{id}}",
                self.show,
                "A netting run and its entries",
                auth="settleAdmin",
                response_schema=ANSWER,
                errors=(*_ADMIN, "NOT_FOUND"),
            ),
            Route(
                "GET",
                f"{RUNS}/{{id}}/audit",
                self.audit,
                "What was done to a netting run and its entries, oldest first",
                auth="settleAdmin",
                parameters=(OPERATOR_LIMIT.parameter, CURSOR_PARAMETER),
                response_schema=paged(
                    "audit_events", AUDIT, run_id=TEXT, actions=actions_schema("resume", "release")
                ),
                errors=(*_LISTS, "NOT_FOUND"),
            ),
        ]

    def _acting_routes(self) -> list[Route]:
        errors = (*_ADMIN, "INVALID_REQUEST", "NOT_FOUND", *_STEPS)
        return [
            Route(
                "POST",
                f"{RUNS}/{{id}}/resume",
                self.resume,
                "Try again what of a netting run has not moved",
                description="What may have moved is looked up first.",
                auth="settleAdmin",
                request_schema=OPTIONAL_ACTION_SCHEMA,
                response_schema=EXECUTED,
                errors=errors,
            ),
            Route(
                "POST",
                f"{RUNS}/{{id}}/release",
                self.release,
                "Give back the payouts of a netting run that have not moved",
                auth="settleAdmin",
                request_schema=OPTIONAL_ACTION_SCHEMA,
                response_schema=ANSWER,
                errors=(*errors, "CONFLICT"),
            ),
        ]


def _unknown(run_id: str) -> NotFoundError:
    return NotFoundError("no such netting run", details={"run_id": run_id})


def _planned(asked: NettingRequest, plan: Plan) -> Reply:
    return Reply.json(
        200,
        {
            "ok": True,
            "dry_run": True,
            "run_id": asked.run_id,
            "currency": asked.currency,
            "limit": asked.limit,
            "source_clearing_domain": asked.source_clearing_domain,
            "target_clearing_domain": asked.target_clearing_domain,
            "candidate_count": plan.candidate_count,
            "total_amount_minor": str(plan.total_amount_minor),
            "entries": [entry.view() for entry in plan.entries],
        },
    )


def _executed(status: int, found: WholeRun, *, deduped: bool) -> Reply:
    return _whole(status, found, deduped=deduped, complete=found.run.status is RunStatus.APPLIED)


def _whole(status: int, found: WholeRun, **more: bool) -> Reply:
    """Return a run and its entries after what else is said of them."""
    head = orjson.dumps({"ok": True, **more})[:-1] + b","
    return Reply(status, head, file=found.file, file_bytes=found.file_bytes)
