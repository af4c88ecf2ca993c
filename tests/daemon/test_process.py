"""The daemon as a process: start, stop, crash, and what it leaves behind."""

import json
import os
import shutil
import signal
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from clawsettle.storage.bridge import Database, open_database
from tests.daemon.process import DaemonProcess, Json, command, daemon_process, environment, run
from tests.house import payin
from tests.storage.books import hold_ledger


async def test_a_first_start_needs_nothing_and_a_second_keeps_the_books(tmp_path: Path) -> None:
    async with httpx.AsyncClient() as client:
        async with daemon_process(tmp_path) as daemon:
            sent = await run(
                "send", "payment_intent.succeeded", "--state-dir", str(tmp_path), "--json"
            )
            assert sent.returncode == 0, sent.stderr
            report = json.loads(sent.stdout)
            assert report["answer"]["forwarded_to_ledger"] is True
            assert report["account_after"]["balances"]["available"] == "2500"
            for name in ("stripe_webhook_signing_secret", "settle_admin_key", "ledger_admin_key"):
                mode = (tmp_path / "credentials" / name).stat().st_mode
                assert stat.S_IMODE(mode) == 0o600
            assert stat.S_IMODE((tmp_path / "daemon.json").stat().st_mode) == 0o600
        assert daemon.process.returncode == 0
        async with daemon_process(tmp_path) as daemon:
            assert daemon.ready_s < 3.0
            assert await daemon.available(client, "acc_32ca986a") == 2500
            assert _resident_mib(daemon) < 120


async def test_every_line_is_json_and_one_says_ready(tmp_path: Path, database_url: str) -> None:
    async with daemon_process(tmp_path, "--database-url", database_url) as daemon:
        assert daemon.ready["address"].startswith("http://127.0.0.1:")
        assert daemon.ready["ledger_address"] != daemon.ready["address"]
        assert "send payment_intent.succeeded" in daemon.ready["try"]
    assert [line["event"] for line in daemon.lines()].count("ready") == 1
    assert sum("ready" in json.dumps(line) for line in daemon.lines()) == 1


async def test_sigterm_answers_what_is_under_way(tmp_path: Path, database_url: str) -> None:
    async with (
        open_database(database_url) as database,
        httpx.AsyncClient(timeout=30) as client,
        daemon_process(tmp_path, "--database-url", database_url) as daemon,
    ):
        account = await daemon.ledger(client, "POST", "/accounts", json={"did": "did:key:alice"})
        answers: list[httpx.Response] = []

        async def deliver() -> None:
            answers.append(await daemon.deliver(client, payin("evt_1", account["id"])))

        async with trio.open_nursery() as nursery:
            release = trio.Event()
            await nursery.start(hold_ledger, database, release)
            nursery.start_soon(deliver)
            await _until(database, "SELECT 1 FROM settlement_outbox")
            daemon.signal(signal.SIGTERM)
            with trio.fail_after(5):
                while not _logged(daemon, "signalled"):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert await _refused(daemon)
            release.set()
        assert await daemon.ended(10) == 0
        assert answers[0].json()["forwarded_to_ledger"] is True


async def test_sigterm_ends_a_start_that_waits_for_the_database(tmp_path: Path) -> None:
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with silent:
        port = silent.socket.getsockname()[1]
        url = f"postgresql://nobody@127.0.0.1:{port}/nothing?sslmode=disable"
        words = ["dev", "--state-dir", str(tmp_path), "--database-url", url]
        words += ["--sandbox-bind", "127.0.0.1:0"]
        daemon = subprocess.Popen(
            command(*words),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with trio.fail_after(30):
            connection = await silent.accept()
        async with connection:
            daemon.terminate()
            out, err = await trio.to_thread.run_sync(partial(daemon.communicate, timeout=5))
    assert (daemon.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["signalled", "stopped"]


async def test_sigterm_ends_in_time_and_another_daemon_takes_over(
    tmp_path: Path, database_url: str
) -> None:
    environ = {
        "CLAWSETTLE_DAEMON__DRAIN_S": "1.5",
        "CLAWSETTLE_FORWARDING__LEASE_S": "3",
        "CLAWSETTLE_FORWARDING__ATTEMPT_TIMEOUT_S": "1.4",
        "CLAWSETTLE_FORWARDING__POLL_S": "0.2",
    }
    async with open_database(database_url) as database, httpx.AsyncClient(timeout=30) as client:
        async with daemon_process(
            tmp_path, "--database-url", database_url, environ=environ
        ) as daemon:
            account = await daemon.ledger(
                client, "POST", "/accounts", json={"did": "did:key:alice"}
            )
            async with trio.open_nursery() as nursery:
                release = trio.Event()
                await nursery.start(hold_ledger, database, release)
                nursery.start_soon(_deliver_in_vain, daemon, client, account["id"])
                await _until(database, "SELECT 1 FROM settlement_outbox")
                daemon.signal(signal.SIGTERM)
                begun = trio.current_time()
                assert await daemon.ended(10) == 0
                assert trio.current_time() - begun < 1.5 + 2.5
                release.set()
        async with daemon_process(
            tmp_path, "--database-url", database_url, environ=environ
        ) as second:
            await _until(
                database, "SELECT 1 FROM settlement_outbox WHERE state = 'forwarded'", within_s=8
            )
            assert await second.available(client, account["id"]) == 2500


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, database_url: str) -> None:
    environ = {
        "CLAWSETTLE_FORWARDING__LEASE_S": "2",
        "CLAWSETTLE_FORWARDING__ATTEMPT_TIMEOUT_S": "0.9",
        "CLAWSETTLE_FORWARDING__POLL_S": "0.2",
    }
    acknowledged: list[int] = []
    async with open_database(database_url) as database, httpx.AsyncClient(timeout=30) as client:
        async with daemon_process(
            tmp_path, "--database-url", database_url, environ=environ
        ) as daemon:
            account = await daemon.ledger(
                client, "POST", "/accounts", json={"did": "did:key:alice"}
            )
            enough = trio.Event()

            async def deliver(worker: int) -> None:
                for number in range(worker, 10_000, 64):
                    event = payin(f"evt_{number}", account["id"], amount_minor=number + 1)
                    try:
                        answer = await daemon.deliver(client, event)
                    except httpx.HTTPError:
                        return
                    assert answer.status_code == 200
                    acknowledged.append(number)
                    if len(acknowledged) >= 300:
                        enough.set()

            async with trio.open_nursery() as nursery:
                for worker in range(64):
                    nursery.start_soon(deliver, worker)
                with trio.fail_after(30):
                    await enough.wait()
                daemon.signal(signal.SIGKILL)
        async with daemon_process(tmp_path, "--database-url", database_url, environ=environ) as new:
            assert new.ready_s < 5
            await _until(
                database,
                "SELECT 1 WHERE NOT EXISTS"
                " (SELECT 1 FROM settlement_outbox WHERE state <> 'forwarded')",
                within_s=10,
            )
            forwarded = await database.fetch("SELECT event_id FROM settlement_outbox")
            numbers = {int(row["event_id"].removeprefix("evt_")) for row in forwarded}
            assert numbers >= set(acknowledged)
            assert await new.available(client, account["id"]) == sum(n + 1 for n in numbers)
            verified = await new.ledger(client, "GET", "/events/verify")
            assert (verified["valid"], verified["eventsChecked"]) == (True, len(numbers))


async def test_the_embedded_database_survives_kill_9_of_the_daemon(tmp_path: Path) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        async with daemon_process(tmp_path) as daemon:
            account = await daemon.ledger(
                client, "POST", "/accounts", json={"did": "did:key:alice"}
            )
            assert (await daemon.deliver(client, payin("evt_1", account["id"]))).status_code == 200
            daemon.signal(signal.SIGKILL)
            await daemon.ended(5)
        async with daemon_process(tmp_path) as daemon:
            assert await daemon.available(client, account["id"]) == 2500


async def test_the_embedded_database_that_was_killed_is_back_under_the_same_daemon(
    tmp_path: Path,
) -> None:
    async with httpx.AsyncClient(timeout=30) as client, daemon_process(tmp_path) as daemon:
        account = await daemon.ledger(client, "POST", "/accounts", json={"did": "did:key:alice"})
        assert (await daemon.deliver(client, payin("evt_1", account["id"]))).status_code == 200
        (started,) = _lines(daemon, "embedded_postgres_started")
        os.kill(started["pid"], signal.SIGKILL)
        begun = trio.current_time()
        with trio.fail_after(10):
            while not _lines(daemon, "embedded_postgres_restarted"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            ready = f"{daemon.facts['base_url']}/ready"
            while (await client.get(ready)).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert trio.current_time() - begun < 5
        assert (await daemon.deliver(client, payin("evt_2", account["id"]))).status_code == 200
        assert await daemon.available(client, account["id"]) == 5000
        # The server that was started later, too, ends with its daemon.
        daemon.signal(signal.SIGKILL)
        await daemon.ended(5)
        if shutil.which("setpriv"):
            with trio.fail_after(10):
                while (tmp_path / "data" / "postmaster.pid").exists():  # noqa: ASYNC110
                    await trio.sleep(0.01)


async def test_a_state_directory_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    async with daemon_process(tmp_path):
        second = await run("dev", "--state-dir", str(tmp_path), "--bind", "127.0.0.1:0")
        assert second.returncode == 2
        assert len(second.stderr.splitlines()) == 1
        assert str(tmp_path) in second.stderr
        assert "in use" in second.stderr


async def test_an_address_in_use_is_refused_in_one_line(tmp_path: Path, database_url: str) -> None:
    async with daemon_process(tmp_path / "a", "--database-url", database_url) as daemon:
        taken = daemon.ready["address"].removeprefix("http://")
        second = await run(
            "dev",
            "--state-dir",
            str(tmp_path / "b"),
            "--bind",
            taken,
            "--ledger-bind",
            "127.0.0.1:0",
            "--sandbox-bind",
            "127.0.0.1:0",
            "--database-url",
            database_url,
        )
        assert second.returncode == 2
        assert "cannot listen on 127.0.0.1" in second.stderr
        assert len(second.stderr.splitlines()) == 1


async def test_no_secret_and_no_body_reaches_the_log(tmp_path: Path, database_url: str) -> None:
    canaries = {
        "STRIPE_WEBHOOK_SIGNING_SECRET": "whsec_canary_one",
        "SETTLE_ADMIN_KEY": "canary_two",
        "LEDGER_ADMIN_KEY": "canary_three",
    }
    async with (
        httpx.AsyncClient(timeout=30) as client,
        daemon_process(tmp_path, "--database-url", database_url, environ=canaries) as daemon,
    ):
        event: Any = payin("evt_1", "acc_nobody")
        event["data"]["object"]["description"] = "canary_body"
        await daemon.deliver(client, event)
        bad = await client.post(
            f"{daemon.facts['base_url']}/v1/stripe/webhook",
            content=b"canary_body",
            headers={"stripe-signature": "t=1,v1=canary_header"},
        )
        assert bad.status_code == 401
        await client.post(
            f"{daemon.facts['base_url']}/v1/stripe/forwarding/retry",
            headers={"authorization": "Bearer canary_token"},
        )
    log = daemon.log_path.read_text() + daemon.log_path.with_suffix(".err").read_text()
    assert "evt_1" in log
    assert "canary" not in log


def _resident_mib(daemon: DaemonProcess) -> float:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


async def _until(database: Database, query: str, within_s: float = 5.0) -> None:
    with trio.fail_after(within_s):
        while not await database.fetch(query):  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.02)


async def _deliver_in_vain(
    daemon: DaemonProcess, client: httpx.AsyncClient, account_id: str
) -> None:
    """Deliver while the ledger hangs: the request is answered all the same."""
    answer = await daemon.deliver(client, payin("evt_1", account_id))
    assert answer.status_code == 502
    assert answer.json()["details"]["retry_scheduled"] is True


async def _refused(daemon: DaemonProcess) -> bool:
    """Whether the daemon takes no new connections, within two seconds."""
    port = int(daemon.ready["address"].rpartition(":")[2])
    with trio.move_on_after(2):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return True
            await stream.aclose()
            await trio.sleep(0.01)
    return False


def _logged(daemon: DaemonProcess, event: str) -> bool:
    return bool(_lines(daemon, event))


def _lines(daemon: DaemonProcess, event: str) -> list[Json]:
    return [line for line in daemon.lines() if line["event"] == event]
