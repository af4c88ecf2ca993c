"""One round on the ledger's own ports: two daemons, one killed midway, and the audit.

What the books must say is summed up from the orders that were accepted, without the ledger's rules.
"""

import math
from collections import Counter
from collections.abc import Mapping
from random import Random
from urllib.parse import urlsplit

import trio

from clawsettle.storage.bridge import Database, Row, open_database
from tests.storage.books import faults
from tests.torture.audit import named
from tests.torture.ledger_load import BUCKETS, CLEARING, Fate, LedgerLoad, Place
from tests.torture.round import READY_MAX_S, Result
from tests.torture.site import Daemon, Site

NAME = "ledger"
ACCOUNTS = 10
CLIENTS = 16
LAST_ANSWERS_S = 30.0


async def run_ledger_round(site: Site, seed: str, load_s: float) -> Result:
    """Run one round of ``load_s`` seconds; what is asked follows from ``seed``, not the order."""
    database_name = await site.create_database()
    database_url = site.server.dsn_of(database_name)
    problems: list[str] = []
    async with site.daemons(("a", "b"), database_url, "attempted") as daemons:
        accounts = [await _open_account(daemons[0], n) for n in range(ACCOUNTS)]
        load = LedgerLoad([_address(d) for d in daemons], accounts, CLIENTS, Random(seed))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await trio.sleep(load_s / 2)
            await daemons[1].kill()
            await trio.sleep(load_s / 4)
            ready_s = await daemons[1].start()
            await trio.sleep(load_s / 4)
            load.stop()
            nursery.cancel_scope.deadline = trio.current_time() + LAST_ANSWERS_S
        if nursery.cancel_scope.cancelled_caught:
            problems.append(f"orders were not answered within {LAST_ANSWERS_S:g} s of the end")
        else:
            await load.settle()
        async with open_database(database_url) as database:
            problems += await audit_ledger(database, load)
    await site.drop_database(database_name)
    if ready_s > READY_MAX_S:
        problems.append(f"ready again after {ready_s} s")
    latencies = sorted(load.latencies_s)
    return Result(
        NAME,
        seed,
        "-",
        len(load.fates),
        sum(fate.accepted is not None for fate in load.fates.values()),
        dict(sorted(load.outcomes().items())),
        ready_s,
        None,
        latencies[math.ceil(0.99 * len(latencies)) - 1],
        problems,
    )


async def audit_ledger(database: Database, load: LedgerLoad) -> list[str]:
    """Compare the ledger's books with what its clients were answered."""
    rows = await database.fetch("SELECT event_id, idempotency_key, event_type FROM ledger_event")
    written = {row["event_id"]: row for row in rows}
    keys = Counter(row["idempotency_key"] for row in rows)
    accepted = {key: fate for key, fate in load.fates.items() if fate.accepted is not None}
    of_order = {key: _event_ids(fate) for key, fate in accepted.items()}
    own = {row["event_id"] for row in rows if not row["event_type"].startswith("receivable_")}
    problems = named(
        "accepted, but not by one event",
        (key for key, ids in of_order.items() if len(ids) != 1 or not ids <= written.keys()),
    )
    problems += named("an event nobody was told of", own - set().union(*of_order.values()))
    problems += named("one event for two orders", _twice(of_order))
    problems += named(
        "refused, but in the journal",
        (key for key in load.fates.keys() - accepted.keys() if keys[key]),
    )
    problems += named("a key twice", (key for key, count in keys.items() if count > 1))
    problems += await _check_balances(database, accepted)
    return problems + await faults(database)


def _event_ids(fate: Fate) -> set[str]:
    """Return the events that the acceptances of one order name: one, whoever answered."""
    found = set()
    for status, body in fate.answers:
        if status < 300:
            hold, event = body.get("hold"), body.get("event")
            if isinstance(hold, dict):
                released = fate.order.path.endswith("release-by-source")
                name = "release_transfer_event_id" if released else "hold_transfer_event_id"
                found.add(str(hold[name]))
            else:
                found.add(str(event["id"] if isinstance(event, dict) else body.get("event_id")))
    return found


def _twice(of_order: Mapping[str, set[str]]) -> set[str]:
    counts = Counter(event_id for ids in of_order.values() for event_id in ids)
    return {event_id for event_id, count in counts.items() if count > 1}


async def _check_balances(database: Database, accepted: Mapping[str, Fate]) -> list[str]:
    """Compare each bucket with the sum of the orders; what an account owes counts as available."""
    due: Counter[Place] = Counter()
    for fate in accepted.values():
        due.update(fate.order.moves)
    rows = await database.fetch("SELECT * FROM ledger_account")
    owed = {
        row["account_id"].removeprefix("external:receivable:"): row["available_minor"]
        for row in rows
        if row["account_id"].startswith("external:receivable:")
    }
    return named(
        "a bucket is not the sum of its orders",
        (
            f"{name} {letter}: {balance_minor}, due {due[name, letter]}"
            for row in rows
            if (name := _name(row)) is not None
            for letter, balance_minor in _balances(row, owed)
            if balance_minor != due[name, letter]
        ),
    )


def _name(row: Row) -> str | None:
    name: str | None = CLEARING if row["domain"] else row["did"]
    return name


def _balances(row: Row, owed: Mapping[str, int]) -> list[tuple[str, int]]:
    columns = {"feePool": "fee_pool_minor"}
    found = []
    for letter, bucket in BUCKETS.items():
        minor: int = row[columns.get(bucket, f"{bucket}_minor")]
        found.append((letter, minor + (owed.get(row["account_id"], 0) if letter == "A" else 0)))
    return found


def _address(daemon: Daemon) -> tuple[str, int]:
    url = urlsplit(daemon.ledger_url)
    return str(url.hostname), url.port or 0


async def _open_account(daemon: Daemon, number: int) -> tuple[str, str]:
    account = await daemon.ledger("POST", "/accounts", {"did": f"did:key:torture-{number}"})
    return str(account["did"]), str(account["id"])
