"""Daemons that die while they run netting, each one effect later than the one before.

As with payouts (``payout_lives``), an effect is a commit; the ledger's are among them. Whoever dies
leaves a run to the next daemon, which takes it up by itself; then its asker asks again.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import count

import trio
from attrs import Factory, define, frozen

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.domain.errors import ConflictError, IllegalTransition
from clawsettle.domain.netting import Run, RunStatus
from clawsettle.domain.netting_requests import NettingRequest, parse_netting
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.payout_rows import read_payout
from clawsettle.storage.queries import load_queries
from tests.daemon.effects import Death, watch
from tests.daemon.payout_lives import WRITE
from tests.house import House, open_house, settings
from tests.netting import SOURCE, TARGET, fail_late, fund
from tests.storage.netting_books import age_doubts, end_netting_leases, netting_faults
from tests.storage.payout_histories import history, keep

QUICK = settings(netting={"poll_s": 0.02, "batch_max": 2, "in_flight_max": 2})
FUNDS_DID, FUNDS_MINOR = "did:key:funds", 1_000_000
_HEARTBEAT = load_queries("netting")["hold"]
WRITES = {
    sql: f"{file}.{name}"
    for file in ("netting", "ledger")
    for name, sql in load_queries(file).items()
    if WRITE.search(sql) and sql != _HEARTBEAT
}
"""The statements that change a run or the ledger: text -> name; a lease goes on being renewed."""


Way = Callable[["Act"], Awaitable[None]]


@frozen
class Life:
    """A run's way: what it finds, what is done, one thing after the other, and where that ends.

    ``left_minor`` is what the payouts' clearing account holds then, ``moved_minor`` what the target
    has got since the life began; ``waiting`` are the payouts that another run would take.
    """

    begin: Way
    ways: Sequence[Way]
    statuses: Collection[RunStatus]
    left_minor: int
    moved_minor: int
    waiting: frozenset[str] = frozenset()


@frozen(eq=False)
class Act:
    """One run of a life, with payouts and a clearing account of its own, on today's daemon."""

    house: House
    name: str

    @property
    def runner(self) -> NettingRunner:
        return self.house.parts.netting.runner

    @property
    def source(self) -> str:
        return f"clawsettle.payouts.{self.name}"

    def request(self, part: str = "run") -> NettingRequest:
        body = {"source_clearing_domain": self.source}
        return parse_netting(f"{part}_{self.name}", body, self.runner.defaults)

    async def pay(self, *payouts: tuple[str, str, int]) -> list[Payout]:
        """Have payouts (name, connected account, amount) be paid, and their money be there."""
        histories = [
            history(
                f"{name}_{self.name}",
                connect_account_id=f"acct_{account}_{self.name}",
                clearing_domain=self.source,
                amount_minor=amount_minor,
            )
            for name, account, amount_minor in payouts
        ]
        await keep(self.house.database, *histories)
        amount_minor = sum(amount_minor for _, _, amount_minor in payouts)
        await self.shift(f"pay_{payouts[0][0]}", FUNDS_DID, f"clearing:{self.source}", amount_minor)
        return [one.payout for one in histories]

    async def shift(self, key: str, source: str, target: str, amount_minor: int) -> None:
        """Move money in the ledger, once a key."""
        body = {
            "idempotency_key": f"{key}_{self.name}",
            "currency": "USD",
            "from": {"account": source, "bucket": "A"},
            "to": {"account": target, "bucket": "A"},
            "amount_minor": str(amount_minor),
        }
        answer = await self.house.ledger.post("/v1/transfers", json=body)
        assert answer.status_code == 200, answer.text

    async def cleared(self, domain: str) -> int:
        answer = await self.house.ledger.get(f"/clearing/accounts/domain/{domain}")
        return int(answer.json()["balances"]["available"]) if answer.status_code == 200 else 0

    async def payout(self, name: str) -> Payout:
        (row,) = await self.house.database.fetch(
            "SELECT * FROM payout WHERE idempotency_key = $1", f"{name}_{self.name}"
        )
        return read_payout(row)


async def run(act: Act) -> None:
    """Ask for the run, until nobody else works on it."""
    with trio.fail_after(20):
        while True:
            try:
                await act.runner.execute(act.request())
            except IllegalTransition:
                return
            except ConflictError as error:
                if error.code != "DUPLICATE_CONFLICT":
                    raise
                await trio.sleep(0.01)
            else:
                return


def let_fail(*names: str) -> Way:
    """Return what has the provider say that paid payouts have failed."""

    async def fail(act: Act) -> None:
        for name in names:
            payout = await act.payout(name)
            if payout.status is PayoutStatus.PAID:
                await fail_late(act.house.database, payout)

    return fail


async def drain(act: Act) -> None:
    """Take the money away that the run is to move; nothing of it has moved yet."""
    await act.shift("drain", f"clearing:{act.source}", FUNDS_DID, 1500)


async def refill(act: Act) -> None:
    await act.shift("refill", FUNDS_DID, f"clearing:{act.source}", 1500)


async def release(act: Act) -> None:
    """Give back what has not moved, as soon as none of it can be under way."""
    run_id = act.request().run_id
    with trio.fail_after(20):
        while True:
            try:
                await act.runner.release(run_id)
            except IllegalTransition:
                return
            except ConflictError as error:
                if error.code == "CONFLICT":
                    await age_doubts(act.house.database)
                await trio.sleep(0.01)
            else:
                return


async def release_failed(act: Act) -> None:
    """Release the run if it has failed."""
    if (await stored_run(act)).status is RunStatus.FAILED:
        await release(act)


async def stored_run(act: Act) -> Run:
    found = await act.runner.runs.prepare(act.request(), act.runner.defaults)
    assert found.run_id == act.request().run_id
    return found


async def runs_at_rest(database: Database) -> None:
    """Wait until no run is open."""
    with trio.fail_after(20):
        while await database.fetch(  # noqa: ASYNC110 - rows tell nobody
            "SELECT 1 FROM netting_run WHERE due_at IS NOT NULL"
        ):
            await trio.sleep(0.01)


@define(eq=False)
class Lives:
    """Lives the same run again and again, and dies a little later each time; see the module."""

    url: str
    life: Life
    deaths: list[str] = Factory(list)

    async def run(self) -> list[str]:
        """Live until a daemon survives; every run must come to the life's end, every time."""
        dead: str | None = None
        moved_before = 0
        for number in count(1):
            name = f"n{number}"
            with trio.CancelScope() as scope:
                death = Death(scope, number)
                async with open_house(self.url, QUICK) as house:
                    if dead is not None:
                        await self.finish(Act(house, dead), moved_before)
                    act = Act(house, name)
                    await self.life.begin(act)
                    moved_before = await act.cleared(TARGET)
                    watch(house.database, WRITES, death.visit)
                    await self.act(act)
                    await runs_at_rest(house.database)
                    death.after = 0
                    await self.finish(act, moved_before)
            if not scope.cancelled_caught:
                break
            self.deaths.append(death.effects[-1])
            async with open_database(self.url, pool_max=1) as database:
                assert await netting_faults(database, at_rest=False) == [], self.deaths[-1]
                await end_netting_leases(database)
            dead = name
        return self.deaths

    async def act(self, act: Act) -> None:
        for way in self.life.ways:
            await way(act)

    async def finish(self, act: Act, moved_before: int) -> None:
        """Have a run taken to its end, by itself and by all being asked again; look at it."""
        died_at = self.deaths[-1] if self.deaths else None
        await runs_at_rest(act.house.database)
        for _ in range(2):
            await self.act(act)
        await runs_at_rest(act.house.database)
        assert await netting_faults(act.house.database) == [], died_at
        run = await stored_run(act)
        assert run.status in self.life.statuses, died_at
        assert await act.cleared(act.source) == self.life.left_minor, died_at
        moved_minor = await act.cleared(TARGET) - moved_before
        assert moved_minor == self.life.moved_minor, died_at
        rows = await act.house.database.fetch(
            "SELECT p.idempotency_key, i.direction FROM netting_waiting AS i"
            " JOIN payout AS p USING (payout_id) WHERE i.clearing_domain = $1",
            act.source,
        )
        waiting = {f"{row['direction']}:{row['idempotency_key']}" for row in rows}
        assert waiting == {f"{one}_{act.name}" for one in self.life.waiting}, died_at


async def open_funds(url: str) -> None:
    """Put money on the account that clearing accounts are filled from."""
    async with open_house(url, QUICK) as house:
        await fund(house, FUNDS_MINOR)
        await Act(house, "0").shift("funds", f"clearing:{SOURCE}", FUNDS_DID, FUNDS_MINOR)
