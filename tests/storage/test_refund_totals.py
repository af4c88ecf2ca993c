"""Cumulative refunds: whatever order, batch or daemon they come by, their parts add up."""

import json
from collections.abc import Sequence

import trio

from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.settlement_outbox import Delivery, Recorded, SettlementOutbox
from tests.storage.deliveries import (
    delivery,
    held,
    open_outbox,
    payloads,
    refund,
    wait_for_locks,
)


async def parts(database: Database) -> dict[str, tuple[str, int]]:
    """Each recorded part of a refund: event id -> (external id, amount in minor units)."""
    texts = {event_id: json.loads(text) for event_id, text in (await payloads(database)).items()}
    return {
        event_id: (payload["external_payment_id"], int(payload["amount_minor"]))
        for event_id, payload in texts.items()
        if payload["direction"] == "refund"
    }


async def total_minor(database: Database, charge_id: str = "ch_1") -> int:
    rows = await database.fetch(
        "SELECT total_minor FROM charge_refund WHERE charge_id = $1", charge_id
    )
    total: int = rows[0]["total_minor"]
    return total


def dispositions(recorded: Sequence[Recorded]) -> dict[str, str]:
    return {new.event_id: new.disposition for new in recorded}


async def test_the_refunds_of_one_batch_build_on_each_other(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        batch = [refund("evt_2", 1000), refund("evt_1", 300)]
        recorded = await outbox.record(batch, leased_max=2)
        assert await parts(outbox.database) == {"evt_1": ("ch_1", 300), "evt_2": ("ch_1:1000", 700)}
        assert await total_minor(outbox.database) == 1000
        leased = {new.event_id: new.row.payload for new in recorded if new.row is not None}
        assert leased == await payloads(outbox.database)


async def test_an_older_total_is_recorded_as_superseded_and_not_forwarded(
    database_url: str,
) -> None:
    async with open_outbox(database_url) as outbox:
        batch = [refund("evt_1", 1000), refund("evt_2", 300), refund("evt_3", 1000)]
        recorded = await outbox.record(batch, leased_max=9)
        assert dispositions(recorded) == {
            "evt_1": "forwarded",
            "evt_2": "superseded",
            "evt_3": "superseded",
        }
        late = await outbox.record([refund("evt_4", 999)], leased_max=9)
        assert dispositions(late) == {"evt_4": "superseded"}
        assert [(new.row, new.due_at) for new in late] == [(None, None)]
        assert await parts(outbox.database) == {"evt_1": ("ch_1", 1000)}
        known = await outbox.look(["evt_2"])
        assert known["evt_2"].standing is None
        assert await total_minor(outbox.database) == 1000


async def test_a_superseded_refund_takes_no_lease_from_another(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        batch = [refund("evt_1", 5), refund("evt_2", 5), delivery("evt_3")]
        recorded = await outbox.record(batch, leased_max=2)
        assert {new.event_id for new in recorded if new.row is not None} == {"evt_1", "evt_3"}


async def test_a_refund_delivered_again_is_counted_once(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        await outbox.record([refund("evt_1", 300)], leased_max=1)
        assert await outbox.record([refund("evt_1", 300)], leased_max=1) == []
        # The same event with another body must not count either: it was answered for before.
        again = [refund("evt_1", 900), refund("evt_2", 700)]
        assert dispositions(await outbox.record(again, leased_max=2)) == {"evt_2": "forwarded"}
        assert await parts(outbox.database) == {"evt_1": ("ch_1", 300), "evt_2": ("ch_1:700", 400)}
        assert await total_minor(outbox.database) == 700


async def test_the_refunds_of_different_charges_are_apart(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        batch = [refund("evt_1", 300), refund("evt_2", 200, charge_id="ch_2"), delivery("evt_3")]
        await outbox.record(batch, leased_max=0)
        assert await parts(outbox.database) == {"evt_1": ("ch_1", 300), "evt_2": ("ch_2", 200)}
        assert "evt_3" in await payloads(outbox.database)


async def test_the_payment_of_a_charge_is_kept_for_the_operator(database_url: str) -> None:
    async with open_outbox(database_url) as outbox:
        unsaid = delivery("evt_1", "charge.refunded", id="ch_1", amount_refunded=5)
        await outbox.record([unsaid], leased_max=0)
        await outbox.record([refund("evt_2", 6)], leased_max=0)
        await outbox.record(
            [delivery("evt_3", "charge.refunded", id="ch_1", amount_refunded=7)], leased_max=0
        )
        rows = await outbox.database.fetch("SELECT charge_id, payment_intent_id FROM charge_refund")
        assert [tuple(row.values()) for row in rows] == [("ch_1", "pi_1")]


async def record_once_all_wait(
    url: str, batches: Sequence[tuple[SettlementOutbox, Sequence[Delivery]]], *, charge_id: str
) -> None:
    """Hold a charge until every batch waits for a lock, so that they truly meet."""
    sql = "SELECT 1 FROM charge_refund WHERE charge_id = $1 FOR UPDATE"
    async with trio.open_nursery() as nursery, held(url, sql, charge_id):
        for outbox, batch in batches:
            nursery.start_soon(lambda o, b: o.record(b, leased_max=9), outbox, batch)
        await wait_for_locks(batches[0][0].database, len(batches))


async def test_two_daemons_with_refunds_of_one_charge_add_up_exactly(database_url: str) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        for number, totals in enumerate([(600, 1000), (1000, 600), (1000, 1000)]):
            charge_id = f"ch_{number}"
            await one.record([refund(f"{charge_id}_0", 100, charge_id=charge_id)], leased_max=0)
            batches = [
                (outbox, [refund(f"{charge_id}_{place}", total, charge_id=charge_id)])
                for place, outbox, total in zip((1, 2), (one, other), totals, strict=True)
            ]
            await record_once_all_wait(database_url, batches, charge_id=charge_id)
            recorded = await parts(one.database)
            mine = [value for event_id, value in recorded.items() if charge_id in event_id]
            assert sum(amount for _, amount in mine) == 1000
            assert len({external_id for external_id, _ in mine}) == len(mine)
            assert await total_minor(one.database, charge_id) == 1000


async def test_two_daemons_with_the_same_refund_count_it_once(database_url: str) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        await one.record([refund("evt_0", 100)], leased_max=0)
        batch = [refund("evt_1", 400), refund("evt_2", 1000)]
        await record_once_all_wait(database_url, [(one, batch), (other, batch)], charge_id="ch_1")
        assert await parts(one.database) == {
            "evt_0": ("ch_1", 100),
            "evt_1": ("ch_1:400", 300),
            "evt_2": ("ch_1:1000", 600),
        }


async def test_refunds_of_several_charges_cannot_deadlock(database_url: str) -> None:
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:
        await one.record([refund("evt_0", 100, charge_id="ch_c")], leased_max=0)
        # By their events one batch would lock a, c, b and the other b, c, a.
        batches = [
            (
                outbox,
                [refund(f"{name}_{n}", 1000, charge_id=f"ch_{c}") for n, c in enumerate(order)],
            )
            for outbox, name, order in ((one, "evt_x", "acb"), (other, "evt_y", "bca"))
        ]
        await record_once_all_wait(database_url, batches, charge_id="ch_c")
        assert sorted(amount for _, amount in (await parts(one.database)).values()) == [
            100,
            900,
            1000,
            1000,
        ]
    assert await deadlocks(database_url) == 0


async def deadlocks(url: str) -> int:
    """How many deadlocks a database has seen, told once everybody else has left it."""
    async with open_database(url, pool_max=1) as database:
        with trio.fail_after(5):
            while True:
                (row,) = await database.fetch(
                    "SELECT deadlocks, (SELECT count(*) FROM pg_stat_activity AS a"
                    " WHERE a.datname = d.datname AND a.pid <> pg_backend_pid()) AS others"
                    " FROM pg_stat_database AS d WHERE datname = current_database()"
                )
                if row["others"] == 0:
                    seen: int = row["deadlocks"]
                    return seen
                await trio.sleep(0.005)


async def test_many_batches_over_many_charges_add_up(database_url: str) -> None:
    charges = ["ch_a", "ch_b", "ch_c"]
    async with open_outbox(database_url) as one, open_outbox(database_url) as other:

        async def record(outbox: SettlementOutbox, batch: Sequence[Delivery]) -> None:
            await outbox.record(batch, leased_max=9)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                batch = [
                    refund(f"evt_{charge}_{number}", (number * 7 % 20 + 1) * 50, charge_id=charge)
                    for charge in (charges if number % 2 else charges[::-1])
                ]
                nursery.start_soon(record, one, batch)
                nursery.start_soon(record, other, batch)
        recorded = await parts(one.database)
        for charge in charges:
            mine = [value for event_id, value in recorded.items() if charge in event_id]
            assert sum(amount for _, amount in mine) == 1000
            assert min(amount for _, amount in mine) > 0
            assert len({external_id for external_id, _ in mine}) == len(mine)
            assert await total_minor(one.database, charge) == 1000
