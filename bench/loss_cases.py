"""What is measured of loss events: recording them, telling five targets, and how soon they hear."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.client import HTTPConnection
from statistics import median

import trio
from attrs import frozen

from bench.database import delivery_states, open_delivery_count, queue_losses
from bench.generator import Job, Result
from bench.ledger_cases import ACCOUNTS, funded_book
from bench.ledger_traffic import did
from bench.loss_traffic import LossTraffic
from bench.measurement import Bench, Figure, Outcome
from bench.parties import SETTLE_KEY, Daemon, daemon, python_party
from bench.target_stub import ARRIVALS
from clawsettle.domain.loss_events import Target
from clawsettle.domain.loss_requests import parse_loss
from clawsettle.sandbox.stripe_objects import stripe_id

# Creators at a time, and how many events they record.
RUNS = (1, 300), (16, 300), (16, 3000)
QUEUED_EVENTS = 2000
LOW_LOAD_EVENTS = 300
_LOW_LOAD_PAUSE_S = 0.03
_POLL_S = 0.01
_DIDS = [did(number) for number in range(ACCOUNTS)]
_KEYS = {
    "ESCROW": "ESCROW_RISK_KEY",
    "CLAWINSURE": "INSURE_RISK_KEY",
    "CLAWINCOME": "INCOME_RISK_KEY",
    "CLAWBOUNTIES": "BOUNTIES_RISK_KEY",
}
OVER_HTTP, EMBEDDED = "five targets over HTTP", "four over HTTP, embedded ledger"


async def losses(bench: Bench) -> Outcome:
    """Measure events from their creators to their targets, with the ledger over HTTP and without.

    What is told is how many events a second are acknowledged, how many deliveries a second are
    recorded as forwarded, and how soon the first target hears of an event.
    """
    async with AsyncExitStack() as stack:
        sites = {
            name: await stack.enter_async_context(_site(bench, name))
            for name in (OVER_HTTP, EMBEDDED)
        }
        figures: list[Figure] = []
        facts: dict[str, object] = {}
        for concurrency, count in RUNS:
            found, told = await _record(bench, sites, concurrency, count)
            figures += found
            facts[f"{count} events, {concurrency} at a time"] = told
        facts["low_load"] = {name: await _low_load(bench, site) for name, site in sites.items()}
    facts["drain"] = {name: await _drain(bench, name) for name in (OVER_HTTP, EMBEDDED)}
    return Outcome(figures, facts)


@frozen
class _Site:
    """A daemon and its targets."""

    running: Daemon
    stub_port: int

    async def told(self) -> None:
        """Wait until no delivery is on its way any more."""
        left = await open_delivery_count(self.running.database)
        while left:
            await trio.sleep(_POLL_S)
            left = await open_delivery_count(self.running.database)


@asynccontextmanager
async def _site(bench: Bench, name: str) -> AsyncIterator[_Site]:
    database_name = _database_name(name)
    async with (
        funded_book(bench, database_name) as database,
        python_party("bench.target_stub") as (stub_port, _),
        daemon(
            bench.server, database, database_name, bench.scratch, _settings(name, stub_port)
        ) as running,
    ):
        yield _Site(running, stub_port)
        assert await delivery_states(database) == {"forwarded"}


def _database_name(name: str, suffix: object = "") -> str:
    return f"losses_{name.split(maxsplit=1)[0]}{suffix}"


def _settings(name: str, stub_port: int) -> Mapping[str, str]:
    address = f"http://127.0.0.1:{stub_port}"
    settings = {f"{target}_BASE_URL": address for target in _KEYS}
    settings |= dict.fromkeys(_KEYS.values(), "risk_bench")
    if name == OVER_HTTP:
        settings |= {"CLAWSETTLE_LEDGER__MODE": "http", "LEDGER_BASE_URL": address}
    return settings


async def _record(
    bench: Bench, sites: Mapping[str, _Site], concurrency: int, count: int
) -> tuple[Sequence[Figure], Mapping[str, object]]:
    """Record events by turns; return how they were acknowledged, and deliveries/s of each round.

    The time of the deliveries is that from before the first request until all are seen recorded.
    """
    samples: dict[str, list[Result]] = {name: [] for name in sites}
    rates: dict[str, list[float]] = {name: [] for name in sites}
    for _ in range(bench.rounds):
        for name, site in sites.items():
            job = Job(
                site.running.port,
                concurrency,
                0,
                SETTLE_KEY,
                _DIDS,
                losses=LossTraffic(stripe_id("x")),
                requests_max=count,
                pids=site.running.pids,
            )
            result = await bench.measure(f"recorded, {name}", job)
            await site.told()
            taken_s = time.monotonic() - result.began_at
            assert result.statuses == {"201": count}, result.statuses
            samples[name].append(result)
            rates[name].append(round(count * len(Target) / taken_s))
            bench.say(f"    deliveries: {rates[name][-1]}/s")
    figures = [Figure(f"recorded, {name}", concurrency, found) for name, found in samples.items()]
    return figures, {name: _median("per_s", found) for name, found in rates.items()}


async def _low_load(bench: Bench, site: _Site) -> Mapping[str, object]:
    """Measure how long after its request was sent an event's first post arrives, one at a time.

    The event is committed in between, so it is longer than from the commit. The first round warms
    up.
    """
    rounds: list[Mapping[str, float]] = []
    for _ in range(bench.rounds + 1):
        rounds.append(await trio.to_thread.run_sync(partial(_one_at_a_time, site)))
        bench.say(f"  low load: {rounds[-1]} ms")
    del rounds[0]
    medians = {name: round(median(one[name] for one in rounds), 1) for name in rounds[0]}
    return {**medians, "rounds": rounds}


def _one_at_a_time(site: _Site) -> Mapping[str, float]:
    """Record events with pauses; return quantiles in ms."""
    creator = HTTPConnection("127.0.0.1", site.running.port)
    traffic = LossTraffic(stripe_id("x"))
    sent_at: dict[str, float] = {}
    answered: list[float] = []
    for number in range(LOW_LOAD_EVENTS):
        key, body = traffic.order(number, _DIDS[number])
        headers = {"authorization": f"Bearer {SETTLE_KEY}", "idempotency-key": key}
        began = time.monotonic()
        creator.request("POST", "/v1/loss-events", body, headers)
        answer = creator.getresponse()
        told = json.loads(answer.read())
        answered.append(time.monotonic() - began)
        sent_at[told["event"]["loss_event_id"]] = began
        time.sleep(_LOW_LOAD_PAUSE_S)
    targets = HTTPConnection("127.0.0.1", site.stub_port)
    targets.request("GET", ARRIVALS)
    arrivals = json.loads(targets.getresponse().read())
    firsts, lasts = [
        [arrivals[event_id][place] - began for event_id, began in sent_at.items()]
        for place in (0, 1)
    ]
    return {
        f"{name}_p{percent}_ms": _quantile_ms(found_s, percent)
        for name, found_s in (("answer", answered), ("first_post", firsts), ("last_post", lasts))
        for percent in (50, 99)
    }


async def _drain(bench: Bench, name: str) -> Mapping[str, object]:
    """Measure how fast a new daemon tells what was recorded when no target was configured."""
    rates: list[float] = []
    for number in range(bench.rounds):
        database_name = _database_name(name, number)
        traffic = LossTraffic(stripe_id("x"))
        orders = [traffic.order(place, _DIDS[place]) for place in range(QUEUED_EVENTS)]
        async with (
            funded_book(bench, database_name) as database,
            python_party("bench.target_stub") as (stub_port, _),
        ):
            await queue_losses(
                database, [parse_loss(key, json.loads(body)) for key, body in orders]
            )
            settings = _settings(name, stub_port)
            async with daemon(
                bench.server, database, database_name, bench.scratch, settings
            ) as running:
                begun = time.monotonic()
                first = await open_delivery_count(database)
                await _Site(running, stub_port).told()
                rates.append(round(first / (time.monotonic() - begun)))
            assert await delivery_states(database) == {"forwarded"}
        bench.say(f"  backlog of {first:,} deliveries, {name}: {rates[-1]}/s")
    return {"events": QUEUED_EVENTS, **_median("deliveries_per_s", rates)}


def _median(name: str, rounds: Sequence[float]) -> Mapping[str, object]:
    return {name: median(rounds), "rounds": rounds}


def _quantile_ms(found_s: Sequence[float], percent: int) -> float:
    ordered = sorted(found_s)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000, 1)
