"""``clawsettle loss-events``: a daemon's loss events, read and changed over its HTTP routes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from clawsettle.daemon.answers import DaemonRefused, Json, Page, RunningDaemon
from clawsettle.domain.loss_requests import REQUEUE_LIMIT_MAX

_EVENTS = "/v1/loss-events"
_OUTBOX = f"{_EVENTS}/outbox"
# Longer than any `[loss_events] retry_budget_s`.
_RETRY_TIMEOUT_S = 630.0


@frozen(eq=False)
class LossWindow:
    """A daemon's loss events; every method raises as RunningDaemon does."""

    daemon: RunningDaemon

    def events(self, query: Mapping[str, str | None], most: int | None) -> Iterator[Page]:
        """Walk the events from the newest to the oldest, ``most`` of them or all."""
        return self.daemon.pages(_EVENTS, "events", query, most)

    def outbox(self, query: Mapping[str, str | None], most: int | None) -> Iterator[Page]:
        """Walk the deliveries of one operation likewise."""
        return self.daemon.pages(_OUTBOX, "outbox", query, most)

    def show(self, event_id: str) -> dict[str, Any]:
        """Return an event with its deliveries, its resolution and what is still held."""
        return self.daemon.ask("GET", _path(event_id), "residuals")

    def ready(self) -> dict[str, Any]:
        """Return what the daemon says of itself; ``loss_events`` is how each target stands."""
        return self.daemon.ask("GET", "/ready", "loss_events")

    def requeue(
        self, ids: Iterable[str], note: Mapping[str, str]
    ) -> Iterator[tuple[str, list[Json] | DaemonRefused]]:
        """Bring back each delivery, or what has ended of each event, and tell what came of each.

        ``note`` has ``why`` and perhaps ``by``. A refusal is handed over, not raised.
        """
        for one in ids:
            try:
                yield one, self._requeue_named(one, note)
            except DaemonRefused as error:
                yield one, error

    def requeue_dead(self, target: str, note: Mapping[str, str]) -> Iterator[list[Json]]:
        """Bring back all that is dead at a target, batch by batch.

        It ends when a batch has only what it has brought back before: that dies again.
        """
        known: set[str] = set()
        asked = {**note, "target_service": target, "limit": REQUEUE_LIMIT_MAX}
        while batch := [one for one in self._requeue(asked) if one["outbox_id"] not in known]:
            known.update(one["outbox_id"] for one in batch)
            yield batch

    def retry(self, order: Mapping[str, object]) -> dict[str, Any]:
        """Have deliveries attempted now, and return the counts."""
        path = f"{_EVENTS}/ops/retry"
        return self.daemon.ask("POST", path, "attempted", json=order, timeout=_RETRY_TIMEOUT_S)

    def resolve(self, event_id: str, reason: str | None) -> dict[str, Any]:
        """Resolve an event, under a key that follows from its id: asked again, it is a replay."""
        return self.daemon.ask(
            "POST",
            f"{_path(event_id)}/resolve",
            "resolution",
            json={"reason": reason},
            headers={"idempotency-key": f"clawsettle:resolve:{event_id}"},
        )

    def _requeue_named(self, named: str, note: Mapping[str, str]) -> list[Json]:
        kind = "loss_event_id" if named.startswith("lse_") else "outbox_id"
        requeued = self._requeue({**note, kind: named})
        if not requeued:
            raise DaemonRefused(
                "nothing of it can be requeued: none is dead or not applicable",
                code="INVALID_STATUS_TRANSITION",
            )
        return requeued

    def _requeue(self, order: Mapping[str, object]) -> list[Json]:
        requeued: list[Json] = self.daemon.ask("POST", f"{_OUTBOX}/requeue", "outbox", json=order)[
            "outbox"
        ]
        return requeued


def _path(event_id: str) -> str:
    return f"{_EVENTS}/{quote(event_id, safe='')}"
