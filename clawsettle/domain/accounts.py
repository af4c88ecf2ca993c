"""Account identities: the DID grammar and the ids that callers derive from it themselves."""

import re

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import CallerError

DID_MAX = 255
_DID = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._%-]+\Z")


def parse_did(value: object) -> str:
    """Return ``value`` when it is a DID of the ledger's grammar.

    Raises: CallerError INVALID_DID.
    Source: ledger-api contract section 2.2.
    """
    if not isinstance(value, str) or len(value) > DID_MAX or not _DID.match(value):
        raise CallerError("did is not a DID this ledger accepts", code="INVALID_DID")
    return value


def hash8(text: str) -> str:
    """Return the contract's 31-multiplier hash of the UTF-16 code units, as 8 hex digits.

    Callers compute it themselves, so it stays although it collides; ``account_ids`` gives the
    way out. Source: ledger-api contract section 2.2.
    """
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (value * 31 + (high << 8 | low)) & 0xFFFFFFFF
    signed = value - 2**32 if value >= 2**31 else value
    return f"{abs(signed):08x}"


def account_ids(did: str) -> tuple[str, str]:
    """Return the id a DID's account has, and the one it gets when another DID holds the first."""
    short = f"acc_{hash8(did)}"
    return short, f"{short}_{sha256_hex(did)[:16]}"
