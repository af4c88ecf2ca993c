"""Stripe's webhook signature, checked over the raw bytes and with several secrets.

Stricter than Stripe's own library on purpose: one ``t`` of at most twelve digits, the signature
over the bytes as received (never over decoded text), and a bound on the future side.
Source: webhook-forwarding contract sections 4 and 14 (W13, W14).
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

from attrs import frozen

from clawsettle.domain.errors import CallerError

_TIMESTAMP = re.compile(r"[0-9]{1,12}\Z")
_CANDIDATES_MAX = 64


class SignatureInvalid(CallerError):
    """The request is not signed by a secret we know, or not now."""

    code = "SIGNATURE_INVALID"


@frozen
class SignatureHeader:
    """A parsed ``Stripe-Signature``: when it was signed (Unix seconds) and its v1 candidates."""

    timestamp_s: int
    candidates: tuple[str, ...]


def parse_signature_header(header: str | None) -> SignatureHeader:
    """Parse ``t=...,v1=...``; unknown schemes and empty chunks are passed over.

    Raises: SignatureInvalid when it is missing, has no single well-formed ``t`` or no ``v1``.
    """
    timestamps: list[str] = []
    candidates: list[str] = []
    for chunk in (header or "").split(","):
        key, separator, value = chunk.strip().partition("=")
        value = value.strip()
        if not separator or not value:
            continue
        if key == "t":
            timestamps.append(value)
        elif key == "v1":
            candidates.append(value.lower())
    if len(timestamps) != 1 or not _TIMESTAMP.match(timestamps[0]) or int(timestamps[0]) == 0:
        raise SignatureInvalid("the signature header has no single valid timestamp")
    if not 1 <= len(candidates) <= _CANDIDATES_MAX:
        raise SignatureInvalid("the signature header has no usable v1 signature")
    return SignatureHeader(int(timestamps[0]), tuple(candidates))


def sign(body: bytes, *, timestamp_s: int, secret: str) -> str:
    """Return the v1 signature: HMAC-SHA-256 of ``<t>.<body>``, lower-case hexadecimal."""
    signed = b"%d." % timestamp_s + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify_signature(
    header: str | None,
    body: bytes,
    *,
    secrets: Sequence[str],
    now_s: float,
    tolerance_s: int,
    future_skew_s: int,
) -> None:
    """Return when ``body`` was signed by one of ``secrets`` within the tolerance; else raise.

    Exactly ``tolerance_s`` old, or ``future_skew_s`` ahead, still passes. Every candidate is
    compared with every secret in constant time.

    Raises: SignatureInvalid; with ``details.tolerance_seconds`` when only the time is off.
    """
    parsed = parse_signature_header(header)
    age_s = now_s - parsed.timestamp_s
    if age_s > tolerance_s or -age_s > future_skew_s:
        raise SignatureInvalid(
            "the signature's timestamp is outside the tolerance",
            details={"tolerance_seconds": tolerance_s},
        )
    matched = False
    for secret in secrets:
        expected = sign(body, timestamp_s=parsed.timestamp_s, secret=secret).encode()
        for candidate in parsed.candidates:
            matched |= hmac.compare_digest(expected, candidate.encode("utf-8", "surrogatepass"))
    if not matched:
        raise SignatureInvalid("no signature matches")
