"""The commands ``clawsettle netting run | plan | list | show``: netting beside the daemons."""

import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from clawsettle.daemon.reading import (
    DatabaseUrlOption,
    open_for_reading,
    open_for_working,
    read_settings,
)
from clawsettle.daemon.terminal import (
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    StateDirOption,
    fail,
    print_json,
    print_table,
    run_async,
)
from clawsettle.domain.errors import CallerError, ConfigError
from clawsettle.domain.netting import EntryStatus, RunStatus

if TYPE_CHECKING:
    from clawsettle.actors.netting_runner import Execution, NettingRunner
    from clawsettle.config import Settings
    from clawsettle.domain.netting import Entry, Run
    from clawsettle.domain.netting_plan import Plan
    from clawsettle.domain.netting_requests import NettingRequest
    from clawsettle.storage.bridge import Database
    from clawsettle.storage.netting_lists import NettingLists
    from clawsettle.storage.report_files import ReportFile

netting_app = App(name="netting")

PROGRESS_S = 0.5
_LISTED = (
    ("id", "id"),
    ("status", "status"),
    ("payouts", "candidate_count"),
    ("applied", "applied_count"),
    ("failed", "failed_count"),
    ("amount_minor", "total_amount_minor"),
    ("created_at", "created_at"),
    ("key", "idempotency_key"),
)

KeyOption = Annotated[str, Parameter(help="The run's idempotency key: one key is one run.")]
TakeOption = Annotated[
    int | None, Parameter(help="The most payouts it takes; else [netting] default_limit.")
]
SourceOption = Annotated[
    str | None, Parameter(help="The clearing domain it takes from, if not the configured one.")
]
TargetOption = Annotated[
    str | None, Parameter(help="The clearing domain it moves to, if not the configured one.")
]


@netting_app.command
def run(
    *,
    key: KeyOption,
    limit: TakeOption = None,
    source_clearing_domain: SourceOption = None,
    target_clearing_domain: TargetOption = None,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Net the payouts that wait: one transfer for each connected account, in this very process.

    Give the configuration of the daemons: it names the ledger. A key that was used tries again what
    has not moved of its run, and does nothing when all has; so if this is cut off, run it again.
    Exit code 0 when the run is applied, 1 when something has not moved.
    """
    from clawsettle.daemon.logs import configure_logs
    from clawsettle.storage.netting_lists import NettingLists

    async def execute() -> "tuple[Execution, list[Entry]]":
        settings = read_settings(config, database_url)
        configure_logs(settings.log.level, settings.log.format, sys.stderr)
        request = _read_request(
            settings, key, limit, source_clearing_domain, target_clearing_domain
        )
        async with (
            open_for_working(settings, state_dir) as database,
            _working(settings, database) as runner,
        ):
            lists = NettingLists(database)
            async with _progress(lists, request.run_id):
                with _usage():
                    execution = await runner.execute(request)
            return execution, await lists.entries(request.run_id)

    execution, entries = run_async(execute)
    unmoved = [entry for entry in entries if entry.status is not EntryStatus.APPLIED]
    if json:
        print_json({"deduped": execution.deduped, **_whole(execution.run, entries)})
    else:
        _print_run(execution.run)
        _print_entries(unmoved)
        if execution.deduped:
            print("\nit had been applied before, so nothing was done")
    if execution.run.status is not RunStatus.APPLIED:
        fail([f"{len(unmoved)} of {len(entries)} entries have not moved"], EXIT_FAILED)


@netting_app.command
def plan(
    *,
    key: KeyOption,
    limit: TakeOption = None,
    source_clearing_domain: SourceOption = None,
    target_clearing_domain: TargetOption = None,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show what a run would be that takes now what waits; nothing is stored or moved."""
    from clawsettle.config import netting_defaults
    from clawsettle.storage.netting_preparation import plan_waiting

    async def look() -> "tuple[NettingRequest, Plan]":
        settings = read_settings(config, database_url)
        request = _read_request(
            settings, key, limit, source_clearing_domain, target_clearing_domain
        )
        with _usage():
            request.check_target(netting_defaults(settings))
        async with open_for_reading(settings, state_dir) as database:
            planned = await database.transaction(
                lambda transaction: plan_waiting(transaction, request)
            )
        return request, planned

    request, planned = run_async(look)
    if json:
        print_json(
            {
                "run_id": request.run_id,
                "candidate_count": planned.candidate_count,
                "total_amount_minor": str(planned.total_amount_minor),
                "entries": [entry.view() for entry in planned.entries],
            }
        )
        return
    if planned.entries:
        print_table(
            ("entry", "connected account", "amount_minor", "payouts", "compensated"),
            [
                (
                    entry.entry_id,
                    entry.connect_account_id,
                    str(entry.amount_minor),
                    str(len(entry.payout_ids)),
                    str(len(entry.compensated_payout_ids)),
                )
                for entry in planned.entries
            ],
        )
        print()
    print(
        f"{request.run_id}: {planned.candidate_count} payouts, {len(planned.entries)} entries, "
        f"{planned.total_amount_minor} {request.currency} in minor units from "
        f"{request.source_clearing_domain} to {request.target_clearing_domain}"
    )


@netting_app.command(name="list")
def list_runs(
    *,
    status: Annotated[RunStatus | None, Parameter(help="Only those in this status.")] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1), help="The most to show.")] = 50,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show runs, the newest first."""
    from clawsettle.storage.netting_lists import NettingLists
    from clawsettle.storage.payout_lists import Page

    async def look() -> "Page[Run]":
        settings = read_settings(config, database_url)
        async with open_for_reading(settings, state_dir) as database:
            return await NettingLists(database).runs(status, after=None, limit=limit)

    page = run_async(look)
    views = [found.view() for found in page.rows]
    if json:
        print_json({"runs": views})
    elif not views:
        print("no netting runs")
    else:
        names = [name for name, _ in _LISTED]
        print_table(names, [[str(view[field]) for _, field in _LISTED] for view in views])
        if page.next is not None:
            print("there are more: raise --limit")


@netting_app.command
def show(
    run_id: Annotated[str, Parameter(help="As `list` shows it: nrun_...")],
    /,
    *,
    report: Annotated[
        Literal["json", "csv"] | None, Parameter(help="Write the run's report to stdout instead.")
    ] = None,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Show a run, its entries, and what keeps those from moving that have not.

    The report has the proof that no money was made or lost; the ledger that the configuration names
    is asked for it.
    """
    from clawsettle.storage.netting_lists import NettingLists

    async def look() -> "tuple[Run | None, list[Entry]]":
        settings = read_settings(config, database_url)
        async with open_for_reading(settings, state_dir) as database:
            lists = NettingLists(database)
            return await lists.run(run_id), await lists.entries(run_id)

    async def write_report() -> None:
        settings = read_settings(config, database_url)
        async with open_for_reading(settings, state_dir) as database:
            written = await _report(settings, database, run_id, str(report))
        with written.file:
            sys.stdout.buffer.write(written.head)
            shutil.copyfileobj(written.file, sys.stdout.buffer)
        sys.stdout.buffer.write(b"\n")

    if report is not None:
        run_async(write_report)
        return
    found, entries = run_async(look)
    if found is None:
        fail(["no such netting run"], EXIT_FAILED)
    if json:
        print_json(_whole(found, entries))
    else:
        _print_run(found)
        _print_entries(entries)


def _read_request(
    settings: "Settings", key: str, limit: int | None, source: str | None, target: str | None
) -> "NettingRequest":
    """Return what the options order. Raises: ConfigError."""
    from clawsettle.config import netting_defaults, netting_problems
    from clawsettle.domain.idempotency import parse_key
    from clawsettle.domain.netting_requests import parse_netting

    if problems := netting_problems(settings):
        raise ConfigError(problems)
    given = {
        "limit": limit,
        "source_clearing_domain": source,
        "target_clearing_domain": target,
    }
    body = {name: value for name, value in given.items() if value is not None}
    with _usage():
        return parse_netting(parse_key({"idempotency-key": key}), body, netting_defaults(settings))


@contextmanager
def _usage() -> Iterator[None]:
    """Have a wrong request count as a wrong command. Raises: ConfigError."""
    try:
        yield
    except CallerError as error:
        raise ConfigError([error.message]) from error


@asynccontextmanager
async def _working(settings: "Settings", database: "Database") -> "AsyncIterator[NettingRunner]":
    """Run what nets in a daemon, for as long as the command has to do with it."""
    import trio

    from clawsettle.actors.supervisor import Supervised
    from clawsettle.daemon.composition import open_ledger
    from clawsettle.daemon.netting_parts import assemble_netting

    async with AsyncExitStack() as stack:
        ledger, keeper, http_ledger = open_ledger(settings, database)
        if http_ledger is not None:
            stack.callback(http_ledger.close)
        runner = assemble_netting(settings, database, ledger).runner
        # What it took over of itself it would leave half done when the command ends.
        runner.takes_over = False
        actors = [Supervised(actor) for actor in (runner, keeper) if actor is not None]
        async with trio.open_nursery() as nursery:
            for supervised in reversed(actors):
                await nursery.start(supervised.run)
            yield runner
            for supervised in actors:
                await supervised.stop()


@asynccontextmanager
async def _progress(lists: "NettingLists", run_id: str) -> AsyncIterator[None]:
    """Show on a terminal how many entries of a run have moved, of how many."""
    import trio
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("netting", total=None)

        async def watch() -> None:
            while True:
                tally = await lists.tally(run_id)
                applied = tally.get(EntryStatus.APPLIED, 0)
                bar.update(task, completed=applied, total=sum(tally.values()) or None)
                await trio.sleep(PROGRESS_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()


async def _report(
    settings: "Settings", database: "Database", run_id: str, written: str
) -> "ReportFile":
    from clawsettle.actors.netting_reporter import NettingReporter
    from clawsettle.daemon.composition import open_ledger
    from clawsettle.domain.payout_reports import ReportFormat
    from clawsettle.storage.netting_reports import NettingReports

    ledger, _, http_ledger = open_ledger(settings, database)
    try:
        reporter = NettingReporter(NettingReports(database), ledger)
        return await reporter.report(run_id, ReportFormat(written))
    finally:
        if http_ledger is not None:
            http_ledger.close()


def _whole(found: "Run", entries: "Iterable[Entry]") -> dict[str, object]:
    return {"run": found.view(), "entries": [entry.view() for entry in entries]}


def _print_run(found: "Run") -> None:
    print_table(("field", "value"), [(name, str(value)) for name, value in found.view().items()])


def _print_entries(entries: "Iterable[Entry]") -> None:
    rows = [
        (
            entry.entry_id,
            entry.connect_account_id,
            str(entry.amount_minor),
            str(len(entry.payout_ids)),
            str(len(entry.compensated_payout_ids)),
            str(entry.status),
            f"{entry.last_error_code}: {entry.last_error_message}" if entry.last_error_code else "",
        )
        for entry in entries
    ]
    if rows:
        print()
        print_table(
            (
                "entry",
                "connected account",
                "amount_minor",
                "payouts",
                "compensated",
                "status",
                "what is wrong",
            ),
            rows,
        )
