"""Any payouts, any runs at once, any crashes: each payout moves once, and nothing is left open.

The daemons here are netting and the embedded ledger on connections of their own. They die after an
effect, lose answers to commits, and overtake each other; payouts fail late between and during runs,
and money is missing. ``NETTING_EXAMPLES=500`` makes it a long run.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import trio
from attrs import Factory, define, frozen
from hypothesis import event, given, settings
from hypothesis import strategies as st

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.config import Settings
from clawsettle.daemon.composition import open_ledger
from clawsettle.daemon.netting_parts import assemble_netting
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.ledger import OpenAccount
from clawsettle.domain.payouts import Payout
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.ledger_book import LedgerBook
from tests import house
from tests.daemon.effects import lose_answers, watch
from tests.daemon.netting_lives import WRITES, runs_at_rest
from tests.netting import SOURCE, TARGET, fail_late, request
from tests.storage.books import done, faults
from tests.storage.netting_books import EMPTY, age_doubts, end_netting_leases, netting_faults
from tests.storage.payout_histories import history, keep
from tests.storage.test_ledger_stateful import EMPTY as EMPTY_LEDGER
from tests.storage.whole_book import ALICE, moved, settled

EXAMPLES = int(os.environ.get("NETTING_EXAMPLES", "30"))
SMALL = {"poll_s": 0.05, "batch_max": 3, "in_flight_max": 2}
HASTY = house.settings(netting={**SMALL, "lease_s": 0.6, "transfer_timeout_s": 0.25})
PATIENT = house.settings(netting=SMALL)
FUNDS_MINOR = 10**9
# What an asker may be told; he asks again, or knows that somebody else was first.
SAID = {
    "NOT_FOUND",
    "CONFLICT",
    "DUPLICATE_CONFLICT",
    "IDEMPOTENCY_KEY_REUSED",
    "INVALID_STATUS_TRANSITION",
    "STORAGE_UNAVAILABLE",
}
ELSEWHERE = "clearing:clawsettle.elsewhere"


@frozen
class Wish:
    """Something that is asked of a daemon: a run under a key, or its release."""

    key: str
    limit: int = 100
    release: bool = False


@frozen
class Fate:
    """What a daemon is asked, all at once, and what happens to it; effects are counted from 1."""

    wishes: Sequence[Wish]
    dies_after: int | None
    unheard: frozenset[int]
    fail_late: Mapping[int, int]


@frozen
class Scene:
    """Payouts that are paid and that fail, money that is missing, then daemons at once."""

    paid: Sequence[tuple[str, int]]
    failed: Sequence[int]
    is_short: bool
    daemons: Sequence[Fate]


keys = st.sampled_from(["key_1", "key_2", "key_3"])
numbers = st.integers(0, 30)
wishes = st.builds(
    Wish, keys, st.sampled_from([100, 100, 2]), st.sampled_from([False] * 4 + [True])
)
fates = st.builds(
    Fate,
    st.lists(wishes, min_size=1, max_size=3),
    st.none() | st.integers(1, 9),
    st.frozensets(st.integers(1, 9), max_size=2),
    st.dictionaries(st.integers(1, 9), numbers, max_size=2),
)
scenes = st.builds(
    Scene,
    st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.integers(1, 5)), max_size=8),
    st.lists(numbers, max_size=2),
    st.sampled_from([False, False, True]),
    st.lists(fates, min_size=1, max_size=3),
)


@define(eq=False)
class World:
    """What outlives the daemons: the database and the payouts in it."""

    url: str
    database: Database
    payouts: list[Payout] = Factory(list)
    numbers: "count[int]" = Factory(lambda: count(1))
    deaths: int = 0

    @property
    def book(self) -> LedgerBook:
        return LedgerBook(self.database, "USD")

    async def begin(self) -> None:
        async with open_database(self.url, pool_max=1) as database:
            await database.transaction(lambda transaction: transaction.script(EMPTY))
            await database.transaction(lambda transaction: transaction.script(EMPTY_LEDGER))
        await done(self.book, OpenAccount(ALICE))
        await done(self.book, settled("pi_1", "payin", "confirmed", FUNDS_MINOR))
        await self.shift(ALICE, ELSEWHERE, FUNDS_MINOR)

    async def shift(self, source: str, target: str, amount_minor: int) -> None:
        if amount_minor:
            key = f"shift_{next(self.numbers)}"
            await done(self.book, moved(key, (source, "A"), (target, "A"), amount_minor))

    async def pay(self, paid: Sequence[tuple[str, int]]) -> None:
        histories = [
            history(
                f"idem_{next(self.numbers)}",
                connect_account_id=f"acct_{account}",
                amount_minor=100 * amount,
            )
            for account, amount in paid
        ]
        await keep(self.database, *histories)
        self.payouts += [one.payout for one in histories]
        amount_minor = sum(one.payout.amount_minor for one in histories)
        await self.shift(ELSEWHERE, f"clearing:{SOURCE}", amount_minor)

    async def fail(self, number: int) -> None:
        """Have the provider say that a payout has failed, if it is one and is paid."""
        paid = await self.paid()
        if paid:
            await fail_late(self.database, paid[number % len(paid)])

    async def paid(self) -> list[Payout]:
        rows = await self.database.fetch("SELECT payout_id FROM payout WHERE status = 'paid'")
        known = {row["payout_id"] for row in rows}
        return [payout for payout in self.payouts if payout.payout_id in known]

    async def cleared(self, domain: str) -> int:
        rows = await self.database.fetch(
            "SELECT available_minor FROM ledger_account WHERE domain = $1", domain
        )
        return int(rows[0]["available_minor"]) if rows else 0

    async def check(self, *, at_rest: bool) -> None:
        assert await netting_faults(self.database, at_rest=at_rest) == []
        assert await faults(self.database) == []


@asynccontextmanager
async def daemon(
    world: World, configured: Settings, fate: Fate, life: trio.CancelScope
) -> AsyncIterator[NettingRunner]:
    """A daemon that meets its fate."""
    numbers, commits = count(1), count(1)

    async def visit(_effect: str) -> None:
        number = next(numbers)
        if number in fate.fail_late:
            await world.fail(fate.fail_late[number])
        if number == fate.dies_after:
            life.cancel()
            await trio.sleep_forever()

    async with open_database(world.url, pool_max=4) as database, trio.open_nursery() as nursery:
        lose_answers(database, WRITES, lambda: next(commits) in fate.unheard)
        watch(database, WRITES, visit)
        ledger, keeper, _ = open_ledger(configured, database)
        assert keeper is not None
        runner = assemble_netting(configured, database, ledger).runner
        nursery.start_soon(keeper.run)
        nursery.start_soon(runner.run)
        yield runner
        nursery.cancel_scope.cancel()


async def live(world: World, fate: Fate) -> None:
    """Live until all that was asked for is answered, or until death."""

    async def ask(runner: NettingRunner, wish: Wish) -> None:
        asked = request(wish.key, limit=wish.limit)
        try:
            if wish.release:
                await runner.release(asked.run_id)
            else:
                await runner.execute(asked)
        except ClawsettleError as error:
            if error.code not in SAID:
                raise

    with trio.fail_after(30), trio.CancelScope() as life:
        async with daemon(world, HASTY, fate, life) as runner, trio.open_nursery() as asking:
            for wish in fate.wishes:
                asking.start_soon(ask, runner, wish)
    world.deaths += life.cancelled_caught


CALM = Fate((), None, frozenset(), {})


async def end(world: World) -> None:
    """Let leases end; then have an operator mend what cannot mend itself, and net what waits."""
    await end_netting_leases(world.database)
    with trio.CancelScope() as life:
        async with daemon(world, PATIENT, CALM, life) as runner:
            await runs_at_rest(world.database)
            await world.check(at_rest=True)
            short_minor = sum(one.amount_minor for one in world.payouts)
            await world.shift(ELSEWHERE, f"clearing:{SOURCE}", short_minor)
            for run_id in await failed(world):
                await runner.resume(run_id)
            await age_doubts(world.database)
            for run_id in await failed(world):
                await runner.release(run_id)
            await runner.execute(request("last", limit=1000))
            await world.shift(f"clearing:{SOURCE}", ELSEWHERE, short_minor)
            await world.check(at_rest=True)
            assert await failed(world) == []
            life.cancel()


async def failed(world: World) -> list[str]:
    rows = await world.database.fetch("SELECT run_id FROM netting_run WHERE status = 'failed'")
    return [row["run_id"] for row in rows]


async def play(world: World, plot: Sequence[Scene]) -> None:
    drained_minor = 0
    for scene in plot:
        await world.pay(scene.paid)
        for number in scene.failed:
            await world.fail(number)
        if scene.is_short:
            left_minor = await world.cleared(SOURCE)
            drained_minor += left_minor
            await world.shift(f"clearing:{SOURCE}", ELSEWHERE, left_minor)
        async with trio.open_nursery() as nursery:
            for fate in scene.daemons:
                nursery.start_soon(live, world, fate)
        await world.check(at_rest=False)
    await world.shift(ELSEWHERE, f"clearing:{SOURCE}", drained_minor)
    await end(world)
    await check_end(world)


async def check_end(world: World) -> None:
    """Each paid payout has moved once; one that failed late has not, or has come back."""
    paid = await world.paid()
    paid_minor = sum(payout.amount_minor for payout in paid)
    failed_minor = sum(payout.amount_minor for payout in world.payouts) - paid_minor
    assert await world.cleared(TARGET) == paid_minor
    assert await world.cleared(SOURCE) == failed_minor
    rows = await world.database.fetch(
        "SELECT payout_id, count(*) AS entry_count"
        " FROM netting_entry CROSS JOIN unnest(payout_ids) AS payout_id"
        " WHERE status = 'applied' GROUP BY payout_id"
    )
    swept = {row["payout_id"]: row["entry_count"] for row in rows}
    assert {payout.payout_id for payout in paid} <= swept.keys()
    assert set(swept.values()) <= {1}
    waiting = await world.database.fetch("SELECT 1 FROM netting_item WHERE entry_id IS NULL")
    assert waiting == []


async def test_whatever_happens_each_payout_moves_once_and_nothing_stays_open(
    database_url: str,
) -> None:
    async with open_database(database_url) as database:

        async def live_through(plot: Sequence[Scene]) -> int:
            world = World(database_url, database)
            await world.begin()
            await play(world, plot)
            return world.deaths

        @settings(deadline=None, max_examples=EXAMPLES)
        @given(st.lists(scenes, min_size=1, max_size=3))
        def whatever_happens(plot: Sequence[Scene]) -> None:
            event(f"deaths: {trio.from_thread.run(live_through, plot)}")

        await trio.to_thread.run_sync(whatever_happens)
