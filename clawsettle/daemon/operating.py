"""What commands share that ask a running daemon as its operator: reaching it, and who acts."""

import getpass
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter
from cyclopts.validators import Number

from clawsettle.daemon.terminal import guarded, print_table

if TYPE_CHECKING:
    from clawsettle.daemon.answers import Json, RunningDaemon

T = TypeVar("T")

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
        columns = ("at", "action", "actor", "by", "why")
        print()
        print_table(columns, [tuple(one.get(name, "") for name in columns) for one in actions])
