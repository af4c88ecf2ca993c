"""The queue of netting: each payout is in it once it is paid, and is out or set against in time."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest
import trio

from clawsettle.config import Settings, netting_defaults
from clawsettle.domain.netting import Run
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.migrate import apply_migrations
from clawsettle.storage.netting import NettingRuns
from clawsettle.storage.payout_rows import payout_row
from clawsettle.storage.queries import load_queries
from tests.netting import SOURCE, TARGET, fail_late, links, request
from tests.storage.deliveries import held, wait_for_locks
from tests.storage.payout_histories import CONNECT_ID, PASTS, History, history, keep, store
from tests.storage.test_migrate import restore

S = PayoutStatus
DEFAULTS = netting_defaults(Settings())
LATE = (S.RETURNING, S.RETURNED)
_HOLD_ENTRIES = "LOCK TABLE netting_entry IN SHARE MODE"


async def queue(database: Database) -> list[Mapping[str, Any]]:
    return [dict(row) for row in await database.fetch("SELECT * FROM netting_item ORDER BY 1, 2")]


async def prepare(database: Database, key: str = "key_1", **body: object) -> Run:
    runs = NettingRuns(database, 30.0, repeats_safely=True)
    return await runs.prepare(request(key, **body), DEFAULTS)


async def store_as(database: Database, payout: Payout, *ends: PayoutStatus) -> None:
    """Bring a payout to one status after the other, each in a commit of its own."""
    for end in ends:
        await store(database, [history(payout.idempotency_key, end)])


def sweep(payout: Payout) -> dict[str, Any]:
    """The item of a payout that is paid and waits."""
    return {
        "payout_id": payout.payout_id,
        "direction": "sweep",
        "connect_account_id": CONNECT_ID,
        "clearing_domain": SOURCE,
        "target_clearing_domain": None,
        "currency": "USD",
        "amount_minor": payout.amount_minor,
        "at": payout.finalized_at,
        "run_id": None,
        "entry_id": None,
    }


@pytest.mark.parametrize("end", S)
async def test_a_payout_is_queued_when_it_is_paid_and_at_no_other_time(
    database_url: str, end: PayoutStatus
) -> None:
    born, paid = history(end=S.INITIATED), history().payout
    async with open_database(database_url) as database:
        await keep(database, born)
        for status in (S.INITIATED, *PASTS[end]):
            await store_as(database, born.payout, status)
            waits = status is S.PAID
            assert await queue(database) == ([sweep(paid)] if waits else []), status


async def test_a_payout_that_is_paid_from_birth_is_queued(database_url: str) -> None:
    paid, open_one = history(), history("idem_2", S.SUBMITTED)
    async with open_database(database_url) as database:
        await keep(database, paid, open_one)
        assert await queue(database) == [sweep(paid.payout)]


async def test_storing_a_paid_payout_again_queues_it_no_second_time(database_url: str) -> None:
    paid = history()
    async with open_database(database_url) as database:
        await keep(database, paid)
        await store(database, [paid])
        assert await queue(database) == [sweep(paid.payout)]


@pytest.mark.parametrize("end", LATE)
async def test_what_fails_late_while_it_waits_is_taken_out(
    database_url: str, end: PayoutStatus
) -> None:
    one, other = history(), history("idem_2")
    async with open_database(database_url) as database:
        await keep(database, one, other)
        await store_as(database, one.payout, end)
        assert await queue(database) == [sweep(other.payout)]


@pytest.mark.parametrize("ends", [LATE, LATE[1:]])
async def test_what_fails_late_after_a_run_has_taken_it_is_queued_against_it_once(
    database_url: str, ends: Sequence[PayoutStatus]
) -> None:
    one = history()
    async with open_database(database_url) as database:
        await keep(database, one)
        run = await prepare(database, target_clearing_domain=TARGET)
        await store_as(database, one.payout, *ends)
        late, taken = await queue(database)
        assert taken["entry_id"] is not None
        its_entry = {"run_id": run.run_id, "entry_id": taken["entry_id"]}
        assert taken == sweep(one.payout) | its_entry
        assert late == sweep(one.payout) | {
            "direction": "return",
            "target_clearing_domain": run.target_clearing_domain,
            "amount_minor": -one.payout.amount_minor,
            "at": history(end=ends[0]).payout.status_at,
        }


async def test_what_was_never_paid_in_any_commit_leaves_nothing(database_url: str) -> None:
    born = history(end=S.FINALIZING_PAID)
    async with open_database(database_url) as database:
        await keep(database, born)
        await store_as(database, born.payout, S.RETURNING, S.RETURNED)
        assert await queue(database) == []


async def test_a_payout_keeps_the_clearing_account_and_currency_that_it_has(
    database_url: str,
) -> None:
    elsewhere = history(clearing_domain="clawsettle.other", connect_account_id="acct_größe")
    async with open_database(database_url) as database:
        await keep(database, elsewhere)
        (item,) = await queue(database)
        assert item["clearing_domain"] == "clawsettle.other"
        assert item["connect_account_id"] == "acct_größe"
        assert (await prepare(database)).candidate_count == 0


async def test_a_run_that_is_just_taking_a_payout_is_waited_for_when_it_fails(
    database_url: str,
) -> None:
    one = history()
    prepared: list[Run] = []
    async with open_database(database_url) as database, trio.open_nursery() as nursery:
        await keep(database, one)

        async def run() -> None:
            prepared.append(await prepare(database))

        async with held(database_url, _HOLD_ENTRIES):
            nursery.start_soon(run)
            await wait_for_locks(database, 1)
            nursery.start_soon(fail_late, database, one.payout)
            await wait_for_locks(database, 2)
        with trio.fail_after(10):
            while len(await queue(database)) < 2:  # noqa: ASYNC110 - rows tell nobody
                await trio.sleep(0.005)
        late, taken = await queue(database)
        assert prepared[0].candidate_count == 1
        assert taken["entry_id"] is not None
        assert (late["direction"], late["target_clearing_domain"]) == ("return", TARGET)


async def test_a_payout_that_is_just_failing_is_left_out_and_not_waited_for(
    database_url: str,
) -> None:
    one, other = history(), history("idem_2")
    failing = attrs.evolve(history(end=S.RETURNING).payout, due_at=one.payout.status_at)
    statement = load_queries("payouts")["store"]
    nothing: list[object] = []
    async with open_database(database_url) as database:
        await keep(database, one, other)
        async with held(database_url, statement, [payout_row(failing)], *[nothing] * 8):
            with trio.fail_after(5):
                assert (await prepare(database)).candidate_count == 1
        assert list(await links(database)) == [f"sweep:{other.payout.payout_id}"]


def rows_before(*histories: History) -> list[tuple[object, ...]]:
    """What the release before netting has stored of payouts."""
    account = (
        "INSERT INTO connect_account (account_id, account_did, connect_account_id,"
        " onboarding_status, onboarding_url) VALUES ($1, 'did:key:alice', $2, 'active', 'https://o')"
    )
    payouts = [payout_row(one.payout) for one in histories]
    insert = "INSERT INTO payout SELECT * FROM unnest($1::payout[])"
    return [(account, histories[0].payout.account_id, CONNECT_ID), (insert, payouts)]


async def test_what_was_paid_before_there_was_a_queue_is_in_it(empty_database: str) -> None:
    stood = {end: history(f"idem_{end}", end) for end in S}
    async with open_database(empty_database) as database:
        await restore(database, migrations=6, rows=rows_before(*stood.values()))
        await apply_migrations(database)
        assert await queue(database) == [sweep(stood[S.PAID].payout)]
        await store_as(database, stood[S.FINALIZING_PAID].payout, S.PAID)
        assert len(await queue(database)) == 2


async def test_what_is_paid_while_the_queue_is_made_is_in_it(empty_database: str) -> None:
    before = history(end=S.FINALIZING_PAID)
    pay = (
        "UPDATE payout SET status = 'paid', finalize_event_id = 'evt_1', finalized_at = $1,"
        " due_at = NULL, lease_token = NULL"
    )
    async with open_database(empty_database) as database:
        await restore(database, migrations=6, rows=rows_before(before))
        async with (
            trio.open_nursery() as nursery,
            held(empty_database, pay, history().payout.finalized_at),
        ):
            nursery.start_soon(apply_migrations, database)
            await wait_for_locks(database, 1)
        assert await queue(database) == [sweep(history().payout)]


async def test_an_item_waits_longest_first_whatever_the_order_it_came_in(
    database_url: str,
) -> None:
    at = history().payout.created_at
    keys = [f"idem_{number}" for number in range(9)]
    histories = [
        history(key, created_at=at + timedelta(seconds=place // 3))
        for place, key in enumerate(reversed(keys))
    ]
    oldest_first = sorted(
        histories, key=lambda one: (one.payout.finalized_at, one.payout.payout_id)
    )
    async with open_database(database_url) as database:
        await keep(database, *histories)
        for number, limit in enumerate((2, 3, 4)):
            await prepare(database, f"key_{number}", limit=limit)
            taken = {name for name, entry_id in (await links(database)).items() if entry_id}
            count = (2, 5, 9)[number]
            assert taken == {f"sweep:{one.payout.payout_id}" for one in oldest_first[:count]}
