"""Netting runs when something happens at the worst instant: one step at a time, on a database."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
import trio.testing

from clawsettle.config import Settings, netting_defaults
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_transitions import GivenBack, Moved
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import SOCKET_NAME
from clawsettle.storage.netting import Ask, LeasedRun, NettingRuns
from clawsettle.storage.payout_rows import payout_row
from clawsettle.storage.queries import load_queries
from tests.conftest import Postgres
from tests.netting import fail_late, links, request
from tests.storage.deliveries import held, wait_for_locks
from tests.storage.payout_histories import history, keep
from tests.torture.commit_cutter import CommitCutter

DEFAULTS = netting_defaults(Settings())


def runs_of(database: Database, lease_s: float = 30.0) -> NettingRuns:
    return NettingRuns(database, lease_s, repeats_safely=True)


async def leased(runs: NettingRuns, key: str = "key") -> LeasedRun:
    """Prepare a run and lease it."""
    prepared = await runs.prepare(request(key), DEFAULTS)
    claimed = await runs.claim(prepared.run_id, Ask.RESUME)
    assert isinstance(claimed, LeasedRun)
    return claimed


@asynccontextmanager
async def cut_database(
    postgres: Postgres, database_name: str
) -> AsyncIterator[tuple[Database, CommitCutter]]:
    """A database by way of a proxy that can lose the answer to a commit."""
    with tempfile.TemporaryDirectory(prefix="cutter-") as folder:
        async with trio.open_nursery() as nursery:
            cutter = CommitCutter(Path(folder), postgres.server.socket_dir / SOCKET_NAME)
            await nursery.start(cutter.run)
            async with open_database(cutter.dsn_of(database_name)) as database:
                yield database, cutter
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def commit_lost(cutter: CommitCutter) -> AsyncIterator[None]:
    """Have the next commit be made, and its answer be lost."""
    async with trio.open_nursery() as cutting:
        cutting.start_soon(lambda: cutter.cut_next_commit(passes_on=True))
        await trio.testing.wait_all_tasks_blocked()
        yield


async def wait_for_links(database: Database, wanted: dict[str, str | None]) -> None:
    """Wait until the items that there are, and their entries, are these."""
    with trio.fail_after(5):
        while await links(database) != wanted:  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.005)


async def test_entries_that_were_claimed_in_a_commit_without_an_answer_are_moved_all_the_same(
    postgres: Postgres, database_name: str
) -> None:
    async with cut_database(postgres, database_name) as (database, cutter):
        await keep(database, *(history(f"k{n}", connect_account_id=f"acct_{n}") for n in range(5)))
        runs = runs_of(database)
        run = (await leased(runs)).run
        async with commit_lost(cutter):
            first = await runs.next_entries(run, (), back=False, after="", limit=2)
        after = first[-1].entry_id
        done = [(entry, Moved(f"evt_{entry.entry_id}")) for entry in first]
        async with commit_lost(cutter):
            second = await runs.next_entries(run, done, back=False, after=after, limit=9)
        assert [entry.status for entry in (*first, *second)] == [EntryStatus.APPLYING] * 5
        assert {entry.attempts for entry in (*first, *second)} == {1}
        await runs.record(run, [(entry, Moved(f"evt_{entry.entry_id}")) for entry in second])
        ended = await runs.finish(run)
        assert (ended.status, ended.applied_count) == (RunStatus.APPLIED, 5)


async def test_a_release_waits_for_a_payout_that_is_just_failing_and_leaves_nothing_of_it(
    database_url: str,
) -> None:
    one, other = history(), history("idem_2")
    failing = attrs.evolve(history(end=PayoutStatus.RETURNING).payout, due_at=one.payout.status_at)
    statement, nothing = load_queries("payouts")["store"], list[object]()
    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        await keep(database, one, other)
        runs = runs_of(database)
        run = (await leased(runs)).run
        (entry,) = await runs.unmoved(run, after="", limit=9)
        async with held(database_url, statement, [payout_row(failing)], *[nothing] * 8):
            nursery.start_soon(runs.record, run, [(entry, GivenBack())])
            await wait_for_locks(database, 1)
        await wait_for_links(database, {f"sweep:{other.payout.payout_id}": None})


async def test_a_payout_that_fails_while_it_is_released_waits_for_that_and_leaves_nothing(
    database_url: str,
) -> None:
    one, other = history(), history("idem_2")
    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        await keep(database, one, other)
        runs = runs_of(database)
        run = (await leased(runs)).run
        (entry,) = await runs.unmoved(run, after="", limit=9)
        lock_items = load_queries("netting")["lock_items"]
        names = ([*entry.all_payout_ids], [entry.entry_id])
        async with held(database_url, lock_items, *names):
            nursery.start_soon(runs.record, run, [(entry, GivenBack())])
            await wait_for_locks(database, 1)
            nursery.start_soon(fail_late, database, one.payout)
            await wait_for_locks(database, 2)
        await wait_for_links(database, {f"sweep:{other.payout.payout_id}": None})
