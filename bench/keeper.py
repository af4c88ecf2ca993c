"""A load on the embedded ledger without HTTP: its keeper and the clients in one process.

It reads one job as JSON from stdin and prints one result as JSON, as the generator does. A client
makes a request's body, parses it and asks the keeper, one after another, so an operation is all
that the ledger's port does for it, but for the port.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Literal
from unittest.mock import patch

import cattrs
import trio
from attrs import frozen

from bench.generator import Clock, Result
from bench.ledger_traffic import APPLY, RELEASE, TRANSFERS, LedgerTraffic
from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.config.settings import Settings
from clawsettle.domain.ledger import Command
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release_by_source
from clawsettle.domain.transfers import parse_transfer
from clawsettle.http.errors import error_status, transfer_status
from clawsettle.storage.bridge import open_database
from clawsettle.storage.ledger_book import LedgerBook

_PARSERS: Mapping[str, Callable[[object], Command]] = {
    TRANSFERS: partial(parse_transfer, currency="USD"),
    APPLY: partial(parse_apply_hold, currency="USD"),
    RELEASE: parse_release_by_source,
}


@frozen
class KeeperJob:
    """What to ask, of which database, and by how many clients at a time.

    ``seconds`` are measured after ``warm_up_s``. ``pids`` are processes whose CPU time is told
    after this one's, each with that of its children. ``without`` leaves a part of the ledger's
    work out, so that its share can be told; the database is of no use afterwards. Without its
    ``hashes`` an event is linked by its number, so none is computed, kept or indexed. Without its
    ``postings`` the book moves the balances alone.
    """

    dsn: str
    traffic: LedgerTraffic
    concurrency: int
    seconds: float
    warm_up_s: float = 0.5
    without: Literal["hashes", "postings"] | None = None
    pids: tuple[int, ...] = ()


async def run(job: KeeperJob) -> Result:
    """Drive the load and measure it."""
    settings = Settings()
    clock = Clock((os.getpid(), *job.pids))
    latencies_s: list[float] = []
    statuses: Counter[str] = Counter()
    measured_from = time.perf_counter() + job.warm_up_s
    ends = measured_from + job.seconds

    async def client(place: int) -> None:
        for turn in itertools.count():
            path, body = job.traffic.request(place, turn)
            sent_at = time.perf_counter()
            if sent_at >= ends:
                return
            if not clock.began_at and sent_at >= measured_from:
                clock.begin()
            answer = await keeper.ask(_PARSERS[path](body))
            if clock.began_at and sent_at >= measured_from:
                statuses["made" if answer.created else "repeated"] += 1
                latencies_s.append(time.perf_counter() - sent_at)

    async with open_database(job.dsn) as database, trio.open_nursery() as nursery:
        keeper = LedgerKeeper(
            LedgerBook(database, settings.ledger.currency),
            error_status,
            transfer_status,
            settings.ledger.batch_max,
            settings.forwarding.mailbox_max,
        )
        nursery.start_soon(keeper.run)
        # As the daemon does once it is up.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        async with trio.open_nursery() as clients:
            for place in range(job.concurrency):
                clients.start_soon(client, place)
        result = clock.end(latencies_s, dict(statuses), closed_count=0)
        keeper.close()
    return result


def _leave_out(stack: ExitStack, part: Literal["hashes", "postings"] | None) -> None:
    """Replace a part of the ledger's work by next to nothing."""
    if part == "hashes":
        numbers = map(str, itertools.count(time.time_ns()))
        for name in ("event_hash", "content_hash"):
            stack.enter_context(
                patch(f"clawsettle.domain.book.{name}", lambda *_a, **_k: next(numbers))
            )
    if part == "postings":
        stack.enter_context(patch("clawsettle.storage.ledger_book.posting_rows", lambda _event: []))


def main() -> None:
    """Run the job on stdin."""
    job = cattrs.structure(json.load(sys.stdin), KeeperJob)
    with ExitStack() as stack:
        _leave_out(stack, job.without)
        json.dump(cattrs.unstructure(trio.run(run, job)), sys.stdout)


if __name__ == "__main__":
    main()
