"""Where a round takes place: a PostgreSQL that outlives its daemons, and the daemons."""

import itertools
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio
from attrs import define, field, frozen

from clawsettle.config import TargetAddress
from clawsettle.domain.loss_events import Target
from clawsettle.storage.bridge import open_database
from clawsettle.storage.embedded import EmbeddedServer, embedded_postgres
from tests.daemon.process import command, environment
from tests.torture.load import Address, get_status, in_time

LEASE_S = 3.0
STATEMENT_TIMEOUT_S = 1.5
ANSWER_DEADLINE_S = 2.0
SECRET, ADMIN_KEY, LEDGER_KEY = "whsec_torture", "settle_torture", "ledger_torture"
START_S = 30.0

_CONFIG = f"""\
[daemon]
bind = "127.0.0.1:{{port}}"
drain_s = 5.0
[database]
url = "{{database_url}}"
statement_timeout_s = {STATEMENT_TIMEOUT_S}
[admin]
keys = ["{ADMIN_KEY}"]
[stripe]
webhook_secrets = ["{SECRET}"]
environment = "staging"
[forwarding]
acknowledge = "{{acknowledge}}"
answer_deadline_s = {ANSWER_DEADLINE_S}
attempt_timeout_s = 1.4
lease_s = {LEASE_S}
poll_s = 0.5
retry_base_s = 1
retry_max_s = 2
[payouts]
provider = "simulated"
answer_deadline_s = {ANSWER_DEADLINE_S}
step_timeout_s = 1.4
lease_s = {LEASE_S}
poll_s = 0.5
retry_base_s = 1
retry_max_s = 2
[netting]
target_clearing_domains = ["torture.netting"]
answer_deadline_s = {ANSWER_DEADLINE_S}
transfer_timeout_s = 1.4
lease_s = {LEASE_S}
poll_s = 0.5
in_flight_max = 4
batch_max = 8
[loss_events]
attempt_timeout_s = 1.4
lease_s = {LEASE_S}
poll_s = 0.5
retry_base_s = 1
retry_max_s = 2
breaker_open_s = 0.5
[targets]
{{targets}}
[ledger]
admin_keys = ["{LEDGER_KEY}"]
bind = "127.0.0.1:{{ledger_port}}"
"""


@define(eq=False)
class Daemon:
    """One ``clawsettle serve`` on ports of its own, which are the same after each start."""

    config_path: Path
    log_path: Path
    address: Address
    ledger_address: Address
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process as it was last started."""
        assert self._process is not None
        return self._process

    async def start(self) -> float:
        """Start it; return the seconds until ``/ready`` answered 200."""
        begun = trio.current_time()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command("serve", "--config", str(self.config_path)),
                stdout=log,
                stderr=log,
                env=environment(),
            )
        await self.becomes_ready()
        return trio.current_time() - begun

    async def becomes_ready(self) -> None:
        """Wait until ``/ready`` answers 200."""
        with in_time(START_S, "/ready 200"):
            while await get_status(self.address, "/ready") != 200:
                assert self.process.poll() is None, f"the daemon ended: {self.log_tail()}"
                await trio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> None:
        """Wait for the end of the process."""
        with in_time(START_S, "the daemon's end"):
            while self.process.poll() is None:  # noqa: ASYNC110 - a child's end sets no event
                await trio.sleep(0.01)

    async def kill(self) -> None:
        """Kill it at once."""
        self.signal(signal.SIGKILL)
        await self.ended()

    def logged(self, event: str) -> int:
        """Return how many lines of the log are of this event."""
        return self.log_path.read_text().count(f'"event":"{event}"')

    def log_tail(self) -> str:
        return self.log_path.read_text()[-2000:]

    def resident_mib(self) -> float:
        """Return how much memory it holds at present."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    async def ledger(
        self, method: str, path: str, json: Mapping[str, str] | None = None
    ) -> Mapping[str, object]:
        """Ask the ledger's port and return its answer."""
        headers = {"authorization": f"Bearer {LEDGER_KEY}"}
        base_url = "http://{}:{}".format(*self.ledger_address)
        async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
            answer = await client.request(method, path, headers=headers, json=json)
        body: Mapping[str, object] = answer.json()
        return body


@frozen(eq=False)
class Site:
    """A directory with a PostgreSQL of its own; each round gets a database of its own."""

    folder: Path
    server: EmbeddedServer
    _names: "itertools.count[int]" = field(factory=lambda: itertools.count(1))

    async def create_database(self) -> str:
        """Return the name of a new, empty database."""
        name = f"round_{next(self._names)}"
        await self._administer(f"CREATE DATABASE {name}")
        return name

    async def drop_database(self, name: str) -> None:
        await self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    async def _administer(self, sql: str) -> None:
        async with open_database(self.server.dsn, pool_max=1) as database:
            await database.fetch(sql)

    def server_pids(self) -> list[int]:
        """Return the postmaster's pid, then those of its children."""
        pid = self.server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [pid, *map(int, children.read_text().split())] if children.exists() else [pid]

    def signal_server(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server, the postmaster first."""
        for pid in self.server_pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    async def kill_server(self) -> None:
        """Kill every process of the server, the postmaster first."""
        self.signal_server(signal.SIGKILL)
        with in_time(START_S, "PostgreSQL's end"):
            while self.server.process.poll() is None:  # noqa: ASYNC110 - it sets no event
                await trio.sleep(0.005)

    @asynccontextmanager
    async def daemons(
        self,
        names: Sequence[str],
        database_url: str,
        acknowledge: str,
        targets: Mapping[Target, TargetAddress],
    ) -> AsyncIterator[list[Daemon]]:
        """Start daemons on one database; whatever still runs at the end is killed."""
        daemons = [self._daemon(name, database_url, acknowledge, targets) for name in names]
        try:
            for daemon in daemons:
                await daemon.start()
            yield daemons
        finally:
            for daemon in daemons:
                if daemon._process is not None:
                    daemon.process.kill()
                    daemon.process.wait()

    def _daemon(
        self,
        name: str,
        database_url: str,
        acknowledge: str,
        targets: Mapping[Target, TargetAddress],
    ) -> Daemon:
        port, ledger_port = _free_ports(2)
        config_path = self.folder / f"{name}.toml"
        config_path.write_text(
            _CONFIG.format(
                port=port,
                ledger_port=ledger_port,
                database_url=database_url,
                acknowledge=acknowledge,
                targets="\n".join(
                    f'{target}_base_url = "{to.base_url}"\n{target}_keys = ["{to.key.reveal()}"]'
                    for target, to in targets.items()
                ),
            )
        )
        log_path = self.folder / f"{name}.log"
        log_path.write_text("")
        return Daemon(config_path, log_path, ("127.0.0.1", port), ("127.0.0.1", ledger_port))


@asynccontextmanager
async def open_site(folder: Path) -> AsyncIterator[Site]:
    """Run a PostgreSQL in ``folder`` while the context is open."""
    async with embedded_postgres(folder / "postgres", stop_s=3) as server:
        yield Site(folder, server)


def _free_ports(count: int) -> list[int]:
    """Return ports nobody listens on; taken together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
