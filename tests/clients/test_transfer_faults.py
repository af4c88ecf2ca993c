"""Each fault on the way to a ledger: what a transfer and a question make of it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from clawsettle.domain.forwarding import Refused, Unknown
from clawsettle.domain.ledger_orders import Applied, LedgerAccount, LedgerError
from tests.clients import faulty as faults
from tests.clients.faulty import Fault, Wire, faulty
from tests.clients.ledgers import ALICE, ALICE_DID, ledger_at, order, sent
from tests.clients.test_ledger_faults import Far, far_ledger

_NO_HTTP = "no answer from the ledger: RemoteProtocolError"
_LATE = "no answer from the ledger: not in time"


@asynccontextmanager
async def funded(database_url: str, **options: float) -> AsyncIterator[Far]:
    """A ledger in which Alice has 5000, and a way to it without faults so far."""
    async with far_ledger(database_url, **options) as far:
        await far.ledger.ingest([sent(amount_minor="5000")])
        yield far


async def account(far: Far) -> LedgerAccount:
    found = await far.ledger.account(ALICE)
    assert found is not None
    return found


def saying(changes: Mapping[str, object]) -> Fault:
    """Answer what was true, but for these changes; None takes a field away."""

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**answer, **changes}.items() if value is not None}

    return faults.rewriting(change)


_PAGE = faults.answering(200, b"<html>welcome</html>")
LOST: dict[str, tuple[Fault, str, bool]] = {
    "cut before it is passed on": (faults.drop_request, _NO_HTTP, False),
    "a request that is never passed on": (faults.hang, _LATE, False),
    "a proxy's page": (_PAGE, "the ledger's answer names no event", False),
    "no content": (faults.answering(204, b""), "the ledger's answer names no event", False),
    "cut before the answer": (faults.drop_answer, _NO_HTTP, True),
    "reset before the answer": (
        faults.reset,
        "no answer from the ledger: ConnectionResetError",
        True,
    ),
    "cut in the answer's head": (faults.cut_in_the_head, _NO_HTTP, True),
    "cut in the answer's body": (faults.cut_in_the_body, _NO_HTTP, True),
    "a body shorter than promised": (faults.promise_more, _LATE, True),
    "an answer that is late": (faults.delay_answer, _LATE, True),
    "an answer that dribbles": (faults.dribble, _LATE, True),
    "no event id": (saying({"event_id": None}), "the ledger's answer names no event", True),
    "another status": (
        saying({"status": "pending"}),
        "the ledger's answer is not that it was applied",
        True,
    ),
}
"""Faults by name, what the call says, and whether the transfer was made all the same."""


@pytest.mark.parametrize(("fault", "says", "made"), LOST.values(), ids=LOST)
async def test_a_fault_is_unknown_and_looking_tells(
    fault: Fault, says: str, made: bool, database_url: str
) -> None:
    async with funded(database_url, timeout_s=0.3) as far:
        far.proxy.react(fault)
        outcome = await far.ledger.transfer(order())
        assert isinstance(outcome, Unknown)
        assert outcome.message == says
        found = await far.ledger.transferred(order())
        assert (found is not None) is made
        repeated = await far.ledger.transfer(order())
        assert isinstance(repeated, Applied)
        assert await far.ledger.transferred(order()) == repeated
        assert found in (None, repeated)
        assert await account(far) == LedgerAccount(ALICE, ALICE_DID, 3800, 1200)


async def test_a_transfer_that_arrives_after_it_was_looked_for_moves_the_money_once(
    database_url: str,
) -> None:
    released = trio.Event()
    async with funded(database_url, timeout_s=0.5) as far:
        far.proxy.react(faults.held_until(released))
        delivered_count = far.proxy.delivered_count
        assert await far.ledger.transfer(order()) == Unknown(_LATE, timed_out=True)
        assert await far.ledger.transferred(order()) is None
        repeated = await far.ledger.transfer(order())
        released.set()
        with trio.fail_after(5):
            while far.proxy.delivered_count < delivered_count + 3:  # noqa: ASYNC110 - sockets set no event
                await trio.sleep(0.005)
        assert await far.ledger.transferred(order()) == repeated
        assert await account(far) == LedgerAccount(ALICE, ALICE_DID, 3800, 1200)


UNTOLD: dict[str, tuple[Fault, str, str]] = {
    "cut": (faults.drop_answer, _NO_HTTP, _NO_HTTP),
    "cut in the body": (faults.cut_in_the_body, _NO_HTTP, _NO_HTTP),
    "late": (faults.delay_answer, _LATE, _LATE),
    "a proxy's page": (
        _PAGE,
        "the ledger's answer is no account",
        "the ledger's answer is no event",
    ),
    "another one's": (
        saying({"id": "acc_61720de1", "idempotencyKey": "payout:lock:pout_2"}),
        "the ledger's answer is about another account",
        "the ledger's answer is about another key",
    ),
    "without what was asked for": (
        saying({"balances": None, "id": None}),
        "the ledger's answer is no account",
        "the ledger's answer is no event",
    ),
}
"""Faults by name, and what the two questions say of each."""


@pytest.mark.parametrize(("fault", "of_account", "of_event"), UNTOLD.values(), ids=UNTOLD)
async def test_a_question_that_is_not_answered_is_an_error_to_ask_again_after(
    fault: Fault, of_account: str, of_event: str, database_url: str
) -> None:
    async with funded(database_url, timeout_s=0.3) as far:
        made = await far.ledger.transfer(order())
        far.proxy.react(fault, fault, fault)
        with pytest.raises(LedgerError) as untold:
            await far.ledger.account(ALICE)
        assert (untold.value.message, untold.value.retryable) == (of_account, True)
        assert untold.value.details["account_id"] == ALICE
        for asked in (
            far.ledger.transferred(order()),
            far.ledger.events_by_key([order().key, "payout:lock:pout_9"]),
        ):
            with pytest.raises(LedgerError) as untold:
                await asked
            assert (untold.value.message, untold.value.retryable) == (of_event, True)
            assert untold.value.details["idempotency_key"] == order().key
        assert await far.ledger.transferred(order()) == made
        assert (await account(far)).held_minor == 1200


async def test_a_wrong_key_is_a_refusal_that_can_be_mended(database_url: str) -> None:
    async with (
        funded(database_url) as far,
        ledger_at(far.proxy.base_url, admin_key="wrong") as stranger,
    ):
        outcome = await stranger.transfer(order())
        assert isinstance(outcome, Refused)
        assert (outcome.ledger_status, outcome.code, outcome.final) == (401, "UNAUTHORIZED", False)
        with pytest.raises(LedgerError) as untold:
            await stranger.account(ALICE)
        assert untold.value.retryable
        assert untold.value.details == {"account_id": ALICE, "ledger_status": 401}


async def test_a_redirect_is_an_answer_and_the_key_is_sent_nowhere_else() -> None:
    async with faulty(None, []) as elsewhere:
        moved = faults.answering(307, b"", f"location: {elsewhere.base_url}/")
        async with faulty(None, [moved] * 3) as server, ledger_at(server.base_url) as ledger:
            outcome = await ledger.transfer(order())
            assert isinstance(outcome, Refused)
            assert (outcome.ledger_status, outcome.final) == (307, False)
            for asked in (ledger.account(ALICE), ledger.transferred(order())):
                with pytest.raises(LedgerError) as untold:
                    await asked
                assert untold.value.details["ledger_status"] == 307
        assert elsewhere.requests == []


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    pour = faults.pouring(head, b"4000\r\n" + b" " * 0x4000 + b"\r\n")
    async with faulty(None, [pour] * 2) as server, ledger_at(server.base_url) as ledger:
        with trio.fail_after(10):
            assert await ledger.transfer(order()) == Unknown(
                "no answer from the ledger: too large", 200
            )
            with pytest.raises(LedgerError, match="too large") as untold:
                await ledger.account(ALICE)
        assert untold.value.details == {"account_id": ALICE, "ledger_status": 200}


async def test_the_requests_are_what_the_contract_says() -> None:
    async with (
        faulty(None, [faults.answering(404, b"{}")] * 3) as server,
        ledger_at(f"{server.base_url}/books") as ledger,
    ):
        await ledger.transfer(order())
        await ledger.transferred(order("finalize", payout="a/b ü"))
        await ledger.account("acc:1/2")
    lines = [head.split("\r\n")[0] for head in server.heads]
    assert lines == [
        "POST /books/v1/transfers HTTP/1.1",
        "GET /books/events/idempotency/payout%3Afinalize%3Aa%2Fb%20%C3%BC HTTP/1.1",
        "GET /books/accounts/id/acc%3A1%2F2 HTTP/1.1",
    ]
    for head in server.heads:
        named = dict(line.lower().split(": ") for line in head.split("\r\n")[1:])
        assert named["authorization"] == "bearer ledger_house"
        assert named["x-admin-key"] == "ledger_house"
        assert named["content-type"] == "application/json; charset=utf-8"
        assert "idempotency-key" not in named
    assert list(json.loads(server.bodies[0]).items()) == [*order().body().items()]


async def test_many_events_are_asked_for_a_few_at_a_time() -> None:
    under_way = most = 0

    async def meet(wire: Wire) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if len(server.requests) == 2:
            both.set()
        await both.wait()
        key = wire.request.split(b" ")[1].rpartition(b"/")[2].decode()
        under_way -= 1
        await faults.answering(
            200, json.dumps({"id": f"evt_{key}", "idempotencyKey": key}).encode()
        )(wire)

    both, keys = trio.Event(), [f"k{number}" for number in range(20)]
    async with (
        faulty(None, [meet] * 20) as server,
        ledger_at(server.base_url, connections_max=8) as ledger,
    ):
        with trio.fail_after(5):
            found = await ledger.events_by_key(keys)
    assert {key: event.event_id for key, event in found.items()} == {k: f"evt_{k}" for k in keys}
    assert most == 2


async def test_the_first_event_that_is_not_told_ends_the_whole_question() -> None:
    async with (
        faulty(None, [faults.hang, faults.answering(500, b"{}")]) as server,
        ledger_at(server.base_url, connections_max=8, timeout_s=60) as ledger,
    ):
        with trio.fail_after(5), pytest.raises(LedgerError) as untold:
            await ledger.events_by_key([f"k{number}" for number in range(20)])
        assert untold.value.details["ledger_status"] == 500
        assert len(server.requests) == 2
