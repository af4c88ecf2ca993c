"""The reports of netting runs, however many entries they have.

A run and its entries are read as of one instant. Whenever a run ends, the text that its hash is of
is kept with it, so that what was reported then can be read when the run has long gone on.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime

import orjson
import trio
from attrs import define, field, frozen

from clawsettle.domain.errors import ClawsettleError, NotFoundError
from clawsettle.domain.netting import Entry, EntryStatus, Run
from clawsettle.domain.netting_conservation import AppliedSums
from clawsettle.domain.netting_reports import (
    HASHED_HEAD,
    csv_cells,
    csv_columns,
    hashed_tail,
    report_row,
    sent_tail,
)
from clawsettle.domain.payout_reports import ReportFormat, csv_lines
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.netting_rows import read_entry, read_run
from clawsettle.storage.queries import load_queries
from clawsettle.storage.report_files import ReportDraft, ReportFile, open_draft

_SQL = load_queries("netting_reports")
PAGE = 250
"""How many entries are in memory at once, twice."""

_PIECE_BYTES = 2**16
ReportRow = dict[str, object]


@frozen
class FrozenReport:
    """The text that a run's hash is of, as zlib, and the hash."""

    sha256: str
    content: bytes


@frozen
class ReadReport:
    """A report, and what its proof is made of; whoever has it closes ``file.file``.

    JSON still lacks its head. ``moved_ids`` are the entries that the ledger has moved money for.
    """

    run: Run
    generated_at: datetime
    version_count: int
    sums: AppliedSums
    moved_ids: Sequence[str]
    file: ReportFile


async def freeze_report(transaction: Transaction, run: Run) -> FrozenReport:
    """Return the report of a run that ends with this transaction; it is ``run`` as it will be."""
    digest, packer, content = hashlib.sha256(), zlib.compressobj(), bytearray()

    def take(text: bytes) -> None:
        digest.update(text)
        content.extend(packer.compress(text))

    await _hash_entries(transaction, run, take)
    return FrozenReport(digest.hexdigest(), bytes(content + packer.flush()))


@frozen
class NettingReports:
    """Reads reports; writers are not held up, and of the entries only ids stay in memory.

    Every method raises StorageUnavailable or StorageError, also when the disk is full.
    """

    database: Database

    async def read(self, run_id: str, written: ReportFormat) -> ReadReport:
        """Return the report of a run as it stands.

        Raises: NotFoundError; ClawsettleError INTERNAL_ERROR when the run has ended and what is
        stored of it is not what it was then. Each with ``details.run_id``.
        """

        async def work(transaction: Transaction) -> ReadReport | None:
            await transaction.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = await transaction.fetch(_SQL["run"], run_id)
            if not rows:
                return None
            (row,), run = rows, read_run(rows[0])
            with open_draft(written) as draft:
                body = _Body(draft, csv_columns(compensates=row["compensates"]))
                await _hash_entries(transaction, run, draft.hash, body.add)
                sums = (await transaction.fetch(_SQL["applied_sums"], run_id))[0]
                return ReadReport(
                    run,
                    row["read_at"],
                    row["version_count"],
                    AppliedSums(
                        int(sums["entries_minor"]), int(sums["payouts_minor"]), sums["agree"]
                    ),
                    body.moved_ids,
                    body.finish(),
                )

        report = await self.database.transaction(work)
        if report is None:
            raise NotFoundError("no such netting run", details={"run_id": run_id})
        if report.run.report_hash not in {None, report.file.sha256}:
            report.file.file.close()
            raise _changed(run_id)
        return report

    async def verify(self, run_id: str) -> None:
        """Make a run's report for its hash alone. Raises: as ``read``."""
        (await self.read(run_id, ReportFormat.CSV)).file.file.close()

    async def entries(self, run_id: str, entry_ids: Sequence[str]) -> list[Entry]:
        """Return these entries of a run, in no order."""
        rows = await self.database.fetch(_SQL["entries_named"], run_id, entry_ids)
        return [read_entry(row) for row in rows]

    async def version(self, run_id: str, number: int) -> ReportFile:
        """Return what the hash was made of when a run had ended for the nth time, from 1 on.

        Raises: NotFoundError with ``details.run_id`` and ``details.version``; ClawsettleError
        INTERNAL_ERROR with ``details.run_id`` when it is not that any more.
        """
        rows = await self.database.fetch(_SQL["version"], run_id, number)
        if not rows:
            raise NotFoundError(
                "the netting run has no such version",
                details={"run_id": run_id, "version": number},
            )
        try:
            report = await trio.to_thread.run_sync(_unpack, rows[0]["content"])
        except zlib.error as error:
            raise _changed(run_id) from error
        if report.sha256 != rows[0]["artifact_sha256"]:
            report.file.close()
            raise _changed(run_id)
        return report


@define
class _Body:
    """The rows of a report that is being written."""

    draft: ReportDraft
    columns: Sequence[str]
    moved_ids: list[str] = field(factory=list, init=False)
    _separator: bytes = field(default=b"", init=False)

    def __attrs_post_init__(self) -> None:
        if self.draft.format is ReportFormat.CSV:
            self.draft.write(csv_lines([self.columns]).encode())

    def add(self, entries: Sequence[Entry], rows: Sequence[ReportRow]) -> None:
        """Go on with these rows."""
        if self.draft.format is ReportFormat.CSV:
            lines = csv_lines([csv_cells(row, self.columns) for row in rows])
            self.draft.write(b"\n" + lines.encode())
            return
        self.draft.write(self._separator + orjson.dumps(rows)[1:-1])
        self._separator = b","
        self.moved_ids += [
            entry.entry_id
            for entry in entries
            if entry.status is EntryStatus.APPLIED and entry.amount_minor
        ]

    def finish(self) -> ReportFile:
        """Return the report."""
        if self.draft.format is ReportFormat.JSON:
            self.draft.write(sent_tail(self.draft.sha256).encode())
        return self.draft.finish()


async def _hash_entries(
    transaction: Transaction,
    run: Run,
    take: Callable[[bytes], None],
    visit: Callable[[Sequence[Entry], Sequence[ReportRow]], None] = lambda _entries, _rows: None,
) -> None:
    """Have ``take`` the text that the hash is of, and ``visit`` the entries, page by page."""
    separator = b""

    def add(page: Sequence[Row]) -> None:
        nonlocal separator
        entries = [read_entry(row) for row in page]
        rows = [report_row(entry) for entry in entries]
        take(separator + orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)[1:-1])
        separator = b","
        visit(entries, rows)

    take(HASHED_HEAD.encode())
    await transaction.stream(_SQL["entries"], run.run_id, page=PAGE, visit=add)
    take(hashed_tail(run).encode())


def _unpack(content: bytes) -> ReportFile:
    """Unpack what was frozen. Raises: zlib.error."""
    unpacker = zlib.decompressobj()
    with open_draft(ReportFormat.JSON) as draft:
        for place in range(0, len(content), _PIECE_BYTES):
            text = unpacker.decompress(content[place : place + _PIECE_BYTES])
            draft.hash(text)
            draft.write(text)
        return draft.finish()


def _changed(run_id: str) -> ClawsettleError:
    return ClawsettleError(
        "what is stored of the netting run is not what it was when it ended",
        details={"run_id": run_id},
    )
