"""The parts of a daemon that run netting, put together."""

from clawsettle.actors.netting_clock import NettingClock
from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.clients.ledger import Ledger
from clawsettle.config import Settings, netting_defaults
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting import NettingRuns
from clawsettle.storage.netting_schedule import NettingSchedule


def assemble_netting(settings: Settings, database: Database, ledger: Ledger) -> NettingRunner:
    """Put the runner together."""
    configured = settings.netting
    return NettingRunner(
        NettingRuns(database, configured.lease_s, ledger.repeats_safely),
        NettingSteps(ledger, configured.transfer_timeout_s),
        netting_defaults(settings),
        configured.batch_max,
        configured.in_flight_max,
        configured.poll_s,
    )


def assemble_netting_clock(settings: Settings, runner: NettingRunner) -> NettingClock | None:
    """Return what starts runs by the clock; None when the settings name no interval."""
    every_s, poll_s = settings.netting.every_s, settings.netting.poll_s
    if not every_s:
        return None
    return NettingClock(NettingSchedule(runner.runs.database), runner, every_s, poll_s)
