"""The key by which a caller's repetition of a request is known again.

Source: payouts contract section 2, netting contract section 2, loss-events contract section 1.
"""

from collections.abc import Mapping

from clawsettle.domain.errors import CallerError

KEY_MAX = 255
"""Characters of a caller's idempotency key."""


def parse_key(headers: Mapping[str, str]) -> str:
    """Return the caller's idempotency key; ``headers`` have lower-case names.

    The second header counts only where the first is absent, not where it is empty.
    Raises: CallerError INVALID_REQUEST with ``details.field``, when blank or longer than KEY_MAX.
    """
    given = headers.get("idempotency-key", headers.get("x-idempotency-key", ""))
    key = given.strip()
    if not 0 < len(key) <= KEY_MAX:
        raise CallerError(
            f"idempotency_key must be a text of 1 to {KEY_MAX} characters",
            details={"field": "idempotency_key"},
        )
    return key
