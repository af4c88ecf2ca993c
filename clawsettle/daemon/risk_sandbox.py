"""Stand-ins of the targets of loss events: beside a daemon on a laptop, or on their own."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import trio
from attrs import evolve

from clawsettle.config import Address, Settings, given_target, load
from clawsettle.daemon.logs import configure_logs
from clawsettle.daemon.state_dir import sandbox_keys
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.loss_events import Target
from clawsettle.sandbox.risk_targets import open_risk_sandbox

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def with_stand_ins(
    given: Settings, state_dir: Path, bind: str
) -> AsyncIterator[tuple[Settings, str | None]]:
    """Give the settings in which each target without an address is a stand-in, and theirs.

    When every target has an address, none is started, and the second is None.

    Raises: ConfigError when ``bind`` is no address or cannot be bound.
    """
    lacking = [
        target
        for target in Target
        if target is not Target.LEDGER and given_target(given, target)[0] is None
    ]
    if not lacking:
        yield given, None
        return
    async with open_risk_sandbox(_address(bind), sandbox_keys(state_dir, given)) as sandbox:
        changes: dict[str, Any] = {}
        for target in lacking:
            address = sandbox.addresses[target]
            changes[f"{target}_base_url"] = address.base_url
            changes[f"{target}_keys"] = (address.key,)
        yield evolve(given, targets=evolve(given.targets, **changes)), sandbox.base_url


async def serve_stand_ins(state_dir: Path, config: Path | None, bind: str) -> None:
    """Run the stand-ins alone until SIGTERM or SIGINT; logs ``ready`` once they are there.

    Raises: as ``load`` does, and ConfigError when ``bind`` is no address or cannot be bound.
    """
    settings = load(config, environ=os.environ).settings
    configure_logs(settings.log.level, settings.log.format)
    keys = sandbox_keys(state_dir, settings)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_risk_sandbox(_address(bind), keys) as sandbox:
            _log.info("ready", sandbox_address=sandbox.base_url)
            await anext(aiter(signals))


def _address(bind: str) -> Address:
    try:
        return Address.parse(bind)
    except ValueError as error:
        raise ConfigError([f"the sandbox's address must be host:port, got {bind}"]) from error
