"""Keys: who may call which route. Fail closed: no key configured closes the route.

Source: webhook-forwarding contract section 1, ledger-api contract section 1, loss-events contract
section 1; W24, L22, loss-events 10 (18).
"""

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from clawsettle.config import Secret, matches_any
from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import CallerError, ClawsettleError
from clawsettle.http.routing import Request, Route

LEDGER_ADMIN, LEDGER_VERIFY, LEDGER_RISK = "ledgerAdmin", "ledgerVerify", "ledgerRisk"
"""The ledger port's security schemes: all of it, looking settlements up, risk holds."""

LOSS_READER = "settleLossReader"
"""The settle port's security scheme of those who only read loss events."""

_SCHEME_AND_TOKEN = 2


def bearer_token(request: Request) -> str | None:
    """Return the token of ``Authorization: Bearer <token>``; None for any other header."""
    words = request.headers.get("authorization", "").split()
    if len(words) != _SCHEME_AND_TOKEN or words[0].lower() != "bearer":
        return None
    return words[1]


def require_settle_admin(request: Request, keys: Sequence[Secret]) -> str:
    """Return who calls, when the request carries a settle-admin key as its bearer token.

    The answer is the key's fingerprint, ``key:`` and the first 8 hex digits of its SHA-256: it
    tells one key from another and gives none away.

    Raises: ClawsettleError DEPENDENCY_NOT_CONFIGURED without keys, CallerError UNAUTHORIZED.
    """
    if not keys:
        raise ClawsettleError(
            "the admin key is not configured",
            code="DEPENDENCY_NOT_CONFIGURED",
            details={"field": "env.SETTLE_ADMIN_KEY"},
        )
    token = bearer_token(request)
    if token is None or not matches_any(token, keys):
        raise CallerError("the admin key is missing or wrong", code="UNAUTHORIZED")
    return f"key:{sha256_hex(token)[:8]}"


@frozen(eq=False)
class Door:
    """Who may use some of the routes: whoever has a settle-admin key, or anybody where it is open.

    Source: payouts contract sections 1 and 11 (3).
    """

    keys: Sequence[Secret]
    is_open: bool

    @property
    def scheme(self) -> str | None:
        """Return the security scheme of its routes."""
        return None if self.is_open else "settleAdmin"

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the codes that it refuses with."""
        return () if self.is_open else ("UNAUTHORIZED", "DEPENDENCY_NOT_CONFIGURED")

    def check(self, request: Request) -> None:
        """Let a request pass. Raises: as ``require_settle_admin``, unless it is open."""
        if not self.is_open:
            require_settle_admin(request, self.keys)


@frozen(eq=False)
class LossReaders:
    """Who may read loss events: whoever has a settle-admin key or one of ``tokens``.

    Source: loss-events contract section 1.
    """

    keys: Sequence[Secret]
    tokens: Sequence[Secret]

    def check(self, request: Request) -> None:
        """Let a request pass by its bearer token or, where it has none, its ``x-admin-key``.

        Raises: ClawsettleError DEPENDENCY_NOT_CONFIGURED without keys and tokens, CallerError
        UNAUTHORIZED.
        """
        valid = [*self.keys, *self.tokens]
        if not valid:
            raise ClawsettleError(
                "neither an admin key nor a read token is configured",
                code="DEPENDENCY_NOT_CONFIGURED",
                details={"field": "SETTLE_ADMIN_KEY"},
            )
        offered = bearer_token(request) or request.headers.get("x-admin-key", "").strip()
        if not matches_any(offered, valid):
            raise CallerError("the key is missing or wrong", code="UNAUTHORIZED")


def ledger_guard(
    keys: Mapping[str, Sequence[Secret]],
) -> Callable[[Request, Route | None], None]:
    """Return the ledger port's guard: a bearer token or an ``x-admin-key``, either suffices.

    ``keys`` are the valid ones of each security scheme. Those of ``LEDGER_ADMIN`` open every route,
    the others only the routes that name their scheme in ``scopes``; what is no route is the
    admin's. The guard raises ClawsettleError LEDGER_ADMIN_KEY_MISSING where no key at all would
    open a route, CallerError UNAUTHORIZED when nothing offered does.

    Source: ledger-api contract section 1; L21, L22.
    """

    def guard(request: Request, route: Route | None) -> None:
        schemes = (LEDGER_ADMIN, *(route.scopes if route else ()))
        valid = [key for scheme in schemes for key in keys[scheme]]
        if not valid:
            raise ClawsettleError(
                "the ledger has no admin key configured", code="LEDGER_ADMIN_KEY_MISSING"
            )
        offered = (bearer_token(request), request.headers.get("x-admin-key", "").strip())
        if not any([matches_any(key, valid) for key in offered if key]):  # noqa: C419 - no leaving early
            raise CallerError("the ledger's key is missing or wrong", code="UNAUTHORIZED")

    return guard
