"""The embedded ledger's port: every route of it, in one list.

Source: ledger-api contract.
"""

from collections.abc import Callable, Mapping

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.http.ledger_accounts import AccountRoutes, ClearingRoutes
from clawsettle.http.ledger_holds import HoldRoutes
from clawsettle.http.ledger_settlements import SettlementRoutes
from clawsettle.http.ledger_transfers import TransferRoutes
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.storage.ledger_reader import LedgerReader


def ledger_routes(
    keeper: LedgerKeeper, reader: LedgerReader, document: Callable[[], Mapping[str, object]]
) -> list[Route]:
    """Return the port's routes; ``document`` renders the OpenAPI document of them."""

    async def health(_request: Request) -> Reply:
        return Reply.json(200, {"status": "ok", "service": "ledger"})

    async def openapi(_request: Request) -> Reply:
        return Reply.json(200, document())

    return [
        Route(
            "GET",
            "/health",
            health,
            "Whether the ledger's port answers",
            public=True,
            response_example={"status": "ok", "service": "ledger"},
        ),
        Route("GET", "/openapi.json", openapi, "This API as OpenAPI 3.1", public=True),
        *AccountRoutes(keeper, reader).routes(),
        *ClearingRoutes(keeper, reader).routes(),
        *SettlementRoutes(keeper, reader).routes(),
        *TransferRoutes(keeper, reader).routes(),
        *HoldRoutes(keeper, reader).routes(),
    ]
