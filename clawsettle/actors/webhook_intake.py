"""Makes verified Stripe events durable, many in one commit, and starts their way to the ledger.

Owns: the inbox of events and the birth of outbox rows.
Guarantees: a receipt is given only after the commit; an event is recorded once, whoever delivers
it and however often; its outbox row is leased to this daemon from birth, so nobody else grabs it
while its own request is still being answered.
Stops: on ``close``, when every delivery it took has its receipt.
"""

from collections.abc import Callable, Mapping, Sequence

import structlog
from attrs import define, field, frozen

from clawsettle.actors.mailbox import Ask, Mailbox
from clawsettle.actors.settlement_forwarder import Attempt, SettlementForwarder
from clawsettle.domain.errors import StorageError
from clawsettle.domain.forwarding import ForwardingState, Standing
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


_Ask = Ask[Delivery, Receipt]


@define(eq=False)
class WebhookIntake:
    """See the module. ``batch_max`` bounds one commit, ``waiting_max`` the deliveries that wait.

    ``failures_are_answered`` says that a failed attempt is answered as a failure: the delivery
    that starts the next attempt is then the first that can count. ``when_news`` is called when
    payouts may have news that no attempt here will have them heed.
    """

    outbox: SettlementOutbox
    forwarder: SettlementForwarder
    batch_max: int
    waiting_max: int
    failures_are_answered: bool = True
    when_news: Callable[[], None] = field(default=lambda: None)
    name: str = field(default="webhook_intake", init=False)
    mismatch_count: int = field(default=0, init=False)
    _mailbox: Mailbox[_Ask] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._mailbox = Mailbox(self.waiting_max)

    async def receive(self, delivery: Delivery) -> Receipt:
        """Record a delivery and return its receipt after the commit.

        Raises: Overloaded when too many wait, StorageUnavailable or StorageError when it may not
        have been recorded; delivering it again is safe.
        """
        ask: _Ask = Ask(delivery)
        self._mailbox.put(ask)
        return await ask.reply.wait()

    async def known(self, event_id: str) -> KnownEvent | None:
        """Return what is recorded of an event, without waiting for anything else."""
        return (await self.outbox.look([event_id])).get(event_id)

    async def run(self) -> None:
        """Work until closed and drained."""
        while asks := await self._mailbox.take(self.batch_max):
            try:
                await self._record_each_or_all(asks)
            finally:
                lost = StorageError("the intake ended before the outcome was known")
                for ask in asks:
                    ask.reply.reject(lost)

    def close(self) -> None:
        """Take no more deliveries."""
        self._mailbox.close()

    def statistics(self) -> dict[str, int]:
        """Return how many deliveries wait, and how many replays had another body."""
        return {**self._mailbox.statistics(), "mismatch_count": self.mismatch_count}

    async def _record_each_or_all(self, asks: Sequence[_Ask]) -> None:
        """Record a batch; what storage refuses of it fails alone."""
        try:
            await self._record(asks)
        except StorageError as error:
            if not error.retryable and len(asks) > 1:
                for ask in asks:
                    await self._record_each_or_all([ask])
                return
            _log.warning("deliveries_not_recorded", deliveries=len(asks), error=error.message)
            for ask in asks:
                ask.reply.reject(error)

    async def _record(self, asks: Sequence[_Ask]) -> None:
        """Record a batch; several deliveries of one event are one record and many receipts."""
        same: dict[str, list[_Ask]] = {}
        for ask in asks:
            same.setdefault(ask.request.event.event_id, []).append(ask)
        with self.forwarder.reserve(len(same)) as seats:
            recorded = await self.outbox.record(
                [first.request for first, *_ in same.values()], leased_max=seats.count
            )
            new_rows = {new.event_id: new.row for new in recorded}
            # In the order of arrival: a payment before its refund.
            leased = [row for event_id in same if (row := new_rows.get(event_id)) is not None]
            attempts = seats.take(leased)
        if any(new.row is None and new.due_at is not None for new in recorded):
            self.forwarder.when_roomy()
        if any(new.row is None and same[new.event_id][0].request.news for new in recorded):
            self.when_news()
        for new in recorded:
            self._answer_new(same.pop(new.event_id), new, attempts.get(new.event_id))
        if same:
            await self._answer_known(same)

    def _answer_new(self, asks: Sequence[_Ask], new: Recorded, attempt: Attempt | None) -> None:
        event = asks[0].request.event
        level = _log.warning if new.disposition == "quarantined" else _log.info
        level(
            "event_recorded",
            event_id=event.event_id,
            event_type=event.event_type,
            disposition=new.disposition,
            **({} if new.reason is None else {"reason": new.reason}),
        )
        standing = None
        if new.due_at is not None:
            standing = Standing(ForwardingState.PENDING, new.due_at)
        for position, ask in enumerate(asks):
            self._flag_mismatch(ask, asks[0].request.body_sha256)
            receipt = Receipt(
                event.event_type, position > 0, standing, attempt, standing is not None
            )
            ask.reply.resolve(receipt)

    async def _answer_known(self, same: Mapping[str, Sequence[_Ask]]) -> None:
        """Answer deliveries of events recorded before; rows that are due are attempted again."""
        known = await self.outbox.look(same)
        due = [event.event_id for event in known.values() if event.due]
        claimed: dict[str, LeasedRow] = {}
        attempts: dict[str, Attempt] = {}
        if due:
            with self.forwarder.reserve(len(due)) as seats:
                rows = await self.outbox.claim(due[: seats.count])
                claimed = {row.event_id: row for row in rows}
                attempts = seats.take(rows)
        for event_id, asks in same.items():
            event = known[event_id]
            attempt = attempts.get(event_id) or self.forwarder.attempt_of(event_id)
            standing = event.standing
            if event_id in claimed:
                standing = Standing(claimed[event_id].state, claimed[event_id].due_at)
            for position, ask in enumerate(asks):
                self._flag_mismatch(ask, event.body_sha256)
                starts = position == 0 and event_id in claimed and self._counts_anew(event)
                pending = event.leased or event.due or event_id in claimed
                ask.reply.resolve(Receipt(event.event_type, not starts, standing, attempt, pending))

    def _counts_anew(self, event: KnownEvent) -> bool:
        """Return whether no delivery of this event has been told yet that it counted.

        One that was requeued was a dead letter before, and that was told with a success.
        """
        failed = event.standing is not None and event.standing.state is ForwardingState.FAILED
        return failed and not event.requeued and self.failures_are_answered

    def _flag_mismatch(self, ask: _Ask, body_sha256: bytes) -> None:
        if ask.request.body_sha256 != body_sha256:
            self.mismatch_count += 1
            _log.warning("event_body_differs", event_id=ask.request.event.event_id)
