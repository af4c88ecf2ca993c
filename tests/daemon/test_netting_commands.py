"""``clawsettle netting`` as a process, beside a daemon on the same database."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from clawsettle.domain.netting import RunStatus
from tests.daemon.process import command, environment, run
from tests.house import open_house, settings
from tests.netting import SOURCE, cleared, fail_late, links, paid, request, transfer
from tests.storage.books import hold_ledger
from tests.storage.netting_books import end_netting_leases
from tests.storage.netting_runs import keep, stored_run

ALONE = settings(netting={"poll_s": 3600})
ELSEWHERE = "clearing:elsewhere"
APPLYING = "SELECT 1 FROM netting_entry WHERE status = 'applying'"


async def netting(
    database_url: str, *words: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return await run("netting", *words, environ={"DATABASE_URL": database_url, **(environ or {})})


async def answer(database_url: str, *words: str) -> dict[str, Any]:
    """Run a command that succeeds, and return the JSON that it prints."""
    done = await netting(database_url, *words, "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


async def test_a_run_nets_beside_a_daemon_and_a_second_one_under_its_key_does_nothing(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700))
        done = await netting(database_url, "run", "--key", "daily")
        assert done.returncode == 0, done.stderr
        assert request("daily").run_id in done.stdout
        assert "what is wrong" not in done.stdout
        assert await cleared(house) == (0, 1200)
        again = await netting(database_url, "run", "--key", "daily")
        assert again.returncode == 0
        assert again.stdout.endswith("it had been applied before, so nothing was done\n")
        printed = await answer(database_url, "run", "--key", "daily")
        assert printed["deduped"] is True
        assert [entry["status"] for entry in printed["entries"]] == ["applied", "applied"]
        assert await cleared(house) == (0, 1200)
        # It is the very run that the daemon knows.
        assert (await house.parts.netting.runner.execute(request("daily"))).deduped


async def test_a_run_that_has_not_moved_all_says_what_is_wrong_and_goes_on_under_its_key(
    database_url: str,
) -> None:
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await transfer(house, f"clearing:{SOURCE}", ELSEWHERE, 500)
        failed = await netting(database_url, "run", "--key", "daily")
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1] == "clawsettle: 2 of 2 entries have not moved"
        assert failed.stdout.count("INSUFFICIENT_FUNDS: the clearing account does not cover") == 2
        shown = await netting(database_url, "show", request("daily").run_id)
        assert shown.returncode == 0
        assert shown.stdout == failed.stdout
        await transfer(house, ELSEWHERE, f"clearing:{SOURCE}", 500)
        done = await netting(database_url, "run", "--key", "daily")
        assert done.returncode == 0, done.stderr
        assert await cleared(house) == (0, 500)


async def test_a_plan_is_what_the_run_then_is_and_changes_nothing(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        one, *_ = await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await answer(database_url, "run", "--key", "first")
        await fail_late(house.database, one)
        await paid(house, ("c", "acct_A", 50), ("d", "acct_C", 10), ("e", "acct_D", 5))
        before = await links(house.database)
        words = ("--key", "second", "--limit", "3")
        planned = await answer(database_url, "plan", *words)
        shown = await netting(database_url, "plan", *words)
        assert shown.returncode == 0
        assert shown.stdout.endswith(
            f"{planned['run_id']}: 3 payouts, 2 entries, -140 USD in minor units from "
            "clawsettle.payouts to clawsettle.netting\n"
        )
        assert await links(house.database) == before
        assert len((await answer(database_url, "list"))["runs"]) == 1
        done = await answer(database_url, "run", *words)
        assert [entry["id"] for entry in done["entries"]] == [
            entry["id"] for entry in planned["entries"]
        ]
        for name in ("candidate_count", "total_amount_minor"):
            assert done["run"][name] == planned[name]


async def test_runs_are_listed_newest_first_and_shown_with_their_report(database_url: str) -> None:
    async with open_house(database_url, ALONE) as house:
        empty = await netting(database_url, "list")
        assert (empty.returncode, empty.stdout) == (0, "no netting runs\n")
        await paid(house, ("a", "acct_A", 200))
        for key in ("first", "second", "third"):
            await answer(database_url, "run", "--key", key)
        await keep(house.database, stored_run("failed", status=RunStatus.FAILED))
        found = (await answer(database_url, "list"))["runs"]
        assert [one["idempotency_key"] for one in found] == ["third", "second", "first", "failed"]
        only = (await answer(database_url, "list", "--status", "failed"))["runs"]
        assert [one["idempotency_key"] for one in only] == ["failed"]
        some = await netting(database_url, "list", "--limit", "2")
        assert "third" in some.stdout
        assert "first" not in some.stdout
        assert some.stdout.endswith("there are more: raise --limit\n")
        run_id = request("first").run_id
        whole = await answer(database_url, "show", run_id)
        assert whole["run"] == found[2]
        assert [entry["amount_minor"] for entry in whole["entries"]] == ["200"]
        report = await netting(database_url, "show", run_id, "--report", "json")
        assert report.returncode == 0, report.stderr
        written = json.loads(report.stdout)
        assert written["artifact_sha256"] == whole["run"]["report_hash"]
        assert written["conservation"]["holds"] is True
        lines = (await netting(database_url, "show", run_id, "--report", "csv")).stdout.splitlines()
        assert len(lines) == 2


async def test_what_cannot_be_asked_is_one_line_and_code_2(
    database_url: str, tmp_path: Path
) -> None:
    circle = tmp_path / "circle.toml"
    circle.write_text('[netting]\ntarget_clearing_domain = "clawsettle.payouts"\n')
    remote = tmp_path / "remote.toml"
    remote.write_text('[ledger]\nmode = "http"\nbase_url = "http://127.0.0.1:1"\n')
    wrong = {
        ("run", "--key", " "): "idempotency_key must be a text of 1 to",
        ("run", "--key", "k", "--limit", "0"): "limit must be a whole number from 1 to 100000",
        ("run", "--key", "k", "--limit", "100001"): "limit must be a whole number from 1 to 100000",
        ("run", "--key", "k", "--source-clearing-domain", "clawsettle.netting"): "must differ",
        ("run", "--key", "k", "--target-clearing-domain", "x"): "is not one of [netting]",
        ("plan", "--key", "k", "--target-clearing-domain", "x"): "is not one of [netting]",
        ("plan", "--key", "k", "--target-clearing-domain", " "): "target_clearing_domain must be",
        ("run", "--key", "k", "--config", str(circle)): '"clawsettle.payouts" is a source',
        ("plan", "--key", "k", "--config", str(circle)): '"clawsettle.payouts" is a source',
        ("run", "--key", "k", "--config", str(remote)): "ledger.admin_keys is not set",
        ("run",): "--key",
        ("list", "--status", "done"): "--status",
        ("list", "--limit", "x"): "--limit",
        ("list", "--limit", "0"): "--limit",
        ("show", "nrun_1", "--report", "pdf"): "--report",
    }
    for words, says in wrong.items():
        done = await netting(database_url, *words)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (await answer(database_url, "list"))["runs"] == []


async def test_what_is_refused_is_one_line_and_code_1(database_url: str) -> None:
    for words in (("show", "nrun_1"), ("show", "nrun_1", "--report", "csv")):
        unknown = await netting(database_url, *words)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr == "clawsettle: no such netting run\n"
    await answer(database_url, "run", "--key", "k")
    reused = await netting(database_url, "run", "--key", "k", "--limit", "7")
    assert reused.returncode == 1
    assert reused.stderr == ("clawsettle: the idempotency key was used for another netting run\n")


async def test_a_terminal_is_told_how_far_the_run_is(database_url: str) -> None:
    terminal, theirs = pty.openpty()
    async with open_house(database_url, ALONE) as house, trio.open_nursery() as nursery:
        await paid(house, ("a", "acct_A", 200))
        release = trio.Event()
        await nursery.start(hold_ledger, house.database, release)
        process = subprocess.Popen(
            command("netting", "run", "--key", "k"),
            env=environment({"DATABASE_URL": database_url, "TERM": "xterm"}),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        shown = ""
        with trio.fail_after(30):
            while "%" not in shown:
                shown += (await trio.to_thread.run_sync(os.read, terminal, 65536)).decode()
        assert "netting" in shown
        release.set()
        assert await trio.to_thread.run_sync(process.wait) == 0
    os.close(terminal)


async def test_what_is_interrupted_goes_on_when_it_is_run_again(database_url: str) -> None:
    here = {"DATABASE_URL": database_url}
    words = ("netting", "run", "--key", "k")
    async with open_house(database_url, ALONE) as house:
        await paid(house, ("a", "acct_A", 200))
        async with trio.open_nursery() as nursery:
            release = trio.Event()
            await nursery.start(hold_ledger, house.database, release)
            process = subprocess.Popen(
                command(*words),
                env=environment(here),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            with trio.fail_after(30):
                while not await house.database.fetch(APPLYING):  # noqa: ASYNC110 - rows tell nobody
                    await trio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, stderr = await trio.to_thread.run_sync(process.communicate)
            release.set()
        assert (process.returncode, stderr.decode()) == (130, "")
        busy = await run(*words, environ=here)
        assert "somebody works on the netting run" in busy.stderr
        await end_netting_leases(house.database)
        assert (await run(*words, environ=here)).returncode == 0
        assert await cleared(house) == (0, 200)
