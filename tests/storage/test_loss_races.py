"""Loss events when something happens at the worst instant, on a database."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from clawsettle.domain.errors import ConflictError, IllegalTransition
from clawsettle.domain.loss_events import Delivery, DeliveryState, LossStatus, Operation, Target
from clawsettle.domain.loss_requests import RequeueRequest
from clawsettle.domain.loss_transitions import AttemptResult
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.embedded import SOCKET_NAME
from clawsettle.storage.loss_deliveries import LeasedDelivery, LeaseLost, LossDeliveries
from clawsettle.storage.loss_events import LossEvents, Recorded, Resolved
from clawsettle.storage.operator_actions import Operator
from tests.conftest import Postgres
from tests.losses import deliveries, event_of, loss, resolve
from tests.storage.deliveries import held, wait_for_locks
from tests.torture.commit_cutter import CommitCutter

LEASE_S = 30.0
EVERYONE = frozenset(Target)
ROOM = dict.fromkeys(Target, 9)
NO_ROOM = dict.fromkeys(Target, 0)
OPERATOR = Operator("key:test", "for the test")
DONE = AttemptResult(DeliveryState.FORWARDED, in_doubt=False, http_status=200)
NOTHING_TO_DO = AttemptResult(DeliveryState.NOT_APPLICABLE, in_doubt=False, http_status=404)
REFUSED = AttemptResult(
    DeliveryState.DEAD, in_doubt=False, http_status=400, error_code="NO", error_message="no"
)


async def recorded(database: Database, key: str = "k1", **body: Any) -> Recorded:
    """Record an event, leased to us."""
    (one,) = await LossEvents(database, LEASE_S).record(
        [loss(key, **body)], configured=EVERYONE, seats=ROOM
    )
    assert isinstance(one, Recorded)
    return one


async def resolved(database: Database, one: Recorded, key: str = "rk1", **more: Any) -> Resolved:
    """Resolve an event, leased to us."""
    options = {"configured": EVERYONE, "seats": ROOM, **more}
    return await LossEvents(database, LEASE_S).resolve(resolve(one.event, key), **options)


async def finished(
    database: Database, leased: Sequence[LeasedDelivery], result: AttemptResult = DONE
) -> None:
    """Record the same of all these attempts."""
    await LossDeliveries(database, LEASE_S).finish([(one, result) for one in leased])


@asynccontextmanager
async def cut_database(
    postgres: Postgres, database_name: str
) -> AsyncIterator[tuple[Database, CommitCutter]]:
    """A database by way of a proxy that can lose the answer to a commit."""
    with tempfile.TemporaryDirectory(prefix="cutter-") as folder:
        async with trio.open_nursery() as nursery:
            cutter = CommitCutter(Path(folder), postgres.server.socket_dir / SOCKET_NAME)
            await nursery.start(cutter.run)
            async with open_database(cutter.dsn_of(database_name)) as database:
                yield database, cutter
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def commit_lost(cutter: CommitCutter) -> AsyncIterator[None]:
    """Have the next commit be made, and its answer be lost."""
    async with trio.open_nursery() as cutting:
        cutting.start_soon(lambda: cutter.cut_next_commit(passes_on=True))
        await trio.testing.wait_all_tasks_blocked()
        yield


async def test_an_event_is_not_resolved_while_somebody_takes_up_what_waited(
    database_url: str,
) -> None:
    async with open_database(database_url) as database:
        (one,) = await LossEvents(database, LEASE_S).record(
            [loss(targets=["ledger", "clawincome"])], configured={Target.LEDGER}, seats=ROOM
        )
        assert isinstance(one, Recorded)
        await finished(database, one.leased)
        refused: list[ConflictError] = []

        async def resolve_it() -> None:
            with pytest.raises(ConflictError) as error:
                await resolved(database, one)
            refused.append(error.value)

        lease = (
            "UPDATE loss_delivery SET lease_token = 7, due_at = now() + interval '30 s'"
            " WHERE state = 'waiting'"
        )
        async with trio.open_nursery() as nursery, held(database_url, lease):
            nursery.start_soon(resolve_it)
            await wait_for_locks(database, 1)
        assert refused[0].code == "LOSS_EVENT_NOT_READY"


async def test_recording_whose_answer_was_lost_is_answered_as_new(
    postgres: Postgres, database_name: str
) -> None:
    async with cut_database(postgres, database_name) as (database, cutter):
        async with commit_lost(cutter):
            (one,) = await LossEvents(database, LEASE_S).record(
                [loss()], configured=EVERYONE, seats=ROOM
            )
        assert isinstance(one, Recorded)
        assert not one.deduped
        assert len(one.leased) == 3
        async with commit_lost(cutter):
            (other,) = await LossEvents(database, LEASE_S).record(
                [loss("k2")], configured=EVERYONE, seats=NO_ROOM
            )
        assert isinstance(other, Recorded)
        assert not other.deduped


async def test_resolving_whose_answer_was_lost_is_answered_as_new(
    postgres: Postgres, database_name: str
) -> None:
    async with cut_database(postgres, database_name) as (database, cutter):
        for place, (seats, result) in enumerate([(ROOM, DONE), (NO_ROOM, DONE), (ROOM, REFUSED)]):
            one = await recorded(database, f"k{place}")
            await finished(database, one.leased, result)
            async with commit_lost(cutter):
                release = await resolved(database, one, f"rk{place}", seats=seats)
            assert not release.deduped
            assert len(release.leased) == (2 if place == 0 else 0)
            assert (await resolved(database, one, f"rk{place}")).deduped


async def test_requeueing_whose_answer_was_lost_is_done_once_and_told(
    postgres: Postgres, database_name: str
) -> None:
    async with cut_database(postgres, database_name) as (database, cutter):
        one = await recorded(database, targets=["ledger"])
        await finished(database, one.leased, REFUSED)
        request = RequeueRequest(None, None, None, one.deliveries[0].delivery_id, 10)
        async with commit_lost(cutter):
            requeued = await LossDeliveries(database, LEASE_S).requeue(request, OPERATOR)
        assert [one.state for one in requeued] == [DeliveryState.PENDING]
        rows = await database.fetch("SELECT count(*) AS count FROM operator_action")
        assert rows[0]["count"] == 1


async def test_an_attempt_that_was_stored_without_an_answer_is_stored_once(
    postgres: Postgres, database_name: str
) -> None:
    async with cut_database(postgres, database_name) as (database, cutter):
        one = await recorded(database, targets=["ledger"])
        async with commit_lost(cutter):
            await finished(database, one.leased)
        (found,) = (await deliveries(database, one.event)).values()
        assert (found.state, found.attempts) == (DeliveryState.FORWARDED, 1)
        event = await event_of(database, one.event)
        assert (event.status, event.forwarded_count) == (LossStatus.FORWARDED, 1)
        assert event.last_forwarded_at is not None


async def test_what_was_decided_of_an_escrow_without_an_answer_is_not_decided_again(
    postgres: Postgres, database_name: str
) -> None:
    """Not even when the other event has let go meanwhile: it has the hold to release, not we."""
    async with cut_database(postgres, database_name) as (database, cutter):
        one = await recorded(database, targets=["escrow"], metadata={"escrow_id": "esc_1"})
        await finished(database, one.leased)
        (release,) = (await resolved(database, one)).leased
        asked: list[Sequence[Delivery]] = []

        def decide(others: Sequence[Delivery]) -> AttemptResult | None:
            asked.append(others)
            return DONE if len(asked) == 1 else None

        async with commit_lost(cutter):
            with pytest.raises(LeaseLost):
                await LossDeliveries(database, LEASE_S).under_escrow(release, decide)
        (found,) = (await deliveries(database, one.event, Operation.RESOLVE)).values()
        assert found.state is DeliveryState.FORWARDED


async def test_waiting_for_a_target_to_be_configured_takes_no_time_from_its_attempts(
    database_url: str,
) -> None:
    async with open_database(database_url) as database:
        await LossEvents(database, LEASE_S).record(
            [loss(targets=["ledger"])], configured=[], seats=ROOM
        )
        await database.fetch("UPDATE loss_delivery SET opened_at = now() - interval '30 days'")
        (leased,) = await LossDeliveries(database, LEASE_S).claim_due(Target.LEDGER, 1)
        assert leased.age_s < 60


async def test_what_another_one_has_held_may_have_been_sent(database_url: str) -> None:
    async with open_database(database_url) as database:
        outbox = LossDeliveries(database, LEASE_S)
        await LossEvents(database, LEASE_S).record(
            [loss(targets=["ledger"])], configured=EVERYONE, seats=NO_ROOM
        )
        (first,) = await outbox.claim_due(Target.LEDGER, 1)
        assert not first.delivery.in_doubt
        await database.fetch("UPDATE loss_delivery SET due_at = now()")
        (second,) = await outbox.claim_due(Target.LEDGER, 1)
        assert second.delivery.in_doubt


@pytest.mark.parametrize("ended", [REFUSED, NOTHING_TO_DO])
async def test_nobody_is_told_of_an_event_that_is_resolved(
    database_url: str, ended: AttemptResult
) -> None:
    async with open_database(database_url) as database:
        one = await recorded(database, targets=["ledger"])
        await finished(database, one.leased, ended)
        request = RequeueRequest(None, None, None, one.deliveries[0].delivery_id, 10)
        await resolved(database, one)
        with pytest.raises(IllegalTransition):
            await LossDeliveries(database, LEASE_S).requeue(request, OPERATOR)
        (apply,) = (await deliveries(database, one.event)).values()
        assert apply.state.is_terminal


async def test_taking_up_what_is_due_waits_for_nobody(database_url: str) -> None:
    async with open_database(database_url) as database:
        await LossEvents(database, LEASE_S).record(
            [loss(key, targets=["ledger"]) for key in ("k1", "k2")],
            configured=EVERYONE,
            seats=NO_ROOM,
        )
        lock_one = """
            UPDATE loss_delivery SET attempts = 7
            WHERE delivery_id = (SELECT min(delivery_id) FROM loss_delivery)
        """
        with trio.fail_after(5):
            async with held(database_url, lock_one):
                taken = await LossDeliveries(database, LEASE_S).claim_due(Target.LEDGER, 2)
        assert len(taken) == 1


async def test_what_somebody_else_is_about_to_send_is_not_taken_by_force(database_url: str) -> None:
    async with open_database(database_url) as database:
        (one,) = await LossEvents(database, LEASE_S).record(
            [loss(targets=["ledger", "clawincome"])],
            configured=EVERYONE,
            seats={**NO_ROOM, Target.LEDGER: 1},
        )
        assert isinstance(one, Recorded)
        assert len(one.leased) == 1
        outbox = LossDeliveries(database, LEASE_S)
        for expected in ([Target.CLAWINCOME], []):
            taken = await outbox.claim_open(
                one.event.loss_event_id, Operation.APPLY, EVERYONE, 1, force=True
            )
            assert [each.delivery.target for each in taken] == expected
