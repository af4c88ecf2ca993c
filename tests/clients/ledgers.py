"""The ledgers there may be: the embedded one, its port, and its port behind faults."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle
from typing import Any, TypeVar, cast

import trio
from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.clients.ledger import HttpLedger, Ledger
from clawsettle.config import Secret, Settings
from clawsettle.domain.forwarding import Forwardable, LedgerOutcome, Unknown
from clawsettle.domain.ledger_orders import (
    Applied,
    LedgerAccount,
    LedgerError,
    TransferOrder,
    TransferOutcome,
)
from clawsettle.domain.transfers import Side
from clawsettle.http.server import serve_http
from clawsettle.http.surface import AsgiApp
from tests.clients import faulty as faults
from tests.clients.faulty import faulty
from tests.house import House, open_house, settings

T = TypeVar("T")

ALICE, ALICE_DID = "acc_32ca986a", "did:key:alice"
HOUSE = "clearing:clawsettle.payouts"
SENT = Forwardable(
    "stripe:event:evt_1",
    {
        "provider": "stripe",
        "external_payment_id": "pi_1",
        "direction": "payin",
        "status": "confirmed",
        "account_id": ALICE,
        "amount_minor": "100",
        "currency": "USD",
        "metadata": {"note": "größer"},
    },
)
OURS = {"settlement": {**SENT.payload, "id": "set_1"}}
QUIET = settings(forwarding={"poll_s": 3600.0})

FAULTS: tuple[faults.Fault, ...] = (
    faults.drop_request,
    faults.cut_in_the_body,
    faults.deliver_twice,
    faults.drop_answer,
    faults.answer_and_hang_up,
    faults.answer_twice,
    faults.saying(b"\x16\x03garbage\r\n\r\n"),
    faults.cut_in_the_head,
    faults.answering(200, b"<html>welcome</html>"),
    faults.deliver_twice_at_once,
)
"""Faults that end by themselves, so that a call through them needs no waiting.

Two that lose nothing follow each other, so that looking and then repeating gets through.
"""


def sent(number: int = 1, key: str | None = None, **changes: object) -> Forwardable:
    """A payin of its own a number, with changes; None takes a field away."""
    payload = {**SENT.payload, "external_payment_id": f"pi_{number}", **changes}
    known = {name: value for name, value in payload.items() if value is not None}
    return Forwardable(key or f"stripe:event:evt_{number}", known)


def order(
    stage: str = "lock", payout: str = "pout_1", did: str = ALICE_DID, amount_minor: int = 1200
) -> TransferOrder:
    """A transfer of a payout, as its keeper orders it."""
    source, destination = {
        "lock": ((did, "A"), (did, "H")),
        "finalize": ((did, "H"), (HOUSE, "A")),
        "rollback": ((did, "H"), (did, "A")),
    }[stage]
    return TransferOrder(
        f"payout:{stage}:{payout}",
        Side.of(*source),
        Side.of(*destination),
        amount_minor,
        "USD",
        {"payout_id": payout, "stage": stage},
    )


@asynccontextmanager
async def ledger_at(base_url: str, **options: Any) -> AsyncIterator[HttpLedger]:
    bounds = {
        "admin_key": "ledger_house",
        "connect_timeout_s": 1,
        "timeout_s": 5,
        "connections_max": 4,
        **options,
    }
    ledger = HttpLedger(base_url, **bounds)
    try:
        yield ledger
    finally:
        ledger.close()


@asynccontextmanager
async def ledger_port(house: House, port: int = 0) -> AsyncIterator[str]:
    """Serve a house's ledger on a socket."""
    app, stop = cast("AsgiApp", house.parts.ledger_app), trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, app, host="127.0.0.1", port=port, drain_s=1, stop=stop)
        yield f"http://127.0.0.1:{await nursery.start(serve)}"
        stop.set()


def remote(base_url: str, **forwarding: object) -> Settings:
    """Settings of a daemon whose ledger is behind ``base_url``; it polls once, at its start."""
    return settings(
        ledger={
            "mode": "http",
            "base_url": base_url,
            "admin_keys": (Secret("ledger_house"),),
            "connect_timeout_s": 1.0,
        },
        forwarding={"poll_s": 3600.0, **forwarding},
    )


@frozen(eq=False)
class Far:
    """A ledger as its users have it, and the house whose books it writes."""

    ledger: Ledger
    house: House
    faultless: bool = True

    async def ingest(self, *settlements: Forwardable) -> list[LedgerOutcome]:
        """Send settlements, and those with an unknown outcome again, as the forwarder would."""
        outcomes = list(await self.ledger.ingest(settlements))
        with trio.fail_after(20):
            while unknown := [n for n, one in enumerate(outcomes) if isinstance(one, Unknown)]:
                assert not self.faultless, outcomes
                again = await self.ledger.ingest([settlements[n] for n in unknown])
                for n, outcome in zip(unknown, again, strict=True):
                    outcomes[n] = outcome
        return outcomes

    async def one(self, settlement: Forwardable) -> LedgerOutcome:
        (outcome,) = await self.ingest(settlement)
        return outcome

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        """Have a transfer made: where the outcome is unknown, look, then repeat."""
        outcome = await self.ledger.transfer(order)
        with trio.fail_after(20):
            while isinstance(outcome, Unknown):
                assert not self.faultless, outcome
                outcome = await self.transferred(order) or await self.ledger.transfer(order)
        return outcome

    async def transferred(self, order: TransferOrder) -> Applied | None:
        return await self.ask(partial(self.ledger.transferred, order))

    async def account(self, account_id: str = ALICE) -> LedgerAccount | None:
        return await self.ask(partial(self.ledger.account, account_id))

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, or an error that time does not mend."""
        with trio.fail_after(20):
            while True:
                try:
                    return await question()
                except LedgerError as error:
                    if self.faultless or not error.retryable:
                        raise


Open = Callable[[str], AbstractAsyncContextManager[Far]]


@asynccontextmanager
async def in_process(database_url: str) -> AsyncIterator[Far]:
    async with open_house(database_url, QUIET) as house:
        (keeper,) = [s.actor for s in house.parts.actors if s.actor.name == "ledger_keeper"]
        yield Far(cast("LedgerKeeper", keeper), house)


@asynccontextmanager
async def over_http(database_url: str) -> AsyncIterator[Far]:
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(database_url, QUIET))
        base_url = await stack.enter_async_context(ledger_port(house))
        yield Far(await stack.enter_async_context(ledger_at(base_url)), house)


@asynccontextmanager
async def through_faults(database_url: str) -> AsyncIterator[Far]:
    """Every request meets a fault, one kind after the other."""
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(database_url, QUIET))
        base_url = await stack.enter_async_context(ledger_port(house))
        proxy = await stack.enter_async_context(faulty(base_url, cycle(FAULTS)))
        ledger = await stack.enter_async_context(ledger_at(proxy.base_url))
        yield Far(ledger, house, faultless=False)


LEDGERS: dict[str, Open] = {
    "in process": in_process,
    "over HTTP": over_http,
    "through faults": through_faults,
}


def verdicts(outcomes: Sequence[LedgerOutcome]) -> list[tuple[object, ...]]:
    """What of outcomes decides a row's fate; the texts are free."""
    return [
        (
            type(one).__name__,
            one.ledger_status,
            getattr(one, "code", None),
            getattr(one, "settlement_id", None),
        )
        for one in outcomes
    ]
