"""What can go otherwise than it should, as data: with a call, with a delivery, with a payout.

Source: new.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from attrs import frozen

from clawsettle.sandbox.stripe_errors import API, INVALID_REQUEST, StripeError


class Effect(StrEnum):
    """How far a call gets."""

    NONE = "none"
    """It never begins, and its key stays free."""
    BEGUN = "begun"
    """It begins and ends without effect; the error is its answer for as long as its key lives."""
    DONE = "done"
    """It has its whole effect."""


class Ending(StrEnum):
    """What the caller gets to see."""

    ANSWER = "answer"
    SILENCE = "silence"
    CUT = "cut"


@frozen
class CallQuirk:
    """What happens to one call.

    It takes ``delay_s`` of the sandbox's time before it has its effect, and goes on when its caller
    has hung up. ``error`` is answered in place of the result.
    """

    effect: Effect = Effect.DONE
    ending: Ending = Ending.ANSWER
    error: StripeError | None = None
    delay_s: float = 0

    def __attrs_post_init__(self) -> None:
        unheard = self.effect is Effect.NONE and self.ending is not Ending.ANSWER
        if self.error is None and self.effect is not Effect.DONE and not unheard:
            raise ValueError("without an effect or an error there is nothing to answer")


def slow(delay_s: float) -> CallQuirk:
    """Return what lets a call take its time."""
    return CallQuirk(delay_s=delay_s)


_FAULT = StripeError(500, API, "An unknown error occurred.")
_LIMIT = StripeError(429, INVALID_REQUEST, "Too many requests.", code="rate_limit")
_UNCOVERED = StripeError(
    400, INVALID_REQUEST, "You have insufficient funds.", code="balance_insufficient"
)
_NOT_ALLOWED = StripeError(
    400, INVALID_REQUEST, "Payouts are not allowed for this account.", code="payouts_not_allowed"
)

ORDINARY = CallQuirk()
SILENT_BEFORE_ACTING = CallQuirk(Effect.NONE, Ending.SILENCE)
SILENT_AFTER_ACTING = CallQuirk(Effect.DONE, Ending.SILENCE)
CUT_BEFORE_ACTING = CallQuirk(Effect.NONE, Ending.CUT)
CUT_AFTER_ACTING = CallQuirk(Effect.DONE, Ending.CUT)
FAULT_BEFORE_ACTING = CallQuirk(Effect.BEGUN, error=_FAULT)
FAULT_AFTER_ACTING = CallQuirk(Effect.DONE, error=_FAULT)
RATE_LIMITED = CallQuirk(Effect.NONE, error=_LIMIT)
BALANCE_INSUFFICIENT = CallQuirk(Effect.BEGUN, error=_UNCOVERED)
PAYOUTS_NOT_ALLOWED = CallQuirk(Effect.BEGUN, error=_NOT_ALLOWED)


@frozen
class DeliveryQuirk:
    """What happens to one event on its way: how often it is sent, when, and after which."""

    copies: int = 1
    delay_s: float = 0
    after_next: bool = False


def late(delay_s: float) -> DeliveryQuirk:
    """Return what keeps an event back for some of the sandbox's time."""
    return DeliveryQuirk(delay_s=delay_s)


PROMPT = DeliveryQuirk()
DUPLICATED = DeliveryQuirk(copies=2)
MISSING = DeliveryQuirk(copies=0)
OVERTAKEN = DeliveryQuirk(after_next=True)


FATE_KEY = "simulate"
"""The key in a payout's metadata that chooses its fate, by the fate's name."""


class Fate(StrEnum):
    """What becomes of a payout by itself."""

    PAID = "paid"
    FAILED = "failed"
    PAID_THEN_FAILED = "paid_then_failed"
    CANCELED = "canceled"
    SILENT = "silent"

    @property
    def statuses(self) -> tuple[str, ...]:
        """Return the statuses that a pending payout reaches, one after another."""
        return _STATUSES[self]


_STATUSES: Mapping[Fate, tuple[str, ...]] = {
    Fate.PAID: ("in_transit", "paid"),
    Fate.FAILED: ("in_transit", "failed"),
    Fate.PAID_THEN_FAILED: ("in_transit", "paid", "failed"),
    Fate.CANCELED: ("canceled",),
    Fate.SILENT: (),
}


Quirk = TypeVar("Quirk")


class Script(Generic[Quirk]):
    """Quirks that wait for the calls, or the events, that they are meant for; each is for one."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Mapping[str, str], Quirk]] = []

    def add(self, name: str, *quirks: Quirk, metadata: Mapping[str, str] | None = None) -> None:
        """Let the next ones of this name go these ways, one after another.

        With ``metadata``, only those that say all of it, among whatever else.
        """
        self._waiting += [(name, metadata or {}, quirk) for quirk in quirks]

    def take(self, name: str, metadata: Mapping[str, str]) -> Quirk | None:
        """Return the first quirk that is meant for this one, and forget it."""
        for line in self._waiting:
            wanted, said, quirk = line
            if wanted == name and said.items() <= metadata.items():
                self._waiting.remove(line)
                return quirk
        return None
