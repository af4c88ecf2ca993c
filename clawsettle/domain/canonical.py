"""Canonical JSON and its SHA-256: equal meaning, equal bytes, equal hash."""

import hashlib
import json
from collections.abc import Mapping

_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_AS_GIVEN = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Mapping[str, object]) -> str:
    """Render JSON with keys sorted at every level, no spaces and non-ASCII characters raw.

    Keys whose value is absent must not be in ``value``: an explicit ``null`` is a value.
    """
    return _SORTED.encode(value)


def compact_json(value: object) -> str:
    """Render JSON for keeping, with its keys in the order given."""
    return _AS_GIVEN.encode(value)


def sha256_hex(text: str) -> str:
    """Hash the UTF-8 bytes of ``text``; lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
