"""What can go otherwise than it should with a call of a risk target, as data.

Source: new.
"""

from enum import StrEnum
from typing import Any

from attrs import asdict, converters, define, field, frozen, validators


class Ending(StrEnum):
    """What the caller gets to see."""

    OWN = "own"
    """What the target says."""
    REFUSAL = "refusal"
    """A refusal with a status and a code; with the status 200 it is a lie."""
    PAGE = "page"
    """An HTML page, as a proxy or a wrong address has it."""
    SILENCE = "silence"
    CUT = "cut"


@frozen(kw_only=True)
class Fault:
    """What happens to a call.

    It takes ``delay_s`` before it has its effect, if it has one, and goes on when its caller has
    hung up. With an ending of its own it has one; with another it has one if it ``acts``.
    ``status``, ``code`` and ``retry_after_s`` are for a refusal, the status for a page, too.
    Raises: ValueError or TypeError for what cannot be.
    """

    ending: Ending = field(converter=Ending)
    acts: bool = field(default=False, validator=validators.instance_of(bool))
    delay_s: float = field(default=0.0, converter=float, validator=validators.ge(0))
    status: int = field(default=500, validator=[validators.ge(200), validators.lt(600)])
    code: str = field(default="INTERNAL_ERROR", validator=validators.instance_of(str))
    retry_after_s: int | None = field(
        default=None,
        converter=converters.optional(int),
        validator=validators.optional(validators.ge(0)),
    )

    @property
    def has_effect(self) -> bool:
        """Return whether the target does what it is asked for."""
        return self.acts or self.ending is Ending.OWN


def refused(status: int, code: str = "INTERNAL_ERROR", *, acts: bool = False) -> Fault:
    """Return what has a call refused, or, if it ``acts``, done and then called a failure."""
    return Fault(ending=Ending.REFUSAL, status=status, code=code, acts=acts)


def throttled(retry_after_s: int | None = None) -> Fault:
    """Return what has callers come back later."""
    return Fault(
        ending=Ending.REFUSAL, status=429, code="RATE_LIMITED", retry_after_s=retry_after_s
    )


def slow(delay_s: float) -> Fault:
    """Return what lets a call take its time."""
    return Fault(ending=Ending.OWN, delay_s=delay_s)


ORDINARY = Fault(ending=Ending.OWN)
SILENT = Fault(ending=Ending.SILENCE)
SILENT_AFTER_ACTING = Fault(ending=Ending.SILENCE, acts=True)
CUT = Fault(ending=Ending.CUT)
CUT_AFTER_ACTING = Fault(ending=Ending.CUT, acts=True)
LYING = refused(200)
PAGE = Fault(ending=Ending.PAGE, status=200)


@define(eq=False)
class FaultScript:
    """The faults that wait for calls, one after another."""

    _lines: list[tuple[Fault, int | None]] = field(factory=list, init=False)

    def add(self, *faults: Fault, calls: int | None = None) -> None:
        """Let each of these happen to so many calls, or without a number until it is cleared."""
        self._lines += [(fault, calls) for fault in faults]

    def clear(self) -> None:
        """Let all further calls go as they should."""
        self._lines.clear()

    def take(self) -> Fault:
        """Return what happens to the next call, which is under way now."""
        if not self._lines:
            return ORDINARY
        fault, calls = self._lines[0]
        if calls is not None:
            self._lines[:1] = [(fault, calls - 1)] if calls > 1 else []
        return fault

    def view(self) -> list[dict[str, Any]]:
        """Show what waits, and for how many calls."""
        return [{**asdict(fault), "calls": calls} for fault, calls in self._lines]
