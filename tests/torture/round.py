"""One round: daemons under load, a strike at a random moment, recovery, and the audit."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

import trio
from attrs import frozen

from clawsettle.sandbox.risk_targets import open_risk_sandbox
from clawsettle.storage.bridge import open_database
from clawsettle.storage.embedded import SOCKET_NAME
from tests.torture.audit import finish_open_rows
from tests.torture.commit_cutter import CommitCutter
from tests.torture.kinds import KINDS, TAKEOVER_MAX_S, Kind, Round
from tests.torture.site import LEASE_S, Daemon, Site, open_site
from tests.torture.traffic import Plan

READY_MAX_S = 5.0
ACCOUNTS = 10


@frozen
class Result:
    """What one round came to; it held when ``problems`` is empty. Times in seconds.

    ``counts`` are events of the journal by type, and refusals by code.
    """

    kind: str
    seed: str
    acknowledge: str
    sent_count: int
    acknowledged_count: int
    outcomes: dict[str, int]
    counts: dict[str, int]
    load_s: float
    ready_s: float | None
    takeover_s: float | None
    p99_s: float | None
    problems: list[str]


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Mount a disk of this size on ``folder``; needs a mount namespace that allows it."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder)],
        check=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def open_kind_site(name: str, folder: Path) -> AsyncIterator[Site]:
    """Open the site that the rounds of a kind need; ``folder`` is new and its path short."""
    kind = KINDS[name]
    if kind.disk_bytes is None:
        async with open_site(folder) as site:
            yield site
        return
    with small_disk(folder / "postgres", kind.disk_bytes):
        async with open_site(folder) as site:
            yield site


async def run_round(
    site: Site, name: str, seed: str, concurrency: int, load_s: float | None = None
) -> Result:
    """Run one round; what it does and when follows from ``seed``.

    The load lasts at least ``load_s``, or as long as the kind says.
    """
    rng, kind = Random(seed), KINDS[name]
    acknowledge = rng.choice(("attempted", "committed"))
    database_name = await site.create_database()
    database_url = site.server.dsn_of(database_name)
    async with trio.open_nursery() as nursery:
        cutter = await nursery.start(_run_cutter, site) if kind.cuts else None
        daemon_url = database_url if cutter is None else cutter.dsn_of(database_name)
        async with (
            open_risk_sandbox() as targets,
            site.daemons(kind.daemons, daemon_url, acknowledge, targets.addresses) as daemons,
        ):
            account_ids = await open_accounts(daemons[0])
            plan = Plan(daemons, targets, account_ids, concurrency, acknowledge, seed)
            load = kind.traffic.load(plan)
            round_ = Round(site, daemons, load, rng, database_url, cutter)
            result = await _run(
                round_, kind, name, seed, acknowledge, kind.load_s if load_s is None else load_s
            )
        nursery.cancel_scope.cancel()
    await site.drop_database(database_name)
    return result


async def open_accounts(daemon: Daemon) -> dict[str, str]:
    """Open the accounts of a load; return their ids by DID."""
    accounts = [
        await daemon.ledger("POST", "/accounts", {"did": f"did:key:torture-{number}"})
        for number in range(ACCOUNTS)
    ]
    return {str(account["did"]): str(account["id"]) for account in accounts}


async def _run(
    round_: Round, kind: Kind, name: str, seed: str, acknowledge: str, load_s: float
) -> Result:
    load, takeover_s, counts = round_.load, None, {}
    begun_at = ended_at = trio.current_time()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await load.acknowledges(round_.rng.randint(100, 400))
            await trio.sleep(round_.rng.uniform(0, 0.2))
            await trio.sleep_until(begun_at + load_s * round_.rng.uniform(0.4, 0.6))
            await kind.strike(round_)
            await load.acknowledges(200)
            await trio.sleep_until(begun_at + load_s)
            load.stop()
        ended_at = trio.current_time()
        async with open_database(round_.database_url) as database:
            round_.problems += await finish_open_rows(database, LEASE_S + 5)
            found = await kind.traffic.audit(database, round_.daemons, load, round_.struck_at)
        round_.problems += found.problems
        takeover_s = found.takeover_s if kind.takes_over else None
        counts = dict(sorted(found.counts.items()))
    except* AssertionError as group:
        round_.problems += [str(fault) for fault in group.exceptions]
    outcomes = load.outcomes()
    foreign = {outcome: n for outcome, n in outcomes.items() if outcome not in kind.outcomes}
    round_.expect(holds=not foreign, fault=f"answers that may not be: {foreign}")
    for figure, value, limit in (
        ("ready again", round_.ready_s, READY_MAX_S),
        ("taken over", takeover_s, TAKEOVER_MAX_S),
    ):
        too_late = value is not None and value > limit
        round_.expect(holds=not too_late, fault=f"{figure} after {value} s")
    return Result(
        name,
        seed,
        acknowledge,
        load.sent_count,
        len(load.acknowledged),
        {str(outcome): n for outcome, n in sorted(outcomes.items(), key=str)},
        counts,
        ended_at - begun_at,
        round_.ready_s,
        takeover_s,
        load.p99_s(),
        round_.problems,
    )


async def _run_cutter(site: Site, *, task_status: trio.TaskStatus[CommitCutter]) -> None:
    folder = site.folder / "cutter"
    folder.mkdir(exist_ok=True)
    cutter = CommitCutter(folder, site.server.socket_dir / SOCKET_NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(cutter.run)
        task_status.started(cutter)
