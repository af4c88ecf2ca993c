"""What an ingest request must look like: fields, their order, and what is the same request."""

import pytest

from clawsettle.domain.errors import CallerError
from clawsettle.domain.settlements import TRANSITIONS, Direction, Status, parse_ingest, parse_key
from tests.domain.ledger_cases import ABSENT, body, request

OPTIONAL = ("network", "rail", "provider_created_at", "provider_updated_at", "settled_at")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("k", "k"), ("  k 1\n", "k 1"), ("k" * 512, "k" * 512), (f" {'k' * 512} ", "k" * 512)],
)
def test_a_key_is_trimmed(value: str, expected: str) -> None:
    assert parse_key(value) == expected


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "MISSING_IDEMPOTENCY_KEY"),
        ("", "MISSING_IDEMPOTENCY_KEY"),
        (" \t\n", "MISSING_IDEMPOTENCY_KEY"),
        ("k" * 513, "INVALID_REQUEST"),
    ],
)
def test_a_key_that_is_blank_or_too_long_is_refused(value: str | None, code: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_key(value)
    assert caught.value.code == code


@pytest.mark.parametrize("document", [None, [], "x", 5, True, [{}]])
def test_a_body_that_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(CallerError) as caught:
        parse_ingest("k", document)
    assert caught.value.code == "INVALID_REQUEST"


BAD_TEXTS = [ABSENT, None, "", "  ", 7, [], {}, "x" * 256]
BAD: list[tuple[str, list[object]]] = [
    ("provider", BAD_TEXTS),
    ("external_payment_id", BAD_TEXTS),
    ("direction", [*BAD_TEXTS, "PAYIN", " payin", "transfer"]),
    ("status", [*BAD_TEXTS, "Confirmed", "confirmed ", "settled"]),
    ("account_id", BAD_TEXTS),
    (
        "amount_minor",
        [
            *(ABSENT, None, 1000, 1000.0, True, "", " ", "0", "000", "-1", "+1", "1.0", "1e3"),
            *("1 000", "\u0661", "9223372036854775808", "9" * 5000, ["1"]),
        ],
    ),
    ("currency", [ABSENT, None, "", "US", "USDT", "US1", 840, ["USD"]]),
    ("metadata", [None, [], "x", 5, True]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD for value in values]
)
def test_a_bad_field_is_refused_by_name_and_without_details(name: str, value: object) -> None:
    with pytest.raises(CallerError, match=f"^{name} ") as caught:
        request("k", **{name: value})
    assert caught.value.code == "INVALID_REQUEST"
    assert caught.value.details == {}


def test_fields_are_checked_in_the_contracts_order() -> None:
    fields: dict[str, object] = {name: None for name, _ in BAD}
    good = body(metadata={})
    for name, _ in BAD:
        with pytest.raises(CallerError, match=f"^{name} "):
            parse_ingest("k", fields)
        fields[name] = good[name]
    parse_ingest("k", fields)


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("value", [None, "", "  ", 5, [], {}, True])
def test_an_optional_field_that_is_no_text_counts_as_absent(name: str, value: object) -> None:
    assert request("k", **{name: value}) == request("k")


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_field_is_trimmed_and_not_looked_into(name: str) -> None:
    assert getattr(request("k", **{name: " not a date "}), name) == "not a date"
    with pytest.raises(CallerError, match=name):
        request("k", **{name: "x" * 256})


def test_unknown_fields_are_no_part_of_the_request() -> None:
    assert request("k", note="x") == request("k")


@pytest.mark.parametrize(
    "changed",
    [
        {"amount_minor": "0001000"},
        {"amount_minor": " 1000 "},
        {"currency": " usd "},
        {"provider": " stripe "},
        {"rail": None},
    ],
)
def test_other_spellings_are_the_same_request(changed: dict[str, object]) -> None:
    assert request("k", **changed) == request("k")


@pytest.mark.parametrize(
    "changed",
    [
        {"provider": "other"},
        {"external_payment_id": "pi_2"},
        {"direction": "payout"},
        {"status": "pending"},
        {"account_id": "acc_2"},
        {"amount_minor": "1001"},
        {"currency": "EUR"},
        {"metadata": {}},
        *({name: "x"} for name in OPTIONAL),
    ],
)
def test_each_field_makes_another_request(changed: dict[str, object]) -> None:
    assert request("k", **changed).request_hash != request("k").request_hash


def test_the_order_of_metadata_keys_does_not_matter_at_any_depth() -> None:
    one = request("k", metadata={"a": {"x": 1, "y": [2, {"p": 1, "q": 2}]}, "b": 2})
    other = request("k", metadata={"b": 2, "a": {"y": [2, {"q": 2, "p": 1}], "x": 1}})
    assert one.request_hash == other.request_hash


def test_the_key_is_no_part_of_the_hash() -> None:
    assert request("k1").request_hash == request("k2").request_hash


@pytest.mark.parametrize("direction", list(Direction))
def test_the_table_of_steps_is_total(direction: Direction) -> None:
    assert set(TRANSITIONS[direction]) == {None, *Status}
    assert set(TRANSITIONS[direction][None]) == set(Status), "a first request always has a step"
