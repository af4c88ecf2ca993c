"""The inbox of Stripe events and the outbox of settlements: recording, leasing, finishing.

A lease is a token and an end by the database's clock. Every write after a claim names the token;
a row that is not returned has another owner by now, and its caller must let go of it.

A claim's token comes from a sequence. The token of a row leased from its birth is drawn here, at
random and below zero, so that a recording which runs again because its answer was lost knows the
rows of its first try for its own.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import trio
from attrs import frozen

from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.forwarding import AttemptResult, ForwardingState, Standing
from clawsettle.domain.stripe_events import Mapped, StripeEvent, refund_since
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.queries import load_queries

_SQL = load_queries("settlement_outbox")


@frozen
class Delivery:
    """A verified event as it is to be recorded; ``mapped`` is None when nothing is forwarded.

    ``body`` is valid UTF-8. It is kept for a ``quarantined`` event only.
    """

    event: StripeEvent
    body: bytes
    mapped: Mapped | None
    quarantined: bool = False

    @property
    def body_sha256(self) -> bytes:
        """Return what two deliveries of one event are compared by."""
        return hashlib.sha256(self.body).digest()


@frozen
class LeasedRow:
    """An outbox row that is the caller's until ``lease_ends`` on trio's clock.

    The end is counted from before the claim was sent, so it comes no later than ``due_at``, the
    end that the database goes by. ``age_s`` is how long the row had been tried when it was claimed:
    seconds since it was recorded or requeued.
    """

    event_id: str
    payload: str
    state: ForwardingState
    attempts: int
    age_s: float
    due_at: datetime
    lease_token: int
    lease_ends: float
    rescued: bool = False


@frozen
class Recorded:
    """What recording made of one new event.

    ``row`` is its outbox row when it is leased to the caller; ``due_at`` is None when nothing of
    it is forwarded.
    """

    event_id: str
    disposition: str
    row: LeasedRow | None
    due_at: datetime | None


@frozen
class KnownEvent:
    """An event of the inbox, and where its settlement stands (None where it has none).

    ``requeued`` says that it was dead once, and that an operator has brought it back.
    """

    event_id: str
    event_type: str
    body_sha256: bytes
    standing: Standing | None
    due: bool
    leased: bool
    requeued: bool


@frozen
class Backlog:
    """What waits: open and dead rows, counted up to a limit, and the age of the longest due (s)."""

    open_count: int
    dead_count: int
    oldest_due_s: float


@frozen
class SettlementOutbox:
    """The repository of the webhook path.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError.
    """

    database: Database
    lease_s: float

    async def record(self, deliveries: Sequence[Delivery], *, leased_max: int) -> list[Recorded]:
        """Record new events, and lease up to ``leased_max`` of their outbox rows to the caller.

        Event ids must be unique among ``deliveries``. Events that were recorded before are left as
        they are and not returned, but for a quarantined one that maps by now: it is recorded anew,
        so that a redelivery brings it back once its cause is mended. What this call recorded is
        returned also when the answer to its commit was lost. Cumulative refunds are turned
        into what is new of them, under a lock on their charge.
        """
        begun = trio.current_time()
        ordered = sorted(deliveries, key=lambda delivery: delivery.event.event_id)
        tokens = {d.event.event_id: -1 - secrets.randbits(62) for d in ordered}
        if not any(d.mapped is not None and d.mapped.refund is not None for d in ordered):
            drafts = [_draft(d, _payload(d)) for d in ordered]
            rows = await self.database.fetch(
                _SQL["record_events"], *self._columns(drafts, tokens, leased_max)
            )
        else:
            drafts, rows = await self.database.transaction(
                lambda transaction: self._record_with_refunds(
                    transaction, ordered, tokens, leased_max
                )
            )
        dispositions = {draft.event.event_id: draft.disposition for draft in drafts}
        ends = begun + self.lease_s
        recorded = [_recorded(row, dispositions[row["event_id"]], ends) for row in rows]
        for new in recorded:
            del tokens[new.event_id]
        if tokens:
            rows = await self.database.fetch(_SQL["recall"], list(tokens), list(tokens.values()))
            recorded += [_recorded(row, "forwarded", ends) for row in rows]
        return recorded

    async def look(self, event_ids: Iterable[str]) -> dict[str, KnownEvent]:
        """Return what is known of these events; unknown ones are missing from the answer."""
        rows = await self.database.fetch(_SQL["look"], list(event_ids))
        return {row["event_id"]: _known(row) for row in rows}

    async def claim(self, event_ids: Sequence[str], *, force: bool = False) -> list[LeasedRow]:
        """Lease those of the named rows that may be attempted now.

        ``force`` also takes rows before their time; it never takes one from under a live lease.
        """
        return await self._lease("claim", list(event_ids), force)

    async def claim_due(self, limit: int, *, force: bool = False) -> list[LeasedRow]:
        """Lease up to ``limit`` rows that are due, the longest due first."""
        return await self._lease("claim_due", limit, force)

    async def finish(
        self, results: Sequence[tuple[LeasedRow, AttemptResult]]
    ) -> dict[int, datetime | None]:
        """Record attempts and end their leases; maps each lease still ours to when it is due again.

        A row whose lease was lost is missing from the answer and unchanged.
        """
        rows = await self.database.fetch(
            _SQL["finish"],
            [row.event_id for row, _ in results],
            [row.lease_token for row, _ in results],
            [str(result.state) for _, result in results],
            [result.retry_in_s for _, result in results],
            [result.ledger_status for _, result in results],
            [result.settlement_id for _, result in results],
            [result.error_code for _, result in results],
            [result.error_message for _, result in results],
            [result.blame and str(result.blame) for _, result in results],
        )
        return {row["lease_token"]: row["due_at"] for row in rows}

    async def count_due(self, limit: int) -> int:
        """Return how many rows may be claimed now, counted no further than ``limit``."""
        count: int = (await self.database.fetch(_SQL["count_due"], limit))[0]["due_count"]
        return count

    async def backlog(self, limit: int) -> Backlog:
        """Return how much waits; the cost is bounded by ``limit``, not by history."""
        row = (await self.database.fetch(_SQL["backlog"], limit))[0]
        return Backlog(row["open_count"], row["dead_count"], row["oldest_due_s"] or 0.0)

    async def _lease(self, statement: str, *args: object) -> list[LeasedRow]:
        begun = trio.current_time()
        rows = await self.database.fetch(_SQL[statement], *args, self.lease_s)
        return [leased_row(row, begun + self.lease_s) for row in rows]

    async def _record_with_refunds(
        self,
        transaction: Transaction,
        ordered: Sequence[Delivery],
        tokens: Mapping[str, int],
        leased_max: int,
    ) -> "tuple[list[_Draft], Sequence[Row]]":
        refunds = {
            d.mapped.refund.charge_id: d.mapped.refund.payment_intent_id
            for d in ordered
            if d.mapped is not None and d.mapped.refund is not None
        }
        charges = sorted(refunds)
        locked = await transaction.fetch(
            _SQL["lock_refund_totals"], charges, [refunds[charge] for charge in charges]
        )
        totals = {row["charge_id"]: row["total_minor"] for row in locked}
        # Looked up under the lock: an event counted before must not be counted again.
        known = await transaction.fetch(_SQL["known_events"], [d.event.event_id for d in ordered])
        counted = {row["event_id"] for row in known}
        drafts = []
        for delivery in (d for d in ordered if d.event.event_id not in counted):
            payload = _payload(delivery)
            if delivery.mapped is not None and (refund := delivery.mapped.refund) is not None:
                since = refund_since(delivery.mapped, recorded_minor=totals[refund.charge_id])
                totals[refund.charge_id] = max(totals[refund.charge_id], refund.total_minor)
                payload = None if since is None else canonical_json(since)
            drafts.append(_draft(delivery, payload))
        await transaction.fetch(
            _SQL["set_refund_totals"], charges, [totals[charge] for charge in charges]
        )
        rows = await transaction.fetch(
            _SQL["record_events"], *self._columns(drafts, tokens, leased_max)
        )
        return drafts, rows

    def _columns(
        self, drafts: "Sequence[_Draft]", tokens: Mapping[str, int], leased_max: int
    ) -> tuple[object, ...]:
        leasable = [draft.event.event_id for draft in drafts if draft.payload is not None]
        leased = set(leasable[:leased_max])
        return (
            [draft.event.event_id for draft in drafts],
            [draft.event.event_type for draft in drafts],
            [draft.event.livemode for draft in drafts],
            [draft.body_sha256 for draft in drafts],
            [draft.disposition for draft in drafts],
            [draft.payload for draft in drafts],
            [draft.body for draft in drafts],
            [tokens[d.event.event_id] if d.event.event_id in leased else None for d in drafts],
            self.lease_s,
        )


@frozen
class _Draft:
    """One event as it goes into the inbox, with what its outbox row will say."""

    event: StripeEvent
    body_sha256: bytes
    disposition: str
    payload: str | None
    body: str | None


def _draft(delivery: Delivery, payload: str | None) -> _Draft:
    if payload is not None:
        disposition = "forwarded"
    elif delivery.quarantined:
        disposition = "quarantined"
    else:
        disposition = "ignored" if delivery.mapped is None else "superseded"
    body = delivery.body.decode() if disposition == "quarantined" else None
    return _Draft(delivery.event, delivery.body_sha256, disposition, payload, body)


def _payload(delivery: Delivery) -> str | None:
    return None if delivery.mapped is None else canonical_json(delivery.mapped.payload)


def _recorded(row: Row, disposition: str, lease_ends: float) -> Recorded:
    leased = None if row["lease_token"] is None else leased_row(row, lease_ends)
    return Recorded(row["event_id"], disposition, leased, row["due_at"])


def leased_row(row: Row, lease_ends: float) -> LeasedRow:
    """Read a row that a statement has just leased to us, until ``lease_ends`` on trio's clock."""
    return LeasedRow(
        event_id=row["event_id"],
        payload=row["payload"],
        state=ForwardingState(row["state"]),
        attempts=row["attempts"],
        age_s=row["age_s"],
        due_at=row["due_at"],
        lease_token=row["lease_token"],
        lease_ends=lease_ends,
        rescued=row.get("rescued", False),
    )


def _known(row: Row) -> KnownEvent:
    standing = None
    if row["state"] is not None:
        standing = Standing(
            ForwardingState(row["state"]), row["due_at"], row["ledger_status"], row["settlement_id"]
        )
    return KnownEvent(
        event_id=row["event_id"],
        event_type=row["event_type"],
        body_sha256=row["body_sha256"],
        standing=standing,
        due=bool(row["due"]),
        leased=bool(row["leased"]),
        requeued=bool(row["requeued"]),
    )
