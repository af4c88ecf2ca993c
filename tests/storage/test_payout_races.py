"""Several daemons at once on the rows of payouts: nobody is refused, and nobody waits for ever."""

from collections.abc import Sequence

import trio

from clawsettle.domain.payouts import Payout
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.payout_rows import payout_row
from clawsettle.storage.queries import load_queries
from tests.conftest import Postgres
from tests.domain.payout_cases import payout
from tests.payouts import Payee, onboard
from tests.storage.deliveries import held, wait_for_locks

SQL = load_queries("payouts")
ROUNDS = 150
PAYEE = Payee("acc_32ca986a", "did:key:alice")


async def insert(database: Database, *payouts: Payout) -> set[str]:
    rows = await database.fetch(SQL["insert"], [payout_row(one) for one in payouts])
    return {row["payout_id"] for row in rows}


async def test_of_many_at_once_under_one_key_one_is_kept_and_none_is_refused(
    database_url: str,
) -> None:
    async with open_database(database_url) as one, open_database(database_url) as other:
        await onboard(one, PAYEE)
        for number in range(ROUNDS):
            kept: list[str] = []

            async def keep(
                database: Database, number: int = number, kept: list[str] = kept
            ) -> None:
                kept += await insert(database, payout(number))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(keep, one)
                    nursery.start_soon(keep, other)
            assert kept == [payout(number).payout_id]


async def test_batches_in_another_order_do_not_deadlock(
    postgres: Postgres, database_url: str, database_name: str
) -> None:
    batches: Sequence[Sequence[Payout]] = [
        [payout(1), payout(2), payout(3)],
        [payout(3), payout(2), payout(1)],
    ]
    kept: set[str] = set()

    async def keep(database: Database, batch: Sequence[Payout]) -> None:
        kept.update(await insert(database, *batch))

    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        await onboard(database, PAYEE)
        async with held(database_url, SQL["insert"], [payout_row(payout(2))]):
            for batch in batches:
                nursery.start_soon(keep, database, batch)
            await wait_for_locks(database, len(batches))
    assert kept == {payout(1).payout_id, payout(3).payout_id}
    log = postgres.server.log_path.read_text()
    assert f"{database_name} ERROR:  deadlock detected" not in log
