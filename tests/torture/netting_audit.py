"""The books after a load on netting, compared with what its clients were answered."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import trio

from clawsettle.storage.bridge import Database, Row
from tests.netting import SOURCE
from tests.storage.books import faults
from tests.storage.netting_books import age_doubts, netting_faults
from tests.torture.audit import Audit, named
from tests.torture.netting_load import FUNDS_MINOR, TARGETS, NettingLoad
from tests.torture.site import LEASE_S, Daemon

NETTED_MAX_S = 60.0
_RESTING = ("paid", "failed", "returned")
_GIVEN_BACK = ("failed", "returned")


async def audit_netting(
    database: Database, daemons: Sequence[Daemon], load: NettingLoad, _struck_at: datetime | None
) -> Audit:
    """Have the rest netted, and compare answers, payouts, runs and balances; prove the book."""
    with trio.move_on_after(NETTED_MAX_S):
        while await load.net_the_rest():
            await age_doubts(database)
    payouts = await _resting(database)
    problems = named("without an answer", load.unanswered)
    problems += await _check_ends(database, load)
    problems += _check_payouts(load, payouts)
    problems += named("answered otherwise later", _answered_otherwise(load))
    problems += await _check_balances(database, payouts)
    problems += await netting_faults(database)
    problems += await faults(database)
    verified = await daemons[0].ledger("GET", "/events/verify")
    if verified["valid"] is not True:
        problems.append(f"the chain: {verified}")
    counts = Counter(f"payout.{row['status']}" for row in payouts.values())
    for row in await database.fetch("SELECT event_type FROM netting_audit"):
        counts[row["event_type"]] += 1
    return Audit(problems, None, counts)


async def _check_ends(database: Database, load: NettingLoad) -> list[str]:
    """Every run that was asked for has come to an end, with nothing left to do about it."""
    rows = await database.fetch("SELECT idempotency_key, status, last_error_code FROM netting_run")
    known = {row["idempotency_key"]: f"{row['status']}, {row['last_error_code']}" for row in rows}
    return named("a run without an end", (f"{key} ({known.get(key)})" for key in load.open_orders))


async def _resting(database: Database) -> Mapping[str, Row]:
    """Wait for the payouts to come to rest, as long as that may take, and return them."""
    rows: Sequence[Row] = ()
    with trio.move_on_after(LEASE_S + 5):
        while not rows or any(row["status"] not in _RESTING for row in rows):
            rows = await database.fetch("SELECT * FROM payout")
            await trio.sleep(0.05)
    return {row["payout_id"]: row for row in rows}


def _check_payouts(load: NettingLoad, payouts: Mapping[str, Row]) -> list[str]:
    """What was paid is paid, what has failed after that is given back."""
    statuses = {payout_id: row["status"] for payout_id, row in payouts.items()}
    ends = {
        payout_id: _GIVEN_BACK if payout_id in load.late else ("paid",) for payout_id in load.paid
    }
    wrong = (
        f"{payout_id} ({statuses.get(payout_id)})"
        for payout_id, may_be in ends.items()
        if statuses.get(payout_id) not in may_be
    )
    return [
        *named("a payout is not what was told of it", wrong),
        *named("a payout that nobody was told of", statuses.keys() - ends.keys()),
    ]


def _answered_otherwise(load: NettingLoad) -> Iterator[str]:
    for key, answers in load.told.items():
        if any((one["run"], one["entries"]) != _first(answers) for one in answers):
            yield key


def _first(answers: Sequence[Mapping[str, object]]) -> tuple[object, object]:
    return answers[0]["run"], answers[0]["entries"]


async def _check_balances(database: Database, payouts: Mapping[str, Row]) -> list[str]:
    """All that was paid out, and nothing else, lies in the targets."""
    expected = Counter[str]()
    for row in payouts.values():
        if row["status"] == "paid":
            expected["targets"] += row["amount_minor"]
            expected[row["account_id"]] -= row["amount_minor"]
    found = Counter[str]()
    for row in await database.fetch("SELECT * FROM ledger_account WHERE kind <> 'external'"):
        if row["domain"] in (SOURCE, *TARGETS):
            found["source" if row["domain"] == SOURCE else "targets"] += row["available_minor"]
        else:
            found[row["account_id"]] += row["available_minor"] + row["held_minor"] - FUNDS_MINOR
    return [
        f"{name} has {found[name]}, its payouts make {expected[name]}"
        for name in sorted(found.keys() | expected.keys())
        if found[name] != expected[name]
    ]
