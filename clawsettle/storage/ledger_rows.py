"""The ledger's records as rows, and back: one pair of functions a table, columns in its order."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from clawsettle.domain.book import Reservation, ReservationKind, RiskHold, StoredAnswer
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.journal import Account, AccountKind, Bucket, Event, EventType, Posting
from clawsettle.domain.settlements import Direction, Settlement, Status
from clawsettle.storage.bridge import Row

Columns = tuple[object, ...]


def account_row(account: Account) -> Columns:
    """Return the row of ``ledger_account``."""
    balances = account.balances
    return (
        account.account_id,
        account.kind,
        account.did,
        balances[Bucket.AVAILABLE],
        balances[Bucket.HELD],
        balances[Bucket.BONDED],
        balances[Bucket.FEE_POOL],
        balances[Bucket.PROMO],
        account.created_at,
        account.updated_at,
        account.domain,
        account.name,
        account.reserved_minor,
    )


def read_account(row: Row) -> Account:
    """Return the account of a row."""
    return Account(
        account_id=row["account_id"],
        kind=AccountKind(row["kind"]),
        did=row["did"],
        domain=row["domain"],
        name=row["name"],
        balances={
            Bucket.AVAILABLE: row["available_minor"],
            Bucket.HELD: row["held_minor"],
            Bucket.BONDED: row["bonded_minor"],
            Bucket.FEE_POOL: row["fee_pool_minor"],
            Bucket.PROMO: row["promo_minor"],
        },
        reserved_minor=row["reserved_minor"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def settlement_row(settlement: Settlement) -> Columns:
    """Return the row of ``ledger_settlement``."""
    return (
        settlement.settlement_id,
        settlement.provider,
        settlement.external_payment_id,
        settlement.direction,
        settlement.status,
        settlement.account_id,
        settlement.amount_minor,
        settlement.currency,
        settlement.network,
        settlement.rail,
        None if settlement.metadata is None else compact_json(settlement.metadata),
        settlement.provider_created_at,
        settlement.provider_updated_at,
        settlement.settled_at,
        settlement.latest_event_id,
        settlement.created_at,
        settlement.updated_at,
        settlement.refund_of,
    )


def read_settlement(row: Row) -> Settlement:
    """Return the settlement of a row."""
    return Settlement(
        settlement_id=row["settlement_id"],
        provider=row["provider"],
        external_payment_id=row["external_payment_id"],
        direction=Direction(row["direction"]),
        status=Status(row["status"]),
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        network=row["network"],
        rail=row["rail"],
        metadata=None if row["metadata"] is None else json.loads(row["metadata"]),
        provider_created_at=row["provider_created_at"],
        provider_updated_at=row["provider_updated_at"],
        settled_at=row["settled_at"],
        refund_of=row["refund_of"],
        latest_event_id=row["latest_event_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def answer_row(answer: StoredAnswer, at: datetime) -> Columns:
    """Return the row of ``ledger_ingestion``; the body keeps the order it was given."""
    return (
        answer.key,
        answer.request_hash,
        answer.settlement_id,
        compact_json(answer.body),
        at,
    )


def read_answer(row: Row) -> StoredAnswer:
    """Return the stored answer of a row."""
    return StoredAnswer(
        key=row["idempotency_key"],
        request_hash=row["request_hash"],
        settlement_id=row["settlement_id"],
        body=json.loads(row["answer"]),
    )


def event_row(event: Event) -> Columns:
    """Return the row of ``ledger_event``."""
    return (
        event.seq,
        event.event_id,
        event.idempotency_key,
        event.event_type,
        event.account_id,
        event.to_account_id,
        event.amount_minor,
        event.bucket,
        event.previous_hash,
        event.event_hash,
        event.metadata_json,
        event.created_at,
        event.content_hash,
        event.request_hash,
    )


def read_event(row: Row, postings: Sequence[Row] = ()) -> Event:
    """Return the event of a row and the rows of its postings, in their order.

    Raises: ValueError for a word that is none of ours, legs that are not numbered from 0, or an
    infinite instant.
    """
    legs = [posting["leg"] for posting in postings]
    if legs != list(range(len(legs))):
        raise ValueError(f"its postings are numbered {legs}")
    if row["created_at"].tzinfo is None:
        raise ValueError("its instant is infinite")
    return Event(
        seq=row["seq"],
        event_id=row["event_id"],
        idempotency_key=row["idempotency_key"],
        event_type=EventType(row["event_type"]),
        account_id=row["account_id"],
        to_account_id=row["to_account_id"],
        amount_minor=row["amount_minor"],
        bucket=Bucket(row["bucket"]),
        previous_hash=row["previous_hash"],
        event_hash=row["event_hash"],
        content_hash=row["content_hash"],
        request_hash=row["request_hash"],
        metadata_json=row["metadata"],
        created_at=row["created_at"],
        postings=tuple(read_posting(posting) for posting in postings),
    )


def posting_rows(event: Event) -> list[Columns]:
    """Return the rows of ``ledger_posting`` of an event."""
    return [
        (event.seq, leg, posting.account_id, posting.bucket, posting.delta_minor)
        for leg, posting in enumerate(event.postings)
    ]


def read_posting(row: Row) -> Posting:
    """Return the posting of a row."""
    return Posting(row["account_id"], Bucket(row["bucket"]), row["delta_minor"])


def reservation_row(reservation: Reservation) -> Columns:
    """Return the row of ``ledger_reservation``."""
    return (
        reservation.reservation_id,
        reservation.kind,
        reservation.account_id,
        reservation.amount_minor,
        reservation.opened_event_id,
        reservation.closed_event_id,
        reservation.opened_at,
        reservation.closed_at,
    )


def read_reservation(row: Row) -> Reservation:
    """Return the reservation of a row."""
    return Reservation(
        reservation_id=row["reservation_id"],
        kind=ReservationKind(row["kind"]),
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        opened_event_id=row["opened_event_id"],
        closed_event_id=row["closed_event_id"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
    )


def read_metadata(text: str) -> Mapping[str, object]:
    """Return the metadata that was kept as a text.

    Raises: ValueError for no JSON, TypeError for no object.
    """
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise TypeError("its metadata is no JSON object")
    return metadata


def hold_row(hold: RiskHold) -> Columns:
    """Return the row of ``ledger_risk_hold``."""
    return (
        hold.hold_id,
        hold.idempotency_key,
        hold.source_loss_event_id,
        hold.account_ref,
        hold.account_id,
        hold.amount_minor,
        hold.currency,
        hold.reason,
        compact_json(hold.metadata),
        hold.hold_transfer_event_id,
        hold.release_idempotency_key,
        hold.release_transfer_event_id,
        hold.created_at,
        hold.updated_at,
        hold.released_at,
    )


def read_hold(row: Row) -> RiskHold:
    """Return the hold of a row."""
    return RiskHold(
        hold_id=row["hold_id"],
        idempotency_key=row["idempotency_key"],
        source_loss_event_id=row["source_loss_event_id"],
        account_ref=row["account_ref"],
        account_id=row["account_id"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        reason=row["reason"],
        metadata=read_metadata(row["metadata"]),
        hold_transfer_event_id=row["hold_transfer_event_id"],
        release_idempotency_key=row["release_idempotency_key"],
        release_transfer_event_id=row["release_transfer_event_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        released_at=row["released_at"],
    )
