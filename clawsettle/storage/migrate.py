"""Migrations: numbered ``.sql`` files, forward only, each applied once and never changed.

Daemons that start together agree through one advisory lock: one applies, the others find nothing
to do. All pending files are one transaction, so a failing file leaves the schema as it was.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from attrs import frozen

from clawsettle.domain.errors import ConfigError, StorageError
from clawsettle.storage.bridge import Database, Transaction

SERVER_VERSION_MIN = 150000
"""The oldest PostgreSQL served, as ``server_version_num``."""

_LOCK_KEY = 7_212_470_501
_BOUNDS = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s'"
# The server's bounds end a statement that hangs; the client's is no reason to give up a long file.
_FILE_S = 600.0
_LEDGER_OF_FILES = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer     NOT NULL,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_migration_pk PRIMARY KEY (number)
);
"""


@frozen
class Migration:
    """One file: its number, name, text and the hash that proves it unchanged."""

    number: int
    name: str
    sql: str
    sha256: str


@cache
def known_migrations() -> list[Migration]:
    """Return this program's migrations in order."""
    found = []
    for file in (files("clawsettle.storage") / "migrations").iterdir():
        if file.name.endswith(".sql"):
            sql = file.read_text(encoding="utf-8")
            digest = hashlib.sha256(sql.encode()).hexdigest()
            found.append(Migration(int(file.name[:4]), file.name, sql, digest))
    return sorted(found, key=lambda migration: migration.number)


async def apply_migrations(database: Database) -> list[Migration]:
    """Bring the schema up to date and return what was applied, oldest first.

    Raises: ConfigError when the schema is newer than this program, an applied file has been
    changed, or the role may not create tables; StorageUnavailable when locks cannot be had.
    """

    async def work(transaction: Transaction) -> list[Migration]:
        # The lock comes before the first CREATE: without it, daemons starting together collide.
        await transaction.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY)
        await transaction.script(_BOUNDS)
        pending = await _pending_now(transaction)
        if pending:
            await transaction.script(_LEDGER_OF_FILES)
        for migration in pending:
            await transaction.script(migration.sql, timeout_s=_FILE_S)
            await transaction.fetch(
                "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
        return pending

    try:
        return await database.transaction(work)
    except StorageError as error:
        if error.retryable:
            raise
        raise ConfigError([f"the schema cannot be migrated: {error.message}"]) from error


async def pending_migrations(database: Database) -> list[Migration]:
    """Return what ``apply_migrations`` would apply. Raises: as it does."""
    return await database.transaction(_pending_now)


async def _pending_now(transaction: Transaction) -> list[Migration]:
    exists = await transaction.fetch("SELECT to_regclass('schema_migration') IS NOT NULL AS there")
    if not exists[0]["there"]:
        return known_migrations()
    rows = await transaction.fetch("SELECT number, name, sha256 FROM schema_migration")
    return _missing({row["number"]: row["sha256"] for row in rows})


def _missing(applied: Mapping[int, str]) -> list[Migration]:
    """Return what is not applied yet, after checking that what is applied is ours."""
    known = {migration.number: migration for migration in known_migrations()}
    if newer := sorted(applied.keys() - known.keys()):
        raise ConfigError(
            [f"the schema is newer than this program: migration {newer[-1]} is not known here"]
        )
    changed = [
        known[number].name for number, sha256 in applied.items() if sha256 != known[number].sha256
    ]
    if changed:
        raise ConfigError([f"migration {changed[0]} was applied with another text"])
    return [migration for number, migration in sorted(known.items()) if number not in applied]


async def check_server(database: Database) -> None:
    """Return when the server can keep what clawsettle promises.

    Raises: ConfigError listing everything that is wrong at once.
    """
    row = (
        await database.fetch(
            """
            SELECT current_setting('server_version_num')::integer AS version,
                   current_setting('server_version') AS version_text,
                   current_setting('server_encoding') AS encoding,
                   current_setting('synchronous_commit') AS synchronous_commit,
                   current_setting('fsync') AS fsync,
                   current_setting('transaction_read_only') AS read_only,
                   pg_is_in_recovery() AS standby,
                   current_user AS role,
                   coalesce(current_schema(), '') AS schema,
                   has_schema_privilege(current_schema(), 'CREATE') AS may_create,
                   to_regclass('schema_migration') IS NOT NULL AS migrated
            """
        )
    )[0]
    problems = []
    if row["version"] < SERVER_VERSION_MIN:
        problems.append(f"PostgreSQL 15 or later is needed, this is {row['version_text']}")
    if row["encoding"] != "UTF8":
        problems.append(f"the database's encoding must be UTF8, it is {row['encoding']}")
    if row["synchronous_commit"] == "off" or row["fsync"] == "off":
        problems.append("synchronous_commit and fsync must be on: acknowledged money must survive")
    if row["standby"] or row["read_only"] == "on":
        problems.append("the server is read-only (a standby?): name the primary")
    if not row["migrated"] and not row["may_create"]:
        problems.append(
            f"role {row['role']} may not create tables in schema {row['schema']!r}: grant it, "
            "or run `clawsettle migrate` once as a role that may"
        )
    if problems:
        raise ConfigError(problems)
