"""What a run takes and how it is put together: pure, and the same however its items arrive.

A payout is an item when it is paid, and another one, against it, when it fails after a run has
moved it. The plan has one entry for each connected account, with the sum of its items.
Source: netting contract sections 3 and 5; 10 (16).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from attrs import Factory, define, frozen

from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.netting import Entry, EntryStatus, entry_id, entry_key


class Direction(StrEnum):
    """Which way a payout's amount goes; the values are the stored words."""

    SWEEP = "sweep"
    """A paid payout: from the source to the target."""
    RETURN = "return"
    """One that failed after it was swept: from the target back to the source."""


@frozen
class Item:
    """A payout that waits to be netted; ``amount_minor`` is signed, below zero for a return.

    ``at`` is the UTC instant, to the millisecond, since when it waits: when the payout was
    finalised, or when its failure was recorded.
    """

    payout_id: str
    direction: Direction
    connect_account_id: str
    currency: str
    amount_minor: int
    at: datetime


@frozen
class PlannedEntry:
    """An entry that a run would have."""

    entry_id: str
    entry_key: str
    connect_account_id: str
    currency: str
    amount_minor: int
    payout_ids: tuple[str, ...]
    compensated_payout_ids: tuple[str, ...]

    def opened(self, run_id: str, now: datetime) -> Entry:
        """Return the entry of a run that is prepared at ``now``."""
        return Entry(
            self.entry_id,
            run_id,
            self.connect_account_id,
            self.currency,
            self.amount_minor,
            self.payout_ids,
            self.compensated_payout_ids,
            EntryStatus.PENDING,
            now,
            now,
        )

    def view(self) -> dict[str, object]:
        """Render what a dry run tells of it."""
        fields: dict[str, object] = {
            "id": self.entry_id,
            "entry_key": self.entry_key,
            "connect_account_id": self.connect_account_id,
            "currency": self.currency,
            "amount_minor": str(self.amount_minor),
            "payout_count": len(self.payout_ids),
            "payout_ids": list(self.payout_ids),
            "compensated_payout_ids": list(self.compensated_payout_ids) or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


@frozen
class Plan:
    """All entries of a run by their ids, how many items they are made of, and their sum."""

    entries: Sequence[PlannedEntry]
    candidate_count: int
    total_amount_minor: int


@define
class _Group:
    payout_ids: list[str] = Factory(list)
    compensated: list[str] = Factory(list)
    amount_minor: int = 0


def plan_run(run_id: str, items: Iterable[Item]) -> Plan:
    """Group the items of a run; their order when they are given means nothing.

    Raises: ClawsettleError BALANCE_LIMIT_EXCEEDED when a sum is more than 63 bits hold.
    """
    ordered = sorted(items, key=lambda item: (item.at, item.payout_id))
    groups: dict[tuple[str, str], _Group] = {}
    for item in ordered:
        group = groups.setdefault((item.connect_account_id, item.currency), _Group())
        named = group.payout_ids if item.direction is Direction.SWEEP else group.compensated
        named.append(item.payout_id)
        group.amount_minor += item.amount_minor
    entries = sorted(
        (_planned(run_id, *account, group) for account, group in groups.items()),
        key=lambda entry: entry.entry_id,
    )
    total_amount_minor = sum(entry.amount_minor for entry in entries)
    for amount_minor in (total_amount_minor, *(entry.amount_minor for entry in entries)):
        if abs(amount_minor) > MINOR_MAX:
            raise ClawsettleError(
                "a sum of these payouts is more than a ledger can hold",
                code="BALANCE_LIMIT_EXCEEDED",
            )
    return Plan(entries, len(ordered), total_amount_minor)


def _planned(run_id: str, connect_account_id: str, currency: str, group: _Group) -> PlannedEntry:
    payout_ids, compensated = tuple(group.payout_ids), tuple(group.compensated)
    key = entry_key(run_id, connect_account_id, currency, payout_ids, compensated)
    return PlannedEntry(
        entry_id(key),
        key,
        connect_account_id,
        currency,
        group.amount_minor,
        payout_ids,
        compensated,
    )
