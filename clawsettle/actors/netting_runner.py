"""Runs netting: takes each run, batch by batch, to its end.

Owns: every effect of a netting run in the ledger.
Guarantees: an entry is moved only under a lease on its run, which is renewed while the work goes on
and outlives it; what came of a batch is stored before the next one begins; what somebody else has
left behind is taken up as soon as his lease has run out. A request waits for a run that goes on
without it.
Stops: on ``close``, after the batch under way; what is left is free for any other daemon.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.actors.mailbox import Mailbox, Reply
from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.actors.timer import Timer
from clawsettle.domain.errors import (
    ClawsettleError,
    ConflictError,
    Overloaded,
    StorageError,
    StorageUnavailable,
)
from clawsettle.domain.netting import Entry, EntryStatus, Run, RunStatus
from clawsettle.domain.netting_plan import Plan
from clawsettle.domain.netting_requests import NettingDefaults, NettingRequest
from clawsettle.domain.netting_transitions import EntryEvent
from clawsettle.storage.netting import Ask, LeasedRun, LeaseLost, NettingRuns, Results

_log = structlog.get_logger(__name__)
T = TypeVar("T")
_RUNS_MAX, _WAITING_MAX = 8, 100
# The last share of a lease is kept for ending what is under way.
_MARGIN_SHARE, _RENEWAL_SHARE = 0.1, 0.3


@frozen
class Execution:
    """A run that was asked for; ``deduped`` when it had been applied before."""

    run: Run
    deduped: bool


@frozen(eq=False)
class _Job:
    work: Callable[[], Awaitable[object]]
    reply: Reply[Any]


@define(eq=False)
class NettingRunner:
    """See the module.

    ``batch_max`` entries are claimed at a time, and ``in_flight_max`` of them asked for at once.
    Without ``takes_over`` it works on what it is asked for alone.
    """

    runs: NettingRuns
    steps: NettingSteps
    defaults: NettingDefaults
    batch_max: int
    in_flight_max: int
    poll_s: float
    takes_over: bool = True
    name: str = field(default="netting_runner", init=False)
    lease_lost_count: int = field(default=0, init=False)
    _jobs: Mailbox[_Job] = field(init=False)
    _timer: Timer = field(init=False)
    _slots: trio.CapacityLimiter = field(init=False)
    _replies: set[Reply[Any]] = field(factory=set, init=False)
    _closing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._jobs = Mailbox(_WAITING_MAX)
        self._timer = Timer(self.name, self.poll_s)
        self._slots = trio.CapacityLimiter(_RUNS_MAX)

    async def plan(self, request: NettingRequest) -> Plan:
        """Return what a run would be; nothing is stored or moved. Raises: as ``execute``."""
        request.check_target(self.defaults)
        return await self.runs.plan(request)

    async def execute(self, request: NettingRequest) -> Execution:
        """Prepare the run of a request's key, or find it, and wait for its end.

        Raises: ConflictError IDEMPOTENCY_KEY_REUSED or, while somebody works on it,
        DUPLICATE_CONFLICT; IllegalTransition when it was released; CallerError, Overloaded,
        StorageUnavailable or StorageError. Asking again under the key is always safe.
        """

        async def work() -> Execution:
            run = await self.runs.prepare(request, self.defaults)
            return await self._resume(run.run_id)

        return await self._ask(work)

    async def resume(self, run_id: str) -> Execution:
        """Move what of a run has not moved, and wait for its end.

        Raises: NotFoundError, and as ``execute``.
        """
        return await self._ask(lambda: self._resume(run_id))

    async def release(self, run_id: str) -> Run:
        """Give back the payouts of a run that have not moved; what has moved stays so.

        Raises: NotFoundError, ConflictError DUPLICATE_CONFLICT while somebody works on it or
        CONFLICT while one of its transfers may be under way, IllegalTransition when all has moved,
        Overloaded, StorageUnavailable or StorageError.
        """

        async def work() -> Run:
            claimed = await self.runs.claim(run_id, Ask.RELEASE)
            return claimed if isinstance(claimed, Run) else await self._drive(claimed)

        run = await self._ask(work)
        if run.status is RunStatus.FAILED:
            raise ConflictError(
                "a transfer may be under way to the ledger, or holds what it should not: "
                "see the entries; release it again in some minutes",
                details={"run_id": run_id},
            )
        return run

    async def run(self) -> None:
        """Work until closed."""
        try:
            async with trio.open_nursery() as nursery:
                if self.takes_over:
                    nursery.start_soon(self._timer.run, self._take_over)
                while jobs := await self._jobs.take(1):
                    nursery.start_soon(self._do, jobs[0])
        finally:
            self._jobs.clear()
            for reply in self._replies:
                reply.reject(StorageError("the runner ended before its work did"))
            self._replies.clear()

    def close(self) -> None:
        """Take no more runs, and leave those under way to others after their batch."""
        self._closing = True
        self._jobs.close()
        self._timer.stop()

    def statistics(self) -> dict[str, int]:
        """Return how many runs are under way, and how many leases were lost so far."""
        return {
            "under_way": self._slots.borrowed_tokens,
            "lease_lost_count": self.lease_lost_count,
        }

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have work done here, which goes on whether its asker waits for it or not."""
        reply: Reply[T] = Reply()
        self._put(work, reply)
        return await reply.wait()

    def _put(self, work: Callable[[], Awaitable[object]], reply: Reply[Any]) -> None:
        self._jobs.put(_Job(work, reply))
        self._replies.add(reply)

    async def _do(self, job: _Job) -> None:
        try:
            async with self._slots:
                job.reply.resolve(await job.work())
        except ClawsettleError as error:
            job.reply.reject(error)
        finally:
            # Whatever has ended this, nobody waits for ever.
            job.reply.reject(StorageError("the work ended before the run did"))
            self._replies.discard(job.reply)

    async def _take_over(self) -> bool:
        """Take up a run that nobody works on; True when there may be more of them."""
        if self._closing or not self._slots.available_tokens:
            return False
        for one in await self.runs.claim_due(1):
            _log.info("netting_run_taken_over", run_id=one.run.run_id, status=one.run.status)
            try:
                self._put(partial(self._drive, one), Reply())
            except Overloaded:
                await self.runs.let_go(one.run)
                return False
            return True
        return False

    async def _resume(self, run_id: str) -> Execution:
        claimed = await self.runs.claim(run_id, Ask.RESUME)
        if isinstance(claimed, Run):
            return Execution(claimed, deduped=True)
        return Execution(await self._drive(claimed), deduped=False)

    async def _drive(self, leased: LeasedRun) -> Run:
        """Take a run to its end while its lease is renewed.

        Raises: LeaseLost, Overloaded when this daemon stops, StorageUnavailable or StorageError.
        """
        run = leased.run
        end: Run | ClawsettleError = LeaseLost("the lease ran out", details={"run_id": run.run_id})
        with trio.CancelScope(deadline=leased.lease_ends - self._margin_s) as lease:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease, run, lease)
                try:
                    end = await self._go_through(run)
                except (StorageError, LeaseLost, Overloaded) as error:
                    end = error
                nursery.cancel_scope.cancel()
        if isinstance(end, LeaseLost):
            # It is also lost by ending the run, and the answer to that may have been lost.
            end = await self.runs.ended(run) or end
        if isinstance(end, ClawsettleError):
            self.lease_lost_count += isinstance(end, LeaseLost)
            _log.warning("netting_run_left", run_id=run.run_id, error=end.message)
            raise end
        _report(end)
        return end

    async def _keep_lease(self, run: Run, lease: trio.CancelScope) -> None:
        """Renew a lease again and again; end the work before it can run out."""

        async def renew() -> bool:
            begun = trio.current_time()
            try:
                is_held = await self.runs.renew(run)
            except StorageUnavailable:
                raise
            except StorageError as error:
                _log.warning("netting_lease_refused", run_id=run.run_id, error=error.message)
                is_held = False
            if is_held:
                lease.deadline = begun + self.runs.lease_s - self._margin_s
            else:
                lease.cancel()
            return False

        await Timer("netting_lease", self.runs.lease_s * _RENEWAL_SHARE).run(renew)

    @property
    def _margin_s(self) -> float:
        return self.runs.lease_s * _MARGIN_SHARE

    async def _go_through(self, run: Run) -> Run:
        if run.status is RunStatus.RELEASING:
            await self._settle(run, self.runs.unmoved, self.steps.give_back)
            return await self.runs.finish(run)
        # What has moved is known before it is judged by what its payouts have become: only then
        # does the amount of one that has failed come back with another run.
        await self._settle(run, self.runs.in_doubt, self.steps.look)
        # What comes back to the source first: others may wait for it there.
        await self._move(run, back=True)
        await self._move(run, back=False)
        return await self.runs.finish(run)

    async def _move(self, run: Run, *, back: bool) -> None:
        """Move what waits, batch by batch: what came of one is stored as the next is claimed."""
        done: Results = ()
        after, limit = "", self.batch_max
        while entries := await self.runs.next_entries(
            run, done, back=back, after=after, limit=limit
        ):
            after = entries[-1].entry_id
            claimed = [entry for entry in entries if entry.status is EntryStatus.APPLYING]
            done = await self._each(claimed, partial(self.steps.move, run))
            if self._closing:
                await self._leave(run, done)

    async def _settle(
        self,
        run: Run,
        read: Callable[..., Awaitable[list[Entry]]],
        step: Callable[[Run, Entry], Awaitable[EntryEvent | None]],
    ) -> None:
        """Do a step for every entry that ``read`` returns, page by page."""
        after, limit = "", self.batch_max
        while entries := await read(run, after=after, limit=limit):
            after = entries[-1].entry_id
            done = await self._each(entries, partial(step, run))
            await self.runs.record(run, done)
            if self._closing:
                await self._leave(run, ())

    async def _leave(self, run: Run, done: Results) -> NoReturn:
        """Leave a run to another daemon. Raises: Overloaded."""
        await self.runs.record(run, done)
        await self.runs.let_go(run)
        raise Overloaded("the daemon stops; the run goes on elsewhere")

    async def _each(
        self,
        entries: Sequence[Entry],
        step: Callable[[Entry], Awaitable[EntryEvent | None]],
    ) -> list[tuple[Entry, EntryEvent]]:
        """Do a step for each of these entries, some at a time; return what came of it."""
        done: list[tuple[Entry, EntryEvent]] = []
        waiting = iter(entries)

        async def work() -> None:
            for entry in waiting:
                event = await step(entry)
                if event is not None:
                    done.append((entry, event))

        async with trio.open_nursery() as nursery:
            for _ in range(min(self.in_flight_max, len(entries))):
                nursery.start_soon(work)
        return done


def _report(run: Run) -> None:
    log = _log.warning if run.status is RunStatus.FAILED else _log.info
    log(
        "netting_run_ended",
        run_id=run.run_id,
        status=str(run.status),
        candidate_count=run.candidate_count,
        applied_count=run.applied_count,
        failed_count=run.failed_count,
        total_amount_minor=run.total_amount_minor,
        code=run.last_error_code,
    )
