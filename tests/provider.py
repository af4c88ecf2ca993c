"""A payout provider that does as a test tells it: an outside party that remembers its keys."""

from collections.abc import AsyncGenerator
from datetime import datetime
from itertools import count

import trio
from attrs import define, field

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import ProviderError
from clawsettle.domain.providers import (
    Absent,
    CancelOutcome,
    ConnectAccount,
    LookOutcome,
    PayoutOrder,
    ProviderPayout,
    ProviderStatus,
    Recalled,
    RecallOutcome,
    SendOutcome,
    Sent,
)


@define(eq=False)
class Provider:
    """See the module; a ``PayoutProvider``.

    ``asked`` lists the calls about accounts. While there is a ``gate``, whoever has come waits
    before it for his answer: it has acted by then. A ``failure`` is raised in place of an answer.
    ``outcome`` answers the next send instead of success.
    """

    active: bool = True
    gate: trio.Event | None = None
    failure: ProviderError | None = None
    outcome: SendOutcome | None = None
    accounts: dict[str, str] = field(factory=dict)
    sent: dict[str, Sent] = field(factory=dict)
    asked: list[tuple[object, ...]] = field(factory=list)
    under_way: int = 0
    under_way_max: int = 0
    _arrived: trio.Event = field(factory=trio.Event)
    _links: "count[int]" = field(factory=count)

    async def waiting(self, number: int) -> None:
        """Wait until so many calls wait before the gate."""
        with trio.fail_after(5):
            while self.under_way < number:
                self._arrived = trio.Event()
                await self._arrived.wait()

    async def open_account(
        self,
        account_id: str,
        *,
        keyed_at: datetime,
        refresh_url: str | None,
        return_url: str | None,
    ) -> ConnectAccount:
        self.asked.append(("open", account_id, keyed_at, refresh_url, return_url))
        known = self.accounts.setdefault(
            account_id, f"acct_{sha256_hex(f'acct:{account_id}')[:24]}"
        )
        return await self._account(known)

    async def refresh_account(
        self, connect_account_id: str, *, refresh_url: str | None, return_url: str | None
    ) -> ConnectAccount:
        self.asked.append(("refresh", connect_account_id, None, refresh_url, return_url))
        return await self._account(connect_account_id)

    async def send(self, order: PayoutOrder) -> SendOutcome:
        outcome, self.outcome = self.outcome, None
        if outcome is None:
            outcome = self.sent.setdefault(order.payout_id, Sent(f"po_{order.payout_id}"))
        await self._pass()
        return outcome

    async def look(self, order: PayoutOrder) -> LookOutcome:
        return self.sent.get(order.payout_id, Absent())

    async def recall(self, order: PayoutOrder) -> RecallOutcome:
        del order
        return Recalled()

    async def cancel(self, order: PayoutOrder) -> CancelOutcome:
        sent = self.sent[order.payout_id]
        if sent.status is ProviderStatus.PENDING:
            sent = Sent(sent.external_payout_id, status=ProviderStatus.CANCELED)
            self.sent[order.payout_id] = sent
        return sent

    def payouts_between(
        self, start: datetime, end: datetime, *, connect_account_ids: frozenset[str]
    ) -> AsyncGenerator[ProviderPayout, None] | None:
        del start, end, connect_account_ids
        return None

    async def _account(self, connect_account_id: str) -> ConnectAccount:
        link = f"https://provider.example/{connect_account_id}/{next(self._links)}"
        stands = ConnectAccount(connect_account_id, self.active, link)
        await self._pass()
        return stands

    async def _pass(self) -> None:
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        self._arrived.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.under_way -= 1
