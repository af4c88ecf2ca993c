"""All routes of netting, put together.

Source: netting contract section 1; 10 (17).
"""

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.config import AdminSettings
from clawsettle.domain.netting_requests import NettingDefaults
from clawsettle.http.netting import NettingRoutes
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Route
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting_lists import NettingLists


def netting_routes(
    admin: AdminSettings,
    database: Database,
    patience: Patience,
    runner: NettingRunner,
    defaults: NettingDefaults,
    answer_deadline_s: float,
) -> list[Route]:
    """Return the routes."""
    lists = NettingLists(database)
    return NettingRoutes(runner, lists, admin, defaults, patience, answer_deadline_s).routes()
