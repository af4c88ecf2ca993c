"""What a daemon without a payout provider answers.

Source: new.
"""

from typing import TypeVar

from clawsettle.domain.errors import ClawsettleError

T = TypeVar("T")


def configured(actor: T | None) -> T:
    """Return an actor that works with the provider.

    Raises: ClawsettleError DEPENDENCY_NOT_CONFIGURED when there is none.
    """
    if actor is None:
        raise ClawsettleError(
            "no payout provider is configured",
            code="DEPENDENCY_NOT_CONFIGURED",
            details={"field": "payouts.provider"},
        )
    return actor
