"""The log of verified webhooks and of what targets were told: for questions, not for money."""

from collections.abc import Sequence
from datetime import datetime

from attrs import frozen

from clawsettle.storage.bridge import Database
from clawsettle.storage.queries import load_queries

_SQL = load_queries("delivery_log")


@frozen
class DeliveryEntry:
    """One webhook that was answered, or one attempt to tell a target; ``source`` says which.

    ``error_code`` is None when it succeeded,
    ``idempotency_key`` when the body of a webhook named no event.
    """

    delivery_id: str
    event_type: str
    received_at: datetime
    processed_at: datetime
    error_code: str | None
    idempotency_key: str | None
    source: str = "stripe"


@frozen
class DeliveryLog:
    """The repository of the delivery log. Raises StorageUnavailable or StorageError."""

    database: Database
    retention_days: int

    async def append(self, entries: Sequence[DeliveryEntry]) -> None:
        """Append entries in one commit that does not wait for the disk; repeatable."""
        await self.database.fetch(
            _SQL["append"],
            [entry.delivery_id for entry in entries],
            [entry.event_type for entry in entries],
            [entry.received_at for entry in entries],
            [entry.processed_at for entry in entries],
            [round((e.processed_at - e.received_at).total_seconds() * 1000) for e in entries],
            ["failed" if entry.error_code else "success" for entry in entries],
            [entry.error_code for entry in entries],
            [entry.idempotency_key for entry in entries],
            [entry.source for entry in entries],
        )

    async def expire(self, limit: int) -> int:
        """Delete up to ``limit`` entries past their retention and return how many."""
        return len(await self.database.fetch(_SQL["expire"], self.retention_days, limit))
