"""One real PostgreSQL for the whole run, one fresh database for each test."""

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import field, frozen

from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import EmbeddedServer, embedded_postgres
from clawsettle.storage.migrate import apply_migrations

_SETTINGS = {
    # Log every statement: a test that says "no statement was sent" reads it here.
    "log_statement": "all",
    "log_line_prefix": "%d ",
    "max_connections": "200",
}
_names = itertools.count(1)


@frozen
class Postgres:
    """The run's server, with an administrator's connection on a thread of its own.

    ``_began_at`` is how long the log was when each database was made, in bytes.
    """

    server: EmbeddedServer
    _admin: Database
    _token: trio.lowlevel.TrioToken
    _began_at: dict[str, int] = field(factory=dict)

    def create_database(self, template: str, options: str = "") -> str:
        """Clone a database and return its name."""
        name = f"test_{os.getpid()}_{next(_names)}"
        self._began_at[name] = self.server.log_path.stat().st_size
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        return name

    def execute(self, sql: str) -> None:
        trio.from_thread.run(self._admin.fetch, sql, trio_token=self._token)

    def statements(self, database: str) -> list[str]:
        """Return what was asked of one database so far, from the server's own log."""
        with self.server.log_path.open(encoding="utf-8") as log:
            log.seek(self._began_at[database])
            return [line for line in log if line.startswith(f"{database} LOG:  execute")]


async def _serve(state_dir: Path, ready: "_Handover", stop: threading.Event) -> None:
    async with (
        embedded_postgres(state_dir, settings=_SETTINGS) as server,
        open_database(server.dsn, pool_max=1) as admin,
    ):
        await admin.fetch("CREATE DATABASE migrated")
        async with open_database(server.dsn_of("migrated"), pool_max=1) as migrated:
            await apply_migrations(migrated)
        ready.postgres = Postgres(server, admin, trio.lowlevel.current_trio_token())
        ready.event.set()
        await trio.to_thread.run_sync(stop.wait)


class _Handover:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.postgres: Postgres | None = None


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # The server lives as long as the thread that started it, so that thread waits for the end.
    ready, stop = _Handover(), threading.Event()

    def serve() -> None:
        try:
            trio.run(_serve, tmp_path_factory.mktemp("postgres"), ready, stop)
        finally:
            ready.event.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.event.wait()
    assert ready.postgres is not None
    yield ready.postgres
    stop.set()
    thread.join()


@pytest.fixture
def empty_database(postgres: Postgres) -> str:
    """The address of a database without a schema."""
    return postgres.server.dsn_of(postgres.create_database("template0"))


@pytest.fixture
def database_name(postgres: Postgres) -> str:
    """The name of a migrated database."""
    return postgres.create_database("migrated")


@pytest.fixture
def database_url(postgres: Postgres, database_name: str) -> str:
    """The address of a migrated database."""
    return postgres.server.dsn_of(database_name)


@pytest.fixture
def other_database_url(postgres: Postgres) -> str:
    """The address of a second migrated database."""
    return postgres.server.dsn_of(postgres.create_database("migrated"))
