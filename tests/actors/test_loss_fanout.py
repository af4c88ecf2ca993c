"""Loss events on their way: every target is told once, and nobody waits for another."""

from typing import Any

import pytest
import trio

from clawsettle.actors.supervisor import Intensity
from clawsettle.domain.errors import ConflictError, NotFoundError
from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    LossStatus,
    Operation,
    Target,
)
from clawsettle.domain.loss_requests import RequeueRequest, RetryRequest
from clawsettle.sandbox.http1 import serving
from clawsettle.storage.loss_events import LossEvents, Recorded
from clawsettle.storage.operator_actions import Operator
from tests.house import open_house
from tests.losses import (
    CUT,
    HANG,
    Script,
    Targets,
    answer,
    balances,
    deliveries,
    event_of,
    fund,
    loss,
    loss_settings,
    open_fanout,
    resolve,
    settled,
    until,
    until_all_ended,
    until_status,
)

NAMED = {"escrow_id": "esc_1", "bounty_id": "bty_1"}
OPERATOR = Operator("key:test", "for the test")
ABSENT = answer(404, {"error": "NOT_FOUND", "message": "no such thing"})
UNINSURED = answer(404, {"error": "NOT_FOUND", "message": "no policy"})


async def test_every_target_is_told_at_once(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house, 1000)
        recorded = await fanout.record(loss(metadata=NAMED))
        assert not recorded.deduped
        assert recorded.event.status is LossStatus.RECORDED
        assert {one.target for one in recorded.deliveries} == set(Target)
        assert recorded.event.target_count == 5
        found = await settled(house.database, recorded.event)
        assert {one.state for one in found.values()} == {DeliveryState.FORWARDED}, found
        event = await event_of(house.database, recorded.event)
        assert (event.status, event.forwarded_count) == (LossStatus.FORWARDED, 5)
        assert await balances(house) == (750, 250)
        for target in list(Target)[1:]:
            assert targets.keys(target) == [f"loss-event:{event.loss_event_id}:{target}"]


async def test_a_replay_tells_nobody_again(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        first = await fanout.record(loss())
        await settled(house.database, first.event)
        again = await fanout.record(loss())
        assert again.deduped
        assert again.event.loss_event_id == first.event.loss_event_id
        assert len(targets.asked) == 2
        with pytest.raises(ConflictError) as conflict:
            await fanout.record(loss(amount_minor="251"))
        assert conflict.value.code == "IDEMPOTENCY_CONFLICT"
        other = loss("k2", source_event_id="evt_k1")
        with pytest.raises(ConflictError) as known:
            await fanout.record(other)
        assert known.value.details["existing_loss_event_id"] == first.event.loss_event_id


async def test_many_at_once_under_one_key_are_one_event(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        recorded: list[Any] = []

        async def record() -> None:
            recorded.append(await fanout.record(loss()))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(record)
        assert sorted(one.deduped for one in recorded) == [False] + [True] * 9
        await settled(house.database, recorded[0].event)
        assert len(targets.asked) == 2


async def test_resolving_takes_back_what_was_done(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house, 1000)
        targets.script[Target.CLAWINSURE] = UNINSURED
        recorded = await fanout.record(loss(metadata=NAMED))
        found = await settled(house.database, recorded.event)
        assert found[Target.CLAWINSURE].state is DeliveryState.NOT_APPLICABLE
        assert (await event_of(house.database, recorded.event)).status is LossStatus.FORWARDED
        resolved = await fanout.resolve(resolve(recorded.event))
        assert not resolved.deduped
        found = await settled(house.database, recorded.event, Operation.RESOLVE)
        assert {str(target) for target in found} == {
            "ledger",
            "escrow",
            "clawincome",
            "clawbounties",
        }
        assert {one.state for one in found.values()} == {DeliveryState.FORWARDED}
        assert await balances(house) == (1000, 0)
        assert targets.bodies(Target.CLAWINCOME)[1]["direction"] == "credit"
        assert (await fanout.resolve(resolve(recorded.event))).deduped
        with pytest.raises(ConflictError):
            await fanout.resolve(resolve(recorded.event, "another"))
        with pytest.raises(ConflictError):
            await fanout.resolve(resolve(recorded.event, reason="another"))


async def test_an_event_nobody_knows_cannot_be_resolved(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, _):
        await fund(house)
        recorded = await fanout.record(loss())
        unknown = resolve(recorded.event)
        with pytest.raises(NotFoundError):
            await fanout.resolve(type(unknown)("lse_unknown", "rk", None))
        await settled(house.database, recorded.event)


async def test_who_can_still_be_told_keeps_an_event_from_being_resolved(database_url: str) -> None:
    async with open_fanout(database_url, retry_base_s=3600, retry_max_s=3600) as (
        house,
        fanout,
        targets,
    ):
        await fund(house)
        targets.script[Target.CLAWINCOME] = [answer(500, {})]
        recorded = await fanout.record(loss())
        found = await settled(house.database, recorded.event)
        assert found[Target.CLAWINCOME].state is DeliveryState.FAILED
        with pytest.raises(ConflictError) as error:
            await fanout.resolve(resolve(recorded.event))
        assert error.value.code == "LOSS_EVENT_NOT_READY"
        request = RetryRequest(Operation.APPLY, 25, recorded.event.loss_event_id, force=True)
        summary = await fanout.retry(request, budget=trio.fail_after(5))
        assert (summary.attempted, summary.forwarded, summary.failed) == (1, 1, 0)
        keys = targets.keys(Target.CLAWINCOME)
        assert len(keys) == 2
        assert len(set(keys)) == 1
        await fanout.resolve(resolve(recorded.event))
        await settled(house.database, recorded.event, Operation.RESOLVE)


async def test_who_refuses_for_good_keeps_nobody(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house, 1000)
        targets.script[Target.CLAWINSURE] = answer(409, {"error": "POLICY_NOT_CLAIMABLE"})
        recorded = await fanout.record(loss())
        found = await settled(house.database, recorded.event)
        assert found[Target.CLAWINSURE].state is DeliveryState.DEAD
        event = await event_of(house.database, recorded.event)
        assert (event.status, event.failed_count) == (LossStatus.PARTIALLY_FORWARDED, 1)
        await fanout.resolve(resolve(recorded.event))
        await settled(house.database, recorded.event, Operation.RESOLVE)
        found = await deliveries(house.database, recorded.event)
        assert found[Target.CLAWINSURE].state is DeliveryState.CANCELED
        assert await balances(house) == (1000, 0)
        with pytest.raises(ConflictError):
            await fanout.requeue(
                RequeueRequest(None, None, None, found[Target.CLAWINSURE].delivery_id, 10),
                OPERATOR,
            )


async def test_what_may_never_have_been_applied_need_not_be_there(database_url: str) -> None:
    """Neither by who has resolved the event, nor by who takes its release up later."""
    async with open_fanout(database_url, attempts_max=2) as (house, fanout, targets):
        await fund(house)
        for number, answers in enumerate(([ABSENT], [answer(503, {}), ABSENT])):
            targets.script[Target.CLAWBOUNTIES] = [answer(503, {}), answer(503, {}), *answers]
            recorded = await fanout.record(loss(f"k{number}", metadata={"bounty_id": "bty_1"}))
            await settled(house.database, recorded.event)
            event_id = recorded.event.loss_event_id
            apply = RetryRequest(Operation.APPLY, 25, event_id, force=True)
            await fanout.retry(apply, budget=trio.fail_after(5))
            bounty = (await settled(house.database, recorded.event))[Target.CLAWBOUNTIES]
            assert (bounty.state, bounty.in_doubt) == (DeliveryState.DEAD, True)
            await fanout.resolve(resolve(recorded.event, f"rk{number}"))
            await settled(house.database, recorded.event, Operation.RESOLVE)
            again = RetryRequest(Operation.RESOLVE, 25, event_id, force=True)
            await fanout.retry(again, budget=trio.fail_after(5))
            found = await settled(house.database, recorded.event, Operation.RESOLVE)
            assert found[Target.CLAWBOUNTIES].state is DeliveryState.NOT_APPLICABLE


async def test_what_was_applied_and_is_not_there_is_not_taken_for_released(
    database_url: str,
) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        targets.script[Target.CLAWBOUNTIES] = [answer(201, {}), answer(503, {}), ABSENT]
        recorded = await fanout.record(loss(metadata={"bounty_id": "bty_1"}))
        await settled(house.database, recorded.event)
        await fanout.resolve(resolve(recorded.event))
        await settled(house.database, recorded.event, Operation.RESOLVE)
        again = RetryRequest(Operation.RESOLVE, 25, recorded.event.loss_event_id, force=True)
        await fanout.retry(again, budget=trio.fail_after(5))
        found = await deliveries(house.database, recorded.event, Operation.RESOLVE)
        assert found[Target.CLAWBOUNTIES].state is DeliveryState.DEAD


async def test_what_was_refused_is_brought_back_by_an_operator(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        targets.script[Target.CLAWINSURE] = [answer(409, {"error": "POLICY_NOT_CLAIMABLE"})]
        recorded = await fanout.record(loss())
        await settled(house.database, recorded.event)
        request = RequeueRequest(None, Target.CLAWINSURE, None, None, 10)
        (requeued,) = await fanout.requeue(request, OPERATOR)
        assert requeued.state is DeliveryState.PENDING
        await until_status(house.database, recorded.event, "forwarded")


async def test_a_target_that_is_not_configured_is_waited_for(database_url: str) -> None:
    async with serving(Targets) as targets:
        without = loss_settings(targets, without=[Target.CLAWINCOME])
        async with open_house(database_url, without) as house:
            await fund(house)
            recorded = await house.parts.losses.fanout.record(loss())
            await until(lambda: len(targets.asked) >= 1)
            found = await deliveries(house.database, recorded.event)
            assert found[Target.CLAWINCOME].state is DeliveryState.WAITING
            assert found[Target.CLAWINCOME].last_error_code == "DEPENDENCY_NOT_CONFIGURED"
        async with open_house(database_url, loss_settings(targets, poll_s=0.05)) as house:
            found = await settled(house.database, recorded.event)
            await until_status(house.database, recorded.event, "forwarded")


async def test_a_target_that_hangs_delays_no_other(database_url: str) -> None:
    async with open_fanout(database_url, attempt_timeout_s=0.5) as (house, fanout, targets):
        await fund(house)
        targets.script[Target.CLAWINSURE] = HANG
        events = [(await fanout.record(loss(f"k{place}"))).event for place in range(20)]
        await until(lambda: len(targets.keys(Target.CLAWINCOME)) >= 20)
        for event in events:
            found = await settled(house.database, event)
            assert found[Target.LEDGER].state is DeliveryState.FORWARDED
            assert found[Target.CLAWINCOME].state is DeliveryState.FORWARDED
            assert not found[Target.CLAWINSURE].state.is_terminal


async def test_events_for_which_there_is_no_room_are_sent_when_there_is(database_url: str) -> None:
    async with open_fanout(database_url, in_flight_max=4) as (house, fanout, _):
        await fund(house)
        async with trio.open_nursery() as nursery:
            for place in range(40):
                nursery.start_soon(fanout.record, loss(f"k{place}"))
        await until_all_ended(house.database)


async def test_two_events_on_one_escrow_share_its_hold(database_url: str) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        first = await fanout.record(loss("k1", metadata={"escrow_id": "esc_1"}))
        await settled(house.database, first.event)
        targets.script[Target.ESCROW] = [
            answer(409, {"error": "IDEMPOTENCY_CONFLICT", "message": "held for another event"})
        ]
        second = await fanout.record(loss("k2", metadata={"escrow_id": "esc_1"}))
        found = await settled(house.database, second.event)
        assert found[Target.ESCROW].state is DeliveryState.FORWARDED
        assert found[Target.ESCROW].is_shared
        await fanout.resolve(resolve(first.event, "rk1"))
        found = await settled(house.database, first.event, Operation.RESOLVE)
        assert found[Target.ESCROW].is_shared
        assert len(targets.bodies(Target.ESCROW)) == 2  # the hold stays for the second event
        await fanout.resolve(resolve(second.event, "rk2"))
        found = await settled(house.database, second.event, Operation.RESOLVE)
        assert not found[Target.ESCROW].is_shared
        assert targets.bodies(Target.ESCROW)[2]["action"] == "release"


async def test_a_release_and_an_apply_in_doubt_do_not_wait_for_each_other(
    database_url: str,
) -> None:
    escrow = {"metadata": {"escrow_id": "esc_1"}, "targets": ["escrow"]}
    held = answer(409, {"error": "IDEMPOTENCY_CONFLICT", "message": "held for another event"})
    async with open_fanout(database_url, retry_base_s=3600, retry_max_s=3600) as (
        house,
        fanout,
        targets,
    ):

        async def hurry(event: LossEvent, operation: Operation, said: Script) -> Delivery:
            targets.script[Target.ESCROW] = [said]
            request = RetryRequest(operation, 1, event.loss_event_id, force=True)
            await fanout.retry(request, budget=trio.fail_after(5))
            return (await settled(house.database, event, operation))[Target.ESCROW]

        first = (await fanout.record(loss("k1", **escrow))).event
        await settled(house.database, first)
        targets.script[Target.ESCROW] = [CUT]
        second = (await fanout.record(loss("k2", **escrow))).event
        assert (await settled(house.database, second))[Target.ESCROW].in_doubt
        targets.script[Target.ESCROW] = [answer(500, {})]
        await fanout.resolve(resolve(first))
        released = await settled(house.database, first, Operation.RESOLVE)
        assert released[Target.ESCROW].in_doubt
        waiting = await hurry(second, Operation.APPLY, held)
        assert (waiting.state, waiting.in_doubt) == (DeliveryState.FAILED, False)
        done = answer(200, {"escrow_id": "esc_1", "risk_hold": {"status": "any"}})
        release = await hurry(first, Operation.RESOLVE, done)
        assert release.state is DeliveryState.FORWARDED
        apply = await hurry(second, Operation.APPLY, done)
        assert (apply.state, apply.is_shared) == (DeliveryState.FORWARDED, False)


async def test_a_target_whose_address_is_taken_away_keeps_no_event(database_url: str) -> None:
    async with serving(Targets) as targets:
        targets.script[Target.CLAWINCOME] = answer(503, {})
        async with open_house(database_url, loss_settings(targets)) as house:
            await fund(house)
            recorded = await house.parts.losses.fanout.record(loss())
            await settled(house.database, recorded.event)
        without = loss_settings(targets, without=[Target.CLAWINCOME])
        async with open_house(database_url, without) as house:
            await house.parts.losses.fanout.resolve(resolve(recorded.event))
            await settled(house.database, recorded.event, Operation.RESOLVE)
            found = await deliveries(house.database, recorded.event)
            assert found[Target.CLAWINCOME].state is DeliveryState.CANCELED
            assert found[Target.CLAWINCOME].in_doubt


async def test_what_is_dead_for_one_operation_is_found_behind_that_of_the_other(
    database_url: str,
) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        refused = answer(409, {"error": "CONFLICT", "message": "no"})
        first = await fanout.record(loss("k1", targets=["clawbounties"], metadata=NAMED))
        await settled(house.database, first.event)
        targets.script[Target.CLAWBOUNTIES] = refused
        await fanout.resolve(resolve(first.event))
        await settled(house.database, first.event, Operation.RESOLVE)
        second = await fanout.record(loss("k2", targets=["clawbounties"], metadata=NAMED))
        await settled(house.database, second.event)
        request = RequeueRequest(Operation.APPLY, Target.CLAWBOUNTIES, None, None, 1)
        (back,) = await fanout.requeue(request, OPERATOR)
        assert back.loss_event_id == second.event.loss_event_id


async def test_an_escrow_that_is_being_released_is_not_held_for_another_event_meanwhile(
    database_url: str,
) -> None:
    async with open_fanout(database_url) as (house, fanout, targets):
        await fund(house)
        named = {"targets": ["escrow"], "metadata": {"escrow_id": "esc_1"}}
        slow = trio.Event()
        targets.script[Target.ESCROW] = [answer(200, {"risk_hold": {"id": "rh_1"}}), slow]
        first = await fanout.record(loss("k1", **named))
        await settled(house.database, first.event)
        await fanout.resolve(resolve(first.event))
        await until(lambda: len(targets.asked) == 2)
        second = await fanout.record(loss("k2", **named))
        found = await settled(house.database, second.event)
        assert found[Target.ESCROW].last_error_code == "ESCROW_BUSY"
        assert not found[Target.ESCROW].in_doubt
        assert len(targets.asked) == 2
        slow.set()
        await settled(house.database, first.event, Operation.RESOLVE)
        request = RetryRequest(Operation.APPLY, 25, second.event.loss_event_id, force=True)
        assert (await fanout.retry(request, budget=trio.fail_after(5))).forwarded == 1


async def test_after_a_crash_everything_goes_on_and_no_seat_is_lost(database_url: str) -> None:
    options = {"lease_s": 3.0, "attempt_timeout_s": 1.0, "poll_s": 0.1}
    async with open_fanout(database_url, **options) as (house, fanout, targets):
        await fund(house)
        for supervised in house.parts.actors:
            supervised.intensity = Intensity(restarts_max=1000)  # however slow this machine is
        lane = fanout.lanes[Target.CLAWINCOME]
        targets.script[Target.CLAWINCOME] = [trio.Event()]
        first = await fanout.record(loss("k1"))
        await until(lambda: len(targets.keys(Target.CLAWINCOME)) == 1)
        await house.database.fetch("ALTER TABLE loss_delivery RENAME TO hidden")
        await until(lambda: lane.statistics()["under_way"] == 0)
        await house.database.fetch("ALTER TABLE hidden RENAME TO loss_delivery")
        second = await fanout.record(loss("k2"))
        for event in (first.event, second.event):
            await until_status(house.database, event, "forwarded")
        assert len(set(targets.keys(Target.CLAWINCOME))) == 2

        def free_count() -> int:
            with lane.reserve(48) as seats:
                return seats.count

        await until(lambda: free_count() == 48)  # but while a claim has set some aside


async def test_no_more_deliveries_are_tried_again_than_were_asked_for(database_url: str) -> None:
    async with open_fanout(database_url, retry_base_s=3600, retry_max_s=3600) as (
        house,
        fanout,
        targets,
    ):
        await fund(house)
        for target in (Target.CLAWINCOME, Target.CLAWINSURE):
            targets.script[target] = [answer(500, {})]
        recorded = await fanout.record(loss())
        await settled(house.database, recorded.event)
        for force, attempted in ((False, 0), (True, 1), (True, 1), (True, 0)):
            request = RetryRequest(Operation.APPLY, 1, recorded.event.loss_event_id, force=force)
            summary = await fanout.retry(request, budget=trio.fail_after(5))
            assert summary.attempted == attempted


async def test_nobody_is_called_under_a_lease_that_ends_before_the_call_must(
    database_url: str,
) -> None:
    async with open_fanout(database_url, attempt_timeout_s=1.0) as (house, fanout, targets):
        lane = fanout.lanes[Target.CLAWINCOME]
        await until(lambda: lane.statistics()["under_way"] == 0)
        short, long = LossEvents(house.database, 0.9), LossEvents(house.database, 30.0)
        for events, key, asked_count in ((short, "k1", 0), (long, "k2", 1)):
            (one,) = await events.record(
                [loss(key, targets=["clawincome"])],
                configured=set(Target),
                seats={Target.CLAWINCOME: 1},
            )
            assert isinstance(one, Recorded)
            with lane.reserve(1) as seats:
                attempt = lane.start(one.leased[0], seats)
            assert (await attempt.wait() is None) is (asked_count == 0)
            assert len(targets.keys(Target.CLAWINCOME)) == asked_count
        assert lane.lease_lost_count == 1
