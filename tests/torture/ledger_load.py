"""A load of money orders on the ledger's ports, which knows in the end what became of each.

Each client tells stories: a payin with its refunds or reversal, a transfer, a payout, a risk hold.
An order whose answer does not come is sent again under its key to the next daemon, as callers do;
some are sent to both daemons at once, and some again after they were answered.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Self

import trio
from attrs import define, field, frozen

from tests.torture.load import Address, exchange
from tests.torture.site import LEDGER_KEY

BUCKETS = {"A": "available", "H": "held", "B": "bonded", "F": "feePool", "P": "promo"}
CLEARING = "clearing:torture"
PATIENCE_S, PAUSE_S = 10.0, 0.02
_INGEST, _TRANSFER = "/v1/payments/settlements/ingest", "/v1/transfers"
_APPLY, _RELEASE = "/v1/risk/holds/apply", "/v1/risk/holds/release-by-source"
_SERVER_ERROR = 500

Place = tuple[str, str]
"""Whose money: an account as orders name it, and the letter of a bucket."""


@frozen
class Order:
    """One request; ``moves`` is what it does to the balances if it is accepted, in minor units."""

    key: str
    path: str
    body: Mapping[str, object]
    moves: Mapping[Place, int]


@define
class Fate:
    """What became of an order: each daemon's answers, and how often an answer did not come."""

    order: Order
    answers: list[tuple[int, Mapping[str, object]]] = field(factory=list)
    lost_count: int = 0

    @property
    def accepted(self) -> Mapping[str, object] | None:
        """Return the body of an acceptance, if there is one."""
        return next((body for status, body in self.answers if status < 300), None)


@define(eq=False)
class LedgerLoad:
    """``client_count`` clients a daemon on ``accounts``, whose first one is in half of all orders.

    ``accounts`` are pairs of DID and account id. ``fates`` are the orders that were sent.
    """

    addresses: Sequence[Address]
    accounts: Sequence[tuple[str, str]]
    client_count: int
    rng: Random
    fates: dict[str, Fate] = field(factory=dict, init=False)
    latencies_s: list[float] = field(factory=list, init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _stopped: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Work until stopped; each client ends its story."""
        async with trio.open_nursery() as nursery:
            for number in range(self.client_count * len(self.addresses)):
                nursery.start_soon(self._work, number)

    def stop(self) -> None:
        """Let the clients end."""
        self._stopped = True

    async def settle(self) -> None:
        """Ask again for every refused order of which an answer was lost: that one may have come."""
        async with _Client(self, 0) as client:
            for fate in [fate for fate in self.fates.values() if fate.lost_count]:
                if fate.accepted is None:
                    await client.send(fate.order)

    def outcomes(self) -> Counter[str]:
        """Return how many answers of each status and code there were, and how many never came."""
        found = Counter(
            f"{status} {body.get('code', '')}".strip()
            for fate in self.fates.values()
            for status, body in fate.answers
        )
        found["lost"] = sum(fate.lost_count for fate in self.fates.values())
        return found

    async def _work(self, number: int) -> None:
        stories = [_payin, _payin, _transfer, _transfer, _payout, _hold]
        async with _Client(self, number) as client:
            while not self._stopped:
                await self.rng.choice(stories)(self, client)

    def account(self) -> tuple[str, str]:
        """Choose an account, the hot one half of the time."""
        return self.accounts[0] if self.rng.random() < 0.5 else self.rng.choice(self.accounts)

    def number(self) -> int:
        """Return a number that no other order has."""
        return next(self._numbers)


@define(eq=False)
class _Client:
    """One client and its connections, which it keeps for as long as they work."""

    load: LedgerLoad
    number: int
    _streams: dict[Address, trio.SocketStream] = field(factory=dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for stream in self._streams.values():
            await trio.aclose_forcefully(stream)

    async def tell(self, order: Order) -> bool:
        """Have an order answered, at times by both daemons or twice; say whether it is accepted."""
        luck = self.load.rng.random()
        if luck < 0.1:
            async with _Client(self.load, self.number + 1) as twin, trio.open_nursery() as nursery:
                nursery.start_soon(twin.send, order)
                await self.send(order)
        else:
            await self.send(order)
            if luck > 0.9:
                await self.send(order)
        return self.load.fates[order.key].accepted is not None

    async def send(self, order: Order) -> None:
        """Send an order until some daemon answers it."""
        fate = self.load.fates.setdefault(order.key, Fate(order))
        for attempt in itertools.count(self.number):
            address = self.load.addresses[attempt % len(self.load.addresses)]
            begun = trio.current_time()
            try:
                with trio.fail_after(PATIENCE_S):
                    status, body = await self._exchange(address, order)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError):
                fate.lost_count += 1
                if address in self._streams:
                    await trio.aclose_forcefully(self._streams.pop(address))
            else:
                if status < _SERVER_ERROR:
                    self.load.latencies_s.append(trio.current_time() - begun)
                    fate.answers.append((status, body))
                    return
                fate.lost_count += 1
            await trio.sleep(PAUSE_S)

    async def _exchange(self, address: Address, order: Order) -> tuple[int, Mapping[str, object]]:
        if address not in self._streams:
            self._streams[address] = await trio.open_tcp_stream(*address)
        headers = {"authorization": f"Bearer {LEDGER_KEY}", "idempotency-key": order.key}
        status, raw, again = await exchange(
            self._streams[address], "POST", order.path, headers, json.dumps(order.body).encode()
        )
        if not again:
            await trio.aclose_forcefully(self._streams.pop(address))
        body: Mapping[str, object] = json.loads(raw)
        return status, body


async def _payin(load: LedgerLoad, client: _Client) -> None:
    """A payin, then nothing, its reversal, refunds that name it, or one that does not."""
    did, account_id = load.account()
    number, amount_minor = load.number(), load.rng.randint(1, 1000)
    payment = f"pi_{number}"

    def ingest(name: str, minor: int, sign: int, **other: str) -> Order:
        body = {
            "provider": "stripe",
            "external_payment_id": payment,
            "direction": "payin",
            "status": "confirmed",
            "account_id": account_id,
            "amount_minor": str(minor),
            "currency": "USD",
            **other,
        }
        return Order(f"{name}_{number}", _INGEST, body, {(did, "A"): sign * minor})

    if not await client.tell(ingest("payin", amount_minor, 1)):
        return
    match load.rng.randrange(4):
        case 0:
            await client.tell(ingest("reversal", amount_minor, -1, status="reversed"))
        case 1:
            for part in range(2):
                minor = load.rng.randint(1, amount_minor)
                named = {"external_payment_id": f"re_{number}_{part}", "refund_of": payment}
                await client.tell(ingest(f"part{part}", minor, -1, direction="refund", **named))
        case 2:
            named = {"external_payment_id": f"re_{number}"}
            await client.tell(ingest("refund", amount_minor, -1, direction="refund", **named))


def _moved(key: str, source: Place, destination: Place, amount_minor: int) -> Order:
    body = {
        "idempotency_key": key,
        "currency": "USD",
        "from": {"account": source[0], "bucket": source[1]},
        "to": {"account": destination[0], "bucket": destination[1]},
        "amount_minor": str(amount_minor),
    }
    return Order(key, _TRANSFER, body, {source: -amount_minor, destination: amount_minor})


async def _transfer(load: LedgerLoad, client: _Client) -> None:
    """A move between any two places, not out of what payouts and holds rely on."""
    names = [load.account()[0], load.account()[0], CLEARING]
    source = (load.rng.choice(names), load.rng.choice("AABFP"))
    destination = (load.rng.choice(names), load.rng.choice("AAHBFP"))
    if source != destination:
        key = f"transfer_{load.number()}"
        await client.tell(_moved(key, source, destination, load.rng.randint(1, 500)))


async def _payout(load: LedgerLoad, client: _Client) -> None:
    """A payout's lock and both of its ends, of which one is refused."""
    did, number, amount_minor = load.account()[0], load.number(), load.rng.randint(1, 500)
    available, held = (did, "A"), (did, "H")
    ends = [
        _moved(f"payout:finalize:{number}", held, (CLEARING, "A"), amount_minor),
        _moved(f"payout:rollback:{number}", held, available, amount_minor),
    ]
    load.rng.shuffle(ends)
    if await client.tell(_moved(f"payout:lock:{number}", available, held, amount_minor)):
        for end in ends:
            await client.tell(end)


async def _hold(load: LedgerLoad, client: _Client) -> None:
    """A risk hold, and most often its release under two keys, of which one is refused."""
    did, number, amount_minor = load.account()[0], load.number(), load.rng.randint(1, 500)
    source = {"source_loss_event_id": f"loss_{number}"}
    moves = {(did, "A"): -amount_minor, (did, "H"): amount_minor}
    apply = {
        **source,
        "idempotency_key": f"hold_{number}",
        "account": did,
        "amount_minor": str(amount_minor),
        "reason": "torture",
    }
    held = await client.tell(Order(f"hold_{number}", _APPLY, apply, moves))
    if held and load.rng.random() < 0.8:
        back = {place: -minor for place, minor in moves.items()}
        for key in (f"release_{number}", f"again_{number}"):
            await client.tell(Order(key, _RELEASE, {**source, "idempotency_key": key}, back))
