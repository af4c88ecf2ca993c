"""The part of a daemon that runs netting, put together."""

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.actors.netting_steps import NettingSteps
from clawsettle.clients.ledger import Ledger
from clawsettle.config import Settings, netting_defaults
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting import NettingRuns


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
