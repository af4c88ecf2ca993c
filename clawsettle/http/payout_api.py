"""All routes of payouts, put together.

Source: payouts contract section 6.
"""

from clawsettle.actors.onboarder import Onboarder
from clawsettle.actors.payout_keeper import PayoutKeeper
from clawsettle.config import Settings
from clawsettle.http.auth import Door
from clawsettle.http.onboarding import OnboardingRoute
from clawsettle.http.patience import Patience
from clawsettle.http.payout_lists import PayoutListRoutes
from clawsettle.http.payouts import PayoutRoutes
from clawsettle.http.routing import Route
from clawsettle.storage.bridge import Database
from clawsettle.storage.payout_lists import PayoutLists


def payout_routes(
    settings: Settings,
    database: Database,
    patience: Patience,
    keeper: PayoutKeeper | None,
    onboarder: Onboarder | None,
) -> list[Route]:
    """Return the routes; those that need a provider answer 503 where there is none."""
    admin, deadline_s = settings.admin, settings.payouts.answer_deadline_s
    door = Door(admin.keys, is_open=settings.auth.payouts == "open")
    lists = PayoutLists(database)
    return [
        OnboardingRoute(onboarder, door, patience, deadline_s).route(),
        *PayoutListRoutes(lists, admin, settings.payouts.stuck_minutes).routes(),
        *PayoutRoutes(keeper, onboarder, lists, door, admin, patience, deadline_s).routes(),
    ]
