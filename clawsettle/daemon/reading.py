"""What commands share that use a daemon's database beside it: finding it, and opening it."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from clawsettle.domain.errors import ConfigError

if TYPE_CHECKING:
    from clawsettle.config import Settings
    from clawsettle.storage.bridge import Database

STATEMENT_TIMEOUT_S = 600.0

DatabaseUrlOption = Annotated[
    str | None,
    Parameter(help="The database; else [database] url, DATABASE_URL, or that of --state-dir."),
]


def read_settings(config: Path | None, database_url: str | None) -> "Settings":
    """Return the settings that a daemon would have. Raises: ConfigError."""
    from clawsettle.config import load

    return load(config, environ=os.environ, overrides={"database.url": database_url}).settings


def open_for_reading(
    settings: "Settings", state_dir: Path
) -> "AbstractAsyncContextManager[Database]":
    """Open the database that the settings or else the state directory name, by one connection.

    Raises: ConfigError when there is none, or its schema is not this program's.
    """
    return _open(settings, state_dir, 1, STATEMENT_TIMEOUT_S)


def open_for_working(
    settings: "Settings", state_dir: Path
) -> "AbstractAsyncContextManager[Database]":
    """Open the same database as a daemon does. Raises: as ``open_for_reading``."""
    configured = settings.database
    return _open(settings, state_dir, configured.pool_max, configured.statement_timeout_s)


@asynccontextmanager
async def _open(
    settings: "Settings", state_dir: Path, pool_max: int, statement_timeout_s: float
) -> "AsyncIterator[Database]":
    from clawsettle.storage.bridge import open_database
    from clawsettle.storage.migrate import pending_migrations

    async with open_database(
        _find_database(settings, state_dir),
        pool_max=pool_max,
        statement_timeout_s=statement_timeout_s,
    ) as database:
        pending = await pending_migrations(database)
        if pending:
            names = ", ".join(migration.name for migration in pending)
            raise ConfigError([f"the schema is not current: `clawsettle migrate` applies {names}"])
        yield database


def _find_database(settings: "Settings", state_dir: Path) -> str:
    from clawsettle.daemon.state_dir import read_facts

    if settings.database.url is not None:
        return settings.database.url.reveal()
    facts = read_facts(state_dir)
    if facts is None or facts.database_url is None:
        problem = (
            "no database: give --database-url, [database] url or DATABASE_URL, or name the "
            "--state-dir of a running `clawsettle dev`"
        )
        raise ConfigError([problem])
    return facts.database_url
