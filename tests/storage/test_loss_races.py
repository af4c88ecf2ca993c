"""Loss events when something happens at the worst instant, on a database."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from clawsettle.domain.errors import ConflictError
from clawsettle.domain.loss_events import DeliveryState, Target
from clawsettle.domain.loss_transitions import AttemptResult
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.loss_deliveries import LeasedDelivery, LossDeliveries
from clawsettle.storage.loss_events import LossEvents, Recorded, Resolved
from clawsettle.storage.operator_actions import Operator
from tests.losses import loss, resolve
from tests.storage.deliveries import held, wait_for_locks

LEASE_S = 30.0
EVERYONE = frozenset(Target)
ROOM = dict.fromkeys(Target, 9)
NO_ROOM = dict.fromkeys(Target, 0)
OPERATOR = Operator("key:test", "for the test")
DONE = AttemptResult(DeliveryState.FORWARDED, in_doubt=False, http_status=200)
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
