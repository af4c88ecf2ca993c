"""Starts netting runs by the clock, one in each slot of time, however many daemons there are.

Owns: no rows of its own; it asks the runner for runs as a request would.
Guarantees: a slot has one run, which begins within one poll interval once a daemon works in that
slot, and takes all that waits. Whoever starts it first resumes the scheduled runs that have failed,
each once a slot: nobody else would repeat their keys. One that may have moved what it does not know
of is left to an operator where repeating is not safe. A slot in which no daemon worked has no run,
and is not made up for. What goes wrong with one run is logged and keeps no other from its turn.
Stops: on ``close``, at once; the run it waits for goes on.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

import structlog
import trio
from attrs import define, field

from clawsettle.actors.netting_runner import Execution, NettingRunner
from clawsettle.actors.timer import Timer
from clawsettle.domain.errors import ClawsettleError, ConflictError, StorageUnavailable
from clawsettle.domain.netting import Run
from clawsettle.domain.netting_schedule import scheduled_request, slot_at
from clawsettle.storage.netting_schedule import NettingSchedule

_log = structlog.get_logger(__name__)
RESUMED_MAX = 100
"""How many failed runs are resumed in a slot; those that had to wait longest come first."""


@define(eq=False)
class NettingClock:
    """See the module. ``every_s`` is the length of a slot, ``poll_s`` how often it is looked at."""

    schedule: NettingSchedule
    runner: NettingRunner
    every_s: int
    poll_s: float
    name: str = field(default="netting_clock", init=False)
    _timer: Timer = field(init=False)
    _until_closed: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _slot_done: datetime | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self.name, self.poll_s)

    async def run(self) -> None:
        """Start runs until closed."""
        if self._until_closed.cancel_called:
            return
        # A scope is entered once, and the supervisor may call this again.
        self._until_closed = trio.CancelScope()
        with self._until_closed:
            await self._timer.run(self._look)

    def close(self) -> None:
        """Start no more runs, and wait for none."""
        self._until_closed.cancel()

    async def _look(self) -> bool:
        slot = slot_at(await self.schedule.read_at(), self.every_s)
        if slot != self._slot_done:
            request = scheduled_request(slot, self.runner.defaults)
            if not await self.schedule.has_run(request.run_id):
                await self._resume_failed(slot)
                await self._attempt(request.run_id, partial(self.runner.execute, request))
            self._slot_done = slot
        return False

    async def _resume_failed(self, slot: datetime) -> None:
        failed: Run | None = None
        for _ in range(RESUMED_MAX):
            # Read one by one: what another daemon has resumed meanwhile is not tried again.
            failed = await self.schedule.next_failed(slot, failed)
            if failed is None:
                return
            await self._attempt(failed.run_id, partial(self.runner.resume, failed.run_id))

    async def _attempt(self, run_id: str, act: Callable[[], Awaitable[Execution]]) -> None:
        """Wait for the end of a run; that somebody else works on it is as good."""
        try:
            await act()
        except StorageUnavailable:
            raise
        except ClawsettleError as error:
            if isinstance(error, ConflictError) and error.code == "DUPLICATE_CONFLICT":
                return
            _log.warning(
                "netting_schedule_failed", run_id=run_id, code=error.code, error=error.message
            )
