"""Instants on the wire: UTC, exactly three fractional digits and ``Z``."""

import math
from datetime import UTC, datetime
from functools import lru_cache

_UNIX_MAX = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


@lru_cache(maxsize=64)  # a batch renders its one instant many times for each of its events
def iso_instant(at: datetime) -> str:
    """Render an aware instant as ``2025-02-11T16:06:40.000Z``, cut to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def to_millisecond(at: datetime) -> datetime:
    """Cut an instant to the millisecond, so that what is stored is what was rendered."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def parse_instant(text: str | None) -> datetime | None:
    """Read an ISO 8601 instant; None when absent, malformed or without a zone."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def utc_instant(text: str) -> datetime | None:
    """Read an ISO 8601 date or instant as UTC, cut to the millisecond; None when it is neither.

    A date is its midnight, and what names no zone is UTC. Only days that the calendar has exist.
    Source: payouts contract sections 6 and 11 (14, 16).
    """
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # a zone can lead out of the years there are
        return None
    return to_millisecond(at)


def iso_from_unix(value: object) -> str | None:
    """Render Unix seconds (floored) as an instant; None unless finite, positive and up to 9999.

    Source: webhook-forwarding contract section 7.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value <= _UNIX_MAX or not math.isfinite(value):
        return None
    return iso_instant(datetime.fromtimestamp(math.floor(value), UTC))
