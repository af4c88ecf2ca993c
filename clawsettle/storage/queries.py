"""Named SQL: every statement lives in a ``.sql`` file under a ``-- name:`` line."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def load_queries(file: str) -> Mapping[str, str]:
    """Read ``sql/<file>.sql`` once and return its statements by name."""
    return parse_queries(
        (files("clawsettle.storage") / "sql" / f"{file}.sql").read_text(encoding="utf-8")
    )


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the statements of a text by name; each goes up to the next name."""
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))
