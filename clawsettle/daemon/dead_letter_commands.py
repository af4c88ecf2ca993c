"""The commands ``clawsettle dead-letters list | show | requeue | discard``."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import App, Parameter

from clawsettle.daemon.operating import (
    ByOption,
    EverythingOption,
    MostOption,
    WhyOption,
    note,
    print_actions,
    print_fields,
    print_list,
    with_daemon,
)
from clawsettle.daemon.terminal import (
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    EXIT_USAGE,
    BaseUrlOption,
    JsonOption,
    StateDirOption,
    complain,
    fail,
    print_json,
)

if TYPE_CHECKING:
    from clawsettle.daemon.answers import Json
    from clawsettle.daemon.dead_letters import Action, DeadLetterWindow

dead_letters_app = App(name="dead-letters")

_COLUMNS = ("id", "state", "blame", "code", "attempts", "dead_at", "reason")
_DONE = {"requeue": "requeued", "discard": "discarded"}

T = TypeVar("T")
IdsArgument = Annotated[str, Parameter(help="As `list` shows them: settlement:evt_1.")]


@dead_letters_app.command(name="list")
def list_letters(
    *,
    state: Annotated[Literal["dead", "discarded", "any"], Parameter(help="Which ones.")] = "dead",
    kind: Annotated[str | None, Parameter(help="Only this kind, such as settlement.")] = None,
    limit: MostOption = 50,
    everything: EverythingOption = False,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show dead letters, newest first."""
    from clawsettle.daemon.answers import gathered

    most = None if everything else limit
    found = _with_window(
        state_dir,
        base_url,
        lambda window: gathered(window.pages(state=state, kind=kind, most=most)),
    )
    columns = [(name, name) for name in _COLUMNS]
    print_list("dead_letters", found, columns, nothing="no dead letters", json=json)


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
    print_fields(letter)
    if payload is not None:
        print("\npayload")
        print_json(payload)
    print_actions(actions)


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
        note(why, by),
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
    _change("discard", (letter_id, *ids), note(why, by), state_dir, base_url, json=json)


def _change(
    action: "Action",
    ids: tuple[str, ...] | None,
    said: Mapping[str, str],
    state_dir: Path,
    base_url: str | None,
    *,
    json: bool,
) -> None:
    """Do the same to each of these, or page by page to all that are dead, telling of each."""
    from clawsettle.daemon.answers import DaemonRefused

    done: list[Json] = []
    failed: list[Mapping[str, str]] = []

    def act(window: "DeadLetterWindow") -> None:
        everything = ([one["id"] for one in page.rows] for page in window.pages(state="dead"))
        for batch in everything if ids is None else [ids]:
            for letter_id, outcome in window.change(batch, action, said):
                if isinstance(outcome, DaemonRefused):
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


def _with_window(
    state_dir: Path, base_url: str | None, act: "Callable[[DeadLetterWindow], T]"
) -> T:
    """Return what ``act`` makes of a daemon's dead letters, or print why not and exit."""
    from clawsettle.daemon.dead_letters import DeadLetterWindow

    return with_daemon(state_dir, base_url, lambda daemon: act(DeadLetterWindow(daemon)))
