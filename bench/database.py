"""What the measurements put into a database, and what they ask it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clawsettle.config import LossEventSettings
from clawsettle.domain.loss_requests import LossRequest
from clawsettle.sandbox.simulated_provider import connect_account_id
from clawsettle.storage.bridge import Database
from clawsettle.storage.loss_events import LossEvents
from clawsettle.storage.queries import parse_queries

_SQL = parse_queries((Path(__file__).parent / "database.sql").read_text())
_STEP = 50_000
_LOSSES_STEP = 250
_SCRIPT_S = 600.0


async def fill_history(
    database: Database, count: int, account_ids: Sequence[str], say: Callable[[str], None]
) -> None:
    """Put ``count`` processed events into a database whose ledger is empty but for accounts."""
    await database.fetch(_SQL["contra_account"], 2500 * count)
    for first in range(1, count + 1, _STEP):
        last = min(first + _STEP - 1, count)
        await database.fetch(_SQL["history"], first, last, account_ids)
        if last % (4 * _STEP) == 0:
            say(f"  {last:,} of {count:,} processed events are in the database")
    await database.fetch("ANALYZE")


async def fill_backlog(database: Database, count: int, account_ids: Sequence[str]) -> None:
    """Put ``count`` due settlements into a database."""
    for first in range(1, count + 1, _STEP):
        await database.fetch(_SQL["backlog"], first, min(first + _STEP - 1, count), account_ids)
    await database.fetch("ANALYZE")


async def onboard(database: Database, dids: Mapping[str, str]) -> None:
    """Let accounts be paid out to; their DIDs by their ids."""
    await database.fetch(
        _SQL["onboard"], list(dids), list(dids.values()), [connect_account_id(id_) for id_ in dids]
    )


async def pay(database: Database, first: int, count: int, account_ids: Sequence[str]) -> None:
    """Put payouts that have been paid into a database, to onboarded accounts by turns.

    ``first`` is the number of the first one, which no other has.
    """
    for start in range(first, first + count, _STEP):
        last = min(start + _STEP, first + count) - 1
        await database.fetch(_SQL["paid_payouts"], start, last, account_ids)


async def forget_netting(database: Database) -> None:
    """Undo the migration that brought netting."""
    await _script(database, "before_netting")


async def stop_queueing(database: Database) -> None:
    """Have payouts be paid as they were before there was netting."""
    await _script(database, "no_queue")


async def net_all(database: Database) -> None:
    """Have runs of long ago have netted all that waits."""
    await _script(database, "net_all")


async def settle(database: Database) -> None:
    """Leave nothing for later that filling a database has made: vacuum, statistics, a checkpoint.

    What is measured next then starts alike in a full database and in an empty one.
    """
    await database.fetch("VACUUM ANALYZE")
    await database.fetch("CHECKPOINT")


async def transaction_count(database: Database) -> int:
    """Return how many transactions a database has seen, as far as it has counted them."""
    count: int = (await database.fetch(_SQL["transactions"]))[0]["count"]
    return count


async def open_count(database: Database) -> int:
    """Return how many settlements are still on their way."""
    count: int = (await database.fetch(_SQL["open_count"]))[0]["count"]
    return count


async def queue_losses(database: Database, requests: Sequence[LossRequest]) -> None:
    """Record loss events whose targets nobody has configured yet."""
    events = LossEvents(database, LossEventSettings().lease_s)
    for start in range(0, len(requests), _LOSSES_STEP):
        some = requests[start : start + _LOSSES_STEP]
        await events.record(some, configured=(), seats={})
    await settle(database)


async def open_delivery_count(database: Database) -> int:
    """Return how many deliveries of loss events are still on their way."""
    count: int = (await database.fetch(_SQL["open_delivery_count"]))[0]["count"]
    return count


async def delivery_states(database: Database) -> set[str]:
    """Return the states that deliveries of loss events are in."""
    return {row["state"] for row in await database.fetch(_SQL["delivery_states"])}


async def _script(database: Database, name: str) -> None:
    await database.transaction(
        lambda transaction: transaction.script(_SQL[name], timeout_s=_SCRIPT_S)
    )
