"""Amounts and currencies are read exactly, or not at all."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.money import (
    MINOR_MAX,
    balance_from_digits,
    currency_code,
    minor_from_digits,
    minor_from_json,
)

amounts = st.integers(min_value=1, max_value=MINOR_MAX)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("2500", 2500),
        ("0001000", 1000),
        ("0" * 62 + "12", 12),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("18446744073709551616", None),
        ("0", None),
        ("000", None),
        ("", None),
        (" 1", None),
        ("1 ", None),
        ("1\n", None),
        ("\n1", None),
        ("+1", None),
        ("-1", None),
        ("1.0", None),
        ("1e2", None),
        ("1_000", None),
        ("1,000", None),
        ("0x10", None),
        ("\u0661\u0662", None),  # Arabic-Indic one, two
        ("\uff11", None),  # full-width one
        ("1\u00b2", None),  # superscript two
        ("1\0", None),
        ("0" * 64 + "1", None),
        ("9" * 100_000, None),
    ],
)
def test_only_ascii_digits_of_a_bounded_amount_are_read(text: str, expected: int | None) -> None:
    assert minor_from_digits(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("000", 0),
        ("2500", 2500),
        (str(MINOR_MAX), MINOR_MAX),
        (str(MINOR_MAX + 1), None),
        ("", None),
        ("-1", None),
        ("1.0", None),
        (" 1", None),
        ("\u0661", None),
        ("9" * 100_000, None),
    ],
)
def test_a_balance_may_be_nothing_too(text: str, expected: int | None) -> None:
    assert balance_from_digits(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (2**53 + 1, 2**53 + 1),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (10**40, None),
        (0, None),
        (-1, None),
        (100.0, 100),
        (2.5e3, 2500),
        (float(2**53 - 1), 2**53 - 1),
        (float(2**53), None),
        (12345678901234567890.0, None),
        (1e21, None),
        (0.0, None),
        (-0.0, None),
        (-5.0, None),
        (99.5, None),
        (0.1 + 0.2, None),
        (math.inf, None),
        (-math.inf, None),
        (math.nan, None),
        (True, None),
        (False, None),
        (None, None),
        ("2500", 2500),
        ("007", 7),
        ("9223372036854775808", None),
        (" 2500", None),
        ("2500\n", None),
        ([1], None),
        ({"amount": 1}, None),
    ],
)
def test_a_json_amount_is_whole_and_exact_or_refused(value: object, expected: int | None) -> None:
    read = minor_from_json(value)
    assert read == expected
    assert type(read) in (int, type(None))


@given(amounts, st.integers(min_value=0, max_value=20))
@settings(deadline=None)
def test_every_amount_survives_its_text_with_any_leading_zeros(minor: int, zeros: int) -> None:
    assert minor_from_digits("0" * zeros + str(minor)) == minor
    assert minor_from_json("0" * zeros + str(minor)) == minor
    assert minor_from_json(minor) == minor


@given(st.floats(allow_nan=True, allow_infinity=True))
@settings(deadline=None)
def test_a_float_is_read_only_when_nothing_was_rounded(value: float) -> None:
    read = minor_from_json(value)
    if read is None:
        assert not (0 < value < 2**53 and value.is_integer())
    else:
        assert float(read) == value
        assert read < 2**53


@given(st.text() | st.text(alphabet="0019 \n+-.e\u0663\uff11"))
@settings(deadline=None)
def test_no_text_is_read_as_money_unless_it_is_plain_digits(text: str) -> None:
    read = minor_from_digits(text)
    if read is not None:
        assert text.isascii()
        assert text.isdigit()
        assert int(text) == read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("usd", "USD"),
        ("USD", "USD"),
        (" uSd \n", "USD"),
        ("us", None),
        ("usdt", None),
        ("us1", None),
        ("u d", None),
        ("U\u0405D", None),  # Cyrillic look-alike
        ("u\u017fd", None),  # the long s upper-cases to an ASCII one
        ("u\u00df", None),  # the sharp s upper-cases to two
        ("", None),
        ("   ", None),
        (None, None),
        (840, None),
        (["USD"], None),
    ],
)
def test_a_currency_is_three_letters_after_trimming(value: object, expected: str | None) -> None:
    assert currency_code(value) == expected
