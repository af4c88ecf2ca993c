"""What is measured: each case makes its parties, runs its rounds, and returns its figures."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

import trio
from attrs import evolve, field, frozen

from bench.database import fill_backlog, fill_history, open_count, transaction_count
from bench.generator import Job, Result
from bench.parties import (
    SECRET,
    Daemon,
    daemon,
    load,
    migrated_database,
    open_accounts,
    python_party,
)
from clawsettle.storage.bridge import Transaction
from clawsettle.storage.embedded import EmbeddedServer

ACCOUNTS = 1000
CONCURRENCIES = (1, 16, 64)
BUSY = 64
BACKLOG_ROWS = 100_000
HISTORY_EVENTS = 1_000_000
OPEN_TRANSACTION_S = 300.0
MEMORY_EVENTS = 200_000
FLOOD_S = 10.0
BARE, QUART = "bare ASGI on hypercorn", "plain quart-trio"
_STATISTICS_S = 2.0  # PostgreSQL's sessions tell their counters once a second at most


@frozen
class Bench:
    """Where the cases run, how many rounds of how many seconds; ``say`` reports progress."""

    server: EmbeddedServer
    scratch: Path
    rounds: int
    seconds: float
    say: Callable[[str], None]

    @asynccontextmanager
    async def daemon(
        self, name: str, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Daemon]:
        """Run a daemon on a fresh database of this name."""
        async with (
            migrated_database(self.server, name) as database,
            daemon(self.server, database, name, self.scratch, settings) as running,
        ):
            yield running

    async def measure(self, label: str, job: Job) -> Result:
        """Run one job and say what came of it."""
        result = await load(job)
        self.say(
            f"  {label:32} c{job.concurrency:<3} {result.rate:7.0f}/s"
            f"  p50 {result.p50_ms:6.2f}  p99 {result.p99_ms:6.2f} ms"
            f"  cpu {' + '.join(f'{cpu_us:.0f}' for cpu_us in result.cpu_us)} us"
            f"  {result.statuses}"
        )
        return result

    async def take_turns(self, jobs: Mapping[str, Job]) -> "list[Figure]":
        """Measure jobs one after another, so many rounds of them."""
        samples: dict[str, list[Result]] = {name: [] for name in jobs}
        for _ in range(self.rounds):
            for name, job in jobs.items():
                samples[name].append(await self.measure(name, evolve(job, seconds=self.seconds)))
        return [Figure(name, jobs[name].concurrency, samples[name]) for name in jobs]


@frozen
class Figure:
    """A party at a concurrency, and what each round measured of it."""

    name: str
    concurrency: int
    samples: Sequence[Result]

    @property
    def rate(self) -> float:
        """Return the median of the rounds' requests/s."""
        return median(sample.rate for sample in self.samples)

    @property
    def p50_ms(self) -> float:
        """Return the median of the rounds' median latencies."""
        return median(sample.p50_ms for sample in self.samples)

    @property
    def p99_ms(self) -> float:
        """Return the median of the rounds' 99th percentiles."""
        return median(sample.p99_ms for sample in self.samples)

    def cpu_us(self, place: int) -> float | None:
        """Return the median CPU time a request of one of the job's processes, in µs."""
        found = [sample.cpu_us[place] for sample in self.samples if len(sample.cpu_us) > place]
        return median(found) if found else None

    def rate_ratio(self, other: "Figure") -> float:
        """Return the median over the rounds of this rate divided by another's."""
        return median(a.rate / b.rate for a, b in zip(self.samples, other.samples, strict=True))

    def cost_ratio(self, other: "Figure") -> float:
        """Return the same for the CPU time a request, of all processes together."""
        pairs = zip(self.samples, other.samples, strict=True)
        return median(sum(a.cpu_us) / sum(b.cpu_us) for a, b in pairs)


@frozen
class Outcome:
    """What a case found: figures for the table, and facts, each a sentence's worth of numbers."""

    figures: Sequence[Figure] = ()
    facts: Mapping[str, object] = field(factory=dict)


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


CASES: Mapping[str, Callable[[Bench], Awaitable[Outcome]]] = {
    case.__name__: case for case in (throughput, flood, drain, history, open_transaction, memory)
}
