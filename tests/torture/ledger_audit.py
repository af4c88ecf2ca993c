"""The books after a load on the ledger, compared with what its clients were answered."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from random import Random
from urllib.parse import quote

import trio

from clawsettle.storage.bridge import Database, Row
from tests.storage.books import faults
from tests.torture.audit import Audit, named
from tests.torture.ledger_load import LedgerLoad
from tests.torture.load import exchange
from tests.torture.orders import Order, accepts
from tests.torture.site import Daemon

_LOOKED_UP = 50
_BUCKETS = ("available_minor", "held_minor", "bonded_minor", "fee_pool_minor", "promo_minor")
_RECEIVABLE = "external:receivable:"


async def audit_orders(
    database: Database, daemons: Sequence[Daemon], load: LedgerLoad, _struck_at: datetime | None
) -> Audit:
    """Compare answers, journal and balances with each other, and prove the whole book."""
    rows = await database.fetch(
        "SELECT idempotency_key, event_id, event_type, amount_minor FROM ledger_event"
    )
    journal = {row["idempotency_key"]: row for row in rows}
    effects: dict[str, list[Order]] = defaultdict(list)
    for order in load.orders:
        effects[order.event_key].append(order)
    problems = _check_answers(load.orders)
    problems += _check_effects(effects, journal)
    problems += await _check_balances(database, effects)
    problems += await faults(database)
    for daemon in daemons:
        problems += await _look_up(daemon, load, effects)
    verified = await daemons[0].ledger("GET", "/events/verify")
    if verified != {"valid": True, "errors": [], "eventsChecked": len(rows)}:
        problems.append(f"the chain: {verified}")
    counts = Counter(row["event_type"] for row in rows)
    counts.update(code for order in load.orders for code in order.refused_with())
    return Audit(problems, None, counts)


def _check_answers(orders: Sequence[Order]) -> list[str]:
    """Each order has an answer, refusals have reasons, and acceptance is never taken back."""
    return [
        *named("without an answer", (one.key for one in orders if not one.answers)),
        *named(
            "refused for what cannot be",
            (
                f"{one.key} ({code})"
                for one in orders
                for code in set(one.refused_with()) - one.refusals
            ),
        ),
        *named("refused after it was accepted", (one.key for one in orders if _taken_back(one))),
    ]


def _taken_back(order: Order) -> bool:
    accepted_at = min(
        (one.begun_at + one.took_s for one in order.answers if accepts(one)), default=None
    )
    return accepted_at is not None and any(
        one.begun_at > accepted_at for one in order.answers if not accepts(one)
    )


def _check_effects(effects: Mapping[str, Sequence[Order]], journal: Mapping[str, Row]) -> list[str]:
    """Of the orders of one effect one wrote its event, which is there; else there is none."""
    problems: list[str] = []
    expected: set[str] = set()
    for event_key, orders in effects.items():
        row = journal.get(event_key)
        if not _accepted(orders):
            if row is not None:
                problems.append(f"refused, but in the journal: {event_key}")
            continue
        expected |= {event_key, *_receivable_keys(event_key)}
        writers = [order for order in orders if order.event_ids()]
        event_ids = {event_id for order in writers for event_id in order.event_ids()}
        if len(writers) != 1 or len(event_ids) != 1:
            problems.append(f"accepted with the events {sorted(event_ids)}: {event_key}")
        if row is None:
            problems.append(f"accepted, but not in the journal: {event_key}")
        elif event_ids != {row["event_id"]} or row["amount_minor"] != orders[0].amount_minor:
            problems.append(f"in the journal otherwise than answered: {event_key}")
    unknown = journal.keys() - expected - effects.keys()
    return [*problems, *named("in the journal, but nobody's", unknown)]


def _receivable_keys(event_key: str) -> Iterable[str]:
    """Return the keys of events that a settlement may write beside its own."""
    if event_key.startswith("payment_settlement:"):
        settled = event_key.rpartition(":")[0]
        yield from (f"{settled}:receivable_open", f"{settled}:receivable_collect")


def _accepted(orders: Sequence[Order]) -> bool:
    return any(order.is_accepted for order in orders)


async def _check_balances(database: Database, effects: Mapping[str, Sequence[Order]]) -> list[str]:
    """Each balance is the plain sum of what was accepted; what is owed counts as spent."""
    expected: Counter[tuple[str, str]] = Counter()
    for orders in effects.values():
        if _accepted(orders):
            for name, column, delta_minor in orders[0].legs:
                expected[name, column] += delta_minor
    rows = await database.fetch(
        "SELECT a.*, coalesce(a.did, 'clearing:' || a.domain, a.account_id) AS name, coalesce("
        " (SELECT sum(r.amount_minor)::bigint FROM ledger_reservation AS r"
        "  WHERE r.account_id = a.account_id AND r.closed_event_id IS NULL), 0) AS open_minor"
        " FROM ledger_account AS a"
    )
    owed = {
        row["account_id"].removeprefix(_RECEIVABLE): -row["available_minor"]
        for row in rows
        if row["account_id"].startswith(_RECEIVABLE)
    }
    problems: list[str] = []
    for row in rows:
        if row["account_id"].startswith(_RECEIVABLE):
            continue
        name, found = row["name"], {column: row[column] for column in (*_BUCKETS, "reserved_minor")}
        found["available_minor"] -= owed.get(row["account_id"], 0)
        for column, found_minor in found.items():
            due_minor = expected.pop((name, column), 0)
            if found_minor != due_minor:
                problems.append(f"{column} of {name} is {found_minor}, its orders make {due_minor}")
        if row["reserved_minor"] != row["open_minor"]:
            problems.append(f"the reservations of {name} are {row['open_minor']} in all")
        if row["kind"] != "external" and min(row[column] for column in _BUCKETS) < 0:
            problems.append(f"a bucket of {name} is below zero")
    missing = (name for (name, _), due_minor in expected.items() if due_minor)
    return [*problems, *named("no such account", missing)]


async def _look_up(
    daemon: Daemon, load: LedgerLoad, effects: Mapping[str, Sequence[Order]]
) -> list[str]:
    """Ask a daemon for the events of some accepted and of some refused orders."""
    rng, problems = Random(load.seed), []
    accepted = [key for key, orders in effects.items() if _accepted(orders)]
    refused = list(effects.keys() - set(accepted))
    headers = {"authorization": f"Bearer {load.key}"}
    async with await trio.open_tcp_stream(*daemon.ledger_address) as stream:
        for key in (*_some(accepted, rng), *_some(refused, rng)):
            path = f"/events/idempotency/{quote(key, safe='')}"
            status, body, _ = await exchange(stream, "GET", path, headers)
            found = {json.loads(body)["id"]} if status == 200 else set()
            said = {event_id for order in effects[key] for event_id in order.event_ids()}
            if found != said or status not in (200, 404):
                problems.append(f"{daemon.config_path.stem} answers {status} {found} for {key}")
    return problems


def _some(keys: Sequence[str], rng: Random) -> Sequence[str]:
    return rng.sample(keys, min(len(keys), _LOOKED_UP))
