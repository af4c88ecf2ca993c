"""Payouts that wait to be netted, drawn at random or from a seed, and what a run says as text."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from clawsettle.domain.canonical import canonical_json, compact_json
from clawsettle.domain.netting_plan import Direction, Item, Plan
from clawsettle.domain.netting_reports import (
    HASHED_HEAD,
    csv_cells,
    csv_columns,
    hashed_tail,
    report_row,
    sent_head,
)
from clawsettle.domain.payout_reports import csv_lines
from tests.domain.netting_cases import run

NOON = datetime(2026, 2, 11, 12, tzinfo=UTC)
ACCOUNTS = (
    "acct_A",
    "acct_B",
    "acct_a",
    "acct_ä",
    "acct_a\u0308",
    "acct_\uff3a",
    "acct_中",
    "acct_🦀",
)
"""Names that fold, compose or sort differently from one locale to another."""


def item(payout_id: str, amount_minor: int, **changes: Any) -> Item:
    """An item: paid when the amount is above zero, one that failed late when it is below."""
    known: dict[str, Any] = {
        "payout_id": payout_id,
        "direction": Direction.SWEEP if amount_minor > 0 else Direction.RETURN,
        "connect_account_id": "acct_A",
        "currency": "USD",
        "amount_minor": amount_minor,
        "at": NOON,
    }
    return Item(**known | changes)


def items(amount_minor_max: int = 10**9) -> st.SearchStrategy[list[Item]]:
    """Items of few accounts at few instants, so that many are equal in one thing or another."""
    one = st.builds(
        lambda number, sign, amount_minor, account, ms: item(
            f"pout_{number:03}",
            sign * amount_minor,
            connect_account_id=account,
            at=NOON + timedelta(milliseconds=ms),
        ),
        st.integers(0, 40),
        st.sampled_from([1, -1]),
        st.integers(1, amount_minor_max),
        st.sampled_from(ACCOUNTS),
        st.integers(0, 3),
    )
    return st.lists(one, max_size=40, unique_by=lambda item: (item.payout_id, item.direction))


def seeded(count: int) -> list[Item]:
    """The same items on every machine."""
    drawn = random.Random(7)
    return [
        item(
            f"pout_{number:05}",
            drawn.choice([1, 1, 1, -1]) * drawn.randrange(1, 10**6),
            connect_account_id=drawn.choice(ACCOUNTS),
            at=NOON + timedelta(milliseconds=drawn.randrange(50)),
        )
        for number in range(count)
    ]


def text_of(plan: Plan) -> str:
    """A plan as canonical JSON."""
    entries: Sequence[object] = [entry.view() for entry in plan.entries]
    return canonical_json(
        {
            "entries": entries,
            "candidate_count": plan.candidate_count,
            "total_amount_minor": str(plan.total_amount_minor),
        }
    )


def reports_of(plan: Plan) -> str:
    """What is hashed of a run that was prepared by a plan, what is sent of it, and its CSV."""
    prepared = run(
        candidate_count=plan.candidate_count,
        total_amount_minor=plan.total_amount_minor,
        selection_before=NOON,
    )
    rows = [report_row(planned.opened(prepared.run_id, NOON)) for planned in plan.entries]
    hashed = HASHED_HEAD + ",".join(map(canonical_json, rows)) + hashed_tail(prepared)
    sent = sent_head(prepared, NOON, {}) + ",".join(map(compact_json, rows))
    columns = csv_columns(compensates=True)
    csv = csv_lines([columns, *(csv_cells(row, columns) for row in rows)])
    return f"{hashed}\n{sent}\n{csv}"
