"""What the command line makes of a daemon's HTTP answers, and of their absence."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from attrs import frozen

from clawsettle.daemon.state_dir import DaemonFacts
from clawsettle.domain.errors import ConfigError, ProviderError

PAGE_MAX = 200
_TIMEOUT_S = 30.0

Json = Mapping[str, Any]


class DaemonRefused(ProviderError):
    """The daemon refused one thing that was asked of it; another may fare better."""


@frozen
class Page:
    """Some rows, newest first; ``next_cursor`` is None on the last page."""

    rows: list[Json]
    next_cursor: str | None


@frozen(eq=False)
class RunningDaemon:
    """A daemon's routes, asked with its admin key.

    Every method raises ProviderError when the daemon does not answer or refuses the key, and
    DaemonRefused when it refuses what is asked.
    """

    client: httpx.Client
    base_url: str

    def ask(self, method: str, path: str, expected: str, **content: Any) -> dict[str, Any]:
        """Return the body of an answer, which is one that has the ``expected`` field."""
        answer = answered(
            self.base_url,
            lambda: self.client.request(method, f"{self.base_url}{path}", **content),
        )
        body = json_object(answer)
        if expected in body:
            return body
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ProviderError(
                f"the daemon at {self.base_url} refuses the admin key: set SETTLE_ADMIN_KEY to one "
                "of its own"
            )
        if answer.is_success:
            raise ProviderError(f"what answers at {self.base_url} is no clawsettle daemon")
        raise DaemonRefused(
            str(body.get("error", f"the daemon answered {answer.status_code}")),
            code=str(body.get("code", answer.status_code)),
        )

    def pages(
        self, path: str, name: str, query: Mapping[str, str | None], most: int | None
    ) -> Iterator[Page]:
        """Walk the list ``name`` from the newest to the oldest, ``most`` rows or all.

        The walk ends, whatever happens meanwhile: what comes after its beginning is newer than
        every page that is still to come.
        """
        cursor, left = None, most
        while left is None or left > 0:
            limit = PAGE_MAX if left is None else min(left, PAGE_MAX)
            asked = {**query, "limit": str(limit), "cursor": cursor}
            given = {key: value for key, value in asked.items() if value is not None}
            body = self.ask("GET", path, name, params=given)
            rows, cursor = body[name], body.get("next_cursor")
            yield Page(rows, cursor)
            if cursor is None:
                return
            left = None if left is None else left - len(rows)


def gathered(pages: Iterable[Page]) -> tuple[list[Json], bool]:
    """Return the rows of pages, and whether there are more."""
    rows: list[Json] = []
    more = False
    for page in pages:
        rows += page.rows
        more = page.next_cursor is not None
    return rows, more


@contextmanager
def open_daemon(facts: DaemonFacts) -> Iterator[RunningDaemon]:
    """Connect to a daemon as its operator. Raises: ConfigError without an admin key."""
    if facts.admin_key is None:
        raise ConfigError(
            ["no admin key: set SETTLE_ADMIN_KEY, or name the --state-dir of `clawsettle dev`"]
        )
    headers = {"authorization": f"Bearer {facts.admin_key}"}
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, headers=headers) as client:
        yield RunningDaemon(client, facts.base_url)


def answered(url: str, call: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer of ``call``. Raises: ProviderError naming ``url`` when there is none."""
    try:
        return call()
    except httpx.HTTPError as error:
        raise ProviderError(
            f"nobody answers at {url} ({type(error).__name__}): is the daemon running? "
            "`make run` starts one"
        ) from error


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the body as an object; what is none stands under ``answer``."""
    try:
        body = response.json()
    except ValueError:
        body = {"answer": response.text[:500]}
    return body if isinstance(body, dict) else {"answer": body}
