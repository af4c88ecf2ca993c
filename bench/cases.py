"""What is measured: each case makes its parties, runs its rounds, and returns its figures."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from statistics import median

import trio
from attrs import evolve

from bench.database import fill_backlog, fill_history, open_count, transaction_count
from bench.generator import Job, Result
from bench.measurement import BUSY, CONCURRENCIES, Bench, Figure, Outcome
from bench.parties import (
    SECRET,
    Daemon,
    daemon,
    migrated_database,
    open_accounts,
    python_party,
)
from clawsettle.storage.bridge import Transaction

ACCOUNTS = 1000
BACKLOG_ROWS = 100_000
HISTORY_EVENTS = 1_000_000
OPEN_TRANSACTION_S = 300.0
MEMORY_EVENTS = 200_000
FLOOD_S = 10.0
BARE, QUART = "bare ASGI on hypercorn", "plain quart-trio"
_STATISTICS_S = 2.0  # PostgreSQL's sessions tell their counters once a second at most


async def throughput(bench: Bench) -> Outcome:
    """Measure the intake in its forms, and what it refuses, beside two floors."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        bare, quart = [
            await enter(python_party("bench.floors", kind)) for kind in ("bare", "quart")
        ]
        stub_port, _ = await enter(python_party("bench.ledger_stub"))
        embedded = await enter(bench.daemon("embedded"))
        committed = await enter(
            bench.daemon("committed", {"CLAWSETTLE_FORWARDING__ACKNOWLEDGE": "committed"})
        )
        http_settings = {
            "CLAWSETTLE_LEDGER__MODE": "http",
            "LEDGER_BASE_URL": f"http://127.0.0.1:{stub_port}",
        }
        over_http = await enter(bench.daemon("over_http", http_settings))
        own = _job(embedded, await open_accounts(embedded.ledger_url, ACCOUNTS))
        jobs = {
            BARE: Job(bare[0], 1, 0, SECRET, ["acc_0"], pids=[bare[1]]),
            QUART: Job(quart[0], 1, 0, SECRET, ["acc_0"], pids=[quart[1]]),
            "embedded ledger": own,
            "acknowledged when committed": _job(
                committed, await open_accounts(committed.ledger_url, ACCOUNTS)
            ),
            "stub ledger over HTTP": _job(over_http, ["acc_0"]),
            "replay of one event": evolve(own, traffic="replay"),
            "invalid signatures": evolve(own, traffic="forged"),
        }
        figures: list[Figure] = []
        for concurrency in CONCURRENCIES:
            at = {name: evolve(job, concurrency=concurrency) for name, job in jobs.items()}
            figures += await bench.take_turns(at)
        return Outcome(figures)


async def flood(bench: Bench) -> Outcome:
    """Count what a flood of wrongly signed requests costs the database: nothing."""
    async with bench.daemon("flood") as running:
        job = evolve(_job(running, ["acc_0"]), concurrency=BUSY, traffic="forged", seconds=FLOOD_S)
        idle = await _transactions(running, partial(trio.sleep, FLOOD_S))
        flooded = await _transactions(running, partial(bench.measure, "invalid signatures", job))
        return Outcome(facts={"transactions_idle": idle, "transactions_in_flood": flooded})


async def _transactions(running: Daemon, act: Callable[[], Awaitable[object]]) -> int:
    """Return how many transactions the daemon's database saw while ``act`` went on."""
    await trio.sleep(_STATISTICS_S)
    before = await transaction_count(running.database)
    await act()
    await trio.sleep(_STATISTICS_S)
    return await transaction_count(running.database) - before


async def drain(bench: Bench) -> Outcome:
    """Measure how fast a new daemon works off a backlog into the embedded ledger."""
    rates: list[float] = []
    for number in range(bench.rounds):
        name = f"drain_{number}"
        async with migrated_database(bench.server, name) as database:
            async with daemon(bench.server, database, name, bench.scratch) as running:
                account_ids = await open_accounts(running.ledger_url, ACCOUNTS)
            await fill_backlog(database, BACKLOG_ROWS, account_ids)
            async with daemon(bench.server, database, name, bench.scratch):
                begun = trio.current_time()
                first = left = await open_count(database)
                while left:
                    await trio.sleep(0.1)
                    left = await open_count(database)
                rates.append(round(first / (trio.current_time() - begun)))
        bench.say(f"  backlog of {first:,} rows: {rates[-1]:.0f}/s")
    return Outcome(facts={"rows": BACKLOG_ROWS, "rows_per_s": median(rates), "rounds": rates})


async def history(bench: Bench) -> Outcome:
    """Compare the cost of an event in a database full of processed ones with an empty one's."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        jobs: dict[str, Job] = {}
        for name, events in (("without_history", 0), ("with_history", HISTORY_EVENTS)):
            running = await enter(bench.daemon(name))
            account_ids = await open_accounts(running.ledger_url, ACCOUNTS)
            if events:
                await fill_history(running.database, events, account_ids, bench.say)
            jobs[f"{events:,} processed events"] = evolve(
                _job(running, account_ids), concurrency=BUSY
            )
        empty, full = figures = await bench.take_turns(jobs)
        facts = {"cost_ratio": full.cost_ratio(empty), "rate_ratio": full.rate_ratio(empty)}
        return Outcome(figures, facts)


async def open_transaction(bench: Bench) -> Outcome:
    """Compare the cost of an event while a transaction is held open with the cost without one.

    Two daemons, each with its database, take turns under load; in one of them a transaction with
    a snapshot is open all the time, so that nothing it could still see may be cleaned up.
    """
    held = trio.Event()

    async def hold(running: Daemon) -> None:
        token = trio.lowlevel.current_trio_token()

        async def idle(transaction: Transaction) -> None:
            await transaction.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await transaction.fetch("SELECT count(*) FROM stripe_event")
            token.run_sync_soon(held.set)
            while True:
                await transaction.fetch("SELECT pg_sleep(1)")

        await running.database.transaction(idle)

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        jobs: dict[str, Job] = {}
        for name in ("without", "with"):
            running = await stack.enter_async_context(bench.daemon(f"{name}_open_transaction"))
            account_ids = await open_accounts(running.ledger_url, ACCOUNTS)
            jobs[f"{name} an open transaction"] = evolve(
                _job(running, account_ids), concurrency=BUSY, seconds=bench.seconds
            )
        nursery.start_soon(hold, running)
        await held.wait()
        samples: dict[str, list[Result]] = {name: [] for name in jobs}
        ends = trio.current_time() + OPEN_TRANSACTION_S
        while trio.current_time() < ends:
            for name, job in jobs.items():
                samples[name].append(await bench.measure(name, job))
        nursery.cancel_scope.cancel()
    without, with_one = [Figure(name, BUSY, found[-5:]) for name, found in samples.items()]
    facts = {
        "held_s": OPEN_TRANSACTION_S,
        "events_meanwhile": sum(sample.requests for sample in samples[with_one.name]),
        "cost_ratio_at_the_end": with_one.cost_ratio(without),
        "rate_ratio_at_the_end": with_one.rate_ratio(without),
    }
    return Outcome([without, with_one], facts)


async def memory(bench: Bench) -> Outcome:
    """Watch a daemon's memory over many events."""
    async with bench.daemon("memory") as running:
        job = evolve(
            _job(running, await open_accounts(running.ledger_url, ACCOUNTS)),
            concurrency=BUSY,
            requests_max=MEMORY_EVENTS // 10,
        )
        rss_mb: list[float] = []
        for _ in range(10):
            await bench.measure("memory", job)
            rss_mb.append(round(running.rss_mb(), 1))
            bench.say(f"  resident: {rss_mb[-1]} MB")
        return Outcome(facts={"events": MEMORY_EVENTS, "rss_mb": rss_mb})


def _job(running: Daemon, account_ids: Sequence[str]) -> Job:
    return Job(running.port, 1, 0, SECRET, account_ids, pids=running.pids)
