"""What clients ask of the ledger, and what each of it comes to in plain sums, by the contract."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from clawsettle.domain.ingestion import settlement_id
from tests.torture.load import Answer

Place = tuple[str, str]
"""An account as transfers name it, and the letter of a bucket."""

Leg = tuple[str, str, int]
"""An account as transfers name it, a column of ``ledger_account``, and what is added to it."""

CONTRA = "external:stripe:USD"
_COLUMNS = {
    "A": "available_minor",
    "H": "held_minor",
    "B": "bonded_minor",
    "F": "fee_pool_minor",
    "P": "promo_minor",
}
_SETTLED = {
    ("payin", "confirmed"): ("payin_settle", 1),
    ("payin", "reversed"): ("payin_reverse", -1),
    ("refund", "confirmed"): ("payin_reverse", -1),
    ("refund", "reversed"): ("refund_reverse", 1),
    ("payout", "confirmed"): ("payout_settle", 0),
    ("payout", "reversed"): ("payout_reverse", 0),
}
_OUTGOING = frozenset({"INSUFFICIENT_FUNDS", "REFUND_EXCEEDS_PAYIN"})


@define(eq=False, kw_only=True)
class Order:
    """A request under a key of its own, every answer it got, and what it does if it is accepted.

    ``event_key`` is the idempotency key of the event that then has ``legs``; two orders of one
    settlement share it. ``event_at`` is where an answer names the event. ``refusals`` are the
    codes it may be refused with. ``unanswered_count`` tells how often nobody answered it.
    """

    path: str
    key: str
    body: Mapping[str, object]
    event_key: str
    amount_minor: int
    legs: Sequence[Leg]
    event_at: tuple[str, str] | tuple[str]
    refusals: frozenset[str]
    answers: list[Answer] = field(factory=list)
    unanswered_count: int = 0

    @property
    def is_accepted(self) -> bool:
        """Whether any daemon said yes."""
        return any(map(accepts, self.answers))

    def answered(self) -> dict[str, Any]:
        """Return the body of the first answer that accepted it."""
        body: dict[str, Any] = json.loads(next(filter(accepts, self.answers)).body)
        return body

    def event_ids(self) -> set[str]:
        """Return the events that the answers say were written for it."""
        named: set[str] = set()
        for answer in filter(accepts, self.answers):
            found = json.loads(answer.body)
            for name in self.event_at:
                found = found.get(name, {})
            named |= {found} if found else set()
        return named

    def refused_with(self) -> list[str]:
        """Return the codes of the answers that refused it."""
        return [json.loads(one.body)["code"] for one in self.answers if not accepts(one)]


def accepts(answer: Answer) -> bool:
    """Return whether an answer says that the order is carried out, now or before."""
    return answer.outcome in (200, 201)


def transfer(
    key: str, source: Place, destination: Place, amount_minor: int, *, reserved_minor: int = 0
) -> Order:
    """Move an amount; ``reserved_minor`` is what that adds to the source's reservations."""
    spends = key.startswith(("payout:finalize:", "payout:rollback:"))
    return Order(
        path="/v1/transfers",
        key=key,
        body={
            "idempotency_key": key,
            "currency": "USD",
            "from": {"account": source[0], "bucket": source[1]},
            "to": {"account": destination[0], "bucket": destination[1]},
            "amount_minor": str(amount_minor),
        },
        event_key=key,
        amount_minor=amount_minor,
        legs=_moved(source, destination, amount_minor, reserved_minor),
        event_at=("event_id",),
        refusals=frozenset({"INSUFFICIENT_FUNDS"} | ({"CONFLICT"} if spends else set())),
    )


def settlement(
    key: str,
    payment: tuple[str, str, str],
    account: tuple[str, str],
    amount_minor: int,
    *,
    refund_of: str | None = None,
) -> Order:
    """Settle a payment (external id, direction, status) of an account (DID, id)."""
    external_id, direction, status = payment
    did, account_id = account
    event_type, sign = _SETTLED[direction, status]
    delta_minor = sign * amount_minor
    settled = settlement_id(("stripe", external_id, direction))
    return Order(
        path="/v1/payments/settlements/ingest",
        key=key,
        body={
            "provider": "stripe",
            "external_payment_id": external_id,
            "direction": direction,
            "status": status,
            "account_id": account_id,
            "amount_minor": str(amount_minor),
            "currency": "USD",
            **({} if refund_of is None else {"refund_of": refund_of}),
        },
        event_key=f"payment_settlement:{settled}:{event_type}",
        amount_minor=amount_minor,
        legs=[
            (did, "available_minor", delta_minor),
            (CONTRA, "available_minor", -delta_minor),
        ],
        event_at=("event", "id"),
        refusals=_OUTGOING if sign < 0 else frozenset(),
    )


def hold(key: str, source: str, did: str, amount_minor: int) -> Order:
    """Hold an amount for a loss event."""
    return Order(
        path="/v1/risk/holds/apply",
        key=key,
        body={
            "idempotency_key": key,
            "source_loss_event_id": source,
            "account": did,
            "amount_minor": str(amount_minor),
            "reason": "chargeback",
        },
        event_key=f"risk_hold:{key}:apply",
        amount_minor=amount_minor,
        legs=_moved((did, "A"), (did, "H"), amount_minor, amount_minor),
        event_at=("hold", "hold_transfer_event_id"),
        refusals=frozenset({"INSUFFICIENT_FUNDS", "SOURCE_LOSS_EVENT_ALREADY_BOUND"}),
    )


def release(key: str, source: str, applied: Order) -> Order:
    """Release what an accepted order holds for a loss event."""
    held = applied.answered()["hold"]
    did = held["account_ref"]
    return Order(
        path="/v1/risk/holds/release-by-source",
        key=key,
        body={"idempotency_key": key, "source_loss_event_id": source, "reason": "won"},
        event_key=f"risk_hold:{held['hold_id']}:release:{key}",
        amount_minor=applied.amount_minor,
        legs=_moved((did, "H"), (did, "A"), applied.amount_minor, -applied.amount_minor),
        event_at=("hold", "release_transfer_event_id"),
        refusals=frozenset({"IDEMPOTENCY_CONFLICT", "RISK_HOLD_RELEASE_FAILED"}),
    )


def _moved(
    source: Place, destination: Place, amount_minor: int, reserved_minor: int
) -> Sequence[Leg]:
    return [
        (source[0], _COLUMNS[source[1]], -amount_minor),
        (destination[0], _COLUMNS[destination[1]], amount_minor),
        (source[0], "reserved_minor", reserved_minor),
    ]
