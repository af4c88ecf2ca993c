"""``clawsettle loss-events`` as a process, against a daemon as a process and scripted targets."""

import getpass
import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen

from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.http1 import serving
from clawsettle.storage.bridge import Database, open_database
from tests.daemon.process import DaemonProcess, command, daemon_process, environment, run
from tests.losses import (
    HANG,
    HTTP_TARGETS,
    Targets,
    answer,
    loss,
    loss_body,
    open_fanout,
    settled,
)

LATER = "3600"
REFUSED = answer(409, {"error": "INVALID_STATUS", "message": "the escrow is [settled]"})
UNINSURED = answer(404, {"error": "NOT_FOUND", "message": "no policy"})
DOWN = answer(503, {"error": "DOWN", "message": "later"})
ESCROW: dict[str, Any] = {"metadata": {"escrow_id": "esc_1"}, "targets": ["escrow"]}
_ADD_DEAD_ROWS = """
    WITH event AS (
        INSERT INTO loss_event
            (loss_event_id, idempotency_key, request_hash, source_service, source_event_id,
             account_did, amount_minor, currency, reason_code, severity, occurred_at, metadata,
             status, target_count, failed_count, created_at, updated_at)
        SELECT 'lse_' || n, 'k' || n, '', 'stripe', 'evt_' || n, 'did:key:zA', 250, 'USD', 'fraud',
               'high', now(), '{}', 'failed', 1, 1, at, at
        FROM generate_series(1, $1::integer) AS n, date_trunc('milliseconds', now()) AS at
    )
    INSERT INTO loss_delivery
        (loss_event_id, operation, target, delivery_id, state, attempts, opened_at, created_at,
         updated_at)
    SELECT 'lse_' || n, 'apply', 'clawincome', 'lso_' || lpad(n::text, 6, '0'), 'dead', 1, at, at,
           at
    FROM generate_series(1, $1::integer) AS n, date_trunc('milliseconds', now()) AS at
"""

_DIE_AGAIN = (
    """
    CREATE FUNCTION die_again() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.state := 'dead';
        NEW.due_at := NULL;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER die_again BEFORE UPDATE ON loss_delivery
    FOR EACH ROW WHEN (NEW.state = 'pending') EXECUTE FUNCTION die_again()
    """,
)


@frozen(eq=False)
class Desk:
    """An operator's desk: a daemon, its database and its targets."""

    daemon: DaemonProcess
    database: Database
    targets: Targets

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        here = ("--state-dir", str(self.daemon.state_dir))
        return await run("loss-events", *words, *here)

    async def told(self, *words: str) -> Any:
        """Run a command that succeeds, and return the JSON that it prints."""
        done = await self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def record(self, key: str = "k1", **more: Any) -> str:
        """Record an event, wait until nobody works on it, and return its id."""
        async with httpx.AsyncClient() as client:
            recorded = await client.post(
                f"{self.daemon.facts['base_url']}/v1/loss-events",
                json=loss_body(key, **more),
                headers={
                    "authorization": f"Bearer {self.daemon.facts['admin_key']}",
                    "idempotency-key": key,
                },
            )
        assert recorded.status_code == 201, recorded.text
        event_id: str = recorded.json()["event"]["loss_event_id"]
        await self.until(event_id, "lease_token IS NULL")
        return event_id

    async def until(self, event_id: str, condition: str) -> None:
        """Wait until a condition holds of every delivery of an event."""
        unmet = f"SELECT 1 FROM loss_delivery WHERE loss_event_id = $1 AND NOT ({condition})"  # noqa: S608 - the tests' own words
        with trio.fail_after(10):
            while await self.database.fetch(unmet, event_id):  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.02)


@asynccontextmanager
async def open_desk(path: Path, database_url: str) -> AsyncIterator[Desk]:
    """Start a daemon whose retries come by themselves only in an hour."""
    environ = {
        "CLAWSETTLE_LOSS_EVENTS__RETRY_BASE_S": LATER,
        "CLAWSETTLE_LOSS_EVENTS__RETRY_MAX_S": LATER,
        "CLAWSETTLE_LOSS_EVENTS__ATTEMPT_TIMEOUT_S": "2",
    }
    async with serving(Targets) as targets, open_database(database_url) as database:
        for target in HTTP_TARGETS:
            prefix = f"CLAWSETTLE_TARGETS__{target}".upper()
            environ[f"{prefix}_BASE_URL"] = f"{targets.base_url}/{target}"
            environ[f"{prefix}_KEYS"] = f"{target}_key"
        async with daemon_process(path, "--database-url", database_url, environ=environ) as daemon:
            yield Desk(daemon, database, targets)


async def test_an_operator_lists_events_and_sees_what_each_target_has_said(
    tmp_path: Path, database_url: str
) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        for name, says in ("list", "no loss events\n"), ("outbox", "no deliveries\n"):
            assert (await desk.run(name)).stdout == says
        desk.targets.script = {Target.ESCROW: REFUSED, Target.CLAWINSURE: UNINSURED}
        targets = ["escrow", "clawinsure", "clawincome"]
        event_id = await desk.record(**{**ESCROW, "targets": targets, "account_id": "acc_1"})
        other_id = await desk.record("k2", targets=["clawincome"], source_service="fraudwatch")
        shown = await desk.run("list")
        head, newest, oldest = shown.stdout.splitlines()
        assert head.split()[:3] == ["event", "status", "amount_minor"]
        assert newest.split()[:3] == [other_id, "forwarded", "250"]
        assert oldest.split()[:2] == [event_id, "partially_forwarded"]
        for words in (
            ("--status", "partially_forwarded"),
            ("--account-id", "acc_1"),
            ("--source-service", "stripe"),
        ):
            events = (await desk.told("list", *words))["events"]
            assert [one["loss_event_id"] for one in events] == [event_id]
        dead = (await desk.told("outbox", "--status", "dead", "--target", "escrow"))["outbox"]
        assert [(one["loss_event_id"], one["alert"]) for one in dead] == [(event_id, "refused")]
        assert len((await desk.told("outbox", "--event", event_id))["outbox"]) == 3
        assert (await desk.told("outbox", "--operation", "resolve"))["outbox"] == []
        found = await desk.told("show", event_id)
        assert found["residual_minor"] == "250"
        text = (await desk.run("show", event_id)).stdout
        lines = {line.split()[1]: line.split() for line in text.splitlines() if "lso_" in line}
        assert lines["escrow"][2:] == ["dead", "1", "409", "INVALID_STATUS", "refused"]
        assert lines["clawinsure"][2] == "not_applicable"
        assert lines["clawincome"][2] == "forwarded"
        assert "escrow: the escrow is [settled]" in text
        assert '"escrow_id": "esc_1"' in text
        assert "resolution" not in text
        assert text.endswith("\n250 USD in minor units are held or taken\n")


async def test_lists_follow_pages_up_to_their_limit(tmp_path: Path, database_url: str) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        await desk.database.fetch(_ADD_DEAD_ROWS, 450)
        for name, rows in (("list", "events"), ("outbox", "outbox")):
            for words, count in (((), 50), (("--limit", "201"), 201), (("--all",), 450)):
                listed = (await desk.told(name, *words))[rows]
                assert len({one["loss_event_id"] for one in listed}) == count
            some = await desk.run(name, "--limit", "2")
            assert some.stdout.splitlines()[-1] == "there are more: raise --limit, or give --all"


async def test_alerts_are_told_for_each_target_by_the_exit_code_too(
    tmp_path: Path, database_url: str
) -> None:
    environ = {"CLAWSETTLE_TARGETS__CLAWBOUNTIES_BASE_URL": "http://127.0.0.1:9"}
    async with daemon_process(
        tmp_path / "calm", "--database-url", database_url, environ=environ
    ) as daemon:
        calm = await run("loss-events", "alerts", "--state-dir", str(daemon.state_dir))
        assert (calm.returncode, calm.stderr) == (0, "")
        assert calm.stdout == "nothing is open or dead at any target\n"
    async with open_fanout(database_url, without=[Target.CLAWBOUNTIES]) as (house, fanout, targets):
        targets.script = {Target.ESCROW: REFUSED}
        named = {"escrow_id": "esc_1", "bounty_id": "bty_1"}
        order = loss(metadata=named, targets=["escrow", "clawbounties"])
        recorded = await fanout.record(order)
        await settled(house.database, recorded.event)
    async with daemon_process(
        tmp_path / "raised", "--database-url", database_url, environ=environ
    ) as daemon:
        words = ("loss-events", "alerts", "--state-dir", str(daemon.state_dir))
        with trio.fail_after(30):
            while (alarmed := await run(*words)).stdout == calm.stdout:  # noqa: ASYNC110 - polling
                await trio.sleep(0.1)
        assert (alarmed.returncode, alarmed.stderr) == (1, "")
        lines = {line.split()[0]: line.split() for line in alarmed.stdout.splitlines()}
        assert lines["escrow"] == ["escrow", "0", "1", "0.0", "refused", "1"]
        assert lines["clawbounties"][1:3] == ["1", "0"]
        assert lines["clawbounties"][4:] == ["unconfigured", "1"]
        told = await run(*words, "--json")
        assert told.returncode == 1
        assert json.loads(told.stdout)["loss_events"]["escrow"]["alerts"] == {"refused": 1}


async def test_what_is_dead_is_requeued_by_name_in_the_operators_name(
    tmp_path: Path, database_url: str
) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        desk.targets.script = {Target.ESCROW: REFUSED, Target.CLAWINSURE: UNINSURED}
        event_id = await desk.record(**{**ESCROW, "targets": ["escrow", "clawinsure"]})
        (dead,) = (await desk.told("outbox", "--status", "dead"))["outbox"]
        desk.targets.script = {}
        delivery_id = dead["outbox_id"]
        some = await desk.run(
            "requeue", "lso_nobody", delivery_id, "--why", "the escrow was reopened", "--by", "Ann"
        )
        assert some.returncode == 1
        assert some.stdout == f"requeued {delivery_id} apply escrow\n"
        (refused,) = some.stderr.splitlines()
        assert refused == "clawsettle: lso_nobody: no such delivery (NOT_FOUND)"
        whole = await desk.told("requeue", event_id, "--why", "insured since")
        assert [one["target_service"] for one in whole["requeued"]] == ["clawinsure"]
        await desk.until(event_id, "state = 'forwarded'")
        nothing = await desk.run("requeue", event_id, "--why", "again", "--json")
        assert nothing.returncode == 1
        (failure,) = json.loads(nothing.stdout)["failed"]
        assert (failure["id"], failure["code"]) == (event_id, "INVALID_STATUS_TRANSITION")
        actions = (await desk.told("show", event_id))["actions"]
        assert [(one["by"], one["why"]) for one in actions] == [
            ("Ann", "the escrow was reopened"),
            (getpass.getuser(), "insured since"),
        ]
        assert "the escrow was reopened" in (await desk.run("show", event_id)).stdout


async def test_all_that_is_dead_at_a_target_is_requeued_in_batches(
    tmp_path: Path, database_url: str
) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        nothing = await desk.run("requeue", "--target", "clawincome", "--why", "look")
        assert (nothing.returncode, nothing.stderr) == (0, "")
        assert nothing.stdout == "nothing is dead at clawincome\n"
        await desk.database.fetch(_ADD_DEAD_ROWS, 2100)
        done = await desk.run("requeue", "--target", "clawincome", "--why", "it is back")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines() == [f"requeued {count}" for count in (1000, 2000, 2100)]
        (kept,) = await desk.database.fetch(
            "SELECT count(DISTINCT subject) AS row_count FROM operator_action"
        )
        assert kept["row_count"] == 2100


async def test_requeueing_what_dies_again_at_once_ends(tmp_path: Path, database_url: str) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        for statement in _DIE_AGAIN:
            await desk.database.fetch(statement)
        await desk.database.fetch(_ADD_DEAD_ROWS, 300)
        done = await desk.run("requeue", "--target", "clawincome", "--why", "look")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "requeued 300\n"


async def test_a_retry_attempts_what_is_due_and_by_force_what_is_not(
    tmp_path: Path, database_url: str
) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        desk.targets.script = {Target.ESCROW: DOWN}
        event_id = await desk.record(**ESCROW)
        undue = await desk.run("retry", event_id)
        assert (undue.returncode, undue.stdout) == (0, "attempted 0, forwarded 0, failed 0\n")
        failed = await desk.run("retry", event_id, "--force")
        assert (failed.returncode, failed.stdout) == (0, "attempted 1, forwarded 0, failed 1\n")
        desk.targets.script = {}
        summary = await desk.told("retry", event_id, "--force", "--limit", "1")
        assert summary == {"ok": True, "attempted": 1, "forwarded": 1, "failed": 0}


async def test_a_terminal_is_told_that_attempts_are_waited_for(
    tmp_path: Path, database_url: str
) -> None:
    terminal, theirs = pty.openpty()
    async with open_desk(tmp_path, database_url) as desk:
        desk.targets.script = {Target.ESCROW: [DOWN, HANG]}
        event_id = await desk.record(**ESCROW)
        process = subprocess.Popen(
            command("loss-events", "retry", event_id, "--force", "--state-dir", str(tmp_path)),
            env=environment({"TERM": "xterm"}),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        shown = ""
        with trio.fail_after(30):
            while "attempting" not in shown:
                shown += (await trio.to_thread.run_sync(os.read, terminal, 65536)).decode()
            assert await trio.to_thread.run_sync(process.wait) == 0
    os.close(terminal)


async def test_an_event_is_resolved_once_nobody_can_be_told_of_it(
    tmp_path: Path, database_url: str
) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        desk.targets.script = {Target.ESCROW: DOWN}
        event_id = await desk.record(**ESCROW)
        early = await desk.run("resolve", event_id)
        assert (early.returncode, early.stdout) == (1, "")
        assert early.stderr == "clawsettle: escrow can still be told of the loss event\n"
        desk.targets.script = {}
        await desk.told("retry", event_id, "--force")
        resolved = await desk.told("resolve", event_id, "--reason", "won")
        assert (resolved["deduped"], resolved["resolution"]["reason"]) == (False, "won")
        await desk.until(event_id, "state = 'forwarded'")
        again = await desk.run("resolve", event_id, "--reason", "won")
        assert again.returncode == 0
        assert again.stdout.endswith("\nit had been resolved before, so nothing was done\n")
        second_id = await desk.record("k2", targets=["clawincome"])
        assert (await desk.told("resolve", second_id))["deduped"] is False
        other = await desk.run("resolve", event_id)
        assert (other.returncode, other.stdout) == (1, "")
        text = (await desk.run("show", event_id)).stdout
        assert [line.split()[1:3] for line in text.splitlines() if "lro_" in line][-1] == [
            "escrow",
            "forwarded",
        ]
        assert text.endswith("\n0 USD in minor units are held or taken\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("requeue", "--why", "x"), "name deliveries or events, or give --target"),
        (("requeue", "lso_1", "--target", "escrow", "--why", "x"), "name deliveries or events"),
        (("requeue", "lso_1"), "--why"),
        (("requeue", "--target", "bank", "--why", "x"), "--target"),
        (("retry", "--force"), "--force is for one event"),
        (("list", "--status", "done"), "--status"),
        (("outbox", "--limit", "0"), "--limit"),
        (("list",), "SETTLE_ADMIN_KEY"),
    ],
)
async def test_what_cannot_be_asked_is_one_line_and_code_2(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = await run("loss-events", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_what_is_refused_is_one_line_and_code_1(tmp_path: Path, database_url: str) -> None:
    async with open_desk(tmp_path, database_url) as desk:
        for words in (("show", "lse_nobody"), ("resolve", "lse_nobody")):
            unknown = await desk.run(*words)
            assert (unknown.returncode, unknown.stdout) == (1, "")
            assert unknown.stderr == "clawsettle: no such loss event\n"
    gone = await run("loss-events", "alerts", "--state-dir", str(tmp_path))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith("clawsettle: nobody answers at http://127.0.0.1:")
