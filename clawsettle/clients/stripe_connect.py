"""Payouts through Stripe Connect: a transfer to the connected account, then a payout from there.

Theory of operation. The platform's money goes to the connected account by a transfer, and from
there to the bank by a payout that is made as that account. Each of the two has an idempotency key
of its own, and ``metadata.payout_id``, by which it is found again when its answer was lost; the
payout also names its transfer. Stripe keeps a key for a day (``KEY_LIFETIME``); objects and their
lists it keeps for good, so looking is what holds, and a key only closes the gap between two looks.

The SDK knows the requests, the headers and the API's version; it repeats nothing, and sends through
``HttpTransport``, which bounds each call in time and size and goes nowhere but to ``base_url``.
What an answer means is in ``stripe_answers``.

Source: payouts contract sections 6 and 11 (7, 19, 20, 25, 26); new.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import stripe
from attrs import define, evolve, field

from clawsettle.clients.http_transport import HttpTransport
from clawsettle.clients.stripe_answers import (
    Failed,
    Json,
    StripeTransfer,
    answer_of,
    check_ordered,
    items,
    part,
    read_payout,
    read_transfer,
    sent,
    text,
)
from clawsettle.clients.stripe_requests import (
    account_parameters,
    order_metadata,
    payout_parameters,
    transfer_parameters,
)
from clawsettle.clients.stripe_transport import StripeTransport
from clawsettle.domain.providers import (
    KEY_LIFETIME,
    Absent,
    CancelOutcome,
    ConnectAccount,
    Declined,
    LookOutcome,
    PayoutOrder,
    ProviderPayout,
    ProviderStatus,
    Recalled,
    RecallOutcome,
    SendOutcome,
    Sent,
    Unanswered,
)
from clawsettle.domain.stripe_events import STRIPE_API_VERSION

STRIPE_URL = "https://api.stripe.com"
"""Where Stripe is, unless a sandbox stands in for it."""

# A page is 100 objects, of which an account is the largest with some 8 KiB.
_ANSWER_MAX_BYTES = 4 * 1024 * 1024
_PAGE = 100
# Stripe dates what it makes by its own clock.
_SKEW = timedelta(minutes=10)
_Object = TypeVar("_Object", StripeTransfer, ProviderPayout)


@define(eq=False)
class StripeConnect:
    """See the module; a ``PayoutProvider``.

    ``refresh_url`` and ``return_url`` are where an onboarding leads when its caller names none.
    """

    api_key: str = field(repr=False)
    refresh_url: str
    return_url: str
    connect_timeout_s: float
    timeout_s: float
    connections_max: int
    base_url: str = STRIPE_URL
    _transport: HttpTransport = field(init=False)
    _api: stripe.V1Services = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._transport = HttpTransport(
            self.base_url,
            self.connections_max,
            self.connect_timeout_s,
            self.timeout_s,
            _ANSWER_MAX_BYTES,
        )
        self._api = stripe.StripeClient(
            self.api_key,
            stripe_version=STRIPE_API_VERSION,
            base_addresses={"api": self.base_url},
            max_network_retries=0,
            http_client=StripeTransport(self._transport),
        ).v1

    def close(self) -> None:
        """Close the connections that are idle."""
        self._transport.close()

    async def open_account(
        self,
        account_id: str,
        *,
        keyed_at: datetime,
        refresh_url: str | None,
        return_url: str | None,
    ) -> ConnectAccount:
        """Make an account with manual payouts and the Express dashboard, or find it; see the port.

        Raises: ProviderError.
        """
        try:
            account = None
            if datetime.now(UTC) > keyed_at + KEY_LIFETIME - _SKEW:
                account = await self._account_since(keyed_at, account_id)
            if account is None:
                account = await answer_of(
                    self._api.accounts.create_async(
                        account_parameters(account_id),
                        {"idempotency_key": f"connect:account:{account_id}"},
                    )
                )
            return await self._with_link(account, refresh_url, return_url)
        except Failed as failure:
            raise failure.error from failure

    async def refresh_account(
        self, connect_account_id: str, *, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccount:
        """Return how an account stands; the link of an active one is ``return_url``: it is done.

        Raises: ProviderError.
        """
        try:
            account = await answer_of(self._api.accounts.retrieve_async(connect_account_id))
            return await self._with_link(account, refresh_url, return_url)
        except Failed as failure:
            raise failure.error from failure

    async def send(self, order: PayoutOrder) -> SendOutcome:
        """Transfer, unless the order names a transfer, then pay out; raises nothing."""
        transfer_id = order.transfer_id
        try:
            if transfer_id is None:
                transfer_id = await self._transfer(order)
            return await self._pay_out(order, transfer_id)
        except Failed as failure:
            return evolve(failure.outcome, transfer_id=transfer_id)

    async def look(self, order: PayoutOrder) -> LookOutcome:
        """Find the payout, else its transfer; raises nothing.

        More than one of either, or one that is not what was ordered, is unanswered.
        """
        try:
            payout = await self._find_payout(order)
            if payout is not None:
                return sent(payout, order.transfer_id)
            transfer = await self._find_transfer(order)
        except Failed as failure:
            return failure.unanswered
        return Absent(transfer.transfer_id, transfer.reversal_id) if transfer else Absent()

    async def recall(self, order: PayoutOrder) -> RecallOutcome:
        """Reverse what is left of the transfer, unless it is reversed already; raises nothing."""
        try:
            transfer = await self._find_transfer(order)
            if transfer is None:
                return Recalled()
            if transfer.reversal_id is not None:
                return Recalled(transfer.reversal_id)
            reversal = await answer_of(
                self._api.transfers.reversals.create_async(
                    transfer.transfer_id,
                    {"metadata": order_metadata(order)},
                    {"idempotency_key": order.recall_key},
                )
            )
            return Recalled(text(reversal, "id"))
        except Failed as failure:
            return failure.outcome

    async def cancel(self, order: PayoutOrder) -> CancelOutcome:
        """Cancel a payout that is pending; raises nothing.

        One that is past that is ``Sent`` as it stands, whether it was so before or became so.
        """
        stands = await self.look(order)
        if isinstance(stands, Absent):
            return Declined("payout_absent", "there is no payout that could be canceled")
        if isinstance(stands, Unanswered) or stands.status is not ProviderStatus.PENDING:
            return stands
        try:
            canceled = await answer_of(
                self._api.payouts.cancel_async(
                    stands.external_payout_id,
                    {},
                    {
                        "stripe_account": order.connect_account_id,
                        "idempotency_key": order.cancel_key,
                    },
                )
            )
            return self._sent(order, canceled, stands.transfer_id)
        except Failed as failure:
            stands = await self.look(order)
            if isinstance(stands, Sent) and stands.status is not ProviderStatus.PENDING:
                return stands
            return failure.outcome

    def payouts_between(
        self, start: datetime, end: datetime, *, connect_account_ids: frozenset[str]
    ) -> AsyncGenerator[ProviderPayout, None]:
        """List the accounts' payouts made in [start, end), account by account; see the port.

        Two lists an account, of which only the payouts and transfers of one are in memory.

        Raises: ProviderError while iterating.
        """
        return self._payouts_between(start, end, sorted(connect_account_ids))

    async def _payouts_between(
        self, start: datetime, end: datetime, connect_account_ids: list[str]
    ) -> AsyncGenerator[ProviderPayout, None]:
        try:
            for connect_account_id in connect_account_ids:
                payouts = await self._payouts(connect_account_id, start, end)
                transfers = await self._transfers(
                    destination=connect_account_id, created=_created(start - KEY_LIFETIME, end)
                )
                known = {transfer.transfer_id: transfer for transfer in transfers}
                for payout in payouts:
                    transfer = await self._transfer_of(payout, known)
                    yield evolve(payout, reversed=bool(transfer and transfer.reversal_id))
        except Failed as failure:
            raise failure.error from failure

    async def _transfer(self, order: PayoutOrder) -> str:
        answer = await answer_of(
            self._api.transfers.create_async(
                transfer_parameters(order), {"idempotency_key": order.transfer_key}
            )
        )
        transfer = read_transfer(answer)
        check_ordered(transfer, order)
        return transfer.transfer_id

    async def _pay_out(self, order: PayoutOrder, transfer_id: str) -> Sent:
        answer = await answer_of(
            self._api.payouts.create_async(
                payout_parameters(order, transfer_id),
                {"stripe_account": order.connect_account_id, "idempotency_key": order.send_key},
            )
        )
        return self._sent(order, answer, transfer_id)

    def _sent(self, order: PayoutOrder, answer: Json, transfer_id: str | None) -> Sent:
        payout = read_payout(answer, order.connect_account_id)
        check_ordered(payout, order)
        return sent(payout, transfer_id)

    async def _find_payout(self, order: PayoutOrder) -> ProviderPayout | None:
        account_id = order.connect_account_id
        if order.external_payout_id is not None:
            answer = await answer_of(
                self._api.payouts.retrieve_async(
                    order.external_payout_id, {}, {"stripe_account": account_id}
                )
            )
            found = [read_payout(answer, account_id)]
        else:
            since = await self._payouts(account_id, order.keyed_at - _SKEW)
            found = [payout for payout in since if payout.payout_id == order.payout_id]
        return _the_only(found, order)

    async def _find_transfer(self, order: PayoutOrder) -> StripeTransfer | None:
        if order.transfer_id is not None:
            answer = await answer_of(self._api.transfers.retrieve_async(order.transfer_id))
            found = [read_transfer(answer)]
        else:
            found = await self._transfers(transfer_group=order.payout_id)
        return _the_only(found, order)

    async def _transfer_of(
        self, payout: ProviderPayout, known: Mapping[str, StripeTransfer]
    ) -> StripeTransfer | None:
        """Return a payout's transfer; one that is much older than it costs a call of its own."""
        if payout.transfer_id is None or payout.transfer_id in known:
            return known.get(payout.transfer_id or "")
        return read_transfer(
            await answer_of(self._api.transfers.retrieve_async(payout.transfer_id))
        )

    async def _payouts(
        self, connect_account_id: str, start: datetime, end: datetime | None = None
    ) -> list[ProviderPayout]:
        options: stripe.RequestOptions = {"stripe_account": connect_account_id}
        answers = await _every(
            lambda page: self._api.payouts.list_async(page, options), created=_created(start, end)
        )
        return [read_payout(answer, connect_account_id) for answer in answers]

    async def _transfers(self, **wanted: object) -> list[StripeTransfer]:
        answers = await _every(self._api.transfers.list_async, **wanted)
        return [read_transfer(answer) for answer in answers]

    async def _account_since(self, keyed_at: datetime, account_id: str) -> Json | None:
        """Find the account that was made for one of ours; the oldest if there are several."""
        answers = await _every(self._api.accounts.list_async, created=_created(keyed_at - _SKEW))
        found = [a for a in answers if part(a, "metadata").get("account_id") == account_id]
        return found[-1] if found else None

    async def _with_link(
        self, account: Json, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccount:
        connect_account_id = text(account, "id")
        active = account.get("payouts_enabled") is True and (
            part(account, "capabilities").get("transfers") == "active"
        )
        return_url = return_url or self.return_url
        if active:
            return ConnectAccount(connect_account_id, active=True, onboarding_url=return_url)
        link = await answer_of(
            self._api.account_links.create_async(
                {
                    "account": connect_account_id,
                    "type": "account_onboarding",
                    "refresh_url": refresh_url or self.refresh_url,
                    "return_url": return_url,
                }
            )
        )
        return ConnectAccount(connect_account_id, active=False, onboarding_url=text(link, "url"))


async def _every(
    list_page: Callable[[Any], Awaitable[stripe.StripeObject]], **wanted: object
) -> list[Json]:
    """Return all objects of a list, the latest first; a list that breaks off is no answer.

    Raises: Failed.
    """
    found: list[Json] = []
    page: dict[str, object] = {**wanted, "limit": _PAGE}
    while True:
        answer = await answer_of(list_page(page))
        listed = items(answer)
        found += listed
        if answer.get("has_more") is False:
            return found
        page["starting_after"] = text(listed[-1] if listed else {}, "id")


def _created(start: datetime, end: datetime | None = None) -> dict[str, int]:
    """Select objects made in [start, end) of a clock that counts whole seconds."""
    bounds = {"gte": math.ceil(start.timestamp())}
    return bounds if end is None else {**bounds, "lt": math.ceil(end.timestamp())}


def _the_only(found: list[_Object], order: PayoutOrder) -> _Object | None:
    """Return what was found for an order. Raises: Failed when that cannot be all its own."""
    if len(found) > 1:
        raise Failed(Unanswered("Stripe has more than one of what was ordered once"))
    for only in found:
        check_ordered(only, order)
        return only
    return None
