"""Whether what a netting run has moved is what its payouts are: no money made, none lost.

Three records are summed up over the entries that are applied: the entries themselves, the payouts
that they are made of, and what the ledger's events under their keys say.
Source: new.
"""

from collections.abc import Iterable, Mapping

from attrs import define, frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.ledger_orders import AnotherTransfer, LedgerEvent, applied, moved_minor
from clawsettle.domain.netting import Entry, Run, transfer_of


@frozen
class AppliedSums:
    """What a run's applied entries come to, and the payouts in them: signed, in minor units.

    ``agree`` tells whether they do for every single entry.
    """

    entries_minor: int
    payouts_minor: int
    agree: bool


@frozen
class Conservation:
    """The three sums, signed and in minor units: below zero they go from the target to the source.

    ``holds`` when the records agree entry by entry. What the ledger has is None when it cannot be
    asked, and then ``holds`` is None, too, unless the other two differ already.
    """

    entries_minor: int
    payouts_minor: int
    ledger_minor: int | None
    ledger_event_count: int | None
    holds: bool | None

    def view(self) -> dict[str, object]:
        """Render the proof; what the ledger has not said is left out."""
        fields: dict[str, object] = {
            "entries_minor": str(self.entries_minor),
            "payouts_minor": str(self.payouts_minor),
        }
        if self.ledger_minor is not None:
            fields["ledger_minor"] = str(self.ledger_minor)
            fields["ledger_event_count"] = self.ledger_event_count
        return fields | {"holds": self.holds}


@define
class LedgerTally:
    """What the ledger says of entries so far.

    An event that is not the entry's own transfer counts as what it says, and makes ``agrees``
    false, as one that is missing does.
    """

    moved_minor: int = 0
    event_count: int = 0
    agrees: bool = True

    def add(self, run: Run, entries: Iterable[Entry], events: Mapping[str, LedgerEvent]) -> None:
        """Count in applied entries of the run; ``events`` are those there are under their keys."""
        for entry in entries:
            order = transfer_of(run, entry)
            if order is None:
                continue
            event = events.get(order.key)
            if event is None:
                self.agrees = False
                continue
            self.event_count += 1
            try:
                applied(order, event)
            except AnotherTransfer:
                self.agrees = False
                moved = moved_minor(event, order.source, order.destination)
            else:
                self.agrees &= event.event_id == entry.ledger_event_id
                moved = order.amount_minor
            self.moved_minor += moved if entry.amount_minor > 0 else -moved


def prove(sums: AppliedSums, tally: LedgerTally | None) -> Conservation:
    """Put the three records side by side; ``tally`` is None when the ledger could not be asked."""
    entries_minor, payouts_minor = sums.entries_minor, sums.payouts_minor
    if tally is None:
        return Conservation(entries_minor, payouts_minor, None, None, None if sums.agree else False)
    holds = sums.agree and tally.agrees and entries_minor == tally.moved_minor
    return Conservation(entries_minor, payouts_minor, tally.moved_minor, tally.event_count, holds)


def conservation_sha256(artifact_sha256: str, conservation: Conservation) -> str:
    """Return the hash that binds a proof to the report that it is about."""
    bound = {"artifact_sha256": artifact_sha256, "conservation": conservation.view()}
    return sha256_hex(canonical_json(bound))
