"""What a caller may ask of payouts: creating one, with the ids and the hash that follow from it.

Source: payouts contract sections 2, 3 and 6; 11 (16 to 18).
"""

from collections.abc import Mapping

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError
from clawsettle.domain.fields import TEXT_MAX, body_object, refuse_unstorable
from clawsettle.domain.money import minor_from_digits


@frozen
class PayoutRequest:
    """A validated order of a payout, its amount in minor units; ``metadata`` is None when absent.

    Leading zeros of an amount mean nothing, so ``01200`` and ``1200`` are one request.
    """

    idempotency_key: str
    account_id: str
    amount_minor: int
    currency: str
    metadata: Mapping[str, object] | None

    @property
    def payout_id(self) -> str:
        """Return the id that the payout has, which follows from its key."""
        return f"pout_{sha256_hex(f'pout:{self.idempotency_key}')[:28]}"

    def request_hash(self, connect_account_id: str) -> str:
        """Return what two requests under one key are compared by."""
        return sha256_hex(
            canonical_json(
                {
                    "account_id": self.account_id,
                    "amount_minor": str(self.amount_minor),
                    "currency": self.currency,
                    "connect_account_id": connect_account_id,
                    "metadata": self.metadata or {},
                }
            )
        )


def parse_payout(key: str, body: object) -> PayoutRequest:
    """Validate an order in the contract's order of fields.

    Raises: CallerError INVALID_REQUEST with ``details.field`` at the first bad one,
    UNSUPPORTED_CURRENCY with ``details.currency``.
    """
    body = body_object(body)
    account_id = required(body, "account_id")
    digits = required(body, "amount_minor")
    currency = required(body, "currency").upper()
    if currency != "USD":
        raise CallerError(
            "payouts are in USD only", code="UNSUPPORTED_CURRENCY", details={"currency": currency}
        )
    metadata = body.get("metadata")
    if "metadata" in body and not isinstance(metadata, dict):
        raise _bad("metadata", "must be an object")
    amount_minor = minor_from_digits(digits)
    if amount_minor is None:
        raise _bad("amount_minor", "must be a digit string from 1 to 2**63-1")
    kept = metadata if isinstance(metadata, dict) else None
    refuse_unstorable(kept, canonical_json(kept or {}))
    return PayoutRequest(key, account_id, amount_minor, currency, kept)


def required(body: Mapping[str, object], name: str) -> str:
    """Return a trimmed text. Raises: CallerError INVALID_REQUEST with ``details.field``."""
    value = body.get(name)
    text = value.strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= TEXT_MAX:
        raise _bad(name, f"must be a text of 1 to {TEXT_MAX} characters")
    return text


def _bad(field: str, message: str) -> CallerError:
    return CallerError(f"{field} {message}", details={"field": field})
