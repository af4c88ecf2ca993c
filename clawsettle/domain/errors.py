"""The errors clawsettle raises on purpose; each tells a machine what and a person why.

``code`` is stable and part of the wire contract where it leaves the process; ``details`` holds
only what a caller may see. HTTP statuses are known to ``clawsettle.http.errors`` alone.
"""

from collections.abc import Mapping


class ClawsettleError(Exception):
    """Base of every deliberate error.

    ``code`` is a stable upper-case word, ``retryable`` says whether the same call may succeed
    later without anyone changing anything, ``details`` are safe to show to the caller.
    """

    code = "INTERNAL_ERROR"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details: Mapping[str, object] = details or {}


class CallerError(ClawsettleError):
    """The request is wrong and stays wrong until its sender changes it."""

    code = "INVALID_REQUEST"


class NotFoundError(CallerError):
    """What the request names does not exist (yet)."""

    code = "NOT_FOUND"


class ConflictError(ClawsettleError):
    """The request contradicts what is already recorded."""

    code = "CONFLICT"


class IllegalTransition(ConflictError):
    """A state machine has no such step; nothing was changed."""

    code = "INVALID_STATUS_TRANSITION"


class ProviderError(ClawsettleError):
    """An outside party refused, failed or did not answer."""

    code = "PROVIDER_ERROR"


class StorageError(ClawsettleError):
    """The database refused or failed; ``retryable`` when the fault is of the moment."""

    code = "STORAGE_UNAVAILABLE"


class StorageUnavailable(StorageError):
    """The database cannot be reached, or a commit's outcome is unknown: look, then repeat."""

    retryable = True


class Overloaded(ClawsettleError):
    """A mailbox is full or closing; nothing was taken, and the caller may come back."""

    code = "OVERLOADED"
    retryable = True


class ConfigError(ClawsettleError):
    """The configuration cannot be used; ``problems`` lists everything wrong at once."""

    code = "DEPENDENCY_NOT_CONFIGURED"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
