"""The ledger on a real database: whole commits or none, one writer, and what is read back."""

import json
from datetime import datetime, timedelta
from functools import partial

import pytest
import trio
from attrs import asdict, evolve

from clawsettle.actors.ledger_keeper import Result, decide_all
from clawsettle.domain.book import Book
from clawsettle.domain.errors import StorageError
from clawsettle.domain.journal import Bucket, Posting
from clawsettle.domain.ledger import Command, OpenAccount
from clawsettle.domain.money import MINOR_MAX
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook
from tests.domain.ledger_cases import (
    ALICE,
    ALICE_DID,
    BOB,
    STRIPE_USD,
    request,
    settlement_of,
)
from tests.storage.books import (
    apply,
    available,
    codes,
    done,
    faults,
    open_accounts,
    open_book,
    prove,
    reading,
    unguard,
)
from tests.storage.deliveries import held, wait_for_locks


async def test_a_crash_between_deciding_and_storing_leaves_no_trace(database_url: str) -> None:
    async with open_book(database_url) as book:
        commands: list[Command] = [OpenAccount(ALICE_DID), request("k1")]

        def crash(loaded: Book) -> list[Result]:
            assert codes(decide_all(loaded, commands)) == ["created", "created"]
            raise RuntimeError("killed here")

        with pytest.raises(RuntimeError, match="killed here"):
            await book.apply(commands, crash)
        assert await reading(book).account(ALICE) is None
        assert await prove(book) == []
        assert codes(await apply(book, *commands)) == ["created", "created"]
        assert [event.seq for event in await prove(book)] == [1]
        assert await available(book, ALICE) == 1000


async def test_a_commit_that_fails_half_way_leaves_no_trace(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)

        def with_a_stray_posting(loaded: Book) -> list[Result]:
            results = decide_all(loaded, [request("k1")])
            (event,) = loaded.changed.events.values()
            stray = Posting(ALICE, Bucket.AVAILABLE, 0)
            loaded.changed.events[event.idempotency_key] = evolve(
                event, postings=(*event.postings, stray)
            )
            return results

        with pytest.raises(StorageError) as caught:
            await book.apply([request("k1")], with_a_stray_posting)
        assert caught.value.details["constraint"] == "ledger_posting_moves"
        assert await prove(book) == []
        assert await available(book, ALICE) == 0
        assert await reading(book).settlements_of_payment("stripe", "pi_1", None) == []
        assert codes(await apply(book, request("k1"))) == ["created"]


async def test_a_batch_is_decided_again_when_another_was_stored_first(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        balances: list[int] = []

        def watch(loaded: Book) -> list[Result]:
            balances.append(loaded.known.accounts[ALICE].balances[Bucket.AVAILABLE])
            return decide_all(loaded, [request("k1")])

        # As another daemon would: the batch in between moves money, its number and its version.
        faster = request("k0", external_payment_id="pi_0", amount_minor="70")
        async with (
            trio.open_nursery() as nursery,
            held(database_url, "SELECT 1 FROM ledger_account FOR UPDATE"),
        ):
            nursery.start_soon(apply, book, faster)
            await wait_for_locks(book.database, 1)
            nursery.start_soon(book.apply, [request("k1")], watch)
            await wait_for_locks(book.database, 2)
        assert balances == [0, 70]
        assert await available(book, ALICE) == 1070
        assert len(await prove(book)) == 2


@pytest.mark.parametrize(
    "change",
    ["UPDATE ledger_tail SET version = version + 1", "UPDATE ledger_tail SET seq = seq + 1"],
)
async def test_a_book_that_is_not_the_latest_is_not_stored(database_url: str, change: str) -> None:
    """Either number tells: an older release moves only the journal's."""
    async with open_book(database_url) as book:
        await open_accounts(book)
        stale: list[int] = []

        def watch(loaded: Book) -> list[Result]:
            stale.append(loaded.tail.seq)
            return decide_all(loaded, [request("k1")])

        async with trio.open_nursery() as nursery, held(database_url, change):
            nursery.start_soon(book.apply, [request("k1")], watch)
            await wait_for_locks(book.database, 1)
        assert len(stale) == 2
        assert await available(book, ALICE) == 1000
        (row,) = await book.database.fetch("SELECT count(*) AS events FROM ledger_event")
        assert row["events"] == 1


async def test_storing_that_was_cut_off_is_repeated(database_url: str) -> None:
    async with open_book(database_url) as book, open_database(database_url) as other:
        await open_accounts(book)
        tails: list[int] = []
        results: list[Result] = []

        def watch(loaded: Book) -> list[Result]:
            tails.append(loaded.tail.seq)
            return decide_all(loaded, [request("k1")])

        async def write() -> None:
            results.extend(await book.apply([request("k1")], watch))

        async with (
            trio.open_nursery() as nursery,
            held(database_url, "SELECT 1 FROM ledger_tail FOR UPDATE"),
        ):
            nursery.start_soon(write)
            await wait_for_locks(other, 1)
            await other.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            await wait_for_locks(other, 1)
        assert codes(results) == ["created"]
        assert tails == [0]
        assert len(await prove(book)) == 1


async def test_a_refused_command_does_not_stop_the_rest_of_its_batch(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        results = await apply(
            book,
            request("k1", amount_minor="300"),
            request("k2", direction="refund", amount_minor="301"),
            request("k3", account_id="acc_nobody", external_payment_id="pi_3"),
            request("k4", direction="refund", amount_minor="300"),
            request("k5", status="pending"),
            request("k1", amount_minor="300"),
            request("k1", amount_minor="301"),
        )
        assert codes(results) == [
            "created",
            "INSUFFICIENT_FUNDS",
            "NOT_FOUND",
            "created",
            "DUPLICATE_CONFLICT",
            "repeated",
            "IDEMPOTENCY_KEY_REUSED",
        ]
        assert [event.event_type for event in await prove(book)] == [
            "payin_settle",
            "payin_reverse",
        ]
        assert await available(book, ALICE) == 0
        again = await apply(book, request("k2", direction="refund", amount_minor="300"))
        assert codes(again) == ["repeated"], "a refused key is free"


async def test_the_commands_of_a_batch_see_each_other(database_url: str) -> None:
    async with open_book(database_url) as book:
        results = await apply(
            book,
            request("k0"),
            OpenAccount(ALICE_DID),
            OpenAccount(ALICE_DID),
            request("k1"),
            request("k2", status="reversed"),
        )
        assert codes(results) == ["NOT_FOUND", "created", "repeated", "created", "created"]
        assert len(await prove(book)) == 2
        assert await available(book, STRIPE_USD) == 0


async def test_a_batch_that_changes_nothing_writes_nothing(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"))
        before = await written(book)
        results = await apply(
            book, request("k1"), OpenAccount(ALICE_DID), request("k2", account_id="acc_nobody")
        )
        assert codes(results) == ["repeated", "repeated", "NOT_FOUND"]
        assert await written(book) == before


async def written(book: LedgerBook) -> list[object]:
    """The transaction that last wrote each row of the ledger."""
    rows = await book.database.fetch(
        """
        SELECT xmin::text FROM ledger_account
        UNION ALL SELECT xmin::text FROM ledger_settlement
        UNION ALL SELECT xmin::text FROM ledger_ingestion
        UNION ALL SELECT xmin::text FROM ledger_tail
        """
    )
    return sorted(row["xmin"] for row in rows)


async def test_another_daemon_replays_the_first_answer_to_the_letter(database_url: str) -> None:
    told = request(
        "k1",
        metadata={"z": 1, "a": {"y": [1.5, None, True], "b": "\u00fc\U0001f980\\"}},
        network="stripe",
        provider_updated_at="2026-02-11T00:00:05Z",
    )
    async with open_book(database_url) as one:
        await open_accounts(one)
        (first,) = await done(one, told)
        await done(one, request("k2", status="reversed"))
    async with open_book(database_url) as other:
        (replay,) = await done(other, told)
        expected = {
            **first.body,
            "idempotency": {"key": "k1", "replayed": True, "deduped": False},
        }
        assert json.dumps(replay.body) == json.dumps(expected)
        (stored,) = await reading(other).settlements_of_payment("stripe", "pi_1", "payin")
        assert stored.status == "reversed"
        assert stored.metadata == told.metadata


async def test_records_are_read_back_as_they_were_decided(database_url: str) -> None:
    async with open_book(database_url) as book:
        loaded: list[Book] = []

        def decide_and_keep(fresh: Book) -> list[Result]:
            loaded.append(fresh)
            return decide_all(fresh, commands)

        commands: list[Command] = [
            OpenAccount(ALICE_DID),
            request("k1", amount_minor=str(MINOR_MAX), metadata={"b": 1, "a": [2]}, rail="card"),
            request("k2", direction="payout", status="pending", settled_at="then"),
        ]
        await book.apply(commands, decide_and_keep)
        (decided,) = loaded
        assert await reading(book).account(ALICE) == decided.known.accounts[ALICE]
        assert await reading(book).account_by_did(ALICE_DID) == decided.known.accounts[ALICE]
        assert await reading(book).account(STRIPE_USD) == decided.known.accounts[STRIPE_USD]
        assert await reading(book).account("acc_nobody") is None
        assert await reading(book).account_by_did("did:key:nobody") is None
        assert await prove(book) == list(decided.known.events.values())
        for natural_key, settlement in decided.known.settlements.items():
            assert await reading(book).settlements_of_payment(*natural_key) == [settlement]


async def test_a_step_stores_everything_it_changes(database_url: str) -> None:
    first = request(
        "k1",
        status="failed",
        amount_minor="1000",
        network="stripe",
        rail="card",
        metadata={"a": 1},
        provider_created_at="c1",
        provider_updated_at="u1",
        settled_at="s1",
    )
    second = request(
        "k2",
        amount_minor="900",
        network="other",
        rail="link",
        metadata={"b": 2},
        provider_created_at="c2",
        provider_updated_at="u2",
        settled_at="s2",
    )
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, first)
        (before,) = await reading(book).settlements_of_payment("stripe", "pi_1", "payin")
        (answer,) = await done(book, second)
        (stored,) = await reading(book).settlements_of_payment("stripe", "pi_1", "payin")
        assert stored.view() == settlement_of(answer)
        same = {"settlement_id", "provider", "external_payment_id", "direction", "account_id"}
        for name in asdict(stored).keys() - same - {"currency", "created_at", "refund_of"}:
            assert getattr(stored, name) != getattr(before, name), name
        await prove(book)


async def test_a_payments_settlements_are_newest_first(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        for direction in ("payout", "payin", "refund"):
            await done(book, request(direction, direction=direction))
            await book.database.fetch(
                "UPDATE ledger_settlement SET created_at = created_at - interval '1 hour'"
            )
        found = await reading(book).settlements_of_payment("stripe", "pi_1", None)
        assert [settlement.direction for settlement in found] == ["refund", "payin", "payout"]
        (payin,) = await reading(book).settlements_of_payment("stripe", "pi_1", "payin")
        assert payin == found[1]
        assert await reading(book).settlements_of_payment("stripe", "pi_2", None) == []
        assert await reading(book).settlements_of_payment("adyen", "pi_1", None) == []


async def test_colliding_dids_keep_their_accounts_on_every_daemon(database_url: str) -> None:
    async with open_book(database_url) as one, open_book(database_url) as other:
        (first,) = await done(one, OpenAccount("did:key:Aa"))
        (second,) = await done(other, OpenAccount("did:key:BB"))
        assert first.body["id"] != second.body["id"]
        repeated = await done(one, OpenAccount("did:key:BB"), OpenAccount("did:key:Aa"))
        assert [answer.body for answer in repeated] == [second.body, first.body]
        found = await reading(one).account_by_did("did:key:BB")
        assert found is not None
        assert found.account_id == second.body["id"]


async def test_the_journals_clock_never_runs_behind_its_tail(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"))
        # As if the last event had come from a host, since failed, whose clock ran ahead.
        rows = await book.database.fetch(
            "UPDATE ledger_tail SET created_at = created_at + interval '1 hour'"
            " RETURNING created_at"
        )
        ahead: datetime = rows[0]["created_at"]
        await done(book, request("k2", external_payment_id="pi_2"))
        await done(book, request("k3", external_payment_id="pi_3"))
        events = await prove(book)
        assert [event.created_at for event in events[1:]] == [ahead, ahead]
        assert ahead - events[0].created_at == timedelta(hours=1)


async def test_the_proof_names_what_does_not_add_up(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"))
        await book.database.fetch(
            "UPDATE ledger_account SET available_minor = 1001 WHERE account_id = $1", ALICE
        )
        said = f"account {ALICE}: available is 1001, its postings sum to 1000"
        assert await faults(book.database) == [said]
        await unguard(book.database)
        await book.database.fetch("UPDATE ledger_posting SET delta_minor = 1001 WHERE leg = 0")
        assert "event 1: its postings do not balance what it says" in await faults(book.database)


async def test_the_journal_is_read_in_stretches(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        payins = [request(f"k{n}", external_payment_id=f"pi_{n}") for n in range(5)]
        await done(book, *payins)
        pages = [await reading(book).journal(after, 2) for after in (0, 2, 4, 5)]
        assert [[event.seq for event in page] for page in pages] == [[1, 2], [3, 4], [5], []]


async def test_the_database_itself_refuses_a_book_that_cannot_be(database_url: str) -> None:
    impossible = {
        "ledger_account_not_negative": "UPDATE ledger_account SET held_minor = -1",
        "ledger_account_user_has_did": "UPDATE ledger_account SET did = NULL",
        "ledger_account_clearing_has_domain": "UPDATE ledger_account SET domain = 'd'",
        "ledger_account_reserved_not_negative": "UPDATE ledger_account SET reserved_minor = -1",
        "ledger_account_kind_known": "UPDATE ledger_account SET kind = 'bank', did = NULL",
        "ledger_settlement_amount_positive": "UPDATE ledger_settlement SET amount_minor = 0",
        "ledger_settlement_status_known": "UPDATE ledger_settlement SET status = 'paid'",
        "ledger_settlement_direction_known": "UPDATE ledger_settlement SET direction = 'in'",
        "ledger_event_amount_positive": "UPDATE ledger_event SET amount_minor = 0",
        "ledger_event_bucket_known": "UPDATE ledger_event SET bucket = 'A'",
        "ledger_event_link_once": "UPDATE ledger_event SET previous_hash = repeat('0', 64)",
        "ledger_posting_moves": "UPDATE ledger_posting SET delta_minor = 0",
        "ledger_posting_bucket_known": "UPDATE ledger_posting SET bucket = 'A'",
        "ledger_tail_single": "UPDATE ledger_tail SET one = false",
        "ledger_ingestion_settlement_fk": "UPDATE ledger_ingestion SET settlement_id = 'set_none'",
    }
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"), request("k2", external_payment_id="pi_2"))
        await unguard(book.database)
        for constraint, sql in impossible.items():
            with pytest.raises(StorageError) as caught:
                await book.database.fetch(sql)
            assert caught.value.details["constraint"] == constraint, sql
        assert len(await prove(book)) == 2


@pytest.mark.parametrize(
    "change", ["UPDATE {} SET account_id = 'x'", "DELETE FROM {}", "TRUNCATE {}"]
)
@pytest.mark.parametrize("table", ["ledger_event", "ledger_posting"])
async def test_the_journal_only_grows(database_url: str, table: str, change: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        await done(book, request("k1"))
        with pytest.raises(StorageError) as caught:
            await book.database.fetch(change.format(table))
        assert caught.value.details["constraint"] == f"{table}_append_only"
        assert len(await prove(book)) == 1


async def test_an_account_is_never_deleted(database_url: str) -> None:
    async with open_book(database_url) as book:
        await open_accounts(book)
        with pytest.raises(StorageError) as caught:
            await book.database.fetch("DELETE FROM ledger_account")
        assert caught.value.details["constraint"] == "ledger_account_stays"


async def test_two_batches_that_meet_are_decided_one_after_the_other(database_url: str) -> None:
    async with open_book(database_url) as one, open_book(database_url) as other:
        await open_accounts(one)
        seen: dict[str, int] = {}

        def watch(loaded: Book, *, commands: list[Command], name: str) -> list[Result]:
            seen[name] = loaded.tail.seq
            return decide_all(loaded, commands)

        async def write(book: LedgerBook, name: str) -> None:
            command = request(name, external_payment_id=name, account_id=BOB)
            await book.apply([command], partial(watch, commands=[command], name=name))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(write, (one, other)[number % 2], f"p{number}")
        assert sorted(seen.values()) == list(range(10)), "each was stored on all before it"
        await prove(one)
