"""Canonical JSON and its SHA-256: equal meaning, equal bytes, equal hash."""

import hashlib
import json
from collections.abc import Mapping

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Mapping[str, object]) -> str:
    """Render JSON with keys sorted at every level, no spaces and non-ASCII characters raw.

    Keys whose value is absent must not be in ``value``: an explicit ``null`` is a value.
    """
    return _ENCODER.encode(value)


def sha256_hex(text: str) -> str:
    """Hash the UTF-8 bytes of ``text``; lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
