"""The repository of netting runs: preparing, leasing, and recording what came of their entries.

A run is prepared in one transaction, so that nobody ever sees it without its entries. From then on
it belongs to whoever has leased it; every later transaction begins by renewing that lease, which
also keeps everybody else from the run until it is committed.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum, auto

import attrs
import trio
from attrs import frozen

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import (
    ClawsettleError,
    ConflictError,
    IllegalTransition,
    NotFoundError,
)
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.domain.netting_plan import Plan
from clawsettle.domain.netting_requests import NettingDefaults, NettingRequest
from clawsettle.domain.netting_transitions import (
    Begun,
    EntryCheck,
    EntryEvent,
    Orphaned,
    ReleaseAsked,
    Resumed,
    RunEvent,
    TakenOver,
    apply_entry,
    apply_run,
    conclude,
    entry_audit,
    judge_entry,
    may_be_under_way,
    run_audit,
)
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.lease_tokens import birth_token
from clawsettle.storage.netting_preparation import plan_waiting, prepare_run
from clawsettle.storage.netting_reports import freeze_report
from clawsettle.storage.netting_rows import read_entry, read_run, run_row
from clawsettle.storage.queries import load_queries

_SQL = load_queries("netting")
_PAGE = 1000
Results = Sequence[tuple[Entry, EntryEvent]]


class Ask(Enum):
    """What a run is claimed for."""

    RESUME = auto()
    """To move what has not moved, what failed before included."""
    TAKE_OVER = auto()
    """To go on with what somebody else has begun."""
    RELEASE = auto()
    """To give back what has not moved."""


@frozen
class LeasedRun:
    """A run that is the caller's until ``lease_ends`` on trio's clock."""

    run: Run
    lease_ends: float


class LeaseLost(ConflictError):
    """Somebody else works on the run by now; nothing was stored."""

    code = "DUPLICATE_CONFLICT"


@frozen
class NettingRuns:
    """See the module. Every method is repeatable; raises StorageUnavailable or StorageError.

    ``repeats_safely`` is the ledger's word that asking again is safe, whatever has become of an
    order before; otherwise an order that may have been asked for waits for somebody to resume it.
    """

    database: Database
    lease_s: float
    repeats_safely: bool

    async def plan(self, request: NettingRequest) -> Plan:
        """Return what the run would be if it were prepared now; stores nothing."""
        return await self.database.transaction(
            lambda transaction: plan_waiting(transaction, request)
        )

    async def prepare(self, request: NettingRequest, defaults: NettingDefaults) -> Run:
        """Return the run of the request's key, which is prepared if there is none.

        A new run takes what waits to be netted, and takes it whole or not at all.

        Raises: ConflictError IDEMPOTENCY_KEY_REUSED, CallerError for a target that a new run may
        not have, ClawsettleError as ``plan_run``.
        """
        rows = await self.database.fetch(_SQL["run_by_key"], request.idempotency_key)
        if rows[0]["run_id"] is None:
            request.check_target(defaults)
            prepared = await self.database.transaction(
                lambda transaction: prepare_run(transaction, request, self.lease_s)
            )
            if prepared is not None:
                return prepared
            rows = await self.database.fetch(_SQL["run_by_key"], request.idempotency_key)
        found = read_run(rows[0])
        request.check_same(found)
        return found

    async def claim(self, run_id: str, ask: Ask) -> LeasedRun | Run:
        """Lease a run to the caller for what is asked; or return it, when that is done already.

        Raises: NotFoundError, ConflictError DUPLICATE_CONFLICT while somebody works on it,
        IllegalTransition when it has ended otherwise; each with ``details.run_id``.
        """
        begun, token = trio.current_time(), birth_token()

        async def work(transaction: Transaction) -> Run | ClawsettleError:
            rows = await transaction.fetch(_SQL["lock_run"], run_id)
            if not rows:
                return NotFoundError("no such netting run", details={"run_id": run_id})
            run = read_run(rows[0])
            # One with our token was leased by a try whose answer was lost.
            if run.status is _DONE.get(ask) or run.lease_token == token:
                return run
            return await self._claim(transaction, rows[0], ask, token)

        claimed = await self.database.transaction(work)
        if isinstance(claimed, ClawsettleError):
            raise claimed
        if claimed.lease_token != token:
            return claimed
        return LeasedRun(claimed, begun + self.lease_s)

    async def claim_due(self, limit: int) -> list[LeasedRun]:
        """Lease up to ``limit`` runs that nobody has begun, or whose holder has gone."""
        begun = trio.current_time()

        async def work(transaction: Transaction) -> list[Run]:
            claimed = [
                await self._claim(transaction, row, Ask.TAKE_OVER, birth_token())
                for row in await transaction.fetch(_SQL["lock_due"], limit)
            ]
            return [run for run in claimed if isinstance(run, Run)]

        runs = await self.database.transaction(work)
        return [LeasedRun(run, begun + self.lease_s) for run in runs]

    async def renew(self, run: Run) -> bool:
        """Renew the caller's lease; False when it is lost."""
        rows = await self.database.fetch(_SQL["hold"], run.run_id, run.lease_token, self.lease_s)
        return bool(rows)

    async def ended(self, run: Run) -> Run | None:
        """Return a run as it has ended; None while it has not."""
        rows = await self.database.fetch(_SQL["ended_run"], run.run_id)
        return read_run(rows[0]) if rows else None

    async def let_go(self, run: Run) -> None:
        """Give up the caller's lease, so that anybody may go on at once."""
        await self.database.fetch(_SQL["let_go"], run.run_id, run.lease_token)

    async def next_entries(
        self, run: Run, done: Results, *, back: bool, after: str, limit: int
    ) -> list[Entry]:
        """Record what came of entries of the caller's run, and return the next that wait, by id.

        ``back`` are those that bring money back to the source. Each was checked in this very
        commit: one that may be moved is returned as ``applying``; one whose payouts are not what
        they were was given back, and one whose sums are wrong was withheld.

        Raises: LeaseLost, and then nothing was recorded.
        """

        async def work(transaction: Transaction) -> list[Entry]:
            now = await self._hold(transaction, run)
            await _record(transaction, run, done, now)
            rows = await transaction.fetch(_SQL["next_entries"], run.run_id, back, after, limit)
            waiting = [row for row in rows if row["status"] == EntryStatus.PENDING]
            claimed = await _record(transaction, run, [_judged(row) for row in waiting], now)
            # Under a lease nobody else claims: what is claimed beyond ``after`` was so by a try of
            # this very call, whose answer was lost.
            known = {entry.entry_id: entry for entry in claimed}
            return [known.get(row["entry_id"]) or read_entry(row) for row in rows]

        return await self.database.transaction(work)

    async def unmoved(self, run: Run, *, after: str, limit: int) -> list[Entry]:
        """Return a page of a run's entries that have neither moved nor been given back, by id."""
        rows = await self.database.fetch(_SQL["entries_in"], run.run_id, _OPEN, after, limit)
        return [read_entry(row) for row in rows]

    async def in_doubt(self, run: Run, *, after: str, limit: int) -> list[Entry]:
        """Return a page of a run's open entries that may have moved unknown to anybody, by id."""
        rows = await self.database.fetch(_SQL["in_doubt"], run.run_id, after, limit)
        return [read_entry(row) for row in rows]

    async def record(self, run: Run, results: Results) -> None:
        """Store what came of entries of the caller's run, and renew its lease.

        The payouts of those that are given back are free from this commit on.

        Raises: LeaseLost.
        """

        async def work(transaction: Transaction) -> None:
            await _record(transaction, run, results, await self._hold(transaction, run))

        await self.database.transaction(work)

    async def finish(self, run: Run) -> Run:
        """End the caller's run as its entries stand, keep its report, and return it.

        Raises: LeaseLost.
        """

        async def work(transaction: Transaction) -> Run:
            now = await self._hold(transaction, run)
            counts = {
                EntryStatus(row["status"]): row["entry_count"]
                for row in await transaction.fetch(_SQL["tally"], run.run_id)
            }
            unmoved = await transaction.fetch(_SQL["entries_in"], run.run_id, _UNMOVED, "", 1)
            errors = [(row["last_error_code"], row["last_error_message"]) for row in unmoved]
            event = conclude(run, counts, errors[0] if errors else None)
            ended = apply_run(run, event, now=now)
            ended = attrs.evolve(ended, due_at=None, lease_token=None)
            report = await freeze_report(transaction, ended)
            ended = attrs.evolve(ended, report_hash=report.sha256)
            await _store_run(transaction, run, ended, now)
            kept = (ended.status, report.sha256, report.content, now)
            await transaction.fetch(_SQL["keep_report"], run.run_id, *kept)
            return ended

        return await self.database.transaction(work)

    async def _claim(
        self, transaction: Transaction, row: Row, ask: Ask, token: int
    ) -> Run | ClawsettleError:
        """Lease a locked run, and make of its entries what whoever works on it can go on with."""
        before, now = read_run(row), row["read_at"]
        if before.lease_token is not None and before.due_at is not None and before.due_at > now:
            return ConflictError(
                "somebody works on the netting run",
                code="DUPLICATE_CONFLICT",
                details={"run_id": before.run_id},
            )
        try:
            after = apply_run(before, _taken_up(before, ask), now=now)
        except IllegalTransition as error:
            return error
        due_at = now + timedelta(seconds=self.lease_s)
        leased = attrs.evolve(after, due_at=due_at, lease_token=token)
        await _store_run(transaction, before, leased, now)
        after_id = ""
        statuses = _HANDED_ON if ask is not Ask.RESUME else (*_HANDED_ON, *_UNMOVED)
        while page := await transaction.fetch(
            _SQL["entries_in"], before.run_id, statuses, after_id, _PAGE
        ):
            after_id = page[-1]["entry_id"]
            entries = [read_entry(row) for row in page]
            changes = [(entry, self._handed_on(entry, ask, now)) for entry in entries]
            await _store_entries(transaction, leased, changes, now)
        return leased

    def _handed_on(self, entry: Entry, ask: Ask, now: datetime) -> Entry:
        if entry.status is EntryStatus.APPLYING:
            entry = apply_entry(entry, Orphaned(), now=now)
        repeats = ask is not Ask.RELEASE
        if not self.repeats_safely:
            repeats = ask is Ask.RESUME and not may_be_under_way(entry, now)
        return apply_entry(entry, Resumed(), now=now) if repeats else entry

    async def _hold(self, transaction: Transaction, run: Run) -> datetime:
        """Renew a lease, and keep everybody else from the run until the commit; return the time."""
        rows = await transaction.fetch(_SQL["hold"], run.run_id, run.lease_token, self.lease_s)
        if not rows:
            raise LeaseLost("somebody else works on the run", details={"run_id": run.run_id})
        now: datetime = rows[0]["read_at"]
        return now


_OPEN = (EntryStatus.PENDING, EntryStatus.UNKNOWN, EntryStatus.FAILED)
_UNMOVED = (EntryStatus.UNKNOWN, EntryStatus.FAILED)
_DONE = {Ask.RESUME: RunStatus.APPLIED, Ask.RELEASE: RunStatus.RELEASED}
_HANDED_ON = (EntryStatus.APPLYING,)
# What ends an attempt has an audit row; that one begins is in the entry itself.
_AUDITED = frozenset(
    {EntryStatus.UNKNOWN, EntryStatus.APPLIED, EntryStatus.FAILED, EntryStatus.RELEASED}
)


def _taken_up(run: Run, ask: Ask) -> RunEvent:
    """Return what claiming means for a run in its state."""
    if ask is Ask.RELEASE:
        return TakenOver() if run.status is RunStatus.RELEASING else ReleaseAsked()
    if ask is Ask.TAKE_OVER and run.status is RunStatus.RELEASING:
        return TakenOver()
    # A run that is being released is not to be moved any more: the table has no such step.
    return TakenOver() if run.status is RunStatus.RUNNING else Begun()


def _judged(row: Row) -> tuple[Entry, EntryEvent]:
    entry = read_entry(row)
    check = EntryCheck(
        row["item_count"],
        row["items_minor"],
        row["payouts_minor"],
        row["belong_to_it"],
        row["are_unchanged"],
    )
    return entry, judge_entry(entry, check)


async def _record(
    transaction: Transaction, run: Run, results: Results, now: datetime
) -> list[Entry]:
    """Apply what came of entries, store them, and free the items of those given back."""
    if not results:
        return []
    changes = [(entry, apply_entry(entry, event, now=now)) for entry, event in results]
    await _store_entries(transaction, run, changes, now)
    freed = [after for _, after in changes if after.status is EntryStatus.RELEASED]
    if freed:
        payout_ids = [one for entry in freed for one in entry.all_payout_ids]
        entry_ids = [entry.entry_id for entry in freed]
        await transaction.fetch(_SQL["lock_items"], payout_ids, entry_ids)
        await transaction.fetch(_SQL["free_items"], payout_ids, entry_ids)
    return [after for _, after in changes]


async def _store_entries(
    transaction: Transaction, run: Run, changes: Sequence[tuple[Entry, Entry]], now: datetime
) -> None:
    rows = [_entry_columns(before, after) for before, after in changes]
    columns = ([row[place] for row in rows] for place in range(12))
    await transaction.fetch(_SQL["store_entries"], run.run_id, *columns, now)


def _entry_columns(before: Entry, after: Entry) -> tuple[object, ...]:
    audit = entry_audit(before, after) if after.status in _AUDITED else None
    return (
        after.entry_id,
        before.status,
        after.status,
        after.attempts,
        after.doubt_at,
        after.ledger_event_id,
        after.last_error_code,
        after.last_error_message,
        after.applied_at,
        after.unanswered_at,
        audit and audit.event_type,
        audit and compact_json(audit.details),
    )


async def _store_run(transaction: Transaction, before: Run, after: Run, now: datetime) -> None:
    await transaction.fetch(_SQL["store_run"], after.run_id, [run_row(after)])
    audit = run_audit(before, after)
    details = compact_json(audit.details)
    await transaction.fetch(_SQL["keep_audit"], after.run_id, audit.event_type, details, now)
