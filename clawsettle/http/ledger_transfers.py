"""The ledger's transfers, and the journal's events: one of them, or the proof of them all.

Source: ledger-api contract sections 6, 7 and 13 (L3 to L5, L23).
"""

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.errors import NotFoundError
from clawsettle.domain.journal import Event
from clawsettle.domain.proof import Proof
from clawsettle.domain.transfers import parse_transfer
from clawsettle.http.auth import LEDGER_ADMIN
from clawsettle.http.errors import TRANSFER_STATUSES
from clawsettle.http.ledger_schemas import BUCKET_LETTER, named
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.schemas import AMOUNT, OBJECT, TEXT, listed, shape
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.ledger_reader import LedgerReader


@frozen(eq=False)
class TransferRoutes:
    """The handlers and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "POST",
                "/v1/transfers",
                self.transfer,
                "Move an amount from one bucket to another, once",
                direct=True,
                description=(
                    "Answers 200 also when the key's transfer was applied before. The destination "
                    "is opened with its first money, unless the ledger is strict about accounts."
                ),
                auth=LEDGER_ADMIN,
                request_schema=_TRANSFER,
                request_example=_TRANSFER_EXAMPLE,
                response_schema=shape({"event_id": TEXT, "status": {"const": "applied"}}),
                errors=(
                    "INVALID_REQUEST",
                    "UNSUPPORTED_CURRENCY",
                    "IDEMPOTENCY_KEY_REUSED",
                    "INVALID_ACCOUNT",
                    "INSUFFICIENT_FUNDS",
                    "NOT_FOUND",
                    "CONFLICT",
                    "CREATE_FAILED",
                    "BALANCE_LIMIT_EXCEEDED",
                ),
                statuses=TRANSFER_STATUSES,
            ),
            Route(
                "GET",
                "/events/idempotency/{key}",
                self.event_by_key,
                "The event under an idempotency key",
                auth=LEDGER_ADMIN,
                response_schema=named("Event"),
                errors=("NOT_FOUND",),
            ),
            Route(
                "GET",
                "/events/verify",
                self.verify,
                "Replay the whole journal and check what it says",
                auth=LEDGER_ADMIN,
                response_schema=shape(
                    {
                        "valid": {"type": "boolean"},
                        "errors": listed(TEXT),
                        "eventsChecked": {"type": "integer"},
                    }
                ),
                response_example={"valid": True, "errors": [], "eventsChecked": 9},
            ),
            Route(
                "GET",
                "/events/{id}",
                self.event,
                "An event by its id",
                auth=LEDGER_ADMIN,
                response_schema=named("Event"),
                errors=("NOT_FOUND",),
            ),
        ]

    async def transfer(self, request: Request) -> Reply:
        """Move an amount; the key is in the body, a header is ignored."""
        body, currency = parse_json(request.body), self.keeper.book.currency
        answer = await self.keeper.ask(parse_transfer(body, currency=currency))
        return Reply.json(200, answer.body)

    async def event_by_key(self, request: Request) -> Reply:
        """Answer the event under the key in the path."""
        return _found(await self.reader.event_by_key(request.params["key"]))

    async def event(self, request: Request) -> Reply:
        """Answer the event with the id in the path."""
        return _found(await self.reader.event_by_id(request.params["id"]))

    async def verify(self, _request: Request) -> Reply:
        """Answer whether every event of the journal holds; reads it page by page."""
        proof, known = Proof(), await self.reader.tail()
        page, last_seq = await self.reader.journal(0)
        while page:
            proof.take(page)
            page, last_seq = await self.reader.journal(last_seq)
        proof.reached(known)
        return Reply.json(
            200,
            {
                "valid": not proof.error_count,
                "errors": proof.errors,
                "eventsChecked": proof.event_count,
            },
        )


def _found(event: Event | None) -> Reply:
    if event is None:
        raise NotFoundError("no such event")
    return Reply.json(200, event.view())


_PLACE = shape({"account": TEXT, "bucket": BUCKET_LETTER})
_TRANSFER = shape(
    {
        "idempotency_key": TEXT,
        "currency": TEXT,
        "from": _PLACE,
        "to": _PLACE,
        "amount_minor": AMOUNT,
    },
    {"metadata": OBJECT},
)
_TRANSFER_EXAMPLE = {
    "idempotency_key": "payout:lock:pout_1",
    "currency": "USD",
    "from": {"account": "did:key:alice", "bucket": "A"},
    "to": {"account": "did:key:alice", "bucket": "H"},
    "amount_minor": "1200",
}
