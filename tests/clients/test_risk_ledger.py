"""The ledger over HTTP as a risk target, where it knows no alias of an account."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from clawsettle.clients.risk_targets import HttpRiskLedger, HttpRiskTarget
from clawsettle.domain.loss_answers import RefusedForGood, Sent, TriedInVain, read_answer
from clawsettle.domain.loss_calls import Call
from clawsettle.domain.loss_events import Operation, Target
from clawsettle.sandbox.http1 import Reply, serving
from tests.losses import Targets, answer

SENT = Sent(Operation.APPLY, Target.LEDGER, "lse_1", 250)
CALL = Call(
    Target.LEDGER, "/v1/risk/holds/apply", "key", {"account": "did:claw:account:acc_1", "x": 1}
)
FOUND = answer(200, {"id": "acc_1", "did": "did:key:zA"})
HELD = answer(201, {"hold": {"source_loss_event_id": "lse_1", "amount_minor": "250"}})


@asynccontextmanager
async def open_ledger() -> AsyncIterator[tuple[HttpRiskLedger, Targets]]:
    """A ledger as a target, and what it is asked and told to answer."""
    async with serving(Targets) as targets:
        target = HttpRiskTarget(f"{targets.base_url}/ledger", "key", 1.0, 5.0, 2)
        with closing(target):
            yield HttpRiskLedger(target), targets


async def test_an_alias_is_sent_as_the_did_of_its_account_each_time() -> None:
    async with open_ledger() as (ledger, targets):
        targets.script[Target.LEDGER] = [FOUND, HELD, FOUND, HELD]
        assert await ledger.send(CALL) == await ledger.send(CALL)
        look, apply, *again = [request for _, request in targets.asked]
        assert look.path == "/accounts/id/acc_1"
        assert apply.body == b'{"account":"did:key:zA","x":1}'
        assert [(one.path, one.body) for one in again] == [
            (one.path, one.body) for one in (look, apply)
        ]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(404, {"error": "no such account", "code": "NOT_FOUND"}), RefusedForGood),
        (answer(401, {"error": "no", "code": "UNAUTHORIZED"}), TriedInVain),
        (Reply(200, b"<html>"), TriedInVain),
    ],
)
async def test_a_ledger_that_answers_a_look_is_not_down(said: Reply, outcome: type[object]) -> None:
    """Else five events of an account that is not there would keep those of all others back."""
    async with open_ledger() as (ledger, targets):
        targets.script[Target.LEDGER] = [said]
        read = read_answer(SENT, await ledger.send(CALL))
        assert isinstance(read, outcome)
        assert not getattr(read, "is_target_down", False)
        assert len(targets.asked) == 1


async def test_a_look_that_is_throttled_says_how_long_to_wait() -> None:
    async with open_ledger() as (ledger, targets):
        targets.script[Target.LEDGER] = [answer(429, {}, retry_after="7")]
        read = read_answer(SENT, await ledger.send(CALL))
        assert isinstance(read, TriedInVain)
        assert (read.is_target_down, read.retry_after_s) == (True, 7.0)
