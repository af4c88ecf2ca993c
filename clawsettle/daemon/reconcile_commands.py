"""The commands ``clawsettle reconcile payouts | diff``: a day's reports, and what changed."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from clawsettle.daemon.reading import DatabaseUrlOption, open_for_reading, read_settings
from clawsettle.daemon.terminal import (
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    StateDirOption,
    fail,
    guarded,
    print_json,
    print_table,
    run_async,
)
from clawsettle.domain.errors import CallerError, ConfigError

if TYPE_CHECKING:
    from clawsettle.actors.payout_comparer import Progress
    from clawsettle.config import Settings
    from clawsettle.domain.artifact_diff import Artifact, Change
    from clawsettle.domain.comparison_report import ComparisonReport
    from clawsettle.domain.payout_reports import ReportCut, ReportFormat
    from clawsettle.storage.bridge import Database
    from clawsettle.storage.report_files import ReportFile

reconcile_app = App(name="reconcile")


@reconcile_app.command
def payouts(
    *,
    date: Annotated[str, Parameter(help="The day in UTC, such as 2026-02-11.")],
    format: Annotated[  # noqa: A002 - the option's name
        Literal["json", "csv"], Parameter(help="How the reports are written.")
    ] = "json",
    as_of: Annotated[
        str | None, Parameter(help="The instant to freeze it at, a minute ago at least.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="The directory for the files; else the day goes to stdout.")
    ] = None,
    config: ConfigOption = None,
    database_url: DatabaseUrlOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Write the report of a day's payouts; with --out also its comparison with the other records.

    The comparison asks the ledger and the payout provider that the configuration names, and lists
    what is missing, late or doubled, or differs. Files appear when they are complete, and replace
    those of the same name. Exit code 1 when the comparison has findings.
    """
    from clawsettle.domain.payout_reports import read_cut, read_format

    def asked() -> "tuple[ReportFormat, ReportCut]":
        try:
            return read_format(format), read_cut(date, as_of)
        except CallerError as error:
            raise ConfigError([error.message]) from error

    written, cut = guarded(asked)

    async def to_stdout() -> None:
        settings = read_settings(config, database_url)
        async with open_for_reading(settings, state_dir) as database:
            with _daily_progress():
                report = await _daily(database, cut, written)
            with report.file:
                sys.stdout.buffer.write(report.head)
                shutil.copyfileobj(report.file, sys.stdout.buffer)
            sys.stdout.buffer.write(b"\n")

    async def to_files(folder: Path) -> "ComparisonReport":
        settings = read_settings(config, database_url)
        async with open_for_reading(settings, state_dir) as database:
            with _daily_progress():
                report = await _daily(database, cut, written)
            with _bar() as progress:
                compared = await _compare(settings, database, cut, progress)
        return _keep(folder, cut, written, report, compared)

    if out is None:
        run_async(to_stdout)
        return
    findings = run_async(to_files, out).mismatches
    if findings:
        fail([f"the records differ in {len(findings)} places"], EXIT_FAILED)


@reconcile_app.command
def diff(
    before: Annotated[Path, Parameter(help="The older artefact.")],
    after: Annotated[Path, Parameter(help="The newer one.")],
    /,
    *,
    json: JsonOption = False,
) -> None:
    """Tell what changed between two daily reports, or between two comparisons.

    The content of a JSON file is checked against its own hash first. Exit code 0 when nothing
    changed, 1 when something did, 2 when a file cannot be compared.
    """
    from clawsettle.domain.artifact_diff import changes

    def compared() -> "list[Change]":
        try:
            return changes(_read(before), _read(after))
        except CallerError as error:
            raise ConfigError([error.message]) from error

    found = guarded(compared)
    rows = [(one.subject, one.field, one.before, one.after) for one in found]
    names = ("subject", "field", "before", "after")
    if json:
        print_json({"changes": [dict(zip(names, row, strict=True)) for row in rows]})
    elif found:
        print_table(names, rows)
    else:
        print("nothing changed")
    if found:
        sys.exit(EXIT_FAILED)


async def _daily(database: "Database", cut: "ReportCut", written: "ReportFormat") -> "ReportFile":
    from clawsettle.storage.payout_reports import PayoutReports

    try:
        return await PayoutReports(database).daily(cut, written)
    except CallerError as error:
        raise ConfigError([error.message]) from error


async def _compare(
    settings: "Settings", database: "Database", cut: "ReportCut", progress: "Progress"
) -> "ComparisonReport":
    from clawsettle.actors.payout_comparer import PayoutComparer
    from clawsettle.daemon.composition import open_ledger
    from clawsettle.daemon.payout_parts import open_stripe
    from clawsettle.storage.payout_comparison import PayoutPast

    with ExitStack() as stack:
        ledger, _, http_ledger = open_ledger(settings, database)
        if http_ledger is not None:
            stack.callback(http_ledger.close)
        provider = None
        # What is simulated keeps no objects, and needs no secrets to be asked for none.
        if settings.payouts.provider == "stripe":
            provider = open_stripe(settings)
            stack.callback(provider.close)
        return await PayoutComparer(PayoutPast(database), ledger, provider).compare(cut, progress)


def _keep(
    folder: Path,
    cut: "ReportCut",
    written: "ReportFormat",
    report: "ReportFile",
    compared: "ComparisonReport",
) -> "ComparisonReport":
    """Write both reports and say which files they are."""
    from clawsettle.domain.canonical import compact_json
    from clawsettle.domain.payout_reports import ReportFormat
    from clawsettle.storage.kept_files import open_kept

    is_csv = written is ReportFormat.CSV
    text = compared.csv() if is_csv else compact_json(compared.view())
    stem = f"payouts-{cut.day}"
    if cut.as_of is not None:
        stem += f"-as-of-{cut.as_of:%Y%m%dT%H%M%SZ}"
    daily_file = folder / f"{stem}.{written}"
    comparison_file = folder / f"{stem}-comparison.{written}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{folder} cannot be made: {error.strerror}"]) from error
    with report.file, open_kept(daily_file) as stream:
        stream.write(report.head)
        shutil.copyfileobj(report.file, stream)
    with open_kept(comparison_file) as stream:
        stream.write(text.encode())
    print_table(
        ("file", "sha256 of its content"),
        [(str(daily_file), report.sha256), (str(comparison_file), compared.sha256)],
    )
    rows = [
        (str(one.kind), str(one.record), one.payout_id or "-", one.subject, one.expected, one.found)
        for one in compared.mismatches
    ]
    if rows:
        print()
        print_table(("mismatch", "record", "payout", "in", "expected", "found"), rows)
    else:
        print("\nall records agree")
    return compared


def _read(file: Path) -> "Artifact":
    from clawsettle.domain.artifact_diff import read_artifact

    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{file} is no UTF-8"]) from error
    try:
        return read_artifact(text)
    except CallerError as error:
        raise ConfigError([f"{file}: {error.message}"]) from error


@contextmanager
def _daily_progress() -> Iterator[None]:
    """Show on a terminal that the day is being read; its rows are counted by nobody before."""
    from rich.console import Console

    with Console(stderr=True).status("reading the day's payouts"):
        yield


@contextmanager
def _bar() -> "Iterator[Progress]":
    """Show on a terminal how many payouts are compared, of how many."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
