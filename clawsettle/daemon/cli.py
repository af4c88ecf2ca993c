"""The ``clawsettle`` command; how its parts print and fail is in ``clawsettle.daemon.terminal``."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

from clawsettle import __version__
from clawsettle.daemon.terminal import (
    DEFAULT_SANDBOX_BIND,
    DEFAULT_STATE_DIR,
    EXIT_FAILED,
    EXIT_USAGE,
    BaseUrlOption,
    ConfigOption,
    JsonOption,
    StateDirOption,
    complain,
    fail,
    guarded,
    print_json,
    print_table,
    run_async,
)
from clawsettle.domain.errors import ConfigError

app = App(
    name="clawsettle",
    version=__version__,
    help="Carry Stripe's money events to a double-entry ledger, exactly once.",
    help_format="markdown",
    help_epilogue="Exit codes: 0 done, 1 failed or refused, 2 wrong command or configuration.",
)
config_app = App(name="config", help="Look at the configuration.")
app.command(config_app)
# By name, so that a command loads only what it needs.
app.command(
    "clawsettle.daemon.dead_letter_commands:dead_letters_app",
    name="dead-letters",
    help="Look at what no retry can mend, bring it back, or close it.",
)
app.command(
    "clawsettle.daemon.ledger_commands:ledger_app",
    name="ledger",
    help="Prove the embedded ledger's books, and export them.",
)
app.command(
    "clawsettle.daemon.loss_commands:loss_events_app",
    name="loss-events",
    help="Look at loss events and at what targets were told, attempt it again, take it back.",
)
app.command(
    "clawsettle.daemon.netting_commands:netting_app",
    name="netting",
    help="Net the payouts that are paid, and look at the runs.",
)
app.command(
    "clawsettle.daemon.reconcile_commands:reconcile_app",
    name="reconcile",
    help="Report a day's payouts, and compare them with the ledger and the provider.",
)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app(exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        fail([" ".join(str(error).split())], EXIT_USAGE)
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
    provider: Annotated[
        Literal["simulated", "stripe-sandbox", "off"] | None,
        Parameter(help="Who makes payouts; a stripe-sandbox is a Stripe inside this process."),
    ] = None,
    sandbox_bind: Annotated[
        str,
        Parameter(help="Where stand-ins of loss events' targets listen; port 0 takes a free one."),
    ] = DEFAULT_SANDBOX_BIND,
) -> None:
    """Start a daemon for trying out: embedded PostgreSQL, embedded ledger, generated secrets.

    Listens on 127.0.0.1:8787, the ledger on 127.0.0.1:8788. Prints one line `ready` with the
    addresses and a command to paste. Secrets come from the environment; the missing ones are
    generated and kept in the state directory. Loss events go to stand-ins, except to targets whose
    address is set. Ctrl-C stops it.
    """
    from clawsettle.daemon.development import develop

    overrides = {
        "daemon.bind": bind,
        "ledger.bind": ledger_bind,
        "database.url": database_url,
    }
    run_async(develop, state_dir, config, provider, sandbox_bind, overrides)


@app.command
def sandbox(
    *,
    bind: Annotated[
        str, Parameter(help="Where they listen; port 0 takes a free one.")
    ] = DEFAULT_SANDBOX_BIND,
    config: ConfigOption = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
) -> None:
    """Start stand-ins of escrow, clawinsure, clawincome and clawbounties, and nothing else.

    Prints one line `ready` with their address; below it `/escrow` and so on are base URLs, and
    `/control` shows what they were told and has them fail. Their keys are those of `[targets]`; the
    missing ones are generated and kept in the state directory. Ctrl-C stops it.
    """
    from clawsettle.daemon.risk_sandbox import serve_stand_ins

    run_async(serve_stand_ins, state_dir, config, bind)


@app.command
def serve(*, config: Annotated[Path, Parameter(help="The configuration file.")]) -> None:
    """Start a daemon for production, on your PostgreSQL; refuses to start on what is missing.

    Nothing is invented: the database, the signing secrets and the keys come from the file, the
    environment or credential files. SIGTERM drains and stops.
    """
    import structlog

    from clawsettle.config import load, production_problems, serving_problems
    from clawsettle.daemon.composition import Addresses, run_daemon
    from clawsettle.daemon.logs import configure_logs

    async def start() -> None:
        settings = load(config, environ=os.environ).settings
        configure_logs(settings.log.level, settings.log.format)
        if problems := [*serving_problems(settings), *production_problems(settings)]:
            raise ConfigError(problems)

        def announce(addresses: Addresses) -> None:
            ledger = addresses.ledger.url if addresses.ledger else settings.ledger.base_url
            structlog.get_logger(__name__).info(
                "ready", address=addresses.settle.url, ledger_address=ledger
            )

        await run_daemon(settings, announce=announce)

    run_async(start)


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
            print_json({"applied": applied})
        else:
            print("\n".join(f"applied {name}" for name in applied) or "the schema is current")

    run_async(bring_up_to_date)


@config_app.command
def check(*, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show every setting with its value and where it comes from, and all problems at once.

    Secrets are hidden. Exit code 2 when a daemon could not start with this configuration. What it
    could start with, and is likely not meant, is said as well.
    """
    from clawsettle.config import (
        describe,
        load,
        production_problems,
        serving_problems,
        target_warnings,
    )

    try:
        loaded = load(config, environ=os.environ)
    except ConfigError as error:
        fail(error.problems, EXIT_USAGE)
    rows = describe(loaded)
    problems = [*serving_problems(loaded.settings), *production_problems(loaded.settings)]
    warnings = target_warnings(loaded.settings)
    if json:
        print_json(
            {
                "settings": [
                    {"key": row.key, "value": row.value, "origin": row.origin} for row in rows
                ],
                "problems": problems,
                "warnings": warnings,
            }
        )
    else:
        print_table(("setting", "value", "from"), [(r.key, r.value, r.origin) for r in rows])
    for warning in warnings:
        complain(f"warning: {warning}")
    if problems:
        fail(problems, EXIT_USAGE)


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
    base_url: BaseUrlOption = None,
    ledger_base_url: Annotated[str | None, Parameter(help="Its ledger.")] = None,
    state_dir: StateDirOption = DEFAULT_STATE_DIR,
    json: JsonOption = False,
) -> None:
    """Send one signed Stripe event and show the answer and what the ledger now says.

    Makes the event as Stripe would, signs it with the daemon's secret and posts it. Exit code 0
    when the daemon took it, 1 when it refused.
    """
    from clawsettle.config import load
    from clawsettle.daemon.send import SendOptions, SendReport
    from clawsettle.daemon.send import send as send_event
    from clawsettle.daemon.state_dir import locate

    def act() -> SendReport:
        settings = load(None, environ=os.environ).settings
        facts = locate(state_dir, settings, base_url=base_url, ledger_base_url=ledger_base_url)
        options = SendOptions(
            event_type, amount, currency, did, account_id, event_id, object_id, livemode
        )
        return send_event(facts, options)

    report = guarded(act)
    if json:
        print_json(
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
