"""Netting runs on the embedded ledger: what moves, what comes back, and what is left alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import define, evolve, field

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.clients.ledger import Ledger
from clawsettle.domain.errors import ConflictError, IllegalTransition, Overloaded, StorageError
from clawsettle.domain.forwarding import Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder, TransferOutcome
from clawsettle.domain.netting import Entry, Run, RunStatus
from clawsettle.domain.netting_transitions import EntryEvent, Moved
from clawsettle.storage.netting import Ask, LeasedRun, LeaseLost
from clawsettle.storage.netting_rows import read_entry
from tests.house import House, open_house, settings
from tests.netting import SOURCE, cleared, fail_late, links, paid, request, transfer

ALONE = settings(netting={"poll_s": 3600})


@asynccontextmanager
async def house_of_netting(database_url: str) -> AsyncIterator[tuple[House, NettingRunner]]:
    async with open_house(database_url, ALONE) as house:
        yield house, house.parts.netting.runner


async def entries(house: House) -> dict[str, Entry]:
    """All entries there are, by their connected account and their payouts."""
    rows = await house.database.fetch("SELECT * FROM netting_entry")
    found = [read_entry(row) for row in rows]
    return {
        "|".join((one.connect_account_id, *one.payout_ids, *one.compensated_payout_ids)): one
        for one in found
    }


async def test_paid_payouts_move_in_one_entry_for_each_connected_account(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        one, two, three = await paid(
            house, ("a", "acct_A", 200), ("b", "acct_A", 300), ("c", "acct_B", 700)
        )
        done = await runner.execute(request("idem_netting_retry", limit=10))
        assert (done.deduped, done.run.status) == (False, RunStatus.APPLIED)
        assert (done.run.candidate_count, done.run.total_amount_minor) == (3, 1200)
        assert (done.run.applied_count, done.run.failed_count) == (2, 0)
        assert await cleared(house) == (0, 1200)
        moved = await entries(house)
        first = moved[f"acct_A|{one.payout_id}|{two.payout_id}"]
        second = moved[f"acct_B|{three.payout_id}"]
        assert (first.amount_minor, second.amount_minor) == (500, 700)
        assert await links(house.database) == {
            f"sweep:{one.payout_id}": first.entry_id,
            f"sweep:{two.payout_id}": first.entry_id,
            f"sweep:{three.payout_id}": second.entry_id,
        }
        again = await runner.execute(request("idem_netting_retry", limit=10))
        assert (again.deduped, again.run) == (True, done.run)
        next_run = await runner.execute(request("another"))
        assert (next_run.run.candidate_count, next_run.run.status) == (0, RunStatus.APPLIED)
        assert await cleared(house) == (0, 1200)


async def test_a_payout_that_fails_after_it_was_netted_comes_back_with_the_next_run(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        one, _ = await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await runner.execute(request("first"))
        assert await cleared(house) == (0, 500)
        await fail_late(house.database, one)
        (three,) = await paid(house, ("c", "acct_A", 50))
        done = await runner.execute(request("second"))
        assert (done.run.candidate_count, done.run.total_amount_minor) == (2, -150)
        assert await cleared(house) == (200, 350)
        back = (await entries(house))[f"acct_A|{three.payout_id}|{one.payout_id}"]
        assert (back.amount_minor, back.compensated_payout_ids) == (-150, (one.payout_id,))


async def test_what_cancels_out_is_applied_without_moving_anything(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        (one,) = await paid(house, ("a", "acct_A", 200))
        await runner.execute(request("first"))
        await fail_late(house.database, one)
        (two,) = await paid(house, ("b", "acct_A", 200))
        done = await runner.execute(request("second"))
        assert (done.run.status, done.run.total_amount_minor) == (RunStatus.APPLIED, 0)
        nothing = (await entries(house))[f"acct_A|{two.payout_id}|{one.payout_id}"]
        assert nothing.ledger_event_id is None
        assert await cleared(house) == (200, 200)


async def test_a_payout_that_fails_before_any_run_is_left_out(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        one, two = await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300))
        await fail_late(house.database, one)
        done = await runner.execute(request("first"))
        assert (done.run.candidate_count, done.run.total_amount_minor) == (1, 300)
        assert list(await links(house.database)) == [f"sweep:{two.payout_id}"]


async def test_an_entry_that_the_ledger_refuses_fails_and_is_tried_again_under_the_same_key(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 400)
        failed = await runner.execute(request("key"))
        assert failed.run.status is RunStatus.FAILED
        assert failed.run.failed_count >= 1
        assert failed.run.last_error_code == "INSUFFICIENT_FUNDS"
        assert failed.run.last_error_message == "the clearing account does not cover it"
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 400)
        done = await runner.execute(request("key"))
        assert (done.deduped, done.run.status) == (False, RunStatus.APPLIED)
        assert (done.run.last_error_code, done.run.failed_count) == (None, 0)
        assert await cleared(house) == (0, 500)


async def test_payouts_of_a_failed_run_are_released_for_another_one(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        one, two = await paid(house, ("a", "acct_A", 200), ("b", "acct_B", 300))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 500)
        failed = (await runner.execute(request("key"))).run
        released = await runner.release(failed.run_id)
        assert released.status is RunStatus.RELEASED
        assert set((await links(house.database)).values()) == {None}
        assert await runner.release(failed.run_id) == released
        with pytest.raises(IllegalTransition):
            await runner.execute(request("key"))
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 500)
        done = (await runner.execute(request("other"))).run
        assert (done.candidate_count, done.total_amount_minor) == (2, 500)
        assert await cleared(house) == (0, 500)
        with pytest.raises(IllegalTransition):
            await runner.release(done.run_id)
        assert {one.payout_id, two.payout_id} == {
            name.removeprefix("sweep:") for name in await links(house.database)
        }


async def test_an_entry_whose_payout_has_failed_meanwhile_is_given_back_unmoved(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        one, two = await paid(house, ("a", "acct_A", 200), ("b", "acct_A", 300))
        await transfer(house, f"clearing:{SOURCE}", "clearing:elsewhere", 500)
        await runner.execute(request("key"))
        await transfer(house, "clearing:elsewhere", f"clearing:{SOURCE}", 500)
        await fail_late(house.database, one)
        done = (await runner.execute(request("key"))).run
        assert (done.status, done.applied_count) == (RunStatus.APPLIED, 0)
        (given_back,) = (await entries(house)).values()
        assert given_back.last_error_code == "PAYOUT_STATE_CHANGED"
        assert await links(house.database) == {f"sweep:{two.payout_id}": None}
        await runner.execute(request("next"))
        assert await cleared(house) == (200, 300)


@define(eq=False)
class Deaf:
    """A ledger that does as it is asked, and whose answers to transfers are lost."""

    ledger: Ledger
    acts: bool = True
    tells: bool = False
    asked: list[str] = field(factory=list)
    repeats_safely: bool = False

    async def transfer(self, order: TransferOrder) -> TransferOutcome:
        self.asked.append(order.key)
        if self.acts:
            await self.ledger.transfer(order)
        return Unknown("no answer")

    async def transferred(self, order: TransferOrder) -> Applied | None:
        return await self.ledger.transferred(order) if self.tells else None


async def test_a_lost_answer_is_looked_up_and_never_asked_for_twice_unseen(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, ("a", "acct_A", 200))
        deaf = Deaf(runner.steps.ledger)
        runner.steps = type(runner.steps)(deaf, 5.0)  # type: ignore[arg-type]
        failed = (await runner.execute(request("key"))).run
        assert (failed.status, failed.last_error_code) == (RunStatus.FAILED, "LEDGER_INGEST_FAILED")
        (entry,) = (await entries(house)).values()
        assert (entry.status, entry.view()["status"]) == ("unknown", "failed")
        with pytest.raises(ConflictError) as refused:
            await runner.release(failed.run_id)
        assert refused.value.code == "CONFLICT"
        deaf.tells = True
        done = (await runner.execute(request("key"))).run
        assert done.status is RunStatus.APPLIED
        assert len(deaf.asked) == 1
        assert await cleared(house) == (0, 200)


async def test_a_ledger_that_does_not_repeat_safely_is_not_asked_while_it_may_still_be_working(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, ("a", "acct_A", 200))
        deaf = Deaf(runner.steps.ledger, acts=False, tells=True)
        runner.steps = evolve(runner.steps, ledger=deaf)  # type: ignore[arg-type]
        runner.runs = evolve(runner.runs, repeats_safely=False)
        for _ in range(3):
            assert (await runner.execute(request("key"))).run.status is RunStatus.FAILED
        assert len(deaf.asked) == 1
        await house.database.fetch(
            "UPDATE netting_entry SET unanswered_at = unanswered_at - interval '2 minutes'"
        )
        await runner.execute(request("key"))
        assert len(deaf.asked) == 2
        assert await cleared(house) == (200, 0)


async def test_fifty_requests_at_once_are_one_run(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, *((f"k{number}", f"acct_{number % 7}", 10) for number in range(60)))
        ended: list[RunStatus] = []
        codes: list[str] = []

        async def ask() -> None:
            try:
                ended.append((await runner.execute(request("key"))).run.status)
            except ConflictError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
        assert set(ended) == {RunStatus.APPLIED}
        assert set(codes) <= {"DUPLICATE_CONFLICT"}
        assert len(ended) + len(codes) == 50
        assert await cleared(house) == (0, 600)


async def test_runs_with_different_keys_at_once_share_the_payouts(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, *((f"k{number}", f"acct_{number % 7}", 10) for number in range(60)))

        async def ask(key: str) -> None:
            await runner.execute(request(key, limit=9))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, f"key_{number}")
        assert None not in (await links(house.database)).values()
        assert await cleared(house) == (0, 600)


async def test_what_had_moved_when_its_payout_failed_and_its_daemon_died_is_found_and_comes_back(
    database_url: str,
) -> None:
    async with house_of_netting(database_url) as (house, runner):
        (one,) = await paid(house, ("a", "acct_A", 200))
        prepared = await runner.runs.prepare(request("first"), runner.defaults)
        leased = await runner.runs.claim(prepared.run_id, Ask.RESUME)
        assert isinstance(leased, LeasedRun)
        (claimed,) = await runner.runs.next_entries(leased.run, (), back=False, after="", limit=1)
        assert isinstance(await runner.steps.move(leased.run, claimed), Moved)
        await fail_late(house.database, one)
        await runner.runs.let_go(leased.run)
        done = (await runner.execute(request("first"))).run
        assert (done.status, done.applied_count) == (RunStatus.APPLIED, 1)
        await runner.execute(request("second"))
        assert await cleared(house) == (200, 0)


async def test_a_daemon_that_stops_leaves_a_run_to_others_at_once(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, ("a", "acct_A", 200))
        async with open_house(database_url, ALONE) as other:
            runner.close()
            with pytest.raises(Overloaded):
                await runner.execute(request("key"))
            done = await other.parts.netting.runner.execute(request("key"))
            assert done.run.status is RunStatus.APPLIED
        assert await cleared(house) == (0, 200)


@define(eq=False)
class Silent:
    """A ledger that is asked and never answers."""

    asked: trio.Event = field(factory=trio.Event)
    repeats_safely: bool = True

    async def transfer(self, _order: TransferOrder) -> TransferOutcome:
        self.asked.set()
        await trio.sleep_forever()
        raise AssertionError


async def test_a_lease_that_cannot_be_renewed_ends_the_work_in_time(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner), trio.open_nursery() as nursery:
        await paid(house, ("a", "acct_A", 200))
        silent = Silent()
        runner.steps = evolve(runner.steps, ledger=silent)  # type: ignore[arg-type]
        runner.runs = evolve(runner.runs, lease_s=1.0)

        async def refuse_renewals() -> None:
            await silent.asked.wait()
            await house.database.fetch(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE 'no'; END $$"
            )
            await house.database.fetch(
                "CREATE TRIGGER refuse BEFORE UPDATE ON netting_run EXECUTE FUNCTION refuse()"
            )

        nursery.start_soon(refuse_renewals)
        with trio.fail_after(10), pytest.raises(LeaseLost):
            await runner.execute(request("key"))


class Broken(NettingSteps):
    """Steps with a fault of ours in them."""

    async def move(self, run: Run, entry: Entry) -> EntryEvent:
        raise ZeroDivisionError(run.run_id, entry.entry_id)


async def test_whoever_waits_for_a_run_is_told_when_the_runner_breaks(database_url: str) -> None:
    async with house_of_netting(database_url) as (house, runner):
        await paid(house, ("a", "acct_A", 200))
        runner.steps = Broken(runner.steps.ledger, 5.0)
        with trio.fail_after(10), pytest.raises(StorageError):
            await runner.execute(request("key"))
