"""Preparing a run: what waits is read, planned, and taken, in one transaction.

Whoever sees a run sees all that belongs to it; what went wrong before the commit leaves no trace.
Source: netting contract section 5; 10 (1, 2, 4, 12, 14, 19).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from clawsettle.domain.netting import Run, RunStatus
from clawsettle.domain.netting_plan import Direction, Item, Plan, plan_run
from clawsettle.domain.netting_requests import NettingRequest
from clawsettle.storage.bridge import Row, Transaction
from clawsettle.storage.netting_rows import entry_row, run_row
from clawsettle.storage.queries import load_queries

_SQL = load_queries("netting")
_PAGE = 1000
T = TypeVar("T")


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
    entries = [entry_row(entry.opened(run.run_id, now)) for entry in plan.entries]
    for page in _pages(entries):
        await transaction.fetch(_SQL["insert_entries"], page)
    links = [
        (payout_id, direction, entry.entry_id)
        for entry in plan.entries
        for direction, payout_ids in (
            (Direction.SWEEP, entry.payout_ids),
            (Direction.RETURN, entry.compensated_payout_ids),
        )
        for payout_id in payout_ids
    ]
    for page in _pages(links):
        await transaction.fetch(_SQL["link"], run.run_id, *map(list, zip(*page, strict=True)))
    return run


def _pages(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut rows into what a statement surely has time for, however many there are."""
    return (rows[place : place + _PAGE] for place in range(0, len(rows), _PAGE))


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
