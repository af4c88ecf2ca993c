"""Every statement finds its rows by an index, whatever the tables held when it was planned.

A connection keeps the plan of a statement, and a new installation plans on tables that are known to
be empty: there it costs nothing to read a table from end to end, and a month later it costs a lot.
"""

import itertools
import re
from collections.abc import Mapping
from importlib.resources import files

import pytest

from clawsettle.storage.bridge import Transaction, open_database
from clawsettle.storage.queries import load_queries

_FILES = sorted(
    entry.name.removesuffix(".sql") for entry in (files("clawsettle.storage") / "sql").iterdir()
)
_STATEMENTS = [(file, name) for file in _FILES for name in load_queries(file)]
# The sum over all accounts reads them all.
_WHOLE_BOOK = {"totals"}
# These walk an index in its order, from one end as far as their LIMIT, or over a day.
_WALKS = {
    "ledger.list_settlements": {"ledger_settlement_newest"},
    "ledger.list_holds": {"ledger_risk_hold_newest", "ledger_risk_hold_active"},
    "ledger.clearing_accounts": {"ledger_account_domain_once"},
    "ledger.journal_page": {"ledger_event_pk"},
    "ledger.account_page": {"ledger_account_pk"},
    "ledger.reservation_page": {"ledger_reservation_pk"},
    "ledger.hold_page": {"ledger_risk_hold_pk"},
    "payout_comparison.ids_of_day": {
        "payout_oldest",
        "payout_submissions",
        "payout_finalizations",
        "payout_failures",
    },
    "payout_comparison.connect_accounts": {"connect_account_connect_once"},
    "netting.lock_due": {"netting_run_due"},
    "payouts.claim_due": {"payout_due"},
    "settlement_outbox.claim_due": {"settlement_outbox_due"},
    "settlement_outbox.backlog": {"settlement_outbox_due"},
    "settlement_outbox.count_due": {"settlement_outbox_due"},
    "delivery_log.expire": {"webhook_delivery_log_received"},
    "payout_lists.payouts_created": {"payout_oldest"},
    "payout_reports.day": {"payout_oldest"},
    "payout_lists.stuck_payouts": {"payout_stuck"},
    "payout_lists.failed_payouts": {"payout_failures"},
    "netting_lists.runs": {"netting_run_newest"},
}


async def plan_of(database_url: str, statement: str) -> list[str]:
    """Return the plan that a connection keeps when it is made on empty tables."""
    count = max((int(number) for number in re.findall(r"\$(\d+)", statement)), default=0)
    values = f"({', '.join(['NULL'] * count)})" if count else ""

    async def explain(transaction: Transaction) -> list[str]:
        await transaction.script(f"PREPARE statement AS {statement}")
        lines = await transaction.fetch(f"EXPLAIN EXECUTE statement{values}")
        await transaction.script("DEALLOCATE statement")
        return [line["QUERY PLAN"] for line in lines]

    async with open_database(database_url) as database:
        await database.fetch("VACUUM ANALYZE")
        return await database.transaction(explain)


async def first_columns(database_url: str) -> dict[str, str]:
    """Return the first column of each index: a condition on another one enters nowhere."""
    async with open_database(database_url) as database:
        rows = await database.fetch(
            "SELECT c.relname, pg_get_indexdef(c.oid, 1, true) AS first_column"
            " FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
        )
    return {row["relname"]: row["first_column"] for row in rows}


def whole_scans(plan: list[str], first_columns: Mapping[str, str]) -> list[str]:
    """Return the nodes of a plan that read a table, or an index that they do not enter by key."""
    found = []
    for line, following in zip(plan, [*plan[1:], ""], strict=True):
        by_index = re.search(r"Index (Only )?Scan .*using (\w+) on", line)
        if "Seq Scan on" in line or "Bitmap Heap Scan" in line:
            found.append(line.strip())
        elif by_index:
            index = by_index[2]
            if not re.search(rf"Index Cond: \(+{first_columns[index]} = ", following):
                found.append(index)
    return found


@pytest.mark.parametrize(("file", "name"), _STATEMENTS)
async def test_a_statement_reads_no_table_from_end_to_end(
    database_url: str, file: str, name: str
) -> None:
    plan = await plan_of(database_url, load_queries(file)[name])
    scans = whole_scans(plan, await first_columns(database_url))
    if name in _WHOLE_BOOK:
        assert scans
    else:
        assert set(scans) == _WALKS.get(f"{file}.{name}", set()), "\n".join(plan)


@pytest.mark.parametrize("name", load_queries("netting"))
async def test_a_statement_of_netting_compares_no_row_with_every_other(
    database_url: str, name: str
) -> None:
    plan = await plan_of(database_url, load_queries("netting")[name])
    for node, below in itertools.pairwise(plan):
        assert "Nested Loop" not in node or "Join Filter" not in below, "\n".join(plan)


async def test_a_page_of_one_account_walks_that_accounts_settlements(database_url: str) -> None:
    plan = "\n".join(await plan_of(database_url, load_queries("ledger")["list_settlements"]))
    assert "Index Scan using ledger_settlement_by_account" in plan, plan
    assert "Index Cond: ((account_id = $1) AND (ROW(created_at, settlement_id) <" in plan, plan


@pytest.mark.parametrize(
    ("name", "walk"),
    [
        ("payouts_created_in", ("payout_by_status", "status = wanted.status")),
        ("payouts_created_for", ("payout_by_account", "account_did = $5")),
    ],
)
async def test_a_filtered_page_of_payouts_enters_at_its_filter_and_its_cursor(
    database_url: str, name: str, walk: tuple[str, str]
) -> None:
    plan = "\n".join(await plan_of(database_url, load_queries("payout_lists")[name]))
    index, key = walk
    assert f"Index Scan using {index}" in plan, plan
    assert f"Index Cond: (({key}) AND (ROW(created_at, payout_id) > " in plan, plan


@pytest.mark.parametrize(
    ("name", "index", "keys"),
    [
        ("events", "loss_event_by_status", ["status = wanted.status"]),
        ("events_from", "loss_event_by_service", ["source_service = $5", "status = wanted.status"]),
        ("events_about", "loss_event_by_account", ["account_id = $5"]),
        ("deliveries", "loss_delivery_newest",
         ["operation = $1", "target = told.target", "state = wanted.state"]),
    ],
)  # fmt: skip
async def test_a_page_of_loss_events_enters_at_its_filters_and_its_cursor(
    database_url: str, name: str, index: str, keys: list[str]
) -> None:
    plan = "\n".join(await plan_of(database_url, load_queries("loss_lists")[name]))
    assert f"Index Scan using {index}" in plan, plan
    entered = "".join(f"({key}) AND " for key in keys)
    assert f"Index Cond: ({entered}(ROW(created_at, " in plan, plan


@pytest.mark.parametrize("name", ["link", "free_items"])
async def test_many_items_of_netting_are_not_compared_with_each_other(
    database_url: str, name: str
) -> None:
    plan = "\n".join(await plan_of(database_url, load_queries("netting")[name]))
    assert "Join Filter" not in plan, plan
