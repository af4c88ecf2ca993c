"""What the routes of payouts read from a query: strict numbers, a window, a word, a cursor.

Unlike the ledger's lists, a number with anything around it is refused, and a cursor is opaque. An
empty parameter counts as absent. What is wrong is named in ``details.field``.
Source: payouts contract sections 3 and 6; 11 (12, 14, 16, 22).
"""

import binascii
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from attrs import frozen

from clawsettle.domain.errors import CallerError
from clawsettle.domain.instants import iso_instant, utc_instant
from clawsettle.http.query import write_cursor
from clawsettle.http.routing import Parameter, Request

CURSOR_PARAMETER = Parameter("cursor", "query", "next_cursor of the page before")
_WHOLE = re.compile(r"[0-9]{1,18}")
W = TypeVar("W", bound=StrEnum)


@frozen
class Whole:
    """A whole number of a query: its default, its least, and its most, which larger ones mean."""

    name: str
    default: int
    least: int
    most: int

    @property
    def parameter(self) -> Parameter:
        """Return its description."""
        says = f"{self.least} to {self.most}, default {self.default}; a larger one means the most"
        return Parameter(self.name, "query", says)

    def read(self, request: Request) -> int:
        """Return the number. Raises: CallerError INVALID_REQUEST with ``details.field``."""
        given = request.query.get(self.name, "").strip()
        if not given:
            return self.default
        number = int(given) if _WHOLE.fullmatch(given) else -1
        if number < self.least:
            raise bad_parameter(self.name, f"must be a whole number from {self.least}")
        return min(number, self.most)


def bad_parameter(name: str, wanted: str) -> CallerError:
    """Return the refusal of a parameter."""
    return CallerError(f"{name} {wanted}", details={"field": name})


def read_window(request: Request) -> tuple[datetime, datetime]:
    """Return the instants ``from`` and ``to``, the first before the second.

    Raises: CallerError INVALID_REQUEST, with ``details`` as the contract has them.
    """
    given = {name: request.query.get(name, "").strip() for name in ("from", "to")}
    for name, text in given.items():
        if not text:
            raise bad_parameter(name, "is required")
    start, end = utc_instant(given["from"]), utc_instant(given["to"])
    if start is None or end is None:
        raise CallerError(
            "from and to must be ISO 8601 dates or instants", details={"fields": list(given)}
        )
    if start >= end:
        raise CallerError(
            "from must be before to", details={"from": iso_instant(start), "to": iso_instant(end)}
        )
    return start, end


def read_choice(request: Request, name: str, words: Iterable[W]) -> W | None:
    """Return the word that the parameter names; None when it is absent.

    Raises: CallerError INVALID_REQUEST with ``details.field`` when it is none of ``words``.
    """
    given = request.query.get(name, "").strip()
    known = {str(word): word for word in words}
    if given and given not in known:
        raise bad_parameter(name, f"must be one of {', '.join(known)}")
    return known.get(given)


def read_opaque_cursor(request: Request) -> tuple[datetime, str] | None:
    """Return the instant and id after which the page begins; None for the first page.

    Both base64 alphabets are read, with padding or without.

    Raises: CallerError INVALID_CURSOR.
    """
    text = request.query.get("cursor", "")
    if not text:
        return None
    digits = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        place = b64decode(digits + "=" * (-len(digits) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None
    instant, _, row_id = place.partition("::")
    at = utc_instant(instant)
    if at is None or not row_id or "\0" in row_id:
        raise _bad_cursor()
    return at, row_id


def read_row_cursor(request: Request) -> int:
    """Return the number of the row after which the page begins; 0 for the first page.

    Raises: CallerError INVALID_CURSOR.
    """
    place = read_opaque_cursor(request)
    if place is None:
        return 0
    _, number = place
    if not _WHOLE.fullmatch(number):
        raise _bad_cursor()
    return int(number)


def next_cursor(after: tuple[datetime, str] | None) -> dict[str, str]:
    """Return the cursor as a member of the answer; nothing where there is no next page."""
    return {} if after is None else {"next_cursor": write_opaque_cursor(*after)}


def write_opaque_cursor(at: datetime, row_id: str) -> str:
    """Return the cursor of the page after the row with this instant and id."""
    return urlsafe_b64encode(write_cursor(at, row_id).encode()).decode().rstrip("=")


def _bad_cursor() -> CallerError:
    return CallerError(
        "the cursor is not one this list gave out",
        code="INVALID_CURSOR",
        details={"field": "cursor"},
    )
