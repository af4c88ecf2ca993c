"""The parts of a daemon that run netting, put together."""

from attrs import frozen

from clawsettle.actors.netting_clock import NettingClock
from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.actors.supervisor import Actor
from clawsettle.clients.ledger import Ledger
from clawsettle.config import Settings, netting_defaults
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting import NettingRuns
from clawsettle.storage.netting_schedule import NettingSchedule


@frozen(eq=False)
class NettingParts:
    """What runs netting in a daemon; actors in the order in which they must stop."""

    runner: NettingRunner
    actors: tuple[Actor, ...]


def assemble_netting(settings: Settings, database: Database, ledger: Ledger) -> NettingParts:
    """Put the parts together; without a schedule there is no clock."""
    configured = settings.netting
    runner = NettingRunner(
        NettingRuns(database, configured.lease_s, ledger.repeats_safely),
        NettingSteps(ledger, configured.transfer_timeout_s),
        netting_defaults(settings),
        configured.batch_max,
        configured.in_flight_max,
        configured.poll_s,
    )
    if not configured.every_s:
        return NettingParts(runner, (runner,))
    schedule = NettingSchedule(database, ledger.repeats_safely)
    clock = NettingClock(schedule, runner, configured.every_s, configured.poll_s)
    return NettingParts(runner, (clock, runner))
