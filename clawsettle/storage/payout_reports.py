"""The daily report of payouts, however many they are.

It is read by one statement, which sees the database as of one instant however long it takes.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import orjson
from attrs import define, field, frozen

from clawsettle.domain.errors import CallerError
from clawsettle.domain.payout_reports import (
    FIELDS,
    WIRE_WORDS,
    ReportCut,
    ReportFormat,
    Totals,
    csv_lines,
    hashed_frame,
    sent_frame,
)
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.queries import load_queries
from clawsettle.storage.report_files import ReportDraft, ReportFile, open_draft

_SQL = load_queries("payout_reports")
PAGE = 2000
CUT_AGE_MIN = timedelta(seconds=60)
"""How old a cut is at least: by then every commit is in that was to be before it.

Instants are the database's own, taken when their transaction begins or a moment before.
"""


@frozen
class PayoutReports:
    """Makes daily reports; writers are not held up, and memory does not grow with the rows.

    Every method raises StorageUnavailable or StorageError, also when the disk is full.
    """

    database: Database
    cut_age_min: timedelta = CUT_AGE_MIN

    async def read_at(self, cut: ReportCut) -> datetime:
        """Return the database's time.

        Raises: CallerError INVALID_REQUEST while the cut may still change, since it is not yet
        ``cut_age_min`` old: then no report of it could be made again.
        """
        now: datetime = (await self.database.fetch(_SQL["clock"]))[0]["read_at"]
        if cut.as_of is not None and cut.as_of > now - self.cut_age_min:
            seconds = int(self.cut_age_min.total_seconds())
            raise CallerError(
                f"as_of must be at least {seconds} seconds ago", details={"field": "as_of"}
            )
        return now

    async def daily(self, cut: ReportCut, written: ReportFormat) -> ReportFile:
        """Return the report of a day; with a cut its bytes are the same whenever it is made.

        Raises: CallerError as ``read_at``.
        """
        generated_at = await self.read_at(cut)

        async def work(transaction: Transaction) -> ReportFile:
            with open_draft(written) as draft:
                daily = _Daily(cut, draft)
                await transaction.stream(
                    _SQL["day"], cut.first, cut.last, cut.as_of, page=PAGE, visit=daily.add
                )
                return daily.finish(generated_at)

        return await self.database.transaction(work)


@define
class _Daily:
    """A daily report that is being written."""

    cut: ReportCut
    draft: ReportDraft
    totals: Totals = field(factory=Totals, init=False)

    def __attrs_post_init__(self) -> None:
        before, _ = hashed_frame(self.cut, self.totals)
        self.draft.hash(before.encode())
        if self.draft.format is ReportFormat.CSV:
            self.draft.write(csv_lines([FIELDS]).encode())

    def add(self, page: Sequence[Row]) -> None:
        """Go on with these rows."""
        rows: list[dict[str, str]] = [
            {
                name: text
                for name, text in zip(FIELDS, row.values(), strict=True)
                if text is not None
            }
            for row in page
        ]
        for row in rows:
            row["status"] = WIRE_WORDS[row["status"]]
        separator = b"," if self.totals.count else b""
        self.totals.add(rows)
        self.draft.hash(separator + orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)[1:-1])
        if self.draft.format is ReportFormat.JSON:
            self.draft.write(separator + orjson.dumps(rows)[1:-1])
        else:
            lines = csv_lines([[row.get(name) for name in FIELDS] for row in rows])
            self.draft.write(b"\n" + lines.encode())

    def finish(self, generated_at: datetime) -> ReportFile:
        """Return the report."""
        _, after = hashed_frame(self.cut, self.totals)
        self.draft.hash(after.encode())
        if self.draft.format is ReportFormat.CSV:
            return self.draft.finish()
        head, tail = sent_frame(
            self.cut, self.totals, generated_at=generated_at, sha256=self.draft.sha256
        )
        self.draft.write(tail.encode())
        return self.draft.finish(head.encode())
