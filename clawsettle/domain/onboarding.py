"""What a caller may ask of an onboarding, and how far an account has come with it.

Source: payouts contract sections 5 and 6; 11 (26).
"""

from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import urlsplit

from attrs import frozen

from clawsettle.domain.errors import CallerError
from clawsettle.domain.fields import body_object
from clawsettle.domain.payout_requests import required

URL_WANTED = "an https:// URL (http:// on localhost) without user, at most 2000 characters"
_URL_MAX = 2000
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class OnboardingStatus(StrEnum):
    """How far an account has come; the values are the stored words.

    ``opening`` has been asked for and has no account at the provider yet that we know of.
    """

    OPENING = "opening"
    PENDING = "pending"
    ACTIVE = "active"


@frozen
class OnboardingRequest:
    """A validated request; a URL is None when it was not given."""

    account_id: str
    refresh_url: str | None
    return_url: str | None


def parse_onboarding(body: object) -> OnboardingRequest:
    """Validate a request; a URL that is blank or no text counts as not given.

    Raises: CallerError INVALID_REQUEST with ``details.field`` at the first bad field.
    """
    body = body_object(body)
    return OnboardingRequest(
        required(body, "account_id"), _url(body, "refresh_url"), _url(body, "return_url")
    )


def is_onboarding_url(text: str) -> bool:
    """Return whether somebody may be sent to ``text``: see ``URL_WANTED``."""
    try:
        parts = urlsplit(text)
        is_port_readable = parts.port is None or parts.port > 0
    except ValueError:
        return False
    # Browsers read a backslash as a slash, so what seems to be a host need not be one.
    is_plain = all("!" <= character <= "~" for character in text) and "\\" not in text
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS)
    return (
        len(text) <= _URL_MAX
        and is_plain
        and is_safe
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and is_port_readable
    )


def _url(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        return None
    if not is_onboarding_url(text):
        raise CallerError(f"{name} must be {URL_WANTED}", details={"field": name})
    return text
