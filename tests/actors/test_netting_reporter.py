"""The reports of netting runs with their proof, on the embedded ledger."""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

import attrs
import pytest
import trio

from clawsettle.actors.netting_reporter import PAGE, NettingReporter
from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.errors import NotFoundError
from clawsettle.domain.netting import Entry, Run
from clawsettle.domain.payout_reports import ReportFormat
from clawsettle.storage.netting_reports import NettingReports
from tests.clients.faulty import Wire, answering, faulty, hang
from tests.clients.ledgers import ledger_at, ledger_port
from tests.house import House, open_house, settings
from tests.netting import SOURCE, TARGET, fail_late, fund, paid, request
from tests.storage.netting_runs import end, keep, link, stored_entry, stored_run

ALONE = settings(netting={"poll_s": 3600})


@asynccontextmanager
async def reporting(database_url: str) -> AsyncIterator[tuple[House, NettingReporter]]:
    async with open_house(database_url, ALONE) as house:
        ledger = house.parts.netting.runner.steps.ledger
        yield house, NettingReporter(NettingReports(house.database), ledger)


async def told(reporter: NettingReporter, run_id: str) -> dict[str, Any]:
    """The report as JSON, after the hash of its proof was computed as a reader would."""
    report = await reporter.report(run_id, ReportFormat.JSON)
    with report.file as file:
        found: dict[str, Any] = json.loads(report.head + file.read())
    assert found["artifact_sha256"] == report.sha256
    bound = {name: found[name] for name in ("artifact_sha256", "conservation")}
    assert found["conservation_sha256"] == sha256_hex(canonical_json(bound))
    return found


async def test_what_a_run_has_moved_is_what_its_payouts_are(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        found = await told(reporter, run.run_id)
    assert list(found) == [
        "run_id",
        "generated_at",
        "summary",
        "version_count",
        "conservation",
        "conservation_sha256",
        "entries",
        "artifact_sha256",
    ]
    assert (found["run_id"], found["artifact_sha256"]) == (run.run_id, run.report_hash)
    assert (found["version_count"], len(found["entries"])) == (1, 2)
    assert found["conservation"] == {
        "entries_minor": "1200",
        "payouts_minor": "1200",
        "ledger_minor": "1200",
        "ledger_event_count": 2,
        "holds": True,
    }


async def test_what_comes_back_counts_against_what_goes(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        one, two = await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await house.parts.netting.runner.execute(request("first"))
        for payout in (one, two):
            await fail_late(house.database, payout)
        # acct_A nets to nothing, acct_B gives back, acct_C goes.
        await paid(house, ("c", "acct_A", 200), ("d", "acct_B", 100), ("e", "acct_C", 50))
        run = (await house.parts.netting.runner.execute(request("second"))).run
        found = await told(reporter, run.run_id)
        first = await told(reporter, request("first").run_id)
    assert {row["connect_account_id"]: row["amount_minor"] for row in found["entries"]} == {
        "acct_A": "0",
        "acct_B": "-200",
        "acct_C": "50",
    }
    assert found["conservation"] == {
        "entries_minor": "-150",
        "payouts_minor": "-150",
        "ledger_minor": "-150",
        "ledger_event_count": 2,
        "holds": True,
    }
    assert (first["conservation"]["holds"], first["conservation"]["ledger_minor"]) == (True, "500")


@pytest.mark.parametrize("count", [PAGE, PAGE + 1])
async def test_every_entry_is_looked_up(database_url: str, count: int) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, *[(f"key_{place}", f"acct_{place}", 1) for place in range(count)])
        run = (await house.parts.netting.runner.execute(request("key", limit=count))).run
        found = await told(reporter, run.run_id)
    assert found["conservation"]["ledger_event_count"] == count
    assert found["conservation"]["ledger_minor"] == str(count)
    assert found["conservation"]["holds"] is True


@pytest.mark.parametrize(
    ("source", "target", "amount_minor", "ledger_minor"),
    [
        (SOURCE, TARGET, 700, "700"),
        (SOURCE, TARGET, 699, "699"),
        (TARGET, SOURCE, 700, "-700"),
        (SOURCE, "elsewhere", 700, "0"),
        ("elsewhere", TARGET, 700, "0"),
    ],
)
async def test_an_event_that_is_not_the_entrys_does_not_prove_it(
    database_url: str, source: str, target: str, amount_minor: int, ledger_minor: str
) -> None:
    async with reporting(database_url) as (house, reporter):
        (payout,) = await paid(house, ("a", "acct_A", 700))
        entry = stored_entry(stored_run(), "acct_A", payout.payout_id)
        await fund(house, 1000, source)
        answer = await house.ledger.post(
            "/v1/transfers",
            json={
                "idempotency_key": entry.idempotency_key,
                "currency": "USD",
                "from": {"account": f"clearing:{source}", "bucket": "A"},
                "to": {"account": f"clearing:{target}", "bucket": "A"},
                "amount_minor": str(amount_minor),
            },
        )
        event_id = answer.json()["event_id"]
        run = await keep_swept(house, attrs.evolve(entry, ledger_event_id=event_id))
        found = await told(reporter, run.run_id)
    assert found["conservation"] == {
        "entries_minor": "700",
        "payouts_minor": "700",
        "ledger_minor": ledger_minor,
        "ledger_event_count": 1,
        "holds": ledger_minor == "700",
    }


async def test_an_entry_without_an_event_is_not_proved(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        (payout,) = await paid(house, ("a", "acct_A", 700))
        run = await keep_swept(house, stored_entry(stored_run(), "acct_A", payout.payout_id))
        found = await told(reporter, run.run_id)
    assert found["conservation"] == {
        "entries_minor": "700",
        "payouts_minor": "700",
        "ledger_minor": "0",
        "ledger_event_count": 0,
        "holds": False,
    }


async def test_a_payout_that_was_changed_breaks_the_proof(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        await house.database.fetch("UPDATE payout SET amount_minor = 201 WHERE amount_minor = 200")
        found = await told(reporter, run.run_id)
    assert found["conservation"] == {
        "entries_minor": "500",
        "payouts_minor": "501",
        "ledger_minor": "500",
        "ledger_event_count": 1,
        "holds": False,
    }


async def test_a_ledger_behind_http_proves_the_same(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        async with ledger_port(house) as base_url, ledger_at(base_url) as ledger:
            far = await told(NettingReporter(reporter.reports, ledger), run.run_id)
        near = await told(reporter, run.run_id)
    assert far["conservation"] == near["conservation"]
    assert far["conservation"]["holds"] is True


async def test_a_ledger_that_does_not_answer_proves_nothing_and_holds_up_no_report(
    database_url: str,
) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        async with (
            faulty(None, repeat(answering(500, b"{}"))) as server,
            ledger_at(server.base_url) as ledger,
        ):
            found = await told(NettingReporter(reporter.reports, ledger), run.run_id)
    assert found["artifact_sha256"] == run.report_hash
    assert found["conservation"] == {
        "entries_minor": "500",
        "payouts_minor": "500",
        "holds": None,
    }


async def test_a_table_asks_no_ledger(database_url: str) -> None:
    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        async with faulty(None, []) as server, ledger_at(server.base_url) as ledger:
            far = NettingReporter(reporter.reports, ledger)
            report = await far.report(run.run_id, ReportFormat.CSV)
            report.file.close()
            assert server.requests == []
    assert (report.sha256, report.head) == (run.report_hash, b"")


async def test_a_report_that_nobody_waits_for_any_more_is_dropped(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []

    class Watched(tempfile.SpooledTemporaryFile[bytes]):
        def __init__(self, max_size: int) -> None:
            super().__init__(max_size)
            files.append(self)

    async with reporting(database_url) as (house, reporter):
        await paid(house, ("a", "acct_A", 200))
        run = (await house.parts.netting.runner.execute(request("key"))).run
        monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Watched)
        asked = trio.Event()

        async def never(wire: Wire) -> None:
            asked.set()
            await hang(wire)

        async with (
            faulty(None, [never]) as server,
            ledger_at(server.base_url) as ledger,
            trio.open_nursery() as nursery,
        ):
            far = NettingReporter(reporter.reports, ledger)
            nursery.start_soon(far.report, run.run_id, ReportFormat.JSON)
            with trio.fail_after(10):
                await asked.wait()
            nursery.cancel_scope.cancel()
    assert [file.closed for file in files] == [True]


async def test_a_run_that_nobody_has_asked_for_has_no_report(database_url: str) -> None:
    async with reporting(database_url) as (_, reporter):
        with pytest.raises(NotFoundError) as caught:
            await reporter.report("nrun_none", ReportFormat.JSON)
        assert caught.value.details == {"run_id": "nrun_none"}


async def keep_swept(house: House, entry: Entry) -> Run:
    """Store a run that has ended, whose only entry says that it has moved its payouts."""
    await keep(house.database, run := stored_run(), [entry])
    await link(house.database, entry)
    return await end(house.database, run)
