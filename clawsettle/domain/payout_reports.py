"""The daily report of payouts: which rows it has, how they are written, what is hashed.

The hash covers ``date``, ``totals`` and ``rows`` alone, so a report that is made again from the
same payouts has the same one, whenever it was made and in whichever format.
Source: payouts contract section 8; 11 (13 to 16).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from enum import StrEnum

from attrs import Factory, define, frozen

from clawsettle.domain.canonical import canonical_json, compact_json
from clawsettle.domain.errors import CallerError
from clawsettle.domain.instants import iso_instant, parse_instant, to_millisecond
from clawsettle.domain.payouts import PayoutStatus

FIELDS = (
    "payout_id",
    "account_id",
    "external_payout_id",
    "amount_minor",
    "currency",
    "status",
    "created_at",
    "submitted_at",
    "finalized_at",
    "failed_at",
    "lock_event_id",
    "finalize_event_id",
    "rollback_event_id",
)
"""The fields of a row, in the order of JSON and of CSV; each is a text or absent."""

WIRE_WORDS: Mapping[str, str] = {str(status): str(status.wire) for status in PayoutStatus}
"""Stored status -> the word that callers know."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_QUOTED = re.compile(r'[",\n\r]')
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NEGATIVE = re.compile(r"-[1-9][0-9]*\Z")
# An instant has dashes, but none begins with one.
_SUSPECT = ('"', "\r", "=", "+", "@", "\t", ",-", "\n-")


class ReportFormat(StrEnum):
    """How a report is written."""

    JSON = "json"
    CSV = "csv"


@frozen
class ReportCut:
    """One UTC day, as it stood at ``as_of``; as it stands when it is read if that is None."""

    day: date
    as_of: datetime | None = None

    @property
    def first(self) -> datetime:
        """Return the day's first instant."""
        return datetime.combine(self.day, time.min, UTC)

    @property
    def last(self) -> datetime:
        """Return the day's last instant, to the microsecond."""
        return datetime.combine(self.day, time.max, UTC)


def read_format(text: str | None) -> ReportFormat:
    """Read a format; absent and blank mean JSON, and case means nothing.

    Raises: CallerError INVALID_REQUEST with ``details.field``.
    """
    word = (text or "").strip().lower() or ReportFormat.JSON
    if word not in list(ReportFormat):
        raise _wrong("format", "json or csv")
    return ReportFormat(word)


def read_cut(day: str | None, as_of: str | None) -> ReportCut:
    """Read a day that the calendar has and, unless blank, an instant of ISO 8601 with its zone.

    Raises: CallerError INVALID_REQUEST with ``details.field``.
    """
    return ReportCut(_read_day((day or "").strip()), _read_as_of((as_of or "").strip()))


def _read_day(text: str) -> date:
    if not _DATE.match(text):
        raise _wrong("date", "a day such as 2026-02-11")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong("date", "a day of the calendar") from None


def _read_as_of(text: str) -> datetime | None:
    if not text:
        return None
    at = parse_instant(text)
    try:
        if at is not None:
            return to_millisecond(at.astimezone(UTC))
    except OverflowError:  # its zone leads out of the calendar
        pass
    raise _wrong("as_of", "an instant such as 2026-02-12T00:00:00Z")


def _wrong(field: str, wanted: str) -> CallerError:
    return CallerError(f"{field} must be {wanted}", details={"field": field})


@define
class Totals:
    """How many payouts a report has, and their amounts by status, in minor units."""

    count: int = 0
    by_status: dict[str, int] = Factory(dict)

    def add(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Count rows in."""
        for row in rows:
            self.count += 1
            status = row["status"]
            self.by_status[status] = self.by_status.get(status, 0) + int(row["amount_minor"])

    def view(self) -> dict[str, object]:
        """Render the contract's ``totals``."""
        return {
            "payout_count": self.count,
            "amount_minor_total": str(sum(self.by_status.values())),
            "amount_minor_by_status": {
                status: str(total) for status, total in sorted(self.by_status.items())
            },
        }


def hashed_frame(cut: ReportCut, totals: Totals) -> tuple[str, str]:
    """Return what stands before and after the rows in the text that is hashed.

    The rows have their fields sorted. What stands before them needs no totals.
    """
    return (
        f'{{"date":"{cut.day}","rows":[',
        f'],"totals":{canonical_json(totals.view())}}}',
    )


def sent_frame(
    cut: ReportCut, totals: Totals, *, generated_at: datetime, sha256: str
) -> tuple[str, str]:
    """Return what stands before and after the rows in the JSON that is sent."""
    at = iso_instant(cut.as_of or generated_at)
    head: dict[str, object] = {"date": str(cut.day), "generated_at": at}
    if cut.as_of is not None:
        head["as_of"] = at
    head["totals"] = totals.view()
    return f'{compact_json(head)[:-1]},"rows":[', f'],"artifact_sha256":"{sha256}"}}'


def csv_lines(rows: Sequence[Sequence[str | None]]) -> str:
    """Return rows as lines of CSV without the last one's end; an absent cell is empty."""
    plain = "\n".join([",".join([cell or "" for cell in row]) for row in rows])
    # Nearly every page is plain. To ask that of it as a whole costs a tenth of asking each cell.
    cells = sum(map(len, rows))
    is_one_each = plain.count(",") + len(rows) == cells and plain.count("\n") + 1 == len(rows)
    is_suspect = plain.startswith("-") or any(suspect in plain for suspect in _SUSPECT)
    if is_one_each and not is_suspect:
        return plain
    return "\n".join([",".join([csv_cell(cell or "") for cell in row]) for row in rows])


def csv_cell(text: str) -> str:
    """Return a cell, quoted where it must be; one that a spreadsheet would compute gets a ``'``.

    A negative integer is no formula, but what it is.
    Source: payouts contract sections 8 and 11 (15).
    """
    if text.startswith(_FORMULA) and not _NEGATIVE.match(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
