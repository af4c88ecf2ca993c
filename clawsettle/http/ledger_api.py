"""The embedded ledger's port: accounts, settlements, and the proof of its journal.

Source: ledger-api contract sections 1 to 5 and 7 (verify).
"""

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.accounts import parse_did
from clawsettle.domain.errors import CallerError, NotFoundError
from clawsettle.domain.ledger import OpenAccount
from clawsettle.domain.proof import Proof
from clawsettle.domain.settlements import Direction, Status, parse_ingest, parse_key
from clawsettle.http.query import (
    PAGE_PARAMETERS,
    read_cursor,
    read_limit,
    read_word,
    write_cursor,
)
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.ledger_reader import LedgerReader, SettlementFilter


async def _health(_request: Request) -> Reply:
    return Reply.json(200, {"status": "ok", "service": "ledger"})


@frozen(eq=False)
class LedgerRoutes:
    """The ledger's handlers and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        ingest_errors = (
            "MISSING_IDEMPOTENCY_KEY",
            "INVALID_REQUEST",
            "UNSUPPORTED_CURRENCY",
            "NOT_FOUND",
            "IDEMPOTENCY_KEY_REUSED",
            "DUPLICATE_CONFLICT",
            "INVALID_STATUS_TRANSITION",
            "INSUFFICIENT_FUNDS",
            "BALANCE_LIMIT_EXCEEDED",
        )
        key = Parameter("idempotency-key", "header", "At most one effect a key.", required=True)
        direction = Parameter("direction", "query", "payin, refund or payout")
        return [
            Route("GET", "/health", _health, "Whether the ledger's port answers", public=True),
            Route(
                "POST",
                "/accounts",
                self.open_account,
                "Open a DID's account, or return it",
                auth="ledgerAdmin",
                request_schema={"type": "object", "required": ["did"]},
                request_example={"did": "did:key:alice"},
                response_status=201,
                errors=("INVALID_REQUEST", "INVALID_DID"),
            ),
            Route(
                "GET",
                "/accounts/id/{id}",
                self.account,
                "An account by its id",
                auth="ledgerAdmin",
                errors=("NOT_FOUND",),
            ),
            Route(
                "GET",
                "/accounts/{did}",
                self.account_by_did,
                "An account by its DID",
                auth="ledgerAdmin",
                errors=("INVALID_DID", "NOT_FOUND"),
            ),
            Route(
                "POST",
                "/v1/payments/settlements/ingest",
                self.ingest,
                "Record a settlement, once",
                description="Answers 201 when the book changed, 200 when it was recorded before.",
                auth="ledgerAdmin",
                parameters=(key,),
                request_schema=_INGEST_SCHEMA,
                response_status=201,
                errors=ingest_errors,
            ),
            Route(
                "GET",
                "/v1/payments/settlements/{provider}/{external_payment_id}",
                self.settlements_of_payment,
                "The settlements of one external payment",
                auth="ledgerAdmin",
                parameters=(direction,),
                errors=("INVALID_REQUEST", "NOT_FOUND"),
            ),
            Route(
                "GET",
                "/v1/payments/settlements",
                self.list_settlements,
                "Settlements, newest first",
                auth="ledgerAdmin",
                parameters=(
                    Parameter("account_id", "query", "only this account"),
                    Parameter("status", "query", "pending, confirmed, failed or reversed"),
                    Parameter("provider", "query", "only this provider"),
                    direction,
                    *PAGE_PARAMETERS,
                ),
                errors=("INVALID_REQUEST", "INVALID_CURSOR"),
            ),
            Route(
                "GET",
                "/events/verify",
                self.verify,
                "Walk the whole journal and check its chain",
                auth="ledgerAdmin",
            ),
        ]

    async def open_account(self, request: Request) -> Reply:
        """Answer 201 with the account, new or not."""
        body = parse_json(request.body)
        did = body.get("did") if isinstance(body, dict) else None
        if not did:
            raise CallerError("the body must be an object with a did")
        answer = await self.keeper.ask(OpenAccount(parse_did(did)))
        return Reply.json(201, answer.body)

    async def account(self, request: Request) -> Reply:
        """Answer the account whose id stands in the path, undecoded."""
        account = await self.reader.account(request.path.rpartition("/")[2])
        if account is None or account.did is None:
            raise NotFoundError("no such account")
        return Reply.json(200, account.view())

    async def account_by_did(self, request: Request) -> Reply:
        """Answer the account of the DID in the path; an encoded DID is no route."""
        did = request.path.rpartition("/")[2]
        if "did:" not in did:
            raise NotFoundError("no such route")
        account = await self.reader.account_by_did(parse_did(did))
        if account is None:
            raise NotFoundError("no such account")
        return Reply.json(200, account.view())

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

    async def verify(self, _request: Request) -> Reply:
        """Answer whether every link of the journal holds; reads it page by page."""
        proof, known = Proof(), await self.reader.tail()
        while page := await self.reader.journal(proof.tail.seq):
            proof.take(page)
        proof.reached(known)
        return Reply.json(
            200,
            {
                "valid": not proof.error_count,
                "errors": proof.errors,
                "eventsChecked": proof.event_count,
            },
        )


_TEXT = {"type": "string"}
_INGEST_SCHEMA = {
    "type": "object",
    "required": [
        "provider",
        "external_payment_id",
        "direction",
        "status",
        "account_id",
        "amount_minor",
        "currency",
    ],
    "properties": {
        "provider": _TEXT,
        "external_payment_id": _TEXT,
        "direction": {"enum": list(Direction)},
        "status": {"enum": list(Status)},
        "account_id": _TEXT,
        "amount_minor": {"type": "string", "pattern": "^[0-9]+$", "description": "minor units"},
        "currency": {"type": "string", "pattern": "^[A-Za-z]{3}$"},
        "metadata": {"type": "object"},
        "network": _TEXT,
        "rail": _TEXT,
        "provider_created_at": _TEXT,
        "provider_updated_at": _TEXT,
        "settled_at": _TEXT,
    },
}
