"""The processes that take part in a measurement, started and stopped from here."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import cattrs
import httpx
import trio
from attrs import frozen

from bench.generator import Job, Result
from bench.keeper import KeeperJob
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import EmbeddedServer
from clawsettle.storage.migrate import apply_migrations

Load = Job | KeeperJob
SECRET, LEDGER_KEY, SETTLE_KEY = "whsec_bench", "ledger_bench", "settle_bench"
_READY_S = 60.0


@frozen
class Daemon:
    """A running daemon and its database."""

    port: int
    pid: int
    ledger_url: str
    database: Database
    server: EmbeddedServer

    @property
    def pids(self) -> list[int]:
        """Return whose CPU time an event costs: the daemon's, and PostgreSQL's as a whole."""
        return [self.pid, self.server.pid]

    def rss_mb(self) -> float:
        """Return how much memory the daemon holds, in MB (10**6 bytes)."""
        return self._memory_mb("VmRSS:")

    def peak_rss_mb(self) -> float:
        """Return the most that it has ever held, in MB."""
        return self._memory_mb("VmHWM:")

    def _memory_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(name)[2].split()[0]) * 1024 / 1e6


@asynccontextmanager
async def python_party(module: str, *arguments: str) -> AsyncIterator[tuple[int, int]]:
    """Run a module that prints its port; yield the port and the process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = await trio.to_thread.run_sync(process.stdout.readline)
        yield int(port), process.pid
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def migrated_database(server: EmbeddedServer, name: str) -> AsyncIterator[Database]:
    """Create a database with the schema, and open it."""
    async with open_database(server.dsn, pool_max=1) as admin:
        await admin.fetch(f"CREATE DATABASE {name}")
    url = server.dsn_of(name)
    async with open_database(url, pool_max=2, statement_timeout_s=600, name="bench") as database:
        await apply_migrations(database)
        yield database


@asynccontextmanager
async def daemon(
    server: EmbeddedServer,
    database: Database,
    name: str,
    scratch: Path,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Daemon]:
    """Run ``clawsettle serve`` on a database of this name; the log goes into ``scratch``."""
    config = scratch / f"{name}.toml"
    config.write_text('[daemon]\nbind = "127.0.0.1:0"\n[ledger]\nbind = "127.0.0.1:0"\n')
    environ = {
        "PATH": "/usr/bin:/bin",
        "DATABASE_URL": server.dsn_of(name),
        "STRIPE_WEBHOOK_SIGNING_SECRET": SECRET,
        "SETTLE_ADMIN_KEY": SETTLE_KEY,
        "LEDGER_ADMIN_KEY": LEDGER_KEY,
        **(settings or {}),
    }
    log_path = scratch / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clawsettle", "serve", "--config", str(config)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    try:
        ready = await _ready(log_path, process)
        port = int(str(ready["address"]).rpartition(":")[2])
        yield Daemon(port, process.pid, str(ready["ledger_address"]), database, server)
    finally:
        process.terminate()
        await trio.to_thread.run_sync(process.wait)


async def open_accounts(ledger_url: str, count: int) -> list[str]:
    """Open accounts in a daemon's embedded ledger and return their ids."""
    ids: dict[int, str] = {}
    headers = {"authorization": f"Bearer {LEDGER_KEY}"}
    async with httpx.AsyncClient(base_url=ledger_url, headers=headers, timeout=60) as client:

        async def some(numbers: Sequence[int]) -> None:
            for number in numbers:
                answer = await client.post("/accounts", json={"did": f"did:key:bench{number}"})
                ids[number] = answer.raise_for_status().json()["id"]

        async with trio.open_nursery() as nursery:
            for start in range(8):
                nursery.start_soon(some, range(start, count, 8))
    return [ids[number] for number in range(count)]


async def load(job: Load) -> Result:
    """Run a job in a process of its own: the module that says what it is also runs it."""
    done = await trio.run_process(
        [sys.executable, "-m", type(job).__module__],
        stdin=json.dumps(cattrs.unstructure(job)).encode(),
        capture_stdout=True,
    )
    return cattrs.structure(json.loads(done.stdout), Result)


async def _ready(log_path: Path, process: subprocess.Popen[bytes]) -> Mapping[str, object]:
    with trio.fail_after(_READY_S):
        while process.poll() is None:
            for line in log_path.read_text().splitlines():
                if '"ready"' in line:
                    found: Mapping[str, object] = json.loads(line)
                    return found
            await trio.sleep(0.02)
    raise RuntimeError(log_path.read_text())
