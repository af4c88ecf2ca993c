"""Reading netting runs: what was stored comes back, whole, in order, and page by page."""

import json
from datetime import timedelta

import pytest

from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.storage.bridge import open_database
from clawsettle.storage.netting_lists import PAGE, NettingLists
from tests.storage.netting_runs import MIDNIGHT, keep, stored_entry, stored_run

RUN = stored_run(
    candidate_count=5,
    applied_count=1,
    failed_count=1,
    total_amount_minor=-20,
    status=RunStatus.FAILED,
    last_error_code="LEDGER_INGEST_FAILED",
    last_error_message="no answer (status=500)",
    is_scheduled=True,
)
ENTRIES = [
    stored_entry(RUN, "acct_a", "pout_1", 'pout_"2', "pout_\N{GREEK SMALL LETTER ALPHA}"),
    stored_entry(
        RUN,
        "acct_b",
        "pout_4",
        compensated_payout_ids=("pout_0",),
        amount_minor=-720,
        status=EntryStatus.UNKNOWN,
        doubt_at=MIDNIGHT,
        attempts=2,
        last_error_code="LEDGER_INGEST_FAILED",
        last_error_message="no answer (status=500)",
    ),
]


def by_id(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.entry_id.encode())


async def whole(lists: NettingLists, run: Run) -> tuple[Run, dict[str, object]]:
    """Return a run as it is told, and its JSON with the brace that an answer puts before."""
    found = await lists.whole(run.run_id)
    assert found is not None
    with found.file as file:
        text = file.read()
    assert len(text) == found.file_bytes
    return found.run, json.loads(b"{" + text)


async def test_a_run_and_its_entries_come_back_as_they_were_stored(database_url: str) -> None:
    async with open_database(database_url) as database:
        lists = NettingLists(database)
        await keep(database, RUN, ENTRIES)
        await keep(database, stored_run("another"), [stored_entry(stored_run("another"), "a", "p")])
        assert await lists.run(RUN.run_id) == RUN
        assert await lists.entries(RUN.run_id) == by_id(ENTRIES)
        assert await whole(lists, RUN) == (
            RUN,
            {"run": RUN.view(), "entries": [entry.view() for entry in by_id(ENTRIES)]},
        )


async def test_an_open_run_comes_back_with_its_lease(database_url: str) -> None:
    run = stored_run(status=RunStatus.RUNNING, lease_token=-7, due_at=MIDNIGHT)
    async with open_database(database_url) as database:
        await keep(database, run)
        assert await NettingLists(database).run(run.run_id) == run


async def test_a_run_that_is_unknown_is_none(database_url: str) -> None:
    async with open_database(database_url) as database:
        lists = NettingLists(database)
        assert await lists.run("nrun_x") is None
        assert await lists.whole("nrun_x") is None
        assert await lists.entries("nrun_x") == []


@pytest.mark.parametrize("count", [0, 1, PAGE, PAGE + 1, 2 * PAGE])
async def test_every_entry_is_told_once_in_order_however_many_there_are(
    database_url: str, count: int
) -> None:
    entries = [stored_entry(RUN, f"acct_{place}", f"pout_{place}") for place in range(count)]
    async with open_database(database_url) as database:
        await keep(database, RUN, entries)
        _, told = await whole(NettingLists(database), RUN)
        assert told["entries"] == [entry.view() for entry in by_id(entries)]


async def test_runs_are_listed_the_newest_first_and_of_one_instant_the_highest_id(
    database_url: str,
) -> None:
    runs = [
        stored_run(
            f"key_{place}",
            created_at=MIDNIGHT + timedelta(milliseconds=place // 3),
            status=RunStatus.RUNNING if place % 4 == 0 else RunStatus.APPLIED,
        )
        for place in range(30)
    ]
    newest = sorted(runs, key=lambda run: (run.created_at, run.run_id), reverse=True)
    async with open_database(database_url) as database:
        lists = NettingLists(database)
        for run in runs:
            await keep(database, run)
        for status in (None, RunStatus.RUNNING, RunStatus.APPLIED, RunStatus.FAILED):
            expected = [run for run in newest if status in {None, run.status}]
            for limit in (1, 4, 10, 31):
                found: list[Run] = []
                after = None
                while True:
                    page = await lists.runs(status, after=after, limit=limit)
                    assert len(page.rows) <= limit
                    found += page.rows
                    after = page.next
                    if after is None:
                        break
                assert found == expected


async def test_an_audit_trail_is_paged_in_its_order(database_url: str) -> None:
    other = stored_run("another")
    async with open_database(database_url) as database:
        lists = NettingLists(database)
        await keep(database, RUN, ENTRIES)
        await keep(database, other)
        await database.fetch(
            "INSERT INTO netting_audit (run_id, entry_id, event_type, details, at)"
            " SELECT CASE WHEN n % 2 = 0 THEN $1 ELSE $2 END, CASE WHEN n % 4 = 0 THEN $3 END,"
            " 'netting.run.' || n, json_build_object('n', n), $4 FROM generate_series(1, 20) AS n",
            RUN.run_id,
            other.run_id,
            ENTRIES[0].entry_id,
            MIDNIGHT,
        )
        first = await lists.audit(RUN.run_id, after=0, limit=7)
        assert first.next is not None
        at, number = first.next
        rest = await lists.audit(RUN.run_id, after=int(number), limit=7)
        assert (at, rest.next) == (MIDNIGHT, None)
        kept = [*first.rows, *rest.rows]
        assert [one.audit.event_type for one in kept] == [
            f"netting.run.{n}" for n in range(2, 21, 2)
        ]
        assert [one.audit.entry_id for one in kept] == [None, ENTRIES[0].entry_id] * 5
        assert [one.audit.details for one in kept] == [{"n": n} for n in range(2, 21, 2)]
        assert {(one.audit.run_id, one.at) for one in kept} == {(RUN.run_id, MIDNIGHT)}
        full = await lists.audit(RUN.run_id, after=0, limit=10)
        assert (len(full.rows), full.next) == (10, None)
