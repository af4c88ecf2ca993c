"""What Stripe's answers come to: its objects, read strictly, and its errors, told apart.

An error is a refusal only where Stripe says for certain that it has not acted and that asking again
changes nothing for this payout: 400, 402 or 404 with Stripe's own error object, and 403 for an
account that is not, or no longer, connected. Everything else is unknown:

- a timeout, a broken connection, 5xx, and what cannot be read: Stripe may have acted. A 500 is kept
  under its idempotency key and told again for a day, whatever happened.
- 409 and 429, and whatever Stripe marks with ``Stripe-Should-Retry: true``: it has not acted, but
  another time it will.
- 401, other 403, and the codes of a key or mode that does not fit: nothing was done, and what has
  to change is our configuration. No payout may be lost to that.
- an idempotency key that was used with other parameters: what was done under it must be looked at.

``balance_insufficient`` is a refusal, although a top-up of the platform's balance would cure it:
no money has moved, Stripe keeps the refusal under the key for a day, and an account's money is
better free again than locked for as long as nobody tops up.

Source: payouts contract sections 6 and 11 (19, 20); new.
"""

from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime

import stripe
import structlog
from attrs import frozen

from clawsettle.clients.http_transport import NoAnswer
from clawsettle.domain.errors import ProviderError
from clawsettle.domain.providers import (
    Declined,
    PayoutOrder,
    ProviderPayout,
    ProviderStatus,
    Sent,
    Unanswered,
)

_log = structlog.get_logger(__name__)

_REFUSING_TYPES = frozenset({"card_error", "invalid_request_error"})
_REFUSING_STATUSES = frozenset({400, 402, 404})
_ACCOUNT_GONE = (403, "account_invalid")
_OF_THE_MOMENT = frozenset({"idempotency_key_in_use", "lock_timeout", "rate_limit"})
_OF_OUR_CONFIGURATION = frozenset(
    {
        "api_key_expired",
        "livemode_mismatch",
        "platform_account_required",
        "platform_api_key_expired",
        "secret_key_required",
        "tls_version_unsupported",
    }
)

Json = Mapping[str, object]


class Failed(Exception):
    """A call came to nothing that can be used; ``outcome`` says what that means."""

    def __init__(self, outcome: Declined | Unanswered) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome

    @property
    def unanswered(self) -> Unanswered:
        """Return what it means for a question: a refused one is not answered either."""
        return Unanswered(_why_unanswered(self.outcome), self.outcome.http_status)

    @property
    def error(self) -> ProviderError:
        """Return it as an error that is safe to show; it is retryable unless Stripe refused."""
        if isinstance(self.outcome, Declined):
            return ProviderError("Stripe refused", details={"provider_code": self.outcome.code})
        return NoAnswer(self.outcome.message, self.outcome.http_status)


@frozen
class StripeTransfer:
    """A transfer to a connected account; amounts in minor units, ``currency`` in capitals.

    ``payout_id`` is what its metadata says. ``reversal_id`` is there once it is reversed whole.
    """

    transfer_id: str
    payout_id: str | None
    connect_account_id: str
    amount_minor: int
    currency: str
    reversal_id: str | None


async def answer_of(call: Awaitable[stripe.StripeObject]) -> Json:
    """Return the object that a call of the SDK comes to. Raises: Failed."""
    try:
        answer = await call
    except stripe.StripeError as error:
        raise Failed(_outcome(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The SDK relies on the shape of what it is sent.
        raise Failed(Unanswered("Stripe's answer has no shape that is known")) from error
    if not isinstance(answer, stripe.StripeObject):
        raise Failed(Unanswered("Stripe's answer is no object"))
    return answer.to_dict()


def read_transfer(answer: Json) -> StripeTransfer:
    """Read a transfer. Raises: Failed, as an unanswered call, when something is missing."""
    return StripeTransfer(
        text(answer, "id"),
        _metadata(answer, "payout_id"),
        text(answer, "destination"),
        _whole(answer, "amount"),
        text(answer, "currency").upper(),
        _reversal_id(answer) if answer.get("reversed") is True else None,
    )


def read_payout(answer: Json, connect_account_id: str) -> ProviderPayout:
    """Read a payout of a connected account. Raises: Failed, as ``read_transfer`` does."""
    status = text(answer, "status")
    if status not in set(ProviderStatus):
        raise Failed(Unanswered("Stripe's answer has a status that is not known"))
    return ProviderPayout(
        text(answer, "id"),
        _metadata(answer, "payout_id"),
        connect_account_id,
        _whole(answer, "amount"),
        text(answer, "currency").upper(),
        ProviderStatus(status),
        _instant(answer, "created"),
        _metadata(answer, "transfer_id"),
    )


def check_ordered(found: StripeTransfer | ProviderPayout, order: PayoutOrder) -> None:
    """Return when an object is the order's own, amount and account included. Raises: Failed."""
    said = (found.payout_id, found.connect_account_id, found.amount_minor, found.currency)
    ordered = (order.payout_id, order.connect_account_id, order.amount_minor, order.currency)
    if said != ordered:
        raise Failed(Unanswered("Stripe has something else than what was ordered"))


def sent(payout: ProviderPayout, transfer_id: str | None) -> Sent:
    """Return what a payout at Stripe means for its order."""
    return Sent(payout.external_payout_id, transfer_id or payout.transfer_id, payout.status)


def text(answer: Json, name: str) -> str:
    """Return a text that must be there. Raises: Failed, as an unanswered call."""
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise Failed(Unanswered(f"Stripe's answer has no {name}"))
    return value


def items(answer: Json, name: str = "data") -> list[Json]:
    """Return a list of objects that must be there. Raises: Failed, as an unanswered call."""
    value = answer.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Failed(Unanswered(f"Stripe's answer has no {name}"))
    return value


def part(answer: Json, name: str) -> Json:
    """Return an object within an object; an empty one where there is none."""
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def _whole(answer: Json, name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise Failed(Unanswered(f"Stripe's answer has no {name}"))
    return value


def _instant(answer: Json, name: str) -> datetime:
    try:
        return datetime.fromtimestamp(_whole(answer, name), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise Failed(Unanswered(f"Stripe's answer has no usable {name}")) from error


def _metadata(answer: Json, name: str) -> str | None:
    value = part(answer, "metadata").get(name)
    return value if isinstance(value, str) else None


def _reversal_id(answer: Json) -> str:
    reversals = items(part(answer, "reversals"))
    return text(reversals[0] if reversals else {}, "id")


def _outcome(error: stripe.StripeError) -> Declined | Unanswered:
    body = error.json_body if isinstance(error.json_body, dict) else {}
    said = part(body, "error")
    kind, status = said.get("type"), error.http_status
    code = said.get("code") or kind
    _log.warning(
        "stripe_call_failed",
        http_status=status,
        code=code,
        request_id=error.request_id,
        error=error.user_message,
    )
    refused = (
        kind in _REFUSING_TYPES
        and (status in _REFUSING_STATUSES or (status, code) == _ACCOUNT_GONE)
        and code not in _OF_THE_MOMENT | _OF_OUR_CONFIGURATION
        and (error.headers or {}).get("stripe-should-retry") != "true"
    )
    if refused:
        return Declined(str(code), str(error), status)
    if isinstance(error, stripe.APIConnectionError):
        return Unanswered(f"no answer from Stripe: {error.user_message}", status)
    if kind == "idempotency_error":
        return Unanswered("Stripe knows the idempotency key for another request", status)
    return Unanswered(f"Stripe answered with HTTP status {status}", status)


def _why_unanswered(outcome: Declined | Unanswered) -> str:
    if isinstance(outcome, Declined):
        return f"Stripe does not say: {outcome.code}"
    return outcome.message
