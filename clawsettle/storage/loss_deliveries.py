"""The deliveries of loss events: leasing them, recording what came of them, bringing them back.

A lease is a token and an end by the database's clock, as in the settlement outbox. What attempts
come to is stored together with what follows for their events, under the events' row locks.
Source: loss-events contract section 6; 10 (1, 2, 7, 13).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import trio
from attrs import frozen

from clawsettle.domain.errors import ConflictError, IllegalTransition, NotFoundError
from clawsettle.domain.loss_alerts import Group
from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    Operation,
    Target,
)
from clawsettle.domain.loss_requests import RequeueRequest
from clawsettle.domain.loss_transitions import AttemptResult, failed_count, roll_up
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.loss_rows import read_delivery, read_event
from clawsettle.storage.operator_actions import Operator, record_action
from clawsettle.storage.queries import load_queries

_SQL = load_queries("loss_deliveries")
KIND = "loss_event"


@frozen(eq=False)
class LeasedDelivery:
    """A delivery that is leased to us until ``lease_ends`` on trio's clock, with its event.

    ``reason`` is its resolution's. ``age_s`` is how long it had been open when it was claimed:
    seconds since it was recorded or requeued. ``may_be_absent``: it releases what may never have
    been applied.
    """

    delivery: Delivery
    event: LossEvent
    reason: str | None
    age_s: float
    lease_ends: float
    may_be_absent: bool = False


Finished = tuple[LeasedDelivery, AttemptResult]


class LeaseLost(ConflictError):
    """The delivery is somebody else's by now, or ended; nothing was stored."""

    code = "DUPLICATE_CONFLICT"


@frozen
class LossDeliveries:
    """The repository of deliveries.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError. What
    was leased in a commit whose answer was lost waits for its lease to end.
    """

    database: Database
    lease_s: float

    async def claim_due(self, target: Target, limit: int) -> list[LeasedDelivery]:
        """Lease up to ``limit`` deliveries to a target that are due, the longest due first."""
        return await self._lease("lock_due", str(target), limit)

    async def claim_open(
        self,
        event_id: str,
        operation: Operation,
        targets: Collection[Target],
        limit: int,
        *,
        force: bool,
    ) -> list[LeasedDelivery]:
        """Lease up to ``limit`` deliveries of an event to any of these targets that are due.

        ``force``: also before their time. A live lease of somebody else is never taken.
        """
        rows = await self.database.fetch(
            _SQL["open_ids"], event_id, str(operation), _words(targets), force, limit
        )
        return await self._lease("lock_open", _ids(rows), force)

    async def claim_longest_due(
        self, operation: Operation, targets: Collection[Target], limit: int
    ) -> list[LeasedDelivery]:
        """Lease up to ``limit`` deliveries to any of these targets, the longest due first."""
        rows = await self.database.fetch(_SQL["due_ids"], _words(targets), str(operation), limit)
        return await self._lease("lock_open", _ids(rows), _IN_TIME)

    async def finish(self, finished: Sequence[Finished]) -> dict[int, Delivery]:
        """Record attempts, end their leases, and roll their events up.

        Maps each lease that was still ours to its delivery as it is now; a delivery whose lease was
        lost is missing from the answer and unchanged.
        """
        return await self.database.transaction(lambda transaction: _finish(transaction, finished))

    async def others_at_escrows(self, leased: Sequence[LeasedDelivery]) -> list[list[Delivery]]:
        """Return for each the deliveries to its escrow of all events but its own, as they are."""
        escrow_ids = sorted({one.delivery.escrow_id or "" for one in leased})
        told: dict[str | None, list[Delivery]] = defaultdict(list)
        for row in await self.database.fetch(_SQL["at_escrows"], escrow_ids):
            told[row["escrow_id"]].append(read_delivery(row))
        return [_others(one, told[one.delivery.escrow_id]) for one in leased]

    async def under_escrow(
        self,
        leased: LeasedDelivery,
        decide: Callable[[Sequence[Delivery]], AttemptResult | None],
    ) -> AttemptResult | None:
        """Decide about an escrow's hold while nobody else does; record and return what was decided.

        ``decide`` is pure, and told the deliveries to that escrow of all other events; None from it
        decides nothing, and nothing is recorded.

        Raises: LeaseLost, also when only the answer to the commit was lost.
        """
        delivery = leased.delivery
        escrow_id = delivery.escrow_id

        async def work(transaction: Transaction) -> AttemptResult | None:
            await transaction.fetch(_SQL["lock_escrow"], escrow_id)
            # What was decided in a try whose answer was lost must not be decided otherwise now.
            held = await transaction.fetch(_SQL["held"], delivery.delivery_id, delivery.lease_token)
            if not held:
                raise LeaseLost("the delivery is not leased to the caller any more")
            rows = await transaction.fetch(_SQL["at_escrows"], [escrow_id])
            result = decide(_others(leased, map(read_delivery, rows)))
            if result is None:
                return None
            if not await _finish(transaction, [(leased, result)]):
                raise LeaseLost("the delivery was taken up by somebody else")
            return result

        return await self.database.transaction(work)

    async def troubles(self, old_after_s: float, count_max: int) -> list[Group]:
        """Return what is open or dead at every target, counted up to ``count_max`` of each.

        What has been open for more than ``old_after_s`` is old.
        """
        rows = await self.database.fetch(_SQL["troubles"], _words(Target), old_after_s, count_max)
        return [
            Group(
                target=Target(row["target"]),
                state=DeliveryState(row["state"]),
                http_status=row["last_http_status"],
                code=row["last_error_code"],
                is_old=row["is_old"],
                delivery_count=row["delivery_count"],
                due_s=row["due_s"] or 0.0,
            )
            for row in rows
        ]

    async def requeue(self, request: RequeueRequest, operator: Operator) -> list[Delivery]:
        """Bring ended deliveries back in an operator's name, due now.

        Raises: NotFoundError when a delivery that was named is not there, IllegalTransition when it
        cannot be brought back.
        """
        tried: dict[str, datetime] = {}

        async def work(transaction: Transaction) -> list[Delivery] | None:
            stored = await transaction.fetch(_SQL["by_ids"], list(tried))
            done = [row for row in stored if row["opened_at"] == tried[row["delivery_id"]]]
            if done:  # by a try whose answer was lost
                return [read_delivery(row) for row in done]
            found = await _requeueable(transaction, request)
            if request.outbox_id is not None and not found:
                return None
            events = sorted({row["loss_event_id"] for row in found})
            await transaction.fetch(_SQL["lock_events"], events)
            rows = await transaction.fetch(_SQL["requeue"], _ids(found))
            for event_id in sorted({row["loss_event_id"] for row in rows}):
                await record_action(transaction, KIND, event_id, "requeue", operator)
            await roll_up_all(transaction, events, {})
            tried.update((row["delivery_id"], row["opened_at"]) for row in rows)
            return [read_delivery(row) for row in rows]

        requeued = await self.database.transaction(work)
        named = {"outbox_id": request.outbox_id}
        if requeued is None:
            raise NotFoundError("no such delivery", details=named)
        if request.outbox_id is not None and not requeued:
            raise IllegalTransition(
                "only what is dead or not applicable can be requeued, and an apply only while its "
                "event is not resolved",
                details=named,
            )
        return requeued

    async def _lease(self, lock: str, *args: object) -> list[LeasedDelivery]:
        begun = trio.current_time()

        async def work(transaction: Transaction) -> Sequence[Row]:
            locked = _ids(await transaction.fetch(_SQL[lock], *args))
            if not locked:
                return []
            rows = await transaction.fetch(_SQL["lease"], locked, self.lease_s)
            order = {delivery_id: place for place, delivery_id in enumerate(locked)}
            return sorted(rows, key=lambda row: order[row["delivery_id"]])

        rows = await self.database.transaction(work)
        return [
            LeasedDelivery(
                read_delivery(row),
                read_event(row["event"]),
                row["reason"],
                row["age_s"],
                begun + self.lease_s,
                row["may_be_absent"],
            )
            for row in rows
        ]


async def roll_up_all(
    transaction: Transaction,
    event_ids: Sequence[str],
    news: Mapping[Operation, Collection[str]],
) -> None:
    """Store what follows for events, which the transaction has locked, and for their resolutions.

    ``news`` are the events of which a delivery was forwarded just now, by its operation.
    """
    counted: dict[tuple[Operation, str], Counter[DeliveryState]] = defaultdict(Counter)
    for row in await transaction.fetch(_SQL["counts"], list(event_ids)):
        about = (Operation(row["operation"]), row["loss_event_id"])
        counted[about][DeliveryState(row["state"])] = row["delivery_count"]
    for operation, statement in _ROLL_UPS.items():
        counts = {i: found for (about, i), found in counted.items() if about is operation}
        if counts:
            await transaction.fetch(
                _SQL[statement],
                list(counts),
                [str(roll_up(found)) for found in counts.values()],
                [found[DeliveryState.FORWARDED] for found in counts.values()],
                [failed_count(found) for found in counts.values()],
                [event_id in news.get(operation, ()) for event_id in counts],
            )


async def _finish(transaction: Transaction, finished: Sequence[Finished]) -> dict[int, Delivery]:
    events = sorted({leased.event.loss_event_id for leased, _ in finished})
    await transaction.fetch(_SQL["lock_events"], events)
    results = [result for _, result in finished]
    rows = await transaction.fetch(
        _SQL["finish"],
        [leased.delivery.delivery_id for leased, _ in finished],
        [leased.delivery.lease_token for leased, _ in finished],
        [str(result.state) for result in results],
        [result.retry_in_s for result in results],
        [result.in_doubt for result in results],
        [result.is_shared for result in results],
        [result.http_status for result in results],
        [result.error_code for result in results],
        [result.error_message for result in results],
        [result.attempted for result in results],
    )
    news: dict[Operation, set[str]] = defaultdict(set)
    stored: dict[int, Delivery] = {}
    for row in rows:
        delivery = stored[row["held_token"]] = read_delivery(row)
        if delivery.state is DeliveryState.FORWARDED:
            news[delivery.operation].add(delivery.loss_event_id)
    await roll_up_all(transaction, events, news)
    return stored


async def _requeueable(transaction: Transaction, request: RequeueRequest) -> list[Row]:
    """Return what is named by a request, as far as it might be brought back."""
    if request.outbox_id is not None:
        rows = await transaction.fetch(_SQL["by_ids"], [request.outbox_id])
    elif request.loss_event_id is not None:
        rows = await transaction.fetch(_SQL["ended_of_event"], request.loss_event_id)
    else:
        operation = request.operation and str(request.operation)
        rows = await transaction.fetch(
            _SQL["dead_at_target"], str(request.target), operation, request.limit
        )
    wanted = {"operation": request.operation, "target": request.target}
    asked = {name: str(word) for name, word in wanted.items() if word is not None}
    fitting = [row for row in rows if all(row[name] == word for name, word in asked.items())]
    return fitting[: request.limit]


def _others(leased: LeasedDelivery, at_escrow: Iterable[Delivery]) -> list[Delivery]:
    own = leased.event.loss_event_id
    return [one for one in at_escrow if one.loss_event_id != own]


def _ids(rows: Iterable[Row]) -> list[str]:
    return [row["delivery_id"] for row in rows]


def _words(targets: Iterable[Target]) -> list[str]:
    return [str(target) for target in targets]


_IN_TIME = False
_ROLL_UPS = {
    Operation.APPLY: "roll_up_events",
    Operation.RESOLVE: "roll_up_resolutions",
}
