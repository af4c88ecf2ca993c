"""The ``clawsettle`` command.

Errors are one line each on stderr. Exit codes: 0 done, 1 it failed or was refused, 2 the command
or the configuration is wrong.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter

from clawsettle import __version__
from clawsettle.domain.errors import ClawsettleError, ConfigError

EXIT_FAILED, EXIT_USAGE = 1, 2

app = App(
    name="clawsettle",
    version=__version__,
    help="Carry Stripe's money events to a double-entry ledger, exactly once.",
    help_format="markdown",
    help_epilogue="Exit codes: 0 done, 1 failed or refused, 2 wrong command or configuration.",
)
config_app = App(name="config", help="Look at the configuration.")
app.command(config_app)

ConfigOption = Annotated[
    Path | None, Parameter(help="The configuration file, such as clawsettle.toml.")
]
StateDirOption = Annotated[
    Path, Parameter(help="Where `clawsettle dev` keeps its database, secrets and addresses.")
]
JsonOption = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON instead of text.")
]
DEFAULT_STATE_DIR = Path(".clawsettle")


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app(exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        _fail([" ".join(str(error).split())], EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command
def dev(
    *,
    config: ConfigOption = None,
    bind: Annotated[
        str | None, Parameter(help="Where the daemon listens; port 0 takes a free one.")
    ] = None,
    ledger_bind: Annotated[
        str | None, Parameter(help="Where the embedded ledger listens; port 0 takes a free one.")
    ] = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    database_url: Annotated[
        str | None, Parameter(help="An own PostgreSQL instead of the embedded one.")
    ] = None,
) -> None:
    """Start a daemon for trying out: embedded PostgreSQL, embedded ledger, generated secrets.

    Listens on 127.0.0.1:8787, the ledger on 127.0.0.1:8788. Prints one line `ready` with the
    addresses and a command to paste. Secrets come from the environment; the missing ones are
    generated and kept in the state directory. Ctrl-C stops it.
    """
    from clawsettle.daemon.development import develop

    overrides = {
        "daemon.bind": bind,
        "ledger.bind": ledger_bind,
        "database.url": database_url,
    }
    _run(develop, state_dir, config, overrides)


@app.command
def serve(*, config: Annotated[Path, Parameter(help="The configuration file.")]) -> None:
    """Start a daemon for production, on your PostgreSQL; refuses to start on what is missing.

    Nothing is invented: the database, the signing secrets and the keys come from the file, the
    environment or credential files. SIGTERM drains and stops.
    """
    import structlog

    from clawsettle.config import load
    from clawsettle.daemon.composition import Addresses, run_daemon
    from clawsettle.daemon.logs import configure_logs

    async def start() -> None:
        settings = load(config, environ=os.environ).settings
        configure_logs(settings.log.level, settings.log.format)

        def announce(addresses: Addresses) -> None:
            ledger = addresses.ledger.url if addresses.ledger else settings.ledger.base_url
            structlog.get_logger(__name__).info(
                "ready", address=addresses.settle.url, ledger_address=ledger
            )

        await run_daemon(settings, announce=announce)

    _run(start)


@app.command
def migrate(
    *,
    config: ConfigOption = None,
    database_url: Annotated[
        str | None, Parameter(help="The database; else [database] url or DATABASE_URL.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Bring the database's schema up to date, and say what was applied.

    Daemons do this at start by themselves; run it first where their role may not create tables.
    """
    from clawsettle.config import load
    from clawsettle.storage.bridge import open_database
    from clawsettle.storage.migrate import apply_migrations, check_server

    async def bring_up_to_date() -> None:
        overrides = {"database.url": database_url}
        settings = load(config, environ=os.environ, overrides=overrides).settings
        if settings.database.url is None:
            raise ConfigError(["no database: give --database-url, [database] url or DATABASE_URL"])
        async with open_database(settings.database.url.reveal(), pool_max=1) as database:
            await check_server(database)
            applied = [migration.name for migration in await apply_migrations(database)]
        if json:
            _print_json({"applied": applied})
        else:
            print("\n".join(f"applied {name}" for name in applied) or "the schema is current")

    _run(bring_up_to_date)


@config_app.command
def check(*, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show every setting with its value and where it comes from, and all problems at once.

    Secrets are hidden. Exit code 2 when a daemon could not start with this configuration.
    """
    from clawsettle.config import describe, load, serving_problems

    try:
        loaded = load(config, environ=os.environ)
    except ConfigError as error:
        _fail(error.problems, EXIT_USAGE)
        return
    rows, problems = describe(loaded), serving_problems(loaded.settings)
    if json:
        _print_json(
            {
                "settings": [
                    {"key": row.key, "value": row.value, "origin": row.origin} for row in rows
                ],
                "problems": problems,
            }
        )
    else:
        _print_table(("setting", "value", "from"), [(r.key, r.value, r.origin) for r in rows])
    if problems:
        _fail(problems, EXIT_USAGE)


@app.command
def send(
    event_type: Annotated[
        str, Parameter(help="Such as payment_intent.succeeded, charge.refunded, payout.paid.")
    ],
    /,
    *,
    amount: Annotated[int, Parameter(help="In minor units (cents).")] = 2500,
    currency: str = "usd",
    did: Annotated[str, Parameter(help="Whose account; it is opened first.")] = "did:key:alice",
    account_id: Annotated[str | None, Parameter(help="An account by its id, as it is.")] = None,
    event_id: Annotated[
        str | None, Parameter(help="Its id; one id sent twice is one event.")
    ] = None,
    object_id: Annotated[str | None, Parameter(help="The payment, charge or payout.")] = None,
    livemode: Annotated[
        bool | None,
        Parameter(negative="--testmode", help="Live or test event; default: what is expected."),
    ] = None,
    base_url: Annotated[str | None, Parameter(help="The daemon, if not the one here.")] = None,
    ledger_base_url: Annotated[str | None, Parameter(help="Its ledger.")] = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Send one signed Stripe event and show the answer and what the ledger now says.

    Makes the event as Stripe would, signs it with the daemon's secret and posts it. Exit code 0
    when the daemon took it, 1 when it refused.
    """
    from clawsettle.config import load
    from clawsettle.daemon.send import SendOptions, SendReport, locate
    from clawsettle.daemon.send import send as send_event

    def act() -> SendReport:
        settings = load(None, environ=os.environ).settings
        facts = locate(state_dir, settings, base_url=base_url, ledger_base_url=ledger_base_url)
        options = SendOptions(
            event_type, amount, currency, did, account_id, event_id, object_id, livemode
        )
        return send_event(facts, options)

    report = _guarded(act)
    if json:
        _print_json(
            {
                "event": report.event,
                "status": report.status,
                "answer": report.answer,
                "account_before": report.account_before,
                "account_after": report.account_after,
            }
        )
    else:
        _print_report(report)
    if report.status != 200:  # noqa: PLR2004 - an HTTP status
        sys.exit(EXIT_FAILED)


def _print_report(report: Any) -> None:
    import json

    print(f"sent    {report.event['type']} {report.event['id']}")
    print(f"answer  {report.status} {json.dumps(report.answer)}")
    if report.account_after is None:
        print("ledger  not asked, or it has no such account")
        return
    before = report.account_before["balances"] if report.account_before else {}
    after = report.account_after["balances"]
    moved = f"{before.get('available', '0')} -> {after['available']}"
    print(f"ledger  {report.account_after['id']} available {moved}")


def _run(function: Callable[..., Any], *args: object) -> None:
    """Run an async command to its end."""
    import trio

    _guarded(lambda: trio.run(function, *args, strict_exception_groups=True))


def _guarded(act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns; print its errors a line each and exit with their code."""
    try:
        return act()
    except (ClawsettleError, ExceptionGroup) as error:
        causes = list(_causes(error))
        strangers = [cause for cause in causes if not isinstance(cause, ClawsettleError)]
        if strangers:
            import structlog

            structlog.get_logger(__name__).critical("daemon_failed", exc_info=error)
        lines = [line for cause in causes for line in _lines(cause)]
        wrong = all(isinstance(cause, ConfigError) for cause in causes)
        _fail(list(dict.fromkeys(lines)), EXIT_USAGE if wrong else EXIT_FAILED)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, ClawsettleError):
        return [error.message]
    return [f"it failed: {type(error).__name__} (the log has the details)"]


def _fail(problems: list[str], code: int) -> None:
    for problem in problems:
        print(f"clawsettle: {problem}", file=sys.stderr)
    sys.exit(code)


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2))


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # In a pipe a table is as wide as its content: cut cells help nobody.
    if not console.is_terminal:
        console = Console(width=max(200, console.width), highlight=False)
    console.print(table)
