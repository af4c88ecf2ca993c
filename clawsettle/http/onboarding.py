"""``POST /v1/payouts/connect/onboard``: an account at the payout provider, and the way to it.

Source: payouts contract sections 6, 9 and 11 (3, 26).
"""

from attrs import frozen

from clawsettle.actors.onboarder import Onboarder
from clawsettle.domain.errors import Overloaded
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.onboarding import OnboardingStatus, parse_onboarding
from clawsettle.http.auth import Door
from clawsettle.http.patience import Patience
from clawsettle.http.payout_provider import configured
from clawsettle.http.payout_schemas import OK
from clawsettle.http.routing import Reply, Request, Route
from clawsettle.http.schemas import INSTANT, TEXT, shape
from clawsettle.http.strict_json import parse_body
from clawsettle.storage.connect_accounts import ConnectAccountRecord

_CREATED, _KNOWN = 201, 200


@frozen(eq=False)
class OnboardingRoute:
    """The handler and what it needs; without a provider there is no onboarder."""

    onboarder: Onboarder | None
    door: Door
    patience: Patience
    answer_deadline_s: float

    def route(self) -> Route:
        """Return the route with its description."""
        return Route(
            "POST",
            "/v1/payouts/connect/onboard",
            self.handle,
            "Open an account at the payout provider, or return it",
            description=(
                "201 for the call that opens it, 200 for every other one. An account that is "
                "`pending` is asked about anew, and gets a fresh link."
            ),
            auth=self.door.scheme,
            request_schema=shape({"account_id": TEXT}, {"refresh_url": _URL, "return_url": _URL}),
            request_example={
                "account_id": "acc_payout_1",
                "refresh_url": "https://shop.example/onboarding",
                "return_url": "https://shop.example/done",
            },
            response_status=_CREATED,
            response_schema=shape(
                {"ok": OK, "deduped": {"type": "boolean"}, "account": _ACCOUNT_SCHEMA}
            ),
            response_example={"ok": True, "deduped": False, "account": _ACCOUNT_EXAMPLE},
            errors=(
                *self.door.codes,
                "DEPENDENCY_NOT_CONFIGURED",
                "INVALID_REQUEST",
                "NOT_FOUND",
                "LEDGER_INGEST_FAILED",
                "LEDGER_TIMEOUT",
                "STRIPE_API_ERROR",
            ),
        )

    async def handle(self, request: Request) -> Reply:
        """Answer how an account stands at the provider, and the link to its onboarding."""
        self.door.check(request)
        onboarder = configured(self.onboarder)
        asked = parse_onboarding(parse_body(request.body))
        done = await self.patience.wait(
            self.answer_deadline_s,
            onboarder.onboard(asked.account_id, asked.refresh_url, asked.return_url),
        )
        if done is None:
            raise Overloaded("the account was not opened in time; asking again is safe")
        body = {"ok": True, "deduped": done.deduped, "account": _view(done.account)}
        return Reply.json(_KNOWN if done.deduped else _CREATED, body)


def _view(account: ConnectAccountRecord) -> dict[str, object]:
    return {
        "account_id": account.account_id,
        "provider": account.provider,
        "connect_account_id": account.connect_account_id,
        "onboarding_status": account.onboarding_status,
        "onboarding_url": account.onboarding_url,
        "created_at": iso_instant(account.created_at),
        "updated_at": iso_instant(account.updated_at),
    }


_URL = {
    "type": "string",
    "format": "uri",
    "maxLength": 2000,
    "description": "https://, or http:// on localhost; without user",
}
_ACCOUNT_SCHEMA = shape(
    {
        "account_id": TEXT,
        "provider": TEXT,
        "connect_account_id": TEXT,
        "onboarding_status": {"enum": [OnboardingStatus.PENDING, OnboardingStatus.ACTIVE]},
        "onboarding_url": TEXT,
        "created_at": INSTANT,
        "updated_at": INSTANT,
    }
)
_ACCOUNT_EXAMPLE = {
    "account_id": "acc_payout_1",
    "provider": "stripe",
    "connect_account_id": "acct_2d9613ecee4e99e2374cc591",
    "onboarding_status": "pending",
    "onboarding_url": "https://connect.stripe.com/setup/e/acct_2d9613ecee4e99e2374cc591/x",
    "created_at": "2026-02-11T12:00:00.000Z",
    "updated_at": "2026-02-11T12:00:00.000Z",
}
