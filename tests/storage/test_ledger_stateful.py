"""The ledger on a real database, asked by several daemons that die, lose their connections and
overtake each other: it says what the plain model says, and its invariants hold after each step.

``LEDGER_EXAMPLES=600`` makes it a long run, of a quarter of an hour.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio
from attrs import define, evolve, field
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from clawsettle.actors.ledger_keeper import Result, decide_all
from clawsettle.domain.book import Book, RiskHold
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import Account
from clawsettle.domain.ledger import Command
from clawsettle.domain.proof import BookItem, Proof
from clawsettle.storage.bridge import Database, Row, open_database
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import LedgerReader, SettlementFilter
from tests.clients import Proxy, proxied
from tests.domain.ledger_desk import Answers, check_against_model
from tests.domain.ledger_model import LedgerModel
from tests.domain.ledger_requests import PROLOGUE, Asked, command, requests

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "20"))
STEPS = 25
DAEMONS = 3
Parsed = Sequence[Command | ClawsettleError]
"""A batch of requests as the port has read them; what is wrong in itself never asks the book."""
Hook = Callable[[], Awaitable[None]]

# The triggers that keep the journal from being changed are for the role "origin".
EMPTY = """
SET LOCAL session_replication_role = replica;
TRUNCATE ledger_account, ledger_settlement, ledger_ingestion, ledger_event, ledger_posting,
         ledger_reservation, ledger_risk_hold;
UPDATE ledger_tail SET seq = 0, version = 0, event_hash = repeat('0', 64),
                       content_hash = repeat('0', 64)
"""

BROKEN = """
SELECT 'a bucket is below zero: ' || account_id AS broken FROM ledger_account
WHERE kind <> 'external'
  AND least(available_minor, held_minor, bonded_minor, fee_pool_minor, promo_minor) < 0
UNION ALL
SELECT 'postings do not sum to zero: event ' || seq FROM ledger_posting
GROUP BY seq HAVING sum(delta_minor) <> 0
UNION ALL
SELECT 'a transfer changes the total: event ' || seq
FROM ledger_event JOIN ledger_posting AS p USING (seq) JOIN ledger_account AS a
  ON a.account_id = p.account_id AND a.kind <> 'external'
WHERE event_type = 'transfer'
GROUP BY seq HAVING sum(delta_minor) <> 0 OR count(*) <> 2
UNION ALL
SELECT 'a balance is not the sum of its postings: ' || account_id
FROM ledger_account AS a CROSS JOIN LATERAL (VALUES
    ('available', available_minor), ('held', held_minor), ('bonded', bonded_minor),
    ('feePool', fee_pool_minor), ('promo', promo_minor)
) AS b (bucket, balance_minor)
WHERE balance_minor <> (
    SELECT coalesce(sum(delta_minor), 0) FROM ledger_posting AS p
    WHERE p.account_id = a.account_id AND p.bucket = b.bucket
)
UNION ALL
SELECT 'reserved is not the sum of its reservations: ' || account_id FROM ledger_account AS a
WHERE reserved_minor <> (
    SELECT coalesce(sum(amount_minor), 0) FROM ledger_reservation AS r
    WHERE r.account_id = a.account_id AND r.closed_event_id IS NULL
)
UNION ALL
SELECT 'a key has two effects: ' || idempotency_key FROM ledger_event
GROUP BY idempotency_key HAVING count(*) > 1
UNION ALL
SELECT 'a settlement has an effect twice: ' || settlement_id FROM (
    SELECT metadata::json -> 'payment_settlement' ->> 'settlement_id' AS settlement_id, event_type
    FROM ledger_event WHERE event_type <> 'transfer'
) AS effect
GROUP BY settlement_id, event_type HAVING count(*) > 1
UNION ALL
SELECT 'a hold has a release twice, or of another amount: ' || hold_id
FROM ledger_risk_hold AS h LEFT JOIN ledger_event AS e
  ON e.idempotency_key LIKE 'risk_hold:' || hold_id || ':release:%'
GROUP BY hold_id
HAVING count(e.seq) <> (h.released_at IS NOT NULL)::int OR max(e.amount_minor) <> h.amount_minor
UNION ALL
SELECT 'the journal has gaps, or another end than its tail' FROM ledger_tail
WHERE seq <> (SELECT count(*) FROM ledger_event)
   OR seq <> (SELECT coalesce(max(seq), 0) FROM ledger_event)
UNION ALL
SELECT 'the books do not sum to zero' FROM ledger_posting HAVING sum(delta_minor) <> 0
"""


class Death(Exception):
    """The daemon dies here."""


class WatchedDatabase(Database):
    """A daemon's connections; ``before_storing`` happens once, when a batch is to be stored."""

    before_storing: Hook | None = None

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        hook = self.before_storing
        if hook is not None and "UPDATE ledger_tail" in sql:
            self.before_storing = None
            await hook()
        return await super().fetch(sql, *args)


@define(eq=False)
class Daemon:
    """A daemon's ledger, with connections of its own that a test can do things to."""

    proxy: Proxy
    name: str
    _connections: AsyncExitStack = field(factory=AsyncExitStack)
    _database: WatchedDatabase = field(init=False)

    async def restart(self) -> None:
        """Forget all that is in memory, and open new connections."""
        await self.stop()
        database = await self._connections.enter_async_context(
            open_database(self.proxy.url, pool_max=2, name=self.name)
        )
        self._database = WatchedDatabase(database._thread, database._pool)

    async def stop(self) -> None:
        await self._connections.aclose()

    async def apply(
        self,
        batch: Parsed,
        *,
        before_storing: Hook | None = None,
        decisions_max: int | None = None,
    ) -> list[Result] | None:
        """Have a batch committed, as the ledger's keeper does; None when the daemon has died.

        ``before_storing`` happens when the batch was decided once, if that changes anything. The
        daemon dies when it has decided the batch for the ``decisions_max``-th time.
        """
        commands = [item for item in batch if not isinstance(item, ClawsettleError)]
        count = 0

        def decide(book: Book) -> list[Result]:
            nonlocal count
            count += 1
            results = iter(decide_all(book, commands))
            if count == decisions_max:
                raise Death
            return [item if isinstance(item, ClawsettleError) else next(results) for item in batch]

        self._database.before_storing = before_storing
        try:
            return await LedgerBook(self._database, "USD").apply(commands, decide)
        except Death:
            await self.restart()
            return None
        finally:
            self._database.before_storing = None

    async def apply_unheard(self, batch: Parsed) -> list[Result] | None:
        """Have a batch committed; the server's word of the commit is lost on its way."""
        self.proxy.swallow_stores = 1
        results = await self.apply(batch)
        self.proxy.swallow_stores = 0
        return results


@define(eq=False)
class Site:
    """Several daemons on one database, and a connection to look at it."""

    database: Database
    daemons: Sequence[Daemon]

    async def empty(self) -> None:
        """Make the ledger what it was when it was installed."""
        await self.database.transaction(lambda transaction: transaction.script(EMPTY))

    async def end_connections(self, daemon: Daemon) -> None:
        """End a daemon's connections from the server's side."""
        await self.database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = $1",
            daemon.name,
        )

    async def check(self, model: LedgerModel) -> None:
        """Fail unless the ledger is sound, and stands where the model does."""
        proof, items = Proof(), list[BookItem]()

        def visit(page: Sequence[BookItem]) -> None:
            proof.take(page)
            items.extend(page)

        reader = LedgerReader(self.database)
        await reader.read_whole(visit)
        proof.finish()
        assert proof.errors == []
        assert [row["broken"] for row in await self.database.fetch(BROKEN)] == []
        check_against_model(
            model,
            [item for item in items if isinstance(item, Account)],
            await reader.list_settlements(SettlementFilter(), after=None, limit=1000),
            [item for item in items if isinstance(item, RiskHold)],
        )


daemons = st.integers(0, DAEMONS - 1)
batches = st.lists(requests, min_size=1, max_size=8)


class LedgerMachine(RuleBasedStateMachine):
    """What callers, networks and crashes may do; it runs in a thread beside trio's."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.model = LedgerModel()
        self.answers = Answers()
        trio.from_thread.run(site.empty)
        self.commit(0, PROLOGUE)

    @rule(daemon=daemons, batch=batches)
    def commit(self, daemon: int, batch: Sequence[Asked]) -> None:
        asked, parsed = self._parsed(batch)
        self._heard(asked, self._apply(daemon, parsed))

    @rule(daemon=daemons, batch=batches)
    def die_before_the_commit(self, daemon: int, batch: Sequence[Asked]) -> None:
        _, parsed = self._parsed(batch)
        assert self._apply(daemon, parsed, decisions_max=1) is None

    @rule(daemon=daemons, batch=batches)
    def die_after_the_commit_and_ask_again(self, daemon: int, batch: Sequence[Asked]) -> None:
        asked, parsed = self._parsed(batch)
        self._apply(daemon, parsed)
        self._unheard(asked)
        trio.from_thread.run(self.site.daemons[daemon].restart)
        self.check()
        self._heard(asked, self._apply(daemon, parsed))

    @rule(daemon=daemons, batch=batches)
    def lose_the_connection_before_the_commit(self, daemon: int, batch: Sequence[Asked]) -> None:
        asked, parsed = self._parsed(batch)
        cut = partial(self.site.end_connections, self.site.daemons[daemon])
        self._heard(asked, self._apply(daemon, parsed, before_storing=cut))

    @rule(daemon=daemons, batch=batches)
    def lose_the_connection_after_the_commit(self, daemon: int, batch: Sequence[Asked]) -> None:
        asked, parsed = self._parsed(batch)
        results = trio.from_thread.run(self.site.daemons[daemon].apply_unheard, parsed)
        # The book is loaded and decided on again, so this is what a second request is told.
        self._unheard(asked)
        self._heard(asked, results)

    @rule(
        daemon=daemons,
        late=batches,
        quick=batches,
        decisions_max=st.sampled_from([None, None, 2]),
    )
    def overtake(
        self,
        daemon: int,
        late: Sequence[Asked],
        quick: Sequence[Asked],
        decisions_max: int | None,
    ) -> None:
        """Another daemon stores a batch between one's decision and its storing."""
        late, late_parsed = self._parsed(late)
        quick, quick_parsed = self._parsed(quick)
        other = self.site.daemons[(daemon + 1) % DAEMONS]
        quick_results: list[list[Result] | None] = []

        async def store_first() -> None:
            quick_results.append(await other.apply(quick_parsed))

        results = self._apply(
            daemon, late_parsed, before_storing=store_first, decisions_max=decisions_max
        )
        event(f"overtaken: {bool(quick_results)}, died: {results is None}")
        for told in quick_results:
            self._heard(quick, told)
        if results is not None:
            self._heard(late, results)

    @invariant()
    def check(self) -> None:
        trio.from_thread.run(self.site.check, self.model)

    def _parsed(self, batch: Sequence[Asked]) -> tuple[Sequence[Asked], Parsed]:
        """Return a batch as it can be asked: nobody names a hold whose id nobody was told."""
        asked = [
            one if one.applied_under in self.answers.hold_ids else evolve(one, applied_under="")
            for one in batch
        ]
        return asked, [_parse(one, self.answers.hold_ids) for one in asked]

    def _apply(
        self,
        daemon: int,
        batch: Parsed,
        *,
        before_storing: Hook | None = None,
        decisions_max: int | None = None,
    ) -> list[Result] | None:
        apply = partial(
            self.site.daemons[daemon].apply,
            before_storing=before_storing,
            decisions_max=decisions_max,
        )
        return trio.from_thread.run(apply, batch)

    def _unheard(self, batch: Sequence[Asked]) -> None:
        for asked in batch:
            self.model.ask(asked)

    def _heard(self, batch: Sequence[Asked], results: Sequence[Result] | None) -> None:
        assert results is not None
        for asked, result in zip(batch, results, strict=True):
            assert self.answers.take(asked, result) == self.model.ask(asked), asked


def _parse(asked: Asked, hold_ids: Mapping[str, str]) -> Command | ClawsettleError:
    try:
        return command(asked, hold_ids)
    except ClawsettleError as error:
        return error


async def test_the_ledger_stands_where_the_model_does_whatever_happens(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(database_url, pool_max=1))
        proxy = await stack.enter_async_context(proxied(database_url))
        site = Site(database, [Daemon(proxy, f"daemon_{number}") for number in range(DAEMONS)])
        for daemon in site.daemons:
            await daemon.restart()
            stack.push_async_callback(daemon.stop)

        class Machine(LedgerMachine):
            def __init__(self) -> None:
                super().__init__(site)

        run = settings(deadline=None, max_examples=EXAMPLES, stateful_step_count=STEPS)
        await trio.to_thread.run_sync(partial(run_state_machine_as_test, Machine, settings=run))
