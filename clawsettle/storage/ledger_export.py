"""The export of a book: a file that proves the book without its database.

JSON lines in UTF-8: the journal's name, then every record as ``LedgerReader.read_whole`` shows
them, the tail last. Each line ends in ``sha256``, over the ``sha256`` of the line before it (64
zeros before the first) and the line as it is without its own. A record has one way to be written:
keys sorted, no spaces, metadata as a text inside. So the one line that a changed byte is in no
longer is what its record and the line before it make of it. Source: new.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson
from attrs import define, frozen
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from clawsettle.domain.book import Reservation, RiskHold
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import ConfigError, StorageError
from clawsettle.domain.instants import iso_instant, to_millisecond
from clawsettle.domain.journal import GENESIS_HASH, Account, Event, Tail
from clawsettle.domain.proof import BookItem, Proof, Unreadable, record_name
from clawsettle.storage.kept_files import open_kept, unwritten
from clawsettle.storage.ledger_rows import read_metadata

FORMAT = 1
LINE_BYTES_MAX = 2**28
"""The longest line that is read at once: more than a body can be, twice escaped."""

_START = GENESIS_HASH.encode()
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_LINK = b',"sha256":"%b"}\n'
_LINK_BYTES = len(_LINK % _START)
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@frozen
class Journal:
    """The first line: of what the export is, and when it was made."""

    format: int
    currency: str
    exported_at: datetime


Item = Journal | Event | Account | Reservation | RiskHold | Tail

_KINDS: Mapping[str, type[Item]] = {
    "journal": Journal,
    "event": Event,
    "account": Account,
    "reservation": Reservation,
    "hold": RiskHold,
    "tail": Tail,
}
_WORDS = {kind: word for word, kind in _KINDS.items()}
_PLACES = {kind: place for place, kind in enumerate(_KINDS.values())}


@define
class ExportWriter:
    """Writes records as the lines of an export, each with its link to the one before."""

    stream: BinaryIO
    _link: bytes = _START

    def begin(self, currency: str) -> None:
        """Write the first line: the journal's currency, and now. Raises: as ``write``."""
        self.write([Journal(FORMAT, currency, to_millisecond(datetime.now(UTC)))])

    def write(self, items: Iterable[Journal | BookItem]) -> None:
        """Append the lines of these records.

        Raises: StorageError for what is no record, or when the file cannot be written.
        """
        for item in items:
            if isinstance(item, Unreadable):
                raise StorageError(f"{item.record}: {item.why}")
            line = _line(_render(item), self._link)
            self._link = _link_of(line)
            try:
                self.stream.write(line)
            except OSError as error:
                # As it is, the database's thread would take it for a broken connection.
                raise unwritten(error) from error


@contextmanager
def open_export(file: Path, *, replace: bool) -> Iterator[ExportWriter]:
    """Write an export that gets its name when it is complete and on disk, readable by its owner.

    Until then it has another name beside it, and whatever fails leaves an older file as it was.

    Raises: ConfigError when there is such a file and it is not to be replaced, or when its
    directory cannot be written; StorageError when the disk is full or the like.
    """
    if file.exists() and not replace:
        raise ConfigError([f"{file} exists already: name another one, or give --force"])
    with open_kept(file) as stream:
        yield ExportWriter(stream)


def check_export(stream: BinaryIO, proof: Proof, progress: Callable[[], None]) -> str | None:
    """Prove the book of an export, line by line, and return its currency; None when it is none.

    What does not hold is in ``proof.errors``, by line, the first first. ``progress`` is called
    after each line. Memory grows with accounts, reservations and the longest line only.

    Raises: OSError when the file cannot be read.
    """
    proof.line = 1
    first = stream.readline(LINE_BYTES_MAX)
    journal, record = _read(first)
    if not isinstance(journal, Journal):
        proof.fail("", "is not the beginning of an export: another file, or a compressed one?")
        return None
    if journal.format != FORMAT:
        proof.fail("", f"is of format {journal.format}, this program reads {FORMAT}")
        return None
    if first != _line(record, _START):
        proof.fail("journal", _CHANGED)
    link, place = _link_of(first), _PLACES[Journal]
    while line := stream.readline(LINE_BYTES_MAX):
        proof.line += 1
        place = _check_line(line, link, place, proof)
        link = _link_of(line)
        progress()
    if place == _PLACES[Tail]:
        proof.line = None
    else:
        proof.line += 1
    proof.finish()
    return journal.currency


_CHANGED = "is not what its record and the line before it make of it"


def _check_line(line: bytes, link: bytes, place: int, proof: Proof) -> int:
    """Check a line after the first, which follows one of the ``place``; return its own place."""
    item, record = _read(line)
    if item is None:
        proof.fail("", "is no line of an export")
        return place
    name = "journal" if isinstance(item, Journal) else record_name(item)
    if line != _line(record, link):
        proof.fail(name, _CHANGED)
        if line[:-_LINK_BYTES] != record[:-1]:
            return place  # it may be read in more than one way
    if isinstance(item, Journal) or place == _PLACES[Tail] or _PLACES[type(item)] < place:
        proof.fail(name, "stands where none may stand")
        return place
    proof.take([item])
    return _PLACES[type(item)]


def _read(line: bytes) -> tuple[Item | None, bytes]:
    """Return the record that a line is about, if there is one, and how that is rendered."""
    try:
        fields = orjson.loads(line)
        item: Item = _CONVERTER.structure(fields, _KINDS[fields["record"]])
        return item, _render(item)
    except _UNREADABLE:
        return None, b""


def _render(item: Item) -> bytes:
    fields = {"record": _WORDS[type(item)], **_CONVERTER.unstructure(item)}
    return orjson.dumps(fields, option=_OPTIONS)


def _line(record: bytes, link: bytes) -> bytes:
    """Return a rendered record as the line that follows the one whose ``sha256`` is ``link``."""
    return record[:-1] + _LINK % hashlib.sha256(link + record).hexdigest().encode()


def _link_of(line: bytes) -> bytes:
    return line[-len(_START) - 3 : -3]


def _instant(at: datetime) -> str:
    """Render an instant as it was hashed; one that no ledger wrote keeps its microseconds."""
    if at == to_millisecond(at):
        return iso_instant(at)
    return at.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _converter() -> Converter:
    converter = Converter(detailed_validation=False)
    converter.register_unstructure_hook(datetime, _instant)
    converter.register_structure_hook(datetime, lambda text, _kind: datetime.fromisoformat(text))
    as_text = override(
        rename="metadata_json",
        unstruct_hook=compact_json,
        struct_hook=lambda text, _kind: read_metadata(text),
    )
    converter.register_unstructure_hook(
        RiskHold, make_dict_unstructure_fn(RiskHold, converter, metadata=as_text)
    )
    converter.register_structure_hook(
        RiskHold, make_dict_structure_fn(RiskHold, converter, metadata=as_text)
    )
    return converter


_CONVERTER = _converter()
