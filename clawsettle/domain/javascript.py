"""Values as JavaScript prints and reads them, where hashes and callers depend on it.

Loss-event hashes are taken over what ``JSON.stringify`` prints once ``localeCompare`` has sorted
the keys, and their instants are what ``Date.parse`` reads.
Source: loss-events contract section 3.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

# The collation of ASCII; what is not named in it counts for nothing.
_BELOW_LETTERS = "\t\n\v\f\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_RANKS = {character: rank for rank, character in enumerate(_BELOW_LETTERS + _LETTERS)}
_ASCII_COUNT = 128

_INTEGER_DIGITS_MAX, _LEADING_ZEROS_MAX = 21, 6
_DAYS_MAX, _NOON, _MIDNIGHT, _SIXTIETH = 31, 12, 24, 59

_AS_PRINTED = json.JSONEncoder(ensure_ascii=False)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]*\.?"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?[ ]+)?"
_TIME = r"(?P<hour>\d\d?):(?P<minute>\d\d?)(?::(?P<second>\d\d?)(?:\.(?P<fraction>\d+))?)?"
_ZONE = r"(?P<zone>[+-](?:[01]\d|2[0-3]):?[0-5]\d)"
_CLOCK = rf"""(?: ,?[ ]+ {_TIME} (?:[ ]+(?P<half>am|pm)(?![a-z]))?
    (?: z | [ ]+(?:z|utc?|gmt)(?![a-z]) )? (?:[ ]*{_ZONE})? (?:[ ]+\([^()]*\))? )?"""
_FORMS = [
    re.compile(form, re.ASCII | re.IGNORECASE | re.VERBOSE)
    for form in (
        rf"""(?P<year>\d{{4}}|[+-]\d{{6}}) (?:-(?P<month>\d\d)(?:-(?P<day>\d\d))?)?
            (?: t (?=\d\d:\d\d(?!\d)(?!:\d(?!\d))) {_TIME} (?:z|{_ZONE})? )?""",
        rf"(?P<year>[1-9]\d{{3}})([-/])(?P<month>\d\d?)\2(?P<day>\d\d?) {_CLOCK}",
        rf"(?P<month>\d\d?)([-/])(?P<day>\d\d?)\2(?P<year>[1-9]\d{{3}}) {_CLOCK}",
        rf"{_WEEKDAY} {_MONTH}[ ]+(?P<day>\d\d?),?[ ]+(?P<year>[1-9]\d{{3}}) {_CLOCK}",
        rf"{_WEEKDAY} (?P<day>\d\d?)[ -]{_MONTH},?[ -](?P<year>[1-9]\d{{3}}) {_CLOCK}",
    )
]


def canonical_js(value: object) -> str:
    """Render JSON without spaces, its keys sorted, as JavaScript prints numbers and strings.

    Keys of ASCII are in the order of ``localeCompare``: white space, ``_``, ``-``, what else is no
    letter, ``a A b B ...``, where case tells only between keys that are alike but for it. Other
    characters follow by code point. Numbers are doubles, as integers of 2**53 and more show.

    Raises: OverflowError for a number beyond a double.
    """
    if isinstance(value, Mapping):
        keys = sorted(value, key=_collation)
        return f"{{{','.join(f'{_quoted(key)}:{canonical_js(value[key])}' for key in keys)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(canonical_js, value))}]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(float(value))
    return _quoted(value)


def parse_js_date(text: str) -> datetime | None:
    """Read an instant as ``Date.parse`` does in UTC, cut to the millisecond; None if unreadable.

    Taken are the ISO forms (``2026``, ``2026-02``, ``2026-02-12``, each with ``T10:00``, seconds,
    a fraction of any length and ``Z`` or an offset), and the usual older ones: ``2026/2/12``,
    ``02/12/2026``, ``Feb 12, 2026`` and ``Thu, 12 Feb 2026``, each with ``10:00``, seconds, a
    fraction, ``PM``, ``GMT``, an offset and a remark in parentheses. What names no zone is UTC. Day
    31 exists in every month and is counted on into the next.

    Not taken, though JavaScript takes them, are years of two digits, names of American zones, a
    time before its date, and instants outside the years 1 to 9999.
    """
    read = next((match.groupdict() for form in _FORMS if (match := form.fullmatch(text))), None)
    return None if read is None else _instant(read)


def _collation(key: str) -> tuple[list[int], list[bool], str]:
    ranks, capitals = [], []
    for character in key:
        is_ascii = ord(character) < _ASCII_COUNT
        rank = _RANKS.get(character.lower()) if is_ascii else _ASCII_COUNT + ord(character)
        if rank is not None:
            ranks.append(rank)
            capitals.append(is_ascii and character.isupper())
    return ranks, capitals, key


def _quoted(value: object) -> str:
    return _AS_PRINTED.encode(value)


def _number(value: float) -> str:
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    if text == "0":
        return text
    point = len(text) + int(exponent)
    if len(text) <= point <= _INTEGER_DIGITS_MAX:
        text = text.ljust(point, "0")
    elif 0 < point <= _INTEGER_DIGITS_MAX:
        text = f"{text[:point]}.{text[point:]}"
    elif -_LEADING_ZEROS_MAX < point <= 0:
        text = f"0.{text.rjust(len(text) - point, '0')}"
    else:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        text = f"{text[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text


def _instant(read: Mapping[str, str | None]) -> datetime | None:
    def number(name: str, default: int = 0) -> int:
        return int(read.get(name) or default)

    name, half = read.get("name"), read.get("half")
    month = _MONTHS.index(name.lower()) + 1 if name else number("month", 1)
    day, hour, minute, second = number("day", 1), number("hour"), number("minute"), number("second")
    millisecond = int((read.get("fraction") or "")[:3].ljust(3, "0"))
    if half and hour <= _NOON:
        hour = hour % _NOON + (_NOON if half.lower() == "pm" else 0)
    elif half:
        return None
    is_midnight = (hour, minute, second, millisecond) == (_MIDNIGHT, 0, 0, 0)
    is_clock = hour < _MIDNIGHT and minute <= _SIXTIETH and second <= _SIXTIETH
    if not (is_clock or is_midnight) or not 1 <= day <= _DAYS_MAX:
        return None
    zone = (read.get("zone") or "+0000").replace(":", "")
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
    try:
        at = datetime(number("year"), month, 1, tzinfo=UTC) + timedelta(
            days=day - 1, hours=hour, minutes=minute, seconds=second, milliseconds=millisecond
        )
        return at + offset if zone[0] == "-" else at - offset
    except (ValueError, OverflowError):
        return None
