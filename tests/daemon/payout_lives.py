"""Daemons that die while they make a payout, each one effect later than the one before.

The world changes only by a commit or by a provider's call, so there are as many places to die at as
a payout takes of these. Nobody lists them: a daemon dies after its first effect, the next one takes
the payout to its end and begins another, dies after the second effect of that, and so on, until one
has lived through a whole payout.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import trio
from attrs import Factory, define, frozen

from clawsettle.actors.payout_steps import PayoutSteps, StepResult
from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.config import Settings
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import (
    CancelOutcome,
    LookOutcome,
    PayoutOrder,
    ProviderStatus,
    RecallOutcome,
    SendOutcome,
)
from clawsettle.storage.bridge import Database, Row, Transaction, open_database
from clawsettle.storage.queries import load_queries
from tests.house import House, Json, open_house
from tests.payouts import Payee, at_rest, balances, cleared, keeper_of, ledger_stages, order

T = TypeVar("T")
Minor = tuple[int, int, int]
AMOUNT_MINOR, FUNDS_MINOR = 1200, 1_000_000
UNTOUCHED = (FUNDS_MINOR, 0, 0)
WRITE = re.compile(r"\b(INSERT INTO \w|UPDATE \w+( AS \w+)?\s+SET |DELETE FROM )")
WRITES = {
    sql: f"{file}.{name}"
    for file in ("payouts", "settlement_outbox", "ledger")
    for name, sql in load_queries(file).items()
    if WRITE.search(sql)
}
"""The statements that change a payout, its events or the ledger: text -> name."""


@define(eq=False)
class Death:
    """Ends a daemon's life after one of its effects; notes what they were, each with its step."""

    life: trio.CancelScope
    after: int
    effects: list[tuple[PayoutStep | None, str]] = Factory(list)
    step: PayoutStep | None = None

    def strike(self, effect: str) -> bool:
        """Count an effect, and end the daemon's life when it is the last one."""
        self.effects.append((self.step, effect))
        if len(self.effects) != self.after:
            return False
        self.life.cancel()
        return True

    async def visit(self, effect: str) -> None:
        """Count an effect of the task that asks; the last one's outcome reaches nobody."""
        if self.strike(effect):
            await trio.sleep_forever()


@frozen(eq=False)
class _WatchedProvider:
    provider: PayoutProvider
    death: Death

    async def send(self, order: PayoutOrder) -> SendOutcome:
        return await self._visited("provider.send", self.provider.send(order))

    async def look(self, order: PayoutOrder) -> LookOutcome:
        return await self._visited("provider.look", self.provider.look(order))

    async def recall(self, order: PayoutOrder) -> RecallOutcome:
        return await self._visited("provider.recall", self.provider.recall(order))

    async def cancel(self, order: PayoutOrder) -> CancelOutcome:
        return await self._visited("provider.cancel", self.provider.cancel(order))

    async def _visited(self, name: str, call: Awaitable[T]) -> T:
        outcome = await call
        await self.death.visit(name)
        return outcome


@define(eq=False)
class _WatchedSteps(PayoutSteps):
    death: Death | None = None

    async def perform(self, step: PayoutStep, payout: Payout) -> StepResult:
        assert self.death is not None
        self.death.step = step
        return await super().perform(step, payout)


@frozen(eq=False)
class _WatchedTransaction:
    transaction: Transaction
    written: list[str]

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        rows = await self.transaction.fetch(sql, *args)
        if sql in WRITES:
            self.written.append(WRITES[sql])
        return rows

    async def script(self, sql: str) -> None:
        await self.transaction.script(sql)


def watch(house: House, death: Death) -> None:
    """Let a house die by ``death``."""
    database, keeper = house.database, keeper_of(house)
    fetch, transaction = database.fetch, database.transaction

    async def watched_fetch(sql: str, *args: object) -> Sequence[Row]:
        rows = await fetch(sql, *args)
        if sql in WRITES and rows:
            await death.visit(WRITES[sql])
        return rows

    async def watched_transaction(work: Callable[[Any], Awaitable[T]]) -> T:
        written: list[str] = []
        value = await transaction(lambda one: work(_WatchedTransaction(one, written)))
        if written:
            await death.visit(" and ".join(written))
        return value

    vars(database).update(fetch=watched_fetch, transaction=watched_transaction)
    provider: Any = _WatchedProvider(keeper.steps.provider, death)
    keeper.steps = _WatchedSteps(keeper.steps.ledger, provider, keeper.steps.timeout_s, death)


def lose_answers(house: House) -> None:
    """Lose the answer to every commit, so that each is made again, as the bridge does then.

    Claims are not: whoever loses the answer to one waits for the end of its lease.
    """
    database = house.database
    fetch, transaction = database.fetch, database.transaction

    async def fetch_twice(sql: str, *args: object) -> Sequence[Row]:
        rows = await fetch(sql, *args)
        if sql not in WRITES or "claim" in WRITES[sql]:
            return rows
        return await fetch(sql, *args)

    async def transact_twice(work: Callable[[Any], Awaitable[T]]) -> T:
        written: list[str] = []
        value = await transaction(lambda one: work(_WatchedTransaction(one, written)))
        return await transaction(work) if written else value

    vars(database).update(fetch=fetch_twice, transaction=transact_twice)


@frozen(eq=False)
class World:
    """What outlives the daemons: the database, the provider, and the account that is paid out.

    ``tell`` lets a payout reach a status at the provider, and returns the event of it. ``watch``
    lets the provider, too, be a place to die at. ``check`` looks at what it has of a payout.
    """

    url: str
    settings: Settings
    payee: Payee
    tell: Callable[[Payout, ProviderStatus], Json]
    watch: Callable[[Death], None] = lambda _death: None
    check: Callable[[Payout], None] = lambda _payout: None


@frozen
class Life:
    """A payout's way: what is asked for it, one thing after the other, and where that ends.

    ``stages`` are the ledger's transfers of it, ``moved_minor`` what they come to: available, held,
    cleared. ``word`` tells the simulated provider what goes wrong.
    """

    ways: Sequence[Callable[["Act"], Awaitable[None]]]
    status: PayoutStatus
    stages: frozenset[str]
    moved_minor: Minor
    word: str | None = None
    amount_minor: int = AMOUNT_MINOR


@frozen(eq=False)
class Act:
    """One payout of a life, on the daemon that works on it now."""

    life: Life
    world: World
    house: House
    key: str

    async def payout(self) -> Payout:
        (row,) = await self.house.database.fetch(
            "SELECT payout_id FROM payout WHERE idempotency_key = $1", self.key
        )
        return (await keeper_of(self.house).payouts.by_ids([row["payout_id"]]))[row["payout_id"]]


async def create(act: Act) -> None:
    metadata = {} if act.life.word is None else {"simulate": act.life.word}
    with suppress(ClawsettleError):
        await keeper_of(act.house).create(
            order(act.world.payee, act.key, act.life.amount_minor, **metadata)
        )


async def sent(act: Act) -> None:
    """Ask until the payout is known to be at the provider."""
    while (await act.payout()).status.wire is PayoutStatus.INITIATED:
        with suppress(ClawsettleError):
            await keeper_of(act.house).retry((await act.payout()).payout_id)


async def come_due(act: Act) -> None:
    """Let the time come at which a provider that is silent is asked."""
    await act.house.database.fetch(
        "UPDATE payout SET due_at = now()"
        " WHERE idempotency_key = $1 AND due_at IS NOT NULL AND lease_token IS NULL",
        act.key,
    )
    await at_rest(act.house.database)


async def cancel(act: Act) -> None:
    assert (await keeper_of(act.house).cancel((await act.payout()).payout_id)).status.wire in {
        PayoutStatus.FINALIZING_FAILED,
        PayoutStatus.FAILED,
    }


async def grow_old(act: Act) -> None:
    """Have an unanswered request be some minutes ago, and ask again."""
    payout = await act.payout()
    await act.house.database.fetch(
        "UPDATE payout SET status_at = status_at - interval '10 minutes' WHERE payout_id = $1",
        payout.payout_id,
    )
    with suppress(ClawsettleError):
        await keeper_of(act.house).retry(payout.payout_id)


def hear(status: ProviderStatus) -> Callable[[Act], Awaitable[None]]:
    """Return what has the daemon told of a status."""

    async def deliver(act: Act) -> None:
        event = act.world.tell(await act.payout(), status)
        answer = await act.house.deliver(event)
        assert answer.status_code == 200, answer.text

    return deliver


async def end_leases(url: str) -> None:
    """Let the time pass that the dead have leased their rows for."""
    async with open_database(url, pool_max=1) as database:
        for table in ("payout", "settlement_outbox"):
            await database.fetch(
                f"UPDATE {table} SET due_at = now() WHERE lease_token IS NOT NULL"  # noqa: S608
            )


@define(eq=False)
class Lives:
    """Lives the same payout again and again, and dies a little later each time; see the module."""

    world: World
    life: Life
    deaths: list[tuple[PayoutStep | None, str]] = Factory(list)
    trails: list[list[tuple[object, ...]]] = Factory(list)

    async def run(self) -> list[tuple[PayoutStep | None, str]]:
        """Live until a daemon survives; every payout must come to the life's end, every time.

        Returns the effects that daemons died after, each with its step.
        """
        before: Minor = UNTOUCHED
        dead: str | None = None
        for number in count(1):
            key = f"key_{number}"
            with trio.CancelScope() as scope:
                death = Death(scope, number)
                async with open_house(self.world.url, self.world.settings) as house:
                    if dead is not None:
                        before = await self.finish(house, dead, before)
                    watch(house, death)
                    self.world.watch(death)
                    await self.act(house, key)
                    await at_rest(house.database)
                    death.after = 0
                    before = await self.finish(house, key, before)
            if not scope.cancelled_caught:
                break
            self.deaths.append(death.effects[-1])
            await end_leases(self.world.url)
            dead = key
        for trail, died_after in zip(self.trails, self.deaths, strict=False):
            assert trail == self.trails[-1], died_after
        return self.deaths

    async def act(self, house: House, key: str) -> None:
        for way in self.life.ways:
            await way(Act(self.life, self.world, house, key))

    async def finish(self, house: House, key: str, before: Minor) -> Minor:
        """Have a payout taken to its end, by itself and by all being asked again; look at it."""
        await at_rest(house.database)
        for _ in range(2):
            await self.act(house, key)
        await at_rest(house.database)
        died_at = self.deaths[-1] if self.deaths else None
        payout = await Act(self.life, self.world, house, key).payout()
        assert payout.status is self.life.status, died_at
        stages = await ledger_stages(house.database, payout.payout_id)
        assert sorted(stages) == sorted(self.life.stages), died_at
        now = (*await balances(house, self.world.payee), await cleared(house))
        moved = tuple(after - was for after, was in zip(now, before, strict=True))
        assert moved == self.life.moved_minor, died_at
        self.world.check(payout)
        self.trails.append(await _trail(house.database, payout))
        return now


async def _trail(database: Database, payout: Payout) -> list[tuple[object, ...]]:
    """A payout's audit trail, without what only tells how an outcome was found out."""
    rows = await database.fetch(
        "SELECT event_type, event_idempotency_key, to_status FROM payout_audit"
        " WHERE payout_id = $1 ORDER BY audit_id",
        payout.payout_id,
    )
    detours = {PayoutStatus.SENDING, PayoutStatus.UNKNOWN}
    trail = [tuple(row.values()) for row in rows if row["to_status"] not in detours]
    assert len(set(trail)) == len(trail)
    return [(event_type, to_status) for event_type, _, to_status in trail]
