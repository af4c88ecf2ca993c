"""Instants on the wire: UTC, milliseconds, ``Z``; what cannot be one is absent, never wrong."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.instants import iso_from_unix, iso_instant, parse_instant, to_millisecond

YEAR_9999_END_S = 253_402_300_799

zones = st.integers(min_value=-23 * 60, max_value=23 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
instants = st.datetimes(
    min_value=datetime(1001, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=zones,
)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2025, 2, 11, 16, 6, 40, tzinfo=UTC), "2025-02-11T16:06:40.000Z"),
        (datetime(2025, 2, 11, 16, 6, 40, 7_999, tzinfo=UTC), "2025-02-11T16:06:40.007Z"),
        (datetime(2025, 2, 11, 16, 6, 40, 999_999, tzinfo=UTC), "2025-02-11T16:06:40.999Z"),
        (
            datetime(2025, 2, 11, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2025-02-10T20:00:00.000Z",
        ),
    ],
)
def test_an_instant_is_rendered_in_utc_and_cut_to_the_millisecond(
    at: datetime, expected: str
) -> None:
    assert iso_instant(at) == expected


@given(instants)
@settings(deadline=None)
def test_a_rendered_instant_reads_back_as_its_millisecond(at: datetime) -> None:
    assert parse_instant(iso_instant(at)) == to_millisecond(at)


@given(instants, instants)
@settings(deadline=None)
def test_texts_sort_as_their_instants_do(one: datetime, other: datetime) -> None:
    by_text = iso_instant(one) < iso_instant(other)
    assert by_text == (to_millisecond(one) < to_millisecond(other))


@given(instants)
@settings(deadline=None)
def test_cutting_to_the_millisecond_never_moves_forward_and_is_idempotent(at: datetime) -> None:
    cut = to_millisecond(at)
    assert timedelta(0) <= at - cut < timedelta(milliseconds=1)
    assert to_millisecond(cut) == cut


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "yesterday",
        "2025-02-11",
        "2025-02-11T16:06:40",
        "2025-02-30T00:00:00Z",
        "2025-02-11T25:00:00Z",
        "1739290000",
        "2025-02-11T16:06:40.000Z trailing",
        "\ud800",
    ],
)
def test_what_names_no_instant_is_absent(text: str | None) -> None:
    assert parse_instant(text) is None


def test_an_offset_is_understood() -> None:
    assert parse_instant("2025-02-11T18:06:40+02:00") == datetime(
        2025, 2, 11, 16, 6, 40, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1739290000, "2025-02-11T16:06:40.000Z"),
        (1739290000.999, "2025-02-11T16:06:40.000Z"),
        (1, "1970-01-01T00:00:01.000Z"),
        (0.5, "1970-01-01T00:00:00.000Z"),
        (YEAR_9999_END_S, "9999-12-31T23:59:59.000Z"),
        (YEAR_9999_END_S + 1, None),
        (8.64e12 + 1, None),
        (10**400, None),
        (0, None),
        (-1, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (True, None),
        (None, None),
        ("1739290000", None),
        ([1739290000], None),
    ],
)
def test_unix_seconds_are_floored_and_absent_when_they_name_no_instant(
    value: object, expected: str | None
) -> None:
    assert iso_from_unix(value) == expected


@given(st.floats() | st.integers() | st.booleans() | st.none() | st.text())
@settings(deadline=None)
def test_no_json_value_breaks_the_conversion(value: object) -> None:
    text = iso_from_unix(value)
    assert text is None or parse_instant(text) is not None
