"""Ledger books on a database, and the proof that they are sound, for the ledger's storage tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from clawsettle.actors.ledger_keeper import Result, decide_all
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import GENESIS_HASH, Bucket, ChainCheck, Event, Tail
from clawsettle.domain.ledger import Answer, Command, OpenAccount
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook
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
    account = await book.account(account_id)
    assert account is not None
    return account.balances[Bucket.AVAILABLE]


async def prove(book: LedgerBook) -> list[Event]:
    """Fail unless the stored book is sound: chain, tail, postings; return the whole journal."""
    events = await book.journal(0, 10_000)
    chain = ChainCheck()
    chain.walk(events)
    assert chain.errors == []
    assert await book.imbalances() == []
    tail = await book.tail()
    assert tail.seq == len(events)
    if events:
        last = events[-1]
        assert tail == Tail(last.seq, last.event_hash, last.created_at)
    else:
        assert tail.event_hash == GENESIS_HASH
    return events
