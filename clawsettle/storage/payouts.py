"""The repository of payouts: keeping, leasing, and applying what happens to them.

A lease is a token and an end by the database's clock, as in the settlement outbox. Whatever happens
to a payout is applied in one place, under its row's lock, by the pure rules of the domain, and is
stored with its audit rows in one commit: what came of its holder's step, and the provider's news.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
import trio
from attrs import Factory, define, evolve, frozen

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.payout_events import News, PayoutEvent, SendAnswered, news
from clawsettle.domain.payout_news import NewsState, PayoutNews, Verdict, judge_news
from clawsettle.domain.payout_schedule import PayoutSchedule, due_by_news
from clawsettle.domain.payout_transitions import Audit, apply
from clawsettle.domain.payouts import Payout
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.payout_rows import audit_row, payout_row, read_news, read_payout
from clawsettle.storage.queries import load_queries

_SQL = load_queries("payouts")
_log = structlog.get_logger(__name__)


@frozen
class Destination:
    """Where a payout would go, and the payout that its key stands for already.

    ``connect_account_id`` is None while there is no account there. ``read_at`` is the database's
    time, to the millisecond.
    """

    account_did: str | None
    connect_account_id: str | None
    active: bool
    known: Payout | None
    read_at: datetime


@frozen
class Leased:
    """A payout that is the caller's until ``lease_ends`` on trio's clock."""

    payout: Payout
    lease_ends: float


@frozen
class Change:
    """What happened to a payout in the hands of who holds its lease."""

    payout_id: str
    event: PayoutEvent
    lease_token: int | None


@frozen
class Changed:
    """A payout after a change; ``lost`` when the lease was somebody else's and nothing changed."""

    payout: Payout
    lost: bool = False


@frozen
class Heard:
    """What became of a piece of news, and the payout it was found to be about.

    ``leased`` is that payout when it was leased to who has heard of it.
    """

    verdict: Verdict
    payout_id: str | None
    leased: Payout | None = None


@frozen
class Payouts:
    """See the module. Every method is repeatable; raises StorageUnavailable or StorageError."""

    database: Database
    schedule: PayoutSchedule

    async def destinations(self, asked: Sequence[tuple[str, str]]) -> list[Destination]:
        """Return for each pair of account id and idempotency key what is known."""
        rows = await self.database.fetch(
            _SQL["destinations"], [account for account, _ in asked], [key for _, key in asked]
        )
        found = {(row["asked_account_id"], row["asked_key"]): _destination(row) for row in rows}
        return [found[pair] for pair in asked]

    async def insert(self, payouts: Sequence[Payout]) -> set[str]:
        """Keep new payouts and return their ids; one whose key is taken is left out."""
        rows = await self.database.fetch(_SQL["insert"], [payout_row(payout) for payout in payouts])
        return {row["payout_id"] for row in rows}

    async def by_ids(self, payout_ids: Iterable[str]) -> dict[str, Payout]:
        """Return these payouts; unknown ones are missing from the answer."""
        rows = await self.database.fetch(_SQL["by_ids"], list(payout_ids))
        return {row["payout_id"]: read_payout(row) for row in rows}

    async def claim(self, payout_ids: Sequence[str], *, force: bool = False) -> list[Leased]:
        """Lease those of these payouts that may be worked on now; see ``claim`` of the outbox."""
        return await self._lease("claim", list(payout_ids), force)

    async def claim_due(self, limit: int) -> list[Leased]:
        """Lease up to ``limit`` payouts that are due, the longest due first."""
        return await self._lease("claim_due", limit)

    async def apply(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply what happened, each under its lease; payouts are locked in one order by everybody.

        A step that the table of transitions does not have is logged and changes nothing: the
        payout's holder goes on from where it stands.
        """
        return await self.database.transaction(
            lambda transaction: self._apply(transaction, changes)
        )

    async def _lease(self, statement: str, *args: object) -> list[Leased]:
        begun = trio.current_time()
        rows = await self.database.fetch(_SQL[statement], *args, self.schedule.lease_s)
        return [Leased(read_payout(row), begun + self.schedule.lease_s) for row in rows]

    async def _apply(self, transaction: Transaction, changes: Sequence[Change]) -> list[Changed]:
        known = {
            change.event.sent.external_payout_id: change.payout_id
            for change in changes
            if isinstance(change.event, SendAnswered | News)
        }
        rows = await transaction.fetch(
            _SQL["lock"], [change.payout_id for change in changes], sorted(known)
        )
        desk = Desk({row["payout_id"]: read_payout(row) for row in rows}, _now(rows))
        lost = [not desk.take(change, self.schedule) for change in changes]
        for told in await desk.store(transaction, known):
            desk.hear(told)
        await desk.store(transaction)
        return [
            Changed(desk.payouts[change.payout_id], is_lost)
            for change, is_lost in zip(changes, lost, strict=True)
        ]


async def hear_news(
    transaction: Transaction,
    told: Sequence[PayoutNews],
    *,
    tokens: Mapping[str, int],
    lease_s: float,
) -> tuple[Mapping[str, Heard], "Desk"]:
    """Match news with its payouts, within the transaction that records its events.

    A payout that has something to do by it is leased to the caller with the token of its event,
    where that has one. Returns what becomes of each event, and the desk whose ``store`` must follow
    once the events' own rows are there.

    Raises: StorageUnavailable or StorageError.
    """
    nameless = sorted({one.external_payout_id for one in told if one.named_payout_id is None})
    if nameless:
        await transaction.fetch(_SQL["lock_objects"], nameless)
    rows = await transaction.fetch(
        _SQL["lock_named"],
        [one.external_payout_id for one in told],
        [one.named_payout_id for one in told if one.named_payout_id is not None],
    )
    desk = Desk({row["payout_id"]: read_payout(row) for row in rows}, _now(rows))
    heard = {one.event_id: desk.hear(one) for one in told}
    for event_id, one in heard.items():
        if one.payout_id is not None and event_id in tokens:
            leased = desk.lease(one.payout_id, tokens[event_id], lease_s)
            heard[event_id] = evolve(one, leased=leased)
    return heard, desk


async def recall_leased(database: Database, tokens: Mapping[str, int]) -> dict[str, Payout]:
    """Return the payouts that have the tokens of these events, by the events' ids.

    They were leased by hearing them in a try whose answer was lost.
    Raises: StorageUnavailable or StorageError.
    """
    rows = await database.fetch(_SQL["recall"], list(tokens), list(tokens.values()))
    return {row["event_id"]: read_payout(row) for row in rows}


@define
class Desk:
    """Locked payouts of one transaction, and what is to be stored of them; ``now`` is its time."""

    payouts: dict[str, Payout]
    now: datetime | None
    changed: set[str] = Factory(set)
    audits: list[tuple[str, Audit]] = Factory(list)
    heard: list[tuple[PayoutNews, Heard]] = Factory(list)

    def take(self, change: Change, schedule: PayoutSchedule) -> bool:
        """Apply what the holder of a lease reports; False when the lease is not his any more."""
        before = self.payouts[change.payout_id]
        if change.lease_token is None or before.lease_token != change.lease_token:
            return False
        after = self._apply(before, change.event)
        self._put(schedule.owned(after, change.event, now=self._time))
        return True

    def hear(self, told: PayoutNews) -> Heard:
        """Judge a piece of news, and apply it to the payout that it is about."""
        payout = self._about(told)
        verdict = judge_news(told, payout)
        if payout is not None and verdict.state is NewsState.APPLIED:
            after = self._apply(payout, news(told.sent, told.source))
            self._put(due_by_news(payout, after, now=self._time))
        parked = verdict.state is NewsState.PARKED
        heard = Heard(verdict, None if parked or payout is None else payout.payout_id)
        self.heard.append((told, heard))
        return heard

    def lease(self, payout_id: str, token: int, lease_s: float) -> Payout | None:
        """Lease a payout that has become due here, and return it; None when it has not."""
        payout = self.payouts[payout_id]
        if payout_id not in self.changed or payout.lease_token or payout.due_at != self.now:
            return None
        due_at = self._time + timedelta(seconds=lease_s)
        leased = evolve(payout, due_at=due_at, lease_token=token, attempts=payout.attempts + 1)
        self._put(leased)
        return leased

    async def store(
        self, transaction: Transaction, known: Mapping[str, str] | None = None
    ) -> Sequence[PayoutNews]:
        """Store what has changed since the last time, and what was heard.

        ``known`` are payouts that have become known by that, by the provider's ids; returns the
        news that has waited for them.
        """
        parked: Sequence[Row] = ()
        if self.changed:
            known = known or {}
            rows = [audit_row(payout_id, audit, self._time) for payout_id, audit in self.audits]
            parked = await transaction.fetch(
                _SQL["store"],
                [payout_row(self.payouts[payout_id]) for payout_id in sorted(self.changed)],
                *_columns(rows, 6),
                list(known),
                list(known.values()),
            )
            self.changed.clear()
            self.audits.clear()
        if self.heard:
            rows = [_news_row(told, heard) for told, heard in self.heard]
            await transaction.fetch(_SQL["keep_news"], *_columns(rows, 12))
        return [read_news(row) for row in parked]

    @property
    def _time(self) -> datetime:
        assert self.now is not None  # noqa: S101 - there is a payout, so its row told the time
        return self.now

    def _about(self, told: PayoutNews) -> Payout | None:
        named = self.payouts.get(told.named_payout_id or "")
        if named is not None and named.external_payout_id == told.external_payout_id:
            return named
        # The provider's id is its own word; a name that contradicts it is found by the judge.
        for payout in self.payouts.values():
            if payout.external_payout_id == told.external_payout_id:
                return payout
        return named

    def _apply(self, payout: Payout, event: PayoutEvent) -> Payout:
        try:
            transition = apply(payout, event, now=self._time)
        except IllegalTransition as error:
            _log.error("payout_step_illegal", reason=error.message, **error.details)
            return payout
        self.audits += [(payout.payout_id, audit) for audit in transition.audits]
        return transition.payout

    def _put(self, payout: Payout) -> None:
        if payout is not self.payouts[payout.payout_id]:
            self.payouts[payout.payout_id] = payout
            self.changed.add(payout.payout_id)


def _destination(row: Row) -> Destination:
    return Destination(
        row["asked_did"],
        row["asked_connect_account_id"],
        row["onboarding_status"] == "active",
        None if row["payout_id"] is None else read_payout(row),
        row["read_at"],
    )


def _now(rows: Sequence[Row]) -> datetime | None:
    return rows[0]["read_at"] if rows else None


def _columns(rows: Sequence[tuple[object, ...]], count: int) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(count)]


def _news_row(told: PayoutNews, heard: Heard) -> tuple[object, ...]:
    return (
        told.event_id,
        told.event_type,
        told.external_payout_id,
        told.named_payout_id,
        told.connect_account_id,
        told.account_id,
        told.amount_minor,
        told.currency,
        told.status,
        heard.verdict.state,
        heard.payout_id,
        heard.verdict.reason,
    )
