"""Migrations: once, in order, agreed between daemons, and never against a schema we do not know."""

import pytest
import trio

from clawsettle.domain.errors import ConfigError
from clawsettle.storage.bridge import Transaction, open_database
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.migrate import (
    _LEDGER_OF_FILES,
    Migration,
    apply_migrations,
    check_server,
    known_migrations,
    pending_migrations,
)
from clawsettle.storage.operator_actions import Operator
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


_ROWS_BEFORE_DEAD_LETTERS = """
    WITH states (state, blame) AS (
        VALUES ('pending', NULL), ('failed', NULL), ('forwarded', NULL), ('dead', 'us')
    ), event AS (
        INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
        SELECT 'evt_' || state, 'payout.paid', false, sha256('x'), 'forwarded' FROM states
    )
    INSERT INTO settlement_outbox
        (event_id, payload, state, blame, due_at, settlement_id, forwarded_at)
    SELECT 'evt_' || state, '{}', state, blame,
           CASE WHEN state IN ('pending', 'failed') THEN now() END,
           CASE WHEN state = 'forwarded' THEN 'set_1' END,
           CASE WHEN state = 'forwarded' THEN now() END
    FROM states
"""


async def test_rows_from_before_dead_letters_stay_and_can_be_requeued(empty_database: str) -> None:
    before, (number, name) = known_migrations()[:2], (3, "0003_dead_letters.sql")
    async with open_database(empty_database) as database:

        async def as_it_was(transaction: Transaction) -> None:
            await transaction.script(_LEDGER_OF_FILES)
            for migration in before:
                await transaction.script(migration.sql)
                await transaction.fetch(
                    "INSERT INTO schema_migration VALUES ($1, $2, $3)",
                    *(migration.number, migration.name, migration.sha256),
                )
            await transaction.fetch(_ROWS_BEFORE_DEAD_LETTERS)

        await database.transaction(as_it_was)
        rows = "SELECT event_id, state, blame, attempts, due_at FROM settlement_outbox ORDER BY 1"
        known = await database.fetch(rows)
        applied = await apply_migrations(database)
        assert (applied[0].number, applied[0].name) == (number, name)
        assert await database.fetch(rows) == known
        letter = await DeadLetters(database, 30).requeue("evt_dead", Operator("key:0", "mended"))
        assert letter is not None
        assert letter.state == "failed"


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
