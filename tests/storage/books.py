"""Ledger books on a database, and the proof that they are sound, for the ledger's storage tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from clawsettle.actors.ledger_keeper import Result, decide_all
from clawsettle.domain.book import Answer
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import Bucket, Event
from clawsettle.domain.ledger import Command, OpenAccount
from clawsettle.domain.proof import BookItem, Proof
from clawsettle.storage.bridge import Database, Transaction, open_database
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import LedgerReader
from tests.domain.ledger_cases import ALICE_DID, BOB_DID


@asynccontextmanager
async def open_book(url: str) -> AsyncIterator[LedgerBook]:
    """A book on connections of its own, as every daemon has them."""
    async with open_database(url) as database:
        yield LedgerBook(database, "USD")


async def apply(book: LedgerBook, *commands: Command) -> list[Result]:
    """Have commands decided in one commit, as the ledger's keeper does."""
    return await book.apply(commands, partial(decide_all, commands=commands))


async def done(book: LedgerBook, *commands: Command) -> list[Answer]:
    """Have commands decided that must all be accepted."""
    results = await apply(book, *commands)
    answers = [result for result in results if isinstance(result, Answer)]
    assert len(answers) == len(commands), results
    return answers


async def open_accounts(book: LedgerBook) -> None:
    await done(book, OpenAccount(ALICE_DID), OpenAccount(BOB_DID))


def codes(results: Sequence[Result]) -> list[str]:
    """What became of each command: ``created``, ``repeated`` or the code of its refusal."""
    return [
        result.code
        if isinstance(result, ClawsettleError)
        else ("created" if result.created else "repeated")
        for result in results
    ]


async def available(book: LedgerBook, account_id: str) -> int:
    account = await reading(book).account(account_id)
    assert account is not None
    return account.balances[Bucket.AVAILABLE]


async def unguard(database: Database) -> None:
    """Let the journal be changed, as somebody who owns the database could."""
    for table in ("ledger_event", "ledger_posting", "ledger_account"):
        await database.fetch(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def reading(book: LedgerBook) -> LedgerReader:
    return LedgerReader(book.database)


async def faults(database: Database) -> list[str]:
    """What the proof of the whole stored book finds."""
    proof = Proof()
    await LedgerReader(database).read_whole(proof.take)
    proof.finish()
    sums = proof.trial_balance().values()
    assert proof.errors or sum(sum(buckets.values()) for buckets in sums) == 0
    return proof.errors


async def prove(book: LedgerBook) -> list[Event]:
    """Fail unless the stored book is sound, with the totals that follow; return its journal."""
    assert await faults(book.database) == []
    events: list[Event] = []

    def keep(items: Sequence[BookItem]) -> None:
        events.extend(item for item in items if isinstance(item, Event))

    await reading(book).read_whole(keep)
    return events


async def hold_ledger(
    database: Database,
    release: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hold the lock that every ledger commit needs, until released."""

    async def hold(transaction: Transaction) -> None:
        await transaction.fetch("SELECT 1 FROM ledger_tail FOR UPDATE")
        await transaction.fetch("SELECT pg_sleep(60)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.transaction, hold)
        probe = "SELECT 1 FROM ledger_tail FOR UPDATE SKIP LOCKED"
        with trio.fail_after(5):
            while await database.fetch(probe):  # noqa: ASYNC110 - locks tell nobody
                await trio.sleep(0.01)
        task_status.started()
        await release.wait()
        nursery.cancel_scope.cancel()
