"""How the stand-ins of risk targets are asked, and how they answer.

A key answers its first request again, for as long as the stand-in is there, and no other one: a
repetition is the same to the byte. What was refused is not kept: it may succeed later.
Source: loss-events 5.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen

Json = dict[str, Any]
_AMOUNT = re.compile(r"[0-9]{1,30}")
_NEWEST_MAX = 100


class Refused(Exception):
    """Raised by a stand-in that does not do what it is asked for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}")
        self.said = Said(status, {"error": code, "message": message})


@frozen
class Said:
    """A status and a JSON body."""

    status: int
    body: Json


@frozen
class Asked:
    """A call whose credentials were in order; the key is the header's and the body's.

    ``digest`` is over the path and the bytes of the body.
    """

    path: str
    key: str
    body: Mapping[str, Any]
    digest: str

    def text(self, name: str) -> str:
        """Return a field that must be a text with something in it. Raises: Refused."""
        value = self.body.get(name)
        if not isinstance(value, str) or not value.strip():
            raise Refused(400, "INVALID_REQUEST", f"{name} must be a text")
        return value

    def amount_minor(self) -> int:
        """Return the amount, in minor units. Raises: Refused."""
        text = self.text("amount_minor")
        if not _AMOUNT.fullmatch(text):
            raise Refused(400, "INVALID_REQUEST", "amount_minor must be digits")
        return int(text)


class StandIn(Protocol):
    """A target that keeps its state in memory."""

    def answer(self, asked: Asked) -> Said:
        """Do what is asked for. Raises: Refused."""
        ...

    def seed(self, given: Mapping[str, Any]) -> None:
        """Set a part of the state to what is given; raises ValueError and changes nothing else."""
        ...

    def state(self) -> Json:
        """Show the state; of what there may be much, the newest."""
        ...


@define(eq=False)
class KeyedAnswers:
    """What each idempotency key was first used for, and what was answered then."""

    _kept: dict[str, tuple[str, Json]] = field(factory=dict, init=False)

    def once(self, asked: Asked, act: Callable[[], Json]) -> Said:
        """Answer 201 with what ``act`` returns, or 200 with what it returned for this key.

        Raises: Refused when the key was used for another request, and as ``act`` does.
        """
        if asked.key in self._kept:
            digest, body = self._kept[asked.key]
            if digest != asked.digest:
                raise Refused(409, "IDEMPOTENCY_CONFLICT", "the key was used for another request")
            return Said(200, {**body, "replay": True})
        body = act()
        self._kept[asked.key] = (asked.digest, body)
        return Said(201, {**body, "replay": False})


def newest(entries: Mapping[str, Any]) -> Json:
    """Return the newest of what is kept in the order in which it came."""
    return dict(list(entries.items())[-_NEWEST_MAX:])
