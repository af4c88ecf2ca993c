"""Reading loss events: one with all that is known of it, and pages of events and of deliveries.

Source: loss-events contract section 7; 10 (15, 23).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import structlog
from attrs import frozen

from clawsettle.domain.loss_events import (
    Delivery,
    DeliveryState,
    LossEvent,
    LossStatus,
    Operation,
    Resolution,
    Target,
)
from clawsettle.storage.bridge import Database, Row
from clawsettle.storage.loss_rows import read_delivery, read_event, read_resolution
from clawsettle.storage.payout_lists import START, After, Page, page_of
from clawsettle.storage.queries import load_queries

_SQL = load_queries("loss_lists")
_log = structlog.get_logger(__name__)
T = TypeVar("T")


@frozen
class FoundLoss:
    """A loss event, its deliveries by when they were made, and its resolution if it has one."""

    event: LossEvent
    deliveries: Sequence[Delivery]
    resolution: Resolution | None

    def told(self, operation: Operation) -> list[Delivery]:
        """Return the deliveries for one operation."""
        return [one for one in self.deliveries if one.operation is operation]


@frozen
class EventFilter:
    """Which events a list shows; None means any."""

    status: LossStatus | None = None
    account_id: str | None = None
    source_service: str | None = None


@frozen
class DeliveryFilter:
    """Which deliveries a list shows; no target and no event means any."""

    operation: Operation
    states: Sequence[DeliveryState] = tuple(DeliveryState)
    target: Target | None = None
    loss_event_id: str | None = None


@frozen
class LossLists:
    """The repository's reading side. Raises (every method): StorageUnavailable or StorageError.

    Pages are counted by rows: one that cannot be read is left out and logged, and hides no other.
    """

    database: Database

    async def find(self, event_id: str) -> FoundLoss | None:
        """Return an event with all that came of it, as of one instant."""
        rows = await self.database.fetch(_SQL["whole"], event_id)
        if not rows:
            return None
        (row,) = rows
        resolution = row["resolution"]
        return FoundLoss(
            read_event(row),
            [read_delivery(one) for one in row["deliveries"]],
            None if resolution is None else read_resolution(resolution),
        )

    async def events(
        self, wanted: EventFilter, *, after: After | None, limit: int
    ) -> Page[LossEvent]:
        """Return up to ``limit`` events, the newest first, then the highest id."""
        statuses = list(LossStatus) if wanted.status is None else [wanted.status]
        page = (statuses, *(after or START), limit + 1)
        service = wanted.source_service
        if wanted.account_id is not None:
            rows = await self.database.fetch(
                _SQL["events_about"], *page, wanted.account_id, service
            )
        elif service is not None:
            rows = await self.database.fetch(_SQL["events_from"], *page, service)
        else:
            rows = await self.database.fetch(_SQL["events"], *page)
        return _page(rows, limit, "loss_event_id", _whole_event)

    async def deliveries(
        self, wanted: DeliveryFilter, *, after: After | None, limit: int
    ) -> Page[Delivery]:
        """Return up to ``limit`` deliveries, the newest first, then the highest id."""
        targets = list(Target) if wanted.target is None else [wanted.target]
        page = (wanted.operation, targets, list(wanted.states), *(after or START), limit + 1)
        if wanted.loss_event_id is not None:
            rows = await self.database.fetch(_SQL["deliveries_of"], *page, wanted.loss_event_id)
        else:
            rows = await self.database.fetch(_SQL["deliveries"], *page)
        return _page(rows, limit, "delivery_id", read_delivery)


def _page(rows: Sequence[Row], limit: int, id_name: str, read: Callable[[Row], T]) -> Page[T]:
    page = page_of(rows, limit, [(row["created_at"], row[id_name]) for row in rows])
    return Page(list(_readable(page.rows, id_name, read)), page.next)


def _readable(rows: Sequence[Row], id_name: str, read: Callable[[Row], T]) -> Iterator[T]:
    for row in rows:
        try:
            yield read(row)
        except ValueError:
            _log.exception("loss_row_unreadable", row_id=row[id_name])


def _whole_event(row: Row) -> LossEvent:
    """Return the event of a row, whose metadata are read now and not when it is shown."""
    event = read_event(row)
    _ = event.metadata
    return event
