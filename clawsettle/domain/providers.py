"""What a payout provider is told, and what it can have answered.

An answer is a success, a refusal (final: the provider has not acted and will not) or unknown (it
may have acted). Unknown is never guessed away: ``PayoutProvider.look`` is asked first.
Source: payouts contract sections 3 and 7; 11 (7, 9, 20).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from attrs import frozen

KEY_LIFETIME = timedelta(hours=24)
"""How long a provider remembers an idempotency key at least (Stripe's documented time)."""


class ProviderStatus(StrEnum):
    """What a provider says of a payout; later words in this list overrule earlier ones.

    The order is what makes the news of one payout mean the same in any order of arrival: a payout
    that was paid can still fail, and one that failed or was canceled has given its money back.
    """

    PENDING = "pending"
    IN_TRANSIT = "in_transit"
    PAID = "paid"
    CANCELED = "canceled"
    FAILED = "failed"

    @property
    def rank(self) -> int:
        """Return the place in the order above."""
        return _RANK[self]


_RANK = {status: rank for rank, status in enumerate(ProviderStatus)}


@frozen
class PayoutOrder:
    """A payout as a provider is told of it; the amount in minor units.

    ``external_payout_id``, ``transfer_id`` and ``reversal_id`` are what is known so far of the
    provider's objects. ``keyed_at`` is when its idempotency keys were used first, at the earliest:
    after ``KEY_LIFETIME`` they protect nothing. ``attempt`` numbers the tries of what cannot have
    its effect twice by its nature, so that a stored refusal is not repeated to us for a day.
    ``metadata`` is the caller's.
    """

    payout_id: str
    account_id: str
    connect_account_id: str
    amount_minor: int
    currency: str
    keyed_at: datetime
    external_payout_id: str | None = None
    transfer_id: str | None = None
    reversal_id: str | None = None
    metadata: Mapping[str, object] | None = None
    attempt: int = 1

    @property
    def transfer_key(self) -> str:
        """Return the idempotency key of the transfer to the connected account."""
        return f"payout:transfer:{self.payout_id}"

    @property
    def send_key(self) -> str:
        """Return the idempotency key of the payout itself."""
        return f"payout:send:{self.payout_id}"

    @property
    def recall_key(self) -> str:
        """Return the idempotency key of this try to reverse the whole transfer."""
        return f"payout:recall:{self.payout_id}:{self.attempt}"

    @property
    def cancel_key(self) -> str:
        """Return the idempotency key of this try to cancel the payout."""
        return f"payout:cancel:{self.payout_id}:{self.attempt}"


@frozen
class Sent:
    """The provider has the payout: its ids there, and what it says of it."""

    external_payout_id: str
    transfer_id: str | None = None
    status: ProviderStatus = ProviderStatus.PENDING


@frozen
class Absent:
    """The provider has no such payout; ``transfer_id`` when the transfer for it exists already.

    ``reversal_id`` when that transfer has been reversed.
    """

    transfer_id: str | None = None
    reversal_id: str | None = None


@frozen
class Recalled:
    """What was transferred for the payout is back; no ``reversal_id`` where nothing had to be."""

    reversal_id: str | None = None


@frozen
class Declined:
    """The provider said no and will not act; its code, its HTTP status, a text for the log.

    ``transfer_id`` is there when the transfer was made and only the payout was refused.
    """

    code: str
    message: str
    http_status: int | None = None
    transfer_id: str | None = None


@frozen
class Unanswered:
    """No usable answer: the provider may have acted. ``transfer_id`` as far as that is known."""

    message: str
    http_status: int | None = None
    transfer_id: str | None = None


SendOutcome = Sent | Declined | Unanswered
LookOutcome = Sent | Absent | Unanswered
RecallOutcome = Recalled | Declined | Unanswered
CancelOutcome = Sent | Declined | Unanswered


@frozen
class ConnectAccount:
    """An account at the provider, as it stands: whether it may be paid out to, and its link."""

    connect_account_id: str
    active: bool
    onboarding_url: str


@frozen
class ProviderPayout:
    """A payout as the provider lists it, for reconciliation; ``created_at`` is UTC.

    ``payout_id`` is what its metadata says; None for one that is not ours.
    """

    external_payout_id: str
    payout_id: str | None
    connect_account_id: str
    amount_minor: int
    currency: str
    status: ProviderStatus
    created_at: datetime
    transfer_id: str | None = None
    reversed: bool = False
