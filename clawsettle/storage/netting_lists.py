"""Reading netting: a run with its entries, however many they are, its past, and pages of runs.

Source: netting contract section 4; 10 (17).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import BinaryIO

import orjson
from attrs import frozen

from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.domain.netting_transitions import NettingAudit
from clawsettle.domain.payout_reports import ReportFormat
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.netting_rows import read_entry, read_run
from clawsettle.storage.payout_lists import START, After, Page, page_of
from clawsettle.storage.queries import load_queries
from clawsettle.storage.report_files import open_draft

_SQL = load_queries("netting_lists")
_TALLY = load_queries("netting")["tally"]
PAGE = 250
"""How many entries are in memory at once, twice."""


@frozen
class WholeRun:
    """A run with all its entries, as of one instant.

    ``file`` has ``file_bytes`` of JSON: the members ``run`` and ``entries``, these by their ids,
    and the brace that ends the object they are in. Whoever has it closes ``file``.
    """

    run: Run
    file: BinaryIO
    file_bytes: int


@frozen
class KeptAudit:
    """A row of a run's audit trail, at a UTC instant."""

    audit_id: int
    audit: NettingAudit
    at: datetime


@frozen
class NettingLists:
    """The repository's reading side. Raises (every method): StorageUnavailable or StorageError."""

    database: Database

    async def run(self, run_id: str) -> Run | None:
        """Return a run, if there is one."""
        rows = await self.database.fetch(_SQL["run"], run_id)
        return read_run(rows[0]) if rows else None

    async def entries(self, run_id: str) -> list[Entry]:
        """Return a run's entries by their ids, all of them in memory."""
        return [read_entry(row) for row in await self.database.fetch(_SQL["entries"], run_id)]

    async def tally(self, run_id: str) -> Mapping[EntryStatus, int]:
        """Return how many of a run's entries have each status that one of them has."""
        rows = await self.database.fetch(_TALLY, run_id)
        return {EntryStatus(row["status"]): row["entry_count"] for row in rows}

    async def whole(self, run_id: str) -> WholeRun | None:
        """Return a run with its entries, rendered; memory does not grow with their number.

        Raises: StorageError, too, when the disk is full.
        """

        async def work(transaction: Transaction) -> WholeRun | None:
            await transaction.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = await transaction.fetch(_SQL["run"], run_id)
            if not rows:
                return None
            run, separator = read_run(rows[0]), b""
            with open_draft(ReportFormat.JSON) as draft:

                def add(page: Sequence[Row]) -> None:
                    nonlocal separator
                    views = orjson.dumps([read_entry(row).view() for row in page])
                    draft.write(separator + views[1:-1])
                    separator = b","

                draft.write(b'"run":%b,"entries":[' % orjson.dumps(run.view()))
                await transaction.stream(_SQL["entries"], run_id, page=PAGE, visit=add)
                draft.write(b"]}")
                written = draft.finish()
            return WholeRun(run, written.file, written.file_bytes)

        return await self.database.transaction(work)

    async def runs(self, status: RunStatus | None, *, after: After | None, limit: int) -> Page[Run]:
        """Return up to ``limit`` runs, the newest first, then the highest id; None: any status."""
        page = (*(after or START), limit + 1)
        if status is None:
            rows = await self.database.fetch(_SQL["runs"], *page)
        else:
            rows = await self.database.fetch(_SQL["runs_in"], *page, status)
        runs = [read_run(row) for row in rows]
        return page_of(runs, limit, [(run.created_at, run.run_id) for run in runs])

    async def audit(self, run_id: str, *, after: int, limit: int) -> Page[KeptAudit]:
        """Return up to ``limit`` rows of a run's audit trail past number ``after``, in order."""
        rows = await self.database.fetch(_SQL["audit"], run_id, after, limit + 1)
        kept = [_audit(row) for row in rows]
        return page_of(kept, limit, [(one.at, str(one.audit_id)) for one in kept])


def _audit(row: Row) -> KeptAudit:
    audit = NettingAudit(
        row["run_id"], row["entry_id"], row["event_type"], json.loads(row["details"])
    )
    return KeptAudit(row["audit_id"], audit, row["at"])
