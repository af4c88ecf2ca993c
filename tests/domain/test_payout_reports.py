"""What a daily report is asked for, how its texts are written, and what is hashed."""

import csv
import io
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import CallerError
from clawsettle.domain.payout_reports import (
    FIELDS,
    WIRE_WORDS,
    ReportCut,
    ReportFormat,
    Totals,
    csv_cell,
    csv_lines,
    hashed_frame,
    read_cut,
    read_format,
)
from clawsettle.domain.payouts import WIRE_STATUSES

DAY = date(2026, 2, 11)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2026-02-11", "3c80fa4a98e5f4ae1fc3e21ca9930f0f5874c41892a10c4f01f1e9b20c056cc9"),
        ("2026-02-01", "2409b826f4a6bbd74a7de2c8b1d6c3256ed83afee1abb6275f0157973b67c38a"),
    ],
)
def test_an_empty_day_has_the_published_hash(day: str, expected: str) -> None:
    before, after = hashed_frame(read_cut(day, None), Totals())
    assert sha256_hex(before + after) == expected


@pytest.mark.parametrize(
    "text", [None, "", "  ", "2026-2-11", "20260211", "2026-02-11x", "tomorrow"]
)
def test_a_date_is_ten_characters(text: str | None) -> None:
    _refused("date", text, None)


@pytest.mark.parametrize("text", ["2026-02-30", "2026-13-01", "2026-00-10", "0000-01-01"])
def test_a_date_is_one_that_the_calendar_has(text: str) -> None:
    _refused("date", text, None)


def test_a_date_in_other_digits_is_none() -> None:
    _refused("date", "2026-02-1\N{FULLWIDTH DIGIT ONE}", None)


@pytest.mark.parametrize(
    "text", ["2026-02-11", "2026-02-11T12:00:00", "now", "0001-01-01T00:00:00+23:00"]
)
def test_a_cut_is_an_instant_with_its_zone(text: str) -> None:
    _refused("as_of", "2026-02-11", text)


def test_a_cut_is_kept_in_utc_to_the_millisecond() -> None:
    cut = read_cut(" 2026-02-11 ", "2026-02-12T01:00:00.123999+01:00")
    assert cut == ReportCut(DAY, datetime(2026, 2, 12, 0, 0, 0, 123000, tzinfo=UTC))


def test_a_day_ends_where_the_next_one_begins() -> None:
    cut = read_cut("9999-12-31", " ")
    assert cut.first == datetime(9999, 12, 31, tzinfo=UTC)
    assert cut.last == datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def test_a_format_is_a_word_in_any_case() -> None:
    assert [read_format(text) for text in (None, "", " json ", "CSV")] == [
        ReportFormat.JSON,
        ReportFormat.JSON,
        ReportFormat.JSON,
        ReportFormat.CSV,
    ]
    with pytest.raises(CallerError) as refused:
        read_format("xml")
    assert refused.value.details == {"field": "format"}


def test_every_stored_status_has_one_of_the_six_words() -> None:
    assert set(WIRE_WORDS.values()) == {str(status) for status in WIRE_STATUSES}


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("acc_1", "acc_1"),
        ("did:key:a-b", "did:key:a-b"),
        ("a,b", '"a,b"'),
        ('a"b', '"a""b"'),
        ("a\nb", '"a\nb"'),
        ("a\rb", '"a\rb"'),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "-1"),
        ("-300", "-300"),
        ("-", "'-"),
        ("-0", "'-0"),
        ("-01", "'-01"),
        ("-1+1", "'-1+1"),
        ("-1\n", '"\'-1\n"'),
        ("-\N{FULLWIDTH DIGIT ONE}", "'-\N{FULLWIDTH DIGIT ONE}"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\rx", '"\'\rx"'),
        ('=a,"b"', '"\'=a,""b"""'),
        ("", ""),
        ("ä😀", "ä😀"),
    ],
)
def test_a_cell_is_quoted_where_it_must_be_and_computes_nothing(text: str, cell: str) -> None:
    assert csv_cell(text) == cell
    assert csv_lines([["x", text, "y"], [text]]) == f"x,{cell},y\n{cell}"


_CELLS = st.lists(
    st.text(alphabet=st.sampled_from("ab1,\"\n\r=+-@\t'ä:"), max_size=6), min_size=2, max_size=4
)


@given(st.lists(_CELLS, min_size=1, max_size=4))
@example([["-", ""]])
def test_a_page_is_written_as_its_cells_are(rows: list[list[str]]) -> None:
    expected = "\n".join(",".join(map(csv_cell, row)) for row in rows)
    assert csv_lines(rows) == expected


@given(st.lists(_CELLS.map(lambda row: [*row, "end"]), min_size=1, max_size=4))
def test_what_is_written_is_read_back(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(csv_lines(rows), newline="")))
    assert [[cell.removeprefix("'") for cell in row] for row in read] == [
        [cell.removeprefix("'") for cell in row] for row in rows
    ]


def test_an_absent_cell_is_empty() -> None:
    assert csv_lines([["a", None, "b"], [None, None, None]]) == "a,,b\n,,"


def test_totals_are_digits_by_status() -> None:
    totals = Totals()
    totals.add([{"status": "paid", "amount_minor": "1500"}])
    totals.add(
        [{"status": "failed", "amount_minor": "600"}, {"status": "paid", "amount_minor": "1"}]
    )
    assert totals.view() == {
        "payout_count": 3,
        "amount_minor_total": "2101",
        "amount_minor_by_status": {"failed": "600", "paid": "1501"},
    }


def test_the_columns_are_the_contracts() -> None:
    assert ",".join(FIELDS) == (
        "payout_id,account_id,external_payout_id,amount_minor,currency,status,created_at,"
        "submitted_at,finalized_at,failed_at,lock_event_id,finalize_event_id,rollback_event_id"
    )


def _refused(field: str, day: str | None, as_of: str | None) -> None:
    with pytest.raises(CallerError) as refused:
        read_cut(day, as_of)
    assert (refused.value.code, refused.value.details) == ("INVALID_REQUEST", {"field": field})
