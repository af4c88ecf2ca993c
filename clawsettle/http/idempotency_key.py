"""How the OpenAPI document describes the headers that carry a caller's idempotency key.

Source: new.
"""

from clawsettle.domain.idempotency import KEY_MAX
from clawsettle.http.routing import Parameter


def key_headers(thing: str) -> tuple[Parameter, ...]:
    """Return the headers of a route that makes a ``thing``."""
    rule = (
        f"1 to {KEY_MAX} characters, the caller's own for each {thing}; the first header that is "
        "there counts"
    )
    return tuple(
        Parameter(name, "header", rule) for name in ("Idempotency-Key", "X-Idempotency-Key")
    )
