"""All routes of netting, put together.

Source: netting contract section 1; 10 (17).
"""

from clawsettle.actors.netting_reporter import NettingReporter
from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.clients.ledger import Ledger
from clawsettle.config import Settings
from clawsettle.http.netting import NettingRoutes
from clawsettle.http.netting_reports import NettingReportRoutes
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Route
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting_lists import NettingLists
from clawsettle.storage.netting_reports import NettingReports


def netting_routes(
    settings: Settings,
    database: Database,
    patience: Patience,
    runner: NettingRunner,
    ledger: Ledger,
) -> list[Route]:
    """Return the routes."""
    deadline_s = settings.netting.answer_deadline_s
    lists = NettingLists(database)
    reporter = NettingReporter(NettingReports(database), ledger)
    return [
        *NettingRoutes(runner, lists, settings.admin, patience, deadline_s).routes(),
        *NettingReportRoutes(reporter, settings.admin).routes(),
    ]
