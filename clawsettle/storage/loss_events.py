"""The repository of loss events: recording them, and resolving them, each once.

An event and its deliveries are one commit, and so are a resolution, its deliveries and what it
cancels. Deliveries are leased from birth to whoever records them, as far as he has room.
Source: loss-events contract sections 3 and 4; 10 (4, 5, 8, 9, 10).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import trio
from attrs import define, evolve, field, frozen

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import ClawsettleError, ConflictError, NotFoundError
from clawsettle.domain.loss_events import (
    CURRENCY,
    Delivery,
    LossEvent,
    LossStatus,
    Operation,
    Resolution,
    Target,
    resolution_id,
    resolve_hash,
)
from clawsettle.domain.loss_requests import LossRequest, ResolveRequest
from clawsettle.domain.loss_resolutions import is_canceled, not_ready, taken_back, unseen
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.loss_births import Births
from clawsettle.storage.loss_deliveries import LeasedDelivery, roll_up_all
from clawsettle.storage.loss_rows import (
    delivery_row,
    event_row,
    read_delivery,
    read_event,
    read_resolution,
    resolution_row,
)
from clawsettle.storage.queries import load_queries

_SQL = load_queries("loss_events")


@frozen
class Recorded:
    """An event that was asked for, with its apply deliveries; ``deduped``: it was there before.

    ``leased`` are those of them that are leased to the caller.
    """

    event: LossEvent
    deliveries: Sequence[Delivery]
    deduped: bool
    leased: Sequence[LeasedDelivery] = ()


@frozen
class Resolved:
    """A resolution that was asked for, with its deliveries; see ``Recorded``."""

    event: LossEvent
    resolution: Resolution
    deliveries: Sequence[Delivery]
    deduped: bool
    leased: Sequence[LeasedDelivery] = ()


@frozen
class LossEvents:
    """The repository of events and resolutions.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError. An
    answer that was lost is given again by the repeat, together with what it has leased.
    """

    database: Database
    lease_s: float

    async def record(
        self,
        requests: Sequence[LossRequest],
        *,
        configured: Collection[Target],
        seats: Mapping[Target, int],
    ) -> list[Recorded | ConflictError]:
        """Record events, or find those that their keys stand for; an answer each, in order.

        Up to ``seats`` deliveries a target are leased to the caller.
        """
        births = Births(configured, seats, self.lease_s)
        begun = trio.current_time()

        async def work(transaction: Transaction) -> list[Recorded | ConflictError]:
            births.begin()
            return await _Recording(transaction, births).run(requests)

        answers = await self.database.transaction(work)
        return [
            answer
            if isinstance(answer, ConflictError)
            else evolve(answer, leased=self._leased(births, answer, None, begun))
            for answer in answers
        ]

    async def resolve(
        self,
        request: ResolveRequest,
        *,
        configured: Collection[Target],
        seats: Mapping[Target, int],
    ) -> Resolved:
        """Resolve an event, or find the resolution that the key stands for.

        Raises: NotFoundError with ``details.loss_event_id``, ConflictError LOSS_EVENT_NOT_READY
        while somebody can still be told of the event, the request's fault, ConflictError
        IDEMPOTENCY_CONFLICT when the key or the event has another resolution.
        """
        births = Births(configured, seats, self.lease_s)
        begun = trio.current_time()

        async def work(transaction: Transaction) -> Resolved | ClawsettleError:
            births.begin()
            return await _resolve(transaction, births, request)

        answer = await self.database.transaction(work)
        if isinstance(answer, ClawsettleError):
            raise answer
        return evolve(answer, leased=self._leased(births, answer, answer.resolution.reason, begun))

    def _leased(
        self, births: Births, answer: Recorded | Resolved, reason: str | None, begun: float
    ) -> list[LeasedDelivery]:
        """Return what is leased to the caller; of equal requests the first has all of it."""
        return [
            LeasedDelivery(
                one, answer.event, reason, 0.0, begun + self.lease_s, one.target in births.unseen
            )
            for one in answer.deliveries
            if births.is_ours(one) and not answer.deduped
        ]


@define(eq=False)
class _Recording:
    """The recording of a batch within a transaction; requests may be the same, or conflict.

    ``new`` are the deliveries of the events that it has inserted.
    """

    transaction: Transaction
    births: Births
    new: dict[str, Sequence[Delivery]] = field(factory=dict, init=False)

    async def run(self, requests: Sequence[LossRequest]) -> list[Recorded | ConflictError]:
        standing = await self._insert(requests)
        # Somebody else was quicker with some of them: those can be seen now.
        while standing is None:
            standing = await self._insert(requests)
        deliveries = {**await self._stored(standing), **self.new}
        told: set[str] = set()
        results: list[Recorded | ConflictError] = []
        for event in standing:
            if isinstance(event, ConflictError):
                results.append(event)
                continue
            event_id, found = event.loss_event_id, deliveries[event.loss_event_id]
            is_new = self.births.has_made(event_id, event.created_at)
            results.append(Recorded(event, found, deduped=not is_new or event_id in told))
            told.add(event_id)
        return results

    async def _insert(
        self, requests: Sequence[LossRequest]
    ) -> list[LossEvent | ConflictError] | None:
        """Insert what is not there; return what each request comes to, None when one was lost."""
        rows = await self.transaction.fetch(
            _SQL["known"],
            [request.idempotency_key for request in requests],
            [request.source_service for request in requests],
            [request.source_event_id for request in requests],
        )
        at: datetime = rows[0]["read_at"]
        known = _Known(read_event(row) for row in rows if row["loss_event_id"] is not None)
        drafts: list[LossEvent] = []
        targets: dict[str, Sequence[Target]] = {}
        standing: list[LossEvent | ConflictError] = []
        for request in requests:
            event = known.find(request)
            if event is not None:
                standing.append(request.conflict_with(event) or event)
                continue
            event = _draft(request, at)
            drafts.append(event)
            targets[event.loss_event_id] = request.targets
            known.add(event)
            standing.append(event)
        inserted = await self._insert_events(drafts)
        for event in drafts:
            if event.loss_event_id in inserted:
                self.births.note(event.loss_event_id, at)
                self.new[event.loss_event_id] = self.births.deliver(
                    event, Operation.APPLY, targets[event.loss_event_id], at
                )
        born = [one for i in inserted for one in self.new[i]]
        if born:
            await _insert_deliveries(self.transaction, born)
        return standing if len(inserted) == len(drafts) else None

    async def _insert_events(self, drafts: Sequence[LossEvent]) -> set[str]:
        if not drafts:
            return set()
        rows = [event_row(event) for event in drafts]
        inserted = await self.transaction.fetch(_SQL["insert_events"], rows)
        return {row["loss_event_id"] for row in inserted}

    async def _stored(
        self, standing: Sequence[LossEvent | ConflictError]
    ) -> dict[str, Sequence[Delivery]]:
        """Return the deliveries of those events that were there before."""
        events = [one.loss_event_id for one in standing if isinstance(one, LossEvent)]
        asked = sorted(set(events) - self.new.keys())
        if not asked:
            return {}
        return await _deliveries_of(self.transaction, asked, Operation.APPLY)


class _Known:
    """Events by their keys and by their sources."""

    def __init__(self, events: Iterable[LossEvent]) -> None:
        self._by_key: dict[str, LossEvent] = {}
        self._by_source: dict[tuple[str, str], LossEvent] = {}
        for event in events:
            self.add(event)

    def add(self, event: LossEvent) -> None:
        self._by_key[event.idempotency_key] = event
        self._by_source[event.source_service, event.source_event_id] = event

    def find(self, request: LossRequest) -> LossEvent | None:
        """Return the event of a request's key, or else the one of its source."""
        source = (request.source_service, request.source_event_id)
        return self._by_key.get(request.idempotency_key) or self._by_source.get(source)


def _draft(request: LossRequest, at: datetime) -> LossEvent:
    return LossEvent(
        loss_event_id=request.loss_event_id,
        idempotency_key=request.idempotency_key,
        request_hash=request.request_hash(at),
        source_service=request.source_service,
        source_event_id=request.source_event_id,
        account_did=request.account_did,
        account_id=request.account_id,
        amount_minor=request.amount_minor,
        currency=CURRENCY,
        reason_code=request.reason_code,
        severity=request.severity,
        occurred_at=request.occurred_at or at,
        metadata_json=compact_json(request.metadata),
        status=LossStatus.RECORDED,
        target_count=len(request.targets),
        forwarded_count=0,
        failed_count=0,
        created_at=at,
        updated_at=at,
    )


async def _resolve(
    transaction: Transaction, births: Births, request: ResolveRequest
) -> Resolved | ClawsettleError:
    """Resolve an event under its row's lock, or say why not, in the contract's order."""
    event_id = request.loss_event_id
    rows = await transaction.fetch(_SQL["lock_event"], event_id)
    if not rows:
        return NotFoundError("no such loss event", details={"loss_event_id": event_id})
    event, at = read_event(rows[0]), rows[0]["read_at"]
    # Locked, so that nobody takes one up that is about to be canceled.
    rows = await transaction.fetch(_SQL["lock_applies"], event_id)
    applies = [read_delivery(row) for row in rows]
    if open_targets := not_ready(applies, births.configured, at):
        return ConflictError(
            f"{', '.join(open_targets)} can still be told of the loss event",
            code="LOSS_EVENT_NOT_READY",
            details={
                "loss_event_id": event_id,
                "status": str(event.status),
                "open_targets": [str(target) for target in open_targets],
            },
        )
    if request.fault is not None:
        return request.fault
    targets, births.unseen = taken_back(applies), unseen(applies)
    new = _resolution(request, targets, at)
    standing = await _standing(transaction, request)
    if standing is None:
        inserted = await transaction.fetch(_SQL["insert_resolution"], [resolution_row(new)])
        if not inserted:  # another event was quicker with the key
            standing = await _standing(transaction, request)
    if standing is not None:
        return await _found(transaction, births, request, event, standing)
    births.note(new.resolution_id, at)
    canceled = [str(one.target) for one in applies if is_canceled(one)]
    await transaction.fetch(_SQL["cancel"], event_id, canceled)
    deliveries = births.deliver(event, Operation.RESOLVE, targets, at)
    if deliveries:
        await _insert_deliveries(transaction, deliveries)
    await roll_up_all(transaction, [event_id], {})
    rows = await transaction.fetch(_SQL["lock_event"], event_id)
    return Resolved(read_event(rows[0]), new, deliveries, deduped=False)


async def _found(
    transaction: Transaction,
    births: Births,
    request: ResolveRequest,
    event: LossEvent,
    standing: Resolution,
) -> Resolved | ConflictError:
    """Answer with the resolution of the key or of the event, if it is what is asked for."""
    if conflict := request.conflict_with(standing):
        return conflict
    found = await _deliveries_of(transaction, [event.loss_event_id], Operation.RESOLVE)
    deliveries = found.get(event.loss_event_id, [])
    is_new = births.has_made(standing.resolution_id, standing.created_at)
    return Resolved(event, standing, deliveries, deduped=not is_new)


async def _standing(transaction: Transaction, request: ResolveRequest) -> Resolution | None:
    """Return the resolution of the request's key, or else the one of its event."""
    rows = await transaction.fetch(_SQL["resolution_of_key"], request.idempotency_key)
    if not rows:
        rows = await transaction.fetch(_SQL["resolution_of_event"], request.loss_event_id)
    return read_resolution(rows[0]) if rows else None


def _resolution(request: ResolveRequest, targets: list[Target], at: datetime) -> Resolution:
    event_id = request.loss_event_id
    # Nobody has anything to take back: then it is over at once.
    is_over = not targets
    return Resolution(
        loss_event_id=event_id,
        resolution_id=resolution_id(request.idempotency_key, event_id),
        idempotency_key=request.idempotency_key,
        request_hash=resolve_hash(event_id, request.reason, targets),
        reason=request.reason,
        status=LossStatus.FORWARDED if is_over else LossStatus.RECORDED,
        target_count=len(targets),
        forwarded_count=0,
        failed_count=0,
        created_at=at,
        updated_at=at,
        resolved_at=at if is_over else None,
    )


async def _insert_deliveries(transaction: Transaction, born: Sequence[Delivery]) -> None:
    await transaction.fetch(_SQL["insert_deliveries"], [delivery_row(one) for one in born])


async def _deliveries_of(
    transaction: Transaction, event_ids: Sequence[str], operation: Operation
) -> dict[str, Sequence[Delivery]]:
    rows: Sequence[Row] = await transaction.fetch(
        _SQL["deliveries_of"], list(event_ids), str(operation)
    )
    found: dict[str, list[Delivery]] = {}
    for delivery in map(read_delivery, rows):
        found.setdefault(delivery.loss_event_id, []).append(delivery)
    return {**found}
