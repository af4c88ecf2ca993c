"""All routes of loss events, put together.

Source: loss-events contract section 2.
"""

from clawsettle.actors.loss_fanout import LossFanout
from clawsettle.config import Settings
from clawsettle.http.auth import LossReaders
from clawsettle.http.loss_events import LossEventRoutes
from clawsettle.http.loss_lists import LossListRoutes
from clawsettle.http.loss_schemas import outbox_view
from clawsettle.http.patience import Patience
from clawsettle.http.routing import Route
from clawsettle.storage.bridge import Database
from clawsettle.storage.loss_lists import LossLists


def loss_routes(
    settings: Settings, database: Database, patience: Patience, fanout: LossFanout
) -> list[Route]:
    """Return the routes."""
    admin, loss_events, view = settings.admin, settings.loss_events, outbox_view(settings)
    readers = LossReaders(admin.keys, loss_events.read_tokens)
    return [
        *LossEventRoutes(fanout, admin, loss_events, patience, view).routes(),
        *LossListRoutes(LossLists(database), readers, view).routes(),
    ]
