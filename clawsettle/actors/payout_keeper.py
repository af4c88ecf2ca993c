"""Keeps payouts: creates them and takes each one, step by step, to where it rests.

Owns: every effect of a payout in the ledger and at the provider.
Guarantees: a step is done only under a lease on the payout, ends before the lease does, and what
came of it is stored before the next one begins; so there is one request at a time under any key,
and whoever takes the payout over after a crash knows what to look for. Askers of one payout wait
for the one drive that is under way.
Stops: on ``close``, when the steps under way have been stored; the rest waits for its lease.
"""

from collections.abc import Sequence

import structlog
import tenacity
import trio
from attrs import define, field, frozen

from clawsettle.actors.batcher import Batcher
from clawsettle.actors.mailbox import Mailbox, Reply
from clawsettle.actors.payout_orders import PayoutOrders, Taken
from clawsettle.actors.payout_steps import PayoutSteps
from clawsettle.domain.errors import (
    CallerError,
    ClawsettleError,
    IllegalTransition,
    NotFoundError,
    Overloaded,
    ProviderError,
    StorageError,
)
from clawsettle.domain.payout_events import LockRefused, SendDeclined
from clawsettle.domain.payout_requests import PayoutRequest
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.storage.payouts import Change, Changed, Leased, Payouts

_log = structlog.get_logger(__name__)
_WATCH_S, _WATCH_MAX_S = 0.05, 0.5
_CANCELABLE = frozenset({PayoutStatus.SENDING, PayoutStatus.UNKNOWN, PayoutStatus.SUBMITTED})
# What callers are told; what else is stored of a failure is for operators.
_SAID = frozenset(
    {"INSUFFICIENT_FUNDS", "LEDGER_INGEST_FAILED", "LEDGER_TIMEOUT", "STRIPE_TRANSFER_FAILED"}
)
_REFUSALS = (LockRefused, SendDeclined)


@frozen
class Creation:
    """A payout that was asked for; ``deduped`` when an earlier request had made it."""

    payout: Payout
    deduped: bool


@frozen
class Retried:
    """What a retry came to; ``retried`` when there was something to do."""

    payout_id: str
    previous: PayoutStatus
    payout: Payout
    retried: bool


@frozen
class DriveEnd:
    """Where a payout rests, and what kept it from going on, if anything did."""

    payout: Payout
    failure: ClawsettleError | None

    def payout_or_raise(self) -> Payout:
        """Return the payout, or raise what kept it from going on."""
        if self.failure is not None:
            raise self.failure
        return self.payout


Drive = Reply[DriveEnd]


@frozen(eq=False)
class _Work:
    leased: Leased
    first: PayoutStep | None
    drive: Drive


@define(eq=False)
class PayoutKeeper:
    """See the module.

    ``provider_name`` and ``clearing_domain`` are kept with each new payout. ``in_flight_max``
    bounds the payouts that are worked on at a time, ``capacity`` those that are held here.
    """

    payouts: Payouts
    steps: PayoutSteps
    clearing_domain: str
    in_flight_max: int
    capacity: int
    batch_max: int
    name: str = field(default="payout_keeper", init=False)
    lease_lost_count: int = field(default=0, init=False)
    _drives: dict[str, Drive] = field(factory=dict, init=False)
    _waiting: Mailbox[_Work] = field(init=False)
    _created: Batcher[PayoutRequest, Taken] = field(init=False)
    _claimed: Batcher[str, Leased | None] = field(init=False)
    _changed: Batcher[Change, Changed] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._waiting = Mailbox(self.capacity)
        batch_max, capacity = self.batch_max, self.capacity
        orders = PayoutOrders(self.payouts, self.clearing_domain)
        self._created = Batcher("payouts_created", orders.take, batch_max, capacity)
        self._claimed = Batcher("payouts_claimed", self._claim, batch_max, capacity)
        self._changed = Batcher("payouts_changed", self.payouts.apply, batch_max, capacity)

    @property
    def room(self) -> int:
        """Return how many more payouts may be leased for this keeper."""
        return max(0, self.capacity - len(self._drives))

    async def create(self, request: PayoutRequest) -> Creation:
        """Create a payout, or find the one that its key stands for, and see how far it gets.

        Raises: CallerError INSUFFICIENT_FUNDS, ConflictError IDEMPOTENCY_KEY_REUSED,
        ClawsettleError PAYOUT_DESTINATION_NOT_CONFIGURED, ProviderError, Overloaded,
        StorageUnavailable or StorageError. Asking again under the key is always safe.
        """
        taken = await self._created.ask(request)
        if isinstance(taken, ClawsettleError):
            raise taken
        if isinstance(taken, Leased):
            end = await self._drive(taken).wait()
            return Creation(end.payout_or_raise(), deduped=False)
        if taken.status.wire is not PayoutStatus.INITIATED:
            return Creation(taken, deduped=True)
        end, is_ours = await self._go_on(taken)
        return Creation(end.payout_or_raise(), deduped=not is_ours)

    async def settle(self, payout_id: str, drive: Drive | None = None) -> ClawsettleError | None:
        """Heed what the provider has said of a payout; return what keeps it from its end, if any.

        ``drive`` is one that was begun after the news was stored.
        Raises: NotFoundError, Overloaded, StorageUnavailable or StorageError.
        """
        if drive is not None:
            return _kept_by(await drive.wait())
        while True:
            under_way = self._drives.get(payout_id)
            if under_way is not None:
                # It may have begun before the news, so its end is not the answer.
                await under_way.wait()
            leased = await self._claimed.ask(payout_id)
            if leased is not None:
                return _kept_by(await self._drive(leased).wait())
            payout = await self._look_up(payout_id)
            if payout.status.is_end:
                return None
            await self._watch(payout_id)

    async def retry(self, payout_id: str) -> Retried:
        """Take a payout on before its time; one that waits for its provider has it asked.

        Raises: NotFoundError, what keeps the payout from going on, and as ``settle``.
        """
        before = await self._look_up(payout_id)
        if before.status.is_end:
            return Retried(payout_id, before.status, before, retried=False)
        end, _ = await self._go_on(before)
        payout = end.payout_or_raise()
        waited = before.status is PayoutStatus.SUBMITTED
        return Retried(
            payout_id, before.status, payout, retried=not waited or payout.status != before.status
        )

    async def cancel(self, payout_id: str) -> Payout:
        """Have a payout ended that was not paid yet.

        Raises: NotFoundError, IllegalTransition when it is too late, ConflictError when it may
        still be on its way to the provider, and as ``retry``.
        """
        payout, is_ours = await self._look_up(payout_id), False
        while payout.status in _CANCELABLE and not is_ours:
            end, is_ours = await self._go_on(payout, first=PayoutStep.CANCEL)
            payout = end.payout_or_raise() if is_ours else end.payout
        if payout.status in {PayoutStatus.FINALIZING_CANCELED, PayoutStatus.CANCELED}:
            return payout
        raise IllegalTransition(
            f"a payout that is {payout.status} cannot be canceled",
            details={
                "payout_id": payout_id,
                "from_status": str(payout.status.wire),
                "to_status": str(PayoutStatus.CANCELED),
            },
        )

    def take(self, leased: Sequence[Leased]) -> dict[str, Drive]:
        """Work on payouts that were leased for this keeper, no more than it had ``room`` for.

        Returns their drives by their ids; those that find no room any more have none, and wait for
        their leases to end.
        """
        drives: dict[str, Drive] = {}
        try:
            for one in leased:
                drives[one.payout.payout_id] = self._drive(one)
        except Overloaded:
            _log.info("payouts_left_to_their_leases", payouts=len(leased) - len(drives))
        return drives

    async def run(self) -> None:
        """Work until closed and drained."""
        slots = trio.CapacityLimiter(self.in_flight_max)
        try:
            async with trio.open_nursery() as batchers:
                for batcher in (self._created, self._claimed, self._changed):
                    batchers.start_soon(batcher.run)
                async with trio.open_nursery() as drives:
                    await self._start_drives(drives, slots)
                for batcher in (self._created, self._claimed, self._changed):
                    batcher.close()
        finally:
            self._waiting.clear()
            lost = StorageError("the keeper ended before the payout rested")
            for drive in self._drives.values():
                drive.reject(lost)
            self._drives.clear()

    def close(self) -> None:
        """Take no more payouts; those that wait here are left to whoever claims them."""
        self._waiting.close()

    def statistics(self) -> dict[str, int]:
        """Return how many payouts are under way, and how many leases were lost so far."""
        return {
            "under_way": len(self._drives),
            "capacity": self.capacity,
            "lease_lost_count": self.lease_lost_count,
        }

    async def _look_up(self, payout_id: str) -> Payout:
        found = await self.payouts.by_ids([payout_id])
        if payout_id not in found:
            raise NotFoundError("no such payout", details={"payout_id": payout_id})
        return found[payout_id]

    async def _claim(self, payout_ids: Sequence[str]) -> Sequence[Leased | None]:
        claimed = await self.payouts.claim(sorted(set(payout_ids)), force=True)
        leased = {one.payout.payout_id: one for one in claimed}
        return [leased.pop(payout_id, None) for payout_id in payout_ids]

    async def _go_on(
        self, payout: Payout, *, first: PayoutStep | None = None
    ) -> tuple[DriveEnd, bool]:
        """Drive a payout to where it rests, or wait for whoever does; True when it was us."""
        under_way = self._drives.get(payout.payout_id)
        if under_way is not None:
            return await under_way.wait(), False
        leased = await self._claimed.ask(payout.payout_id)
        if leased is not None:
            return await self._drive(leased, first).wait(), True
        under_way = self._drives.get(payout.payout_id)
        if under_way is not None:
            return await under_way.wait(), False
        return await self._watch(payout.payout_id), False

    async def _watch(self, payout_id: str) -> DriveEnd:
        """Look at a payout that somebody else works on until nobody does."""
        payout: Payout = await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(lambda payout: payout.lease_token is not None),
            wait=tenacity.wait_exponential(multiplier=_WATCH_S, max=_WATCH_MAX_S),
            sleep=trio.sleep,
        )(self._look_up, payout_id)
        return DriveEnd(payout, _stopped_by(payout))

    def _drive(self, leased: Leased, first: PayoutStep | None = None) -> Drive:
        work = _Work(leased, first, Drive())
        self._waiting.put(work)
        self._drives[leased.payout.payout_id] = work.drive
        return work.drive

    async def _start_drives(self, nursery: trio.Nursery, slots: trio.CapacityLimiter) -> None:
        while True:
            slot = object()
            await slots.acquire_on_behalf_of(slot)
            works = await self._waiting.take(1)
            if not works:
                return

            async def drive(work: _Work = works[0], slot: object = slot) -> None:
                try:
                    await self._work(work)
                finally:
                    slots.release_on_behalf_of(slot)

            nursery.start_soon(drive)

    async def _work(self, work: _Work) -> None:
        """Do one step after the other until the payout rests, or its lease is nearly over."""
        payout_id = work.leased.payout.payout_id
        try:
            end = await self._rest(work.leased, work.first)
        except (StorageError, Overloaded) as error:
            _log.warning("payout_not_stored", payout_id=payout_id, error=error.message)
            work.drive.reject(error)
        else:
            work.drive.resolve(end)
        finally:
            if self._drives.get(payout_id) is work.drive:
                del self._drives[payout_id]

    async def _rest(self, leased: Leased, first: PayoutStep | None) -> DriveEnd:
        payout, ends = leased.payout, leased.lease_ends
        step = first or payout.next_step()
        refusal: ClawsettleError | None = None
        failure: ClawsettleError | None = None
        while step is not None and trio.current_time() + self.steps.timeout_s < ends:
            result = await self.steps.perform(step, payout)
            failure = result.failure
            if isinstance(result.event, _REFUSALS):
                refusal = failure
            ends = trio.current_time() + self.payouts.schedule.lease_s
            changed = await self._changed.ask(
                Change(payout.payout_id, result.event, payout.lease_token)
            )
            if changed.lost:
                self.lease_lost_count += 1
                _log.warning("payout_lease_lost", payout_id=payout.payout_id, step=step)
                return DriveEnd(changed.payout, _stopped_by(changed.payout))
            _report(payout, changed.payout, step, result.failure)
            payout = changed.payout
            step = payout.next_step() if payout.lease_token is not None else None
        return DriveEnd(payout, refusal or failure)


def _kept_by(end: DriveEnd) -> ClawsettleError | None:
    """Return what kept a drive from the payout's end; None when it is there."""
    if end.payout.status.is_end:
        return None
    return end.failure or _stopped_by(end.payout)


def _stopped_by(payout: Payout) -> ClawsettleError | None:
    """Return what keeps a payout from its end, by what is stored of it; None when nothing does."""
    if payout.last_error_code is None:
        return None
    code = payout.last_error_code if payout.last_error_code in _SAID else "STRIPE_API_ERROR"
    kind = CallerError if code == "INSUFFICIENT_FUNDS" else ProviderError
    return kind(
        payout.last_error_message or "the payout got no further",
        code=code,
        details={"payout_id": payout.payout_id},
    )


def _report(
    before: Payout, after: Payout, step: PayoutStep, failure: ClawsettleError | None
) -> None:
    if failure is not None:
        _log.warning(
            "payout_step_failed",
            payout_id=after.payout_id,
            step=str(step),
            status=str(after.status),
            attempts=before.attempts,
            code=failure.code,
            reason=after.last_error_message or failure.message,
        )
    if after.status is not before.status:
        level = _log.warning if after.status is PayoutStatus.UNKNOWN else _log.info
        level(
            "payout_moved",
            payout_id=after.payout_id,
            from_status=str(before.status),
            to_status=str(after.status),
        )
