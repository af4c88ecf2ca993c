"""The ledger's risk holds: applying, releasing and listing them.

Source: ledger-api contract sections 9 and 13 (L15, L21).
"""

import re
from enum import StrEnum

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.errors import CallerError
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release, parse_release_by_source
from clawsettle.http.auth import LEDGER_ADMIN, LEDGER_RISK
from clawsettle.http.errors import TRANSFER_STATUSES
from clawsettle.http.ledger_schemas import named
from clawsettle.http.query import read_word
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import AMOUNT, OBJECT, TEXT, listed, shape
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.ledger_reader import HoldFilter, LedgerReader

LIMIT_DEFAULT, LIMIT_MAX = 100, 500
_WHOLE = re.compile(r"[0-9]{1,3}")


class HoldStatus(StrEnum):
    """Which risk holds a list shows."""

    ACTIVE = "active"
    RELEASED = "released"


@frozen(eq=False)
class HoldRoutes:
    """The handlers and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        release_errors = (
            "INVALID_REQUEST",
            "NOT_FOUND",
            "IDEMPOTENCY_CONFLICT",
            "RISK_HOLD_RELEASE_FAILED",
        )
        return [
            Route(
                "POST",
                "/v1/risk/holds/apply",
                self.apply,
                "Hold an account's money for a loss event, once",
                direct=True,
                description="Answers 201 when it is held now, 200 when the key's hold was before.",
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_RISK,),
                request_schema=_APPLY,
                request_example=_APPLY_EXAMPLE,
                response_status=201,
                response_schema=_ANSWER,
                errors=(
                    "INVALID_REQUEST",
                    "UNSUPPORTED_CURRENCY",
                    "IDEMPOTENCY_KEY_REUSED",
                    "SOURCE_LOSS_EVENT_ALREADY_BOUND",
                    "INVALID_ACCOUNT",
                    "INSUFFICIENT_FUNDS",
                ),
                statuses=TRANSFER_STATUSES,
            ),
            Route(
                "POST",
                "/v1/risk/holds/release-by-source",
                self.release_by_source,
                "Release the hold of a loss event, once",
                direct=True,
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_RISK,),
                request_schema=shape(
                    {"source_loss_event_id": TEXT, "idempotency_key": TEXT}, {"reason": TEXT}
                ),
                response_schema=_ANSWER,
                errors=release_errors,
            ),
            Route(
                "POST",
                "/v1/risk/holds/{id}/release",
                self.release,
                "Release a hold, once",
                direct=True,
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_RISK,),
                request_schema=shape({"idempotency_key": TEXT}, {"reason": TEXT}),
                response_schema=_ANSWER,
                errors=release_errors,
            ),
            Route(
                "GET",
                "/v1/risk/holds",
                self.list_holds,
                "Risk holds, newest first",
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_RISK,),
                parameters=(
                    Parameter("status", "query", ", ".join(HoldStatus)),
                    Parameter("account", "query", "only holds that were applied to this reference"),
                    Parameter("source_loss_event_id", "query", "only the hold of this loss event"),
                    Parameter("limit", "query", f"1 to {LIMIT_MAX}, default {LIMIT_DEFAULT}"),
                ),
                response_schema=shape(
                    {"holds": listed(named("RiskHold")), "count": {"type": "integer"}}
                ),
                errors=("INVALID_REQUEST",),
            ),
        ]

    async def apply(self, request: Request) -> Reply:
        """Hold money; the key is in the body, a header is ignored."""
        body, currency = parse_json(request.body), self.keeper.book.currency
        answer = await self.keeper.ask(parse_apply_hold(body, currency=currency))
        return Reply.json(201 if answer.created else 200, answer.body)

    async def release_by_source(self, request: Request) -> Reply:
        """Release the hold of the loss event in the body."""
        answer = await self.keeper.ask(parse_release_by_source(parse_json(request.body)))
        return Reply.json(200, answer.body)

    async def release(self, request: Request) -> Reply:
        """Release the hold whose id stands in the path."""
        command = parse_release(request.params["id"], parse_json(request.body))
        return Reply.json(200, (await self.keeper.ask(command)).body)

    async def list_holds(self, request: Request) -> Reply:
        """Answer the newest holds that fit."""
        status = read_word(request, "status", HoldStatus)
        narrow = HoldFilter(
            source_loss_event_id=request.query.get("source_loss_event_id") or None,
            account_ref=request.query.get("account") or None,
            active=None if status is None else status is HoldStatus.ACTIVE,
        )
        found = await self.reader.list_holds(narrow, limit=_limit(request))
        return Reply.json(200, {"holds": [hold.view() for hold in found], "count": len(found)})


def _limit(request: Request) -> int:
    """Return how many holds are asked for; unlike a page's size it is never clamped.

    Raises: CallerError INVALID_REQUEST.
    """
    text = request.query.get("limit", "")
    if not text:
        return LIMIT_DEFAULT
    if not _WHOLE.fullmatch(text) or not 1 <= int(text) <= LIMIT_MAX:
        raise CallerError(f"limit must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


_APPLY = shape(
    {
        "idempotency_key": TEXT,
        "source_loss_event_id": TEXT,
        "account": TEXT,
        "amount_minor": AMOUNT,
        "reason": TEXT,
    },
    {"currency": TEXT, "metadata": OBJECT},
)
_APPLY_EXAMPLE = {
    "idempotency_key": "loss-event:loss_1:ledger",
    "source_loss_event_id": "loss_1",
    "account": "did:key:alice",
    "amount_minor": "500",
    "reason": "chargeback",
}
_ANSWER = shape({"hold": named("RiskHold"), "replay": {"type": "boolean"}})
