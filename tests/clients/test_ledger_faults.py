"""Each fault on the way to a ledger: what the call says of it, and that repeating it mends it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import frozen

from clawsettle.clients.ledger import HttpLedger
from clawsettle.domain.forwarding import Accepted, LedgerOutcome, Refused, Unknown
from tests.clients import faulty as faults
from tests.clients.faulty import Fault, FaultyServer, faulty
from tests.clients.ledgers import ALICE, QUIET, ledger_at, ledger_port, sent
from tests.house import House, open_house

_NO_HTTP = "no answer from the ledger: RemoteProtocolError"
_LATE = "no answer from the ledger: not in time"


@frozen(eq=False)
class Far:
    """A house's ledger, the faulty server before it, and a client of that."""

    house: House
    proxy: FaultyServer
    ledger: HttpLedger


@asynccontextmanager
async def far_ledger(database_url: str, *script: Fault, **options: float) -> AsyncIterator[Far]:
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(database_url, QUIET))
        await house.open_account()
        base_url = await stack.enter_async_context(ledger_port(house))
        proxy = await stack.enter_async_context(faulty(base_url, script))
        yield Far(
            house, proxy, await stack.enter_async_context(ledger_at(proxy.base_url, **options))
        )


def altered(changes: Mapping[str, object | None]) -> Fault:
    """Pass the request on, and answer as if it had been about something else."""

    def alter(answer: dict[str, Any]) -> dict[str, Any]:
        settlement = {**answer["settlement"], **changes}
        return {**answer, "settlement": {k: v for k, v in settlement.items() if v is not None}}

    return faults.rewriting(alter)


UNKNOWN: dict[str, tuple[Fault, str]] = {
    "cut before it is passed on": (faults.drop_request, _NO_HTTP),
    "cut before the answer": (faults.drop_answer, _NO_HTTP),
    "reset before the answer": (faults.reset, "no answer from the ledger: ConnectionResetError"),
    "cut in the answer's head": (faults.cut_in_the_head, _NO_HTTP),
    "cut in the answer's body": (faults.cut_in_the_body, _NO_HTTP),
    "a body shorter than promised": (faults.promise_more, _LATE),
    "a request that is never passed on": (faults.hang, _LATE),
    "an answer that is late": (faults.delay_answer, _LATE),
    "an answer that dribbles": (faults.dribble, _LATE),
    "a proxy's page": (
        faults.answering(200, b"<html>welcome</html>"),
        "the ledger's answer names no settlement",
    ),
    "no content": (faults.answering(204, b""), "the ledger's answer names no settlement"),
    **{
        f"another {name}": (altered({name: value}), f"the ledger's answer is about another {name}")
        for name, value in {
            "provider": "adyen",
            "external_payment_id": "pi_2",
            "direction": "refund",
            "account_id": "acc_61720de1",
            "amount_minor": "1000",
            "currency": "EUR",
        }.items()
    },
    "an amount as a number": (
        altered({"amount_minor": 100}),
        "the ledger's answer is about another amount_minor",
    ),
    "no echo of the amount": (
        altered({"amount_minor": None}),
        "the ledger's answer is about another amount_minor",
    ),
    "no settlement id": (altered({"id": None}), "the ledger's answer names no settlement id"),
}
"""Faults by name, and what the call says; all of it is unknown, and none of it a success."""


@pytest.mark.parametrize(("fault", "says"), UNKNOWN.values(), ids=UNKNOWN)
async def test_a_fault_is_unknown_and_repeating_settles_once(
    fault: Fault, says: str, database_url: str
) -> None:
    async with far_ledger(database_url, fault, timeout_s=0.3) as far:
        (outcome,) = await far.ledger.ingest([sent()])
        assert isinstance(outcome, Unknown)
        assert outcome.message == says
        (outcome,) = await far.ledger.ingest([sent()])
        (stored,) = await far.house.settlements("pi_1")
        assert isinstance(outcome, Accepted)
        assert outcome.settlement_id == stored["id"]
        assert await far.house.available(ALICE) == 100


async def test_a_request_that_arrives_after_its_repetition_changes_nothing(
    database_url: str,
) -> None:
    released = trio.Event()
    late = faults.held_until(released)
    async with far_ledger(database_url, late, timeout_s=0.5) as far:
        assert await far.ledger.ingest([sent()]) == [Unknown(_LATE, timed_out=True)]
        (outcome,) = await far.ledger.ingest([sent()])
        assert isinstance(outcome, Accepted)
        assert outcome.ledger_status == 201
        released.set()
        with trio.fail_after(5):
            while far.proxy.delivered_count < 2:  # noqa: ASYNC110 - sockets set no event
                await trio.sleep(0.005)
        assert await far.house.available(ALICE) == 100


MENDED: dict[str, Fault] = {
    "delivered twice": faults.deliver_twice,
    "delivered twice at once": faults.deliver_twice_at_once,
    "answered twice": faults.answer_twice,
    "answered before a close": faults.answer_and_hang_up,
}


@pytest.mark.parametrize("fault", MENDED.values(), ids=MENDED)
async def test_a_fault_that_loses_nothing_is_not_noticed(fault: Fault, database_url: str) -> None:
    async with far_ledger(database_url, *[fault] * 3) as far:
        outcomes = await far.ledger.ingest([sent(1), sent(2), sent(3)])
        assert all(isinstance(one, Accepted) for one in outcomes), outcomes
        assert await far.house.available(ALICE) == 300


async def test_a_wrong_key_is_refused(database_url: str) -> None:
    async with (
        far_ledger(database_url) as far,
        ledger_at(far.proxy.base_url, admin_key="wrong") as stranger,
    ):
        (outcome,) = await stranger.ingest([sent()])
        assert isinstance(outcome, Refused)
        assert (outcome.ledger_status, outcome.code) == (401, "UNAUTHORIZED")
        assert await far.house.settlements("pi_1") == []


async def test_a_ledger_that_restarts_is_found_again_at_once(database_url: str) -> None:
    async with open_house(database_url, QUIET) as house, AsyncExitStack() as stack:
        await house.open_account()
        outcomes: list[LedgerOutcome] = []

        async def send(number: int) -> None:
            outcomes.extend(await ledger.ingest([sent(number)]))

        async def send_four(first: int) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(first, first + 4):
                    nursery.start_soon(send, number)

        async with ledger_port(house) as base_url:
            ledger = await stack.enter_async_context(ledger_at(base_url))
            await send_four(0)
        # Its connections wait in the pool, and none of them leads anywhere any more.
        async with ledger_port(house, int(base_url.rpartition(":")[2])):
            await send_four(4)
        assert [type(one) for one in outcomes] == [Accepted] * 8
        assert await house.available(ALICE) == 800
