"""``clawsettle dead-letters``: a daemon's dead letters, read and changed over its HTTP routes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

from attrs import frozen

from clawsettle.daemon.answers import DaemonRefused, Json, Page, RunningDaemon

_PATH = "/v1/dead-letters"

Action = Literal["requeue", "discard"]


@frozen(eq=False)
class DeadLetterWindow:
    """A daemon's dead letters; every method raises as RunningDaemon does."""

    daemon: RunningDaemon

    def pages(
        self, *, state: str, kind: str | None = None, most: int | None = None
    ) -> Iterator[Page]:
        """Walk from the newest to the oldest, ``most`` letters or all."""
        return self.daemon.pages(_PATH, "dead_letters", {"state": state, "kind": kind}, most)

    def show(self, letter_id: str) -> dict[str, Any]:
        """Return one with its payload and its actions."""
        return self.daemon.ask("GET", _path(letter_id), "actions")

    def change(
        self, letter_ids: Iterable[str], action: Action, note: Mapping[str, str]
    ) -> Iterator[tuple[str, Json | DaemonRefused]]:
        """Do the same to each, one after another, and tell what came of each as it is done.

        ``note`` is the body: ``why`` and perhaps ``by``. A refusal is handed over, not raised.
        """
        for letter_id in letter_ids:
            try:
                path = f"{_path(letter_id)}/{action}"
                yield letter_id, self.daemon.ask("POST", path, "id", json=note)
            except DaemonRefused as error:
                yield letter_id, error


def _path(letter_id: str) -> str:
    return f"{_PATH}/{quote(letter_id, safe='')}"
