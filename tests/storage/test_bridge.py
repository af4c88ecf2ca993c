"""What callers rely on when they cross to the database thread."""

import pytest
import trio

from clawsettle.domain.errors import StorageError, StorageUnavailable
from clawsettle.storage.bridge import GRACE_S, Database, Transaction, open_database


async def test_a_cancelled_statement_ends_on_the_server_and_the_pool_is_whole(
    database_url: str,
) -> None:
    async with open_database(database_url, pool_max=1) as database:
        begun = trio.current_time()
        with trio.move_on_after(0.2) as scope:
            await database.fetch("SELECT pg_sleep(30) AS nap")
        assert scope.cancelled_caught
        assert trio.current_time() - begun < 0.2 + GRACE_S
        with trio.fail_after(5):
            while await _naps(database):  # noqa: ASYNC110 - the server tells nobody
                await trio.sleep(0.01)


async def _naps(database: Database) -> int:
    row = await database.fetch(
        "SELECT count(*) AS n FROM pg_stat_activity "
        "WHERE state = 'active' AND query LIKE '%AS nap' AND pid <> pg_backend_pid()"
    )
    return int(row[0]["n"])


async def test_a_cancelled_transaction_is_rolled_back(database_url: str) -> None:
    async with open_database(database_url) as database:

        async def slow(transaction: Transaction) -> None:
            await transaction.fetch("INSERT INTO charge_refund (charge_id) VALUES ('ch_1')")
            await transaction.fetch("SELECT pg_sleep(30)")

        with trio.move_on_after(0.3):
            await database.transaction(slow)
        assert await database.fetch("SELECT * FROM charge_refund") == []


async def test_a_script_may_have_longer_than_a_statement(database_url: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.script("SET LOCAL statement_timeout = '10s'")
        # A statement would be given up after 2.5 s, whatever the server's own bound is by then.
        await transaction.script("SELECT pg_sleep(2.7)", timeout_s=10)

    async with open_database(database_url, statement_timeout_s=0.5) as database:
        await database.transaction(work)


async def test_a_stream_shows_every_row_once_and_in_order(database_url: str) -> None:
    pages: list[list[int]] = []

    async def work(transaction: Transaction) -> None:
        sql = "SELECT i FROM generate_series(1, $1::integer) AS i"
        await transaction.stream(
            sql, 25, page=10, visit=lambda rows: pages.append([row["i"] for row in rows])
        )

    async with open_database(database_url) as database:
        await database.transaction(work)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [number for page in pages for number in page] == list(range(1, 26))


async def test_what_looks_at_a_stream_may_refuse_it(database_url: str) -> None:
    def refuse(_rows: object) -> None:
        raise StorageError("no more")

    async def work(transaction: Transaction) -> None:
        sql = "SELECT i FROM generate_series(1, 25) AS i"
        await transaction.stream(sql, page=10, visit=refuse)

    async with open_database(database_url, pool_max=1) as database:
        with pytest.raises(StorageError, match="no more"):
            await database.transaction(work)
        assert await database.fetch("SELECT 1 AS one")


async def test_a_cancelled_stream_ends_on_the_server_and_the_pool_is_whole(
    database_url: str,
) -> None:
    shown: list[object] = []

    async def work(transaction: Transaction) -> None:
        sql = "SELECT pg_sleep(30) AS nap, i FROM generate_series(1, 25) AS i"
        await transaction.stream(sql, page=10, visit=shown.extend)

    async with open_database(database_url, pool_max=1) as database:
        with trio.move_on_after(0.2) as scope:
            await database.transaction(work)
        assert scope.cancelled_caught
        with trio.fail_after(5):
            while await _naps(database):  # noqa: ASYNC110 - the server tells nobody
                await trio.sleep(0.01)


async def test_work_runs_again_when_its_connection_is_cut(database_url: str) -> None:
    async with open_database(database_url) as database:
        tries = 0

        async def cut_once(transaction: Transaction) -> int:
            nonlocal tries
            tries += 1
            if tries == 1:
                await transaction.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
            return tries

        assert await database.transaction(cut_once) == 2


async def test_idle_connections_that_were_cut_are_replaced(database_url: str) -> None:
    async with open_database(database_url, pool_max=2) as database:
        await database.fetch("SELECT 1")
        async with open_database(database_url, pool_max=1) as other:
            await other.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert (await database.fetch("SELECT 2 AS two"))[0]["two"] == 2


async def test_a_violated_constraint_is_named(database_url: str) -> None:
    async with open_database(database_url) as database:
        with pytest.raises(StorageError) as caught:
            await database.fetch(
                "INSERT INTO charge_refund (charge_id, total_minor) VALUES ('a', -1)"
            )
        assert caught.value.details["constraint"] == "charge_refund_total_not_negative"
        assert not caught.value.retryable


async def test_a_value_the_database_cannot_take_is_not_retryable(database_url: str) -> None:
    async with open_database(database_url) as database:
        with pytest.raises(StorageError) as caught:
            await database.fetch("SELECT $1::bigint", 2**70)
        assert not caught.value.retryable


async def test_a_statement_past_its_time_is_ended_once_and_not_repeated(database_url: str) -> None:
    async with open_database(database_url, statement_timeout_s=0.3) as database:
        begun = trio.current_time()
        with pytest.raises(StorageUnavailable):
            await database.fetch("SELECT pg_sleep(30)")
        assert trio.current_time() - begun < 0.6


async def test_a_database_that_is_not_there_is_unavailable(database_url: str) -> None:
    with pytest.raises(StorageUnavailable, match="cannot connect"):
        async with open_database(database_url.replace("test_", "absent_")):
            pass
