"""The reports of netting runs on a real database: their rows, their bytes, and what is kept."""

import hashlib
import json
import zlib
from typing import Any

import attrs
import pytest
import trio

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import ClawsettleError, NotFoundError
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.domain.netting_conservation import AppliedSums
from clawsettle.domain.netting_reports import FIELDS, summary
from clawsettle.domain.payout_reports import ReportFormat
from clawsettle.storage.bridge import Database, Transaction, open_database
from clawsettle.storage.netting_reports import (
    PAGE,
    NettingReports,
    ReadReport,
)
from tests.storage import payout_histories
from tests.storage.netting_runs import (
    MIDNIGHT,
    end,
    keep,
    keep_ended,
    link,
    stored_entry,
    stored_run,
)

PUBLISHED = "a41d9b82b2efd4d2ef649d112e1ddb84e4de98844c88b8bdb351268396625f90"


def published_run() -> tuple[Run, list[Entry]]:
    run = stored_run(
        "idem_netting_deterministic", candidate_count=3, applied_count=2, total_amount_minor=1200
    )
    return run, [
        stored_entry(
            run, "acct_A", "p_1", "p_2", amount_minor=500, ledger_event_id="evt_netting_2"
        ),
        stored_entry(run, "acct_B", "p_3", ledger_event_id="evt_netting_1"),
    ]


def data(report: ReadReport) -> bytes:
    with report.file.file as file:
        return report.file.head + file.read()


async def as_csv(database: Database, run: Run) -> str:
    report = await NettingReports(database).read(run.run_id, ReportFormat.CSV)
    text = data(report)
    assert hashlib.sha256(text).hexdigest() == report.file.csv_sha256
    return text.decode()


async def rows_of(database: Database, run: Run) -> list[dict[str, Any]]:
    """The rows of the JSON, after its hash was computed as a reader would."""
    report = await NettingReports(database).read(run.run_id, ReportFormat.JSON)
    told = json.loads(b'{"entries":[' + data(report))
    hashed = {"run_id": run.run_id, "summary": summary(report.run), "entries": told["entries"]}
    assert told["artifact_sha256"] == report.file.sha256 == sha256_hex(canonical_json(hashed))
    rows: list[dict[str, Any]] = told["entries"]
    return rows


async def test_the_contracts_run_has_the_published_hash_in_both_formats(database_url: str) -> None:
    async with open_database(database_url) as database:
        run = await keep_ended(database, *published_run())
        assert run.report_hash == PUBLISHED
        for written in ReportFormat:
            report = await NettingReports(database).read(run.run_id, written)
            report.file.file.close()
            assert report.file.sha256 == PUBLISHED
            assert (report.run, report.version_count) == (run, 1)
        assert await as_csv(database, run) == (
            ",".join(FIELDS)
            + "\nnte_29916e3a5eabb38fbf7e10573554,acct_B,1,700,applied,evt_netting_1,,,p_3"
            + "\nnte_b655efa53de26422509e6bcd3ec6,acct_A,2,500,applied,evt_netting_2,,,p_1|p_2"
        )


async def test_the_empty_run_has_the_published_hash(database_url: str) -> None:
    run = attrs.evolve(stored_run(), run_id="nrun_c3c9e4a18ac491343a2ad1f399f3")
    async with open_database(database_url) as database:
        run = await keep_ended(database, run, [])
        assert await rows_of(database, run) == []
        assert await as_csv(database, run) == ",".join(FIELDS)
    assert run.report_hash == "cfdb887d941514b57e830cf6f71482ecf80b81acb999e63b329243a0960e2864"


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 5000])
async def test_no_entry_is_lost_between_pages(database_url: str, count: int) -> None:
    run = stored_run()
    entries = [stored_entry(run, f"acct_{place}", f"p_{place}") for place in range(count)]
    async with open_database(database_url) as database:
        run = await keep_ended(database, run, entries)
        rows = await rows_of(database, run)
        lines = (await as_csv(database, run)).split("\n")
        read = await NettingReports(database).read(run.run_id, ReportFormat.JSON)
        read.file.file.close()
    ids = [row["entry_id"] for row in rows]
    assert ids == sorted(entry.entry_id for entry in entries) == read.moved_ids
    assert [line.partition(",")[0] for line in lines] == ["entry_id", *ids]


async def test_a_report_has_the_same_bytes_whenever_it_is_read(database_url: str) -> None:
    async with open_database(database_url) as database:
        run = await keep_ended(database, *published_run())
        reports = NettingReports(database)
        for written in ReportFormat:
            first, second = [await reports.read(run.run_id, written) for _ in range(2)]
            assert data(first) == data(second)
            assert first.file.sha256 == second.file.sha256 == PUBLISHED


@pytest.mark.parametrize("status", list(RunStatus))
async def test_a_run_has_a_report_in_every_state(database_url: str, status: RunStatus) -> None:
    run = stored_run(status=status, failed_count=0)
    entries = [
        stored_entry(run, f"acct_{one}", "p_1", status=one, doubt_at=MIDNIGHT)
        for one in EntryStatus
    ]
    async with open_database(database_url) as database:
        if status.is_open:
            await keep(database, run, entries)
        else:
            run = await keep_ended(database, run, entries)
        statuses = {
            row["connect_account_id"]: row["status"] for row in await rows_of(database, run)
        }
        report = await NettingReports(database).read(run.run_id, ReportFormat.JSON)
        report.file.file.close()
    assert statuses == {f"acct_{one}": str(one.wire) for one in EntryStatus}
    assert report.run == run
    assert [f"acct_{EntryStatus.APPLIED}"] == [
        entry.connect_account_id for entry in entries if entry.entry_id in report.moved_ids
    ]


async def test_a_run_that_compensates_has_a_further_column(database_url: str) -> None:
    run = stored_run()
    sweep = stored_entry(run, "acct_A", "p_1")
    back = stored_entry(
        run, "acct_B", "p_2", amount_minor=-300, compensated_payout_ids=("p_8", "p_9")
    )
    async with open_database(database_url) as database:
        run = await keep_ended(database, run, [sweep, back])
        head, *lines = (await as_csv(database, run)).split("\n")
    assert head == ",".join((*FIELDS, "compensated_payout_ids"))
    assert sorted(lines) == sorted(
        [
            f"{sweep.entry_id},acct_A,1,700,applied,evt_acct_A,,,p_1,",
            f"{back.entry_id},acct_B,1,-300,applied,evt_acct_B,,,p_2,p_8|p_9",
        ]
    )


async def test_hostile_texts_are_hashed_and_escaped_as_callers_expect(database_url: str) -> None:
    hostile = 'a"b\\c\n\r\t\x01\x7f\u2028ä😀,=1'
    run = stored_run(status=RunStatus.FAILED, failed_count=2)
    entries = [
        stored_entry(
            run,
            account,
            "p_1",
            status=EntryStatus.FAILED,
            last_error_code="CODE",
            last_error_message=message,
        )
        for account, message in ((hostile, "=cmd|' /C'!A0"), ("acct_A", hostile))
    ]
    async with open_database(database_url) as database:
        run = await keep_ended(database, run, entries)
        told = {row["connect_account_id"] for row in await rows_of(database, run)}
        text = await as_csv(database, run)
    quoted = hostile.replace('"', '""')
    assert told == {hostile, "acct_A"}
    assert f",\"{quoted}\",1,700,failed,,CODE,'=cmd|' /C'!A0,p_1" in text
    assert f',acct_A,1,700,failed,,CODE,"{quoted}",p_1' in text


async def test_a_run_that_nobody_has_asked_for_is_not_found(database_url: str) -> None:
    async with open_database(database_url) as database:
        reports = NettingReports(database)
        for asked in (reports.read("nrun_none", ReportFormat.CSV), reports.verify("nrun_none")):
            with pytest.raises(NotFoundError) as caught:
                await asked
            assert caught.value.details == {"run_id": "nrun_none"}
        with pytest.raises(NotFoundError) as caught:
            await reports.version("nrun_none", 1)
        assert caught.value.details == {"run_id": "nrun_none", "version": 1}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE netting_entry SET amount_minor = 501 WHERE amount_minor = 500",
        "UPDATE netting_entry SET payout_ids = '{p_1,p_9}' WHERE amount_minor = 500",
        "UPDATE netting_run SET total_amount_minor = 1201",
        "UPDATE netting_run SET target_clearing_domain = 'elsewhere'",
    ],
)
async def test_what_was_changed_after_the_run_had_ended_is_not_reported(
    database_url: str, change: str
) -> None:
    async with open_database(database_url) as database:
        run = await keep_ended(database, *published_run())
        await database.fetch(change)
        reports = NettingReports(database)
        for asked in (
            *(reports.read(run.run_id, written) for written in ReportFormat),
            reports.verify(run.run_id),
        ):
            with pytest.raises(ClawsettleError) as caught:
                await asked
            assert (caught.value.code, caught.value.details) == (
                "INTERNAL_ERROR",
                {"run_id": run.run_id},
            )
        frozen = await reports.version(run.run_id, 1)
        frozen.file.close()
        assert frozen.sha256 == PUBLISHED


async def test_every_end_of_a_run_can_be_read_as_it_was(database_url: str) -> None:
    run, entries = published_run()
    failed = [
        attrs.evolve(entry, status=EntryStatus.FAILED, applied_at=None, ledger_event_id=None)
        for entry in entries
    ]
    async with open_database(database_url) as database:
        await keep(database, run, failed)
        first = await end(database, run, RunStatus.FAILED)
        for entry in entries:
            await database.fetch(
                "UPDATE netting_entry SET status = 'applied', applied_at = $3, ledger_event_id = $2"
                " WHERE entry_id = $1",
                entry.entry_id,
                entry.ledger_event_id,
                MIDNIGHT,
            )
        second = await end(database, run)
        reports, texts = NettingReports(database), []
        for number, ended in enumerate((first, second), 1):
            report = await reports.version(run.run_id, number)
            with report.file as file:
                texts.append(file.read())
            assert hashlib.sha256(texts[-1]).hexdigest() == report.sha256 == ended.report_hash
            assert report.file_bytes == len(texts[-1])
        with pytest.raises(NotFoundError) as caught:
            await reports.version(run.run_id, 3)
        assert caught.value.details == {"run_id": run.run_id, "version": 3}
        read = await reports.read(run.run_id, ReportFormat.CSV)
        read.file.file.close()
    assert read.version_count == 2
    assert [json.loads(text)["summary"]["status"] for text in texts] == ["failed", "applied"]
    assert [canonical_json(json.loads(text)).encode() for text in texts] == texts


@pytest.mark.parametrize("content", [b"", b"{}", zlib.compress(b"{}")])
async def test_a_version_that_was_changed_is_not_answered(
    database_url: str, content: bytes
) -> None:
    async with open_database(database_url) as database:
        run = await keep_ended(database, *published_run())
        await database.fetch("UPDATE netting_report SET content = $1", content)
        with pytest.raises(ClawsettleError) as caught:
            await NettingReports(database).version(run.run_id, 1)
        assert (caught.value.code, caught.value.details) == (
            "INTERNAL_ERROR",
            {"run_id": run.run_id},
        )


async def test_a_report_is_of_one_instant(database_url: str) -> None:
    """What commits while a report is being read is in its head and all of its rows, or in none."""
    run = stored_run(status=RunStatus.RUNNING)
    entries = [
        stored_entry(run, f"acct_{place}", f"p_{place}", amount_minor=1)
        for place in range(3 * PAGE)
    ]
    async with open_database(database_url) as database:
        await keep(database, attrs.evolve(run, total_amount_minor=len(entries)), entries)

        async def meddle() -> None:
            async def work(transaction: Transaction) -> None:
                await transaction.fetch("UPDATE netting_entry SET amount_minor = amount_minor + 1")
                await transaction.fetch(
                    "UPDATE netting_run SET total_amount_minor = total_amount_minor + $1",
                    len(entries),
                )

            while True:
                await database.transaction(work)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meddle)
            for _ in range(5):
                report = await NettingReports(database).read(run.run_id, ReportFormat.JSON)
                rows = json.loads(b'{"entries":[' + data(report))["entries"]
                (amount_minor,) = {int(row["amount_minor"]) for row in rows}
                total_minor = amount_minor * len(entries)
                assert report.run.total_amount_minor == report.sums.entries_minor == total_minor
            nursery.cancel_scope.cancel()
    assert amount_minor > 1


async def test_applied_entries_are_summed_up_with_their_payouts(database_url: str) -> None:
    run = stored_run()
    async with open_database(database_url) as database:
        paid = [payout_histories.history(key, amount_minor=2**62) for key in ("a", "b", "c")]
        await payout_histories.keep(database, *paid)
        ids = [one.payout.payout_id for one in paid]
        entries = [
            stored_entry(run, f"acct_{place}", payout_id, amount_minor=2**62)
            for place, payout_id in enumerate(ids)
        ]
        failed = stored_entry(run, "acct_9", "p_9", status=EntryStatus.FAILED)
        await keep(database, run, [*entries, failed])
        await link(database, *entries)
        run = await end(database, run)
        assert await sums_of(database, run) == AppliedSums(3 * 2**62, 3 * 2**62, agree=True)
        # What one has too much, another has too little.
        for place, more in ((0, 5), (1, -5)):
            await database.fetch(
                "UPDATE payout SET amount_minor = amount_minor + $2 WHERE payout_id = $1",
                ids[place],
                more,
            )
        assert await sums_of(database, run) == AppliedSums(3 * 2**62, 3 * 2**62, agree=False)
        await database.fetch("UPDATE netting_item SET run_id = NULL, entry_id = NULL")
        assert await sums_of(database, run) == AppliedSums(3 * 2**62, 0, agree=False)


async def sums_of(database: Database, run: Run) -> AppliedSums:
    report = await NettingReports(database).read(run.run_id, ReportFormat.JSON)
    report.file.file.close()
    return report.sums


async def test_entries_of_a_run_are_found_by_their_ids(database_url: str) -> None:
    run, entries = published_run()
    async with open_database(database_url) as database:
        await keep(database, run, entries)
        reports = NettingReports(database)
        assert await reports.entries(run.run_id, [entries[1].entry_id]) == [entries[1]]
        assert await reports.entries("nrun_none", [entries[1].entry_id]) == []
