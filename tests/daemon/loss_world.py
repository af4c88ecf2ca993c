"""What outlives the daemons that tell of loss events: the database, the ledger's book, the targets.

A daemon here is the fanout and the embedded ledger on connections of their own. What came back of a
call to a target is an effect that it may die after, too. The database notes each change of a
delivery's state, whoever makes it.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from attrs import Factory, define, evolve, field, frozen

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.clients.risk_targets import RiskTarget
from clawsettle.config import LossEventSettings, Secret, Settings, TargetSettings
from clawsettle.daemon.composition import open_ledger
from clawsettle.daemon.loss_parts import assemble_losses
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.ledger import OpenAccount
from clawsettle.domain.loss_answers import Answered, Unanswered
from clawsettle.domain.loss_calls import Call, delivery_key
from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    Operation,
    Target,
    delivery_id,
)
from clawsettle.domain.loss_requests import RequeueRequest
from clawsettle.domain.loss_resolutions import residuals
from clawsettle.domain.loss_transitions import TRANSITIONS
from clawsettle.sandbox.http1 import Reply, Request, serving
from clawsettle.sandbox.risk_targets import RiskSandbox
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.loss_rows import read_delivery, read_event
from clawsettle.storage.operator_actions import Operator
from clawsettle.storage.queries import load_queries
from tests import house
from tests.daemon.effects import lose_answers, watch
from tests.daemon.payout_lives import WRITE
from tests.losses import HTTP_TARGETS
from tests.storage.books import done, faults
from tests.storage.loss_books import loss_faults
from tests.storage.test_ledger_stateful import EMPTY as EMPTY_LEDGER
from tests.storage.whole_book import ALICE, settled

WRITES = {
    sql: f"{file}.{name}"
    for file in ("loss_events", "loss_deliveries", "ledger")
    for name, sql in load_queries(file).items()
    if WRITE.search(sql)
}
"""The statements that change loss events or the ledger: text -> name."""

FUNDS_MINOR = 10**9
OPERATOR = Operator("key:test", "for the test")
Visit = Callable[[str], Awaitable[None]]

_WATCH = """
CREATE TABLE state_change (
    delivery_id text NOT NULL, was text NOT NULL, became text NOT NULL
);
CREATE FUNCTION note_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO state_change VALUES (OLD.delivery_id, OLD.state, NEW.state);
    RETURN NULL;
END $$;
CREATE TRIGGER note_state AFTER UPDATE ON loss_delivery FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.state = 'forwarded')
    EXECUTE FUNCTION note_state()
"""
_EMPTY = "TRUNCATE loss_event, loss_resolution, loss_delivery, loss_escrow, state_change"
_COME_DUE = "UPDATE loss_delivery SET due_at = now() WHERE due_at > now() AND lease_token IS NULL"
_END_LEASES = "UPDATE loss_delivery SET due_at = now() WHERE due_at IS NOT NULL"
_UNENDED = """
SELECT delivery_id, state, lease_token IS NULL OR due_at <= now() AS is_due
FROM loss_delivery WHERE due_at IS NOT NULL OR state = 'dead'
"""
_SENDABLE = """
SELECT state = 'forwarded' AS is_done, operation = 'apply' AND EXISTS (
    SELECT FROM loss_resolution AS r WHERE r.loss_event_id = d.loss_event_id
) AS is_over
FROM loss_delivery AS d WHERE delivery_id = $1
"""


def configured(
    sandbox: RiskSandbox, *, without: Collection[Target] = (), **losses: Any
) -> Settings:
    """Settings of a daemon that tells the sandbox's targets but for some."""
    named: dict[str, Any] = {}
    for target in HTTP_TARGETS:
        if target not in without:
            address = sandbox.addresses[target]
            named |= {f"{target}_base_url": address.base_url, f"{target}_keys": (address.key,)}
    quick = {
        "poll_s": 3600.0,
        "retry_base_s": 1,
        "breaker_open_s": 0.05,
        "in_flight_max": 2,
        "lease_s": 3.0,
        "attempt_timeout_s": 1.0,
    }
    return evolve(
        house.settings(),
        targets=TargetSettings(**named),
        loss_events=LossEventSettings(**{**quick, **losses}),
    )


@define(eq=False)
class LedgerFaults:
    """What goes wrong with the next calls of the ledger, one after another.

    ``unheard``: it acts, and nobody hears of it. ``lost``: it does not act. Others are answers that
    are given instead of acting.
    """

    waiting: list[str | Answered] = Factory(list)

    async def meet(self, send: Callable[[], Awaitable[Answered | Unanswered]]) -> Any:
        fault = self.waiting.pop(0) if self.waiting else None
        if isinstance(fault, Answered):
            return fault
        if fault == "lost":
            return Unanswered("lost")
        answer = await send()
        return Unanswered("unheard") if fault == "unheard" else answer


@frozen(eq=False)
class _WatchedTarget:
    """A target as a daemon sees it, which may die when a call was answered."""

    target: Target
    client: RiskTarget
    world: "LossWorld"
    visit: Visit

    async def send(self, call: Call) -> Answered | Unanswered:
        await self.world.look(call)
        answer: Answered | Unanswered
        if self.target is Target.LEDGER:
            self.world.asked[call.key].add((call.path, compact_json(call.body)))
            answer = await self.world.ledger_faults.meet(partial(self.client.send, call))
        else:
            answer = await self.client.send(call)
        await self.visit(f"{self.target}.answered")
        return answer

    async def hold_of(self, loss_event_id: str) -> Mapping[str, Any] | Unanswered | None:
        return await self.client.hold_of(loss_event_id)


@define(eq=False)
class LossWorld:
    """See the module. ``broken`` has what daemons did that they must not do."""

    url: str
    database: Database
    base_url: str
    sandbox: RiskSandbox = field(init=False)
    ledger_faults: LedgerFaults = Factory(LedgerFaults)
    asked: dict[str, set[tuple[str, str]]] = Factory(lambda: defaultdict(set))
    broken: list[str] = Factory(list)
    under_way: int = 0

    async def begin(self) -> None:
        """Make everything what it was on the first day, with an account that has money."""
        self.sandbox = RiskSandbox(self.base_url, {target: Secret("k") for target in HTTP_TARGETS})
        self.ledger_faults, self.broken = LedgerFaults(), []
        self.asked.clear()
        await self.database.transaction(lambda one: one.script(_EMPTY))
        await self.database.transaction(lambda one: one.script(EMPTY_LEDGER))
        await done(self.book, OpenAccount(ALICE))
        await done(self.book, settled("pi_1", "payin", "confirmed", FUNDS_MINOR))

    @property
    def book(self) -> LedgerBook:
        return LedgerBook(self.database, "USD")

    async def answer(self, request: Request) -> Reply:
        """Answer a request to one of the targets."""
        self.under_way += 1
        try:
            return await self.sandbox.answer(request)
        finally:
            self.under_way -= 1

    async def look(self, call: Call) -> None:
        """Note a call that must not be made: of what is recorded as done, or of what is over."""
        is_release = call.key.startswith("loss-event:resolve:")
        operation = Operation.RESOLVE if is_release else Operation.APPLY
        event_id = call.body["source_loss_event_id"]
        assert call.key == delivery_key(event_id, operation, call.target)
        row_id = delivery_id(event_id, operation, call.target)
        (row,) = await self.database.fetch(_SENDABLE, row_id)
        if row["is_done"] or row["is_over"]:
            self.broken.append(f"sent after its success or its end: {call.key}")

    async def end_leases(self) -> None:
        """Let the time pass that the dead have leased their deliveries for, and their calls."""
        with trio.fail_after(5):
            while self.under_way:  # noqa: ASYNC110 - the targets tell nobody
                await trio.sleep(0.005)
        await self.database.fetch(_END_LEASES)

    async def come_due(self) -> None:
        """Let the time pass until everything that nobody has leased may be tried again."""
        await self.database.fetch(_COME_DUE)

    async def events(self) -> list[LossEvent]:
        return [read_event(row) for row in await self.database.fetch("SELECT * FROM loss_event")]

    async def deliveries(self) -> list[Delivery]:
        rows = await self.database.fetch("SELECT * FROM loss_delivery")
        return [read_delivery(row) for row in rows]

    async def resolved(self) -> set[str]:
        rows = await self.database.fetch("SELECT loss_event_id FROM loss_resolution")
        return {row["loss_event_id"] for row in rows}

    async def drain(self, fanout: LossFanout) -> None:
        """Have everything delivered, and what is dead brought back until nothing is."""
        with trio.fail_after(30):
            while found := await self.database.fetch(_UNENDED):
                if any(row["is_due"] for row in found):
                    await self.come_due()
                    fanout.ring()
                for row in found:
                    if row["state"] == "dead":
                        named = RequeueRequest(None, None, None, row["delivery_id"], 1)
                        await fanout.requeue(named, OPERATOR)
                await trio.sleep(0.02)

    async def faults(self, *, at_rest: bool) -> list[str]:
        """What is broken; ``at_rest`` when everything was drained."""
        found = [*self.broken, *await self._steps()]
        found += await loss_faults(self.database, at_rest=at_rest)
        found += await faults(self.database)
        if at_rest:
            found += self._otherwise_asked()
            events, resolved = await self.events(), await self.resolved()
            deliveries = await self.deliveries()
            for event in events:
                told = [one for one in deliveries if one.loss_event_id == event.loss_event_id]
                found += await self._residual_faults(event, told, resolved)
            found += self._effects(deliveries) + self._escrow_faults(deliveries, resolved)
        return found

    async def _steps(self) -> list[str]:
        """What has gone from a state to another one that does not follow, or left success."""
        rows = await self.database.fetch("SELECT DISTINCT was, became FROM state_change")
        return [
            f"{row['was']} became {row['became']}"
            for row in rows
            if DeliveryState(row["became"]) not in TRANSITIONS[DeliveryState(row["was"])].values()
        ]

    def _otherwise_asked(self) -> list[str]:
        for desk in self.sandbox.desks.values():
            for call in desk.calls:
                self.asked[call.key or ""].add((call.path, call.body.decode()))
        return [f"asked otherwise: {key}" for key, asked in self.asked.items() if len(asked) > 1]

    def _effects(self, deliveries: Iterable[Delivery]) -> list[str]:
        """What was done and is not recorded, or recorded and not done."""
        income, bounties = self.sandbox.clawincome.adjustments, self.sandbox.clawbounties
        apply, resolve = Operation.APPLY, Operation.RESOLVE
        disputed = [delivery_key(i, apply, Target.CLAWBOUNTIES) for i in bounties.loss_events]
        effects = {
            (apply, Target.CLAWINSURE): set(self.sandbox.clawinsure.claims),
            (apply, Target.CLAWINCOME): _adjusted(income, "debit"),
            (resolve, Target.CLAWINCOME): _adjusted(income, "credit"),
            (apply, Target.CLAWBOUNTIES): set(disputed),
            (resolve, Target.CLAWBOUNTIES): set(bounties.cleared.values()),
        }
        wrong = []
        for one in deliveries:
            key = delivery_key(one.loss_event_id, one.operation, one.target)
            found = effects.get((one.operation, one.target))
            if found is None or one.in_doubt:
                continue
            is_released = one.operation is apply and _is_released(one, deliveries)
            if (key in found) != (one.state is DeliveryState.FORWARDED or is_released):
                wrong.append(f"{key} is {one.state}, and {'' if key in found else 'not '}done")
        return wrong

    def _escrow_faults(self, deliveries: Iterable[Delivery], resolved: set[str]) -> list[str]:
        """Escrows that are not held exactly while an event that is not resolved needs it."""
        needed: Counter[str] = Counter()
        for one in deliveries:
            if one.escrow_id is not None and one.operation is Operation.APPLY:
                is_held = one.state is DeliveryState.FORWARDED
                needed[one.escrow_id] += is_held and one.loss_event_id not in resolved
        return [
            f"{escrow_id} is needed by {count}, and is {hold}"
            for escrow_id, count in needed.items()
            for hold in [self.sandbox.escrow.escrow(escrow_id).risk_hold]
            if (count > 0) != (hold is not None and hold.status == "active")
        ]

    async def _residual_faults(
        self, event: LossEvent, told: list[Delivery], resolved: set[str]
    ) -> list[str]:
        """Residuals that are not what the targets still have, or that are there at the end."""
        is_resolved = event.loss_event_id in resolved
        held = await self.database.fetch(
            "SELECT 1 FROM ledger_risk_hold"
            " WHERE source_loss_event_id = $1 AND released_at IS NULL",
            event.loss_event_id,
        )
        adjusted = self.sandbox.clawincome.adjustments
        keys = [delivery_key(event.loss_event_id, op, Target.CLAWINCOME) for op in Operation]
        has_income = (keys[0] in adjusted) and keys[1] not in adjusted
        kept = {Target.LEDGER: bool(held), Target.CLAWINCOME: has_income}
        wrong = []
        for one in residuals(event.amount_minor, told, is_resolved=is_resolved):
            real_minor = event.amount_minor * kept.get(one.target, False)
            is_right = one.target not in kept or one.residual_minor == real_minor
            is_over = not is_resolved or one.residual_minor == 0
            if not one.is_uncertain and not (is_right and is_over):
                wrong.append(f"residual of {event.loss_event_id}: {one.view()}")
        return wrong


def _is_released(apply: Delivery, deliveries: Iterable[Delivery]) -> bool:
    """Whether a delivery that was canceled in doubt had been heeded, as its release has shown."""
    return any(
        one.state is DeliveryState.FORWARDED
        for one in deliveries
        if one.operation is Operation.RESOLVE
        and (one.loss_event_id, one.target) == (apply.loss_event_id, apply.target)
    )


def _adjusted(adjustments: Mapping[str, Any], direction: str) -> set[str]:
    return {key for key, one in adjustments.items() if one["direction"] == direction}


@asynccontextmanager
async def open_world(url: str) -> AsyncIterator[LossWorld]:
    """Open a world on a migrated database."""
    async with (
        open_database(url) as database,
        serving(lambda base_url: LossWorld(url, database, base_url)) as world,
    ):
        await database.transaction(lambda one: one.script(_WATCH))
        await world.begin()
        yield world


async def live_on(_effect: str) -> None:
    """Live on."""


@asynccontextmanager
async def daemon(
    world: LossWorld,
    settings: Settings,
    visit: Visit = live_on,
    is_unheard: Callable[[], bool] = lambda: False,
) -> AsyncIterator[LossFanout]:
    """A daemon that has ``visit`` called after each effect, and is cut off at the end.

    It does not hear of a commit for which ``is_unheard`` says so.
    """
    async with open_database(world.url, pool_max=4) as database, trio.open_nursery() as nursery:
        lose_answers(database, WRITES, is_unheard)
        watch(database, WRITES, visit)
        _, keeper, _ = open_ledger(settings, database)
        assert keeper is not None
        losses = assemble_losses(settings, database, keeper, lambda _entry: None)
        for target, lane in losses.fanout.lanes.items():
            lane.client = _WatchedTarget(target, lane.client, world, visit)
        nursery.start_soon(keeper.run)
        nursery.start_soon(losses.fanout.run)
        try:
            yield losses.fanout
        finally:
            nursery.cancel_scope.cancel()
            losses.close()
