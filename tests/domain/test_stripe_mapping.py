"""Which settlement each Stripe event stands for, and which field is named when there is none."""

from typing import Any

import pytest

from clawsettle.domain.stripe_events import (
    FORWARDED_TYPES,
    EventUnmappable,
    Mapped,
    RefundTotal,
    StripeEvent,
    map_event,
)

CREATED_S = 1739290000
CREATED_AT = "2025-02-11T16:06:40.000Z"
OBJECT_AT = "2025-02-11T15:06:40.000Z"
USD = frozenset({"USD"})
ABSENT = object()


def event(
    event_type: str = "payment_intent.succeeded", *, created: object = CREATED_S, **subject: object
) -> StripeEvent:
    """An event about an object that maps, with the given fields replaced or taken away."""
    fields: dict[str, object] = {
        "id": "obj_1",
        "amount": 2500,
        "currency": "usd",
        "created": CREATED_S - 3600,
        "metadata": {"account_id": "acc_1"},
    }
    fields |= subject
    present = {name: value for name, value in fields.items() if value is not ABSENT}
    return StripeEvent("evt_1", event_type, created, livemode=False, object=present)


def mapped(event_type: str = "payment_intent.succeeded", **fields: object) -> Mapped:
    result = map_event(event(event_type, **fields), currencies=USD)
    assert result is not None
    return result


def bad_field(event_type: str = "payment_intent.succeeded", **fields: object) -> object:
    with pytest.raises(EventUnmappable) as caught:
        map_event(event(event_type, **fields), currencies=USD)
    assert caught.value.code == "INVALID_EVENT_PAYLOAD"
    assert list(caught.value.details) == ["field"]
    return caught.value.details["field"]


@pytest.mark.parametrize(
    ("event_type", "direction", "status", "amount", "settled"),
    [
        ("payment_intent.succeeded", "payin", "confirmed", "2400", True),
        ("payment_intent.payment_failed", "payin", "failed", "2500", False),
        ("payment_intent.canceled", "payin", "failed", "2500", False),
        ("charge.refunded", "refund", "confirmed", "700", True),
        ("payout.paid", "payout", "confirmed", "2500", True),
        ("payout.failed", "payout", "failed", "2500", False),
    ],
)
def test_each_forwarded_type_has_its_settlement(
    event_type: str, direction: str, status: str, amount: str, settled: bool
) -> None:
    expected = {
        "provider": "stripe",
        "external_payment_id": "obj_1",
        "direction": direction,
        "status": status,
        "account_id": "acc_1",
        "amount_minor": amount,
        "currency": "USD",
        "network": "stripe",
        "rail": "card",
        "provider_created_at": OBJECT_AT,
        "provider_updated_at": CREATED_AT,
        **({"settled_at": CREATED_AT} if settled else {}),
        "metadata": {
            "stripe_event_id": "evt_1",
            "stripe_event_type": event_type,
            "stripe_object_id": "obj_1",
        },
    }
    payload = mapped(
        event_type, amount_received=2400, amount_refunded=700, payment_method_types=["card"]
    ).payload
    assert payload == expected
    assert list(payload) == list(expected)


def test_the_table_above_is_the_whole_table() -> None:
    assert set(FORWARDED_TYPES) == {
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "charge.refunded",
        "payout.paid",
        "payout.failed",
    }


@pytest.mark.parametrize(
    "event_type",
    [
        "charge.dispute.created",
        "charge.dispute.closed",
        "payout.created",
        "payment_intent.processing",
        "Payout.paid",
        "payout.paid ",
        "payout",
    ],
)
def test_every_other_type_is_ignored_however_broken_its_object_is(event_type: str) -> None:
    told = StripeEvent("evt_1", event_type, None, livemode=False, object={})
    assert map_event(told, currencies=USD) is None


@pytest.mark.parametrize(
    ("event_type", "first", "fallback_used"),
    [
        ("payment_intent.succeeded", "amount_received", True),
        ("charge.refunded", "amount_refunded", True),
        ("payment_intent.canceled", "amount_received", False),
        ("payout.paid", "amount_received", False),
    ],
)
def test_the_amount_falls_back_only_when_the_first_field_is_absent_or_null(
    event_type: str, first: str, fallback_used: bool
) -> None:
    assert mapped(event_type).payload["amount_minor"] == "2500"
    assert mapped(event_type, **{first: None}).payload["amount_minor"] == "2500"
    expected = "2000" if fallback_used else "2500"
    assert mapped(event_type, **{first: 2000}).payload["amount_minor"] == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (1, "1"),
        (100.0, "100"),
        ("0012", "12"),
        (2**53 + 1, "9007199254740993"),
        (2**63 - 1, "9223372036854775807"),
    ],
)
def test_amounts_become_canonical_decimal_text(amount: object, expected: str) -> None:
    assert mapped("payout.paid", amount=amount).payload["amount_minor"] == expected


BAD_AMOUNTS = [0, -1, 1.5, 1e21, 2**63, True, "", "12 ", "-3", "1e2", [], {}, "9" * 19]


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
@pytest.mark.parametrize(
    ("event_type", "first"),
    [
        ("payment_intent.succeeded", "amount_received"),
        ("payment_intent.payment_failed", "amount"),
        ("payment_intent.canceled", "amount"),
        ("charge.refunded", "amount_refunded"),
        ("payout.paid", "amount"),
        ("payout.failed", "amount"),
    ],
)
def test_a_present_but_bad_amount_is_never_replaced_by_another(
    event_type: str, first: str, amount: object
) -> None:
    assert bad_field(event_type, **{first: amount}) == f"data.object.{first}"


@pytest.mark.parametrize(
    ("event_type", "named"),
    [
        ("payment_intent.succeeded", "data.object.amount_received"),
        ("charge.refunded", "data.object.amount_refunded"),
        ("payout.failed", "data.object.amount"),
    ],
)
def test_an_event_without_any_amount_names_its_first_field(event_type: str, named: str) -> None:
    assert bad_field(event_type, amount=ABSENT) == named
    assert bad_field(event_type, amount="x") == named


@pytest.mark.parametrize(
    ("fields", "rail"),
    [
        ({"payment_method_types": ["card", "link"]}, "card"),
        ({"payment_method_types": [" us_bank_account "]}, "us_bank_account"),
        ({"payment_method_types": ["card"], "method": "instant"}, "card"),
        ({"method": "instant"}, "instant"),
        ({"payment_method_types": [], "method": "instant"}, "instant"),
        ({"payment_method_types": ["  ", "card"], "method": "instant"}, "instant"),
        ({"payment_method_types": [None, "card"]}, ABSENT),
        ({"payment_method_types": [7, "card"], "method": " "}, ABSENT),
        ({"payment_method_types": "card"}, ABSENT),
        ({"payment_method_types": {"0": "card"}, "method": 3}, ABSENT),
        ({}, ABSENT),
    ],
)
def test_the_rail_is_the_first_payment_method_type_or_the_method(
    fields: dict[str, Any], rail: object
) -> None:
    assert mapped(**fields).payload.get("rail", ABSENT) == rail


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (CREATED_S, CREATED_AT),
        (CREATED_S + 0.9, CREATED_AT),
        (253402300799, "9999-12-31T23:59:59.000Z"),
        (253402300800, ABSENT),
        (10**30, ABSENT),
        (0, ABSENT),
        (-5, ABSENT),
        (None, ABSENT),
        (str(CREATED_S), ABSENT),
        (True, ABSENT),
    ],
)
def test_instants_that_cannot_be_are_left_out_and_disturb_nothing(
    created: object, expected: object
) -> None:
    by_event = mapped(created=created).payload
    assert by_event.get("provider_updated_at", ABSENT) == expected
    assert by_event.get("settled_at", ABSENT) == expected
    assert by_event["provider_created_at"] == OBJECT_AT
    subject = {**event().object, "created": created}
    by_object = map_event(
        StripeEvent("evt_1", "payout.paid", CREATED_S, livemode=False, object=subject),
        currencies=USD,
    )
    assert by_object is not None
    assert by_object.payload.get("provider_created_at", ABSENT) == expected
    assert by_object.payload["settled_at"] == CREATED_AT


def test_texts_are_trimmed_and_the_currency_is_upper_cased() -> None:
    payload = mapped(id=" pi_1 ", currency=" uSd ", metadata={"account_id": " acc_9 "}).payload
    assert payload["external_payment_id"] == "pi_1"
    assert payload["currency"] == "USD"
    assert payload["account_id"] == "acc_9"


def test_only_our_own_metadata_is_passed_on() -> None:
    payload = mapped(metadata={"account_id": "acc_1", "stripe_event_id": "x", "more": 1}).payload
    assert payload["metadata"] == {
        "stripe_event_id": "evt_1",
        "stripe_event_type": "payment_intent.succeeded",
        "stripe_object_id": "obj_1",
    }


def test_faults_are_told_in_the_order_id_amount_currency_account() -> None:
    faults: list[tuple[str, str, object, object]] = [
        ("id", "data.object.id", " ", "pi_1"),
        ("amount_received", "data.object.amount_received", -1, 5),
        ("currency", "data.object.currency", "xxxx", "usd"),
        ("metadata", "data.object.metadata.account_id", {}, {"account_id": "acc_1"}),
    ]
    fields: dict[str, Any] = {name: bad for name, _, bad, _ in faults}
    for name, named, _, good in faults:
        assert bad_field(**fields) == named
        fields[name] = good
    assert mapped(**fields).payload["account_id"] == "acc_1"


@pytest.mark.parametrize("bad", [ABSENT, None, "", " \n", 7, ["pi_1"], "x" * 231])
def test_an_object_without_a_usable_id_is_refused(bad: object) -> None:
    assert bad_field(id=bad) == "data.object.id"


@pytest.mark.parametrize(
    "metadata",
    [
        ABSENT,
        None,
        "acc_1",
        ["acc_1"],
        {},
        {"account_id": None},
        {"account_id": ""},
        {"account_id": "  "},
        {"account_id": 7},
        {"account_id": "a" * 256},
    ],
)
def test_an_object_that_names_no_account_is_refused(metadata: object) -> None:
    assert bad_field(metadata=metadata) == "data.object.metadata.account_id"


@pytest.mark.parametrize("currency", [ABSENT, None, "", "us", "usdt", "us1", 840])
def test_a_currency_that_is_none_is_refused(currency: object) -> None:
    assert bad_field(currency=currency) == "data.object.currency"


def test_only_the_listed_currencies_are_taken() -> None:
    assert bad_field(currency="eur") == "data.object.currency"
    euro = map_event(event(currency="eur"), currencies={"EUR", "USD"})
    assert euro is not None
    assert euro.payload["currency"] == "EUR"
    with pytest.raises(EventUnmappable):
        map_event(event(), currencies=())


@pytest.mark.parametrize(
    ("intent", "kept"), [("pi_9", "pi_9"), (None, None), (ABSENT, None), ({"id": "pi_9"}, None)]
)
def test_a_refund_says_its_charge_its_payment_and_its_running_total(
    intent: object, kept: str | None
) -> None:
    told = mapped("charge.refunded", amount_refunded=700, payment_intent=intent)
    assert told.refund == RefundTotal("obj_1", kept, 700)
    assert told.payload.get("refund_of") == kept


@pytest.mark.parametrize("event_type", sorted(set(FORWARDED_TYPES) - {"charge.refunded"}))
def test_nothing_but_a_refund_is_cumulative(event_type: str) -> None:
    assert mapped(event_type, amount_refunded=700).refund is None


def test_a_refund_above_its_charge_is_refused_and_one_of_all_of_it_is_not() -> None:
    assert bad_field("charge.refunded", amount_refunded=2501) == "data.object.amount_refunded"
    whole = mapped("charge.refunded", amount_refunded=2500)
    assert whole.payload["amount_minor"] == "2500"
