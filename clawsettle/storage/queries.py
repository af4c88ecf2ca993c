"""Named SQL: every statement lives in a ``.sql`` file under a ``-- name:`` line."""

import re
from functools import cache
from importlib.resources import files

from attrs import frozen

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@frozen
class Queries:
    """The statements of one ``.sql`` file by name; a name that is not there is a KeyError."""

    file: str
    statements: dict[str, str]

    def __getitem__(self, name: str) -> str:
        """Return a statement's text."""
        return self.statements[name]


@cache
def load_queries(file: str) -> Queries:
    """Read ``sql/<file>.sql`` once; its text up to each next name is one statement."""
    text = (files("clawsettle.storage") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return Queries(file, dict(zip(parts[::2], parts[1::2], strict=True)))
