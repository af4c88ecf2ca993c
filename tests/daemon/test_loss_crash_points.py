"""A daemon dies after each effect of telling of a loss event, and yet everybody is told once."""

import pytest

from tests.daemon.loss_lives import LIVES, Lives
from tests.daemon.loss_world import open_world


@pytest.mark.parametrize("name", LIVES)
async def test_whenever_a_daemon_dies_the_next_one_tells_everybody_once(
    database_url: str, name: str
) -> None:
    async with open_world(database_url) as world:
        assert await Lives(world, LIVES[name]).run()


@pytest.mark.parametrize("name", LIVES)
async def test_commits_whose_answers_are_lost_have_no_other_effect(
    database_url: str, name: str
) -> None:
    async with open_world(database_url) as world:
        assert await Lives(world, LIVES[name]).run_unheard()
