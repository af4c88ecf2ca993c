"""A daemon dies after each effect of telling of a loss event, and yet everybody is told once."""

import pytest
import trio

from tests.conftest import Postgres
from tests.daemon.loss_lives import LIVES, Lives
from tests.daemon.loss_world import WRITES, open_world

_deaths: dict[str, list[str]] = {}


async def deaths_of(name: str, postgres: Postgres) -> list[str]:
    """Live through a life, once for all tests, and return what its daemons died after."""
    if name not in _deaths:
        database = await trio.to_thread.run_sync(postgres.create_database, "migrated")
        async with open_world(postgres.server.dsn_of(database)) as world:
            _deaths[name] = await Lives(world, LIVES[name]).run()
    return _deaths[name]


@pytest.mark.parametrize("name", LIVES)
async def test_whenever_a_daemon_dies_the_next_one_tells_everybody_once(
    postgres: Postgres, name: str
) -> None:
    assert await deaths_of(name, postgres)


@pytest.mark.parametrize("name", LIVES)
async def test_commits_whose_answers_are_lost_have_no_other_effect(
    database_url: str, name: str
) -> None:
    async with open_world(database_url) as world:
        assert await Lives(world, LIVES[name]).run_unheard()


async def test_a_daemon_has_died_after_each_kind_of_effect(postgres: Postgres) -> None:
    deaths = {death for name in LIVES for death in await deaths_of(name, postgres)}
    effects = {name for effect in deaths for name in effect.split(" and ")}
    losses = {name for name in WRITES.values() if name.startswith("loss_")}
    assert losses - effects == set()
    assert "ledger.store" in effects
