"""What is measured of netting: runs of many sizes, what queueing costs, and what a history does."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import httpx
from attrs import define, field

from bench.database import forget_netting, net_all, onboard, pay, settle, stop_queueing
from bench.generator import Result
from bench.ledger_cases import ACCOUNTS, fund_clearing, funded_book
from bench.ledger_traffic import did
from bench.measurement import BUSY, Bench, Figure, Outcome
from bench.parties import SETTLE_KEY, Daemon, daemon, python_party
from bench.payout_cases import DIDS, PER_SECOND, SETTINGS, creation, payment
from clawsettle.config import Settings
from clawsettle.domain.accounts import account_ids
from clawsettle.storage.bridge import Database
from clawsettle.storage.migrate import apply_migrations

# Payouts of a run, and the accounts that they go to.
SMALL = {1: 1, 10: 10, 100: 100, 500: 1}
LARGE = 100_000, ACCOUNTS
OVER_HTTP = 500, 500
HISTORY_PAYOUTS = 1_000_000
_AMID_HISTORY = 100
_FUNDS_MINOR = 10**9
_ANSWER_S = 120.0
_CONCURRENCIES = (16, BUSY)
_ACCOUNT_DIDS = {account_ids(did(number))[0]: did(number) for number in range(ACCOUNTS)}


async def netting(bench: Bench) -> Outcome:
    """Measure runs from request to answer, and what netting costs those who do not ask for it."""
    facts: dict[str, object] = {
        "small": await _small(bench),
        "large": await _large(bench),
        "over_http": await _over_http(bench),
        "migration_and_history": await _migration_and_history(bench),
    }
    figures, ratios = await _queueing(bench)
    return Outcome(figures, {**facts, "queueing": ratios})


@define
class _Site:
    """A daemon that nets, and how many payouts have been paid there."""

    running: Daemon
    paid_count: int = 0
    answer_bytes: int = field(default=0, init=False)

    async def net(self, payout_count: int, account_count: int) -> float:
        """Have so many payouts be paid, and net them; return how long the run took, in ms."""
        some = list(_ACCOUNT_DIDS)[:account_count]
        await pay(self.running.database, self.paid_count + 1, payout_count, some)
        self.paid_count += payout_count
        async with httpx.AsyncClient(timeout=_ANSWER_S) as client:
            begun = time.perf_counter()
            answer = await client.post(
                f"http://127.0.0.1:{self.running.port}/v1/netting/runs",
                json={"limit": payout_count},
                headers={
                    "authorization": f"Bearer {SETTLE_KEY}",
                    "idempotency-key": f"run:{self.paid_count}",
                },
            )
            ended = time.perf_counter()
        run = answer.raise_for_status().json()["run"]
        counts = run["status"], run["candidate_count"], run["applied_count"]
        assert counts == ("applied", payout_count, account_count), run
        self.answer_bytes = len(answer.content)
        return round((ended - begun) * 1000, 1)


@asynccontextmanager
async def _site(
    bench: Bench, name: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[_Site]:
    """Run a daemon on a new book whose clearing account covers what is paid there."""
    async with funded_book(bench, name) as database:
        await _prepare(database)
        async with daemon(
            bench.server, database, name, bench.scratch, {**SETTINGS, **(settings or {})}
        ) as running:
            yield _Site(running)


async def _prepare(database: Database) -> None:
    await onboard(database, _ACCOUNT_DIDS)
    await fund_clearing(database, Settings().payouts.clearing_domain, _FUNDS_MINOR)
    await settle(database)


async def _small(bench: Bench) -> Mapping[str, object]:
    """Measure runs that somebody waits for; the first of each size warms up."""
    async with _site(bench, "netting_small") as site:
        found: dict[str, object] = {}
        for payout_count, account_count in SMALL.items():
            taken_ms = await _rounds(bench, site, payout_count, account_count)
            found[_label(payout_count, account_count)] = taken_ms
        return found


async def _rounds(
    bench: Bench, site: _Site, payout_count: int, account_count: int
) -> Mapping[str, object]:
    """Return the median of the rounds, and each of them, in ms."""
    await site.net(payout_count, account_count)
    rounds_ms = [await site.net(payout_count, account_count) for _ in range(bench.rounds)]
    bench.say(f"  {_label(payout_count, account_count)}: {rounds_ms} ms")
    return {"median_ms": round(median(rounds_ms)), "rounds_ms": rounds_ms}


def _label(payout_count: int, account_count: int) -> str:
    return f"payouts {payout_count:,}, accounts {account_count:,}"


async def _large(bench: Bench) -> Mapping[str, object]:
    """Measure the largest run that there may be, and the memory of the daemon, which is new."""
    async with _site(bench, "netting_large") as site:
        idle_mb = site.running.rss_mb()
        taken_ms: list[float] = []
        peaks_mb: list[float] = []
        for _ in range(bench.rounds):
            taken_ms.append(await site.net(*LARGE))
            peaks_mb.append(round(site.running.peak_rss_mb(), 1))
            bench.say(f"  {_label(*LARGE)}: {taken_ms[-1]} ms, peak {peaks_mb[-1]} MB")
            await settle(site.running.database)
        return {
            "median_ms": round(median(taken_ms)),
            "rounds_ms": taken_ms,
            "idle_rss_mb": round(idle_mb, 1),
            "peak_rss_mb": peaks_mb,
            "answer_mb": round(site.answer_bytes / 1e6, 1),
        }


async def _over_http(bench: Bench) -> Mapping[str, object]:
    """Measure a run whose ledger is the stub, which keeps nothing."""
    async with python_party("bench.ledger_stub") as (port, _):
        settings = {
            "CLAWSETTLE_LEDGER__MODE": "http",
            "LEDGER_BASE_URL": f"http://127.0.0.1:{port}",
        }
        async with _site(bench, "netting_over_http", settings) as site:
            return await _rounds(bench, site, *OVER_HTTP)


async def _migration_and_history(bench: Bench) -> Mapping[str, object]:
    """Measure the migration that queues what was paid before, and a run amid what was netted."""
    async with AsyncExitStack() as stack:
        new = await stack.enter_async_context(_site(bench, "netting_new"))
        name = "netting_old"
        database = await stack.enter_async_context(funded_book(bench, name))
        await forget_netting(database)
        await _prepare(database)
        await pay(database, 1, HISTORY_PAYOUTS, list(_ACCOUNT_DIDS))
        await settle(database)
        begun = time.perf_counter()
        await apply_migrations(database)
        migration_s = round(time.perf_counter() - begun, 1)
        bench.say(
            f"  {HISTORY_PAYOUTS:,} paid payouts are queued by the migration: {migration_s} s"
        )
        await net_all(database)
        await settle(database)
        running = await stack.enter_async_context(
            daemon(bench.server, database, name, bench.scratch, SETTINGS)
        )
        sites = {"0": new, f"{HISTORY_PAYOUTS:,}": _Site(running, HISTORY_PAYOUTS)}
        taken_ms: dict[str, list[float]] = {before: [] for before in sites}
        for turn in range(bench.rounds + 1):
            for before, site in sites.items():
                run_ms = await site.net(_AMID_HISTORY, _AMID_HISTORY)
                if turn:  # the first one warms up
                    taken_ms[before].append(run_ms)
        return {
            "payouts": HISTORY_PAYOUTS,
            "migration_s": migration_s,
            "median_ms_by_netted_before": {
                before: round(median(spent_ms)) for before, spent_ms in taken_ms.items()
            },
            "rounds_ms": taken_ms,
        }


async def _queueing(bench: Bench) -> tuple[Sequence[Figure], Mapping[str, float]]:
    """Compare the provider's word that a payout is paid with and without the queue of netting."""
    async with AsyncExitStack() as stack:
        parties: dict[str, Daemon] = {}
        for name, is_queued in (("paid, not queued", False), ("paid, queued", True)):
            database_name = f"netting_queue_{is_queued}".lower()
            database = await stack.enter_async_context(funded_book(bench, database_name))
            await onboard(database, DIDS)
            if not is_queued:
                await stop_queueing(database)
            parties[name] = await stack.enter_async_context(
                daemon(bench.server, database, database_name, bench.scratch, SETTINGS)
            )
        figures: list[Figure] = []
        ratios: dict[str, float] = {}
        for concurrency in _CONCURRENCIES:
            samples: dict[str, list[Result]] = {name: [] for name in parties}
            for _ in range(bench.rounds):
                for name, running in parties.items():
                    count = int(PER_SECOND[concurrency] * bench.seconds)
                    job = creation(running, concurrency, count)
                    await bench.measure("created", job)
                    samples[name].append(await bench.measure(name, payment(job)))
            without, queued = [Figure(name, concurrency, found) for name, found in samples.items()]
            figures += [without, queued]
            ratios[f"cost_ratio_{concurrency}"] = round(queued.cost_ratio(without), 3)
            ratios[f"rate_ratio_{concurrency}"] = round(queued.rate_ratio(without), 3)
        return figures, ratios
