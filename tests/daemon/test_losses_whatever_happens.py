"""Any loss events, any answers, any crashes: everybody is told once, and gives back what he took.

Daemons work at once on one database. They die after an effect, lose answers to commits, do not know
all targets, and come to a halt for longer than their leases; targets act without an answer, refuse,
throttle, and lie. ``LOSS_EXAMPLES=500`` makes it a long run.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count

import trio
from attrs import Factory, define, evolve, frozen
from hypothesis import event, given, settings
from hypothesis import strategies as st

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.ledger import OpenAccount
from clawsettle.domain.loss_answers import Answered
from clawsettle.domain.loss_events import Operation, Target
from clawsettle.domain.loss_requests import (
    LossRequest,
    RequeueRequest,
    ResolveRequest,
    RetryRequest,
    parse_loss,
)
from clawsettle.sandbox.risk_faults import (
    CUT,
    CUT_AFTER_ACTING,
    LYING,
    PAGE,
    SILENT,
    SILENT_AFTER_ACTING,
    Fault,
    refused,
    slow,
    throttled,
)
from tests.daemon.loss_world import FUNDS_MINOR, OPERATOR, LossWorld, configured, daemon, open_world
from tests.losses import HTTP_TARGETS
from tests.storage.books import done
from tests.storage.whole_book import ALICE, settled

EXAMPLES = int(os.environ.get("LOSS_EXAMPLES", "30"))
LEASE_S, ATTEMPT_S = 0.6, 0.2
HASTY = {"lease_s": LEASE_S, "attempt_timeout_s": ATTEMPT_S, "attempts_max": 3, "poll_s": 0.05}
# What an asker may be told; he asks again, or knows that somebody else was first.
SAID = {
    "NOT_FOUND",
    "LOSS_EVENT_NOT_READY",
    "IDEMPOTENCY_CONFLICT",
    "INVALID_STATUS_TRANSITION",
    "STORAGE_UNAVAILABLE",
}
STRANGER, LAPSED, UNINSURED = "did:key:stranger", "acct_lapsed", "acct_uninsured"
FAULTS: Sequence[Fault] = (
    CUT,
    CUT_AFTER_ACTING,
    SILENT,
    SILENT_AFTER_ACTING,
    LYING,
    PAGE,
    refused(200, acts=True),
    refused(500, acts=True),
    refused(503),
    refused(404),
    throttled(0),
    throttled(1),
    slow(0.02),
)
LEDGER_FAULTS: Sequence[str | Answered] = (
    "lost",
    "unheard",
    "unheard",
    Answered(503, "{}"),
    Answered(200, '{"error": "no"}'),
    Answered(429, "{}", 0.0),
)


@frozen
class Order:
    """An event as a caller orders it, under a key of its own unless ``key`` says otherwise."""

    number: int
    escrow: str | None
    bounty: str | None
    account_id: str | None
    did: str
    targets: Sequence[Target] | None

    def request(self, key: str = "k", amount_minor: int = 250) -> LossRequest:
        named = {"escrow_id": self.escrow, "bounty_id": self.bounty}
        return parse_loss(
            f"{key}_{self.number}",
            {
                "source_service": "stripe",
                "source_event_id": f"evt_{self.number}",
                "account_did": self.did,
                "account_id": self.account_id,
                "amount_minor": str(amount_minor),
                "currency": "USD",
                "reason_code": "chargeback",
                "metadata": {name: value for name, value in named.items() if value},
                "targets": self.targets,
            },
        )


@frozen
class Record:
    """An order, or one that is not quite the same under its key or from its source."""

    number: int
    key: str = "k"
    amount_minor: int = 250


@frozen
class Resolve:
    """An end of an event, under a key of its own or of others, too."""

    number: int
    key: str


@frozen
class Requeue:
    """An operator's word for all that has ended of an event."""

    number: int


@frozen
class Retry:
    """A wish for attempts now, of one event or of all."""

    number: int | None
    operation: Operation


Wish = Record | Resolve | Requeue | Retry


@frozen
class Fate:
    """What a daemon is asked, all at once, and what happens to it; effects are counted from 1."""

    wishes: Sequence[Wish]
    without: frozenset[Target]
    dies_after: int | None
    halts_after: int | None
    unheard: frozenset[int]


@frozen
class Scene:
    """What goes wrong with calls, one after another, and daemons at once."""

    faults: Mapping[Target, Sequence[int]]
    daemons: Sequence[Fate]


@frozen
class Plot:
    """The orders that there are, and what happens to them."""

    orders: Sequence[Order]
    scenes: Sequence[Scene]


numbers = st.integers(0, 3)
escrows = st.sampled_from(["esc_1", "esc_1", "esc_1", "esc_5e771ed", None])
bounties = st.sampled_from(["bty_1", "bty_gone", None])
accounts = st.sampled_from([None, None, LAPSED, UNINSURED])
records = st.builds(
    Record,
    numbers,
    st.sampled_from(["k", "k", "k", "k", "other"]),
    st.sampled_from([250, 250, 250, 250, 251]),
)
wishes = st.one_of(
    records,
    records,
    st.builds(Resolve, numbers, st.sampled_from(["own", "own", "own", "rk"])),
    st.builds(Requeue, numbers),
    st.builds(Retry, st.none() | numbers, st.sampled_from(Operation)),
)
fates = st.builds(
    Fate,
    st.lists(wishes, min_size=1, max_size=4),
    st.frozensets(st.sampled_from(HTTP_TARGETS), max_size=2),
    st.none() | st.integers(1, 20),
    st.none() | st.none() | st.integers(1, 20),
    st.frozensets(st.integers(1, 12), max_size=2),
)
scenes = st.builds(
    Scene,
    st.dictionaries(
        st.sampled_from(Target), st.lists(st.integers(0, 60), min_size=1, max_size=5), max_size=4
    ),
    st.lists(fates, min_size=1, max_size=3),
)


@st.composite
def plots(draw: st.DrawFn) -> Plot:
    orders = [
        Order(
            number,
            draw(escrows),
            draw(bounties),
            draw(accounts),
            draw(st.sampled_from([ALICE, ALICE, ALICE, STRANGER])),
            None,
        )
        for number in range(4)
    ]
    only = draw(st.integers(0, 3))
    if orders[only].escrow is not None:
        orders[only] = evolve(orders[only], targets=[Target.ESCROW])
    return Plot(orders, draw(st.lists(scenes, min_size=1, max_size=3)))


@define(eq=False)
class Stage:
    """A world with its orders; ``told_new`` counts who was told that an event is new."""

    world: LossWorld
    orders: Sequence[Order]
    told_new: "Counter[str]" = Factory(Counter)
    told: set[str] = Factory(set)
    deaths: int = 0

    def set_up(self) -> None:
        """Have the targets refuse what is seeded so."""
        sandbox = self.world.sandbox
        sandbox.clawinsure.seed({ALICE: INSURED, STRANGER: INSURED})
        sandbox.clawinsure.seed({LAPSED: {**INSURED, "is_active": False}})
        sandbox.escrow.seed({"esc_5e771ed": "settled"})
        sandbox.clawbounties.seed({"bty_gone": "absent"})

    async def heal(self) -> None:
        """Have the targets refuse nothing any more, and everybody have money in the ledger."""
        self.go_wrong({})
        sandbox = self.world.sandbox
        sandbox.clawinsure.seed({LAPSED: INSURED})
        sandbox.escrow.seed({"esc_5e771ed": "held"})
        sandbox.clawbounties.seed({"bty_gone": "open"})
        await done(self.world.book, OpenAccount(STRANGER))
        funds = settled("pi_2", "payin", "confirmed", FUNDS_MINOR, did=STRANGER)
        await done(self.world.book, funds)

    def go_wrong(self, faults: Mapping[Target, Sequence[int]]) -> None:
        """Set what goes wrong with the next calls."""
        self.world.ledger_faults.waiting = [
            LEDGER_FAULTS[number % len(LEDGER_FAULTS)] for number in faults.get(Target.LEDGER, ())
        ]
        for target, desk in self.world.sandbox.desks.items():
            desk.script.clear()
            for number in faults.get(target, ()):
                desk.script.add(FAULTS[number % len(FAULTS)], calls=1)

    async def ask(self, fanout: LossFanout, wish: Wish) -> None:
        """Ask a daemon for something, and take its answer."""
        try:
            await self._ask(fanout, wish)
        except ClawsettleError as error:
            if error.code not in SAID:
                raise

    async def _ask(self, fanout: LossFanout, wish: Wish) -> None:
        if isinstance(wish, Record):
            order = self.orders[wish.number]
            recorded = await fanout.record(order.request(wish.key, wish.amount_minor))
            self.told_new[recorded.event.loss_event_id] += not recorded.deduped
            self.told.add(recorded.event.loss_event_id)
            return
        event_id = None
        if wish.number is not None:
            event_id = self.orders[wish.number].request().loss_event_id
        if isinstance(wish, Resolve):
            assert event_id is not None
            await self._resolve(fanout, event_id, wish.key)
        elif isinstance(wish, Requeue):
            await fanout.requeue(RequeueRequest(None, None, event_id, None, 100), OPERATOR)
        else:
            is_forced = event_id is not None
            asked = RetryRequest(wish.operation, 25, event_id, is_forced)
            await fanout.retry(asked, budget=trio.move_on_after(1))

    async def _resolve(self, fanout: LossFanout, event_id: str, key: str) -> None:
        """Resolve an event as soon as that is possible, if it soon is."""
        asked = ResolveRequest(event_id, key if key == "rk" else f"r_{event_id}", None)
        for _ in range(10):
            try:
                resolved = await fanout.resolve(asked)
            except ClawsettleError as error:
                if error.code not in {"LOSS_EVENT_NOT_READY", "NOT_FOUND"}:
                    raise
                await trio.sleep(0.02)
            else:
                self.told_new[resolved.resolution.resolution_id] += not resolved.deduped
                return

    async def live(self, fate: Fate) -> None:
        """Live until all is answered and nothing is under way, or until death."""
        numbers, commits = count(1), count(1)

        async def visit(_effect: str) -> None:
            number = next(numbers)
            if number == fate.halts_after:
                await trio.sleep(LEASE_S + 0.1)
            if number == fate.dies_after:
                life.cancel()
                await trio.sleep_forever()

        def is_unheard() -> bool:
            return next(commits) in fate.unheard

        hasty = configured(self.world.sandbox, without=fate.without, **HASTY)
        with trio.fail_after(30), trio.CancelScope() as life:
            async with daemon(self.world, hasty, visit, is_unheard) as fanout:
                async with trio.open_nursery() as asking:
                    for wish in fate.wishes:
                        asking.start_soon(self.ask, fanout, wish)
                with trio.move_on_after(0.3):
                    while True:
                        if not await self.world.database.fetch(_LEASED):
                            break
                        await trio.sleep(0.01)
        self.deaths += life.cancelled_caught

    async def play(self, scenes: Sequence[Scene]) -> None:
        """Have the scenes played, and all come to its end."""
        for scene in scenes:
            self.go_wrong(scene.faults)
            async with trio.open_nursery() as nursery:
                for fate in scene.daemons:
                    nursery.start_soon(self.live, fate)
            assert await self.world.faults(at_rest=False) == []
            await self.world.end_leases()
            await self.world.come_due()
        await self.heal()
        async with daemon(self.world, configured(self.world.sandbox)) as fanout:
            await self.world.drain(fanout)
            await self.check()
            resolved = await self.world.resolved()
            for one in await self.world.events():
                if one.loss_event_id not in resolved:
                    asked = ResolveRequest(one.loss_event_id, f"last_{one.loss_event_id}", None)
                    await fanout.resolve(asked)
            await self.world.drain(fanout)
            await self.check()

    async def check(self) -> None:
        """Fail unless everything is as it must be when nothing is under way."""
        assert await self.world.faults(at_rest=True) == []
        assert max(self.told_new.values(), default=0) <= 1
        assert self.told <= {one.loss_event_id for one in await self.world.events()}


INSURED = {"coverage_minor": str(10**9)}
_LEASED = "SELECT 1 FROM loss_delivery WHERE lease_token IS NOT NULL"


async def test_whatever_happens_everybody_is_told_once_and_gives_back_what_he_took(
    database_url: str,
) -> None:
    async with open_world(database_url) as world:

        async def live_through(plot: Plot) -> int:
            await world.begin()
            stage = Stage(world, plot.orders)
            stage.set_up()
            await stage.play(plot.scenes)
            return stage.deaths

        @settings(deadline=None, max_examples=EXAMPLES)
        @given(plots())
        def whatever_happens(plot: Plot) -> None:
            event(f"deaths: {trio.from_thread.run(live_through, plot)}")

        await trio.to_thread.run_sync(whatever_happens)
