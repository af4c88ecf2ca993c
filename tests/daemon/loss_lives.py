"""Daemons that die while they tell of loss events, each one effect later than the one before.

An effect is a commit, the ledger's included, or the answer to a call.
Nobody lists them: a daemon dies after its first, the next one ends what it left and begins anew,
dies after its second, and so on, until one has lived through all of it.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import count

import trio
from attrs import Factory, define, frozen

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.domain.errors import ConflictError, IllegalTransition
from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target
from clawsettle.domain.loss_requests import (
    LossRequest,
    RequeueRequest,
    ResolveRequest,
    RetryRequest,
    parse_loss,
)
from clawsettle.sandbox.risk_faults import CUT_AFTER_ACTING, Fault, refused
from tests.daemon.effects import Death
from tests.daemon.loss_world import OPERATOR, LossWorld, configured, daemon, live_on
from tests.storage.whole_book import ALICE

AMOUNT_MINOR = 250
_UNSETTLED = """
SELECT lease_token IS NULL OR due_at <= now() AS is_due FROM loss_delivery
WHERE loss_event_id = $1 AND due_at IS NOT NULL AND (state <> 'waiting' OR lease_token IS NOT NULL)
"""


@frozen(eq=False)
class Act:
    """The events of one life, on today's daemon; ``name`` is theirs alone."""

    life: "Life"
    world: LossWorld
    fanout: LossFanout
    name: str

    def request(self, part: str) -> LossRequest:
        return parse_loss(
            f"{part}_{self.name}",
            {
                "source_service": "stripe",
                "source_event_id": f"evt_{part}_{self.name}",
                "account_did": ALICE,
                "amount_minor": str(AMOUNT_MINOR),
                "currency": "USD",
                "reason_code": "chargeback",
                "targets": [str(target) for target in self.life.targets],
                "metadata": {
                    "escrow_id": f"esc_{self.name}",
                    "bounty_id": f"bty_{part}_{self.name}",
                },
            },
        )

    async def deliveries(self, *parts: str) -> list[Delivery]:
        """The deliveries of some events, or of all."""
        ids = {self.request(part).loss_event_id for part in parts or "ab"}
        return [one for one in await self.world.deliveries() if one.loss_event_id in ids]

    async def settled(self, part: str) -> None:
        """Wait until an event's deliveries have ended, or wait for their targets."""
        event_id = self.request(part).loss_event_id
        with trio.fail_after(20):
            while found := await self.world.database.fetch(_UNSETTLED, event_id):
                if any(row["is_due"] for row in found):
                    await self.world.come_due()
                    self.fanout.ring()
                await trio.sleep(0.01)


Way = Callable[[Act], Awaitable[None]]


def record(part: str) -> Way:
    """Return what records an event."""

    async def way(act: Act) -> None:
        await act.fanout.record(act.request(part))

    return way


def resolve(part: str) -> Way:
    """Return what resolves an event as soon as that is possible."""

    async def way(act: Act) -> None:
        event_id = act.request(part).loss_event_id
        with trio.fail_after(20):
            while True:
                await act.settled(part)
                try:
                    await act.fanout.resolve(ResolveRequest(event_id, f"r_{event_id}", None))
                except ConflictError as error:
                    if error.code != "LOSS_EVENT_NOT_READY":
                        raise
                    await trio.sleep(0.01)
                else:
                    return

    return way


def at_once(*ways: Way) -> Way:
    """Return what goes all of these ways at once."""

    async def way(act: Act) -> None:
        async with trio.open_nursery() as nursery:
            for one in ways:
                nursery.start_soon(one, act)

    return way


async def retry(act: Act) -> None:
    """Have the first event's deliveries made before their time."""
    event_id = act.request("a").loss_event_id
    for operation in Operation:
        asked = RetryRequest(operation, 25, event_id, force=True)
        await act.fanout.retry(asked, budget=trio.fail_after(10))


async def requeue(act: Act) -> None:
    """Let the insurer have changed its mind, and bring back what it had refused."""
    await act.settled("a")
    insure(act.world)
    for one in await act.deliveries("a"):
        if one.state is DeliveryState.DEAD:
            with suppress(IllegalTransition):
                asked = RequeueRequest(None, None, None, one.delivery_id, 1)
                await act.fanout.requeue(asked, OPERATOR)


def insure(world: LossWorld, *, is_active: bool = True) -> None:
    """Give the account a policy."""
    policy = {"coverage_minor": str(10**9), "is_active": is_active}
    world.sandbox.clawinsure.seed({ALICE: policy})


F, DEAD = DeliveryState.FORWARDED, DeliveryState.DEAD


@frozen
class Life:
    """What is done to some events, one thing after the other, and how their deliveries end.

    ``fault`` is what goes wrong with the first call to each target but the ledger,
    ``ledger_fault`` with the ledger's. The daemon knows nothing of the targets ``without``.
    """

    ways: Sequence[Way]
    ends: Collection[DeliveryState] = (F,)
    targets: Collection[Target] = tuple(Target)
    fault: Fault | None = None
    ledger_fault: str | None = None
    without: Collection[Target] = ()
    is_insured: bool = True


BOTH = (record("a"), record("b"))


def shared(*ways: Way) -> Life:
    """A life of two events that nobody is told of but one escrow."""
    return Life(ways, targets=(Target.ESCROW,))


LIVES = {
    "told": Life((record("a"),)),
    "unconfigured": Life((record("a"),), without=(Target.CLAWINCOME, Target.ESCROW)),
    "unheard": Life((record("a"),), fault=CUT_AFTER_ACTING, ledger_fault="unheard"),
    "resolved": Life((record("a"), resolve("a"))),
    "resolved unconfigured": Life(
        (record("a"), resolve("a")), (F, DeliveryState.CANCELED), without=(Target.CLAWINCOME,)
    ),
    "shared, first out first": shared(*BOTH, resolve("a"), resolve("b")),
    "shared, last out first": shared(*BOTH, resolve("b"), resolve("a")),
    "shared, out at once": shared(*BOTH, at_once(resolve("a"), resolve("b"))),
    "shared at once": shared(at_once(*BOTH), resolve("a")),
    "one after the other": shared(record("a"), at_once(resolve("a"), record("b"))),
    "requeued": Life((record("a"), requeue), is_insured=False),
    "retried": Life((record("a"), retry), fault=refused(503), ledger_fault="lost"),
}


@define(eq=False)
class Lives:
    """Lives the same life again and again; see the module."""

    world: LossWorld
    life: Life
    deaths: list[str] = Factory(list)

    async def run(self) -> list[str]:
        """Live until a daemon survives; each time all must end as it should."""
        for number in count(1):
            with trio.CancelScope() as scope:
                death = Death(scope, number)
                await self._live(f"{number:x}", death)
            if scope.cancelled_caught:
                self.deaths.append(death.effects[-1])
            await self.finish(f"{number:x}")
            if not scope.cancelled_caught:
                return self.deaths
        raise AssertionError("there is always a next number")

    async def run_unheard(self) -> int:
        """Do not hear of the first commit, then of the second, and so on; how many there are."""
        for number in count(1):
            commits = count(1)

            def is_unheard(number: int = number, commits: "count[int]" = commits) -> bool:
                return next(commits) == number

            await self._live(f"{number:x}", None, is_unheard)
            await self.finish(f"{number:x}")
            if next(commits) <= number:
                return number - 1
        raise AssertionError("there is always a next number")

    async def _live(
        self,
        name: str,
        death: Death | None,
        is_unheard: Callable[[], bool] = lambda: False,
    ) -> None:
        world, life = self.world, self.life
        insure(world, is_active=life.is_insured)
        for desk in world.sandbox.desks.values():
            if life.fault is not None:
                desk.script.add(life.fault, calls=1)
        if life.ledger_fault is not None:
            world.ledger_faults.waiting.append(life.ledger_fault)
        settings = configured(
            world.sandbox, without=life.without, lease_s=1.0, attempt_timeout_s=0.4
        )
        visit = live_on if death is None else death.visit
        async with daemon(world, settings, visit, is_unheard) as fanout:
            act = Act(self.life, world, fanout, name)
            for way in life.ways:
                await way(act)
            for part in "ab":
                await act.settled(part)

    async def finish(self, name: str) -> None:
        """Have all ended, by itself and by all being asked again; look at it."""
        world = self.world
        insure(world)
        for desk in world.sandbox.desks.values():
            desk.script.clear()
        world.ledger_faults.waiting.clear()
        await world.end_leases()
        died_at = self.deaths[-1] if self.deaths else None
        assert await world.faults(at_rest=False) == [], died_at
        async with daemon(world, configured(world.sandbox)) as fanout:
            act = Act(self.life, world, fanout, name)
            await world.drain(fanout)
            for way in self.life.ways:
                await way(act)
            await world.drain(fanout)
            assert await world.faults(at_rest=True) == [], died_at
            states = {one.state for one in await act.deliveries()}
            assert states <= set(self.life.ends), died_at
