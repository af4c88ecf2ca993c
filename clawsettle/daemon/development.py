"""``clawsettle dev``: a whole daemon on a laptop, with nothing installed and nothing configured.

The database and the ledger are embedded and live in the state directory; secrets that are not
given are generated once and kept there. Payouts go to a simulated provider, or to a Stripe of the
daemon's own; loss events to stand-ins, where no other address is given.
"""

import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import structlog
import trio
from attrs import evolve

from clawsettle.config import Secret, Settings, load
from clawsettle.daemon.composition import Addresses, run_daemon
from clawsettle.daemon.logs import configure_logs
from clawsettle.daemon.risk_sandbox import with_stand_ins
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
    sandbox_bind: str,
    overrides: Mapping[str, object],
) -> None:
    """Run a daemon on ``state_dir`` until SIGTERM or SIGINT; logs ``ready`` once it is.

    The embedded database is started again when it dies; requests meanwhile answer 503. Without
    ``provider`` the settings name it, and where they name none payouts are simulated. The sandboxes
    forget everything when the daemon stops. Stripe's has test mode only, so the daemon is a staging
    one. The other listens on ``sandbox_bind``, for the targets of loss events without an address.

    Raises: as ``run_daemon`` does, ConfigError when the state directory cannot be used or
    ``sandbox_bind`` is no address that can be bound, and StorageUnavailable when the embedded
    database dies again and again.
    """
    given = load(config, environ=os.environ, overrides=overrides).settings
    configure_logs(given.log.level, given.log.format)
    async with (
        _with_provider(given, provider) as (paying, listening),
        _with_database(paying, state_dir) as storing,
        with_stand_ins(storing, state_dir, sandbox_bind) as (telling, sandbox_url),
    ):
        await _run(with_secrets(state_dir, telling), state_dir, listening, sandbox_url)


@asynccontextmanager
async def _with_provider(
    given: Settings, provider: DevProvider | None
) -> AsyncIterator[tuple[Settings, _Listening]]:
    """Give the settings with a provider, and whom to tell when the daemon listens."""
    if provider == "stripe-sandbox":
        async with _with_stripe(given) as (paying, listening):
            yield paying, listening
        return
    chosen = provider or ("simulated" if given.payouts.provider == "off" else None)
    if chosen is not None:
        given = evolve(given, payouts=evolve(given.payouts, provider=chosen))
    yield given, lambda _address, _secret: None


@asynccontextmanager
async def _with_stripe(given: Settings) -> AsyncIterator[tuple[Settings, _Listening]]:
    """Give the settings that lead the real client to a Stripe of the daemon's own."""
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
        yield evolve(given, stripe=stripe, payouts=payouts), listening


@asynccontextmanager
async def _with_database(given: Settings, state_dir: Path) -> AsyncIterator[Settings]:
    """Give the settings with a database: the one they name, or the embedded one."""
    if given.database.url is not None:
        yield given
        return
    async with embedded_postgres(state_dir) as server:
        _log.info("embedded_postgres_started", pid=server.pid, data=str(server.data_dir))
        database = evolve(given.database, url=Secret(server.dsn))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep_running)
            yield evolve(given, database=database)
            nursery.cancel_scope.cancel()


async def _run(
    settings: Settings, state_dir: Path, listening: _Listening, sandbox_url: str | None
) -> None:
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
        sandbox = {} if sandbox_url is None else {"sandbox_address": sandbox_url}
        _log.info(
            "ready",
            address=addresses.settle.url,
            ledger_address=ledger_url,
            **sandbox,
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
