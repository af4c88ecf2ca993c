"""Numbers, strings and keys as JavaScript prints them, and dates as it reads them."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.instants import iso_instant, to_millisecond
from clawsettle.domain.javascript import canonical_js, parse_js_date

ASCII_ORDER = (
    "\t\n\v\f\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
    "aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ"
)
YEAR_1000 = datetime(1000, 1, 1)  # noqa: DTZ001 - Hypothesis wants its bounds without a zone
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A surrogate alone is no character.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda some: st.lists(some) | st.dictionaries(st.text("aAbB_-é1 "), some),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (100, "100"),
        (0.1, "0.1"),
        (123456.789, "123456.789"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (123456789012345680000, "123456789012345680000"),
        (1e21, "1e+21"),
        (-1.25e30, "-1.25e+30"),
        (5e-324, "5e-324"),
        (2**53 + 1, "9007199254740992"),
        (2**63 - 1, "9223372036854776000"),
    ],
)
def test_a_number_is_printed_as_the_double_that_it_is(value: float, printed: str) -> None:
    assert canonical_js(value) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("é日😀", '"é日😀"'),
        ('\b\f\n\r\t"\\/', '"\\b\\f\\n\\r\\t\\"\\\\/"'),
        ("\x01\x1f\x7f\u2028", '"\\u0001\\u001f\x7f\u2028"'),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ([], "[]"),
        ({}, "{}"),
        ([1, [None, "a"]], '[1,[null,"a"]]'),
        ((1, 2), "[1,2]"),
        (
            {"b": {"d": 1, "c": 2}, "a": [{"z": 0, "y": 0}]},
            '{"a":[{"y":0,"z":0}],"b":{"c":2,"d":1}}',
        ),
    ],
)
def test_the_rest_is_printed_as_json_stringify_does(value: object, printed: str) -> None:
    assert canonical_js(value) == printed


@pytest.mark.parametrize(
    "keys",
    [
        list(ASCII_ORDER),
        ["", "_a", "-a", "1", "a", "A", "a b", "a_", "a-", "a1", "ab", "aB", "Ab", "b", "B", "z"],
        ["a\x01b", "ab", "a\x02c"],
        ["a10z", "a2", "A2"],
        ["z", "é", "日"],
    ],
)
def test_keys_are_in_the_order_of_a_locale(keys: list[str]) -> None:
    printed = canonical_js(dict.fromkeys(reversed(keys), 0))
    assert list(json.loads(printed)) == keys


@given(JSON)
def test_what_is_printed_means_what_was_given(value: object) -> None:
    def as_double(given: object) -> object:
        if isinstance(given, dict):
            return {name: as_double(item) for name, item in given.items()}
        if isinstance(given, list):
            return [as_double(item) for item in given]
        return float(given) if isinstance(given, int) and not isinstance(given, bool) else given

    assert as_double(json.loads(canonical_js(value))) == as_double(value)


@given(st.dictionaries(st.text("aAbB_-1 \x01"), st.integers(0, 9)))
def test_the_order_of_the_keys_given_changes_nothing(value: dict[str, int]) -> None:
    assert canonical_js(dict(reversed(value.items()))) == canonical_js(value)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026", "2026-01-01T00:00:00.000Z"),
        ("2026-02", "2026-02-01T00:00:00.000Z"),
        ("2026-02-12", "2026-02-12T00:00:00.000Z"),
        ("2026-02-30", "2026-03-02T00:00:00.000Z"),
        ("2024-02-30", "2024-03-01T00:00:00.000Z"),
        ("+002026-02-12", "2026-02-12T00:00:00.000Z"),
        ("0099-12-31", "0099-12-31T00:00:00.000Z"),
        ("2026-02-12T10:00", "2026-02-12T10:00:00.000Z"),
        ("2026-02-12T10:00:00", "2026-02-12T10:00:00.000Z"),
        ("2026-02-12t10:00:00z", "2026-02-12T10:00:00.000Z"),
        ("2026-02-12T10:00:00.5Z", "2026-02-12T10:00:00.500Z"),
        ("2026-02-12T10:00:00.123999999Z", "2026-02-12T10:00:00.123Z"),
        ("2026-02-12T10:00:00+01:30", "2026-02-12T08:30:00.000Z"),
        ("2026-02-12T10:00:00-0500", "2026-02-12T15:00:00.000Z"),
        ("2026-02-12T24:00", "2026-02-13T00:00:00.000Z"),
        ("2026-02-12 10:00:00", "2026-02-12T10:00:00.000Z"),
        ("2026-02-12 10:00:00.123456+01:00", "2026-02-12T09:00:00.123Z"),
        ("2026-2-5", "2026-02-05T00:00:00.000Z"),
        ("2026/02/12", "2026-02-12T00:00:00.000Z"),
        ("02/12/2026 10:00", "2026-02-12T10:00:00.000Z"),
        ("2/30/2026", "2026-03-02T00:00:00.000Z"),
        ("Feb 12, 2026", "2026-02-12T00:00:00.000Z"),
        ("february 12 2026, 12:30 AM", "2026-02-12T00:30:00.000Z"),
        ("Feb 12, 2026 10:00 PM GMT", "2026-02-12T22:00:00.000Z"),
        ("12 Feb 2026 10:00:00 GMT", "2026-02-12T10:00:00.000Z"),
        ("12-Feb-2026", "2026-02-12T00:00:00.000Z"),
        ("Thu, 12 Feb 2026 00:00:00 GMT", "2026-02-12T00:00:00.000Z"),
        ("Thu Feb 12 2026 00:00:00 GMT+0100 (CET)", "2026-02-11T23:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_date_is_read_in_utc_and_cut_to_the_millisecond(text: str, instant: str) -> None:
    at = parse_js_date(text)
    assert at is not None
    assert iso_instant(at) == instant
    assert at.microsecond % 1000 == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "1707696000",
        "1707696000000",
        "20260212",
        "2026-13-01",
        "2026-00-01",
        "2026-01-00",
        "2026-01-32",
        "13/01/2026",
        "2026-02-12T1:00",
        "2026-02-12T10",
        "2026-02-12T10:00:0Z",
        "2026-02-12T10:00:00,5Z",
        "2026-02-12T10:00:00.Z",
        "2026-02-12T10:00:00+01",
        "2026-02-12T10:00:00+24:00",
        "2026-02-12T10:60Z",
        "2026-02-12T10:00:60Z",
        "2026-02-12T24:00:01Z",
        "2026-02-12T25:00Z",
        "2026-02-12T10:00Z[UTC]",
        "2026-02-12 10:00PM",
        "2026-02-12 13:00 PM",
        "Feb 12",
        "Foo 12, 2026",
        "12 Feb 2026 +0100",
        "٢٠٢٦-٠٢-١٢",
        "0000-01-01",
        "0001-01-01T00:00+00:01",
        "9999-12-31T24:00",
        "+010000-01-01",
        "-000001-01-01",
    ],
)
def test_what_is_no_date_or_in_no_year_there_is_is_none(text: str) -> None:
    assert parse_js_date(text) is None


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_js_date(text)


@given(
    st.datetimes(YEAR_1000, timezones=st.just(UTC)),
    st.sampled_from(
        ["%Y-%m-%dT%H:%M:%S.{:03}Z", "%Y-%m-%d %H:%M:%S.{:03}", "%d %b %Y %X.{:03} GMT"]
    ),
)
def test_what_is_written_in_a_taken_form_is_read_as_it_was(at: datetime, form: str) -> None:
    at = to_millisecond(at)
    assert parse_js_date(at.strftime(form.format(at.microsecond // 1000))) == at
