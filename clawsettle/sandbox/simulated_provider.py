"""A payout provider without a provider: ids by recipe, and what becomes of a payout by script.

What it says is a function of the order and the time, so it is the same after a restart and on every
daemon: a payout is there from the moment its keys are used (``keyed_at``), and takes the course of
its fate, one status every ``delay_s``. No money is moved, so there are no transfers. The word in
``metadata.simulate`` chooses a fate, or how the sending goes wrong (``Slip``). Two things are only
remembered, and end with the process: what was canceled, and the first attempt of
``timeout_before``.

It is an actor, too. Owns: nothing stored. Guarantees: each status a payout sent by this process
reaches is delivered to the daemon as Stripe would, signed, and repeated until it is taken or
``_ATTEMPTS_MAX`` is reached; of more than ``waiting_max`` payouts under way the rest is not told,
and counted. Stops: on ``close``, at once; what was not delivered by then can be looked for, as it
must be with events of Stripe's that never come.

Source: payouts contract sections 3, 6 and 11 (7); new.
"""

import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from urllib.parse import quote_plus

import orjson
import tenacity
import trio
from attrs import define, field

from clawsettle.clients.http_transport import HttpTransport, NoAnswer
from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.providers import (
    Absent,
    CancelOutcome,
    ConnectAccount,
    Declined,
    LookOutcome,
    PayoutOrder,
    ProviderStatus,
    Recalled,
    RecallOutcome,
    SendOutcome,
    Sent,
    Unanswered,
)
from clawsettle.sandbox.stripe_events import signature_header
from clawsettle.sandbox.stripe_objects import event_object, payout_object, payout_standing
from clawsettle.sandbox.stripe_quirks import FATE_KEY, Fate

_WEBHOOK = "/v1/stripe/webhook"
_ATTEMPTS_MAX = 100
_BACKOFF_S, _BACKOFF_MAX_S = 0.1, 5.0
_CONNECTIONS_MAX = 8
_CONNECT_TIMEOUT_S, _TIMEOUT_S = 5.0, 30.0
_ANSWER_MAX_BYTES = 256 * 1024


class Slip(StrEnum):
    """How sending a payout goes wrong."""

    DECLINED = "declined"
    """It is refused."""
    TIMEOUT_AFTER = "timeout_after"
    """It is done, and never answered."""
    TIMEOUT_BEFORE = "timeout_before"
    """It is not done, and not answered; the second time it is both."""


@define(eq=False)
class SimulatedProvider:
    """See the module; a ``PayoutProvider`` and an actor. ``fate`` is for orders that name none."""

    onboard_base_url: str
    webhook_secret: str = field(repr=False)
    livemode: bool
    fate: Fate = Fate.SILENT
    delay_s: float = 1.0
    waiting_max: int = 10_000
    name: str = field(default="simulated_provider", init=False)
    delivered_count: int = field(default=0, init=False)
    dropped_count: int = field(default=0, init=False)
    _canceled: set[str] = field(factory=set, init=False)
    _attempts: Counter[str] = field(factory=Counter, init=False)
    _waiting: set[str] = field(factory=set, init=False)
    _addressed: trio.Event = field(factory=trio.Event, init=False)
    _transport: HttpTransport = field(init=False)
    _told: trio.MemorySendChannel[PayoutOrder] = field(init=False)
    _heard: trio.MemoryReceiveChannel[PayoutOrder] = field(init=False)

    def __attrs_post_init__(self) -> None:
        # What is in it is in ``_waiting``, which is bounded.
        self._told, self._heard = trio.open_memory_channel(math.inf)

    def deliver_to(self, base_url: str) -> None:
        """Name the daemon's address; deliveries wait until it is known."""
        self._transport = HttpTransport(
            base_url, _CONNECTIONS_MAX, _CONNECT_TIMEOUT_S, _TIMEOUT_S, _ANSWER_MAX_BYTES
        )
        self._addressed.set()

    async def run(self) -> None:
        """Deliver what becomes of the payouts that are sent, until closed."""
        async with trio.open_nursery() as nursery:
            async for order in self._heard:
                nursery.start_soon(self._take_course, order)
            nursery.cancel_scope.cancel()
        if self._addressed.is_set():
            self._transport.close()

    def close(self) -> None:
        """Deliver no more."""
        self._told.close()

    def statistics(self) -> dict[str, int]:
        """Return how many payouts have not ended, and what was delivered and dropped so far."""
        return {
            "waiting": len(self._waiting),
            "delivered_count": self.delivered_count,
            "dropped_count": self.dropped_count,
        }

    async def open_account(
        self,
        account_id: str,
        *,
        keyed_at: datetime,  # noqa: ARG002 - a recipe needs no key
        refresh_url: str | None,
        return_url: str | None,
    ) -> ConnectAccount:
        """Return the account of the recipe, which is active at once; raises nothing."""
        return self._account(connect_account_id(account_id), refresh_url, return_url, account_id)

    async def refresh_account(
        self, connect_account_id: str, *, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccount:
        """Return the account, active; raises nothing."""
        return self._account(connect_account_id, refresh_url, return_url)

    async def send(self, order: PayoutOrder) -> SendOutcome:
        """Send by script; raises nothing."""
        slip = _slip(order)
        if slip is Slip.TIMEOUT_BEFORE:
            self._attempts[order.payout_id] += 1
        if slip is Slip.DECLINED:
            return Declined("simulated_refusal", "metadata.simulate has it refused")
        if self._is_there(order):
            self._tell(order)
            if slip is not Slip.TIMEOUT_AFTER:
                return self._sent(order)
        return Unanswered("metadata.simulate has it unanswered")

    async def look(self, order: PayoutOrder) -> LookOutcome:
        """Say how a payout stands by now; raises nothing."""
        return self._sent(order) if self._is_there(order) else Absent()

    async def recall(self, order: PayoutOrder) -> RecallOutcome:  # noqa: ARG002 - nothing to do
        """Return at once: nothing was transferred; raises nothing."""
        return Recalled()

    async def cancel(self, order: PayoutOrder) -> CancelOutcome:
        """Cancel a payout that is pending; raises nothing."""
        if not self._is_there(order):
            return Declined("payout_absent", "there is no payout that could be canceled")
        if self._sent(order).status is ProviderStatus.PENDING:
            self._canceled.add(order.payout_id)
        return self._sent(order)

    def payouts_between(
        self,
        start: datetime,  # noqa: ARG002 - nothing is kept that could be listed
        end: datetime,  # noqa: ARG002
        *,
        connect_account_ids: frozenset[str],  # noqa: ARG002
    ) -> None:
        """Return None: nothing is kept."""
        return

    def _account(
        self,
        connect_account_id: str,
        refresh_url: str | None,
        return_url: str | None,
        account_id: str | None = None,
    ) -> ConnectAccount:
        query = {"refresh_url": refresh_url, "return_url": return_url, "account_id": account_id}
        url = f"{self.onboard_base_url}/{connect_account_id}{_form(query)}"
        return ConnectAccount(connect_account_id, active=True, onboarding_url=url)

    def _is_there(self, order: PayoutOrder) -> bool:
        if order.external_payout_id is not None:
            return True
        slip = _slip(order)
        if slip is Slip.TIMEOUT_BEFORE:
            return self._attempts[order.payout_id] > 1
        return slip is not Slip.DECLINED

    def _sent(self, order: PayoutOrder) -> Sent:
        now = datetime.now(UTC)
        reached = [status for status, at in self._course(order) if at <= now]
        status = reached[-1] if reached else ProviderStatus.PENDING
        if order.payout_id in self._canceled:
            status = ProviderStatus.CANCELED
        return Sent(_external_payout_id(order), None, status)

    def _course(self, order: PayoutOrder) -> list[tuple[ProviderStatus, datetime]]:
        """Return the statuses that a payout reaches by itself, and when."""
        word = _word(order)
        fate = Fate(word) if word and word in set(Fate) else self.fate
        return [
            (ProviderStatus(status), order.keyed_at + timedelta(seconds=number * self.delay_s))
            for number, status in enumerate(fate.statuses, 1)
        ]

    def _tell(self, order: PayoutOrder) -> None:
        if order.payout_id in self._waiting or not self._course(order):
            return
        if len(self._waiting) >= self.waiting_max:
            self.dropped_count += 1
            return
        try:
            self._told.send_nowait(order)
        except trio.ClosedResourceError:
            self.dropped_count += 1
        else:
            self._waiting.add(order.payout_id)

    async def _take_course(self, order: PayoutOrder) -> None:
        try:
            for status, at in self._course(order):
                await trio.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))
                if order.payout_id not in self._canceled:
                    await self._deliver(self._event(order, status, at))
        finally:
            self._waiting.discard(order.payout_id)

    def _event(self, order: PayoutOrder, status: ProviderStatus, at: datetime) -> bytes:
        payout = payout_object(
            _external_payout_id(order),
            amount_minor=order.amount_minor,
            currency=order.currency.lower(),
            destination=_id("ba", order.connect_account_id),
            created_s=int(order.keyed_at.timestamp()),
            livemode=self.livemode,
            metadata={"payout_id": order.payout_id, "account_id": order.account_id},
        )
        happened = "updated" if status is ProviderStatus.IN_TRANSIT else status
        event = event_object(
            f"payout.{happened}",
            {**payout, **payout_standing(status)},
            event_id=_id("evt", f"{order.payout_id}:{status}"),
            created_s=int(at.timestamp()),
            livemode=self.livemode,
            account=order.connect_account_id,
        )
        return orjson.dumps(event)

    async def _deliver(self, body: bytes) -> None:
        await self._addressed.wait()
        taken: bool = await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(lambda taken: not taken),
            wait=tenacity.wait_random_exponential(multiplier=_BACKOFF_S, max=_BACKOFF_MAX_S),
            stop=tenacity.stop_after_attempt(_ATTEMPTS_MAX),
            retry_error_callback=lambda _state: False,
            sleep=trio.sleep,
        )(self._is_taken, body)
        self.delivered_count += taken
        self.dropped_count += not taken

    async def _is_taken(self, body: bytes) -> bool:
        now_s = int(datetime.now(UTC).timestamp())
        headers = {
            "content-type": "application/json",
            "stripe-signature": signature_header(
                body, secret=self.webhook_secret, timestamp_s=now_s
            ),
        }
        try:
            answer = await self._transport.post(_WEBHOOK, headers, body)
        except NoAnswer:
            return False
        return 200 <= answer.status < 300  # noqa: PLR2004 - HTTP's success


def connect_account_id(account_id: str) -> str:
    """Return the account's id at the provider. Source: payouts contract section 3."""
    return _id("acct", account_id)


def _external_payout_id(order: PayoutOrder) -> str:
    return order.external_payout_id or _id("po", f"{order.payout_id}:{order.connect_account_id}")


def _id(prefix: str, of: str) -> str:
    return f"{prefix}_{sha256_hex(f'{prefix}:{of}')[:24]}"


def _form(query: Mapping[str, str | None]) -> str:
    """Return a query as a browser's form would send it: ``*`` as it is, ``~`` escaped."""
    pairs = [
        f"{name}={quote_plus(value, safe='*').replace('~', '%7E')}"
        for name, value in query.items()
        if value is not None
    ]
    return "?" + "&".join(pairs) if pairs else ""


def _word(order: PayoutOrder) -> str | None:
    word = (order.metadata or {}).get(FATE_KEY)
    return word if isinstance(word, str) else None


def _slip(order: PayoutOrder) -> Slip | None:
    word = _word(order)
    return Slip(word) if word and word in set(Slip) else None
