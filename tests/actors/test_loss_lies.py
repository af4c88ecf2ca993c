"""Targets that say what nobody should: it stays with the delivery that they said it of."""

import pytest
import trio
from attrs import evolve

from clawsettle.actors.circuit_breaker import Circuit
from clawsettle.config import Secret
from clawsettle.domain.loss_events import DeliveryState, Target
from clawsettle.sandbox.http1 import Reply
from tests.house import open_house
from tests.losses import (
    Script,
    answer,
    fund,
    loss,
    loss_settings,
    open_fanout,
    settled,
    until,
)

BAD = DeliveryState.FAILED
DEAD = DeliveryState.DEAD
DONE = DeliveryState.FORWARDED
FAR = "9" * 40


def raw(status: int, body: bytes, **headers: str) -> Reply:
    """An answer of any bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, named)


LIES: dict[str, tuple[Script, DeliveryState]] = {
    "NUL in the message": (answer(400, {"code": "BAD", "error": "a\0b"}), DEAD),
    "NUL in the text": (raw(400, b"\0\0"), DEAD),
    "half a character": (answer(400, {"code": "BAD", "error": "\ud800"}), DEAD),
    "half a character in the code": (answer(500, {"code": "\ud800", "error": "x"}), BAD),
    "a status of its own": (raw(999, b"{}"), BAD),
    "no content": (raw(204, b""), BAD),
    "a page": (raw(200, b"<html>it works</html>"), BAD),
    "a list": (raw(200, b"[]"), BAD),
    "null": (raw(200, b"null"), BAD),
    "deeper than anyone reads": (raw(200, b'{"adjustment":' * 20_000), BAD),
    "a number without end": (raw(200, b'{"adjustment": %s}' % (b"9" * 9000)), BAD),
    "more than anyone reads": (raw(200, b'{"x":"%s"}' % (b"x" * 300_000)), BAD),
    "a success that failed": (answer(200, {"ok": False, "adjustment": {"id": "a"}}), BAD),
    "a success with an error": (answer(200, {"error": "x", "adjustment": {"id": "a"}}), BAD),
    "another amount": (answer(200, {"ok": True, "adjustment": {"amount_minor": "251"}}), BAD),
    "a number for an amount": (
        answer(200, {"ok": True, "adjustment": {"amount_minor": 250}}),
        DONE,
    ),
    "a list for a name": (answer(200, {"ok": True, "adjustment": []}), BAD),
    "numbers for words": (answer(409, {"code": 5, "error": {"a": 1}, "message": []}), DEAD),
    "a wait without end": (answer(429, {}, retry_after=FAR), BAD),
    "a wait that is over": (answer(429, {}, retry_after="Mon, 01 Jan 2024 00:00:00 GMT"), BAD),
    "a negative wait": (answer(503, {}, retry_after="-5"), BAD),
    "no number to wait for": (answer(503, {}, retry_after="NaN"), BAD),
    "an instant that is none": (
        answer(503, {}, retry_after=f"Mon, 01 Jan 2024 00:00:00 +{FAR}"),
        BAD,
    ),
}


@pytest.mark.parametrize(("said", "state"), LIES.values(), ids=LIES)
async def test_whatever_a_target_says_is_stored_and_holds_up_no_other(
    database_url: str, said: Script, state: DeliveryState
) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        targets.script[Target.CLAWINCOME] = said
        recorded = await fanout.record(loss())
        with trio.fail_after(5):
            found = await settled(house.database, recorded.event)
        assert found[Target.CLAWINCOME].state is state, found[Target.CLAWINCOME]
        assert found[Target.LEDGER].state is DONE
        assert found[Target.CLAWINSURE].state is DONE
        assert len(targets.keys(Target.CLAWINCOME)) == 1


async def test_a_wait_that_a_target_asks_for_is_kept_though_others_are_answered(
    database_url: str,
) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        lane = fanout.lanes[Target.CLAWINCOME]
        slow = trio.Event()
        targets.script[Target.CLAWINCOME] = [slow, answer(429, {}, retry_after="3600")]
        first = await fanout.record(loss("k1"))
        await until(lambda: len(targets.keys(Target.CLAWINCOME)) == 1)
        second = await fanout.record(loss("k2"))
        await until(lambda: lane.breaker.state is Circuit.OPEN)
        slow.set()
        found = await settled(house.database, first.event)
        assert found[Target.CLAWINCOME].state is DONE
        found = await settled(house.database, second.event)
        assert found[Target.CLAWINCOME].state is BAD
        assert lane.breaker.state is Circuit.OPEN


async def test_a_key_that_a_target_shows_is_stored_nowhere(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        targets.script[Target.CLAWINCOME] = lambda request: raw(500, repr(request.headers).encode())
        recorded = await fanout.record(loss())
        found = await settled(house.database, recorded.event)
        message = found[Target.CLAWINCOME].last_error_message
        assert message is not None
        assert "Bearer [...]" in message
        assert "clawincome_key" not in message


async def test_a_call_that_cannot_be_made_is_judged_like_others(database_url: str) -> None:
    nowhere = Secret("key"), f"http://{'x' * 64}.example"  # no name of a host is that long
    configured = loss_settings()
    targets = evolve(
        configured.targets, clawincome_keys=nowhere[:1], clawincome_base_url=nowhere[1]
    )
    async with open_house(database_url, evolve(configured, targets=targets)) as house:
        recorded = await house.parts.losses.fanout.record(loss(targets=["clawincome"]))
        found = await settled(house.database, recorded.event)
        assert found[Target.CLAWINCOME].state is BAD
        assert found[Target.CLAWINCOME].last_error_code == "CALL_FAILED"
