"""A value that must never reach a log, an error message or a page."""

import hmac
from collections.abc import Sequence
from typing import NoReturn, final

_HIDDEN = "Secret(hidden)"


@final
class Secret:
    """A non-blank secret text; only `reveal` gives it back.

    ``repr``, ``str`` and ``format`` show ``Secret(hidden)``. Equality takes constant time.
    Pickling and copying through pickle are refused. It is no attrs class and has no ``__dict__``,
    so ``attrs.asdict`` and ``vars`` cannot unpack it either.

    Raises: ValueError if the text is blank.
    Source: new.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text.strip():
            raise ValueError("a secret must not be blank")
        self._text = text

    def reveal(self) -> str:
        """Return the secret text, for the one call that needs it. Source: new."""
        return self._text

    def __repr__(self) -> str:
        return _HIDDEN

    def __format__(self, spec: str) -> str:
        return format(_HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return _is_same(self._text, other._text)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")


def matches_any(candidate: str, secrets: Sequence[Secret]) -> bool:
    """Whether ``candidate`` is one of ``secrets``; every one is compared, in constant time.

    The time tells neither which secret matched nor how many characters did. No secrets: False.
    Source: webhook-forwarding W24.
    """
    is_match = False
    for secret in secrets:
        # `|=` with the comparison on the right: a match must not spare the later comparisons.
        is_match |= _is_same(candidate, secret.reveal())
    return is_match


def _is_same(left: str, right: str) -> bool:
    # Headers and environments may carry lone surrogates; an encoding error would show the text.
    return hmac.compare_digest(
        left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass")
    )
