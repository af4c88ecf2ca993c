"""The composition root: every part of a daemon, put together, started and stopped in order.

Start: database, its checks, migrations, actors, HTTP. Stop: HTTP answers what is under way and
takes no more, then each actor drains after those that feed it, then the database closes; all of it
within ``[daemon] drain_s``. What has not ended by then is cut: rows are leased, so nothing is lost.
"""

import gc
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import structlog
import trio
from attrs import frozen
from quart_trio import QuartTrio

from clawsettle import __version__
from clawsettle.actors.delivery_recorder import DeliveryRecorder
from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.actors.payout_comparer import PayoutComparer
from clawsettle.actors.settlement_forwarder import SettlementForwarder
from clawsettle.actors.settlement_rescuer import SettlementRescuer
from clawsettle.actors.supervisor import Actor, Supervised
from clawsettle.actors.webhook_intake import WebhookIntake
from clawsettle.clients.ledger import HttpLedger, Ledger
from clawsettle.config import Address, Settings, http_ledger_problems, serving_problems
from clawsettle.daemon.loss_parts import LossParts, assemble_losses
from clawsettle.daemon.netting_parts import NettingParts, assemble_netting
from clawsettle.daemon.payout_parts import PayoutParts, assemble_payouts
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.http.auth import (
    LEDGER_ADMIN,
    LEDGER_RISK,
    LEDGER_VERIFY,
    LOSS_READER,
    ledger_guard,
)
from clawsettle.http.dead_letters import DeadLetterRoutes
from clawsettle.http.errors import error_status, transfer_status
from clawsettle.http.forwarding import RetryRoute
from clawsettle.http.ledger_api import ledger_routes
from clawsettle.http.ledger_schemas import SCHEMAS
from clawsettle.http.loss_api import loss_routes
from clawsettle.http.netting_api import netting_routes
from clawsettle.http.openapi import openapi_document
from clawsettle.http.patience import Patience
from clawsettle.http.payout_api import payout_routes
from clawsettle.http.payout_reports import PayoutReportRoutes
from clawsettle.http.routing import Route
from clawsettle.http.server import serve_http
from clawsettle.http.status import Readiness, StatusRoutes
from clawsettle.http.surface import AsgiApp, Surface, build_app
from clawsettle.http.webhook import WebhookRoute
from clawsettle.storage.bridge import Database, open_database
from clawsettle.storage.dead_letters import DeadLetters
from clawsettle.storage.delivery_log import DeliveryLog
from clawsettle.storage.ledger_book import LedgerBook
from clawsettle.storage.ledger_reader import LedgerReader
from clawsettle.storage.migrate import apply_migrations, check_server
from clawsettle.storage.payout_comparison import PayoutPast
from clawsettle.storage.payout_reports import PayoutReports
from clawsettle.storage.settlement_outbox import SettlementOutbox

_log = structlog.get_logger(__name__)

INTAKE_BATCH_MAX = 256
CLAIM_BATCH_MAX = 500
DELIVERIES_HELD_MAX = 10_000
_LEDGER_VERSION = "1.0.0"
# Shares of the drain time by which each stage must be over, so that the whole fits into it.
_WAITING_SHARE, _HTTP_SHARE, _ACTORS_SHARE = 0.5, 0.7, 0.8


def _bearer(description: str) -> Mapping[str, object]:
    return {"type": "http", "scheme": "bearer", "description": description}


SETTLE_SCHEMES = {
    "settleAdmin": _bearer("one of [admin] keys"),
    LOSS_READER: _bearer("one of [admin] keys or [loss_events] read_tokens, also as x-admin-key"),
}
LEDGER_SCHEMES = {
    LEDGER_ADMIN: _bearer("one of [ledger] admin_keys, also as x-admin-key"),
    LEDGER_VERIFY: _bearer("one of [ledger] verify_tokens, also as x-admin-key"),
    LEDGER_RISK: _bearer("one of [ledger] risk_keys, also as x-admin-key"),
}


@frozen(eq=False)
class Parts:
    """What a running daemon is made of; actors in the order in which they must stop."""

    app: QuartTrio
    ledger_app: QuartTrio | None
    actors: tuple[Supervised, ...]
    readiness: Readiness
    patience: Patience
    netting: NettingParts
    losses: LossParts
    http_ledger: HttpLedger | None = None
    payouts: PayoutParts | None = None

    def close(self) -> None:
        """Close the connections to other services that are idle."""
        self.losses.close()
        if self.http_ledger is not None:
            self.http_ledger.close()
        if self.payouts is not None:
            self.payouts.close()


@frozen
class Addresses:
    """Where a daemon listens; no ledger address when the ledger is somebody else's."""

    settle: Address
    ledger: Address | None


def assemble(settings: Settings, database: Database) -> Parts:
    """Put a daemon's parts together; starts nothing."""
    forwarding = settings.forwarding
    outbox = SettlementOutbox(database, forwarding.lease_s, settings.payouts.lease_s)
    letters = DeadLetters(database, forwarding.lease_s)
    ledger, keeper, http_ledger = open_ledger(settings, database)
    payouts = assemble_payouts(settings, database, ledger)
    netting = assemble_netting(settings, database, ledger)
    forwarder = SettlementForwarder(
        outbox,
        ledger,
        RetryPolicy(
            forwarding.retry_base_s,
            forwarding.retry_max_s,
            forwarding.attempts_max,
            forwarding.age_max_s,
        ),
        # Two rounds of calls: more would only wait for their leases to end.
        capacity=min(forwarding.mailbox_max, 2 * forwarding.in_flight_max * ledger.batch_max),
        in_flight_max=forwarding.in_flight_max,
        attempt_timeout_s=forwarding.attempt_timeout_s,
        payouts=payouts.keeper if payouts else None,
    )
    rescuer = SettlementRescuer(outbox, letters, forwarder, CLAIM_BATCH_MAX, forwarding.poll_s)
    forwarder.seating.when_roomy = rescuer.ring
    intake = WebhookIntake(
        outbox,
        forwarder,
        INTAKE_BATCH_MAX,
        forwarding.mailbox_max,
        failures_are_answered=forwarding.acknowledge == "attempted",
        payouts=payouts.keeper if payouts else None,
        when_news=payouts.janitor.ring if payouts else lambda: None,
    )
    recorder = DeliveryRecorder(
        DeliveryLog(database, settings.delivery_log.retention_days), DELIVERIES_HELD_MAX
    )
    losses = assemble_losses(settings, database, keeper, recorder.note)
    actors: list[Actor] = [rescuer, intake, forwarder, losses.watch, losses.fanout]
    actors += netting.actors
    actors += payouts.actors if payouts else ()
    actors += [recorder] if keeper is None else [keeper, recorder]
    supervised = tuple(Supervised(actor) for actor in actors)
    readiness, patience = Readiness(outbox, supervised, losses.watch), Patience()
    return Parts(
        app=_settle_app(
            settings,
            [
                WebhookRoute(
                    intake, recorder, settings.stripe, settings.forwarding, patience
                ).route(),
                RetryRoute(rescuer, settings.admin, settings.forwarding, patience).route(),
                *DeadLetterRoutes(letters, settings.admin, rescuer.ring).routes(),
                *payout_routes(
                    settings,
                    database,
                    patience,
                    payouts.keeper if payouts else None,
                    payouts.onboarder if payouts else None,
                ),
                *PayoutReportRoutes(
                    PayoutReports(database),
                    PayoutComparer(
                        PayoutPast(database), ledger, payouts.provider if payouts else None
                    ),
                    settings.admin,
                ).routes(),
                *netting_routes(settings, database, patience, netting.runner, ledger),
                *loss_routes(settings, database, patience, losses.fanout),
            ],
            readiness,
        ),
        ledger_app=_ledger_app(settings, keeper) if keeper else None,
        actors=supervised,
        readiness=readiness,
        patience=patience,
        netting=netting,
        losses=losses,
        http_ledger=http_ledger,
        payouts=payouts,
    )


async def run_daemon(settings: Settings, *, announce: Callable[[Addresses], None]) -> None:
    """Run a daemon until SIGTERM or SIGINT; ``announce`` is told the addresses once it is ready.

    A signal before that ends the start at once; a second one cuts the stop short.

    Raises: ConfigError for what an operator must mend, StorageUnavailable when the database cannot
    be reached at start, an actor's error when it failed too often; in exception groups.
    """
    if problems := serving_problems(settings):
        raise ConfigError(problems)
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        async with trio.open_nursery() as nursery:
            starting, signalled, stop = trio.CancelScope(), trio.Event(), trio.Event()
            nursery.start_soon(_heed, signals, starting, signalled, nursery.cancel_scope)
            with starting:
                # The database closes after the nursery of those who use it.
                database = await stack.enter_async_context(_open_checked(settings))
                parts = assemble(settings, database)
                stack.callback(parts.close)
                for supervised in reversed(parts.actors):
                    await nursery.start(supervised.run)
                addresses, ended = await _listen(settings, parts, stop, nursery)
                if parts.payouts is not None:
                    parts.payouts.listening(addresses.settle.url)
                _calm_the_collector()
                announce(addresses)
            if not starting.cancelled_caught:
                await signalled.wait()
                await _drain(settings, parts, stop, ended)
            nursery.cancel_scope.cancel()
    _log.info("stopped")


def _calm_the_collector() -> None:
    """Spare the garbage collector what lives as long as the daemon, and most of its rounds.

    Requests leave next to no cycles, and its default of 700 objects is reached by every batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@asynccontextmanager
async def _open_checked(settings: Settings) -> AsyncIterator[Database]:
    """Open the database, checked and migrated."""
    assert settings.database.url is not None  # noqa: S101 - serving_problems has looked
    async with open_database(
        settings.database.url.reveal(),
        pool_max=settings.database.pool_max,
        statement_timeout_s=settings.database.statement_timeout_s,
    ) as database:
        await check_server(database)
        for migration in await apply_migrations(database):
            _log.info("migration_applied", migration=migration.name)
        yield database


async def _drain(
    settings: Settings, parts: Parts, stop: trio.Event, ended: Sequence[trio.Event]
) -> None:
    """Answer what is under way, then let each actor finish, for a share of the drain time."""
    parts.readiness.draining = True
    with trio.move_on_after(settings.daemon.drain_s * _ACTORS_SHARE) as bound:
        stop.set()
        parts.patience.hurry(settings.daemon.drain_s * _WAITING_SHARE)
        for server in ended:
            await server.wait()
        for supervised in parts.actors:
            await supervised.stop()
    if bound.cancelled_caught:
        _log.warning("drain_cut", drain_s=settings.daemon.drain_s)


async def _heed(
    signals: AsyncIterator[int],
    starting: trio.CancelScope,
    signalled: trio.Event,
    everything: trio.CancelScope,
) -> None:
    """At the first signal end the start, or let the stop begin; at the second one cut."""
    await _signalled(signals)
    starting.cancel()
    signalled.set()
    await _signalled(signals)
    everything.cancel()


async def _signalled(signals: AsyncIterator[int]) -> None:
    async for number in signals:
        _log.info("signalled", signal=signal.Signals(number).name)
        return


async def _listen(
    settings: Settings, parts: Parts, stop: trio.Event, nursery: trio.Nursery
) -> tuple[Addresses, list[trio.Event]]:
    """Start the HTTP servers; return where they listen, and an event for the end of each."""
    ended: list[trio.Event] = []

    async def listen(app: QuartTrio, bind: Address) -> Address:
        over = trio.Event()
        ended.append(over)

        async def serve(*, task_status: trio.TaskStatus[int]) -> None:
            await serve_http(
                cast("AsgiApp", app),
                host=bind.host,
                port=bind.port,
                drain_s=settings.daemon.drain_s * _HTTP_SHARE,
                stop=stop,
                task_status=task_status,
            )
            over.set()

        return Address(bind.host, await nursery.start(serve))

    ledger = None
    if parts.ledger_app is not None:
        ledger = await listen(parts.ledger_app, settings.ledger.bind)
    return Addresses(await listen(parts.app, settings.daemon.bind), ledger), ended


def open_ledger(
    settings: Settings, database: Database
) -> tuple[Ledger, LedgerKeeper | None, HttpLedger | None]:
    """Return the ledger the mode names, and whichever of the two it is.

    Raises: ConfigError when a ledger over HTTP lacks its address or its key.
    """
    if settings.ledger.mode == "embedded":
        if settings.ledger.base_url is not None:
            _log.warning("ledger_base_url_unused", mode="embedded")
        keeper = LedgerKeeper(
            LedgerBook(database, settings.ledger.currency, settings.ledger.strict_accounts),
            error_status,
            transfer_status,
            settings.ledger.batch_max,
            settings.forwarding.mailbox_max,
        )
        return keeper, keeper, None
    if problems := http_ledger_problems(settings):
        raise ConfigError(problems)
    assert settings.ledger.base_url is not None  # noqa: S101 - http_ledger_problems has looked
    remote = HttpLedger(
        settings.ledger.base_url,
        settings.ledger.admin_keys[0].reveal(),
        connect_timeout_s=settings.ledger.connect_timeout_s,
        timeout_s=settings.forwarding.attempt_timeout_s,
        connections_max=settings.forwarding.in_flight_max,
    )
    return remote, None, remote


def _settle_app(settings: Settings, working: Sequence[Route], readiness: Readiness) -> QuartTrio:
    surface = Surface(
        service="clawsettle",
        headers={"x-clawsettle-version": settings.daemon.version_header},
        json_type="application/json; charset=utf-8",
        body_max_bytes=settings.daemon.body_max_bytes,
        request_max=settings.daemon.request_max,
    )
    routes: list[Route] = []
    document: dict[str, object] = {}
    status = StatusRoutes(readiness, lambda: document, lambda: routes)
    routes += [*status.routes(), *working]
    document |= openapi_document(
        routes,
        surface,
        title="clawsettle",
        version=__version__,
        description="Stripe events reach a double-entry ledger exactly once.",
        security_schemes=SETTLE_SCHEMES,
    )
    return build_app(routes, surface=surface)


def _ledger_app(settings: Settings, keeper: LedgerKeeper) -> QuartTrio:
    ledger = settings.ledger
    surface = Surface(
        service="ledger",
        headers={"x-ledger-version": _LEDGER_VERSION},
        json_type="application/json",
        guard=ledger_guard(
            {
                LEDGER_ADMIN: ledger.admin_keys,
                LEDGER_VERIFY: ledger.verify_tokens,
                LEDGER_RISK: ledger.risk_keys,
            }
        ),
        guard_codes=("UNAUTHORIZED", "LEDGER_ADMIN_KEY_MISSING"),
        malformed_path_code="INVALID_REQUEST",
        body_max_bytes=settings.daemon.body_max_bytes,
        request_max=settings.daemon.request_max,
    )
    document: dict[str, object] = {}
    routes = ledger_routes(keeper, LedgerReader(keeper.book.database), lambda: document)
    document |= openapi_document(
        routes,
        surface,
        title="clawsettle's embedded ledger",
        version=_LEDGER_VERSION,
        description="Accounts, settlements, transfers and risk holds in a double-entry book.",
        security_schemes=LEDGER_SCHEMES,
        schemas=SCHEMAS,
    )
    return build_app(routes, surface=surface)
