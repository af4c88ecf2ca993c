"""Money: whole minor units of one currency, never a float.

Amounts are ``int`` inside and canonical decimal text outside (no sign, no leading zero, no
exponent). They fit PostgreSQL's ``bigint``, so nothing is ever rounded or wrapped on its way.
"""

import re

MINOR_MAX = 2**63 - 1
"""The largest amount and the largest balance, in minor units (what a ``bigint`` holds)."""

_FLOAT_EXACT_MAX = 2**53
_DIGITS = re.compile(r"[0-9]+\Z")
_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_DIGITS_MAX = 64


def minor_from_digits(text: str) -> int | None:
    """Read ASCII digits as minor units; None unless 1..MINOR_MAX.

    Leading zeros are accepted and mean nothing. The length is checked before the digits are
    converted, so a hostile text costs nothing.
    """
    return balance_from_digits(text) or None


def balance_from_digits(text: str) -> int | None:
    """Read ASCII digits as a balance in minor units; None unless 0..MINOR_MAX."""
    if len(text) > _DIGITS_MAX or not _DIGITS.match(text):
        return None
    minor = int(text)
    return minor if minor <= MINOR_MAX else None


def minor_from_json(value: object) -> int | None:
    """Read a JSON number or digit string as minor units; None unless a whole 1..MINOR_MAX.

    ``100.0`` and ``1e2`` are whole and count as 100. A number that a double cannot hold exactly
    (2**53 and more, written with a point or an exponent, or beyond 64 bits) is refused, because
    the JSON reader has already rounded it.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return _bounded(value)
    if isinstance(value, float):
        exact = value.is_integer() and abs(value) < _FLOAT_EXACT_MAX
        return _bounded(int(value)) if exact else None
    if isinstance(value, str):
        return minor_from_digits(value)
    return None


def currency_code(value: object) -> str | None:
    """Trim and upper-case a currency; None unless it is three letters A-Z."""
    if not isinstance(value, str):
        return None
    code = value.strip()
    # Letters that only upper-case to ASCII, such as the long s, are no currency's.
    return code.upper() if code.isascii() and _CURRENCY.match(code.upper()) else None


def _bounded(minor: int) -> int | None:
    return minor if 0 < minor <= MINOR_MAX else None
