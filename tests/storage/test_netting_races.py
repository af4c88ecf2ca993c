"""Netting runs when something happens at the worst instant: one step at a time, on a database."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from clawsettle.config import Settings, netting_defaults
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_transitions import Moved
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import SOCKET_NAME
from clawsettle.storage.netting import Ask, LeasedRun, NettingRuns
from tests.conftest import Postgres
from tests.netting import request
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
