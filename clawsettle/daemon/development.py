"""``clawsettle dev``: a whole daemon on a laptop, with nothing installed and nothing configured.

The database and the ledger are embedded and live in the state directory; secrets that are not
given are generated once and kept there.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog
import trio
from attrs import evolve

from clawsettle.config import Secret, Settings, load
from clawsettle.daemon.composition import Addresses, run_daemon
from clawsettle.daemon.logs import configure_logs
from clawsettle.daemon.state_dir import DaemonFacts, with_secrets, write_facts
from clawsettle.storage.embedded import embedded_postgres

_log = structlog.get_logger(__name__)


async def develop(state_dir: Path, config: Path | None, overrides: Mapping[str, object]) -> None:
    """Run a daemon on ``state_dir`` until SIGTERM or SIGINT; logs ``ready`` once it is.

    The embedded database is started again when it dies; requests meanwhile answer 503.

    Raises: as ``run_daemon`` does, ConfigError when the state directory cannot be used, and
    StorageUnavailable when the embedded database dies again and again.
    """
    given = load(config, environ=os.environ, overrides=overrides).settings
    configure_logs(given.log.level, given.log.format)
    if given.database.url is not None:
        await _run(given, state_dir)
        return
    async with embedded_postgres(state_dir) as server:
        _log.info("embedded_postgres_started", pid=server.pid, data=str(server.data_dir))
        database = evolve(given.database, url=Secret(server.dsn))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep_running)
            await _run(evolve(given, database=database), state_dir)
            nursery.cancel_scope.cancel()


async def _run(given: Settings, state_dir: Path) -> None:
    settings = with_secrets(state_dir, given)

    def announce(addresses: Addresses) -> None:
        ledger_url = addresses.ledger.url if addresses.ledger else settings.ledger.base_url
        write_facts(
            state_dir,
            DaemonFacts(
                base_url=addresses.settle.url,
                ledger_base_url=ledger_url,
                webhook_secret=_first(settings.stripe.webhook_secrets),
                admin_key=_first(settings.admin.keys),
                ledger_admin_key=_first(settings.ledger.admin_keys),
                environment=settings.stripe.environment,
                database_url=settings.database.url.reveal() if settings.database.url else None,
            ),
        )
        quoted = shlex.quote(str(state_dir))
        _log.info(
            "ready",
            address=addresses.settle.url,
            ledger_address=ledger_url,
            # "try" is the command to paste: the program as it was started, the directory in use.
            **{"try": f"{_program()} send payment_intent.succeeded --state-dir {quoted}"},
        )

    await run_daemon(settings, announce=announce)


def _first(secrets: tuple[Secret, ...]) -> str | None:
    return secrets[0].reveal() if secrets else None


def _program() -> str:
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{sys.executable} -m clawsettle"
    try:
        return str(started.relative_to(Path.cwd()))
    except ValueError:
        return str(started)
