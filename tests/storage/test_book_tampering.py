"""Whatever is changed behind the ledger's back, a proof names it first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from clawsettle.domain.errors import StorageError
from clawsettle.domain.journal import Event
from clawsettle.domain.proof import BookItem, Note, Proof
from clawsettle.storage.bridge import Transaction, open_database
from clawsettle.storage.ledger_reader import LedgerReader
from tests.conftest import Postgres
from tests.storage.whole_book import ALICE_ID, BOB_ID, CAROL_ID, write_history

H1 = "rsk_33112ee1-4ee4-69c3-eb52-fe90322ec81d"
H2 = "rsk_f998fe06-afa0-cfbe-73e0-449dc2b16983"
LAST = 26

# By table and column: what is set, in which row, and what the first error begins with.
CHANGES = {
    "ledger_event": (
        "seq = 9",
        "event 9",
        {
            "seq": "seq = 1000",
            "event_id": "event_id = 'evt_x'",
            "idempotency_key": "idempotency_key = 't0'",
            "event_type": "event_type = 'payin_reverse'",
            "account_id": f"account_id = '{CAROL_ID}'",
            "to_account_id": f"to_account_id = '{CAROL_ID}'",
            "amount_minor": "amount_minor = amount_minor + 1",
            "bucket": "bucket = 'held'",
            "previous_hash": "previous_hash = repeat('a', 64)",
            "event_hash": "event_hash = repeat('0', 64)",
            "content_hash": "content_hash = repeat('0', 64)",
            "request_hash": "request_hash = repeat('0', 64)",
            "metadata": "metadata = replace(metadata, '\"A\"', '\"H\"')",
            "created_at": "created_at = created_at - interval '1 ms'",
        },
    ),
    "ledger_posting": (
        "seq = 9 AND leg = 1",
        "event 9",
        {
            "seq": "seq = 7",
            "leg": "leg = 2",
            "account_id": f"account_id = '{CAROL_ID}'",
            "bucket": "bucket = 'held'",
            "delta_minor": "delta_minor = delta_minor + 1",
        },
    ),
    "ledger_account": (
        f"account_id = '{ALICE_ID}'",
        f"account {ALICE_ID}",
        {
            "account_id": "account_id = 'acc_00000000'",
            "kind": "kind = 'external'",
            "did": "did = 'did:key:mallory'",
            "domain": "domain = 'mallory'",
            "available_minor": "available_minor = available_minor + 1",
            "held_minor": "held_minor = held_minor + 1",
            "bonded_minor": "bonded_minor = bonded_minor + 1",
            "fee_pool_minor": "fee_pool_minor = fee_pool_minor + 1",
            "promo_minor": "promo_minor = promo_minor + 1",
            "reserved_minor": "reserved_minor = reserved_minor - 1",
            "updated_at": "updated_at = updated_at + interval '1 ms'",
        },
    ),
    "ledger_reservation": (
        "reservation_id = 'payout:1'",
        "reservation payout:1",
        {
            "reservation_id": "reservation_id = 'payout:0'",
            "kind": "kind = 'risk_hold'",
            "account_id": f"account_id = '{BOB_ID}'",
            "amount_minor": "amount_minor = amount_minor + 1",
            "opened_event_id": "opened_event_id = 'evt_x'",
            "closed_event_id": "closed_event_id = 'evt_x'",
            "opened_at": "opened_at = opened_at + interval '1 ms'",
            "closed_at": "closed_at = closed_at + interval '1 ms'",
        },
    ),
    "ledger_risk_hold": (
        f"hold_id = '{H1}'",
        f"hold {H1}",
        {
            "hold_id": "hold_id = 'payout:1'",
            "idempotency_key": "idempotency_key = 'h0'",
            "source_loss_event_id": "source_loss_event_id = 'loss_h0'",
            "account_ref": "account_ref = 'did:key:bob'",
            "account_id": f"account_id = '{BOB_ID}'",
            "amount_minor": "amount_minor = amount_minor + 1",
            "currency": "currency = 'EUR'",
            "reason": "reason = 'another'",
            "metadata": "metadata = replace(metadata, 'note', 'nota')",
            "hold_transfer_event_id": "hold_transfer_event_id = 'evt_x'",
            "release_idempotency_key": "release_idempotency_key = 'r0'",
            "release_transfer_event_id": "release_transfer_event_id = 'evt_x'",
            "created_at": "created_at = created_at + interval '1 ms'",
            "updated_at": "updated_at = updated_at + interval '1 ms'",
            "released_at": "released_at = released_at + interval '1 ms'",
        },
    ),
    "ledger_tail": (
        "one",
        "tail",
        {
            "seq": "seq = seq + 1",
            "event_hash": "event_hash = repeat('0', 64)",
            "content_hash": "content_hash = repeat('0', 64)",
            "created_at": "created_at = created_at + interval '1 ms'",
        },
    ),
}
# The row's name is what was changed, or the row that the change took it from is met first.
NAMED_OTHERWISE = {
    ("ledger_event", "seq"): "event 10: follows event 8",
    ("ledger_posting", "seq"): "event 7: cannot be read: its postings are numbered [1]",
    ("ledger_account", "account_id"): "account acc_00000000: ",
    ("ledger_reservation", "reservation_id"): "reservation payout:0: ",
    ("ledger_risk_hold", "hold_id"): "hold payout:1: ",
}
UNPROVED = {
    ("ledger_account", "created_at"),
    ("ledger_account", "name"),
    ("ledger_tail", "one"),
    ("ledger_tail", "version"),
}
# Other changes: what is done, and what the first error begins with.
OTHERS = {
    "a cut end": (
        """DELETE FROM ledger_posting WHERE seq = 26; DELETE FROM ledger_event WHERE seq = 26""",
        "account acc_32ca986a: available is 0, its postings sum to 1000",
    ),
    "a cut end, hidden in the tail": (
        """
        DELETE FROM ledger_posting WHERE seq = 26; DELETE FROM ledger_event WHERE seq = 26;
        UPDATE ledger_tail AS t SET seq = e.seq, event_hash = e.event_hash,
            content_hash = e.content_hash, created_at = e.created_at
        FROM (SELECT * FROM ledger_event WHERE seq = 25) AS e
        """,
        "account acc_32ca986a: available is 0, its postings sum to 1000",
    ),
    "an event behind the tail": (
        """
        INSERT INTO ledger_event
        SELECT 27, 'evt_x', 'x', event_type, account_id, to_account_id, amount_minor, bucket,
            event_hash, repeat('a', 64), metadata, created_at, repeat('b', 64), request_hash
        FROM ledger_event WHERE seq = 26
        """,
        "event 27: its content does not match its hash",
    ),
    "an event gone": (
        """DELETE FROM ledger_posting WHERE seq = 4; DELETE FROM ledger_event WHERE seq = 4""",
        "event 5: follows event 3",
    ),
    "no tail": ("""DELETE FROM ledger_tail""", "tail: is missing"),
    "an unknown event type": (
        """UPDATE ledger_event SET event_type = 'gift' WHERE seq = 3""",
        "event 3: cannot be read",
    ),
    "microseconds": (
        """UPDATE ledger_event SET created_at = created_at + interval '1 us' WHERE seq = 3""",
        "event 3: has a field that no ledger writes so",
    ),
    "an infinite instant": (
        """UPDATE ledger_event SET created_at = 'infinity' WHERE seq = 3""",
        "event 3: cannot be read: its instant is infinite",
    ),
    "an empty text for none": (
        """UPDATE ledger_event SET request_hash = '' WHERE seq = 3""",
        "event 3: has a field that no ledger writes so",
    ),
    "a destination for none": (
        """UPDATE ledger_event SET to_account_id = '' WHERE seq = 3""",
        "event 3: has a field that no ledger writes so",
    ),
    "metadata that is none": (
        """UPDATE ledger_event SET metadata = '["reservation"' WHERE seq = 3""",
        "event 3: its id, postings or metadata do not match its content hash",
    ),
    "postings in the other order": (
        """
        UPDATE ledger_posting SET leg = 2 WHERE seq = 9 AND leg = 0;
        UPDATE ledger_posting SET leg = leg - 1 WHERE seq = 9
        """,
        "event 9: its id, postings or metadata do not match its content hash",
    ),
    "postings gone": (
        """DELETE FROM ledger_posting WHERE seq = 9""",
        "event 9: its id, postings or metadata do not match its content hash",
    ),
    "an account gone": (
        """DELETE FROM ledger_account WHERE account_id = 'clr_28a671f7'""",
        "account clr_28a671f7: is in the journal, but not among the records",
    ),
    "money from nowhere": (
        """UPDATE ledger_account SET promo_minor = 5 WHERE account_id = 'acc_32e1ea9b'""",
        "account acc_32e1ea9b: promo is 5, its postings sum to 0",
    ),
    "a reservation gone": (
        """DELETE FROM ledger_reservation WHERE reservation_id = 'payout:1'""",
        "reservation payout:1: is in the journal, but not among the records",
    ),
    "a reservation from nowhere": (
        """
        INSERT INTO ledger_reservation
        SELECT 'payout:x', kind, account_id, amount_minor, 'evt_x', NULL, opened_at
        FROM ledger_reservation WHERE reservation_id = 'payout:1'
        """,
        "reservation payout:x: is not what the journal says of it",
    ),
    "a hold gone": (
        """DELETE FROM ledger_risk_hold WHERE idempotency_key = 'h2'""",
        f"hold {H2}: is in the journal, but not among the records",
    ),
    "a hold released on paper": (
        """
        UPDATE ledger_risk_hold
        SET release_idempotency_key = 'r', release_transfer_event_id = 'evt_x',
            released_at = updated_at
        WHERE idempotency_key = 'h2'
        """,
        f"hold {H2}: is not what the journal says of it",
    ),
    "a hold without readable metadata": (
        """UPDATE ledger_risk_hold SET metadata = '[]' WHERE idempotency_key = 'h2'""",
        f"hold {H2}: cannot be read: its metadata is no JSON object",
    ),
}


@pytest.fixture(scope="module")
def whole_book(postgres: Postgres) -> str:
    """The name of a database with a whole book, to be cloned."""
    name = postgres.create_database("migrated")
    trio.run(write_history, postgres.server.dsn_of(name))
    return name


@pytest.fixture
def book_url(postgres: Postgres, whole_book: str) -> str:
    return postgres.server.dsn_of(postgres.create_database(whole_book))


async def tamper(database_url: str, sql: str) -> None:
    """Change the tables as somebody could who may do everything."""

    async def work(transaction: Transaction) -> None:
        await transaction.script("SET LOCAL session_replication_role = replica")
        for table, name in await transaction.fetch(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint"
            " WHERE contype = 'c' AND conrelid::regclass::text LIKE 'ledger_%'"
        ):
            await transaction.script(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        await transaction.script(sql)

    async with open_database(database_url, pool_max=1) as database:
        await database.transaction(work)


async def prove(
    database_url: str,
    noted: Note | None = None,
    look: Callable[[Sequence[Any]], object] = len,
) -> Proof:
    proof = Proof(noted)

    def visit(items: Sequence[BookItem]) -> None:
        look(items)
        proof.take(items)

    async with open_database(database_url, pool_max=1) as database:
        await LedgerReader(database).read_whole(visit)
    proof.finish()
    return proof


async def test_a_book_with_everything_in_it_is_sound(book_url: str) -> None:
    proof = await prove(book_url)
    assert (proof.errors, proof.error_count, proof.event_count) == ([], 0, LAST)
    sums = proof.trial_balance()
    assert sum(sum(buckets.values()) for buckets in sums.values()) == 0
    assert proof.owed() == {ALICE_ID: 6045}
    assert proof.undercut() == {BOB_ID: (20, 70)}
    assert proof.contra_balances() == {
        "external:adyen:USD": -900,
        f"external:receivable:{ALICE_ID}": -6045,
        "external:stripe:USD": -2000,
    }


@pytest.mark.parametrize(
    ("table", "column"),
    [(table, column) for table, (_, _, changes) in CHANGES.items() for column in changes],
)
async def test_a_changed_column_is_named_first(table: str, column: str, book_url: str) -> None:
    where, named, changes = CHANGES[table]
    await tamper(book_url, " ".join(("UPDATE", table, "SET", changes[column], "WHERE", where)))
    errors = (await prove(book_url)).errors
    assert errors
    assert errors[0].startswith(NAMED_OTHERWISE.get((table, column), f"{named}: ")), errors


@pytest.mark.parametrize("change", OTHERS)
async def test_a_change_is_named_first(change: str, book_url: str) -> None:
    sql, named = OTHERS[change]
    await tamper(book_url, sql)
    errors = (await prove(book_url)).errors
    assert errors
    assert errors[0].startswith(named), errors


async def test_an_instant_that_is_in_no_calendar_is_told(book_url: str) -> None:
    await tamper(book_url, "UPDATE ledger_event SET created_at = '0044-03-15 BC' WHERE seq = 3")
    with pytest.raises(StorageError, match="a row after event 0 has an instant before the year 1"):
        await prove(book_url)


async def test_every_column_is_proved_or_said_not_to_be(book_url: str) -> None:
    async with open_database(book_url, pool_max=1) as database:
        rows = await database.fetch(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_name = ANY ($1::text[])",
            list(CHANGES),
        )
    proved = {(table, column) for table, (_, _, changes) in CHANGES.items() for column in changes}
    assert {(row["table_name"], row["column_name"]) for row in rows} == proved | UNPROVED
    assert not proved & UNPROVED
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "prove-the-books.md").read_text()
    for table, column in UNPROVED:
        assert f"`{table}.{column}`" in page


async def test_a_note_tells_a_journal_from_one_that_was_written_anew(
    book_url: str, database_url: str
) -> None:
    noted = Note(5, "")

    def take_note(items: Sequence[Any]) -> None:
        nonlocal noted
        if isinstance(items[0], Event):
            noted = Note(5, items[4].content_hash)

    await prove(book_url, look=take_note)
    assert (await prove(book_url, noted)).errors == []
    # The same history at another time is sound in itself: only the note tells.
    await write_history(database_url)
    assert (await prove(database_url)).errors == []
    assert (await prove(database_url, noted)).errors == [
        "event 5: is not the one that was noted: the journal was written anew"
    ]
    assert (await prove(book_url, Note(LAST + 1, noted.content_hash))).errors == [
        f"event {LAST + 1}: was noted, but the journal ends before it"
    ]


async def test_a_book_is_shown_once_or_not_at_all(postgres: Postgres, book_url: str) -> None:
    pages: list[Sequence[BookItem]] = []

    def cut(items: Sequence[BookItem]) -> None:
        pages.append(items)
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%ledger_event AS e%' AND pid <> pg_backend_pid()"
        )

    with pytest.raises(StorageError, match="broke off midway"):
        await prove(book_url, look=cut)
    assert len(pages) == 1


async def test_of_many_errors_the_first_are_kept_and_all_counted(book_url: str) -> None:
    await tamper(book_url, "UPDATE ledger_event SET amount_minor = 3, event_hash = content_hash")
    proof = await prove(book_url)
    assert proof.errors[0].startswith("event 1: ")
    assert len(proof.errors) == 100
    assert proof.error_count > 100
