"""The embedded ledger's one writer: whole commits, exact books, and one answer for each key."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import field, frozen
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.accounts import account_ids
from clawsettle.domain.book import Answer
from clawsettle.domain.errors import (
    ClawsettleError,
    ConflictError,
    NotFoundError,
    Overloaded,
    StorageError,
    StorageUnavailable,
)
from clawsettle.domain.forwarding import Accepted, Forwardable, Refused, Unknown
from clawsettle.domain.ledger import Command, OpenAccount
from clawsettle.domain.settlements import parse_ingest
from clawsettle.http.errors import error_status, transfer_status
from clawsettle.storage.bridge import Database, Transaction, open_database
from clawsettle.storage.ledger_book import LedgerBook
from tests.clients import proxied
from tests.storage.books import available, prove

ALICE, BOB, MALLORY = (account_ids(f"did:key:{who}")[0] for who in ("alice", "bob", "mallory"))
# What storage refuses in these tests: any settlement of Mallory's account.
_POISON = f"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'not this account'; END$$;
    CREATE TRIGGER refuse BEFORE INSERT ON ledger_settlement FOR EACH ROW
        WHEN (new.account_id = '{MALLORY}') EXECUTE FUNCTION refuse();
"""
# What makes a commit take its time: a check that PostgreSQL puts off until COMMIT.
_SLOW_COMMIT = """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_sleep(0.5); RETURN new; END$$;
    CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON ledger_event
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Catch the log: rendering the tracebacks of refused batches takes seconds."""
    with capture_logs():
        yield


def payin(
    number: int, account_id: str = ALICE, *, amount_minor: int = 100, status: str = "confirmed"
) -> Forwardable:
    return Forwardable(
        f"key_{number}_{status}",
        {
            "provider": "stripe",
            "external_payment_id": f"pi_{number}",
            "direction": "payin",
            "status": status,
            "account_id": account_id,
            "amount_minor": str(amount_minor),
            "currency": "USD",
        },
    )


def command(sent: Forwardable) -> Command:
    return parse_ingest(sent.key, sent.payload)


@frozen(eq=False)
class Counter:
    """A running keeper on a database."""

    keeper: LedgerKeeper
    database: Database
    running: trio.CancelScope = field(factory=trio.CancelScope)
    stopped: trio.Event = field(factory=trio.Event)

    async def available(self, account_id: str) -> int:
        return await available(self.keeper.book, account_id)

    async def commits(self) -> int:
        """Return how many transactions have stored answers."""
        rows = await self.database.fetch("SELECT DISTINCT xmin::text FROM ledger_ingestion")
        return len(rows)

    async def script(self, sql: str) -> None:
        await self.database.transaction(lambda transaction: transaction.script(sql))

    async def check_books(self, *, event_count: int) -> None:
        assert len(await prove(self.keeper.book)) == event_count


@asynccontextmanager
async def keeping(
    database_url: str, *, batch_max: int = 100, waiting_max: int = 1000, pool_max: int = 4
) -> AsyncIterator[Counter]:
    """Run a keeper with accounts of Alice, Bob and Mallory; it is cut at the end."""
    async with (
        open_database(database_url, pool_max=pool_max) as database,
        trio.open_nursery() as nursery,
    ):
        keeper = LedgerKeeper(
            LedgerBook(database, "USD"), error_status, transfer_status, batch_max, waiting_max
        )
        counter = Counter(keeper, database)

        async def run() -> None:
            with counter.running:
                await keeper.run()
            counter.stopped.set()

        nursery.start_soon(run)
        await keeper.ask_all([OpenAccount(f"did:key:{who}") for who in ("alice", "bob", "mallory")])
        yield counter
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tail_held(database_url: str) -> AsyncIterator[None]:
    """Hold the lock that every commit of the ledger needs."""

    async def hold(transaction: Transaction) -> None:
        await transaction.fetch("SELECT 1 FROM ledger_tail FOR UPDATE")
        await transaction.fetch("SELECT pg_sleep(30)")

    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        nursery.start_soon(database.transaction, hold)
        with trio.fail_after(5):
            while await database.fetch("SELECT 1 FROM ledger_tail FOR UPDATE SKIP LOCKED"):  # noqa: ASYNC110
                await trio.sleep(0.005)
        yield
        nursery.cancel_scope.cancel()


class Asked:
    """Asks put to a keeper side by side, each with what came of it."""

    def __init__(self, nursery: trio.Nursery, keeper: LedgerKeeper) -> None:
        self._nursery, self._keeper = nursery, keeper
        self.results: dict[str, Answer | ClawsettleError] = {}

    async def put(self, *many: Forwardable) -> None:
        """Put asks, and return when each waits in the keeper's mailbox or was taken."""
        for sent in many:
            self._nursery.start_soon(self._ask, sent)
            await wait_all_tasks_blocked()

    def created(self) -> list[bool]:
        return [isinstance(r, Answer) and r.created for r in self.results.values()]

    async def _ask(self, sent: Forwardable) -> None:
        try:
            self.results[sent.key] = await self._keeper.ask(command(sent))
        except ClawsettleError as error:
            self.results[sent.key] = error


async def test_what_waits_together_is_one_commit(database_url: str) -> None:
    async with keeping(database_url) as on:
        async with trio.open_nursery() as nursery:
            asked = Asked(nursery, on.keeper)
            async with tail_held(database_url):
                await asked.put(*map(payin, range(20)))
                # The first ask went ahead by itself; the others wait while it cannot commit.
                assert on.keeper.statistics()["waiting"] == 19
                assert asked.results == {}
        assert asked.created() == [True] * 20
        assert await on.commits() == 2
        assert await on.available(ALICE) == 2000
        await on.check_books(event_count=20)


async def test_a_batch_is_bounded_by_its_commands(database_url: str) -> None:
    async with keeping(database_url, batch_max=5) as on:
        async with trio.open_nursery() as nursery:
            asked = Asked(nursery, on.keeper)
            async with tail_held(database_url):
                await asked.put(*map(payin, range(12)))
        assert asked.created() == [True] * 12
        # One alone, then 5, 5 and 1.
        assert await on.commits() == 4


async def test_requests_of_a_batch_see_each_other_in_order(database_url: str) -> None:
    async with keeping(database_url) as on:
        carol = account_ids("did:key:carol")[0]
        results = await on.keeper.ask_all(
            [
                OpenAccount("did:key:carol"),
                command(payin(1, carol)),
                command(payin(1, carol)),
                command(payin(1, carol, status="reversed")),
                command(payin(2, carol, amount_minor=7)),
            ]
        )
        created = [isinstance(r, Answer) and r.created for r in results]
        assert created == [True, True, False, True, True]
        assert await on.available(carol) == 7
        assert await on.commits() == 1
        await on.check_books(event_count=3)


async def test_a_refused_request_stops_no_other_and_leaves_no_trace(database_url: str) -> None:
    async with keeping(database_url) as on:
        other = payin(1, amount_minor=101, status="reversed")
        sent = [payin(1), payin(2, "acc_nobody"), other, payin(3, BOB)]
        results = await on.keeper.ask_all([command(one) for one in sent])
        kinds = [type(result) for result in results]
        assert kinds == [Answer, NotFoundError, ConflictError, Answer]
        rows = await on.database.fetch("SELECT idempotency_key AS key FROM ledger_ingestion")
        assert {row["key"] for row in rows} == {"key_1_confirmed", "key_3_confirmed"}
        assert (await on.available(ALICE), await on.available(BOB)) == (100, 100)
        await on.check_books(event_count=2)


async def test_a_request_that_storage_refuses_fails_alone(database_url: str) -> None:
    async with keeping(database_url) as on:
        await on.script(_POISON)
        async with trio.open_nursery() as nursery:
            asked = Asked(nursery, on.keeper)
            async with tail_held(database_url):
                await asked.put(payin(0), payin(1), payin(2, MALLORY), payin(3, BOB))
        refused = asked.results.pop("key_2_confirmed")
        assert isinstance(refused, StorageError)
        assert not refused.retryable
        assert asked.created() == [True] * 3
        assert await on.available(ALICE) == 200
        assert await on.available(MALLORY) == 0
        await on.check_books(event_count=3)


async def test_a_request_that_storage_refuses_fails_alone_within_one_ask(
    database_url: str,
) -> None:
    async with keeping(database_url) as on:
        await on.script(_POISON)
        results = await on.keeper.ask_all(
            [command(payin(1)), command(payin(2, MALLORY)), command(payin(3, BOB))]
        )
        assert [type(result) for result in results] == [Answer, StorageError, Answer]
        await on.check_books(event_count=2)


async def test_settlements_from_the_forwarder_are_answered_as_the_port_would(
    database_url: str,
) -> None:
    async with keeping(database_url) as on:
        await on.script(_POISON)
        await on.keeper.ask(command(payin(4)))
        unreadable = Forwardable("key_bad", {**payin(5).payload, "direction": "sideways"})
        sent = [payin(1), unreadable, payin(2, "acc_nobody"), payin(3, MALLORY), payin(4)]
        outcomes = await on.keeper.ingest([*sent, payin(6, BOB)])
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [Accepted, Refused, Refused, Unknown, Accepted, Accepted]
        assert [outcome.ledger_status for outcome in outcomes] == [201, 400, 404, None, 200, 201]
        assert await on.keeper.ingest([unreadable]) == [outcomes[1]]
        assert await on.keeper.ingest([]) == []


async def test_a_connection_killed_in_its_commit_is_made_good_once(database_url: str) -> None:
    async with keeping(database_url) as on:
        await on.script(_SLOW_COMMIT)
        async with trio.open_nursery() as nursery:
            asked = Asked(nursery, on.keeper)
            await asked.put(payin(1))
            with trio.fail_after(5):
                while not await _kill_a_commit(on.database):  # noqa: ASYNC110
                    await trio.sleep(0.005)
        assert asked.created() == [True]
        assert await on.available(ALICE) == 100
        await on.check_books(event_count=1)


async def _kill_a_commit(database: Database) -> bool:
    killed = await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event = 'PgSleep'"
    )
    return bool(killed)


async def test_a_commit_whose_answer_is_lost_counts_once(database_url: str) -> None:
    async with proxied(database_url) as proxy, keeping(proxy.url) as on:
        proxy.swallow_stores = 1
        results = await on.keeper.ask_all([command(payin(1)), command(payin(2, BOB))])
        assert proxy.swallow_stores == 0
        bodies = [result.body for result in results if isinstance(result, Answer)]
        # It was committed the first time; the second try found its own answers.
        assert [body["idempotency"] for body in bodies] == [
            {"key": "key_1_confirmed", "replayed": True, "deduped": False},
            {"key": "key_2_confirmed", "replayed": True, "deduped": False},
        ]
        assert (await on.available(ALICE), await on.available(BOB)) == (100, 100)
        await on.check_books(event_count=2)


async def test_an_outcome_that_stays_unknown_is_told_and_asking_again_is_safe(
    database_url: str,
) -> None:
    async with proxied(database_url) as proxy, keeping(proxy.url) as on:
        proxy.swallow_stores = 3
        with pytest.raises(StorageUnavailable):
            await on.keeper.ask(command(payin(1)))
        again = await on.keeper.ask(command(payin(1)))
        assert not again.created
        assert await on.available(ALICE) == 100
        await on.check_books(event_count=1)


async def test_two_keepers_keep_one_exact_book(database_url: str) -> None:
    async with keeping(database_url, batch_max=7) as one, keeping(database_url, batch_max=7) as two:
        async with trio.open_nursery() as nursery:
            for number in range(1, 201):
                keeper = (one if number % 2 else two).keeper
                account_id = ALICE if number % 3 else BOB
                sent = payin(number, account_id, amount_minor=number)
                nursery.start_soon(keeper.ask, command(sent))
        alice = sum(number for number in range(1, 201) if number % 3)
        assert await one.available(ALICE) == alice
        assert await two.available(BOB) == sum(range(1, 201)) - alice
        await one.check_books(event_count=200)


async def test_two_keepers_agree_who_was_first(database_url: str) -> None:
    async with keeping(database_url) as one, keeping(database_url) as two:
        async with trio.open_nursery() as nursery:
            first, second = Asked(nursery, one.keeper), Asked(nursery, two.keeper)
            async with tail_held(database_url):
                for number in range(10):
                    await first.put(payin(number))
                    await second.put(payin(number))
        assert sum(first.created()) + sum(second.created()) == 10
        assert await one.available(ALICE) == 1000
        await one.check_books(event_count=10)


async def test_a_full_keeper_refuses_and_a_closed_one_finishes_what_it_has(
    database_url: str,
) -> None:
    async with keeping(database_url, waiting_max=3) as on:
        async with trio.open_nursery() as nursery:
            asked = Asked(nursery, on.keeper)
            async with tail_held(database_url):
                await asked.put(*map(payin, range(4)))
                with pytest.raises(Overloaded):
                    await on.keeper.ask(command(payin(9)))
                on.keeper.close()
                with pytest.raises(Overloaded):
                    await on.keeper.ask(command(payin(9)))
        with trio.fail_after(5):
            await on.stopped.wait()
        assert asked.created() == [True] * 4, asked.results
        await on.check_books(event_count=4)


async def test_askers_of_a_keeper_that_is_cut_are_told(database_url: str) -> None:
    async with keeping(database_url) as on:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                asked = Asked(nursery, on.keeper)
                async with tail_held(database_url):
                    await asked.put(payin(1))
                    on.running.cancel()
                    await on.stopped.wait()
        assert isinstance(asked.results["key_1_confirmed"], StorageError)
        await on.check_books(event_count=0)
