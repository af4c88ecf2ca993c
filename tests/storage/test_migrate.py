"""Migrations: once, in order, agreed between daemons, and never against a schema we do not know."""

import pytest
import trio

from clawsettle.domain.errors import ConfigError
from clawsettle.storage.bridge import open_database
from clawsettle.storage.migrate import (
    Migration,
    apply_migrations,
    check_server,
    known_migrations,
    pending_migrations,
)
from tests.conftest import Postgres


async def test_four_daemons_at_once_apply_each_migration_once(empty_database: str) -> None:
    applied: list[list[Migration]] = []

    async def start() -> None:
        async with open_database(empty_database) as database:
            applied.append(await apply_migrations(database))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert sorted(map(len, applied)) == [0, 0, 0, len(known_migrations())]


async def test_an_empty_database_has_everything_pending(empty_database: str) -> None:
    async with open_database(empty_database) as database:
        assert await pending_migrations(database) == known_migrations()


async def test_a_newer_schema_is_refused(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch("INSERT INTO schema_migration VALUES (9999, 'x', 'y')")
        with pytest.raises(ConfigError, match="newer than this program: migration 9999"):
            await apply_migrations(database)


async def test_a_changed_migration_is_refused(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch("UPDATE schema_migration SET sha256 = 'other' WHERE number = 1")
        with pytest.raises(ConfigError, match="another text"):
            await apply_migrations(database)


async def test_a_server_that_would_lose_commits_is_refused(database_url: str) -> None:
    async with open_database(database_url) as database:
        await database.fetch(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
            " current_database()); END $$"
        )
    async with open_database(database_url) as database:
        with pytest.raises(ConfigError, match="synchronous_commit"):
            await check_server(database)


@pytest.fixture
def ascii_database(postgres: Postgres) -> str:
    name = postgres.create_database("template0", "ENCODING 'SQL_ASCII' LOCALE 'C'")
    return postgres.server.dsn_of(name)


async def test_a_database_that_is_not_utf8_is_refused(ascii_database: str) -> None:
    async with open_database(ascii_database) as database:
        with pytest.raises(ConfigError, match="must be UTF8, it is SQL_ASCII"):
            await check_server(database)


async def test_a_role_without_rights_is_told_what_it_needs(empty_database: str) -> None:
    async with open_database(empty_database) as database:
        await database.fetch("CREATE ROLE poor LOGIN")
    poor = empty_database.replace("postgres@", "poor@")
    async with open_database(poor) as database:
        with pytest.raises(ConfigError, match="role poor may not create tables"):
            await check_server(database)
    async with open_database(empty_database) as database:
        await database.fetch("DROP ROLE poor")
