"""Strict JSON in: what this module lets through, PostgreSQL and the domain can keep.

Source: webhook-forwarding contract section 13 (porting traps) and section 14 W13.
"""

from typing import Final, NoReturn

import orjson

from clawsettle.domain.errors import CallerError

DEPTH_MAX: Final = 100
"""Nested arrays and objects; well below what orjson writes (254) and Python recurses (1,000)."""

# A raw NUL is no JSON, so a string can hold one only where these bytes stand.
_NUL_ESCAPE: Final = b"\\u0000"


def parse_json(raw: bytes) -> object:
    """Return the value of ``raw``, one whole JSON text in UTF-8.

    Integers within 64 bits are exact. Wider ones arrive as ``float``, which the domain refuses
    for money (any float of 2**53 or more), as it refuses fractions. Of a key given twice the last
    value counts.

    Raises ``CallerError`` (``INVALID_REQUEST``, no details) for an empty text, trailing garbage,
    invalid UTF-8, a byte order mark, NaN or Infinity, numbers beyond a double, lone surrogates,
    nesting beyond ``DEPTH_MAX``, and strings or keys that contain U+0000, which PostgreSQL cannot
    keep.

    Source: webhook-forwarding contract section 13.
    """
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        _refuse("the body is not valid JSON")
    # The walk is for the few texts that could fail it; counting brackets costs next to nothing.
    if _NUL_ESCAPE in raw or raw.count(b"[") + raw.count(b"{") > DEPTH_MAX:
        _check(value)
    return value


def parse_body(raw: bytes) -> object:
    """Return the value of ``raw``; an empty object for a blank body. Raises: as ``parse_json``.

    Source: payouts contract section 2.
    """
    return parse_json(raw) if raw.strip() else {}


def _check(value: object) -> None:
    """Refuse U+0000 in any string or key of ``value``, and nesting beyond ``DEPTH_MAX``."""
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        if any(isinstance(item, str) and "\0" in item for item in level):
            _refuse("the body contains U+0000, which cannot be stored")
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [child for container in containers for child in _children(container)]
    _refuse(f"the body is nested deeper than {DEPTH_MAX} levels")


def _children(container: dict[str, object] | list[object]) -> list[object]:
    if isinstance(container, dict):
        return [*container, *container.values()]
    return container


def _refuse(text: str) -> NoReturn:
    # The parser's own message quotes the body, so it stays here.
    raise CallerError(text) from None
