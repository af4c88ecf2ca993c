"""Every statement finds its rows by an index, whatever the tables held when it was planned."""

import re
from importlib.resources import files

import pytest

from clawsettle.storage.bridge import Transaction, open_database
from clawsettle.storage.queries import load_queries

_FILES = sorted(
    entry.name.removesuffix(".sql") for entry in (files("clawsettle.storage") / "sql").iterdir()
)
# Proofs read the whole book; these are not asked for on anybody's way to an answer.
_WHOLE_BOOK = {"trial_balance"}
_STATEMENTS = [(file, name) for file in _FILES for name in load_queries(file)]


async def plan_of(database_url: str, statement: str) -> str:
    """Return the plan that a daemon's connection keeps for a statement."""
    count = max((int(number) for number in re.findall(r"\$(\d+)", statement)), default=0)
    values = f"({', '.join(['NULL'] * count)})" if count else ""

    async def explain(transaction: Transaction) -> str:
        await transaction.script(f"PREPARE statement AS {statement}")
        lines = await transaction.fetch(f"EXPLAIN EXECUTE statement{values}")
        await transaction.script("DEALLOCATE statement")
        return "\n".join(line["QUERY PLAN"] for line in lines)

    async with open_database(database_url) as database:
        return await database.transaction(explain)


@pytest.mark.parametrize(("file", "name"), _STATEMENTS)
async def test_a_statement_scans_no_table(database_url: str, file: str, name: str) -> None:
    plan = await plan_of(database_url, load_queries(file)[name])
    assert ("Seq Scan on" in plan or "Bitmap" in plan) == (name in _WHOLE_BOOK), plan


async def test_a_page_of_one_account_walks_that_accounts_settlements(database_url: str) -> None:
    plan = await plan_of(database_url, load_queries("ledger")["list_settlements"])
    assert "Index Scan using ledger_settlement_by_account" in plan, plan
    assert "Index Scan using ledger_settlement_newest" in plan, plan
    assert "Index Cond: ((account_id = $1) AND (ROW(created_at, settlement_id) <" in plan, plan
