"""The ledger's accounts, users' and clearing ones, and what they hold.

Source: ledger-api contract sections 3, 8 and 13 (L11 to L14).
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.accounts import (
    ALIAS_PREFIX,
    AccountRef,
    account_ref,
    clearing_ids,
    parse_did,
)
from clawsettle.domain.errors import CallerError, NotFoundError
from clawsettle.domain.fields import body_object, required_text
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.journal import Account, AccountKind, Bucket
from clawsettle.domain.ledger import OpenAccount, OpenClearing
from clawsettle.domain.transfers import BUCKETS
from clawsettle.http.auth import LEDGER_ADMIN, LEDGER_VERIFY
from clawsettle.http.ledger_schemas import named
from clawsettle.http.routing import Parameter, Reply, Request, Route
from clawsettle.http.schemas import TEXT, listed, shape
from clawsettle.http.strict_json import parse_json
from clawsettle.storage.ledger_reader import LedgerReader


@frozen(eq=False)
class AccountRoutes:
    """The handlers of ``/accounts`` and ``/v1/balances``, and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "POST",
                "/accounts",
                self.open_account,
                "Open a DID's account, or return it",
                auth=LEDGER_ADMIN,
                request_schema=shape({"did": TEXT}),
                request_example={"did": "did:key:alice"},
                response_status=201,
                response_schema=named("Account"),
                errors=("INVALID_REQUEST", "INVALID_DID", "CREATE_FAILED"),
            ),
            Route(
                "GET",
                "/accounts/id/{id}",
                self.account,
                "An account by its id, a clearing account too",
                auth=LEDGER_ADMIN,
                scopes=(LEDGER_VERIFY,),
                response_schema=named("Account"),
                errors=("NOT_FOUND",),
            ),
            Route(
                "GET",
                "/accounts/{did}",
                self.account_by_did,
                "An account by its DID",
                auth=LEDGER_ADMIN,
                response_schema=named("Account"),
                errors=("INVALID_DID", "NOT_FOUND"),
            ),
            Route(
                "GET",
                "/v1/balances",
                self.balances,
                "What a DID's account holds, or all accounts together",
                description="The account is opened on first use.",
                auth=LEDGER_ADMIN,
                parameters=(Parameter("did", "query", "whose account; absent: all together"),),
                response_schema=shape(
                    {
                        "did": {"type": ["string", "null"]},
                        "currency": TEXT,
                        "buckets": shape(dict.fromkeys(BUCKETS, TEXT)),
                        "as_of": TEXT,
                    }
                ),
                errors=("INVALID_DID", "NOT_FOUND", "CREATE_FAILED"),
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
        """Answer the account whose id stands in the path, undecoded; contra accounts are hidden."""
        account = await self.reader.account(request.path.rpartition("/")[2])
        if account is None or account.kind is AccountKind.EXTERNAL:
            raise NotFoundError("no such account")
        return Reply.json(200, account.view())

    async def account_by_did(self, request: Request) -> Reply:
        """Answer the account of the DID in the path, or of the account id that it spells out."""
        did = request.params["did"]
        if "did:" not in did:
            raise NotFoundError("no such route")
        account = await self._find(did)
        if account is None:
            raise NotFoundError("no such account")
        return Reply.json(200, account.view())

    async def balances(self, request: Request) -> Reply:
        """Answer what is in each bucket; opens the DID's account on first use."""
        as_of, did = datetime.now(UTC), request.query.get("did") or None
        if did is None:
            return self._balances(None, await self.reader.totals(), as_of)
        account = await self._find(did)
        if account is None and not did.startswith(ALIAS_PREFIX):
            await self.keeper.ask(OpenAccount(did))
            account = await self._find(did)
        if account is None:
            raise NotFoundError("no such account")
        return self._balances(did, account.balances, as_of)

    async def _find(self, did: str) -> Account | None:
        """Return the account of a DID; an alias is read as the account id in it.

        Raises: CallerError INVALID_DID.
        """
        ref = account_ref(did) if did.startswith(ALIAS_PREFIX) else None
        if ref is not None:
            return await self.reader.account(ref.account_ids[0])
        return await self.reader.account_by_did(parse_did(did))

    def _balances(self, did: str | None, balances: Mapping[Bucket, int], as_of: datetime) -> Reply:
        return Reply.json(
            200,
            {
                "did": did,
                "currency": self.keeper.book.currency,
                "buckets": {letter: str(balances[bucket]) for letter, bucket in BUCKETS.items()},
                "as_of": iso_instant(as_of),
            },
        )


@frozen(eq=False)
class ClearingRoutes:
    """The handlers of ``/clearing/accounts``, and what they need."""

    keeper: LedgerKeeper
    reader: LedgerReader

    def routes(self) -> list[Route]:
        """Return the routes with their descriptions."""
        return [
            Route(
                "GET",
                "/clearing/accounts/domain/{domain}",
                self.account_by_domain,
                "A clearing account by its domain",
                auth=LEDGER_ADMIN,
                response_schema=named("ClearingAccount"),
                errors=("NOT_FOUND",),
            ),
            Route(
                "GET",
                "/clearing/accounts/{id}",
                self.account,
                "A clearing account by its id",
                auth=LEDGER_ADMIN,
                response_schema=named("ClearingAccount"),
                errors=("NOT_FOUND",),
            ),
            Route(
                "GET",
                "/clearing/accounts",
                self.list_accounts,
                "All clearing accounts, by domain",
                auth=LEDGER_ADMIN,
                response_schema=shape({"accounts": listed(named("ClearingAccount"))}),
            ),
            Route(
                "POST",
                "/clearing/accounts",
                self.open_account,
                "Open a domain's clearing account, or return it",
                description="The name of one that exists is kept.",
                auth=LEDGER_ADMIN,
                request_schema=shape({"domain": TEXT, "name": TEXT}),
                request_example={"domain": "clawsettle.payouts", "name": "Payouts"},
                response_status=201,
                response_schema=named("ClearingAccount"),
                errors=("INVALID_REQUEST", "CREATE_FAILED"),
            ),
        ]

    async def account_by_domain(self, request: Request) -> Reply:
        """Answer the clearing account of the domain in the path."""
        return _clearing(await self.reader.clearing_account(domain=request.params["domain"]))

    async def account(self, request: Request) -> Reply:
        """Answer the clearing account with the id in the path."""
        return _clearing(await self.reader.clearing_account(account_id=request.params["id"]))

    async def list_accounts(self, _request: Request) -> Reply:
        """Answer every clearing account."""
        found = await self.reader.clearing_accounts()
        return Reply.json(200, {"accounts": [account.clearing_view() for account in found]})

    async def open_account(self, request: Request) -> Reply:
        """Answer 201 with the clearing account, new or not."""
        body = body_object(parse_json(request.body))
        domain, name = required_text(body, "domain"), required_text(body, "name")
        ref = AccountRef(f"clearing:{domain}", clearing_ids(domain), domain=domain)
        answer = await self.keeper.ask(OpenClearing(ref, name))
        return Reply.json(201, answer.body)


def _clearing(account: Account | None) -> Reply:
    if account is None:
        raise NotFoundError("no such clearing account")
    return Reply.json(200, account.clearing_view())
