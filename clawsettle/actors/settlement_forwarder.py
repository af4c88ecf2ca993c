"""Carries leased settlements to the ledger and records what came of it.

Owns: the attempts of this daemon, from a leased row to its recorded result.
Guarantees: a row is sent only while its lease runs, and recorded only while the lease is still
ours; many are under way at once and one slow answer holds up no other; what ends together is
recorded together. A row whose event is about a payout is done only when the payout has heeded it.
An attempt whose result cannot be recorded leaves the row to whoever claims it after the lease.
Stops: on ``close``, when the attempts under way have been recorded.
"""

import json
from collections.abc import Mapping, Sequence

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.actors.mailbox import Mailbox, Reply
from clawsettle.actors.payout_keeper import Drive, PayoutKeeper
from clawsettle.actors.seating import Kind, Seating, Seats
from clawsettle.clients.ledger import SettlementLedger
from clawsettle.domain.errors import ClawsettleError, StorageError, StorageUnavailable
from clawsettle.domain.forwarding import (
    Accepted,
    AttemptOutcome,
    AttemptResult,
    Forwardable,
    ForwardingState,
    RetryPolicy,
    Standing,
    Unheeded,
    Unknown,
    Unreadable,
    judge,
)
from clawsettle.domain.stripe_events import idempotency_key
from clawsettle.storage.settlement_outbox import LeasedRow, SettlementOutbox

_log = structlog.get_logger(__name__)

Attempt = Reply[Standing | None]
"""The result of an attempt under way; None when it ended without one that could be recorded."""


@frozen(eq=False)
class _Work:
    """A leased row, the attempt that waits for it, and what kind of seat it has.

    ``drive`` is what its event has begun of its payout.
    """

    row: LeasedRow
    kind: Kind
    attempt: Attempt
    drive: Drive | None


_Finished = tuple[_Work, AttemptResult]


@define(eq=False)
class SettlementForwarder:
    """See the module.

    ``capacity`` bounds the rows held here: no more than can be sent before their leases end; room
    for them is set aside in ``seating``. ``in_flight_max`` bounds the ledger calls under way,
    ``attempt_timeout_s`` each of them. Without ``payouts`` other daemons see to the payouts.
    """

    outbox: SettlementOutbox
    ledger: SettlementLedger
    policy: RetryPolicy
    capacity: int
    in_flight_max: int
    attempt_timeout_s: float
    payouts: PayoutKeeper | None = None
    name: str = field(default="settlement_forwarder", init=False)
    seating: Seating = field(init=False)
    lease_lost_count: int = field(default=0, init=False)
    rescued_count: int = field(default=0, init=False)
    _under_way: set[_Work] = field(factory=set, init=False)
    _latest: dict[str, Attempt] = field(factory=dict, init=False)
    _waiting: Mailbox[_Work] = field(init=False)
    _finished: Mailbox[_Finished] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._waiting = Mailbox(self.capacity)
        self._finished = Mailbox(self.capacity)
        self.seating = Seating(self.capacity)

    def take(
        self,
        seats: Seats,
        rows: Sequence[LeasedRow],
        drives: Mapping[str, Drive] | None = None,
    ) -> dict[str, Attempt]:
        """Start leased rows on seats that were set aside; return their attempts by event id.

        ``drives`` are those that rows' events have begun of their payouts, by the events' ids.
        Raises: Overloaded when it is closed; the rows wait for their leases to end.
        """
        drives = drives or {}
        return {row.event_id: self._start(row, seats, drives.get(row.event_id)) for row in rows}

    def attempt_of(self, event_id: str) -> Attempt | None:
        """Return the attempt under way here for an event, if there is one."""
        return self._latest.get(event_id)

    async def run(self) -> None:
        """Work until closed and drained."""
        slots = trio.CapacityLimiter(self.in_flight_max)
        try:
            async with trio.open_nursery() as recorder:
                recorder.start_soon(self._record)
                async with trio.open_nursery() as attempts:
                    await self._start_attempts(attempts, slots)
                self._finished.close()
        finally:
            # Nothing that was let go of may keep a place in the queue.
            self._waiting.clear()
            for work in list(self._under_way):
                self._settle(work, None)
            self._finished = Mailbox(self.capacity)

    def close(self) -> None:
        """Take no more rows."""
        self._waiting.close()

    def statistics(self) -> dict[str, int]:
        """Return what is under way, and how many leases were lost and taken over so far."""
        return {
            "under_way": len(self._under_way),
            "capacity": self.capacity,
            "lease_lost_count": self.lease_lost_count,
            "rescued_count": self.rescued_count,
        }

    def _start(self, row: LeasedRow, seats: Seats, drive: Drive | None) -> Attempt:
        if row.rescued:
            self.rescued_count += 1
            _log.warning("settlement_rescued", event_id=row.event_id, attempts=row.attempts)
        work = _Work(row, seats.kind, Attempt(), drive)
        self._waiting.put(work)
        seats.take()
        self._under_way.add(work)
        self._latest[row.event_id] = work.attempt
        return work.attempt

    async def _start_attempts(self, nursery: trio.Nursery, slots: trio.CapacityLimiter) -> None:
        while True:
            slot = object()
            await slots.acquire_on_behalf_of(slot)
            works = await self._waiting.take(self.ledger.batch_max)
            if not works:
                return

            async def attempt(works: Sequence[_Work] = works, slot: object = slot) -> None:
                try:
                    await self._attempt(works)
                finally:
                    slots.release_on_behalf_of(slot)

            nursery.start_soon(attempt)

    async def _attempt(self, works: Sequence[_Work]) -> None:
        """Send rows whose leases outlast an attempt, and hand on what came of them.

        An attempt thus ends before its lease, and nobody else sends the row meanwhile.
        """
        ends = trio.current_time() + self.attempt_timeout_s
        sendable: list[tuple[_Work, Forwardable]] = []
        for work in works:
            if work.row.lease_ends < ends:
                self._lose(work)
            elif (settlement := _readable(work.row)) is None:
                self._finish(work, Unreadable("the stored payload cannot be read"))
            else:
                sendable.append((work, settlement))
        if not sendable:
            return
        outcomes: Sequence[AttemptOutcome] = [Unknown("the ledger did not answer in time")] * len(
            sendable
        )
        with trio.move_on_at(ends):
            outcomes = await self._send([settlement for _, settlement in sendable])
        async with trio.open_nursery() as heeding:
            for (work, _), outcome in zip(sendable, outcomes, strict=True):
                if isinstance(outcome, Accepted) and work.row.payout_id and self.payouts:
                    heeding.start_soon(self._heed, self.payouts, work, outcome, ends)
                else:
                    self._finish(work, outcome)

    async def _heed(
        self, payouts: PayoutKeeper, work: _Work, accepted: Accepted, ends: float
    ) -> None:
        """Have the payout that a row is about heed its event, before the row is done."""
        payout_id = work.row.payout_id
        assert payout_id is not None  # noqa: S101 - whoever calls has looked
        failure: ClawsettleError | None = StorageUnavailable("the payout did not heed it in time")
        try:
            with trio.move_on_at(ends):
                failure = await payouts.settle(payout_id, work.drive)
        except ClawsettleError as error:
            failure = error
        except Exception:  # noqa: BLE001 - as in _send
            _log.exception("payout_not_heeded", payout_id=payout_id)
        outcome: AttemptOutcome = accepted
        if failure is not None:
            outcome = Unheeded(failure.code, failure.message, accepted.ledger_status)
        self._finish(work, outcome)

    async def _send(self, settlements: Sequence[Forwardable]) -> Sequence[AttemptOutcome]:
        try:
            return await self.ledger.ingest(settlements)
        except ClawsettleError as error:
            return [Unknown(f"{error.code}: {error.message}")] * len(settlements)
        except Exception:  # noqa: BLE001 - whatever went wrong, the row must not be lost sight of
            _log.exception("ledger_call_failed", settlements=len(settlements))
            return [Unknown("the ledger call failed")] * len(settlements)

    def _finish(self, work: _Work, outcome: AttemptOutcome) -> None:
        row = work.row
        result = judge(
            row.state,
            outcome,
            event_id=row.event_id,
            attempts=row.attempts,
            age_s=row.age_s,
            policy=self.policy,
        )
        self._finished.put((work, result))

    async def _record(self) -> None:
        while finished := await self._finished.take(self.capacity):
            try:
                await self._record_all(finished)
            except StorageError as error:
                if error.retryable or len(finished) == 1:
                    self._give_up(finished, error)
                    continue
                # One result that storage refuses must not take its neighbours with it.
                for one in finished:
                    try:
                        await self._record_all([one])
                    except StorageError as alone:
                        self._give_up([one], alone)

    async def _record_all(self, finished: Sequence[_Finished]) -> None:
        due = await self.outbox.finish([(work.row, result) for work, result in finished])
        for work, result in finished:
            if work.row.lease_token not in due:
                self._lose(work)
                continue
            _report(work.row, result)
            due_at = due[work.row.lease_token]
            self._settle(
                work,
                Standing(result.state, due_at, result.ledger_status, result.settlement_id),
            )

    def _give_up(self, finished: Sequence[_Finished], error: StorageError) -> None:
        _log.warning("attempts_not_recorded", rows=len(finished), error=error.message)
        for work, _ in finished:
            self._settle(work, None)

    def _lose(self, work: _Work) -> None:
        self.lease_lost_count += 1
        _log.warning("lease_lost", event_id=work.row.event_id, attempts=work.row.attempts)
        self._settle(work, None)

    def _settle(self, work: _Work, standing: Standing | None) -> None:
        if work in self._under_way:
            self._under_way.remove(work)
            self.seating.leave(work.kind)
        if self._latest.get(work.row.event_id) is work.attempt:
            del self._latest[work.row.event_id]
        work.attempt.resolve(standing)


def _readable(row: LeasedRow) -> Forwardable | None:
    try:
        payload = json.loads(row.payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    return Forwardable(idempotency_key(row.event_id), payload)


def _report(row: LeasedRow, result: AttemptResult) -> None:
    if result.state is ForwardingState.FORWARDED:
        _log.info(
            "settlement_forwarded",
            event_id=row.event_id,
            settlement_id=result.settlement_id,
            attempts=row.attempts,
        )
        return
    level = _log.error if result.state is ForwardingState.DEAD else _log.warning
    level(
        f"settlement_{result.state}",
        event_id=row.event_id,
        attempts=row.attempts,
        ledger_status=result.ledger_status,
        code=result.error_code,
        reason=result.error_message,
        blame=result.blame,
        retry_in_s=result.retry_in_s,
    )
