"""An export proves its book alone, and whatever is changed in it is named by its line."""

import gzip
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import trio
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.errors import ConfigError, StorageError
from clawsettle.domain.journal import Event
from clawsettle.domain.ledger import Command
from clawsettle.domain.proof import BookItem, Proof, Unreadable
from clawsettle.storage.ledger_export import ExportWriter, Journal, check_export, open_export
from tests.conftest import Postgres
from tests.storage.whole_book import (
    ALICE,
    HISTORY,
    METADATA,
    held,
    read_book,
    released,
    write_history,
)

# An account, money, and a hold that was released: a line of each kind in a few thousand bytes.
SMALL = (
    HISTORY[0],
    HISTORY[4],
    held("h1", ALICE, 60, {"é": METADATA["note"]}),
    released("r1", "loss_h1"),
)


def write_book(items: Sequence[Journal | BookItem]) -> bytes:
    stream = BytesIO()
    writer = ExportWriter(stream)
    writer.write(items)
    return stream.getvalue()


def prove(export: bytes) -> Proof:
    proof = Proof()
    check_export(BytesIO(export), proof, lambda: None)
    return proof


FULL = Path("/dev/full")
JOURNAL = Journal(1, "USD", datetime(2026, 2, 11, tzinfo=UTC))


def _export(postgres: Postgres, history: Sequence[Command]) -> tuple[bytes, list[BookItem], Proof]:
    url = postgres.server.dsn_of(postgres.create_database("migrated"))
    trio.run(write_history, url, history)
    items = trio.run(read_book, url)
    proof = Proof()
    proof.take(items)
    proof.finish()
    return write_book([JOURNAL, *items]), items, proof


@pytest.fixture(scope="module")
def whole(postgres: Postgres) -> tuple[bytes, list[BookItem], Proof]:
    return _export(postgres, HISTORY)


@pytest.fixture(scope="module")
def small(postgres: Postgres) -> bytes:
    return _export(postgres, SMALL)[0]


def first_other_line(export: bytes, changed: bytes) -> int:
    """The number of the first line that is not what it was."""
    lines = zip_longest(export.splitlines(keepends=True), changed.splitlines(keepends=True))
    return next(number for number, (one, other) in enumerate(lines, 1) if one != other)


def assert_named(export: bytes, changed: bytes) -> None:
    proof = prove(changed)
    number = first_other_line(export, changed)
    assert proof.error_count
    assert proof.errors[0].startswith((f"line {number}: ", f"line {number} (")), proof.errors


def test_an_export_proves_what_its_database_proves(
    whole: tuple[bytes, list[BookItem], Proof],
) -> None:
    export, items, of_database = whole
    assert of_database.errors == []
    assert prove(export) == of_database
    assert len({type(item) for item in items}) == 5
    assert len({item.event_type for item in items if isinstance(item, Event)}) == 8


def test_any_byte_that_is_changed_is_named_by_its_line(small: bytes) -> None:
    assert prove(small).errors == []
    assert 3000 < len(small) < 9000
    for position, byte in enumerate(small):
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, *b'0"\n '} - {byte}:
            changed = bytearray(small)
            changed[position] = other
            assert_named(small, bytes(changed))


def test_any_byte_that_is_gone_or_doubled_is_named_by_its_line(small: bytes) -> None:
    for position in range(len(small)):
        assert_named(small, small[:position] + small[position + 1 :])
        doubled = small[: position + 1] + small[position:]
        assert_named(small, doubled)


def test_wherever_it_is_cut_off_the_line_is_named(small: bytes) -> None:
    for length in range(1, len(small)):
        assert_named(small, small[:length])


@given(
    st.data(),
    st.sampled_from(["remove", "insert", "overwrite", "swap", "repeat", "drop", "cut"]),
)
@settings(deadline=None, max_examples=600)
def test_whatever_is_done_to_an_export_is_named_by_its_line(
    whole: tuple[bytes, list[BookItem], Proof], data: st.DataObject, done: str
) -> None:
    export = whole[0]
    lines = export.splitlines(keepends=True)
    start = data.draw(st.integers(0, len(export) - 1))
    end = data.draw(st.integers(start, min(start + 300, len(export))))
    one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match done:
        case "remove":
            changed = export[:start] + export[end:]
        case "insert":
            changed = export[:start] + data.draw(st.binary(max_size=50)) + export[start:]
        case "overwrite":
            found = data.draw(st.binary(max_size=50))
            changed = export[:start] + found + export[start + len(found) :]
        case "swap":
            lines[one], lines[other] = lines[other], lines[one]
            changed = b"".join(lines)
        case "repeat":
            changed = b"".join([*lines[:one], lines[other], *lines[one:]])
        case "drop":
            changed = b"".join(lines[:one] + lines[one + 1 :])
        case _:
            changed = export[:start]
    if changed == export:
        assert not prove(changed).error_count
    elif changed:
        assert_named(export, changed)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "line 1: is not the beginning of an export"),
        (b"\n", "line 1: is not the beginning of an export"),
        (gzip.compress(b"{}" * 1000), "line 1: is not the beginning of an export"),
        (b'{"record":"journal"}\n', "line 1: is not the beginning of an export"),
        (b'{"record":["journal"]}\n', "line 1: is not the beginning of an export"),
        (b"\xff\xfe{\n", "line 1: is not the beginning of an export"),
        (b"[" * 100_000, "line 1: is not the beginning of an export"),
        (write_book([evolve(JOURNAL, format=2)]), "line 1: is of format 2"),
        (write_book([JOURNAL]), "line 2 (tail): is missing"),
    ],
)
def test_what_is_no_export_is_one_clear_error(content: bytes, named: str) -> None:
    (error,) = prove(content).errors
    assert error.startswith(named)


def test_what_is_chained_anew_is_judged_by_its_meaning(
    whole: tuple[bytes, list[BookItem], Proof],
) -> None:
    _, items, _ = whole
    tail, *holds = items[-1], items[-3], items[-2]
    first_account = next(n for n, item in enumerate(items) if not isinstance(item, Event))

    def errors(*others: Journal | BookItem) -> list[str]:
        return prove(write_book([JOURNAL, *others])).errors

    last = len(items) + 1
    assert errors(*items, tail)[0] == f"line {last + 1} (tail): stands where none may stand"
    assert errors(*items, holds[0])[0].startswith(f"line {last + 1} (hold rsk_")
    assert errors(JOURNAL, *items)[0] == "line 2 (journal): stands where none may stand"
    early = errors(*items[:4], *items[first_account:], *items[4:first_account])
    assert "line 6 (account acc_32ca986a): available is " in early[0]
    twice = errors(*items[: first_account + 1], *items[first_account:])
    assert twice == [f"line {first_account + 3} (account acc_32ca986a): is there twice"]
    late = errors(*items[:first_account], *items[first_account + 1 :], items[first_account])
    assert late[0].startswith(f"line {last} (account acc_32ca986a): stands where")
    event = items[8]
    assert isinstance(event, Event)
    forged = errors(*items[:8], evolve(event, amount_minor=1), *items[9:])
    assert forged[0] == "line 10 (event 9): its content does not match its hash"


@pytest.mark.parametrize(
    ("written", "another_way"),
    [
        (b'"amount_minor":10000,', b'"amount_minor":1e4,'),
        (b'"amount_minor":10000,', b'"amount_minor":"10000",'),
        (b'"seq":1,', b'"seq":true,'),
        (b'"seq":1,', b'"seq":1,"note":"x",'),
        (b'"seq":1,', b'"seq":2,"seq":1,'),
        (b'"request_hash":null,', b'"request_hash":"",'),
        (b'{"account_id"', b'{ "account_id"'),
        (b"\xc3\xbc", b"\\u00fc"),
        (b'.000Z"', b'.000000Z"'),
        (b'.000Z"', b'.000+00:00"'),
        (b'.000Z"', b'.000"'),
    ],
)
def test_a_record_has_one_way_to_be_written(
    whole: tuple[bytes, list[BookItem], Proof], written: bytes, another_way: bytes
) -> None:
    event = whole[1][0]
    assert isinstance(event, Event)
    export = write_book([JOURNAL, evolve(event, created_at=JOURNAL.exported_at)])
    first, second = export.splitlines(keepends=True)
    assert written in second
    changed = first + second.replace(written, another_way, 1)
    assert prove(changed).errors[0].startswith("line 2 (event 1): is not what its record")


def test_a_file_appears_when_it_is_complete_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "books.jsonl"
    with open_export(file, replace=False) as writer:
        writer.begin("USD")
        assert not file.exists()
    assert file.stat().st_mode & 0o777 == 0o600
    written = file.read_bytes()
    with pytest.raises(ConfigError, match="--force"), open_export(file, replace=False):
        raise AssertionError("not reached")
    with pytest.raises(StorageError, match="event 7: cannot"), open_export(file, replace=True) as w:
        w.write([Unreadable("event 7", "cannot be read")])
    assert file.read_bytes() == written
    with open_export(file, replace=True) as writer:
        writer.begin("EUR")
    assert b"EUR" in file.read_bytes()
    assert list(tmp_path.iterdir()) == [file]
    lost = tmp_path / "absent" / "x"
    with pytest.raises(ConfigError, match="cannot be written"), open_export(lost, replace=False):
        raise AssertionError("not reached")


@pytest.mark.skipif(not FULL.exists(), reason="the system has no disk that is always full")
def test_a_full_disk_is_a_clear_error() -> None:
    with (
        FULL.open("r+b", buffering=0) as full,
        pytest.raises(StorageError, match="cannot be written: No space left"),
    ):
        ExportWriter(cast("BinaryIO", full)).begin("USD")
