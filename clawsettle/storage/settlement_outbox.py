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

import attrs
import trio
from attrs import Factory, define, frozen

from clawsettle.domain.canonical import canonical_json
from clawsettle.domain.forwarding import AttemptResult, ForwardingState, Standing
from clawsettle.domain.payout_news import AccountNews, NewsState, PayoutNews
from clawsettle.domain.stripe_events import Mapped, RefundTotal, StripeEvent, refund_since
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.connect_accounts import note_account
from clawsettle.storage.payouts import Heard, Leased, hear_news, recall_leased
from clawsettle.storage.queries import load_queries

_SQL = load_queries("settlement_outbox")


@frozen
class Delivery:
    """A verified event as it is to be recorded; ``mapped`` is None when nothing is forwarded.

    ``body`` is valid UTF-8. It is kept for a ``quarantined`` event only. ``news`` is what the event
    says of a payout, ``account`` what it says of a connected account.
    """

    event: StripeEvent
    body: bytes
    mapped: Mapped | None
    quarantined: bool = False
    news: PayoutNews | None = None
    account: AccountNews | None = None

    @property
    def body_sha256(self) -> bytes:
        """Return what two deliveries of one event are compared by."""
        return hashlib.sha256(self.body).digest()


@frozen
class LeasedRow:
    """An outbox row that is the caller's until ``lease_ends`` on trio's clock.

    The end is counted from before the claim was sent, so it comes no later than ``due_at``, the
    end that the database goes by. ``age_s`` is how long the row had been tried when it was claimed:
    seconds since it was recorded or requeued. ``payout_id`` names the payout that its event is
    about, which has to heed it before the row is done; None when that is nobody's here.
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
    payout_id: str | None = None


@frozen
class Recorded:
    """What recording made of one new event.

    ``row`` is its outbox row when it is leased to the caller; ``due_at`` is None when nothing of
    it is forwarded. ``heard`` tells of an event about a payout what became of it, ``payout`` is the
    payout that has something to do by it, when that is leased to the caller, too.
    """

    event_id: str
    disposition: str
    row: LeasedRow | None
    due_at: datetime | None
    heard: Heard | None = None
    payout: Leased | None = None


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
    """The repository of the webhook path; ``payout_lease_s`` is how long a payout is leased.

    Every method is one commit and repeatable, and raises StorageUnavailable or StorageError.
    """

    database: Database
    lease_s: float
    payout_lease_s: float = 0.0

    async def record(
        self, deliveries: Sequence[Delivery], *, leased_max: int, payouts_max: int = 0
    ) -> list[Recorded]:
        """Record new events, and lease up to ``leased_max`` of their outbox rows to the caller.

        Event ids must be unique among ``deliveries``. Events that were recorded before are left as
        they are and not returned, but for a quarantined one that maps by now: it is recorded anew,
        so that a redelivery brings it back once its cause is mended. What this call recorded is
        returned also when the answer to its commit was lost. Cumulative refunds are turned
        into what is new of them, under a lock on their charge. News of payouts is applied to them,
        and news of connected accounts noted, in the same commit; up to ``payouts_max`` payouts that
        have something to do by it are leased to the caller, if all rows are.
        """
        begun = trio.current_time()
        ordered = sorted(deliveries, key=lambda delivery: delivery.event.event_id)
        tokens = {d.event.event_id: -1 - secrets.randbits(62) for d in ordered}
        if not any(_touches_more(d) for d in ordered):
            drafts = [_draft(d, _payload(d)) for d in ordered]
            rows = await self.database.fetch(
                _SQL["record_events"], *self._columns(drafts, tokens, leased_max)
            )
        else:
            drafts, rows = await self.database.transaction(
                lambda transaction: self._record_with_more(
                    transaction, ordered, tokens, leased_max, payouts_max
                )
            )
        drafted = {draft.event.event_id: draft for draft in drafts}
        ends, payout_ends = begun + self.lease_s, begun + self.payout_lease_s
        recorded = [_recorded(row, drafted[row["event_id"]], ends, payout_ends) for row in rows]
        for new in recorded:
            del tokens[new.event_id]
        if tokens:
            told = tokens.keys() & {d.event.event_id for d in ordered if d.news is not None}
            recorded += await self._recall(tokens, told, ends, payout_ends)
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

    async def _record_with_more(
        self,
        transaction: Transaction,
        ordered: Sequence[Delivery],
        tokens: Mapping[str, int],
        leased_max: int,
        payouts_max: int,
    ) -> "tuple[list[_Draft], Sequence[Row]]":
        """Record events of which some change more than the inbox; locks charges, then payouts."""
        charges = _Charges()
        refunds = [d.mapped.refund for d in ordered if d.mapped is not None and d.mapped.refund]
        if refunds:
            await charges.lock(transaction, refunds)
        # Looked up under the lock: an event counted before must not be counted again.
        known = await transaction.fetch(_SQL["known_events"], [d.event.event_id for d in ordered])
        counted = {row["event_id"] for row in known}
        fresh = [d for d in ordered if d.event.event_id not in counted]
        told = [d.news for d in fresh if d.news is not None]
        heard: Mapping[str, Heard] = {}
        if told:
            most = payouts_max if len(ordered) <= leased_max else 0
            heard, desk = await hear_news(
                transaction,
                told,
                tokens={one.event_id: tokens[one.event_id] for one in told[:most]},
                lease_s=self.payout_lease_s,
            )
        drafts = [_draft(d, charges.payload(d.mapped), heard.get(d.event.event_id)) for d in fresh]
        if refunds:
            await charges.store(transaction)
        rows = await transaction.fetch(
            _SQL["record_events"], *self._columns(drafts, tokens, leased_max)
        )
        if told:
            await desk.store(transaction)
        for account in (d.account for d in fresh if d.account is not None):
            await note_account(
                transaction,
                account.connect_account_id,
                active=account.active,
                said_at=account.said_at,
            )
        return drafts, rows

    async def _recall(
        self,
        tokens: Mapping[str, int],
        told: set[str],
        lease_ends: float,
        payout_lease_ends: float,
    ) -> list[Recorded]:
        """Return what was recorded under these tokens in a try whose answer was lost.

        ``told`` are the ids of the events that tell of payouts.
        """
        rows = await self.database.fetch(_SQL["recall"], list(tokens), list(tokens.values()))
        leased: dict[str, Leased] = {}
        if told:
            payouts = await recall_leased(self.database, {i: tokens[i] for i in told})
            leased = {i: Leased(payout, payout_lease_ends) for i, payout in payouts.items()}
        forwarded = [
            Recorded(
                row["event_id"],
                "forwarded",
                leased_row(row, lease_ends),
                row["due_at"],
                payout=leased.pop(row["event_id"], None),
            )
            for row in rows
        ]
        return forwarded + [Recorded(i, "heeded", None, None, payout=leased[i]) for i in leased]

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


@define
class _Charges:
    """The charges of one batch and what is recorded of their refunds, under their locks."""

    totals: dict[str, int] = Factory(dict)

    async def lock(self, transaction: Transaction, refunds: Sequence[RefundTotal]) -> None:
        named = {refund.charge_id: refund.payment_intent_id for refund in refunds}
        charges = sorted(named)
        rows = await transaction.fetch(
            _SQL["lock_refund_totals"], charges, [named[charge] for charge in charges]
        )
        self.totals = {row["charge_id"]: row["total_minor"] for row in rows}

    def payload(self, mapped: Mapped | None) -> str | None:
        """Return what is forwarded of an event; None when it adds nothing to what is recorded."""
        if mapped is None:
            return None
        if mapped.refund is None:
            return canonical_json(mapped.payload)
        charge_id, total_minor = mapped.refund.charge_id, mapped.refund.total_minor
        since = refund_since(mapped, recorded_minor=self.totals[charge_id])
        self.totals[charge_id] = max(self.totals[charge_id], total_minor)
        return None if since is None else canonical_json(since)

    async def store(self, transaction: Transaction) -> None:
        charges = sorted(self.totals)
        await transaction.fetch(
            _SQL["set_refund_totals"], charges, [self.totals[charge] for charge in charges]
        )


@frozen
class _Draft:
    """One event as it goes into the inbox, with what its outbox row will say."""

    event: StripeEvent
    body_sha256: bytes
    disposition: str
    payload: str | None
    body: str | None
    heard: Heard | None


def _touches_more(delivery: Delivery) -> bool:
    """Whether recording it also changes a charge's total, a payout or a connected account."""
    refund = None if delivery.mapped is None else delivery.mapped.refund
    return any(found is not None for found in (refund, delivery.news, delivery.account))


def _draft(delivery: Delivery, payload: str | None, heard: Heard | None = None) -> _Draft:
    state = None if heard is None else heard.verdict.state
    if state in {NewsState.QUARANTINED, NewsState.SUPERSEDED}:
        # Neither what is not true nor what is overruled reaches the ledger.
        payload = None
    if payload is not None:
        disposition = "forwarded"
    elif delivery.quarantined or state is NewsState.QUARANTINED:
        disposition = "quarantined"
    elif delivery.mapped is not None or state is NewsState.SUPERSEDED:
        disposition = "superseded"
    else:
        is_heeded = heard is not None or delivery.account is not None
        disposition = "heeded" if is_heeded else "ignored"
    body = delivery.body.decode() if disposition == "quarantined" else None
    return _Draft(delivery.event, delivery.body_sha256, disposition, payload, body, heard)


def _payload(delivery: Delivery) -> str | None:
    return None if delivery.mapped is None else canonical_json(delivery.mapped.payload)


def _recorded(row: Row, draft: _Draft, lease_ends: float, payout_lease_ends: float) -> Recorded:
    leased = None if row["lease_token"] is None else leased_row(row, lease_ends)
    new = Recorded(row["event_id"], draft.disposition, leased, row["due_at"])
    heard = draft.heard
    if heard is None:
        return new
    return attrs.evolve(
        new,
        row=leased and attrs.evolve(leased, payout_id=heard.payout_id),
        heard=heard,
        payout=None if heard.leased is None else Leased(heard.leased, payout_lease_ends),
    )


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
        payout_id=row.get("payout_id"),
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
