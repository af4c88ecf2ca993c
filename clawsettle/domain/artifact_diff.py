"""What changed between two artefacts of reconciliation, once each is known to be unaltered.

An artefact is a daily report or a comparison, as JSON or as CSV. JSON carries a hash of its
content, which is checked; CSV carries none: its hash is told beside it.
Source: new; payouts contract section 8.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.comparison_report import FIELDS as COMPARISON_FIELDS
from clawsettle.domain.errors import CallerError
from clawsettle.domain.payout_reports import FIELDS as DAILY_FIELDS

Row = Mapping[str, str]


class ArtifactKind(StrEnum):
    """What an artefact is of."""

    DAILY = "daily report"
    COMPARISON = "comparison"


_FIELDS = {ArtifactKind.DAILY: DAILY_FIELDS, ArtifactKind.COMPARISON: COMPARISON_FIELDS}
_ROWS = {ArtifactKind.DAILY: "rows", ArtifactKind.COMPARISON: "mismatches"}
_KEYS = {
    ArtifactKind.DAILY: ("payout_id",),
    ArtifactKind.COMPARISON: ("kind", "record", "payout_id", "subject", "found"),
}


@frozen
class Artifact:
    """An artefact's rows by what makes each one of a kind, and what stands beside them.

    ``facts`` is what of the rest is compared: the day, the cut, the totals, the digests.
    """

    kind: ArtifactKind
    rows: Mapping[str, Row]
    facts: Mapping[str, str]


@frozen
class Change:
    """One difference: a row or fact that only one has (the other side blank), or a field of it."""

    subject: str
    field: str
    before: str
    after: str


def read_artifact(text: str) -> Artifact:
    """Read an artefact in either format.

    Raises: CallerError when it is none, or is not what its own hash says it was.
    """
    if text.lstrip().startswith("{"):
        return _read_json(text)
    return _read_csv(text)


def changes(before: Artifact, after: Artifact) -> list[Change]:
    """Return what differs, facts first, then rows in the order of their keys.

    Facts are compared only where both have them. Raises: CallerError for two of different kinds.
    """
    if before.kind is not after.kind:
        raise CallerError(f"one is a {before.kind}, the other a {after.kind}")
    found = [
        Change(name, "", before.facts[name], after.facts[name])
        for name in before.facts
        if name in after.facts and before.facts[name] != after.facts[name]
    ]
    for key in sorted(before.rows.keys() | after.rows.keys()):
        found += _row_changes(key, before.rows.get(key), after.rows.get(key))
    return found


def _row_changes(key: str, before: Row | None, after: Row | None) -> list[Change]:
    if before is None or after is None:
        return [Change(key, "row", "" if before is None else "there", "there" if after else "")]
    return [
        Change(key, name, before.get(name, ""), after.get(name, ""))
        for name in dict.fromkeys([*before, *after])
        if before.get(name, "") != after.get(name, "")
    ]


def _read_json(text: str) -> Artifact:
    try:
        document = json.loads(text)
    except ValueError:
        raise CallerError("it is no JSON") from None
    kind = next((kind for kind, name in _ROWS.items() if name in document), None)
    if kind is None or not isinstance(document[_ROWS[kind]], list):
        raise CallerError("it is neither a daily report nor a comparison")
    hashed = {k: v for k, v in document.items() if k != "artifact_sha256"}
    if kind is ArtifactKind.DAILY:
        hashed = {name: document.get(name) for name in ("date", "rows", "totals")}
    if sha256_hex(canonical_json(hashed)) != document.get("artifact_sha256"):
        raise CallerError("its content is not what its artifact_sha256 was made of")
    facts = {
        name: value if isinstance(value, str) else canonical_json(value)
        for name, value in hashed.items()
        if name != _ROWS[kind]
    }
    rows = [{name: str(value) for name, value in row.items()} for row in document[_ROWS[kind]]]
    return Artifact(kind, _by_key(kind, rows), facts)


def _read_csv(text: str) -> Artifact:
    head, *lines = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    kind = next((kind for kind, names in _FIELDS.items() if tuple(head) == names), None)
    if kind is None:
        raise CallerError("its first line is that of no daily report and no comparison")
    if any(len(line) != len(head) for line in lines):
        raise CallerError("one of its lines has another number of cells than the first")
    rows = [{name: cell for name, cell in zip(head, line, strict=True) if cell} for line in lines]
    return Artifact(kind, _by_key(kind, rows), {})


def _by_key(kind: ArtifactKind, rows: Sequence[Row]) -> dict[str, Row]:
    found = {" ".join(row.get(name, "-") or "-" for name in _KEYS[kind]): row for row in rows}
    if len(found) != len(rows):
        raise CallerError("it has two rows of one kind")
    return found
