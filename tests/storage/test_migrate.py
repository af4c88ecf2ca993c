"""Migrations: once, in order, agreed between daemons, and never against a schema we do not know."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import trio

from clawsettle.domain.errors import ConfigError
from clawsettle.domain.journal import GENESIS_HASH, event_hash
from clawsettle.storage.bridge import Database, Transaction, open_database
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.ledger_book import LedgerBook
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
from tests.domain.ledger_cases import ALICE, ALICE_DID, request
from tests.storage.books import done, faults, prove


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


Statement = tuple[object, ...]
"""SQL and its parameters."""


async def restore(database: Database, *, migrations: int, rows: Sequence[Statement]) -> None:
    """Make a database as the first ``migrations`` left it, with rows of that time."""

    async def as_it_was(transaction: Transaction) -> None:
        await transaction.script(_LEDGER_OF_FILES)
        for migration in known_migrations()[:migrations]:
            await transaction.script(migration.sql)
            await transaction.fetch(
                "INSERT INTO schema_migration VALUES ($1, $2, $3)",
                *(migration.number, migration.name, migration.sha256),
            )
        for sql, *values in rows:
            await transaction.fetch(str(sql), *values)

    await database.transaction(as_it_was)


async def test_rows_from_before_dead_letters_stay_and_can_be_requeued(empty_database: str) -> None:
    number, name = 3, "0003_dead_letters.sql"
    async with open_database(empty_database) as database:
        await restore(database, migrations=2, rows=[(_ROWS_BEFORE_DEAD_LETTERS,)])
        rows = "SELECT event_id, state, blame, attempts, due_at FROM settlement_outbox ORDER BY 1"
        known = await database.fetch(rows)
        applied = await apply_migrations(database)
        assert (applied[0].number, applied[0].name) == (number, name)
        assert await database.fetch(rows) == known
        letter = await DeadLetters(database, 30).requeue("evt_dead", Operator("key:0", "mended"))
        assert letter is not None
        assert letter.state == "failed"


_ACCOUNT = "INSERT INTO ledger_account VALUES ($1, $2, $3, $4, 0, 0, 0, 0, $5, $5)"
_EVENT = """
    INSERT INTO ledger_event VALUES ($1::bigint, 'evt_' || $1, $2, $3, $4, NULL, $5, 'available',
                                     $6, $7, $8, $9)
"""
_POSTING = "INSERT INTO ledger_posting VALUES ($1, $2, $3, 'available', $4)"
_TAIL = "UPDATE ledger_tail SET seq = $1, event_hash = $2, created_at = $3"


def journal_of_one_hash() -> list[Statement]:
    """Two events and a memo, as the release before the second hash wrote them."""
    at, link, bank = datetime(2026, 2, 11, tzinfo=UTC), GENESIS_HASH, "external:bänk:USD"
    rows: list[Statement] = [
        (_ACCOUNT, ALICE, "user", ALICE_DID, 700, at),
        (_ACCOUNT, bank, "external", None, -700, at),
    ]
    for seq, event_type, amount_minor, delta_minor in (
        (1, "payin_settle", 1000, 1000),
        (2, "payout_settle", 5, 0),
        (3, "payin_reverse", 300, -300),
    ):
        key, previous = f"payment_settlement:set_{seq}:{event_type}", link
        link = event_hash(
            previous,
            event_type=event_type,
            account_id=ALICE,
            to_account_id=None,
            amount_minor=amount_minor,
            bucket="available",
            idempotency_key=key,
            created_at=at,
        )
        metadata = '{"a": "\\ü"}'
        rows.append(
            (_EVENT, seq, key, event_type, ALICE, amount_minor, previous, link, metadata, at)
        )
        if delta_minor:
            rows += [(_POSTING, seq, 0, ALICE, delta_minor), (_POSTING, seq, 1, bank, -delta_minor)]
    return [*rows, (_TAIL, 3, link, at)]


async def test_a_journal_of_one_hash_gets_the_second(empty_database: str) -> None:
    async with open_database(empty_database) as database:
        await restore(database, migrations=4, rows=journal_of_one_hash())
        assert [migration.number for migration in await apply_migrations(database)][:1] == [5]
        assert await faults(database) == []
        book = LedgerBook(database, "USD")
        await done(book, request("k1"))
        assert len(await prove(book)) == 4


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
