"""What the schedule of netting runs has to know: the time, and which of its runs there are."""

from datetime import datetime

from attrs import frozen

from clawsettle.domain.netting import Run
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting_rows import read_run
from clawsettle.storage.queries import load_queries

_SQL = load_queries("netting_schedule")


@frozen
class NettingSchedule:
    """See the module. Raises StorageUnavailable or StorageError.

    ``repeats_safely`` is the ledger's word, as for ``NettingRuns``.
    """

    database: Database
    repeats_safely: bool

    async def read_at(self) -> datetime:
        """Return the database's time, which is the same for all daemons."""
        at: datetime = (await self.database.fetch(_SQL["clock"]))[0]["read_at"]
        return at

    async def has_run(self, run_id: str) -> bool:
        """Return whether somebody has prepared the run."""
        return bool(await self.database.fetch(_SQL["run_is_there"], run_id))

    async def next_failed(self, before: datetime, after: Run | None) -> Run | None:
        """Return the scheduled run that failed longest ago, before ``before``; None without one.

        With ``after`` it is the one that follows it. One of whose entries it is not known whether
        they have moved is left to an operator, unless the ledger repeats safely.
        """
        place = (after.completed_at, after.run_id) if after else (None, None)
        rows = await self.database.fetch(_SQL["next_failed"], before, *place, self.repeats_safely)
        return read_run(rows[0]) if rows else None
