"""A daemon dies after each effect of telling of a loss event, and yet everybody is told once."""

import pytest
import trio

from clawsettle.domain.loss_events import DeliveryState, Target
from tests.daemon.loss_lives import LIVES, Act, Lives, record, resolve, shared
from tests.daemon.loss_world import configured, daemon, open_world


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


async def test_an_escrow_that_was_let_go_while_it_refused_is_asked_again(
    database_url: str,
) -> None:
    async with open_world(database_url) as world:
        refused = False

        async with daemon(world, configured(world.sandbox)) as first:
            here = Act(shared(), world, first, "1")
            await record("a")(here)
            await here.settled("a")

            async def visit(effect: str) -> None:
                nonlocal refused
                if effect == f"{Target.ESCROW}.answered" and not refused:
                    refused = True
                    await resolve("a")(here)
                    await here.settled("a")

            async with daemon(world, configured(world.sandbox), visit) as second:
                there = Act(shared(), world, second, "1")
                await record("b")(there)
                with trio.fail_after(10):
                    while not refused:  # noqa: ASYNC110 - the target tells nobody
                        await trio.sleep(0.01)
                await there.settled("b")
        (told,) = await there.deliveries("b")
        assert told.state is DeliveryState.FORWARDED, told
        assert await world.faults(at_rest=True) == []
