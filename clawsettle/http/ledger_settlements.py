"""The ledger's settlements: recording one, looking them up, listing them.

Source: ledger-api contract sections 4 and 5.
"""

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.errors import NotFoundError
from clawsettle.domain.journal import EventType
from clawsettle.domain.settlements import Direction, Status, parse_ingest, parse_key
from clawsettle.http.auth import LEDGER_ADMIN, LEDGER_VERIFY
from clawsettle.http.ledger_schemas import named
from clawsettle.http.query import (
    PAGE_PARAMETERS,
    read_cursor,
    read_limit,
    read_word,
    write_cursor,
)
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import AMOUNT, OBJECT, TEXT, listed, shape
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.ledger_reader import LedgerReader, SettlementFilter


@frozen(eq=False)
class SettlementRoutes:
    """The handlers and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        direction = Parameter("direction", "query", ", ".join(Direction))
        return [
            Route(
                "POST",
                "/v1/payments/settlements/ingest",
                self.ingest,
                "Record a settlement, once",
                direct=True,
                description="Answers 201 when the book changed, 200 when it was recorded before.",
                auth=LEDGER_ADMIN,
                parameters=(
                    Parameter(
                        "idempotency-key", "header", "At most one effect a key.", required=True
                    ),
                ),
                request_schema=_INGEST,
                request_example=_INGEST_EXAMPLE,
                response_status=201,
                response_schema=_INGESTED,
                errors=(
                    "MISSING_IDEMPOTENCY_KEY",
                    "INVALID_REQUEST",
                    "UNSUPPORTED_CURRENCY",
                    "NOT_FOUND",
                    "IDEMPOTENCY_KEY_REUSED",
                    "DUPLICATE_CONFLICT",
                    "REFUND_EXCEEDS_PAYIN",
                    "INVALID_STATUS_TRANSITION",
                    "INSUFFICIENT_FUNDS",
                    "BALANCE_LIMIT_EXCEEDED",
                ),
            ),
            Route(
                "GET",
                "/v1/payments/settlements/{provider}/{external_payment_id}",
                self.settlements_of_payment,
                "The settlements of one external payment",
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_VERIFY,),
                parameters=(direction,),
                response_schema=shape({"settlements": listed(named("Settlement"))}),
                errors=("INVALID_REQUEST", "NOT_FOUND"),
            ),
            Route(
                "GET",
                "/v1/payments/settlements",
                self.list_settlements,
                "Settlements, newest first",
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_VERIFY,),
                parameters=(
                    Parameter("account_id", "query", "only this account"),
                    Parameter("status", "query", ", ".join(Status)),
                    Parameter("provider", "query", "only this provider"),
                    direction,
                    *PAGE_PARAMETERS,
                ),
                response_schema=shape(
                    {"settlements": listed(named("Settlement"))}, {"next_cursor": TEXT}
                ),
                errors=("INVALID_REQUEST", "INVALID_CURSOR"),
            ),
        ]

    async def ingest(self, request: Request) -> Reply:
        """Record a settlement; the key is looked at before the body."""
        headers = request.headers
        given = headers.get("idempotency-key", "").strip() or headers.get("x-idempotency-key")
        key = parse_key(given)
        answer = await self.keeper.ask(parse_ingest(key, parse_json(request.body)))
        return Reply.json(201 if answer.created else 200, answer.body)

    async def settlements_of_payment(self, request: Request) -> Reply:
        """Answer up to three settlements, one a direction."""
        found = await self.reader.settlements_of_payment(
            request.params["provider"],
            request.params["external_payment_id"],
            read_word(request, "direction", Direction),
        )
        if not found:
            raise NotFoundError("no settlement of this payment")
        return Reply.json(200, {"settlements": [settlement.view() for settlement in found]})

    async def list_settlements(self, request: Request) -> Reply:
        """Answer a page and, when there is more, the cursor of the next."""
        query = request.query
        narrow = SettlementFilter(
            account_id=query.get("account_id") or None,
            status=read_word(request, "status", Status),
            provider=query.get("provider") or None,
            direction=read_word(request, "direction", Direction),
        )
        limit, after = read_limit(request), read_cursor(request)
        found = await self.reader.list_settlements(narrow, after=after, limit=limit + 1)
        body: dict[str, object] = {"settlements": [one.view() for one in found[:limit]]}
        if len(found) > limit:
            last = found[limit - 1]
            body["next_cursor"] = write_cursor(last.created_at, last.settlement_id)
        return Reply.json(200, body)


_INGEST = shape(
    {
        "provider": TEXT,
        "external_payment_id": TEXT,
        "direction": {"enum": list(Direction)},
        "status": {"enum": list(Status)},
        "account_id": TEXT,
        "amount_minor": AMOUNT,
        "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
    },
    {
        "metadata": OBJECT,
        "network": TEXT,
        "rail": TEXT,
        "provider_created_at": TEXT,
        "provider_updated_at": TEXT,
        "settled_at": TEXT,
        "refund_of": {
            "type": "string",
            "description": "of a refund: external_payment_id of the payin that it gives back",
        },
    },
)
_INGEST_EXAMPLE = {
    "provider": "stripe",
    "external_payment_id": "pi_1",
    "direction": "payin",
    "status": "confirmed",
    "account_id": "acc_32ca986a",
    "amount_minor": "1000",
    "currency": "USD",
}
_INGESTED = shape(
    {
        "settlement": named("Settlement"),
        "idempotency": shape(
            {"key": TEXT, "replayed": {"type": "boolean"}, "deduped": {"type": "boolean"}}
        ),
    },
    {
        "event": shape(
            {
                "id": TEXT,
                "event_type": {"enum": list(EventType)},
                "event_hash": TEXT,
                "created_at": TEXT,
            }
        )
    },
)
