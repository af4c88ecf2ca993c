"""Makes verified Stripe events durable, many in one commit, and starts their way to the ledger.

Owns: the inbox of events and the birth of outbox rows.
Guarantees: a receipt is given only after the commit; an event is recorded once, whoever delivers
it and however often; its outbox row is leased to this daemon from birth, so nobody else grabs it
while its own request is still being answered.
Stops: on ``close``, when every delivery it took has its receipt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog
from attrs import define, field, frozen

from clawsettle.actors.batcher import Batcher
from clawsettle.actors.payout_keeper import Drive, PayoutKeeper
from clawsettle.actors.settlement_forwarder import Attempt, SettlementForwarder
from clawsettle.domain.forwarding import ForwardingState, Standing
from clawsettle.storage.payouts import Heard
from clawsettle.storage.settlement_outbox import (
    Delivery,
    KnownEvent,
    LeasedRow,
    Recorded,
    SettlementOutbox,
)

_log = structlog.get_logger(__name__)


@frozen
class Receipt:
    """What is committed about a delivered event.

    ``deduped`` is False for the delivery that recorded the event, and for one that starts another
    attempt after a failed one was answered as a failure. ``standing`` is None when nothing of the
    event is forwarded. ``attempt`` is the attempt under way on this daemon; ``pending`` says that
    one is under way somewhere, or about to be.
    """

    event_type: str
    deduped: bool
    standing: Standing | None
    attempt: Attempt | None
    pending: bool


@define(eq=False)
class WebhookIntake:
    """See the module. ``batch_max`` bounds one commit, ``waiting_max`` the deliveries that wait.

    ``failures_are_answered`` says that a failed attempt is answered as a failure: the delivery
    that starts the next attempt is then the first that can count. ``payouts`` takes up the payouts
    that an event has given something to do; ``when_news`` is called when there may be some that
    nobody here has taken up.
    """

    outbox: SettlementOutbox
    forwarder: SettlementForwarder
    batch_max: int
    waiting_max: int
    failures_are_answered: bool = True
    payouts: PayoutKeeper | None = None
    when_news: Callable[[], None] = field(default=lambda: None)
    name: str = field(default="webhook_intake", init=False)
    mismatch_count: int = field(default=0, init=False)
    _batcher: Batcher[Delivery, Receipt] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._batcher = Batcher(self.name, self._record, self.batch_max, self.waiting_max)

    async def receive(self, delivery: Delivery) -> Receipt:
        """Record a delivery and return its receipt after the commit.

        Raises: Overloaded when too many wait, StorageUnavailable or StorageError when it may not
        have been recorded; delivering it again is safe.
        """
        return await self._batcher.ask(delivery)

    async def known(self, event_id: str) -> KnownEvent | None:
        """Return what is recorded of an event, without waiting for anything else."""
        return (await self.outbox.look([event_id])).get(event_id)

    async def run(self) -> None:
        """Work until closed and drained."""
        await self._batcher.run()

    def close(self) -> None:
        """Take no more deliveries."""
        self._batcher.close()

    def statistics(self) -> dict[str, int]:
        """Return how many deliveries wait, and how many replays had another body."""
        return {**self._batcher.statistics(), "mismatch_count": self.mismatch_count}

    async def _record(self, deliveries: Sequence[Delivery]) -> Sequence[Receipt]:
        """Record a batch; several deliveries of one event are one record and many receipts."""
        same: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            same.setdefault(delivery.event.event_id, []).append(delivery)
        with self.forwarder.seating.reserve(len(same)) as seats:
            recorded = await self.outbox.record(
                [first for first, *_ in same.values()],
                leased_max=seats.count,
                payouts_max=self.payouts.room if self.payouts else 0,
            )
            drives = self._drive(recorded)
            new_rows = {new.event_id: new.row for new in recorded}
            # In the order of arrival: a payment before its refund.
            leased = [row for event_id in same if (row := new_rows.get(event_id)) is not None]
            attempts = self.forwarder.take(seats, leased, drives)
        if any(
            new.row is None and new.payout is None and same[new.event_id][0].news
            for new in recorded
        ):
            self.when_news()
        receipts = {
            new.event_id: self._receipts_of_new(same[new.event_id], new, attempts.get(new.event_id))
            for new in recorded
        }
        known = {event_id: each for event_id, each in same.items() if event_id not in receipts}
        if known:
            receipts |= await self._receipts_of_known(known)
        return [next(receipts[delivery.event.event_id]) for delivery in deliveries]

    def _drive(self, recorded: Sequence[Recorded]) -> dict[str, Drive]:
        """Have the payouts that were leased taken up; return their drives by the events' ids."""
        if self.payouts is None:
            return {}
        movers = {new.payout.payout.payout_id: new.event_id for new in recorded if new.payout}
        drives = self.payouts.take([new.payout for new in recorded if new.payout])
        return {movers[payout_id]: drive for payout_id, drive in drives.items()}

    def _receipts_of_new(
        self, deliveries: Sequence[Delivery], new: Recorded, attempt: Attempt | None
    ) -> Iterator[Receipt]:
        """Return a receipt for each delivery of an event that was recorded just now, in order."""
        event = deliveries[0].event
        level = _log.warning if new.disposition == "quarantined" else _log.info
        level(
            "event_recorded",
            event_id=event.event_id,
            event_type=event.event_type,
            disposition=new.disposition,
            **_told(new.heard),
        )
        standing = None
        if new.due_at is not None:
            standing = Standing(ForwardingState.PENDING, new.due_at)
        for delivery in deliveries:
            self._flag_mismatch(delivery, deliveries[0].body_sha256)
        return iter(
            [
                Receipt(event.event_type, place > 0, standing, attempt, standing is not None)
                for place in range(len(deliveries))
            ]
        )

    async def _receipts_of_known(
        self, same: Mapping[str, Sequence[Delivery]]
    ) -> dict[str, Iterator[Receipt]]:
        """Return receipts for events recorded before; rows that are due are attempted again."""
        known = await self.outbox.look(same)
        due = [event.event_id for event in known.values() if event.due]
        claimed: dict[str, LeasedRow] = {}
        attempts: dict[str, Attempt] = {}
        if due:
            with self.forwarder.seating.reserve(len(due)) as seats:
                rows = await self.outbox.claim(due[: seats.count])
                claimed = {row.event_id: row for row in rows}
                attempts = self.forwarder.take(seats, rows)
        receipts: dict[str, Iterator[Receipt]] = {}
        for event_id, deliveries in same.items():
            event = known[event_id]
            attempt = attempts.get(event_id) or self.forwarder.attempt_of(event_id)
            row = claimed.get(event_id)
            standing = event.standing if row is None else Standing(row.state, row.due_at)
            counts_anew = row is not None and self._counts_anew(event)
            pending = event.leased or event.due or row is not None
            for delivery in deliveries:
                self._flag_mismatch(delivery, event.body_sha256)
            receipts[event_id] = iter(
                [
                    Receipt(
                        event.event_type, place > 0 or not counts_anew, standing, attempt, pending
                    )
                    for place in range(len(deliveries))
                ]
            )
        return receipts

    def _counts_anew(self, event: KnownEvent) -> bool:
        """Return whether no delivery of this event has been told yet that it counted.

        One that was requeued was a dead letter before, and that was told with a success.
        """
        failed = event.standing is not None and event.standing.state is ForwardingState.FAILED
        return failed and not event.requeued and self.failures_are_answered

    def _flag_mismatch(self, delivery: Delivery, body_sha256: bytes) -> None:
        if delivery.body_sha256 != body_sha256:
            self.mismatch_count += 1
            _log.warning("event_body_differs", event_id=delivery.event.event_id)


def _told(heard: Heard | None) -> dict[str, str]:
    """Return what a log line says of an event about a payout."""
    if heard is None:
        return {}
    said = {"payout_id": heard.payout_id, "reason": heard.verdict.reason}
    return {name: text for name, text in said.items() if text is not None}
