"""A load on the ledgers of several daemons: clients that pay in, out and around, and hold.

Each client has a daemon of its own. What nobody answered it sends again, under the same key, to the
next one, until it is answered for good. Some requests go to all daemons at once, and some again
when they are long answered.
"""

import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from random import Random

import trio
from attrs import define, field

from tests.torture.load import PAUSE_S, Client, Load
from tests.torture.orders import Order, Place, accepts, hold, release, settlement, transfer

ANSWERED_MAX_S = 20.0
CLEARING = ("clearing:torture.payouts", "clearing:torture.netting")
_HOT_SHARE = 0.5
_TOGETHER_SHARE = 0.2
_AGAIN_SHARE = 0.1
_LETTERS = "AAAAAAABFPH"


@define(eq=False, kw_only=True)
class LedgerLoad(Load):
    """Gives orders of ``account_ids`` (by DID; the first account is the hot one).

    ``acknowledged`` has the keys of the accepted ones. After ``run`` each of ``orders`` has been
    answered for good, or its ``answers`` are empty.
    """

    key: str
    account_ids: Mapping[str, str]
    seed: str
    orders: list[Order] = field(factory=list, init=False)

    @property
    def sent_count(self) -> int:
        return len(self.orders)

    async def run(self) -> None:
        """Give orders until stopped, then ask once more what was refused and may have come late.

        A refusal changes nothing. So what a daemon had begun, whose answer did not come, may have
        been carried out after another daemon had refused it.
        """
        await super().run()
        client = Client(self.patience_s)
        for order in self.orders:
            if order.unanswered_count and not order.is_accepted:
                await self.send(order, client, 0)
        client.close()

    async def send(self, order: Order, client: Client, turn: int) -> None:
        """Send an order to one daemon after another until it is answered for good."""
        headers = {"authorization": f"Bearer {self.key}", "idempotency-key": order.key}
        body = json.dumps(order.body).encode()
        with trio.move_on_after(ANSWERED_MAX_S):
            for address in self._in_turn(turn):
                answer = await client.post(address, order.path, headers, body)
                self.answers.append(answer)
                if isinstance(answer.outcome, int) and answer.outcome < 500:
                    order.answers.append(answer)
                    if accepts(answer):
                        self._acknowledge(order.key)
                    return
                order.unanswered_count += 1
                await trio.sleep(PAUSE_S)

    async def _work(self, worker: int, client: Client) -> None:
        teller = _Teller(self, worker, client, Random(f"{self.seed}:{worker}"))
        while not self._stopped.is_set():
            await teller.tell()


@define(eq=False)
class _Teller:
    """One client, which tells stories: a payment, a payout, a hold or a transfer, with sequels."""

    load: LedgerLoad
    worker: int
    client: Client
    rng: Random
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _told: list[Order] = field(factory=list, init=False)

    async def tell(self) -> None:
        """Tell one story; now and then ask all of it again, each under its key."""
        stories: Sequence[Callable[[str], Awaitable[None]]]
        stories = (self._pay_in, self._refund, self._move, self._pay_out, self._hold)
        self._told = []
        (story,) = self.rng.choices(stories, (5, 1, 5, 4, 3))
        await story(f"{self.worker}-{next(self._numbers)}")
        self.load.orders += self._told
        if self._happens(_AGAIN_SHARE):
            await self._send(*self._told, turn=self.worker + 1)

    async def _pay_in(self, name: str) -> None:
        """Pay in, refund up to all of it twice, reverse it, and reverse a refund."""
        did, amount_minor = self._account(), self._amount()

        def settle(key: str, status: str) -> Order:
            payment = (f"pi_{name}", "payin", status)
            return settlement(f"{key}:{name}", payment, self._owner(did), amount_minor)

        def refund(number: int, status: str, refund_minor: int) -> Order:
            return settlement(
                f"refund{number}:{name}:{status}",
                (f"re{number}_{name}", "refund", status),
                self._owner(did),
                refund_minor,
                refund_of=f"pi_{name}",
            )

        if self._happens(_TOGETHER_SHARE):
            await self._ask(settle("payin", "confirmed"), settle("payin-twin", "confirmed"))
        else:
            await self._insist(settle("payin", "confirmed"))
        parts = [self.rng.randint(1, amount_minor) for _ in range(2)]
        refunds = [refund(number, "confirmed", part) for number, part in enumerate(parts)]
        sequels = [*refunds, settle("reversal", "reversed")]
        await self._ask(*self.rng.sample(sequels, self.rng.randint(0, len(sequels))))
        if refunds[0].is_accepted and self._happens(_TOGETHER_SHARE):
            await self._insist(refund(0, "reversed", parts[0]))

    async def _refund(self, name: str) -> None:
        """Refund what no payin is known of."""
        payment = (f"re_{name}", "refund", "confirmed")
        owner = self._owner(self._account())
        await self._insist(settlement(f"refund:{name}", payment, owner, self._amount()))

    async def _move(self, name: str) -> None:
        """Move an amount between any two buckets."""
        source = self._place()
        destination = self._place()
        while destination == source:
            destination = self._place()
        await self._insist(transfer(f"transfer:{name}", source, destination, self._amount()))

    async def _pay_out(self, name: str) -> None:
        """Lock a payout, then finalise it or roll it back, or both at once, or neither."""
        did, amount_minor = self._account(), self._amount()
        held: Place = (did, "H")
        lock = transfer(
            f"payout:lock:{name}", (did, "A"), held, amount_minor, reserved_minor=amount_minor
        )
        await self._insist(lock)
        if not lock.is_accepted:
            return
        finalize, rollback = (
            transfer(f"payout:{end}:{name}", held, to, amount_minor, reserved_minor=-amount_minor)
            for end, to in (("finalize", (CLEARING[0], "A")), ("rollback", (did, "A")))
        )
        await self._ask(*self.rng.sample([finalize, rollback], self.rng.choice((0, 1, 1, 1, 2))))
        if finalize.is_accepted:
            for status in ("confirmed", "reversed")[: self.rng.randint(0, 2)]:
                payment = (f"po_{name}", "payout", status)
                memo = settlement(f"{status}:{name}", payment, self._owner(did), amount_minor)
                await self._insist(memo)

    async def _hold(self, name: str) -> None:
        """Hold an amount for a loss event and mostly release it, sometimes under two keys."""
        did, amount_minor, source = self._account(), self._amount(), f"loss_{name}"
        holds = [hold(f"hold{n}:{name}", source, did, amount_minor) for n in range(2)]
        await self._some(holds)
        applied = next((one for one in holds if one.is_accepted), None)
        if applied is not None and not self._happens(_TOGETHER_SHARE):
            await self._some([release(f"release{n}:{name}", source, applied) for n in range(2)])

    async def _some(self, rivals: Sequence[Order]) -> None:
        """Ask one of two rivals, or both at once."""
        if self._happens(_TOGETHER_SHARE):
            await self._ask(*rivals)
        else:
            await self._insist(rivals[0])

    async def _insist(self, order: Order) -> None:
        """Ask one order; sometimes every daemon at once."""
        self._told.append(order)
        times = len(self.load.addresses) if self._happens(_AGAIN_SHARE) else 1
        await self._send(*[order] * times, turn=self.worker)

    async def _ask(self, *orders: Order) -> None:
        """Ask several orders at once, each of another daemon."""
        self._told += orders
        await self._send(*orders, turn=self.worker)

    async def _send(self, *orders: Order, turn: int) -> None:
        async with trio.open_nursery() as nursery:
            for number, order in enumerate(orders, turn):
                nursery.start_soon(self.load.send, order, self.client, number)

    def _happens(self, share: float) -> bool:
        return self.rng.random() < share

    def _amount(self) -> int:
        """Return mostly small and sometimes large amounts, so that balances stay low."""
        return int(10 ** self.rng.uniform(1, 3.7))

    def _account(self) -> str:
        hot, *others = self.load.account_ids
        return hot if self._happens(_HOT_SHARE) else self.rng.choice(others)

    def _owner(self, did: str) -> tuple[str, str]:
        return did, self.load.account_ids[did]

    def _place(self) -> Place:
        who = self.rng.choice(CLEARING) if self._happens(_TOGETHER_SHARE) else self._account()
        return who, self.rng.choice(_LETTERS)
