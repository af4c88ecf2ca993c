"""Compares a day's payouts with the ledger's events and the provider's objects.

Owns nothing and changes nothing. Guarantees: the same records give the same bytes, wherever and
whenever it is asked; the report says by digests what each record was. Nothing is left out silently:
a record that cannot be read whole ends the comparison with an error.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta

from attrs import Factory, define, frozen

from clawsettle.clients.ledger import Ledger
from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.domain.comparison_report import (
    ComparisonReport,
    ledger_line,
    our_line,
    provider_line,
)
from clawsettle.domain.errors import ProviderError
from clawsettle.domain.ledger_orders import LedgerEvent
from clawsettle.domain.payout_comparison import (
    Comparison,
    ProviderRecord,
    RecordName,
    ledger_keys,
)
from clawsettle.domain.payout_reports import ReportCut
from clawsettle.domain.payouts import Payout
from clawsettle.storage.payout_comparison import PayoutPast

PAGE = 500
SETTLED_AFTER = timedelta(seconds=60)
"""How old a cut is at least, so that no transaction from before it can still commit."""

# A payout's object is made before its sending is recorded, and is dated by the provider's clock.
_MARGIN = timedelta(hours=1)
Progress = Callable[[int, int], None]


@define
class _Input:
    """A record as it was read: how many lines, and their digest.

    Ours and the ledger's are in the order of payouts' ids, the provider's in that of its own.
    """

    count: int = 0
    _digest: "hashlib._Hash" = Factory(hashlib.sha256)

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.count += 1
            self._digest.update(line.encode() + b"\n")

    def view(self) -> dict[str, object]:
        return {"count": self.count, "sha256": self._digest.hexdigest()}


@frozen
class PayoutComparer:
    """See the module; ``provider`` is None where this process has none to ask."""

    past: PayoutPast
    ledger: Ledger
    provider: PayoutProvider | None

    async def compare(
        self, cut: ReportCut, progress: Progress = lambda _done, _of: None
    ) -> ComparisonReport:
        """Return the report of a day; ``progress`` is told payouts done, and of how many.

        Without a cut of its own the day is compared as of a minute ago.

        Raises: ProviderError for a record that does not answer, StorageUnavailable, StorageError.
        """
        as_of = cut.as_of or await self.past.read_at() - SETTLED_AFTER
        ours, events, theirs = _Input(), _Input(), _Input()
        ids = await self.past.ids_of_day(cut.first, cut.last, as_of)
        record = await self._provider_record(cut, as_of, ids)
        comparison = Comparison(as_of, record)

        async def add(payout_ids: Sequence[str]) -> None:
            payouts = await self.past.at(payout_ids, as_of)
            known = await self._events([one.then for one in payouts], as_of)
            ours.add(our_line(one.then) for one in payouts)
            for one in payouts:
                keys = ledger_keys(one.then).values()
                found = {key: known[key] for key in keys if key in known}
                events.add(ledger_line(event) for event in found.values())
                comparison.add(one.then, found, one.status_now)

        for place in range(0, len(ids), PAGE):
            progress(place, len(ids))
            await add(ids[place : place + PAGE])
        progress(len(ids), len(ids))
        if record is not None:
            # What the provider made that day may belong to a payout of another day.
            named = {told.payout_id for told in record.strangers() if told.payout_id is not None}
            await add(sorted(named - set(ids)))
            theirs.add(provider_line(told, status) for told, status in record.of_day())
        inputs = {
            str(RecordName.OURS): ours.view(),
            str(RecordName.LEDGER): events.view(),
            str(RecordName.PROVIDER): None if record is None else theirs.view(),
        }
        return ComparisonReport(cut.day, as_of, inputs, comparison.finish())

    async def _events(self, payouts: Sequence[Payout], as_of: datetime) -> dict[str, LedgerEvent]:
        keys = [key for payout in payouts for key in ledger_keys(payout).values()]
        found = await self.ledger.events_by_key(keys) if keys else {}
        return {
            key: event
            for key, event in found.items()
            if event.created_at is None or event.created_at < as_of
        }

    async def _provider_record(
        self, cut: ReportCut, as_of: datetime, payout_ids: Sequence[str]
    ) -> ProviderRecord | None:
        """Read the provider's objects of the day and of these payouts; None where it keeps none.

        A payout that was paid on the day may have been sent long before, and one that was created
        on it long after.
        """
        if self.provider is None:
            return None
        first, last = cut.first, cut.last
        for place in range(0, len(payout_ids), PAGE):
            span = await self.past.span(payout_ids[place : place + PAGE], as_of)
            first, last = min(first, span.first), max(last, span.last)
        listed = self.provider.payouts_between(
            first - _MARGIN,
            last + _MARGIN,
            connect_account_ids=await self.past.connect_account_ids(),
        )
        if listed is None:
            return None
        record = ProviderRecord(cut.first, min(cut.last, as_of))
        try:
            async with aclosing(listed):
                async for told in listed:
                    record.add(told)
        except ProviderError as error:
            raise ProviderError(
                "the payout provider has not listed its payouts", code="STRIPE_API_ERROR"
            ) from error
        return record
