"""The report of a comparison: its rows, its sums, and the digests of what was compared.

The same records give the same bytes on any machine: keys are sorted, the order of rows is stated,
and nothing in it depends on when or where it was made.
Source: new; payouts contract 11 (13).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.ledger_orders import LedgerEvent
from clawsettle.domain.payout_comparison import Mismatch, MismatchKind, RecordName, our_events
from clawsettle.domain.payout_reports import csv_lines
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderPayout

FIELDS = tuple(Mismatch(MismatchKind.LATE, RecordName.OURS, "", "", "", "", 1, "", 0).view())
"""The fields of a row in their order."""


def our_line(payout: Payout) -> str:
    """Return a payout as a line of the input that is hashed."""
    return canonical_json(
        {
            "payout_id": payout.payout_id,
            "amount_minor": str(payout.amount_minor),
            "currency": payout.currency,
            "status": str(payout.status),
            "status_at": iso_instant(payout.status_at),
            "external_payout_id": payout.external_payout_id or "",
            **{stage: event_id or "" for stage, event_id in our_events(payout).items()},
        }
    )


def ledger_line(event: LedgerEvent) -> str:
    """Return a ledger's event as a line of the input that is hashed."""
    return canonical_json(
        {
            "key": event.key,
            "event_id": event.event_id,
            "amount_minor": "" if event.amount_minor is None else str(event.amount_minor),
            "created_at": iso_instant(event.created_at) if event.created_at else "",
        }
    )


def provider_line(told: ProviderPayout, status_now: PayoutStatus | None) -> str:
    """Return a provider's object as a line of the input that is hashed.

    ``status_now`` is where ours stood when it was compared.
    """
    return canonical_json(
        {
            "external_payout_id": told.external_payout_id,
            "payout_id": told.payout_id or "",
            "connect_account_id": told.connect_account_id,
            "amount_minor": str(told.amount_minor),
            "currency": told.currency,
            "status": str(told.status),
            "created_at": iso_instant(told.created_at),
            "reversed": told.reversed,
            "status_now": status_now or "",
        }
    )


def totals(mismatches: Iterable[Mismatch]) -> dict[str, object]:
    """Return for each kind that occurs how many there are, and their amounts by currency."""
    counts: dict[str, int] = {}
    sums: dict[str, dict[str, int]] = {}
    for one in mismatches:
        kind = str(one.kind)
        counts[kind] = counts.get(kind, 0) + 1
        by_currency = sums.setdefault(kind, {})
        by_currency[one.currency] = by_currency.get(one.currency, 0) + one.amount_minor
    return {
        kind: {
            "count": counts[kind],
            "amount_minor": {code: str(total) for code, total in sorted(sums[kind].items())},
        }
        for kind in sorted(counts)
    }


@frozen
class ComparisonReport:
    """The report of a day's comparison as of a cut; its inputs by count and digest.

    ``inputs`` has None for a record that is not kept. The same records give the same bytes.
    """

    day: date
    as_of: datetime
    inputs: Mapping[str, object]
    mismatches: Sequence[Mismatch]

    @property
    def sha256(self) -> str:
        """Return the hash of all that the report says, whichever way it is written."""
        return sha256_hex(canonical_json(self._content()))

    def view(self) -> dict[str, object]:
        """Render it as JSON."""
        return {**self._content(), "artifact_sha256": self.sha256}

    def csv(self) -> str:
        """Render the findings as CSV, with a line of names."""
        rows = [[str(value) for value in one.view().values()] for one in self.mismatches]
        return csv_lines([FIELDS, *rows])

    def _content(self) -> dict[str, object]:
        return {
            "date": str(self.day),
            "as_of": iso_instant(self.as_of),
            "inputs": self.inputs,
            "totals": totals(self.mismatches),
            "mismatches": [one.view() for one in self.mismatches],
        }
