"""The commands ``clawsettle dead-letters list | show | requeue | discard``."""

import getpass
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from clawsettle.daemon.terminal import (
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    EXIT_USAGE,
    BaseUrlOption,
    JsonOption,
    StateDirOption,
    complain,
    fail,
    guarded,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from clawsettle.daemon.dead_letters import Action, DeadLetterWindow, Letter

dead_letters_app = App(name="dead-letters")

_COLUMNS = ("id", "state", "blame", "code", "attempts", "dead_at", "reason")
_DONE = {"requeue": "requeued", "discard": "discarded"}

IdsArgument = Annotated[str, Parameter(help="As `list` shows them: settlement:evt_1.")]
WhyOption = Annotated[str, Parameter(help="The reason, kept with the row; at most 500 characters.")]
ByOption = Annotated[str | None, Parameter(help="Who does it; your user name by default.")]


@dead_letters_app.command(name="list")
def list_letters(
    *,
    state: Annotated[Literal["dead", "discarded", "any"], Parameter(help="Which ones.")] = "dead",
    kind: Annotated[str | None, Parameter(help="Only this kind, such as settlement.")] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1), help="The most to show.")] = 50,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="Show all, however many there are.")
    ] = False,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show dead letters, newest first."""

    def act(window: "DeadLetterWindow") -> "tuple[list[Letter], bool]":
        letters: list[Letter] = []
        more = False
        for page in window.pages(state=state, kind=kind, most=None if everything else limit):
            letters += page.letters
            more = page.next_cursor is not None
        return letters, more

    letters, more = _with_window(state_dir, base_url, act)
    if json:
        print_json({"dead_letters": letters})
    elif not letters:
        print("no dead letters")
    else:
        rows = [tuple(str(letter.get(name, "")) for name in _COLUMNS) for letter in letters]
        print_table(_COLUMNS, rows)
        if more:
            print("there are more: raise --limit, or give --all")


@dead_letters_app.command
def show(
    letter_id: IdsArgument,
    /,
    *,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show one with what it would send, and who did what with it."""
    letter = _with_window(state_dir, base_url, lambda window: window.show(letter_id))
    if json:
        print_json(letter)
        return
    actions, payload = letter.pop("actions"), letter.pop("payload", None)
    print_table(("field", "value"), [(name, str(value)) for name, value in letter.items()])
    if payload is not None:
        print("\npayload")
        print_json(payload)
    if actions:
        columns = ("at", "action", "actor", "by", "why")
        print()
        print_table(columns, [tuple(one.get(name, "") for name in columns) for one in actions])


@dead_letters_app.command
def requeue(
    *ids: IdsArgument,
    why: WhyOption,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="Every one that is dead now.")
    ] = False,
    by: ByOption = None,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Have dead or discarded ones attempted again, at once and with all their attempts.

    Exit code 1 when one of them refused. `--all` takes what was dead when it began: what dies
    again meanwhile is left for another look.
    """
    if everything == bool(ids):
        fail(["name the dead letters, or give --all"], EXIT_USAGE)
    _change(
        "requeue",
        None if everything else ids,
        _note(why, by),
        state_dir,
        base_url,
        json=json,
    )


@dead_letters_app.command
def discard(
    letter_id: IdsArgument,
    /,
    *ids: IdsArgument,
    why: WhyOption,
    by: ByOption = None,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Close dead ones: they will not be sent. A requeue brings them back.

    Exit code 1 when one of them refused.
    """
    _change("discard", (letter_id, *ids), _note(why, by), state_dir, base_url, json=json)


def _change(
    action: "Action",
    ids: tuple[str, ...] | None,
    note: Mapping[str, str],
    state_dir: Path,
    base_url: str | None,
    *,
    json: bool,
) -> None:
    """Do the same to each of these, or page by page to all that are dead, telling of each."""
    from clawsettle.daemon.dead_letters import LetterRefused

    done: list[Letter] = []
    failed: list[Mapping[str, str]] = []

    def act(window: "DeadLetterWindow") -> None:
        everything = ([one["id"] for one in page.letters] for page in window.pages(state="dead"))
        for batch in everything if ids is None else [ids]:
            for letter_id, outcome in window.change(batch, action, note):
                if isinstance(outcome, LetterRefused):
                    complain(f"{letter_id}: {outcome.message} ({outcome.code})")
                    failed.append({"id": letter_id, "code": outcome.code, "error": outcome.message})
                    continue
                done.append(outcome)
                if ids is not None and not json:
                    print(f"{_DONE[action]} {letter_id}")
            if ids is None:
                print(f"{_DONE[action]} {len(done)}, refused {len(failed)}", file=sys.stderr)

    _with_window(state_dir, base_url, act)
    if json:
        print_json({_DONE[action]: done, "failed": failed})
    if failed:
        sys.exit(EXIT_FAILED)


def _note(why: str, by: str | None) -> dict[str, str]:
    try:
        named = by or getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A user id without a name, as in some containers: the key still says who it was.
        return {"why": why}
    return {"why": why, "by": named}


def _with_window(
    state_dir: Path, base_url: str | None, act: "Callable[[DeadLetterWindow], Any]"
) -> Any:
    """Return what ``act`` makes of a daemon's dead letters, or print why not and exit."""
    from clawsettle.config import load
    from clawsettle.daemon.dead_letters import open_window
    from clawsettle.daemon.state_dir import locate

    def whole() -> Any:
        settings = load(None, environ=os.environ).settings
        facts = locate(state_dir, settings, base_url=base_url, ledger_base_url=None)
        with open_window(facts) as window:
            return act(window)

    return guarded(whole)
