"""Netting runs and their entries: what is known of each, and how callers see them.

A run takes payouts out of one clearing account to another, for each connected account in one
entry. What they may become is in ``netting_transitions``.
Source: netting contract sections 3 and 4; 10 (8, 9, 16).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.instants import iso_instant
from clawsettle.domain.ledger_orders import TransferOrder
from clawsettle.domain.transfers import Side

PAYOUT_IDS_MAX = 500
"""How many payout ids a transfer's metadata lists; of more it has their hash."""


class RunStatus(StrEnum):
    """Where a run stands; the values are the stored words, and the ones on the wire."""

    CREATED = "created"
    RUNNING = "running"
    RELEASING = "releasing"
    APPLIED = "applied"
    FAILED = "failed"
    RELEASED = "released"

    @property
    def is_open(self) -> bool:
        """Return whether somebody works on the run, or has to."""
        return self in {RunStatus.CREATED, RunStatus.RUNNING, RunStatus.RELEASING}


class EntryStatus(StrEnum):
    """Where an entry stands; the values are the stored words."""

    PENDING = "pending"
    APPLYING = "applying"
    UNKNOWN = "unknown"
    APPLIED = "applied"
    FAILED = "failed"
    RELEASED = "released"

    @property
    def wire(self) -> "EntryStatus":
        """Return the word that callers know: whether it has moved is unknown, so it failed."""
        return EntryStatus.FAILED if self is EntryStatus.UNKNOWN else self

    @property
    def is_end(self) -> bool:
        """Return whether nothing will be done for the entry any more."""
        return self in {EntryStatus.APPLIED, EntryStatus.RELEASED}


@frozen
class Run:
    """A run as stored; ``total_amount_minor`` is signed, in minor units, instants are UTC.

    ``request_hash`` is of the request with its defaults, ``asked_hash`` of what its sender wrote.
    While the run is open ``due_at`` is when it may be claimed: the end of its lease, if it has one.
    """

    run_id: str
    idempotency_key: str
    request_hash: str
    asked_hash: str
    currency: str
    selection_before: datetime
    source_clearing_domain: str
    target_clearing_domain: str
    status: RunStatus
    candidate_count: int
    applied_count: int
    failed_count: int
    total_amount_minor: int
    created_at: datetime
    updated_at: datetime
    last_error_code: str | None = None
    last_error_message: str | None = None
    report_hash: str | None = None
    completed_at: datetime | None = None
    is_scheduled: bool = False
    due_at: datetime | None = None
    lease_token: int | None = None

    def view(self) -> dict[str, object]:
        """Render the contract's run JSON; absent fields are left out."""
        fields: dict[str, object] = {
            "id": self.run_id,
            "idempotency_key": self.idempotency_key,
            "request_hash": self.request_hash,
            "currency": self.currency,
            "selection_before": iso_instant(self.selection_before),
            "source_clearing_domain": self.source_clearing_domain,
            "target_clearing_domain": self.target_clearing_domain,
            "status": str(self.status),
            "candidate_count": self.candidate_count,
            "applied_count": self.applied_count,
            "failed_count": self.failed_count,
            "total_amount_minor": str(self.total_amount_minor),
            "last_error_code": self.last_error_code,
            "last_error_message": self.last_error_message,
            "report_hash": self.report_hash,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "completed_at": self.completed_at and iso_instant(self.completed_at),
        }
        return {name: value for name, value in fields.items() if value is not None}


@frozen
class Entry:
    """What a run moves for one connected account, as stored.

    ``amount_minor`` is signed: above zero it goes from the run's source to its target, below zero
    it comes back, at zero nothing moves. ``compensated_payout_ids`` are payouts that failed after
    an earlier run had moved them. ``attempts`` counts how often the ledger was to be asked,
    ``doubt_at`` is when last it was not known whether it had applied the transfer, and
    ``unanswered_at`` when last it had given no answer at all.
    """

    entry_id: str
    run_id: str
    connect_account_id: str
    currency: str
    amount_minor: int
    payout_ids: tuple[str, ...]
    compensated_payout_ids: tuple[str, ...]
    status: EntryStatus
    created_at: datetime
    updated_at: datetime
    attempts: int = 0
    doubt_at: datetime | None = None
    ledger_event_id: str | None = None
    last_error_code: str | None = None
    last_error_message: str | None = None
    applied_at: datetime | None = None
    unanswered_at: datetime | None = None

    @property
    def entry_key(self) -> str:
        """Return the text that the entry's id is the hash of."""
        return entry_key(
            self.run_id,
            self.connect_account_id,
            self.currency,
            self.payout_ids,
            self.compensated_payout_ids,
        )

    @property
    def all_payout_ids(self) -> tuple[str, ...]:
        """Return its payouts, whichever way they go."""
        return self.payout_ids + self.compensated_payout_ids

    @property
    def idempotency_key(self) -> str:
        """Return the ledger's idempotency key of the entry's transfer."""
        return f"netting:entry:{self.entry_id}"

    def view(self) -> dict[str, object]:
        """Render the contract's entry JSON; absent fields are left out.

        After the contract's fields come ours: the stored status where it says more (``state``),
        and the payouts that are compensated.
        """
        fields: dict[str, object] = {
            "id": self.entry_id,
            "run_id": self.run_id,
            "entry_key": self.entry_key,
            "connect_account_id": self.connect_account_id,
            "currency": self.currency,
            "amount_minor": str(self.amount_minor),
            "payout_count": len(self.payout_ids),
            "payout_ids": list(self.payout_ids),
            "idempotency_key": self.idempotency_key,
            "status": str(self.status.wire),
            "ledger_event_id": self.ledger_event_id,
            "last_error_code": self.last_error_code,
            "last_error_message": self.last_error_message,
            "created_at": iso_instant(self.created_at),
            "updated_at": iso_instant(self.updated_at),
            "applied_at": self.applied_at and iso_instant(self.applied_at),
            "state": str(self.status) if self.status is not self.status.wire else None,
            "compensated_payout_ids": list(self.compensated_payout_ids) or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def entry_key(
    run_id: str,
    connect_account_id: str,
    currency: str,
    payout_ids: tuple[str, ...],
    compensated_payout_ids: tuple[str, ...],
) -> str:
    """Return the text that names an entry; compensations are part of it where there are some."""
    named: dict[str, object] = {
        "connect_account_id": connect_account_id,
        "currency": currency,
        "payout_ids": payout_ids,
        "run_id": run_id,
    }
    if compensated_payout_ids:
        named["compensated_payout_ids"] = compensated_payout_ids
    return canonical_json(named)


def entry_id(key: str) -> str:
    """Return the id of the entry that this text names."""
    return f"nte_{sha256_hex(key)[:28]}"


def transfer_of(run: Run, entry: Entry) -> TransferOrder | None:
    """Return the order of an entry's transfer; None when its payouts cancel each other out."""
    if not entry.amount_minor:
        return None
    source = Side.of(f"clearing:{run.source_clearing_domain}", "A")
    target = Side.of(f"clearing:{run.target_clearing_domain}", "A")
    if entry.amount_minor < 0:
        source, target = target, source
    metadata: dict[str, object] = {
        "netting_run_id": entry.run_id,
        "netting_entry_id": entry.entry_id,
        "connect_account_id": entry.connect_account_id,
        "payout_count": len(entry.payout_ids),
        **_named("payout_ids", entry.payout_ids),
    }
    if entry.compensated_payout_ids:
        metadata |= _named("compensated_payout_ids", entry.compensated_payout_ids)
    amount_minor = abs(entry.amount_minor)
    return TransferOrder(
        entry.idempotency_key, source, target, amount_minor, entry.currency, metadata
    )


def _named(name: str, payout_ids: tuple[str, ...]) -> Mapping[str, object]:
    """Return the ids, or of more than a ledger should have to keep the hash of them."""
    if len(payout_ids) <= PAYOUT_IDS_MAX:
        return {name: list(payout_ids)}
    return {f"{name}_sha256": sha256_hex(canonical_json({name: payout_ids}))}
