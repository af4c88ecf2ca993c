"""The daily report on a real database: its rows, its bytes, its hash, and its cut."""

import errno
import hashlib
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import CallerError, StorageError
from clawsettle.domain.payout_reports import FIELDS, ReportCut, ReportFormat
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.payout_reports import PAGE, PayoutReports
from clawsettle.storage.report_files import ReportFile
from tests.storage.payout_histories import NOON, PASTS, History, history, keep, store

S = PayoutStatus
DAY = date(2026, 2, 11)
CUT = ReportCut(DAY)
MS = timedelta(milliseconds=1)
VECTOR = "4964951bff6110939b8955039ea144f5d667f768ca48adb0de827d0d9fc5966a"
CANONICAL = (
    '{"date":"2026-02-11","rows":[{"account_id":"acc_payout_1","amount_minor":"1200",'
    '"created_at":"2026-02-11T12:00:00.000Z","currency":"USD",'
    '"external_payout_id":"po_a2bcf66ca686e863ed80687f","lock_event_id":"evt_ledger_1",'
    '"payout_id":"pout_e441ff0d7cd276eda27d75ca657c","status":"submitted",'
    '"submitted_at":"2026-02-11T12:00:00.000Z"}],"totals":{"amount_minor_by_status":'
    '{"submitted":"1200"},"amount_minor_total":"1200","payout_count":1}}'
)


def content(report: ReportFile) -> bytes:
    with report.file:
        return report.head + report.file.read()


async def as_json(database: Database, cut: ReportCut = CUT) -> dict[str, Any]:
    """The report, after its hash was computed as a reader would."""
    report = await PayoutReports(database).daily(cut, ReportFormat.JSON)
    told: dict[str, Any] = json.loads(content(report))
    hashed = canonical_json({name: told[name] for name in ("date", "rows", "totals")})
    assert told["artifact_sha256"] == report.sha256 == sha256_hex(hashed)
    return told


async def as_csv(database: Database, cut: ReportCut = CUT) -> str:
    report = await PayoutReports(database).daily(cut, ReportFormat.CSV)
    data = content(report)
    assert hashlib.sha256(data).hexdigest() == report.csv_sha256
    return data.decode()


def changed(one: History, **fields: Any) -> History:
    return History(attrs.evolve(one.payout, **fields), one.audits)


async def test_one_payout_has_the_published_text_and_hash(database_url: str) -> None:
    async with open_database(database_url) as database:
        one = history("idem_payout_1", S.SUBMITTED, step=timedelta(0))
        await keep(database, changed(one, lock_event_id="evt_ledger_1"))
        told = await as_json(database)
    assert told["artifact_sha256"] == VECTOR
    assert canonical_json({name: told[name] for name in ("date", "rows", "totals")}) == CANONICAL


async def test_an_empty_day_is_a_report_too(database_url: str) -> None:
    async with open_database(database_url) as database:
        told = await as_json(database)
        assert list(told) == ["date", "generated_at", "totals", "rows", "artifact_sha256"]
        assert told["rows"] == []
        assert await as_csv(database) == ",".join(FIELDS)


async def test_a_day_has_what_was_created_in_its_milliseconds(database_url: str) -> None:
    first = datetime(2026, 2, 11, tzinfo=UTC)
    last = first + timedelta(days=1) - MS
    async with open_database(database_url) as database:
        await keep(
            database,
            *[
                history(f"key_{place}", created_at=at)
                for place, at in enumerate([first - MS, first, last, last + MS])
            ],
        )
        told = await as_json(database)
    assert [row["created_at"] for row in told["rows"]] == [
        "2026-02-11T00:00:00.000Z",
        "2026-02-11T23:59:59.999Z",
    ]


async def test_rows_of_one_instant_are_in_the_order_of_their_ids(database_url: str) -> None:
    async with open_database(database_url) as database:
        await keep(database, *[history(f"key_{place}") for place in range(40)])
        ids = [row["payout_id"] for row in (await as_json(database))["rows"]]
    assert ids == sorted(ids)


async def test_callers_read_the_six_words_whatever_is_stored(database_url: str) -> None:
    async with open_database(database_url) as database:
        await keep(
            database,
            *[
                history(status, status, created_at=NOON + place * MS)
                for place, status in enumerate(S)
            ],
        )
        told = await as_json(database)
        lines = (await as_csv(database)).split("\n")
    assert [row["status"] for row in told["rows"]] == [str(status.wire) for status in S]
    assert told["totals"]["payout_count"] == len(S)
    assert told["totals"]["amount_minor_by_status"] == {
        "failed": "3600",
        "finalizing_failed": "3600",
        "finalizing_paid": "1200",
        "initiated": "3600",
        "paid": "1200",
        "submitted": "1200",
    }
    rows = [",".join(row.get(name, "") for name in FIELDS) for row in told["rows"]]
    assert lines == [",".join(FIELDS), *rows]


async def test_hostile_ids_are_escaped_as_callers_expect(database_url: str) -> None:
    hostile = 'a"b\\c\n\r\t\x01\x7f\u2028ä😀,=1'
    async with open_database(database_url) as database:
        one = history("key", S.SUBMITTED)
        await keep(
            database, changed(one, external_payout_id=hostile, lock_event_id="=cmd|' /C'!A0")
        )
        told = await as_json(database)
        line = (await as_csv(database)).split("\n", 1)[1]
    assert told["rows"][0]["external_payout_id"] == hostile
    quoted = hostile.replace('"', '""')
    assert f',"{quoted}",' in line
    assert ",'=cmd|' /C'!A0," in line


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 5000])
async def test_no_row_is_lost_between_pages(database_url: str, count: int) -> None:
    async with open_database(database_url) as database:
        await keep(
            database,
            *[
                history(f"key_{place}", created_at=NOON + place // 3 * MS, amount_minor=2**62)
                for place in range(count)
            ],
        )
        told = await as_json(database)
        lines = (await as_csv(database)).split("\n")
    places = [(row["created_at"], row["payout_id"]) for row in told["rows"]]
    assert len(set(places)) == count == len(lines) - 1
    assert places == sorted(places)
    assert told["totals"]["amount_minor_total"] == str(count * 2**62)


async def test_both_formats_state_one_hash(database_url: str) -> None:
    async with open_database(database_url) as database:
        await keep(database, history())
        reports = PayoutReports(database)
        written = [await reports.daily(CUT, written) for written in ReportFormat]
    for one in written:
        one.file.close()
    assert len({one.sha256 for one in written}) == 1


def moments() -> Iterator[tuple[PayoutStatus, PayoutStatus, int]]:
    """Every status that a payout can end in, and every one it had before, by its place."""
    for end, past in PASTS.items():
        for place, then in enumerate([S.INITIATED, *past]):
            yield end, then, place


@pytest.mark.parametrize(("end", "then", "place"), list(moments()))
async def test_a_cut_shows_what_was_whatever_happens_later(
    database_url: str, end: PayoutStatus, then: PayoutStatus, place: int
) -> None:
    cut = ReportCut(DAY, NOON + timedelta(seconds=place, milliseconds=500))
    async with open_database(database_url) as database:
        before, later = history(end=then), history(end=end)
        await keep(database, before, history("of_later", created_at=NOON + timedelta(hours=1)))
        frozen = [content(await PayoutReports(database).daily(cut, one)) for one in ReportFormat]
        (as_it_was,) = (await as_json(database, cut))["rows"]
        (row, *_) = (await as_json(database))["rows"]
        assert as_it_was == row  # nothing has happened since
        await store(database, [History(later.payout, later.audits[len(before.audits) :])])
        assert frozen == [
            content(await PayoutReports(database).daily(cut, one)) for one in ReportFormat
        ]
        assert (await as_json(database, cut))["rows"] == [row]


async def test_a_cut_is_told_and_nothing_depends_on_when_it_is_read(database_url: str) -> None:
    cut = ReportCut(DAY, NOON)
    async with open_database(database_url) as database:
        await keep(database, history(created_at=NOON), history("key", created_at=NOON - MS))
        told = await as_json(database, cut)
    assert told["as_of"] == told["generated_at"] == "2026-02-11T12:00:00.000Z"
    assert [row["created_at"] for row in told["rows"]] == ["2026-02-11T11:59:59.999Z"]


async def test_a_cut_that_may_still_change_is_refused(database_url: str) -> None:
    async with open_database(database_url) as database:
        reports = PayoutReports(database)
        now = await reports.read_at(CUT)
        for at in (now - timedelta(seconds=50), now + timedelta(days=1)):
            with pytest.raises(CallerError) as refused:
                await reports.daily(ReportCut(DAY, at), ReportFormat.JSON)
            assert refused.value.details == {"field": "as_of"}
        (
            await reports.daily(ReportCut(DAY, now - timedelta(minutes=2)), ReportFormat.JSON)
        ).file.close()


async def test_a_report_is_of_one_instant(database_url: str) -> None:
    """What commits while a report is being read is in all of its pages or in none."""
    async with open_database(database_url) as database:
        await keep(database, *[history(f"key_{place}") for place in range(3 * PAGE)])

        async def meddle() -> None:
            while True:
                await database.fetch("UPDATE payout SET amount_minor = amount_minor + 1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meddle)
            for _ in range(5):
                told = await as_json(database)
                assert len({row["amount_minor"] for row in told["rows"]}) == 1
            nursery.cancel_scope.cancel()
    assert told["rows"][0]["amount_minor"] != "1200"


async def test_a_full_disk_is_said_and_leaves_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(tempfile.SpooledTemporaryFile[bytes]):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    async with open_database(database_url) as database:
        await keep(database, history())
        with pytest.raises(StorageError, match="No space left on device") as failed:
            await PayoutReports(database).daily(CUT, ReportFormat.JSON)
        assert not failed.value.retryable
        assert database.statistics()["open"] == database.statistics()["idle"]
