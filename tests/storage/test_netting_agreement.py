"""A run's plan is computed twice, in SQL written here and in Python, and both say the same."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import trio
from attrs import frozen
from hypothesis import event, given, settings
from hypothesis import strategies as st

from clawsettle.domain.netting import entry_key
from clawsettle.domain.netting_plan import Direction, Item, Plan, plan_run
from clawsettle.domain.netting_requests import NettingDefaults
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.netting import NettingRuns
from tests.netting import SOURCE, TARGET, request
from tests.storage.netting_books import EMPTY
from tests.storage.payout_histories import NOON, History, history, keep, store

S = PayoutStatus
EXAMPLES = 60
OTHER_TARGET = "clawsettle.losses"
DEFAULTS = NettingDefaults(SOURCE, TARGET, 100, {TARGET, OTHER_TARGET})
PLAN = """
WITH candidate AS (
    SELECT i.direction, i.at, i.payout_id, p.connect_account_id, p.currency,
           CASE i.direction WHEN 'sweep' THEN p.amount_minor ELSE -p.amount_minor END AS minor
    FROM netting_item AS i JOIN payout AS p ON p.payout_id = i.payout_id
    WHERE i.entry_id IS NULL AND p.clearing_domain = $2 AND p.currency = 'USD'
      AND (
          p.status = 'paid'
          OR i.target_clearing_domain = $3 AND EXISTS (
              SELECT FROM netting_item AS s
              JOIN netting_entry AS e ON e.entry_id = s.entry_id
              WHERE s.payout_id = i.payout_id AND s.direction = 'sweep' AND e.status = 'applied'
          )
      )
    ORDER BY i.direction = 'sweep', i.at, i.payout_id COLLATE "C"
    LIMIT $4
), named AS (
    SELECT connect_account_id, currency, sum(minor)::bigint AS amount_minor,
           count(*) AS item_count,
           string_agg(to_json(payout_id)::text, ',' ORDER BY at, payout_id COLLATE "C")
               FILTER (WHERE direction = 'sweep') AS swept,
           string_agg(to_json(payout_id)::text, ',' ORDER BY at, payout_id COLLATE "C")
               FILTER (WHERE direction = 'return') AS returned
    FROM candidate
    GROUP BY connect_account_id, currency
), spelled AS (
    SELECT *, '{' || coalesce('"compensated_payout_ids":[' || returned || '],', '')
           || '"connect_account_id":' || to_json(connect_account_id)::text
           || ',"currency":' || to_json(currency)::text
           || ',"payout_ids":[' || coalesce(swept, '') || '],"run_id":"' || $1 || '"}' AS entry_key
    FROM named
)
SELECT entry_id, entry_key, amount_minor, item_count FROM spelled CROSS JOIN LATERAL (
    SELECT 'nte_' || left(encode(sha256(convert_to(entry_key, 'UTF8')), 'hex'), 28) AS entry_id
) AS hashed
ORDER BY entry_id COLLATE "C"
"""
APPLY = """
UPDATE netting_entry SET status = 'applied', applied_at = now(), ledger_event_id = 'evt_1'
WHERE run_id = $1 AND connect_account_id = ANY ($2::text[])
"""


@frozen
class Drawn:
    """A payout, how it is paid, and what becomes of it: it waits, or was swept, and failed late."""

    account: str
    amount_minor: int
    paid_s: int
    elsewhere: bool
    swept: bool
    failed_s: int | None


@frozen
class World:
    """Payouts, the accounts whose first entry has moved, where those went to, and the limits."""

    payouts: Sequence[Drawn]
    moved: Sequence[str]
    first_target: str
    limit: int

    def histories(self) -> list[History]:
        return [
            history(
                f"idem_{number}",
                connect_account_id=one.account,
                amount_minor=one.amount_minor,
                clearing_domain="clawsettle.other" if one.elsewhere else SOURCE,
                created_at=NOON + timedelta(seconds=one.paid_s),
            )
            for number, one in enumerate(self.payouts)
        ]


accounts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
    | st.sampled_from(["acct_a", "acct_A", "acct_ä", "acct_a\u0308", "acct_🦀", '"', "\\", "|"]),
    min_size=1,
    max_size=5,
    unique=True,
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    known = draw(accounts)
    drawn = st.builds(
        Drawn,
        st.sampled_from(known),
        st.integers(1, 10**6) | st.just(500),
        st.integers(0, 3),
        st.sampled_from([False, False, False, True]),
        st.booleans(),
        st.none() | st.integers(0, 3),
    )
    payouts = draw(st.lists(drawn, min_size=4, max_size=25))
    return World(
        payouts,
        draw(st.lists(st.sampled_from(known), unique=True)),
        draw(st.sampled_from([TARGET, TARGET, OTHER_TARGET])),
        draw(st.integers(1, len(payouts))),
    )


async def restore(database: Database, world: World) -> list[Item]:
    """Make what is waiting as the world has it; return what of it the next run may take."""
    await database.transaction(lambda transaction: transaction.script(EMPTY))
    histories = world.histories()
    both = [*zip(world.payouts, histories, strict=True)]
    await keep(database, *(known for one, known in both if one.swept))
    runs = NettingRuns(database, 30.0, repeats_safely=True)
    first = await runs.prepare(
        request("first", target_clearing_domain=world.first_target, limit=1000), DEFAULTS
    )
    await database.fetch(APPLY, first.run_id, list(world.moved))
    await keep(database, *(known for one, known in both if not one.swept))
    waiting: list[Item] = []
    for one, known in both:
        payout = known.payout
        taken = one.swept and not one.elsewhere
        direction, at, sign = Direction.SWEEP, payout.finalized_at, 1
        if one.failed_s is not None:
            late = _late(known, one.failed_s)
            await store(database, [late])
            if not taken or one.account not in world.moved or world.first_target != TARGET:
                continue
            direction, at, sign = Direction.RETURN, late.payout.status_at, -1
        elif taken:
            continue
        if not one.elsewhere:
            assert at is not None
            amount_minor = sign * one.amount_minor
            waiting.append(Item(payout.payout_id, direction, one.account, "USD", amount_minor, at))
    return waiting


def _late(paid: History, failed_s: int) -> History:
    payout = paid.payout
    return history(
        payout.idempotency_key,
        S.RETURNED,
        connect_account_id=payout.connect_account_id,
        amount_minor=payout.amount_minor,
        clearing_domain=payout.clearing_domain,
        created_at=NOON + timedelta(seconds=failed_s),
    )


def cut(waiting: Sequence[Item], limit: int) -> Sequence[Item]:
    """What a run takes: what comes back before what goes out, the longest waiting first."""
    ordered = sorted(
        waiting, key=lambda one: (one.direction is Direction.SWEEP, one.at, one.payout_id)
    )
    return ordered[:limit]


def said(plan: Plan) -> list[tuple[str, str, int]]:
    return [(entry.entry_id, entry.entry_key, entry.amount_minor) for entry in plan.entries]


def stored(row: Mapping[str, Any]) -> tuple[str, str, int]:
    key = entry_key(
        row["run_id"],
        row["connect_account_id"],
        row["currency"],
        tuple(row["payout_ids"]),
        tuple(row["compensated_payout_ids"]),
    )
    return row["entry_id"], key, row["amount_minor"]


async def check(database: Database, world: World) -> str:
    """Compare all computations of a run; return what kind of a case it was."""
    waiting = await restore(database, world)
    asked = request("second", limit=world.limit)
    rows = await database.fetch(PLAN, asked.run_id, SOURCE, TARGET, world.limit)
    in_sql = [(row["entry_id"], row["entry_key"], row["amount_minor"]) for row in rows]
    in_python = plan_run(asked.run_id, cut(waiting, world.limit))
    runs = NettingRuns(database, 30.0, repeats_safely=True)
    tried = await runs.plan(asked)
    assert in_sql == said(in_python) == said(tried)
    counts = {tried.candidate_count, in_python.candidate_count, sum(r["item_count"] for r in rows)}
    assert counts == {min(len(waiting), world.limit)}
    run = await runs.prepare(asked, DEFAULTS)
    kept = await database.fetch("SELECT * FROM netting_entry WHERE run_id = $1", run.run_id)
    assert sorted(map(stored, kept)) == in_sql
    assert (run.candidate_count, run.total_amount_minor) == (
        in_python.candidate_count,
        sum(amount_minor for _, _, amount_minor in in_sql),
    )
    linked = await database.fetch(
        "SELECT i.payout_id, i.direction FROM netting_item AS i JOIN netting_entry AS e"
        " ON e.entry_id = i.entry_id WHERE e.run_id = $1",
        run.run_id,
    )
    taken = {(one.payout_id, one.direction) for one in cut(waiting, world.limit)}
    assert {(row["payout_id"], row["direction"]) for row in linked} == taken
    assert (await runs.plan(request("third", limit=1000))).candidate_count == max(
        0, len(waiting) - world.limit
    )
    return f"cut: {len(waiting) > world.limit}, signs: {_signs(in_python)}"


def _signs(plan: Plan) -> str:
    amounts = [entry.amount_minor for entry in plan.entries]
    return "".join(sorted({"-0+"[(amount > 0) - (amount < 0) + 1] for amount in amounts}))


async def test_two_computations_of_a_plan_agree(database_url: str) -> None:
    async with open_database(database_url, pool_max=2) as database:

        @settings(deadline=None, max_examples=EXAMPLES)
        @given(worlds())
        def whatever_waits(world: World) -> None:
            event(trio.from_thread.run(check, database, world))

        await trio.to_thread.run_sync(whatever_waits)
