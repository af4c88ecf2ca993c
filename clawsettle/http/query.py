"""What list routes read from a query: a word of a closed set, a page's size, where it begins.

An empty parameter counts as absent. A cursor names the last row of the page before by its instant
and id, so a page costs the same wherever it begins, and rows that come or go meanwhile neither
repeat nor hide others.
Source: ledger-api contract section 5.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from clawsettle.domain.errors import CallerError
from clawsettle.domain.instants import iso_instant, parse_instant
from clawsettle.http.routing import Parameter, Request

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
PAGE_PARAMETERS = (
    Parameter("limit", "query", f"1 to {LIMIT_MAX}, default {LIMIT_DEFAULT}"),
    Parameter("cursor", "query", "next_cursor of the page before"),
)
"""What every list route takes."""

_LEADING_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,18})")
W = TypeVar("W", bound=StrEnum)


def read_word(request: Request, name: str, words: Iterable[W]) -> W | None:
    """Return the word that the parameter names; None when it is absent.

    Raises: CallerError INVALID_REQUEST when it is none of ``words``.
    """
    given = request.query.get(name)
    if not given:
        return None
    known = {str(word): word for word in words}
    if given not in known:
        raise CallerError(f"{name} must be one of {', '.join(known)}")
    return known[given]


def read_limit(request: Request) -> int:
    """Read a leading integer; what is none means the default, and the range is clamped."""
    number = leading_integer(request.query.get("limit", ""))
    return LIMIT_DEFAULT if number is None else min(max(number, 1), LIMIT_MAX)


def leading_integer(text: str) -> int | None:
    """Return the integer that a text begins with; None when it begins with none."""
    number = _LEADING_INTEGER.match(text)
    return int(number[1]) if number else None


def read_cursor(request: Request) -> tuple[datetime, str] | None:
    """Return the instant and id after which the page begins; None for the first page.

    Raises: CallerError INVALID_CURSOR for what ``write_cursor`` cannot have written.
    """
    text = request.query.get("cursor", "")
    if not text:
        return None
    instant, _, row_id = text.partition("::")
    at = parse_instant(instant)
    # Only what a list gave out: other zones could name instants no database holds.
    if not row_id or at is None or at.tzinfo is not UTC or _exact(at) != instant:
        raise CallerError("the cursor is not one this list gave out", code="INVALID_CURSOR")
    return at, row_id


def write_cursor(at: datetime, row_id: str) -> str:
    """Return the cursor of the page after the row with this instant and id."""
    return f"{_exact(at)}::{row_id}"


def _exact(at: datetime) -> str:
    """Render an instant without loss: three decimals where they do, else six."""
    if at.microsecond % 1000 == 0:
        return iso_instant(at)
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
