"""``clawsettle ledger`` as a process, on a real database and on files."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clawsettle.domain.journal import GENESIS_HASH, Tail
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_export import open_export
from tests.conftest import Postgres
from tests.daemon.process import command, daemon_process, environment, run
from tests.storage.books import unguard
from tests.storage.whole_book import ALICE_ID, BOB_ID, write_history

EVENTS = 26


async def told(*words: str, database_url: str | None = None, code: int = 0) -> Any:
    """Run a command with --json and return what it printed; stderr is empty when all holds."""
    environ = {"DATABASE_URL": database_url} if database_url else {}
    done = await run("ledger", *words, "--json", environ=environ)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code)
    return json.loads(done.stdout)


async def export_book(database_url: str, file: Path) -> str:
    done = await run("ledger", "export", "--out", str(file), "--database-url", database_url)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"exported {EVENTS} events to {file}"
    return second.removeprefix("to be noted: ")


async def test_a_book_is_proved_by_its_database_and_by_its_export(
    tmp_path: Path, database_url: str
) -> None:
    await write_history(database_url)
    of_database = await told("verify", database_url=database_url)
    assert (of_database["valid"], of_database["errors"]) == (True, [])
    assert (of_database["currency"], of_database["event_count"]) == ("USD", EVENTS)
    amounts = [
        int(amount)
        for buckets in of_database["trial_balance"].values()
        for amount in buckets.values()
    ]
    assert any(amounts)
    assert sum(amounts) == 0
    assert of_database["contra_accounts"]["external:stripe:USD"] == "-2000"
    assert of_database["owed"] == {ALICE_ID: "6045"}
    assert of_database["undercut"] == {BOB_ID: {"held": "20", "reserved": "70"}}
    file = tmp_path / "books.jsonl"
    noted = await export_book(database_url, file)
    assert noted == of_database["tail"]["noted"]
    assert await told("verify", str(file), "--noted", noted) == of_database
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_role_that_may_only_read_is_enough(
    postgres: Postgres, database_name: str, database_url: str
) -> None:
    await write_history(database_url)
    async with open_database(database_url) as database:
        await database.fetch("CREATE ROLE auditor LOGIN")
        await database.fetch("GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
    url = postgres.server.dsn_of(database_name).replace("//postgres@", "//auditor@")
    try:
        assert (await told("verify", database_url=url))["event_count"] == EVENTS
    finally:
        async with open_database(database_url) as database:
            await database.fetch("DROP OWNED BY auditor")
            await database.fetch("DROP ROLE auditor")


async def test_people_are_told_what_finance_asks_for(tmp_path: Path, database_url: str) -> None:
    await write_history(database_url)
    await export_book(database_url, tmp_path / "books.jsonl")
    shown = await run("ledger", "verify", str(tmp_path / "books.jsonl"))
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0][:3] == ["26", "events", "checked;"]
    assert ["user", "7173", "520", "40", "0", "7", "7740"] in lines
    assert ["clearing", "1200", "0", "0", "5", "0", "1205"] in lines
    assert ["external", "-8945", "0", "0", "0", "0", "-8945"] in lines
    assert ["all", "-572", "520", "40", "5", "7", "0"] in lines
    assert ["external:adyen:USD", "-900"] in lines
    assert [ALICE_ID, "6045"] in lines
    assert [BOB_ID, "20", "70"] in lines
    assert "this is allowed" in shown.stdout
    assert shown.stdout.endswith("\nsound\n")


async def test_a_changed_row_is_named_first_and_the_code_is_1(
    tmp_path: Path, database_url: str
) -> None:
    await write_history(database_url)
    async with open_database(database_url) as database:
        await unguard(database)
        await database.fetch("UPDATE ledger_posting SET delta_minor = 301 WHERE delta_minor = 300")
    failed = await run("ledger", "verify", "--database-url", database_url)
    assert failed.returncode == 1
    assert "sound" not in failed.stdout
    first, second, *_ = failed.stderr.splitlines()
    assert first == (
        "clawsettle: event 9: its id, postings or metadata do not match its content hash"
    )
    assert second == "clawsettle: event 9: its postings do not balance what it says"
    # What is wrong goes with the export, which shows it elsewhere too.
    await export_book(database_url, tmp_path / "books.jsonl")
    report = await told("verify", str(tmp_path / "books.jsonl"), code=1)
    assert report["valid"] is False
    assert report["error_count"] == len(report["errors"])
    assert report["errors"][0].startswith("line 10 (event 9): its id, postings or metadata")


async def test_a_changed_file_is_named_by_its_line(tmp_path: Path, database_url: str) -> None:
    await write_history(database_url)
    file = tmp_path / "books.jsonl"
    noted = await export_book(database_url, file)
    export = file.read_bytes()
    file.write_bytes(export.replace(b'"name":"Payouts"', b'"name":"payouts"'))
    report = await told("verify", str(file), code=1)
    assert [error.partition(":")[0] for error in report["errors"]] == [
        "line 31 (account clr_28a671f7)"
    ]
    file.write_bytes(export[:1000])
    failed = await run("ledger", "verify", str(file))
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[0] == "clawsettle: line 2: is no line of an export"
    file.write_bytes(b"")
    failed = await run("ledger", "verify", str(file))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("clawsettle: line 1: is not the beginning of an export")
    file.write_bytes(export)
    other = f"{EVENTS}:{'0' * 64}"
    failed = await run("ledger", "verify", str(file), "--noted", other)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"clawsettle: line {EVENTS + 1} (event {EVENTS}): is not the one that was noted: the "
        "journal was written anew\n"
    )
    for wrong in ("26", f"0:{'0' * 64}", noted.upper()):
        failed = await run("ledger", "verify", str(file), "--noted", wrong)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert "--noted is" in failed.stderr


async def test_an_export_replaces_nothing_unless_it_is_told_to(
    tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "books.jsonl"
    file.write_text("of yesterday")
    words = ("ledger", "export", "--out", str(file), "--database-url", database_url)
    refused = await run(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"clawsettle: {file} exists already: name another one, or give --force\n"
    )
    unreachable = ("--database-url", "postgresql://postgres@127.0.0.1:9/none")
    failed = await run(*words[:4], "--force", *unreachable)
    assert failed.returncode == 1
    assert "cannot connect to the database" in failed.stderr
    assert file.read_text() == "of yesterday"
    done = await run(*words, "--force", "--json")
    assert json.loads(done.stdout)["tail"]["seq"] == 0
    assert list(tmp_path.iterdir()) == [file]
    assert (await told("verify", str(file)))["event_count"] == 0


async def test_the_books_beside_a_running_daemon_are_found(
    tmp_path: Path, database_url: str
) -> None:
    here = ("--state-dir", str(tmp_path))
    async with daemon_process(tmp_path, "--database-url", database_url):
        assert (await run("send", "payment_intent.succeeded", *here)).returncode == 0
        report = await told("verify", *here)
        assert (report["valid"], report["event_count"]) == (True, 1)
        file = tmp_path / "books.jsonl"
        assert (await run("ledger", "export", "--out", str(file), *here)).returncode == 0
    assert (await told("verify", str(file)))["event_count"] == 1


@pytest.mark.parametrize(
    ("words", "environ", "says"),
    [
        ((), {}, "no database: give --database-url"),
        (("--config", "absent.toml"), {}, "absent.toml"),
        ((), {"CLAWSETTLE_LEDGER__MODE": "http"}, "[ledger] mode is http"),
        (("absent.jsonl",), {}, "absent.jsonl cannot be read: No such file"),
        ((".",), {}, "cannot be read: Is a directory"),
        (("--noted", "x"), {}, "--noted is an event's number and content hash"),
    ],
)
async def test_what_cannot_be_begun_is_one_line_and_code_2(
    words: tuple[str, ...], environ: dict[str, str], says: str, tmp_path: Path
) -> None:
    failed = await run("ledger", "verify", *words, environ=environ, cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert says in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


async def test_another_schema_is_refused_and_left_alone(
    empty_database: str, database_url: str
) -> None:
    older = await run("ledger", "verify", "--database-url", empty_database)
    assert older.returncode == 2
    assert "the schema is not current: `clawsettle migrate` applies 0001_" in older.stderr
    async with open_database(empty_database) as database:
        (row,) = await database.fetch(
            "SELECT count(*) AS n FROM pg_tables WHERE schemaname='public'"
        )
    assert row["n"] == 0
    async with open_database(database_url) as database:
        await database.fetch("INSERT INTO schema_migration VALUES (9999, 'x', 'y')")
    newer = await run("ledger", "verify", "--database-url", database_url)
    assert newer.returncode == 2
    assert "newer than this program" in newer.stderr


@pytest.mark.parametrize(("words", "told"), [((), b"1 records\r\x1b[K"), (("--json",), b"")])
def test_a_terminal_is_told_how_far_it_is(
    words: tuple[str, ...], told: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "x"
    with open_export(file, replace=False) as writer:
        writer.begin("USD")
        writer.write([Tail(0, GENESIS_HASH, GENESIS_HASH, datetime.now(UTC))])
    ours, theirs = os.openpty()
    subprocess.run(
        command("ledger", "verify", str(file), *words),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(),
        timeout=60,
        check=True,
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the end of a terminal is an error
        said = os.read(ours, 10_000)
    os.close(ours)
    assert said == told


def test_the_help_loads_nothing_of_what_the_commands_need() -> None:
    program = "import sys, clawsettle.daemon.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"trio", "asyncpg", "cattrs", "orjson", "rich.table", "httpx"}
    assert not loaded & {"clawsettle.domain.proof", "clawsettle.daemon.ledger_commands"}
