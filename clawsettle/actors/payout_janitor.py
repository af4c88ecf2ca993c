"""Takes up the payouts that are due: waiting ones, and those whose holder let go of them.

Owns: no rows of its own; it leases due payouts and hands them to the keeper, which asks the
provider about those whose outcome is unknown or that have waited too long for news.
Guarantees: a payout whose time has come, or whose lease has run out on any daemon, is claimed
within one poll interval, as far as the keeper has room.
Stops: on ``close``, after the claim under way.
"""

from attrs import define, field

from clawsettle.actors.payout_keeper import PayoutKeeper
from clawsettle.actors.timer import Timer
from clawsettle.storage.payouts import Payouts


@define(eq=False)
class PayoutJanitor:
    """See the module. ``poll_s`` is the interval, ``batch_max`` the most payouts of one claim."""

    payouts: Payouts
    keeper: PayoutKeeper
    batch_max: int
    poll_s: float
    name: str = field(default="payout_janitor", init=False)
    _timer: Timer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._timer = Timer(self.name, self.poll_s)

    def ring(self) -> None:
        """Have it look soon."""
        self._timer.ring()

    async def run(self) -> None:
        """Claim what is due until closed."""
        await self._timer.run(self._claim)

    def close(self) -> None:
        """Claim no more."""
        self._timer.stop()

    async def _claim(self) -> bool:
        most = min(self.batch_max, self.keeper.room)
        if not most:
            return False
        leased = await self.payouts.claim_due(most)
        self.keeper.take(leased)
        return len(leased) == most
