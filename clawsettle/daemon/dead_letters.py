"""``clawsettle dead-letters``: a daemon's dead letters, read and changed over its HTTP routes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote

import httpx
from attrs import frozen

from clawsettle.daemon.answers import answered, json_object
from clawsettle.daemon.state_dir import DaemonFacts
from clawsettle.domain.errors import ConfigError, ProviderError

PAGE_MAX = 200
_PATH = "/v1/dead-letters"
_TIMEOUT_S = 30.0

Letter = Mapping[str, Any]
Action = Literal["requeue", "discard"]


class LetterRefused(ProviderError):
    """The daemon refused what was asked of one dead letter; others may fare better."""


@frozen
class Page:
    """Some dead letters, newest first; ``next_cursor`` is None on the last page."""

    letters: list[Letter]
    next_cursor: str | None


@frozen(eq=False)
class DeadLetterWindow:
    """A daemon's dead letters.

    Every method raises ProviderError when the daemon does not answer or refuses the key. For any
    other refusal it raises LetterRefused; ``change`` hands that over instead and goes on.
    """

    client: httpx.Client
    base_url: str

    def pages(
        self, *, state: str, kind: str | None = None, most: int | None = None
    ) -> Iterator[Page]:
        """Walk from the newest to the oldest, ``most`` letters or all.

        The walk ends, whatever happens meanwhile: what dies after its beginning is newer than
        every page that is still to come.
        """
        cursor, left = None, most
        while left is None or left > 0:
            limit = PAGE_MAX if left is None else min(left, PAGE_MAX)
            query = {"state": state, "kind": kind, "limit": str(limit), "cursor": cursor}
            given = {name: value for name, value in query.items() if value is not None}
            body = self._ask("GET", _PATH, "dead_letters", params=given)
            letters, cursor = body["dead_letters"], body.get("next_cursor")
            yield Page(letters, cursor)
            if cursor is None:
                return
            left = None if left is None else left - len(letters)

    def show(self, letter_id: str) -> Letter:
        """Return one with its payload and its actions."""
        return self._ask("GET", _path(letter_id), "actions")

    def change(
        self, letter_ids: Iterable[str], action: Action, note: Mapping[str, str]
    ) -> Iterator[tuple[str, Letter | LetterRefused]]:
        """Do the same to each, one after another, and tell what came of each as it is done.

        ``note`` is the body: ``why`` and perhaps ``by``.
        """
        for letter_id in letter_ids:
            try:
                yield letter_id, self._ask("POST", f"{_path(letter_id)}/{action}", "id", json=note)
            except LetterRefused as error:
                yield letter_id, error

    def _ask(self, method: str, path: str, expected: str, **content: Any) -> dict[str, Any]:
        """Return the body of a 200; one without the ``expected`` field is somebody else's."""
        answer = answered(
            self.base_url,
            lambda: self.client.request(method, f"{self.base_url}{path}", **content),
        )
        body = json_object(answer)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ProviderError(
                f"the daemon at {self.base_url} refuses the admin key: set SETTLE_ADMIN_KEY to one "
                "of its own"
            )
        if answer.status_code != httpx.codes.OK:
            raise LetterRefused(
                str(body.get("error", f"the daemon answered {answer.status_code}")),
                code=str(body.get("code", answer.status_code)),
            )
        if expected not in body:
            raise ProviderError(f"what answers at {self.base_url} is no clawsettle daemon")
        return body


@contextmanager
def open_window(facts: DaemonFacts) -> Iterator[DeadLetterWindow]:
    """Connect to a daemon as its operator. Raises: ConfigError without an admin key."""
    if facts.admin_key is None:
        raise ConfigError(
            ["no admin key: set SETTLE_ADMIN_KEY, or name the --state-dir of `clawsettle dev`"]
        )
    headers = {"authorization": f"Bearer {facts.admin_key}"}
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers=headers) as client:
        yield DeadLetterWindow(client, facts.base_url)


def _path(letter_id: str) -> str:
    return f"{_PATH}/{quote(letter_id, safe='')}"
