"""What is measured of the embedded ledger, in its own process and over HTTP."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import product
from typing import Literal

from attrs import evolve

from bench.database import settle
from bench.generator import Job
from bench.keeper import KeeperJob
from bench.ledger_traffic import KINDS, LedgerTraffic, did
from bench.measurement import BUSY, CONCURRENCIES, Bench, Figure, Outcome
from bench.parties import LEDGER_KEY, Load, daemon, migrated_database
from clawsettle.actors.ledger_keeper import decide_all
from clawsettle.domain.accounts import account_ids
from clawsettle.domain.ledger import Command, OpenAccount
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.transfers import parse_transfer
from clawsettle.storage.bridge import Database
from clawsettle.storage.ledger_book import LedgerBook

ACCOUNTS = 10_000
HISTORY_EVENTS = 1_000_000
CURRENCY = "USD"
HOT, ALL = "one hot account", f"{ACCOUNTS:,} accounts"
_BATCH = 1000
_FUNDS_MINOR = 10**9


async def ledger(bench: Bench) -> Outcome:
    """Measure transfers and holds, in process and over HTTP, on many accounts and on a hot one."""
    name = "ledger"
    async with (
        funded_book(bench, name) as database,
        daemon(bench.server, database, name, bench.scratch) as running,
    ):
        port = int(running.ledger_url.rpartition(":")[2])
        jobs: dict[str, Load] = {}
        for kind, hot in product(KINDS, (False, True)):
            traffic = LedgerTraffic(kind, ACCOUNTS, hot)
            label = f"{kind}, {HOT if hot else ALL}"
            jobs[f"{label}, in process"] = _keeper_job(bench, name, traffic)
            jobs[f"{label}, over HTTP"] = Job(
                port, 1, 0, LEDGER_KEY, ledger=traffic, pids=running.pids
            )
        figures: list[Figure] = []
        for concurrency in CONCURRENCIES:
            at = {label: evolve(job, concurrency=concurrency) for label, job in jobs.items()}
            figures += await bench.take_turns(at, bench.seconds / 2)
    return Outcome(figures)


async def ledger_shares(bench: Bench) -> Outcome:
    """Compare transfers with the same without the hashes, and without the postings.

    Each has a database of its own, for a book that leaves a part out is none. The parts are left
    out in the bench's process only; see ``bench.keeper``.
    """
    async with AsyncExitStack() as stack:
        jobs: dict[str, Load] = {}
        parts: tuple[Literal["hashes", "postings"] | None, ...] = (None, "hashes", "postings")
        for part in parts:
            name = f"ledger_without_{part or 'nothing'}"
            await stack.enter_async_context(funded_book(bench, name))
            job = _keeper_job(bench, name, LedgerTraffic("transfers", ACCOUNTS, hot=True))
            label = f"transfers, {HOT}, {f'without {part}' if part else 'whole'}"
            jobs[label] = evolve(job, concurrency=BUSY, without=part)
        whole, *reduced = figures = await bench.take_turns(jobs, bench.seconds / 2)
    facts: dict[str, object] = {}
    for part, figure in zip(parts[1:], reduced, strict=True):
        facts[f"{part}_cost_share"] = round(1 - figure.cost_ratio(whole), 3)
        facts[f"{part}_rate_ratio"] = round(figure.rate_ratio(whole), 3)
    return Outcome(figures, facts)


async def ledger_history(bench: Bench) -> Outcome:
    """Compare the cost of a transfer in a book of many events with that in a new one.

    The ledger itself has written the history, so its rows, tables and indexes are as they would be.
    """
    async with AsyncExitStack() as stack:
        books = {"ledger_new": 0, "ledger_old": HISTORY_EVENTS}
        for name, count in books.items():
            database = await stack.enter_async_context(funded_book(bench, name))
            await _write_history(bench, database, count)
        figures: list[Figure] = []
        facts: dict[str, object] = {}
        for word, hot in (("hot", True), ("spread", False)):
            traffic = LedgerTraffic("transfers", ACCOUNTS, hot)
            jobs: dict[str, Load] = {
                f"transfers, {HOT if hot else ALL}, {count:,} before": evolve(
                    _keeper_job(bench, name, traffic), concurrency=BUSY
                )
                for name, count in books.items()
            }
            new, old = found = await bench.take_turns(jobs, bench.seconds / 2)
            figures += found
            facts[f"{word}_cost_ratio"] = round(old.cost_ratio(new), 3)
            facts[f"{word}_rate_ratio"] = round(old.rate_ratio(new), 3)
    return Outcome(figures, facts)


def _keeper_job(bench: Bench, name: str, traffic: LedgerTraffic) -> KeeperJob:
    return KeeperJob(bench.server.dsn_of(name), traffic, 1, 0, pids=(bench.server.pid,))


@asynccontextmanager
async def funded_book(bench: Bench, name: str) -> AsyncIterator[Database]:
    """Make a database whose ledger has accounts with money on them."""
    async with migrated_database(bench.server, name) as database:
        await _write(database, [OpenAccount(did(number)) for number in range(ACCOUNTS)])
        await _write(database, [_payin(number) for number in range(ACCOUNTS)])
        await settle(database)
        yield database


async def fund_clearing(database: Database, domain: str, amount_minor: int) -> None:
    """Move money of one account of a funded book, which has 10**9, to a clearing account."""
    order = {
        "idempotency_key": f"bench:fund:{domain}",
        "currency": CURRENCY,
        "from": {"account": did(0), "bucket": "A"},
        "to": {"account": f"clearing:{domain}", "bucket": "A"},
        "amount_minor": str(amount_minor),
    }
    await _write(database, [parse_transfer(order, currency=CURRENCY)])


def _payin(number: int) -> Command:
    body = {
        "provider": "bench",
        "external_payment_id": f"py_{number}",
        "direction": "payin",
        "status": "confirmed",
        "account_id": account_ids(did(number))[0],
        "amount_minor": str(_FUNDS_MINOR),
        "currency": CURRENCY,
    }
    return parse_ingest(f"bench:{number}", body)


async def _write_history(bench: Bench, database: Database, count: int) -> None:
    """Have the ledger write ``count`` transfers between all accounts."""
    traffic = LedgerTraffic("transfers", ACCOUNTS, hot=False)
    for first in range(0, count, _BATCH):
        bodies = (traffic.request(0, turn)[1] for turn in range(first, first + _BATCH))
        await _write(database, [parse_transfer(body, currency=CURRENCY) for body in bodies])
        if (first + _BATCH) % 100_000 == 0:
            bench.say(f"  {first + _BATCH:,} of {count:,} transfers are in the book")
    await settle(database)


async def _write(database: Database, commands: Sequence[Command]) -> None:
    """Have the ledger decide and store commands; none may be refused."""
    book = LedgerBook(database, CURRENCY)
    for first in range(0, len(commands), _BATCH):
        batch = commands[first : first + _BATCH]
        for result in await book.apply(batch, partial(decide_all, commands=batch)):
            if isinstance(result, Exception):
                raise result
