"""The one table from an error to what a caller sees of it.

Only this module knows HTTP statuses. A deliberate error keeps its text and details; everything
else, and every fault of ours, becomes a fixed text with a correlation id, so that no exception
text leaves the process.

Source: webhook-forwarding contract sections 1 and 12, ledger-api contract sections 1 and 10,
payouts contract section 9, netting contract section 8.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from clawsettle.domain.errors import (
    CallerError,
    ClawsettleError,
    ConfigError,
    ConflictError,
    NotFoundError,
    Overloaded,
    ProviderError,
    StorageError,
)

STATUS_BY_CODE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "INVALID_REQUEST": 400,
        "INVALID_DID": 400,
        "INVALID_ACCOUNT": 400,
        "INVALID_CURSOR": 400,
        "UNSUPPORTED_CURRENCY": 400,
        "MISSING_IDEMPOTENCY_KEY": 400,
        "RISK_HOLD_RELEASE_FAILED": 400,
        "SIGNATURE_INVALID": 401,
        "UNAUTHORIZED": 401,
        "NOT_FOUND": 404,
        "DEAD_LETTER_NOT_FOUND": 404,
        "REQUEST_TIMEOUT": 408,
        "CONFLICT": 409,
        "IDEMPOTENCY_KEY_REUSED": 409,
        "IDEMPOTENCY_CONFLICT": 409,
        "DUPLICATE_CONFLICT": 409,
        "INVALID_STATUS_TRANSITION": 409,
        "CONCURRENT_INGESTION_CONFLICT": 409,
        "SOURCE_LOSS_EVENT_ALREADY_BOUND": 409,
        "REFUND_EXCEEDS_PAYIN": 409,
        "CREATE_FAILED": 409,
        "LOSS_EVENT_NOT_READY": 409,
        "PAYLOAD_TOO_LARGE": 413,
        "LIVEMODE_MISMATCH": 422,
        "INVALID_EVENT_PAYLOAD": 422,
        "PAYOUT_DESTINATION_NOT_CONFIGURED": 422,
        "INSUFFICIENT_FUNDS": 422,
        "BALANCE_LIMIT_EXCEEDED": 422,
        "INTERNAL_ERROR": 500,
        "PROVIDER_ERROR": 502,
        "LEDGER_INGEST_FAILED": 502,
        "LEDGER_TIMEOUT": 504,
        "STRIPE_API_ERROR": 502,
        "STRIPE_TRANSFER_FAILED": 502,
        "DEPENDENCY_NOT_CONFIGURED": 503,
        "STRIPE_NOT_CONFIGURED": 503,
        "LEDGER_ADMIN_KEY_MISSING": 503,
        "LEDGER_ADMIN_KEY_CONFIG_INVALID": 503,
        "OVERLOADED": 503,
        "STORAGE_UNAVAILABLE": 503,
    }
)
"""HTTP status of each stable code; a route may answer another (``Route.statuses``).

``INSUFFICIENT_FUNDS`` is 422 on the ledger's settlements alone.
"""

TRANSFER_STATUSES: Final[Mapping[str, int]] = MappingProxyType({"INSUFFICIENT_FUNDS": 400})
"""What the ledger's transfers and holds answer otherwise."""

STATUS_BY_CLASS: Final[tuple[tuple[type[ClawsettleError], int], ...]] = (
    (NotFoundError, 404),
    (CallerError, 400),
    (ConflictError, 409),
    (ProviderError, 502),
    (StorageError, 503),
    (Overloaded, 503),
    (ConfigError, 503),
)
"""Where a code is not in the table: the first class that fits, else 500."""

HEADERS_BY_CODE: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "OVERLOADED": {"retry-after": "1"},
        "STORAGE_UNAVAILABLE": {"retry-after": "1"},
        # What is left of the body would be read as the next request.
        "PAYLOAD_TOO_LARGE": {"connection": "close"},
        "REQUEST_TIMEOUT": {"connection": "close"},
    }
)
"""Headers that belong to a code; ``retry-after`` is in seconds."""

_OPAQUE_TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "STORAGE_UNAVAILABLE": "the service cannot reach its storage; try again later",
        "DEPENDENCY_NOT_CONFIGURED": "the service is not configured for this request",
    }
)
_OPAQUE_TEXT: Final = "internal error; the correlation id finds it in the service's log"


@attrs.frozen
class ErrorAnswer:
    """What a caller gets for an error.

    ``envelope`` is the JSON body, without ``details`` where there are none. ``opaque`` says that
    the error's own text was withheld, so that it has to be logged to be found again.

    Source: webhook-forwarding contract section 1.
    """

    status: int
    envelope: Mapping[str, object]
    headers: Mapping[str, str]
    opaque: bool


def error_status(error: ClawsettleError, statuses: Mapping[str, int] | None = None) -> int:
    """Return the HTTP status of ``error``: by the route's own ``statuses``, its code, its class.

    Source: webhook-forwarding contract section 12.
    """
    if statuses is not None and error.code in statuses:
        return statuses[error.code]
    if error.code in STATUS_BY_CODE:
        return STATUS_BY_CODE[error.code]
    return next((status for kind, status in STATUS_BY_CLASS if isinstance(error, kind)), 500)


def transfer_status(error: ClawsettleError) -> int:
    """Return the HTTP status of ``error`` on the ledger's transfers; see ``error_status``."""
    return error_status(error, TRANSFER_STATUSES)


def error_answer(
    error: Exception, *, correlation_id: str, statuses: Mapping[str, int] | None = None
) -> ErrorAnswer:
    """Return what the caller sees of ``error``; never its text unless it is meant for callers.

    Texts of storage and configuration errors, of anything that answers 500, and of every exception
    that is not a ``ClawsettleError`` are withheld; ``details.correlation_id`` then names the log
    line. The details of storage and configuration errors are withheld, too. Raises nothing.

    Source: webhook-forwarding contract section 1; section 14 W20 for the opaque texts.
    """
    if not isinstance(error, ClawsettleError):
        error = ClawsettleError("unexpected")
    status = error_status(error, statuses)
    of_ours = isinstance(error, StorageError | ConfigError)
    opaque = of_ours or status == STATUS_BY_CODE["INTERNAL_ERROR"]
    details = {} if of_ours else dict(error.details)
    text = error.message
    if opaque:
        details["correlation_id"] = correlation_id
        text = _OPAQUE_TEXTS.get(error.code, _OPAQUE_TEXT)
    return ErrorAnswer(
        status, envelope(text, error.code, details), HEADERS_BY_CODE.get(error.code, {}), opaque
    )


def envelope(
    text: str, code: str, details: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the error body; ``details`` is absent, never null, when there are none.

    Source: webhook-forwarding contract section 1.
    """
    body: dict[str, object] = {"error": text, "code": code}
    if details:
        body["details"] = dict(details)
    return body
