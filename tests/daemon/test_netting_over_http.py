"""Netting with a ledger behind HTTP that loses answers, fails, hangs, or holds something else."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, repeat
from random import Random

import attrs
import pytest
import trio
from attrs import define, field, frozen

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.config import NettingSettings, Settings
from clawsettle.domain.errors import ConflictError
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.storage.netting_rows import read_entry
from tests.clients import faulty as faults
from tests.clients.faulty import Fault, Wire, faulty, pass_on
from tests.clients.ledgers import FAULTS, ledger_port, remote
from tests.daemon.effects import watch
from tests.daemon.netting_lives import WRITES, runs_at_rest
from tests.house import House, open_house, settings
from tests.netting import SOURCE, TARGET, cleared, paid, request, transfer
from tests.storage.netting_books import age_doubts, end_netting_leases, netting_faults

IDLE = settings(netting={"poll_s": 3600.0})
WRITE_FAILED = faults.answering(500, b'{"code":"EVENT_WRITE_FAILED"}')
RUN_ID = request("key_1").run_id
UNAUTHORIZED = faults.answering(401, b'{"code":"UNAUTHORIZED"}')


@define(eq=False)
class Tolls:
    """What befalls transfers and look-ups on their way, each kind in its own order.

    ``asked`` counts the transfers by their keys, ``most`` is how many of one key were under way.
    """

    transfers: Iterator[Fault] = field(factory=lambda: iter(()))
    looks: Iterator[Fault] = field(factory=lambda: iter(()))
    asked: Counter[str] = field(factory=Counter)
    order: list[str] = field(factory=list)
    most: int = 0
    _under_way: Counter[str] = field(factory=Counter)

    def __iter__(self) -> Iterator[Fault]:
        return repeat(self.meet)

    def befall(self, transfers: Iterable[Fault] = (), looks: Iterable[Fault] = ()) -> None:
        """Replace what is left of both; what follows is passed on."""
        self.transfers, self.looks = iter(transfers), iter(looks)

    async def meet(self, wire: Wire) -> None:
        head, _, body = wire.request.partition(b"\r\n\r\n")
        if not head.startswith(b"POST /v1/transfers"):
            self.order.append("look")
            await next(self.looks, pass_on)(wire)
            return
        key = json.loads(body)["idempotency_key"]
        self.order.append("transfer")
        self.asked[key] += 1
        self._under_way[key] += 1
        self.most = max(self.most, self._under_way[key])
        try:
            await next(self.transfers, pass_on)(wire)
        finally:
            self._under_way[key] -= 1


@frozen(eq=False)
class Site:
    """A daemon that nets, the house whose ledger it asks, and what is between them."""

    books: House
    house: House
    tolls: Tolls

    @property
    def runner(self) -> NettingRunner:
        return self.house.parts.netting.runner

    async def execute(self, key: str = "key_1") -> Run:
        return (await self.runner.execute(request(key))).run

    async def entries(self) -> list[Entry]:
        rows = await self.house.database.fetch("SELECT * FROM netting_entry ORDER BY entry_id")
        return [read_entry(row) for row in rows]

    async def entry(self) -> Entry:
        (entry,) = await self.entries()
        return entry


@asynccontextmanager
async def daemon(database_url: str, books: House, tolls: Tolls) -> AsyncIterator[Site]:
    """Open a daemon whose ledger is the house's, behind its tolls."""
    async with (
        ledger_port(books) as base_url,
        faulty(base_url, tolls) as proxy,
        open_house(database_url, netting_at(proxy.base_url)) as house,
    ):
        yield Site(books, house, tolls)


def netting_at(base_url: str) -> Settings:
    quick = NettingSettings(poll_s=0.05, transfer_timeout_s=0.7, lease_s=3.0, in_flight_max=8)
    return attrs.evolve(remote(base_url), netting=quick)


@asynccontextmanager
async def site(database_url: str) -> AsyncIterator[Site]:
    """A site on which nothing has befallen anybody; the books are looked at when it closes."""
    tolls = Tolls()
    async with open_house(database_url, IDLE) as books:
        async with daemon(database_url, books, tolls) as one:
            yield one
            await runs_at_rest(books.database)
        assert tolls.most <= 1
        assert await netting_faults(books.database) == []


async def test_one_transfer_an_entry_and_no_look_when_nothing_goes_wrong(database_url: str) -> None:
    async with site(database_url) as here:
        await paid(here.books, *((f"k{n}", f"acct_{n % 30}", 10) for n in range(60)))
        run = await here.execute()
        assert (run.status, run.applied_count) == (RunStatus.APPLIED, 30)
        assert Counter(here.tolls.order) == {"transfer": 30}
        assert await cleared(here.books) == (0, 600)


async def test_what_was_applied_and_not_answered_is_found_and_not_asked_for_again(
    database_url: str,
) -> None:
    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200), ("b", "acct_B", 300))
        here.tolls.befall([faults.drop_answer, faults.reset])
        run = await here.execute()
        assert (run.status, run.applied_count) == (RunStatus.APPLIED, 2)
        assert set(here.tolls.asked.values()) == {1}
        assert await cleared(here.books) == (0, 500)


@pytest.mark.parametrize("lost", [faults.drop_answer, faults.delay_answer, faults.cut_in_the_body])
async def test_without_any_answer_it_is_unknown_until_somebody_asks_again(
    database_url: str, lost: Fault
) -> None:
    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([lost], [faults.hang])
        run = await here.execute()
        entry = await here.entry()
        assert (run.status, run.failed_count) == (RunStatus.FAILED, 1)
        assert (entry.status, entry.view()["status"]) == (EntryStatus.UNKNOWN, "failed")
        assert run.last_error_code == entry.last_error_code == "LEDGER_INGEST_FAILED"
        here.tolls.befall(looks=[faults.answering(503, b"")])
        with pytest.raises(ConflictError) as refused:
            await here.runner.release(run.run_id)
        assert refused.value.code == "CONFLICT"
        assert (await here.execute()).status is RunStatus.APPLIED
        assert set(here.tolls.asked.values()) == {1}
        assert await cleared(here.books) == (0, 200)


async def test_an_error_of_the_ledgers_is_no_refusal_and_is_looked_up_before_each_try(
    database_url: str,
) -> None:
    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([WRITE_FAILED])
        assert (await here.execute()).status is RunStatus.FAILED
        entry = await here.entry()
        assert entry.status is EntryStatus.UNKNOWN
        assert (entry.last_error_message or "").endswith("(status=500 code=EVENT_WRITE_FAILED)")
        assert here.tolls.order == ["transfer", "look"]
        assert (await here.execute()).status is RunStatus.APPLIED
        again = here.tolls.order[2:]
        assert again.index("transfer") > again.index("look")
        assert Counter(again)["transfer"] == 1
        assert await cleared(here.books) == (0, 200)


async def test_money_that_moved_before_the_ledger_failed_is_not_moved_again(
    database_url: str,
) -> None:
    """The ledger answers 500 after it has acted."""

    async def act_and_fail(wire: Wire) -> None:
        await wire.deliver()
        await WRITE_FAILED(wire)

    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([act_and_fail], [faults.answering(500, b"{}")])
        assert (await here.execute()).status is RunStatus.FAILED
        assert (await here.execute()).status is RunStatus.APPLIED
        assert set(here.tolls.asked.values()) == {1}
        assert await cleared(here.books) == (0, 200)


async def test_a_refusal_is_told_with_its_status_and_moves_on_once_it_is_mended(
    database_url: str,
) -> None:
    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([UNAUTHORIZED])
        assert (await here.execute()).status is RunStatus.FAILED
        said = (await here.entry()).last_error_message or ""
        assert said.endswith("(status=401 code=UNAUTHORIZED)")
        assert (await here.execute()).status is RunStatus.APPLIED


async def test_money_that_is_not_there_is_a_refusal_and_needs_no_look(database_url: str) -> None:
    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        await transfer(here.books, f"clearing:{SOURCE}", "clearing:elsewhere", 100)
        run = await here.execute()
        assert (run.status, run.last_error_code) == (RunStatus.FAILED, "INSUFFICIENT_FUNDS")
        assert (await here.entry()).status is EntryStatus.FAILED
        assert here.tolls.order == ["transfer"]
        await transfer(here.books, "clearing:elsewhere", f"clearing:{SOURCE}", 100)
        assert (await here.execute()).status is RunStatus.APPLIED


async def test_a_hanging_ledger_holds_up_no_run_for_longer_than_its_bounds(
    database_url: str,
) -> None:
    async with site(database_url) as here:
        await paid(here.books, *((f"k{n}", f"acct_{n}", 10) for n in range(16)))
        here.tolls.befall(repeat(faults.hang), repeat(faults.hang))
        with trio.fail_after(10):
            run = await here.execute()
        assert (run.status, run.failed_count) == (RunStatus.FAILED, 16)
        assert {entry.status for entry in await here.entries()} == {EntryStatus.UNKNOWN}
        here.tolls.befall()
        await age_doubts(here.books.database)
        assert (await here.execute()).status is RunStatus.APPLIED
        assert await cleared(here.books) == (0, 160)


async def test_what_was_not_answered_is_not_sent_again_while_it_may_be_under_way(
    database_url: str,
) -> None:
    """The ledger goes on with a request whose sender has hung up."""
    released, done = trio.Event(), trio.Event()

    async def dawdle(wire: Wire) -> None:
        await released.wait()
        await wire.deliver()
        done.set()

    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([dawdle])
        assert (await here.execute()).status is RunStatus.FAILED
        for _ in range(2):
            assert (await here.runner.resume(RUN_ID)).run.status is RunStatus.FAILED
            assert (await here.entry()).status is EntryStatus.UNKNOWN
        with pytest.raises(ConflictError):
            await here.runner.release(RUN_ID)
        assert set(here.tolls.asked.values()) == {1}
        released.set()
        await done.wait()
        assert (await here.execute()).status is RunStatus.APPLIED
        assert set(here.tolls.asked.values()) == {1}
        assert await cleared(here.books) == (0, 200)


async def test_another_transfer_under_its_key_is_never_taken_for_the_entrys_own(
    database_url: str,
) -> None:
    tolls = Tolls()
    async with (
        open_house(database_url, IDLE) as books,
        daemon(database_url, books, tolls) as here,
    ):
        await paid(here.books, ("a", "acct_A", 200))
        planned = (await here.runner.plan(request("key_1"))).entries[0]
        body = {
            "idempotency_key": f"netting:entry:{planned.entry_id}",
            "currency": "USD",
            "from": {"account": f"clearing:{SOURCE}", "bucket": "A"},
            "to": {"account": f"clearing:{TARGET}", "bucket": "A"},
            "amount_minor": "150",
        }
        assert (await here.books.ledger.post("/v1/transfers", json=body)).status_code == 200
        for _ in range(2):
            assert (await here.execute()).status is RunStatus.FAILED
            entry = await here.entry()
            assert entry.status is EntryStatus.UNKNOWN
            assert "holds another transfer" in (entry.last_error_message or "")
        with pytest.raises(ConflictError):
            await here.runner.release(RUN_ID)
        assert set(here.tolls.asked.values()) == {1}
        assert await cleared(here.books) == (50, 150)


async def die_after(here: Site, effect: str, life: trio.CancelScope) -> None:
    """Have the daemon die after an effect of its own."""

    async def visit(done: str) -> None:
        if effect in done:
            life.cancel()
            await trio.sleep_forever()

    watch(here.house.database, WRITES, visit)


@pytest.mark.parametrize("acts", [True, False])
async def test_who_takes_over_looks_and_holds_what_is_not_there(
    database_url: str, acts: bool
) -> None:
    tolls, reached, lost_count = Tolls(), trio.Event(), count(1)

    async def lose(wire: Wire) -> None:
        if acts:
            await wire.deliver()
        if next(lost_count) == 2:
            reached.set()
        await wire.until_hung_up()

    async with open_house(database_url, IDLE) as books:
        await paid(books, ("a", "acct_A", 200), ("b", "acct_B", 300))
        tolls.befall([lose, lose])
        with trio.CancelScope() as life:
            async with daemon(database_url, books, tolls) as here, trio.open_nursery() as nursery:
                nursery.start_soon(here.execute)
                await reached.wait()
                life.cancel()
        await end_netting_leases(books.database)
        tolls.befall()
        async with daemon(database_url, books, tolls) as here:
            await runs_at_rest(books.database)
            statuses = {entry.status for entry in await here.entries()}
            assert statuses == {EntryStatus.APPLIED if acts else EntryStatus.UNKNOWN}
            assert set(tolls.asked.values()) == {1}
            assert (await here.execute()).status is RunStatus.APPLIED
            assert set(tolls.asked.values()) == {1 if acts else 2}
        assert tolls.most <= 1
        assert await cleared(books) == (0, 500)
        assert await netting_faults(books.database) == []


async def test_a_daemon_that_died_between_its_claim_and_the_ledger_leaves_nothing_in_motion(
    database_url: str,
) -> None:
    tolls = Tolls()
    async with open_house(database_url, IDLE) as books:
        await paid(books, ("a", "acct_A", 200))
        with trio.CancelScope() as life:
            async with daemon(database_url, books, tolls) as here:
                await die_after(here, "store_entries", life)
                await here.execute()
        assert tolls.order == []
        await end_netting_leases(books.database)
        async with daemon(database_url, books, tolls) as here:
            await runs_at_rest(books.database)
            assert (await here.entry()).status is EntryStatus.UNKNOWN
            assert tolls.order == ["look"]
            assert (await here.execute()).status is RunStatus.APPLIED
        assert await cleared(books) == (0, 200)


async def test_while_one_daemon_asks_for_an_entry_no_other_does(database_url: str) -> None:
    reached, answered = trio.Event(), trio.Event()

    async def hold(wire: Wire) -> None:
        reached.set()
        await answered.wait()
        await pass_on(wire)

    async with site(database_url) as here:
        await paid(here.books, ("a", "acct_A", 200))
        here.tolls.befall([hold])
        async with (
            daemon(database_url, here.books, here.tolls) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(here.execute)
            await reached.wait()
            for someone in (here, other):
                for ask in (someone.execute, partial(someone.runner.release, RUN_ID)):
                    with pytest.raises(ConflictError) as refused:
                        await ask()
                    assert refused.value.code == "DUPLICATE_CONFLICT"
                    assert refused.value.details == {"run_id": RUN_ID}
            answered.set()
        assert here.tolls.order == ["transfer"]
        assert await cleared(here.books) == (0, 200)


_ANY: tuple[Fault, ...] = (
    *FAULTS,
    WRITE_FAILED,
    UNAUTHORIZED,
    faults.hang,
    faults.delay_answer,
    faults.reset,
    faults.answering(404, b'{"code":"NOT_FOUND"}'),
    faults.answering(429, b""),
    faults.answering(503, b"<html>down</html>"),
)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_a_bad_day_every_entry_has_moved_once(database_url: str, seed: int) -> None:
    drawn = Random(seed)

    def bad_day() -> Iterator[Fault]:
        while True:
            yield drawn.choice(_ANY) if drawn.random() < 2 / 3 else pass_on

    async with site(database_url) as here:
        await paid(here.books, *((f"k{n}", f"acct_{n % 24}", 10) for n in range(48)))
        here.tolls.befall(bad_day(), bad_day())
        for _ in range(4):
            await here.execute()
            await age_doubts(here.books.database)
            assert await netting_faults(here.books.database, at_rest=False) == []
        here.tolls.befall()
        assert (await here.execute()).status is RunStatus.APPLIED
        assert await cleared(here.books) == (0, 480)
