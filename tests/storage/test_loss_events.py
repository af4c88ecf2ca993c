"""Recording loss events: a batch may hold orders that contradict each other."""

from clawsettle.domain.errors import ConflictError
from clawsettle.domain.loss_events import Target
from clawsettle.storage.bridge import open_database
from clawsettle.storage.loss_events import LossEvents, Recorded
from tests.losses import deliveries, loss


async def test_of_contradicting_orders_in_one_batch_the_first_says_who_is_told(
    database_url: str,
) -> None:
    async with open_database(database_url) as database:
        first, second = [loss(targets=[target]) for target in ("ledger", "clawincome")]
        recorded, refused = await LossEvents(database, 30.0).record(
            [first, second], configured=(), seats={}
        )
        assert isinstance(recorded, Recorded)
        assert isinstance(refused, ConflictError)
        assert refused.code == "IDEMPOTENCY_CONFLICT"
        found = await deliveries(database, recorded.event)
        assert list(found) == [one.target for one in recorded.deliveries] == [Target.LEDGER]
