"""A daemon dies after each effect of a netting run, and yet the books and the payouts are right."""

import pytest
import trio

from clawsettle.domain.netting import RunStatus
from clawsettle.storage.bridge import open_database
from tests.conftest import Postgres
from tests.daemon.effects import lose_answers, watch
from tests.daemon.netting_lives import (
    QUICK,
    WRITES,
    Act,
    Life,
    Lives,
    drain,
    let_fail,
    open_funds,
    refill,
    release,
    release_failed,
    run,
    runs_at_rest,
    stored_run,
)
from tests.house import open_house
from tests.netting import TARGET
from tests.storage.netting_books import end_netting_leases, netting_faults

R = RunStatus
PAYOUTS = (("late", "A", 200), ("b", "A", 300), ("c", "B", 700), ("d", "C", 300))


async def pay(act: Act) -> None:
    await act.pay(*PAYOUTS)


async def pay_without_funds(act: Act) -> None:
    await act.pay(*PAYOUTS)
    await drain(act)


async def net_and_let_fail(act: Act) -> None:
    """One account owes, one gets, one comes to nothing."""
    await act.pay(("late", "A", 500), ("late_too", "C", 100))
    await act.runner.execute(act.request("before"))
    await let_fail("late", "late_too")(act)
    await act.pay(("a", "A", 200), ("b", "B", 250), ("c", "C", 100))


ALL = frozenset(f"sweep:{name}" for name, _, _ in PAYOUTS)
LIVES = {
    "applied": Life(pay, (run,), {R.APPLIED}, 0, 1500),
    "compensating": Life(net_and_let_fail, (run,), {R.APPLIED}, 600, -50),
    "resumed": Life(pay_without_funds, (run, refill, run), {R.APPLIED}, 0, 1500),
    "released": Life(pay_without_funds, (run, release, refill), {R.RELEASED}, 1500, 0, ALL),
    "changed": Life(
        pay_without_funds,
        (run, let_fail("late"), refill, run, release_failed),
        {R.APPLIED, R.RELEASED},
        500,
        1000,
        frozenset({"sweep:b"}),
    ),
}
_deaths: dict[str, list[str]] = {}


async def deaths_of(name: str, postgres: Postgres) -> list[str]:
    """Live through a life, once for all tests, and return what its daemons died after."""
    if name not in _deaths:
        database = await trio.to_thread.run_sync(postgres.create_database, "migrated")
        url = postgres.server.dsn_of(database)
        await open_funds(url)
        _deaths[name] = await Lives(url, LIVES[name]).run()
    return _deaths[name]


@pytest.mark.parametrize("name", LIVES)
async def test_whenever_a_daemon_dies_the_next_one_ends_the_run_as_it_should(
    postgres: Postgres, name: str
) -> None:
    assert await deaths_of(name, postgres)


@pytest.mark.parametrize("name", LIVES)
async def test_commits_whose_answers_are_lost_are_made_again_without_another_effect(
    database_url: str, name: str
) -> None:
    await open_funds(database_url)
    lives = Lives(database_url, LIVES[name])
    async with open_house(database_url, QUICK) as house:
        act = Act(house, "twice")
        await lives.life.begin(act)
        moved_before = await act.cleared(TARGET)
        lose_answers(house.database, WRITES)
        await lives.act(act)
        await lives.finish(act, moved_before)


async def test_a_daemon_has_died_after_each_kind_of_commit(postgres: Postgres) -> None:
    deaths = {death for name in LIVES for death in await deaths_of(name, postgres)}
    committed = {name for effect in deaths for name in effect.split(" and ")}
    netting = {name for name in WRITES.values() if name.startswith("netting.")}
    assert netting - committed == {"netting.let_go"}
    assert "ledger.store" in committed


async def test_what_has_moved_is_known_although_its_payout_fails_before_it_is_recorded(
    database_url: str,
) -> None:
    await open_funds(database_url)
    with trio.CancelScope() as life:
        async with open_house(database_url, QUICK) as house:
            act = Act(house, "late")
            await act.pay(("late", "A", 200))

            async def die_when_it_has_moved(effect: str) -> None:
                if effect == "ledger.store":
                    await let_fail("late")(act)
                    life.cancel()
                    await trio.sleep_forever()

            watch(house.database, WRITES, die_when_it_has_moved)
            await run(act)
    async with open_database(database_url, pool_max=1) as database:
        await end_netting_leases(database)
    async with open_house(database_url, QUICK) as house:
        act = Act(house, "late")
        await runs_at_rest(house.database)
        assert await netting_faults(house.database) == []
        assert (await stored_run(act)).status is R.APPLIED
        await act.runner.execute(act.request("next"))
        assert await act.cleared(act.source) == 200
        assert await act.cleared(TARGET) == 0
