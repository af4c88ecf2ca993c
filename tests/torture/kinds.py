"""The kinds of rounds: what is done to the daemons and to PostgreSQL in the middle of the load."""

import errno
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import trio
from attrs import define, field, frozen

from clawsettle.storage.bridge import Database, Row, open_database
from tests.storage.deliveries import held, wait_for_locks
from tests.torture.commit_cutter import CommitCutter
from tests.torture.load import CLOSED, CUT, LATE, REFUSED, Load, get_status, in_time
from tests.torture.site import ANSWER_DEADLINE_S, LEASE_S, STATEMENT_TIMEOUT_S, Daemon, Site
from tests.torture.traffic import EVENTS, LOSSES, NETTING, ORDERS, Traffic

CUTS = 12
DISK_BYTES = 256 * 1024 * 1024
FULL_S = 1.0
GROWTH_MAX_MIB = 64
LEDGER_LOAD_S = NETTING_LOAD_S = LOSS_LOAD_S = 30.0
TAKEOVER_MAX_S = LEASE_S + 5
_LATE_BY_S = 1.0


@define(eq=False)
class Round:
    """One round under way; a strike notes here what it measured and what did not hold."""

    site: Site
    daemons: Sequence[Daemon]
    load: Load
    rng: Random
    database_url: str
    cutter: CommitCutter | None
    problems: list[str] = field(factory=list)
    struck_at: datetime | None = None
    ready_s: float | None = None

    @property
    def daemon(self) -> Daemon:
        """The only daemon, or the first one."""
        return self.daemons[0]

    def expect(self, *, holds: bool, fault: str) -> None:
        """Note a fault unless the condition holds."""
        if not holds:
            self.problems.append(fault)

    async def sees(self, outcome: int, since: float) -> None:
        """Wait until a delivery begun ``since`` then came to this."""
        with in_time(TAKEOVER_MAX_S, f"an answer {outcome}"):
            while not self.load.outcomes(since)[outcome]:  # noqa: ASYNC110 - polling is enough
                await trio.sleep(0.01)


@frozen(eq=False)
class Kind:
    """``strike`` begins under load and returns when the service should be whole again.

    Requests may come to ``outcomes`` and nothing else. ``daemons`` are their names, ``cuts`` puts
    the cutting proxy before PostgreSQL, ``disk_bytes`` PostgreSQL on a disk of that size. The load
    lasts at least ``load_s``, about half of it before the strike.
    """

    strike: Callable[[Round], Awaitable[None]]
    outcomes: frozenset[int | str]
    daemons: tuple[str, ...] = ("a",)
    cuts: bool = False
    takes_over: bool = False
    disk_bytes: int | None = None
    traffic: Traffic[Any] = EVENTS
    load_s: float = 0.0


async def kill_daemon(round_: Round) -> None:
    """Kill the daemon and start it again."""
    round_.struck_at = datetime.now(UTC)
    await round_.daemon.kill()
    round_.ready_s = await round_.daemon.start()


async def kill_postgres(round_: Round) -> None:
    """Kill PostgreSQL, look how the daemon takes it, and start PostgreSQL again."""
    await round_.site.kill_server()
    await _away(round_)
    begun = trio.current_time()
    await round_.site.server.start()
    await round_.daemon.becomes_ready()
    round_.ready_s = trio.current_time() - begun


async def kill_both(round_: Round) -> None:
    """Kill the daemon and PostgreSQL at once, then start both."""
    round_.struck_at = datetime.now(UTC)
    round_.daemon.signal(signal.SIGKILL)
    await round_.site.kill_server()
    await round_.daemon.ended()
    begun = trio.current_time()
    await round_.site.server.start()
    await round_.daemon.start()
    round_.ready_s = trio.current_time() - begun


async def cut_commits(round_: Round) -> None:
    """Cut connections at their commits, some before PostgreSQL heard of it and some after."""
    assert round_.cutter is not None
    for _ in range(CUTS):
        with in_time(TAKEOVER_MAX_S, "a commit to cut"):
            await round_.cutter.cut_next_commit(passes_on=round_.rng.random() < 0.5)
        await trio.sleep(round_.rng.uniform(0, 0.1))


async def stall_postgres(round_: Round) -> None:
    """Stop PostgreSQL for longer than any statement may take, then let it go on."""
    stalled_at, before_mib = trio.current_time(), round_.daemon.resident_mib()
    round_.site.signal_server(signal.SIGSTOP)
    try:
        await _away(round_)
        await trio.sleep_until(stalled_at + STATEMENT_TIMEOUT_S + 2 * ANSWER_DEADLINE_S)
        grown_mib = round_.daemon.resident_mib() - before_mib
    finally:
        round_.site.signal_server(signal.SIGCONT)
    begun = trio.current_time()
    await round_.daemon.becomes_ready()
    round_.ready_s = trio.current_time() - begun
    round_.expect(holds=grown_mib < GROWTH_MAX_MIB, fault=f"memory grew by {grown_mib:.0f} MiB")


async def fill_disk(round_: Round) -> None:
    """Leave PostgreSQL no space for a while; start it again if that ended it."""
    filler = round_.site.folder / "postgres" / "filler"
    with _filled(filler):
        await _away(round_, unready=False)
        await trio.sleep(FULL_S)
    begun = trio.current_time()
    if round_.site.server.process.poll() is not None:
        await round_.site.server.start()
    await round_.daemon.becomes_ready()
    round_.ready_s = trio.current_time() - begun


async def wake_zombie(round_: Round) -> None:
    """Pause a daemon past its leases, let the other take over, then wake the first."""
    zombie, other = round_.daemons
    round_.load.addresses = [zombie.address]
    await round_.load.acknowledges(50)
    async with open_database(round_.database_url) as database, AsyncExitStack() as stack:
        if round_.rng.random() < 0.5:
            # It falls asleep inside of a ledger transaction, and then holds everybody's lock.
            lock = "SELECT 1 FROM ledger_tail FOR UPDATE"
            await stack.enter_async_context(held(round_.database_url, lock))
            await wait_for_locks(database, 1)
        held_ids = await _pause_with_leases(zombie, database)
        round_.struck_at = datetime.now(UTC)
        await stack.aclose()
        round_.load.addresses = [zombie.address, other.address]
        with in_time(TAKEOVER_MAX_S, "the takeover"):
            while any(row["due_at"] for row in await _rows(database, held_ids)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        taken = await _rows(database, held_ids)
        begun = trio.current_time()
        zombie.signal(signal.SIGCONT)
        await zombie.becomes_ready()
        round_.ready_s = trio.current_time() - begun
        with in_time(TAKEOVER_MAX_S, "lease_lost in the log of the woken daemon"):
            while not zombie.logged("lease_lost"):  # noqa: ASYNC110 - a log tells nobody
                await trio.sleep(0.02)
        await round_.load.acknowledges(200)
        unchanged = await _rows(database, held_ids) == taken
    round_.expect(holds=unchanged, fault="the woken daemon changed rows that were taken over")
    round_.expect(holds=other.logged("settlement_rescued") > 0, fault="nothing was taken over")


async def restart_in_turn(round_: Round) -> None:
    """Stop and start one daemon, then the other."""
    for daemon in round_.daemons:
        daemon.signal(signal.SIGTERM)
        await daemon.ended()
        round_.expect(holds=daemon.process.returncode == 0, fault="a stop did not end with 0")
        took_s = await daemon.start()
        round_.ready_s = max(took_s, round_.ready_s or 0)
        await round_.load.acknowledges(50)


async def kill_one_of_two(round_: Round) -> None:
    """Kill one of two daemons, let the other one work alone, then start the first again."""
    killed = round_.rng.choice(round_.daemons)
    await killed.kill()
    await round_.load.acknowledges(500)
    round_.ready_s = await killed.start()


_FAILS = frozenset({200, 502, 503})
_DIES = _FAILS | {REFUSED, CLOSED, CUT}
_NETS = _DIES | {201, 404, 409}
_TELLS = _DIES | {201, 409}
_DECIDES: frozenset[int | str] = frozenset({200, 201, 400, 409, 422, REFUSED, CLOSED, CUT})

KINDS: Mapping[str, Kind] = {
    "daemon": Kind(kill_daemon, _DIES, takes_over=True),
    "postgres": Kind(kill_postgres, _FAILS),
    "both": Kind(kill_both, _DIES, takes_over=True),
    "commit-cut": Kind(cut_commits, _FAILS, cuts=True),
    "stalled": Kind(stall_postgres, _FAILS),
    "full-disk": Kind(fill_disk, _FAILS, disk_bytes=DISK_BYTES),
    "zombie": Kind(wake_zombie, _FAILS | {CLOSED, CUT, LATE}, daemons=("a", "b"), takes_over=True),
    "rolling": Kind(restart_in_turn, frozenset({200, 503, REFUSED}), daemons=("a", "b")),
    "ledger": Kind(
        kill_one_of_two, _DECIDES, daemons=("a", "b"), traffic=ORDERS, load_s=LEDGER_LOAD_S
    ),
    "netting": Kind(
        kill_one_of_two, _NETS, daemons=("a", "b"), traffic=NETTING, load_s=NETTING_LOAD_S
    ),
    "losses": Kind(kill_one_of_two, _TELLS, daemons=("a", "b"), traffic=LOSSES, load_s=LOSS_LOAD_S),
}


async def _away(round_: Round, *, unready: bool = True) -> None:
    """Wait until the daemon says that its database is away: 503, in time, and still alive."""
    since = trio.current_time()
    await round_.sees(503, since)
    round_.expect(
        holds=await get_status(round_.daemon.address, "/health") == 200,
        fault="/health did not answer while the database was away",
    )
    with in_time(TAKEOVER_MAX_S, "/ready 503"):
        while unready and await get_status(round_.daemon.address, "/ready") != 503:  # noqa: ASYNC110
            await trio.sleep(0.02)
    slowest_s = max(a.took_s for a in round_.load.answers if a.begun_at >= since)
    round_.expect(
        holds=slowest_s < ANSWER_DEADLINE_S + _LATE_BY_S,
        fault=f"an answer took {slowest_s:.1f} s while the database was away",
    )


async def _pause_with_leases(daemon: Daemon, database: Database) -> list[str]:
    """Stop the process at a moment when it holds leases, and return the ids of those rows."""
    with in_time(TAKEOVER_MAX_S, "a moment with leases"):
        while True:
            daemon.signal(signal.SIGSTOP)
            await trio.sleep(0.1)  # what it has sent already is still carried out
            rows = await database.fetch(
                "SELECT event_id FROM settlement_outbox WHERE lease_token IS NOT NULL"
            )
            if rows:
                return [row["event_id"] for row in rows]
            daemon.signal(signal.SIGCONT)
            await trio.sleep(0.03)


async def _rows(database: Database, event_ids: Sequence[str]) -> Sequence[Row]:
    return await database.fetch(
        "SELECT * FROM settlement_outbox WHERE event_id = ANY ($1) ORDER BY event_id", event_ids
    )


@contextmanager
def _filled(filler: Path) -> Iterator[None]:
    """Take all space of the disk that the file is on, and give it back at the end."""
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    os.write(descriptor, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        yield
    finally:
        os.close(descriptor)
        filler.unlink()
