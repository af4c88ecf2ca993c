"""What is measured of payouts: creating them, and taking the provider's word that they are paid."""

from contextlib import AsyncExitStack
from functools import partial

from attrs import evolve

from bench.cases import BARE, QUART
from bench.database import onboard
from bench.generator import Job, Result
from bench.ledger_cases import funded_book
from bench.ledger_traffic import did
from bench.measurement import CONCURRENCIES, Bench, Figure, Outcome
from bench.parties import SECRET, SETTLE_KEY, Daemon, daemon, python_party
from bench.payout_traffic import PayoutTraffic
from clawsettle.domain.accounts import account_ids
from clawsettle.sandbox.stripe_objects import stripe_id

ACCOUNTS = 1000
PER_SECOND = {1: 150, 16: 600, 64: 800}
DIDS = {account_ids(did(number))[0]: did(number) for number in range(ACCOUNTS)}
SETTINGS = {"SETTLE_ENV": "staging", "CLAWSETTLE_PAYOUTS__PROVIDER": "simulated"}


async def payouts(bench: Bench) -> Outcome:
    """Measure orders of payouts and their ``payout.paid`` events, beside two floors.

    In each round so many payouts are created, and then all of them are paid.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        bare, quart = [
            await enter(python_party("bench.floors", kind)) for kind in ("bare", "quart")
        ]
        stub_port, _ = await enter(python_party("bench.ledger_stub"))
        parties = {}
        for name, ledger in (
            (
                "stub ledger over HTTP",
                {
                    "CLAWSETTLE_LEDGER__MODE": "http",
                    "LEDGER_BASE_URL": f"http://127.0.0.1:{stub_port}",
                },
            ),
            ("embedded ledger", {}),
        ):
            database_name = f"payouts_{name.partition(' ')[0]}"
            database = await enter(funded_book(bench, database_name))
            await onboard(database, DIDS)
            parties[name] = await enter(
                daemon(bench.server, database, database_name, bench.scratch, {**SETTINGS, **ledger})
            )
        floors = {
            BARE: Job(bare[0], 1, 0, SECRET, ["acc_0"], pids=[bare[1]]),
            QUART: Job(quart[0], 1, 0, SECRET, ["acc_0"], pids=[quart[1]]),
        }
        figures: list[Figure] = []
        for concurrency in CONCURRENCIES:
            samples: dict[str, list[Result]] = {}
            measure = partial(_measure, bench, samples)
            for _ in range(bench.rounds):
                for name, job in floors.items():
                    await measure(name, evolve(job, concurrency=concurrency, seconds=bench.seconds))
                for name, running in parties.items():
                    job = creation(
                        running, concurrency, int(PER_SECOND[concurrency] * bench.seconds)
                    )
                    await measure(f"created, {name}", job)
                    await measure(f"paid, {name}", payment(job))
            figures += [Figure(name, concurrency, found) for name, found in samples.items()]
        return Outcome(figures)


async def _measure(bench: Bench, samples: dict[str, list[Result]], name: str, job: Job) -> None:
    samples.setdefault(name, []).append(await bench.measure(name, job))


def creation(running: Daemon, concurrency: int, count: int) -> Job:
    """Return the job of creating ``count`` payouts of a new series."""
    return Job(
        running.port,
        concurrency,
        0,
        SETTLE_KEY,
        list(DIDS),
        payouts=PayoutTraffic("create", stripe_id("x")),
        requests_max=count,
        pids=running.pids,
    )


def payment(job: Job) -> Job:
    """Return the job of saying that all payouts of a job are paid."""
    assert job.payouts is not None
    return evolve(job, secret=SECRET, payouts=evolve(job.payouts, kind="paid"))
