"""Fields of a request body: what is taken, what is made of it, and what is refused."""

from collections.abc import Callable
from enum import StrEnum
from math import inf, nan

import pytest

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import CallerError
from clawsettle.domain.fields import (
    DEPTH_MAX,
    TEXT_MAX,
    amount,
    body_object,
    one_of,
    optional_object,
    optional_text,
    refuse_unstorable,
    required_text,
)

ABSENT: dict[str, object] = {}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def field(value: object) -> dict[str, object]:
    return {"field": value}


def is_refused(read: Callable[[dict[str, object], str], object], body: dict[str, object]) -> bool:
    with pytest.raises(CallerError) as caught:
        read(body, "field")
    assert "field" in caught.value.message
    return caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize("body", [None, [], "x", 1, True])
def test_a_body_is_an_object(body: object) -> None:
    assert body_object({"a": 1}) == {"a": 1}
    with pytest.raises(CallerError):
        body_object(body)


@pytest.mark.parametrize("value", [None, "", " \t", 7, True, ["x"], {}, "x" * (TEXT_MAX + 1)])
def test_a_required_text_is_there_and_bounded(value: object) -> None:
    assert is_refused(required_text, field(value))
    assert is_refused(required_text, ABSENT)


def test_a_text_is_trimmed_before_it_is_measured() -> None:
    longest = "x" * TEXT_MAX
    assert required_text(field(f"  {longest}\n"), "field") == longest
    assert optional_text(field(f"  {longest}\n"), "field") == longest
    assert required_text(field("abc"), "field", 3) == "abc"


@pytest.mark.parametrize("value", [None, "", "  ", 7, True, [], {}])
def test_an_optional_text_that_is_blank_or_none_is_absent(value: object) -> None:
    assert optional_text(field(value), "field") is None
    assert optional_text(ABSENT, "field") is None


def test_an_optional_text_is_bounded_too() -> None:
    assert is_refused(optional_text, field("x" * (TEXT_MAX + 1)))


@pytest.mark.parametrize("value", [None, "RED", " red", "green", "", 7, ["red"], {}])
def test_a_word_is_matched_exactly(value: object) -> None:
    assert one_of(field("red"), "field", Colour) is Colour.RED
    assert is_refused(lambda body, name: one_of(body, name, Colour), field(value))


@pytest.mark.parametrize(
    ("text", "minor"),
    [("1", 1), (" 30 ", 30), ("007", 7), ("9223372036854775807", 2**63 - 1)],
)
def test_an_amount_is_a_digit_string(text: str, minor: int) -> None:
    assert amount(field(text), "field") == minor


@pytest.mark.parametrize(
    "value",
    [
        None, 30, 30.0, True, "", " ", "0", "000", "-1", "+1", "1.0", "1e2", "1_0", "0x1", "1 0",
        "٣", "9223372036854775808", "9" * 65, ["1"],
    ],
)  # fmt: skip
def test_anything_else_is_no_amount(value: object) -> None:
    assert is_refused(amount, field(value))
    assert is_refused(amount, ABSENT)


@pytest.mark.parametrize("value", [None, [], "x", 7, False])
def test_an_optional_object_may_be_absent_but_not_null(value: object) -> None:
    assert optional_object(ABSENT, "field") is None
    assert optional_object(field({}), "field") == {}
    assert is_refused(optional_object, field(value))


def nested(depth: int) -> object:
    value: object = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"größe": "🦀 \x01 \\u0000 NaN Infinity"},
        {"a": [1, 2.5, None, True, {"b": {}}]},
        {"a": "[" * 500},
        nested(DEPTH_MAX),
        [nested(1)] * 500,
    ],
)
def test_what_postgresql_keeps_is_taken(value: object) -> None:
    refuse_unstorable(value, compact_json(value))


@pytest.mark.parametrize(
    "value",
    [
        {"a": "x\0"},
        {"\0": 1},
        {"a": [{"b": "\ud800"}]},
        {"\udfff": 1},
        {"a": nan},
        {"a": [inf]},
        {"a": -inf},
        nested(DEPTH_MAX + 1),
    ],
)
def test_what_postgresql_does_not_keep_is_refused(value: object) -> None:
    with pytest.raises(CallerError):
        refuse_unstorable(value, compact_json(value))
