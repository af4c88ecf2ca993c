"""Stand-ins of the targets of loss events, beside ``dev`` and as a command of their own."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from clawsettle.config import Secret, load, target_addresses
from clawsettle.daemon.risk_sandbox import with_stand_ins
from clawsettle.domain.loss_events import Target
from tests.daemon.process import START_S, command, daemon_process, environment, run

KEYS = {
    "escrow": "escrow_risk_key",
    "clawinsure": "insure_risk_key",
    "clawincome": "income_risk_key",
    "clawbounties": "bounties_risk_key",
}
HOLD = {
    "idempotency_key": "k1",
    "source_loss_event_id": "lse_1",
    "action": "apply",
    "reason": "chargeback",
}


@asynccontextmanager
async def sandbox_process(
    state_dir: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run ``clawsettle sandbox`` on a free port; gives it with its line ``ready``."""
    words = ("sandbox", "--bind", "127.0.0.1:0", "--state-dir", str(state_dir))
    process = subprocess.Popen(
        command(*words), env=environment(environ), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(START_S):
            line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def hold(url: str, key: str) -> int:
    """Ask an escrow for a hold, and return the status of the answer."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        answer = await client.post(
            f"{url}/escrow/v1/escrows/esc_1/risk-hold",
            json=HOLD,
            headers={"authorization": f"Bearer {key}", "idempotency-key": "k1"},
        )
        return answer.status_code


def kept_keys(state_dir: Path) -> dict[str, str]:
    folder = state_dir / "credentials"
    return {name: (folder / file).read_text().strip() for name, file in KEYS.items()}


async def test_the_command_serves_stand_ins_with_keys_that_it_keeps(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path) as (process, ready):
        keys = kept_keys(tmp_path)
        assert ready["event"] == "ready"
        assert await hold(ready["sandbox_address"], keys["escrow"]) == 200
        assert await hold(ready["sandbox_address"], keys["clawinsure"]) == 401
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait, 10) == 0
    assert len(set(keys.values())) == 4
    async with sandbox_process(tmp_path) as (_, ready):
        assert kept_keys(tmp_path) == keys
        assert not any(key in json.dumps(ready) for key in keys.values())


async def test_the_command_asks_for_the_keys_that_daemons_are_given(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path, {"ESCROW_RISK_KEY": "given"}) as (_, ready):
        assert await hold(ready["sandbox_address"], "given") == 200
        assert not (tmp_path / "credentials" / KEYS["escrow"]).exists()


async def test_an_address_that_is_taken_or_none_is_refused_in_one_line(tmp_path: Path) -> None:
    async with sandbox_process(tmp_path) as (_, ready):
        taken = ready["sandbox_address"].removeprefix("http://")
        for bind, says in [
            (taken, f"cannot listen on {taken.replace(':', ' port ')}"),
            ("nowhere", "must be host:port, got nowhere"),
        ]:
            failed = await run("sandbox", "--bind", bind, "--state-dir", str(tmp_path))
            assert failed.returncode == 2
            assert says in failed.stderr
            assert len(failed.stderr.splitlines()) == 1


async def test_dev_refuses_a_sandbox_address_that_is_taken(
    tmp_path: Path, database_url: str
) -> None:
    async with sandbox_process(tmp_path / "a") as (_, ready):
        taken = ready["sandbox_address"].removeprefix("http://")
        words = ("--database-url", database_url, "--state-dir", str(tmp_path / "b"))
        failed = await run("dev", *words, "--sandbox-bind", taken)
    assert failed.returncode == 2
    assert f"cannot listen on {taken.replace(':', ' port ')}" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


async def test_dev_starts_stand_ins_and_says_where(tmp_path: Path, database_url: str) -> None:
    async with daemon_process(tmp_path, "--database-url", database_url) as daemon:
        url = daemon.ready["sandbox_address"]
        assert await hold(url, kept_keys(tmp_path)["escrow"]) == 200
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            shown = (await client.get(f"{url}/control")).json()
        assert {name: desk["base_url"] for name, desk in shown.items()} == {
            name: f"{url}/{name}" for name in KEYS
        }


async def test_a_target_with_an_address_is_no_stand_in_and_gets_no_key(tmp_path: Path) -> None:
    given = load(
        None, environ={"ESCROW_BASE_URL": "http://escrow", "INCOME_RISK_KEY": "income"}
    ).settings
    async with with_stand_ins(given, tmp_path, "127.0.0.1:0") as (settings, url):
        addresses = target_addresses(settings)
        assert settings.targets.escrow_base_url == "http://escrow"
    assert {target: address.base_url for target, address in addresses.items()} == {
        target: f"{url}/{target}" for target in ("clawinsure", "clawincome", "clawbounties")
    }
    assert addresses[Target.CLAWINCOME].key == Secret("income")


async def test_dev_starts_no_stand_ins_when_every_target_has_an_address(
    tmp_path: Path, database_url: str
) -> None:
    names = ("ESCROW", "CLAWINSURE", "CLAWINCOME", "CLAWBOUNTIES")
    environ = {f"{name}_BASE_URL": "http://127.0.0.1:9" for name in names}
    async with daemon_process(tmp_path, "--database-url", database_url, environ=environ) as daemon:
        assert "sandbox_address" not in daemon.ready
        assert not (tmp_path / "credentials" / KEYS["escrow"]).exists()
