"""Three records of one day's payouts compared: ours, the ledger's events, the provider's objects.

The day's payouts are those that were created, submitted, finalised or failed on it. All is compared
as of one instant, the cut: what was recorded from it on is as if it were not. The provider alone
tells no history: its words are those of when it was asked. So they differ from ours only when they
fit neither where a payout stood at the cut nor where it stood just after they were said.

A finding is one mismatch: of which kind, in which record, of which payout, its amount and its age.
What was under way at the cut is no finding until it is older than such a thing takes.
Source: new; payouts contract 11 (13).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from attrs import Factory, define, frozen

from clawsettle.domain.ledger_orders import LedgerEvent
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderPayout, ProviderStatus

UNDER_WAY_MAX = timedelta(hours=1)
"""How long two records may differ because something is under way between them."""

WAITING_MAX = timedelta(days=5)
"""How long a payout may wait for its provider's word."""

S, P = PayoutStatus, ProviderStatus
_STAGES = ("lock", "finalize", "rollback", "return")
_GIVEN_BACK = frozenset({P.CANCELED, P.FAILED})
# What the provider may say of a payout that stands here so, when nothing is under way.
_AGREES: Mapping[PayoutStatus, frozenset[ProviderStatus]] = {
    S.INITIATED: frozenset(),
    S.SENDING: frozenset(),
    S.UNKNOWN: frozenset(),
    S.SUBMITTED: frozenset({P.PENDING, P.IN_TRANSIT}),
    S.FINALIZING_PAID: frozenset({P.PAID}),
    S.PAID: frozenset({P.PAID}),
    S.FINALIZING_FAILED: _GIVEN_BACK,
    S.FAILED: _GIVEN_BACK,
    S.FINALIZING_CANCELED: _GIVEN_BACK,
    S.CANCELED: _GIVEN_BACK,
    S.RETURNING: _GIVEN_BACK,
    S.RETURNED: _GIVEN_BACK,
}


class MismatchKind(StrEnum):
    """What is wrong."""

    MISSING = "missing"
    AMOUNT = "amount"
    STATE = "state"
    LATE = "late"
    DUPLICATE = "duplicate"


class RecordName(StrEnum):
    """In which of the three records it is wrong."""

    OURS = "ours"
    LEDGER = "ledger"
    PROVIDER = "provider"


@frozen
class Mismatch:
    """One finding; the amount in minor units, the age in whole seconds at the cut.

    ``subject`` is what is missing, doubled or different: a stage, or the provider's id.
    """

    kind: MismatchKind
    record: RecordName
    payout_id: str | None
    subject: str
    expected: str
    found: str
    amount_minor: int
    currency: str
    age_s: int

    def view(self) -> dict[str, object]:
        """Render it as a row; every field is there."""
        return {
            "kind": str(self.kind),
            "record": str(self.record),
            "payout_id": self.payout_id or "",
            "subject": self.subject,
            "expected": self.expected,
            "found": self.found,
            "amount_minor": str(self.amount_minor),
            "currency": self.currency,
            "age_s": self.age_s,
        }


def ledger_keys(payout: Payout) -> Mapping[str, str]:
    """Return the keys of a payout's transfers in the ledger, by stage."""
    keys = (payout.lock_key, payout.finalize_key, payout.rollback_key, payout.return_key)
    return dict(zip(_STAGES, keys, strict=True))


def our_events(payout: Payout) -> Mapping[str, str | None]:
    """Return the ledger's events that we know of a payout, by stage."""
    ids = (
        payout.lock_event_id,
        payout.finalize_event_id,
        payout.rollback_event_id,
        payout.return_event_id,
    )
    return dict(zip(_STAGES, ids, strict=True))


def in_order(mismatches: Iterable[Mismatch]) -> list[Mismatch]:
    """Return findings in the order of the report."""
    return sorted(
        mismatches,
        key=lambda one: (one.kind, one.record, one.payout_id or "", one.subject, one.found),
    )


@define
class Comparison:
    """Compares payouts with what the ledger and the provider have of each.

    ``as_of`` is the cut; ``provider`` is None where the provider keeps no objects. Payouts are
    given as they were at the cut, each once.
    """

    as_of: datetime
    provider: "ProviderRecord | None"
    mismatches: list[Mismatch] = Factory(list)

    def add(
        self, payout: Payout, events: Mapping[str, LedgerEvent], status_now: PayoutStatus
    ) -> None:
        """Compare one payout; ``events`` are those of its keys that the ledger had at the cut."""
        self._late(payout)
        self._ledger(payout, events)
        if self.provider is not None:
            self._provider(payout, self.provider.of(payout, status_now), status_now)

    def finish(self) -> list[Mismatch]:
        """Add what the provider has made that day and nobody here knows; return all in order."""
        for told in self.provider.strangers() if self.provider else ():
            self.mismatches.append(
                Mismatch(
                    MismatchKind.MISSING,
                    RecordName.OURS,
                    told.payout_id,
                    told.external_payout_id,
                    "a payout",
                    "",
                    told.amount_minor,
                    told.currency,
                    self._age_s(told.created_at),
                )
            )
        return in_order(self.mismatches)

    def _late(self, payout: Payout) -> None:
        if payout.status.is_end:
            return
        limit = WAITING_MAX if payout.status is S.SUBMITTED else UNDER_WAY_MAX
        if self.as_of - payout.status_at > limit:
            expected = f"an end within {int(limit.total_seconds())} s"
            self._find(
                MismatchKind.LATE, RecordName.OURS, payout, "status", expected, str(payout.status)
            )

    def _ledger(self, payout: Payout, events: Mapping[str, LedgerEvent]) -> None:
        ours = our_events(payout)
        for stage, key in ledger_keys(payout).items():
            event, known = events.get(key), ours[stage]
            if event is None:
                if known is not None:
                    self._find(MismatchKind.MISSING, RecordName.LEDGER, payout, stage, known, "")
                continue
            if known is None and not self._is_under_way(payout):
                self._find(MismatchKind.STATE, RecordName.OURS, payout, stage, event.event_id, "")
            elif known is not None and known != event.event_id:
                self._find(
                    MismatchKind.STATE, RecordName.LEDGER, payout, stage, known, event.event_id
                )
            if event.amount_minor not in {None, payout.amount_minor}:
                self._find(
                    MismatchKind.AMOUNT,
                    RecordName.LEDGER,
                    payout,
                    stage,
                    str(payout.amount_minor),
                    str(event.amount_minor),
                )
        if payout.finalize_key in events and payout.rollback_key in events:
            ends = [events[payout.finalize_key].event_id, events[payout.rollback_key].event_id]
            self._find(
                MismatchKind.DUPLICATE,
                RecordName.LEDGER,
                payout,
                "finalize and rollback",
                "one end",
                " ".join(ends),
            )

    def _provider(
        self, payout: Payout, told: Sequence[ProviderPayout], status_now: PayoutStatus
    ) -> None:
        provider = RecordName.PROVIDER
        if not told:
            if payout.external_payout_id is not None:
                self._find(
                    MismatchKind.MISSING, provider, payout, payout.external_payout_id, "it", ""
                )
            return
        if len(told) > 1:
            ids = " ".join(one.external_payout_id for one in told)
            self._find(MismatchKind.DUPLICATE, provider, payout, "payout", "one", ids)
        for one in told:
            subject = one.external_payout_id
            expected, found = _money(payout), _money(one)
            if expected != found:
                self._find(MismatchKind.AMOUNT, provider, payout, subject, expected, found)
            if self._is_under_way(payout):
                continue
            if one.status not in _AGREES[payout.status] | _AGREES[status_now]:
                self._find(
                    MismatchKind.STATE,
                    provider,
                    payout,
                    subject,
                    str(payout.status),
                    str(one.status),
                )
            elif one.transfer_id is not None and _is_given_back(payout) and not one.reversed:
                self._find(
                    MismatchKind.STATE,
                    provider,
                    payout,
                    one.transfer_id,
                    "a reversed transfer",
                    "not reversed",
                )

    def _find(
        self,
        kind: MismatchKind,
        record: RecordName,
        payout: Payout,
        subject: str,
        expected: str,
        found: str,
    ) -> None:
        self.mismatches.append(
            Mismatch(
                kind,
                record,
                payout.payout_id,
                subject,
                expected,
                found,
                payout.amount_minor,
                payout.currency,
                self._age_s(payout.status_at),
            )
        )

    def _is_under_way(self, payout: Payout) -> bool:
        """Return whether its status is so young that the records may differ rightly."""
        return self.as_of - payout.status_at <= UNDER_WAY_MAX

    def _age_s(self, since: datetime) -> int:
        return max(0, int((self.as_of - since).total_seconds()))


@define
class ProviderRecord:
    """The provider's objects, found by their payouts; those made in [start, end) are the day's."""

    start: datetime
    end: datetime
    _named: dict[str, list[ProviderPayout]] = Factory(dict)
    _by_id: dict[str, ProviderPayout] = Factory(dict)
    _known: dict[str, PayoutStatus] = Factory(dict)

    def add(self, told: ProviderPayout) -> None:
        """Take an object in."""
        self._by_id[told.external_payout_id] = told
        if told.payout_id is not None:
            self._named.setdefault(told.payout_id, []).append(told)

    def of(self, payout: Payout, status_now: PayoutStatus) -> list[ProviderPayout]:
        """Return the objects of a payout: by its name, and by the id that we know."""
        found = {told.external_payout_id: told for told in self._named.get(payout.payout_id, ())}
        known = self._by_id.get(payout.external_payout_id or "")
        if known is not None:
            found[known.external_payout_id] = known
        self._known |= dict.fromkeys(found, status_now)
        return [found[external_id] for external_id in sorted(found)]

    def of_day(self) -> list[tuple[ProviderPayout, PayoutStatus | None]]:
        """Return what was compared, by the provider's id, with where ours stood then."""
        ids = {*self._known, *(told.external_payout_id for told in self.strangers())}
        return [(self._by_id[one], self._known.get(one)) for one in sorted(ids)]

    def strangers(self) -> list[ProviderPayout]:
        """Return the day's objects that no payout was found for."""
        return [
            told
            for external_id, told in sorted(self._by_id.items())
            if external_id not in self._known and self.start <= told.created_at < self.end
        ]


def _money(record: Payout | ProviderPayout) -> str:
    return f"{record.amount_minor} {record.currency}"


def _is_given_back(payout: Payout) -> bool:
    return payout.status in {S.FAILED, S.CANCELED, S.RETURNED}
