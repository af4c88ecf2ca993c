"""Reading the fields of a request body: one meaning and one error for each kind of field.

Every reader raises CallerError INVALID_REQUEST for a value that is missing or none of its kind.
Source: ledger-api contract sections 4, 6, 9 and 13 (L19).
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import TypeVar

from clawsettle.domain.errors import CallerError
from clawsettle.domain.money import minor_from_digits

TEXT_MAX = 255
KEY_MAX = 512
DEPTH_MAX = 100
_SURROGATE = re.compile("[\ud800-\udfff]")
W = TypeVar("W", bound=StrEnum)


def body_object(body: object, name: str = "the body") -> Mapping[str, object]:
    """Return ``body`` when it is a JSON object."""
    if not isinstance(body, dict):
        raise CallerError(f"{name} is not a JSON object")
    return body


def required_text(body: Mapping[str, object], name: str, most: int = TEXT_MAX) -> str:
    """Return a text of 1 to ``most`` characters, trimmed."""
    value = body.get(name)
    trimmed = value.strip() if isinstance(value, str) else ""
    if not 0 < len(trimmed) <= most:
        raise CallerError(f"{name} must be a text of 1 to {most} characters")
    return trimmed


def optional_text(body: Mapping[str, object], name: str) -> str | None:
    """Return a trimmed text; None when it is blank or no text, as the contract has it."""
    value = body.get(name)
    trimmed = value.strip() if isinstance(value, str) else ""
    if len(trimmed) > TEXT_MAX:
        raise CallerError(f"{name} has at most {TEXT_MAX} characters")
    return trimmed or None


def one_of(body: Mapping[str, object], name: str, words: type[W]) -> W:
    """Return the word of a closed set, which is matched exactly."""
    value = body.get(name)
    if not isinstance(value, str) or value not in list(words):
        raise CallerError(f"{name} must be one of {', '.join(words)}")
    return words(value)


def amount(body: Mapping[str, object], name: str = "amount_minor") -> int:
    """Return minor units from a digit string; JSON numbers are no amounts."""
    value = body.get(name)
    minor = minor_from_digits(value.strip()) if isinstance(value, str) else None
    if minor is None:
        raise CallerError(f"{name} must be a digit string from 1 to 2**63-1")
    return minor


def optional_object(body: Mapping[str, object], name: str) -> Mapping[str, object] | None:
    """Return an object; None only when it is absent: null is refused."""
    value = body.get(name)
    if name in body and not isinstance(value, dict):
        raise CallerError(f"{name} must be an object")
    return value if isinstance(value, dict) else None


def refuse_unstorable(value: object, rendered: str) -> None:
    """Refuse what PostgreSQL does not keep; ``rendered`` is the JSON text of ``value``.

    The port's JSON reader lets none of it in, another caller might.
    """
    if _is_suspect(rendered) and not _is_storable(value):
        raise CallerError(
            f"no U+0000, no lone surrogates, no NaN, no nesting beyond {DEPTH_MAX} levels"
        )


def _is_suspect(text: str) -> bool:
    """Whether JSON text could hold what is not storable; the walk that tells is for the few."""
    return (
        not text.isascii()
        or any(word in text for word in ("\\u0000", "NaN", "Infinity"))
        or text.count("[") + text.count("{") > DEPTH_MAX
    )


def _is_storable(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX + 1):
        if not all(map(_is_storable_alone, level)):
            return False
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return True
        level = [child for container in containers for child in _children(container)]
    return False


def _is_storable_alone(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not _SURROGATE.search(value)
    return not isinstance(value, float) or isfinite(value)


def _children(container: dict[str, object] | list[object]) -> list[object]:
    return [*container, *container.values()] if isinstance(container, dict) else container
