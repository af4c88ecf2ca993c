"""``clawsettle dev``: a whole daemon on a laptop, with nothing installed and nothing configured.

The database and the ledger are embedded and live in the state directory; secrets that are not
given are generated once and kept there. Payouts go to a simulated provider, or to a Stripe of the
daemon's own.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import structlog
import trio
from attrs import evolve

from clawsettle.config import Secret, Settings, load
from clawsettle.daemon.composition import Addresses, run_daemon
from clawsettle.daemon.logs import configure_logs
from clawsettle.daemon.state_dir import DaemonFacts, with_secrets, write_facts
from clawsettle.storage.embedded import embedded_postgres

_log = structlog.get_logger(__name__)
_SANDBOX_STEP_S = 1.0
DevProvider = Literal["simulated", "stripe-sandbox", "off"]
"""Who makes the payouts of a daemon on a laptop."""

_Listening = Callable[[str, str], None]
"""Told the daemon's address, and the secret that its webhooks are signed with."""


async def develop(
    state_dir: Path,
    config: Path | None,
    provider: DevProvider | None,
    overrides: Mapping[str, object],
) -> None:
    """Run a daemon on ``state_dir`` until SIGTERM or SIGINT; logs ``ready`` once it is.

    The embedded database is started again when it dies; requests meanwhile answer 503. Without
    ``provider`` the settings name it, and where they name none payouts are simulated. The sandbox
    forgets everything when the daemon stops, and it has test mode only, so the daemon is a staging
    one.

    Raises: as ``run_daemon`` does, ConfigError when the state directory cannot be used, and
    StorageUnavailable when the embedded database dies again and again.
    """
    given = load(config, environ=os.environ, overrides=overrides).settings
    configure_logs(given.log.level, given.log.format)
    if provider == "stripe-sandbox":
        await _with_sandbox(given, state_dir)
    else:
        chosen = provider or ("simulated" if given.payouts.provider == "off" else None)
        if chosen is not None:
            given = evolve(given, payouts=evolve(given.payouts, provider=chosen))
        await _with_database(given, state_dir, lambda _address, _secret: None)


async def _with_sandbox(given: Settings, state_dir: Path) -> None:
    """Run a daemon against a Stripe of its own, through the real client."""
    from clawsettle.sandbox.stripe_sandbox import open_sandbox
    from clawsettle.sandbox.stripe_webhooks import Endpoint

    async with open_sandbox(step_s=_SANDBOX_STEP_S) as sandbox:
        _log.info("stripe_sandbox_started", address=sandbox.base_url)

        def listening(address: str, secret: str) -> None:
            sandbox.webhooks.endpoint = Endpoint(f"{address}/v1/stripe/webhook", secret)

        stripe = evolve(
            given.stripe,
            secret_key=Secret("sk_test_sandbox"),
            api_base_url=sandbox.base_url,
            environment="staging",
        )
        payouts = evolve(
            given.payouts,
            provider="stripe",
            onboard_refresh_url=given.payouts.onboard_refresh_url or sandbox.base_url,
            onboard_return_url=given.payouts.onboard_return_url or sandbox.base_url,
        )
        await _with_database(evolve(given, stripe=stripe, payouts=payouts), state_dir, listening)


async def _with_database(given: Settings, state_dir: Path, listening: _Listening) -> None:
    if given.database.url is not None:
        await _run(given, state_dir, listening)
        return
    async with embedded_postgres(state_dir) as server:
        _log.info("embedded_postgres_started", pid=server.pid, data=str(server.data_dir))
        database = evolve(given.database, url=Secret(server.dsn))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep_running)
            await _run(evolve(given, database=database), state_dir, listening)
            nursery.cancel_scope.cancel()


async def _run(given: Settings, state_dir: Path, listening: _Listening) -> None:
    settings = with_secrets(state_dir, given)

    def announce(addresses: Addresses) -> None:
        ledger_url = addresses.ledger.url if addresses.ledger else settings.ledger.base_url
        listening(addresses.settle.url, settings.stripe.webhook_secrets[0].reveal())
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
