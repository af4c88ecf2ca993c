"""The daemon as a process of its own, started and killed as an operator would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from attrs import define, field

from clawsettle.config import Settings
from clawsettle.config.sources import catalogue
from clawsettle.sandbox.stripe_events import signature_header

START_S = 30.0
Json = dict[str, Any]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without any of our own names, and with ``extra``."""
    ours = ("CLAWSETTLE_", *(env.name for key in catalogue(Settings).values() for env in key.env))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**plain, **(extra or {})}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "clawsettle", *arguments]


async def run(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with trio.fail_after(60):
        done = await trio.run_process(
            command(*arguments),
            env=environment(environ),
            cwd=cwd,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@define(eq=False)
class DaemonProcess:
    """A running daemon: its process, its log, where it listens and its keys."""

    process: subprocess.Popen[bytes]
    log_path: Path
    state_dir: Path
    started_at: float
    ready_s: float = 0.0
    ready: Json = field(factory=dict)
    facts: Json = field(factory=dict)

    def lines(self) -> list[Json]:
        """Every line of stdout; each must be JSON."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    async def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = [line for line in self.lines() if line["event"] == "ready"]
            if found:
                self.ready_s = time.monotonic() - self.started_at
                self.ready = found[0]
                facts = self.state_dir / "daemon.json"
                self.facts = json.loads(facts.read_text()) if facts.exists() else {}
                return
            if self.process.poll() is not None:
                break
            await trio.sleep(0.01)
        stderr = self.log_path.with_suffix(".err").read_text()
        raise AssertionError(f"not ready: {self.log_path.read_text()[-2000:]} {stderr[-2000:]}")

    async def ended(self, within_s: float) -> int:
        """Wait for the process to end and return its exit code."""
        with trio.fail_after(within_s):
            while (code := self.process.poll()) is None:  # noqa: ASYNC110 - no event for this
                await trio.sleep(0.01)
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def deliver(
        self, client: httpx.AsyncClient, event: Mapping[str, object]
    ) -> httpx.Response:
        body = json.dumps(event).encode()
        header = signature_header(
            body, secret=self.facts["webhook_secret"], timestamp_s=int(time.time())
        )
        return await client.post(
            f"{self.facts['base_url']}/v1/stripe/webhook",
            content=body,
            headers={"stripe-signature": header},
        )

    async def ledger(
        self, client: httpx.AsyncClient, method: str, path: str, **options: Any
    ) -> Json:
        answer = await client.request(
            method,
            self.facts["ledger_base_url"] + path,
            headers={"authorization": f"Bearer {self.facts['ledger_admin_key']}"},
            **options,
        )
        body: Json = answer.json()
        return body

    async def available(self, client: httpx.AsyncClient, account_id: str) -> int:
        account = await self.ledger(client, "GET", f"/accounts/id/{account_id}")
        return int(account["balances"]["available"])


@asynccontextmanager
async def daemon_process(
    state_dir: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    serve: str | None = None,
) -> AsyncIterator[DaemonProcess]:
    """Start ``clawsettle dev`` on free ports, or ``serve`` with a configuration file.

    It is stopped, and killed if need be, at the end.
    """
    words = [
        "dev",
        "--state-dir",
        str(state_dir),
        "--bind",
        "127.0.0.1:0",
        "--ledger-bind",
        "127.0.0.1:0",
        "--sandbox-bind",
        "127.0.0.1:0",
        *arguments,
    ]
    if serve is not None:
        words = ["serve", "--config", serve]
    state_dir.mkdir(parents=True, exist_ok=True)
    log_path = state_dir / f"stdout-{time.monotonic_ns()}.log"
    with log_path.open("wb") as out, log_path.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            command(*words),
            stdout=out,
            stderr=err,
            env=environment({"SETTLE_ENV": "staging", **(environ or {})}),
        )
    daemon = DaemonProcess(process, log_path, state_dir, time.monotonic())
    try:
        await daemon.wait_ready()
        yield daemon
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(20):
                    await daemon.ended(20)
            if process.poll() is None:
                process.kill()
            process.wait()
