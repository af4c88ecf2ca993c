"""When a payout is due again, and whether whoever has worked on it goes on.

Whoever has leased a payout does one step after the other until it rests: until it has ended, waits
for its provider, or a step came to nothing. Nothing here reads a clock.
Source: new; payouts contract 11 (1, 5, 9).
"""

from datetime import datetime, timedelta

import attrs
from attrs import frozen

from clawsettle.domain.forwarding import RetryPolicy, backoff_s
from clawsettle.domain.payout_events import PayoutEvent, StepFailed
from clawsettle.domain.payouts import Payout, PayoutStatus

_WAITS = frozenset({PayoutStatus.SUBMITTED, PayoutStatus.UNKNOWN})
_ASK_MAX = timedelta(days=1)


@frozen
class PayoutSchedule:
    """The waits: ``lease_s`` of who works, ``policy`` after failures, ``ask_after_s`` for news.

    A provider that is silent is asked after ``ask_after_s``, then ever more rarely, up to a day.
    """

    lease_s: float
    policy: RetryPolicy
    ask_after_s: float

    def owned(self, payout: Payout, event: PayoutEvent, *, now: datetime) -> Payout:
        """Return a payout after an event of the lease's holder, who keeps it unless it rests."""
        if payout.status.is_end:
            return attrs.evolve(payout, due_at=None, lease_token=None)
        if isinstance(event, StepFailed):
            wait_s = backoff_s(payout.attempts, self.policy, seed=payout.payout_id)
            return self._rests(payout, now, timedelta(seconds=wait_s))
        if payout.status in _WAITS:
            return self._rests(payout, now, self._until_asked(payout, now))
        due_at = now + timedelta(seconds=self.lease_s)
        return attrs.evolve(payout, due_at=due_at, attempts=max(payout.attempts, 1))

    def _rests(self, payout: Payout, now: datetime, wait: timedelta) -> Payout:
        return attrs.evolve(payout, due_at=now + wait, lease_token=None)

    def _until_asked(self, payout: Payout, now: datetime) -> timedelta:
        """Return half the time that it has waited already: rarer and rarer, within bounds."""
        known = payout.status is PayoutStatus.SUBMITTED
        least_s = self.ask_after_s if known else self.policy.base_s
        most = _ASK_MAX if known else timedelta(seconds=max(self.policy.max_s, least_s))
        waited = now - (payout.status_at if known else payout.keyed_at)
        return min(most, max(timedelta(seconds=least_s), waited / 2))


def due_by_news(before: Payout, after: Payout, *, now: datetime) -> Payout:
    """Return a payout after news of its provider; whoever holds a lease on it keeps that.

    Its holder may begin the new step at once, so whoever comes after him has to look first.
    """
    if after.status is before.status:
        return after
    if after.lease_token is not None:
        return attrs.evolve(after, attempts=1)
    return attrs.evolve(after, due_at=None if after.status.is_end else now)
