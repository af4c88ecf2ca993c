"""``clawsettle dead-letters`` as a process, against a daemon as a process."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from clawsettle.storage.bridge import open_database
from tests.daemon.process import daemon_process, run

_ADD_DEAD_ROWS = """
    WITH event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        SELECT 'evt_' || n, 'payout.paid', false, sha256('x'), 'forwarded'
        FROM generate_series(1, $1::integer) AS n
    )
    INSERT INTO settlement_outbox
        (event_id, payload, state, blame, attempts, last_error_message, updated_at)
    SELECT 'evt_' || n, '{broken', 'dead', 'poison', 1, 'cannot be [read]',
           now() - interval '1 day' + n * interval '1 second'
    FROM generate_series(1, $1::integer) AS n
"""


async def told(*words: str, state_dir: Path) -> Any:
    """Run a command with --json and return what it printed."""
    done = await run("dead-letters", *words, "--json", "--state-dir", str(state_dir))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_an_operator_lists_shows_discards_and_requeues(
    tmp_path: Path, database_url: str
) -> None:
    here = ("--state-dir", str(tmp_path))
    async with daemon_process(tmp_path, "--database-url", database_url):
        assert (await run("dead-letters", "list", *here)).stdout == "no dead letters\n"
        for did, event_id in (("did:key:alice", "evt_1"), ("did:key:bob", "evt_2")):
            words = ("--did", did, "--event-id", event_id, "--object-id", "pi_1")
            assert (await run("send", "payment_intent.succeeded", *words, *here)).returncode == 0
        shown = await run("dead-letters", "list", *here)
        assert shown.returncode == 0, shown.stderr
        head, line = shown.stdout.splitlines()
        assert head.split() == ["id", "state", "blame", "code", "attempts", "dead_at", "reason"]
        assert line.split()[:4] == ["settlement:evt_2", "dead", "target", "LEDGER_INGEST_FAILED"]
        whole = await told("show", "settlement:evt_2", state_dir=tmp_path)
        assert (whole["payload"]["external_payment_id"], whole["actions"]) == ("pi_1", [])
        done = await run("dead-letters", "discard", "settlement:evt_2", "--why", "a double", *here)
        assert (done.returncode, done.stdout) == (0, "discarded settlement:evt_2\n")
        assert (await told("list", state_dir=tmp_path))["dead_letters"] == []
        for state in ("discarded", "any"):
            listed = await told("list", "--state", state, state_dir=tmp_path)
            assert [one["event_id"] for one in listed["dead_letters"]] == ["evt_2"]
        some = await run(
            *("dead-letters", "requeue", "settlement:evt_9", "settlement:evt_2", "--why", "again"),
            *("--by", "Ann", *here),
        )
        assert some.returncode == 1
        assert some.stdout == "requeued settlement:evt_2\n"
        assert some.stderr == (
            "clawsettle: settlement:evt_9: no such dead letter (DEAD_LETTER_NOT_FOUND)\n"
        )
        text = await run("dead-letters", "show", "settlement:evt_2", *here)
        assert text.returncode == 0, text.stderr
        for word in ("a double", getpass.getuser(), "again", "Ann", "pi_1", "key:"):
            assert word in text.stdout
        odd = await run("dead-letters", "list", "--kind", "payout", *here)
        assert (odd.returncode, odd.stdout) == (1, "")
        assert "INVALID_REQUEST" not in odd.stdout
        assert odd.stderr == "clawsettle: kind must be one of settlement\n"


async def test_the_list_follows_pages_up_to_its_limit(tmp_path: Path, database_url: str) -> None:
    async with daemon_process(tmp_path, "--database-url", database_url):
        async with open_database(database_url) as database:
            await database.fetch(_ADD_DEAD_ROWS, 450)
        newest = [f"evt_{n}" for n in range(450, 0, -1)]
        for words, count in (((), 50), (("--limit", "201"), 201), (("--all",), 450)):
            listed = await told("list", *words, state_dir=tmp_path)
            assert [one["event_id"] for one in listed["dead_letters"]] == newest[:count]
        shown = await run("dead-letters", "list", "--limit", "3", "--state-dir", str(tmp_path))
        assert shown.stdout.splitlines()[-1] == "there are more: raise --limit, or give --all"
        assert "cannot be [read]" in shown.stdout


async def test_requeueing_all_ends_although_they_die_again(
    tmp_path: Path, database_url: str
) -> None:
    async with (
        daemon_process(tmp_path, "--database-url", database_url),
        open_database(database_url) as database,
    ):
        await database.fetch(_ADD_DEAD_ROWS, 450)
        done = await run(
            *("dead-letters", "requeue", "--all", "--why", "look", "--state-dir"), str(tmp_path)
        )
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines() == [
            f"requeued {count}, refused 0" for count in (200, 400, 450)
        ]
        dead = "SELECT count(*) AS n, max(attempts) AS most FROM settlement_outbox"
        dead += " WHERE state = 'dead'"
        with trio.fail_after(20):
            while (row := (await database.fetch(dead))[0])["n"] < 450:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert row["most"] == 1
        (kept,) = await database.fetch(
            "SELECT count(*) AS n, count(DISTINCT subject) AS rows FROM operator_action"
        )
        assert (kept["n"], kept["rows"]) == (450, 450)


@pytest.mark.parametrize("words", [("requeue",), ("requeue", "settlement:evt_1", "--all")])
async def test_ids_or_all_are_needed_and_not_both(words: tuple[str, ...], tmp_path: Path) -> None:
    failed = await run("dead-letters", *words, "--why", "x", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "clawsettle: name the dead letters, or give --all\n"


async def test_each_way_not_to_reach_a_daemon_is_one_clear_line(
    tmp_path: Path, database_url: str
) -> None:
    keyless = await run("dead-letters", "list", cwd=tmp_path)
    assert keyless.returncode == 2
    assert "SETTLE_ADMIN_KEY" in keyless.stderr
    nobody = ("dead-letters", "requeue", "a", "b", "--why", "x", "--base-url", "http://127.0.0.1:9")
    unreachable = await run(*nobody, environ={"SETTLE_ADMIN_KEY": "shown_nowhere"}, cwd=tmp_path)
    assert unreachable.returncode == 1
    assert "nobody answers at http://127.0.0.1:9" in unreachable.stderr
    async with daemon_process(tmp_path, "--database-url", database_url) as daemon:
        here = ("--state-dir", str(tmp_path))
        wrong = await run(
            *("dead-letters", "list", *here), environ={"SETTLE_ADMIN_KEY": "shown_nowhere"}
        )
        assert wrong.returncode == 1
        assert "refuses the admin key" in wrong.stderr
        stranger = await run(
            *("dead-letters", "show", "x", "--base-url", daemon.facts["ledger_base_url"], *here)
        )
        assert stranger.returncode == 1
    for failed in (keyless, unreachable, wrong, stranger):
        assert failed.stdout == ""
        assert len(failed.stderr.splitlines()) == 1, failed.stderr
        assert "shown_nowhere" not in failed.stderr
