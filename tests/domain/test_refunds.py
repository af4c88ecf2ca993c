"""Cumulative refunds of a charge become parts that add up, in whatever order they arrive."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.settlements import parse_ingest
from clawsettle.domain.stripe_events import (
    OBJECT_ID_MAX,
    Mapped,
    StripeEvent,
    map_event,
    refund_since,
)

totals = st.integers(min_value=1, max_value=MINOR_MAX)


def refunded(total_minor: int, *, event_id: str = "evt_1", charge_id: str = "ch_1") -> Mapped:
    """What ``charge.refunded`` says when this much of the charge is refunded in all."""
    subject = {
        "id": charge_id,
        "amount_refunded": total_minor,
        "currency": "usd",
        "metadata": {"account_id": "acc_1"},
    }
    told = StripeEvent(event_id, "charge.refunded", 1739290000, livemode=False, object=subject)
    mapped = map_event(told, currencies={"USD"})
    assert mapped is not None
    return mapped


def test_the_first_refund_keeps_the_charges_id() -> None:
    first = refunded(700)
    assert refund_since(first, recorded_minor=0) == first.payload


def test_a_later_refund_is_a_settlement_of_its_own_for_what_is_new() -> None:
    later = refunded(1000)
    assert refund_since(later, recorded_minor=700) == {
        **later.payload,
        "external_payment_id": "ch_1:1000",
        "amount_minor": "300",
    }


@pytest.mark.parametrize("recorded_minor", [1000, 1001, MINOR_MAX])
def test_a_total_that_is_recorded_already_adds_nothing(recorded_minor: int) -> None:
    assert refund_since(refunded(1000), recorded_minor=recorded_minor) is None


def test_the_id_of_any_part_fits_into_the_ledger() -> None:
    longest = refunded(MINOR_MAX, charge_id="c" * OBJECT_ID_MAX)
    payload = refund_since(longest, recorded_minor=1)
    assert payload is not None
    assert parse_ingest("k", payload).amount_minor == MINOR_MAX - 1


def test_an_event_that_is_no_refund_has_no_part() -> None:
    payload = {"direction": "payin", "amount_minor": "5"}
    assert refund_since(Mapped(payload, refund=None), recorded_minor=0) is None


@given(st.lists(totals, min_size=1, max_size=12).flatmap(st.permutations))
@settings(deadline=None)
def test_parts_add_up_to_the_largest_total_under_unique_ids(arrivals: list[int]) -> None:
    recorded_minor = 0
    parts: list[int] = []
    ids: list[object] = []
    for total_minor in [*arrivals, *arrivals]:
        payload = refund_since(refunded(total_minor), recorded_minor=recorded_minor)
        if payload is not None:
            parts.append(int(str(payload["amount_minor"])))
            ids.append(payload["external_payment_id"])
        recorded_minor = max(recorded_minor, total_minor)
        assert sum(parts) == recorded_minor
    assert min(parts) > 0
    assert sum(parts) == max(arrivals)
    assert len(set(ids)) == len(ids)


def test_every_order_of_three_refunds_takes_the_same_money() -> None:
    for arrivals in itertools.permutations((300, 700, 1000)):
        recorded_minor, taken_minor = 0, 0
        for total_minor in arrivals:
            payload = refund_since(refunded(total_minor), recorded_minor=recorded_minor)
            taken_minor += int(str(payload["amount_minor"])) if payload else 0
            recorded_minor = max(recorded_minor, total_minor)
        assert taken_minor == 1000
