"""The commands ``clawsettle loss-events``.

They are ``list | show | outbox | alerts | requeue | retry | resolve``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, Parameter
from cyclopts.validators import Number

from clawsettle.daemon.operating import (
    ByOption,
    EverythingOption,
    MostOption,
    WhyOption,
    note,
    print_actions,
    print_fields,
    print_list,
    print_rows,
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
    print_table,
)
from clawsettle.domain.loss_events import DeliveryState, LossStatus, Operation, Target

if TYPE_CHECKING:
    from clawsettle.daemon.answers import Json
    from clawsettle.daemon.loss_events import LossWindow

loss_events_app = App(name="loss-events")

_EVENTS = (
    ("event", "loss_event_id"),
    ("status", "status"),
    ("amount_minor", "amount_minor"),
    ("account", "account_did"),
    ("reason", "reason_code"),
    ("targets", "target_count"),
    ("forwarded", "forwarded_count"),
    ("failed", "failed_count"),
    ("created_at", "created_at"),
)
_DELIVERIES = (
    ("delivery", "outbox_id"),
    ("target", "target_service"),
    ("state", "state"),
    ("attempts", "attempts"),
    ("http", "last_http_status"),
    ("code", "last_error_code"),
    ("alert", "alert"),
    ("next_retry_at", "next_retry_at"),
    ("in doubt", "in_doubt"),
    ("shared", "shared"),
)
_RESIDUALS = (
    ("target", "target_service"),
    ("applied_minor", "applied_minor"),
    ("released_minor", "released_minor"),
    ("residual_minor", "residual_minor"),
    ("uncertain", "uncertain"),
    ("not undone", "not_undone"),
)
T = TypeVar("T")
EventArgument = Annotated[str, Parameter(help="As `list` shows it: lse_...")]


@loss_events_app.command(name="list")
def list_events(
    *,
    status: Annotated[LossStatus | None, Parameter(help="Only those in this status.")] = None,
    account_id: Annotated[str | None, Parameter(help="Only of this account.")] = None,
    source_service: Annotated[str | None, Parameter(help="Only from this service.")] = None,
    limit: MostOption = 50,
    everything: EverythingOption = False,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show loss events, the newest first."""
    from clawsettle.daemon.answers import gathered

    query = {"status": status, "account_id": account_id, "source_service": source_service}
    most = None if everything else limit
    found = _with_window(state_dir, base_url, lambda window: gathered(window.events(query, most)))
    print_list("events", found, _EVENTS, nothing="no loss events", json=json)


@loss_events_app.command
def show(
    event_id: EventArgument,
    /,
    *,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show one: what each target was told and has said, its resolution, and what is still held.

    And who has requeued any of it, and why.
    """
    found = _with_window(state_dir, base_url, lambda window: window.show(event_id))
    if json:
        print_json(found)
        return
    event, resolution = found["event"], found["resolution"]
    metadata = event.pop("metadata")
    print_fields(event)
    if metadata:
        print("\nmetadata")
        print_json(metadata)
    _print_deliveries("apply", found["outbox"])
    if resolution is not None:
        resolves = resolution.pop("outbox")
        print("\nresolution")
        print_fields(resolution)
        _print_deliveries("resolve", resolves)
    print_actions(found["actions"])
    print("\nresiduals")
    print_rows(_RESIDUALS, found["residuals"])
    print(f"\n{found['residual_minor']} {event['currency']} in minor units are held or taken")


@loss_events_app.command
def outbox(
    *,
    operation: Annotated[Operation, Parameter(help="Of telling, or of taking back.")] = (
        Operation.APPLY
    ),
    status: Annotated[
        DeliveryState | None,
        Parameter(help="Only in this; pending is also what is waiting, failed also what is dead."),
    ] = None,
    target: Annotated[Target | None, Parameter(help="Only to this target.")] = None,
    event: Annotated[str | None, Parameter(help="Only of this event.")] = None,
    limit: MostOption = 50,
    everything: EverythingOption = False,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show deliveries to targets, the newest first: how each stands, and what was answered last."""
    from clawsettle.daemon.answers import gathered

    query = {
        "operation": operation,
        "status": status,
        "target_service": target,
        "loss_event_id": event,
    }
    most = None if everything else limit
    found = _with_window(state_dir, base_url, lambda window: gathered(window.outbox(query, most)))
    columns = (("event", "loss_event_id"), *_DELIVERIES)
    print_list("outbox", found, columns, nothing="no deliveries", json=json)


@loss_events_app.command
def alerts(
    *,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show what is open and what is dead at each target, and why somebody should look.

    As the daemon has seen it last, which is some seconds ago. Exit code 1 while there is an alert,
    or while the daemon cannot see.
    """
    ready = _with_window(state_dir, base_url, lambda window: window.ready())
    standings = ready["loss_events"]
    if json:
        print_json({"loss_events": standings})
    elif not standings:
        print("nothing is open or dead at any target")
    else:
        rows = [
            (
                target,
                str(one["open_count"]),
                str(one["dead_count"]),
                str(one["oldest_due_s"]),
                ", ".join(f"{alert} {count}" for alert, count in one["alerts"].items()),
            )
            for target, one in standings.items()
        ]
        print_table(("target", "open", "dead", "oldest_due_s", "alerts"), rows)
    for reason in ready["reasons"]:
        complain(f"the daemon is not ready: {reason}")
    if ready["reasons"] or any(one["alerts"] for one in standings.values()):
        sys.exit(EXIT_FAILED)


@loss_events_app.command
def requeue(
    *ids: Annotated[
        str, Parameter(help="Deliveries (lso_..., lro_...), or events (lse_...) for all of theirs.")
    ],
    why: WhyOption,
    target: Annotated[
        Target | None, Parameter(help="Instead of ids: all that is dead at this target.")
    ] = None,
    by: ByOption = None,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Have deliveries that are dead or not applicable attempted again, at once.

    Exit code 1 when one of them cannot be, or nothing of an event.
    """
    if (target is not None) == bool(ids):
        fail(["name deliveries or events, or give --target"], EXIT_USAGE)
    said = note(why, by)
    done, failed = _with_window(
        state_dir,
        base_url,
        lambda window: (
            _requeue_named(window, ids, said)
            if target is None
            else (_requeue_dead(window, target, said), [])
        ),
    )
    if json:
        print_json({"requeued": done, "failed": failed})
    elif target is None:
        for one in done:
            print(f"requeued {one['outbox_id']} {one['operation']} {one['target_service']}")
    elif not done:
        print(f"nothing is dead at {target}")
    if failed:
        sys.exit(EXIT_FAILED)


@loss_events_app.command
def retry(
    event_id: Annotated[str | None, Parameter(help="Only of this event: lse_...")] = None,
    /,
    *,
    operation: Annotated[Operation, Parameter(help="Of telling, or of taking back.")] = (
        Operation.APPLY
    ),
    limit: Annotated[
        int | None,
        Parameter(validator=Number(gte=1), help="The most to attempt; by default the daemon's."),
    ] = None,
    force: Annotated[
        bool, Parameter(negative="", help="Of the event also those that are not due yet.")
    ] = False,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Have deliveries that are due attempted now, and wait for what comes of it.

    Dead ones are not due: `requeue` brings those back. Exit code 0 however the attempts end.
    """
    if force and event_id is None:
        fail(["--force is for one event: name it"], EXIT_USAGE)
    order = {
        "operation": operation,
        "limit": limit,
        "loss_event_id": event_id,
        "force": force,
    }
    given = {name: value for name, value in order.items() if value is not None}
    summary = _with_window(
        state_dir, base_url, lambda window: _waiting(lambda: window.retry(given))
    )
    if json:
        print_json(summary)
        return
    attempted, forwarded, failed = (summary[name] for name in ("attempted", "forwarded", "failed"))
    print(f"attempted {attempted}, forwarded {forwarded}, failed {failed}")
    if under_way := attempted - forwarded - failed:
        print(f"{under_way} are still under way")


@loss_events_app.command
def resolve(
    event_id: EventArgument,
    /,
    *,
    reason: Annotated[
        str | None, Parameter(help="Told to the targets; at most 2000 characters.")
    ] = None,
    base_url: BaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Take an event back: release what was applied, cancel what was not.

    Refused while a target can still be told of the event. If it is cut off, run it again: one event
    is resolved once. `show` tells how far it has got.
    """
    resolved = _with_window(state_dir, base_url, lambda window: window.resolve(event_id, reason))
    if json:
        print_json(resolved)
        return
    print_fields(resolved["resolution"])
    _print_deliveries("resolve", resolved["outbox"])
    if resolved["deduped"]:
        print("\nit had been resolved before, so nothing was done")


def _with_window(state_dir: Path, base_url: str | None, act: "Callable[[LossWindow], T]") -> T:
    """Return what ``act`` makes of a daemon's loss events, or print why not and exit."""
    from clawsettle.daemon.loss_events import LossWindow

    return with_daemon(state_dir, base_url, lambda daemon: act(LossWindow(daemon)))


def _requeue_named(
    window: "LossWindow", ids: Sequence[str], said: Mapping[str, str]
) -> "tuple[list[Json], list[Json]]":
    """Return what was brought back, and what was refused, which is complained of."""
    done: list[Json] = []
    failed: list[Json] = []
    for named, outcome in window.requeue(ids, said):
        if isinstance(outcome, list):
            done += outcome
            continue
        complain(f"{named}: {outcome.message} ({outcome.code})")
        failed.append({"id": named, "code": outcome.code, "error": outcome.message})
    return done, failed


def _requeue_dead(window: "LossWindow", target: Target, said: Mapping[str, str]) -> "list[Json]":
    """Return what was brought back, and tell how much it is by now."""
    done: list[Json] = []
    for batch in window.requeue_dead(target, said):
        done += batch
        print(f"requeued {len(done)}", file=sys.stderr)
    return done


def _waiting(act: Callable[[], T]) -> T:
    """Return what ``act`` returns, and show on a terminal that it is being waited for."""
    from rich.console import Console

    with Console(stderr=True).status("attempting"):
        return act()


def _print_deliveries(title: str, entries: "Sequence[Json]") -> None:
    if not entries:
        return
    print(f"\n{title}")
    print_rows(_DELIVERIES, entries)
    for entry in entries:
        if entry["last_error_message"] is not None:
            print(f"{entry['target_service']}: {entry['last_error_message']}")
