"""Keeps the log of deliveries: best effort, in the background, never in an answer's way.

Owns: the delivery log's table.
Guarantees: what it is told is written within about a second, unless storage fails or more comes
than it may hold; then entries are dropped and counted. Old entries leave after their retention.
Stops: on ``close``, after one last write.
"""

import structlog
import trio
from attrs import define, field

from clawsettle.actors.timer import Timer
from clawsettle.domain.errors import StorageError
from clawsettle.storage.delivery_log import DeliveryEntry, DeliveryLog

_log = structlog.get_logger(__name__)
_EXPIRE_BATCH = 1000
_EXPIRE_EVERY_S = 60.0


@define(eq=False)
class DeliveryRecorder:
    """See the module. ``held_max`` bounds what waits to be written."""

    log: DeliveryLog
    held_max: int
    every_s: float = 1.0
    name: str = field(default="delivery_recorder", init=False)
    dropped_count: int = field(default=0, init=False)
    _held: list[DeliveryEntry] = field(factory=list, init=False)
    _expire_at: float = field(default=0.0, init=False)
    _timer: Timer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self.name, self.every_s)

    def note(self, entry: DeliveryEntry) -> None:
        """Take an entry; it is dropped and counted when too many wait."""
        if len(self._held) >= self.held_max:
            self.dropped_count += 1
        else:
            self._held.append(entry)

    async def run(self) -> None:
        """Write what was noted, and let old entries go, until closed."""
        self._expire_at = trio.current_time() + _EXPIRE_EVERY_S
        await self._timer.run(self._keep)

    def close(self) -> None:
        """Write once more, then end."""
        self._timer.stop()

    def statistics(self) -> dict[str, int]:
        """Return what waits to be written and what was dropped so far."""
        return {"waiting": len(self._held), "dropped_count": self.dropped_count}

    async def _keep(self) -> bool:
        """Write and expire; True when more is to expire. What storage refuses is dropped."""
        entries, self._held = self._held, []
        try:
            if entries:
                await self.log.append(entries)
                entries = []
            return await self._expire()
        except StorageError as error:
            self.dropped_count += len(entries)
            _log.warning("delivery_log_failed", dropped=len(entries), error=error.message)
            return False

    async def _expire(self) -> bool:
        now = trio.current_time()
        if now < self._expire_at:
            return False
        if await self.log.expire(_EXPIRE_BATCH) == _EXPIRE_BATCH:
            return True
        self._expire_at = now + _EXPIRE_EVERY_S
        return False
