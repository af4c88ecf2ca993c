"""All routes of netting, put together.

Source: netting contract section 1; 10 (17).
"""

from clawsettle.actors.netting_runner import NettingRunner
from clawsettle.config import Settings
from clawsettle.http.netting import NettingRoutes
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Route
from clawsettle.storage.bridge import Database
from clawsettle.storage.netting_lists import NettingLists


def netting_routes(
    settings: Settings, database: Database, patience: Patience, runner: NettingRunner
) -> list[Route]:
    """Return the routes."""
    deadline_s = settings.netting.answer_deadline_s
    lists = NettingLists(database)
    return NettingRoutes(runner, lists, settings.admin, patience, deadline_s).routes()
