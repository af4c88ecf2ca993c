"""Account identities: the DID grammar, the ids that callers derive themselves, and references.

Source: ledger-api contract sections 2.2 and 13 (L11, L13, L14).
"""

import re
from functools import lru_cache

from attrs import frozen

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import CallerError

NAME_MAX = 255
INTERNAL_PREFIX = "did:internal:"
ALIAS_PREFIX = "did:claw:account:"
_DID = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._:%-]+\Z")
_CLEARING = "clearing:"


def parse_did(value: object) -> str:
    """Return ``value`` when it is a DID that an account can have.

    The identifier may contain colons. ``did:internal:`` is the ledger's own, and
    ``did:claw:account:<account id>`` is another name of an account that exists.

    Raises: CallerError INVALID_DID.
    """
    if (
        not isinstance(value, str)
        or len(value) > NAME_MAX
        or not _DID.match(value)
        or value.startswith((INTERNAL_PREFIX, ALIAS_PREFIX))
    ):
        raise CallerError("did is not a DID this ledger accepts", code="INVALID_DID")
    return value


def hash8(text: str) -> str:
    """Return the contract's 31-multiplier hash of the UTF-16 code units, as 8 hex digits.

    Callers compute it themselves, so it stays although it collides; the longer one of an
    account's two possible ids gives the way out.
    """
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (value * 31 + (high << 8 | low)) & 0xFFFFFFFF
    signed = value - 2**32 if value >= 2**31 else value
    return f"{abs(signed):08x}"


def account_ids(did: str) -> tuple[str, str]:
    """Return the id a DID's account has, and the one it gets when another DID holds the first."""
    return _ids("acc_", did)


def clearing_ids(domain: str) -> tuple[str, str]:
    """Return the same two ids for a clearing account's domain."""
    return _ids("clr_", domain)


def _ids(prefix: str, name: str) -> tuple[str, str]:
    short = f"{prefix}{hash8(name)}"
    return short, f"{short}_{sha256_hex(name)[:16]}"


@frozen
class AccountRef:
    """What names an account in a transfer or a hold.

    ``text`` is the reference as it was sent, trimmed. ``account_ids`` are the ids that the account
    may have, in order. One of ``did`` and ``domain`` says what is opened when there is none; a
    reference by id has neither and opens nothing.
    """

    text: str
    account_ids: tuple[str, ...]
    did: str | None = None
    domain: str | None = None


@lru_cache(maxsize=4096)  # callers name the same accounts again and again
def account_ref(text: str) -> AccountRef | None:
    """Return the account that ``text`` means; None when it is no reference.

    A DID, ``clearing:<domain>``, an account id ``acc_...``, or ``did:claw:account:<account id>``.
    """
    text = text.strip()
    if text.startswith(_CLEARING):
        domain = text.removeprefix(_CLEARING).strip()
        if not 0 < len(domain) <= NAME_MAX:
            return None
        return AccountRef(text, clearing_ids(domain), domain=domain)
    account_id = text.removeprefix(ALIAS_PREFIX)
    if account_id.startswith("acc_"):
        return AccountRef(text, (account_id,))
    try:
        did = parse_did(text)
    except CallerError:
        return None
    return AccountRef(text, account_ids(did), did=did)
