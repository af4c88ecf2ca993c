"""The books after a load on loss events: its clients, what is stored, and the targets agree."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

import trio

from clawsettle.domain.loss_calls import delivery_key
from clawsettle.domain.loss_events import Operation, Target
from clawsettle.storage.bridge import Database, Row
from tests.house import Json
from tests.storage.books import faults
from tests.storage.loss_books import loss_faults
from tests.torture.audit import Audit, named
from tests.torture.loss_load import LossLoad
from tests.torture.site import Daemon

SETTLED_MAX_S = 30.0
_OPEN = "SELECT 1 FROM loss_delivery WHERE due_at IS NOT NULL LIMIT 1"
_DEAD = "SELECT 1 FROM loss_delivery WHERE state = 'dead' LIMIT 1"
_DELIVERIES = """
    SELECT d.*, e.account_did, e.amount_minor
    FROM loss_delivery AS d JOIN loss_event AS e USING (loss_event_id)
"""


async def audit_losses(
    database: Database, daemons: Sequence[Daemon], load: LossLoad, _struck_at: datetime | None
) -> Audit:
    """Have the rest delivered, and compare answers, deliveries and targets; prove the book."""
    problems = await loss_problems(database, load)
    verified = await daemons[0].ledger("GET", "/events/verify")
    if verified["valid"] is not True:
        problems.append(f"the chain: {verified}")
    rows = await database.fetch("SELECT operation, target, state FROM loss_delivery")
    counts = Counter(f"{row['operation']}.{row['target']}.{row['state']}" for row in rows)
    return Audit(problems, None, counts)


async def loss_problems(database: Database, load: LossLoad) -> list[str]:
    """Have the rest delivered, and tell what does not hold."""
    with trio.move_on_after(SETTLED_MAX_S):
        while await _is_unsettled(database, load):  # noqa: ASYNC110 - polling is enough
            await trio.sleep(0.1)
    load.look()
    rows = await database.fetch(_DELIVERIES)
    events = await database.fetch("SELECT * FROM loss_event")
    resolutions = await database.fetch("SELECT loss_event_id FROM loss_resolution")
    return [
        *named("without an answer", load.unanswered),
        *_check_answers(load, events, {row["loss_event_id"] for row in resolutions}),
        *_check_ends(load, rows),
        *_check_targets(load, rows),
        *_check_calls(load, rows),
        *await loss_faults(database),
        *await faults(database),
    ]


async def _is_unsettled(database: Database, load: LossLoad) -> bool:
    if await database.fetch(_OPEN):
        return True
    if not await database.fetch(_DEAD):
        return False
    await load.bring_back()
    return bool(await database.fetch(_OPEN))


def _check_answers(load: LossLoad, events: Sequence[Row], resolved: set[str]) -> list[str]:
    """Each answer tells of the one event of its key, which is as it was ordered."""
    stored = {row["idempotency_key"]: row for row in events}
    otherwise = []
    for key, row in stored.items():
        order = load.orders.get(key, {})
        same = ("source_event_id", "account_did", "reason_code")
        as_ordered = all(row[name] == order.get(name) for name in same)
        if not as_ordered or str(row["amount_minor"]) != order["amount_minor"]:
            otherwise.append(key)
    return [
        *named("acknowledged, but not recorded", load.told.keys() - stored.keys()),
        *named("recorded otherwise than ordered", otherwise),
        *named(
            "answered with another event",
            (k for k, row in stored.items() if {*load.told[k]} - {row["loss_event_id"]}),
        ),
        *named("said to be resolved, and is not", load.resolved - resolved),
        *named("resolved, and nobody was told so", resolved - load.resolved),
    ]


def _check_ends(load: LossLoad, rows: Sequence[Row]) -> list[str]:
    """Everybody has been told, but who has nothing to do, and who had refused what is over."""
    wrong = []
    for row in rows:
        may_be = {"forwarded"}
        if row["operation"] == "apply" and row["loss_event_id"] in load.resolved:
            may_be |= {"canceled"}
        if row["target"] == Target.CLAWINSURE and row["account_did"] == load.uninsured:
            may_be = {"not_applicable"}
        if row["state"] not in may_be:
            wrong.append(f"{row['delivery_id']} ({row['state']}, {row['last_error_code']})")
    return named("a delivery has not ended as it should", wrong)


def _check_targets(load: LossLoad, rows: Sequence[Row]) -> list[str]:
    """The targets have done what is stored of them, and nothing else."""
    targets, told = load.targets, _told(rows)
    income, bounties = targets.clawincome, targets.clawbounties
    done = {
        (Operation.APPLY, Target.CLAWINSURE): {*targets.clawinsure.claims},
        (Operation.APPLY, Target.CLAWINCOME): _adjusted(income.adjustments, "debit"),
        (Operation.RESOLVE, Target.CLAWINCOME): _adjusted(income.adjustments, "credit"),
        (Operation.APPLY, Target.CLAWBOUNTIES): {
            delivery_key(event_id, Operation.APPLY, Target.CLAWBOUNTIES)
            for event_id in bounties.loss_events
        },
        (Operation.RESOLVE, Target.CLAWBOUNTIES): {*bounties.cleared.values()},
    }
    problems = []
    for about, keys in done.items():
        what = " ".join(about)
        problems += named(f"done, and not recorded: {what}", keys - told[about])
        problems += named(f"recorded, and not done: {what}", told[about] - keys)
    return [*problems, *_check_balances(load, rows), *_check_escrows(load, rows)]


def _told(rows: Sequence[Row]) -> Mapping[tuple[Operation, Target], set[str]]:
    """Return the keys of what was forwarded."""
    told: defaultdict[tuple[Operation, Target], set[str]] = defaultdict(set)
    for row in rows:
        if row["state"] == "forwarded":
            told[Operation(row["operation"]), Target(row["target"])].add(_key(row))
    return told


def _key(row: Row) -> str:
    return delivery_key(row["loss_event_id"], Operation(row["operation"]), Target(row["target"]))


def _adjusted(adjustments: Mapping[str, Json], direction: str) -> set[str]:
    return {key for key, one in adjustments.items() if one["direction"] == direction}


def _check_balances(load: LossLoad, rows: Sequence[Row]) -> list[str]:
    """Each amount was taken from its account's income once, and given back once."""
    expected = Counter[str]()
    for row in rows:
        if row["target"] == Target.CLAWINCOME and row["state"] == "forwarded":
            sign = 1 if row["operation"] == "resolve" else -1
            expected[row["account_did"]] += sign * row["amount_minor"]
    found = load.targets.clawincome.balances_minor
    wrong = (
        f"{did} ({found.get(did, 0)}, not {expected[did]})"
        for did in found.keys() | expected.keys()
        if found.get(did, 0) != expected[did]
    )
    return named("an income is not what its events make it", wrong)


def _check_escrows(load: LossLoad, rows: Sequence[Row]) -> list[str]:
    """An escrow is held exactly while one of its events is not taken back."""
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["target"] == Target.ESCROW and row["state"] == "forwarded":
            holders[row["escrow_id"]] ^= {row["loss_event_id"]}
    wrong = []
    for escrow_id, events in holders.items():
        hold = load.targets.escrow.escrow(escrow_id).risk_hold
        status = hold.status if hold else "missing"
        if (status == "active") != bool(events):
            wrong.append(f"{escrow_id} ({status}, for {len(events)})")
    return named("an escrow is not as its events make it", wrong)


def _check_calls(load: LossLoad, rows: Sequence[Row]) -> list[str]:
    """Each delivery has one key and one request, and was made as often as was counted."""
    asked = {_key(row): row for row in rows if row["target"] != Target.LEDGER}
    unasked, too_often = [], []
    for key, row in asked.items():
        # A requeue counts anew.
        if row["opened_at"] == row["created_at"] and load.calls[key] > row["attempts"]:
            too_often.append(f"{key} ({load.calls[key]} > {row['attempts']})")
        if row["state"] == "forwarded" and not row["is_shared"] and not load.calls[key]:
            unasked.append(key)
    return [
        *named("asked under a key of nobody's", load.calls.keys() - asked.keys()),
        *named("asked otherwise than before", load.unlike),
        *named("asked more often than attempted", too_often),
        *named("forwarded, and never asked for", unasked),
    ]
