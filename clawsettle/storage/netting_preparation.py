"""Preparing a run: what waits is read, planned, and taken, in one transaction.

Whoever sees a run sees all that belongs to it; what went wrong before the commit leaves no trace.
Source: netting contract section 5; 10 (1, 2, 4, 12, 14, 19).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.netting import Run, RunStatus
from clawsettle.domain.netting_plan import Direction, Item, Plan, PlannedEntry, plan_run
from clawsettle.domain.netting_requests import NettingRequest
from clawsettle.storage.bridge import Row, Transaction
from clawsettle.storage.netting_rows import entry_row, run_row
from clawsettle.storage.queries import load_queries

_SQL = load_queries("netting")
_PAGE = 1000


async def plan_waiting(transaction: Transaction, request: NettingRequest) -> Plan:
    """Return what a run would be that is prepared now; nothing is taken or held.

    Raises: as ``plan_run``.
    """
    (row,) = await transaction.fetch(_SQL["run_by_key"], request.idempotency_key)
    return await _plan(transaction, "waiting", request, row["read_at"])


async def prepare_run(
    transaction: Transaction, request: NettingRequest, lease_s: float
) -> Run | None:
    """Make a run with all that belongs to it; None when its key was taken meanwhile.

    The cut is the transaction's own time. Raises: as ``plan_run``.
    """
    await transaction.fetch(_SQL["serialise"], request.source_clearing_domain)
    (row,) = await transaction.fetch(_SQL["run_by_key"], request.idempotency_key)
    if row["run_id"] is not None:
        return None
    now = row["read_at"]
    plan = await _plan(transaction, "take_waiting", request, now)
    # Nobody else takes it up before who has asked for it would have had to give it up.
    due_at = now + timedelta(seconds=lease_s)
    run = _prepared(request, plan, now, due_at)
    if not await transaction.fetch(_SQL["insert_run"], [run_row(run)]):
        return None
    # Page by page: between them other calls of this daemon are served.
    for first in range(0, len(plan.entries), _PAGE):
        await _store_entries(transaction, run, plan.entries[first : first + _PAGE])
    return run


async def _store_entries(
    transaction: Transaction, run: Run, planned: Sequence[PlannedEntry]
) -> None:
    """Keep entries of a new run, and put into them the items that they are made of."""
    entries = [entry_row(entry.opened(run.run_id, run.created_at)) for entry in planned]
    await transaction.fetch(_SQL["insert_entries"], entries)
    sweeps = {payout_id: entry.entry_id for entry in planned for payout_id in entry.payout_ids}
    returns = {
        payout_id: entry.entry_id for entry in planned for payout_id in entry.compensated_payout_ids
    }
    for direction, links in ((Direction.SWEEP, sweeps), (Direction.RETURN, returns)):
        await transaction.fetch(_SQL["link"], run.run_id, direction, compact_json(links))


async def _plan(
    transaction: Transaction, statement: str, request: NettingRequest, cut: datetime
) -> Plan:
    """Read what waits, and plan it in a thread of its own: it may be much."""
    items: list[Item] = []

    def read(page: Sequence[Row]) -> None:
        items.extend(
            Item(
                row["payout_id"],
                Direction(row["direction"]),
                row["connect_account_id"],
                row["currency"],
                row["amount_minor"],
                row["at"],
            )
            for row in page
        )

    await transaction.stream(
        _SQL[statement],
        request.source_clearing_domain,
        request.target_clearing_domain,
        request.currency,
        cut,
        request.limit,
        page=_PAGE,
        visit=read,
    )
    return await transaction.compute(lambda: plan_run(request.run_id, items))


def _prepared(request: NettingRequest, plan: Plan, now: datetime, due_at: datetime) -> Run:
    return Run(
        run_id=request.run_id,
        idempotency_key=request.idempotency_key,
        request_hash=request.request_hash,
        asked_hash=request.asked_hash,
        currency=request.currency,
        selection_before=now,
        source_clearing_domain=request.source_clearing_domain,
        target_clearing_domain=request.target_clearing_domain,
        status=RunStatus.CREATED,
        candidate_count=plan.candidate_count,
        applied_count=0,
        failed_count=0,
        total_amount_minor=plan.total_amount_minor,
        created_at=now,
        updated_at=now,
        is_scheduled=request.is_scheduled,
        due_at=due_at,
    )
