"""What commands share that ask a running daemon as its operator.

How they reach it, who acts, and how rows of its answers are shown.
"""

import getpass
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter
from cyclopts.validators import Number

from clawsettle.daemon.terminal import guarded, print_json, print_table

if TYPE_CHECKING:
    from clawsettle.daemon.answers import Json, RunningDaemon

T = TypeVar("T")
Columns = Sequence[tuple[str, str]]
"""What a table's columns are called, and the fields that they show."""

MostOption = Annotated[int, Parameter(validator=Number(gte=1), help="The most to show.")]
EverythingOption = Annotated[
    bool, Parameter(name="--all", negative="", help="Show all, however many there are.")
]
WhyOption = Annotated[str, Parameter(help="The reason, kept with the row; at most 500 characters.")]
ByOption = Annotated[str | None, Parameter(help="Who does it; your user name by default.")]


def with_daemon(state_dir: Path, base_url: str | None, act: "Callable[[RunningDaemon], T]") -> T:
    """Return what ``act`` makes of a running daemon, or print why not and exit."""
    from clawsettle.config import load
    from clawsettle.daemon.answers import open_daemon
    from clawsettle.daemon.state_dir import locate

    def whole() -> T:
        settings = load(None, environ=os.environ).settings
        facts = locate(state_dir, settings, base_url=base_url, ledger_base_url=None)
        with open_daemon(facts) as daemon:
            return act(daemon)

    result: T = guarded(whole)
    return result


def note(why: str, by: str | None) -> dict[str, str]:
    """Return who does it and why, as a route wants it."""
    try:
        named = by or getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A user id without a name, as in some containers: the key still says who it was.
        return {"why": why}
    return {"why": why, "by": named}


def print_actions(actions: "Sequence[Json]") -> None:
    """Print who did what, and why; nothing where nobody did anything."""
    if actions:
        print()
        print_rows([(name, name) for name in ("at", "action", "actor", "by", "why")], actions)


def print_list(
    name: str,
    found: "tuple[Sequence[Json], bool]",
    columns: Columns,
    *,
    nothing: str,
    json: bool,
) -> None:
    """Print rows and whether there are more, or ``nothing`` when there are none.

    As JSON they are printed under their ``name``.
    """
    rows, more = found
    if json:
        print_json({name: rows})
    elif not rows:
        print(nothing)
    else:
        print_rows(columns, rows)
        if more:
            print("there are more: raise --limit, or give --all")


def print_rows(columns: Columns, rows: "Iterable[Json]") -> None:
    """Print rows as a table of these columns; what a row lacks stays empty."""
    print_table(
        [name for name, _ in columns],
        [[_cell(row.get(field)) for _, field in columns] for row in rows],
    )


def print_fields(row: "Json") -> None:
    """Print one row, a line a field."""
    print_table(("field", "value"), [(name, _cell(value)) for name, value in row.items()])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)
