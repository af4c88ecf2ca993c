"""What can happen to a payout: what came of a step, and what its provider says of it.

Source: payouts contract section 7; 11 (7, 9, 10).
"""

from collections.abc import Mapping

from attrs import frozen

from clawsettle.domain.providers import (
    Absent,
    Declined,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)


@frozen
class LockApplied:
    """The ledger holds the amount, by this event."""

    ledger_event_id: str


@frozen
class LockRefused:
    """The ledger will not hold the amount, for good."""

    code: str
    message: str


@frozen
class SendAnswered:
    """The provider has the payout."""

    sent: Sent


@frozen
class SendDeclined:
    """The provider will not send it."""

    declined: Declined


@frozen
class SendUnanswered:
    """The provider may have sent it."""

    unanswered: Unanswered


@frozen
class NotFound:
    """The provider was asked and has not sent it: it may be sent."""

    absent: Absent


@frozen
class Withdrawn:
    """It was not sent, and is not to be."""

    absent: Absent
    source: str


@frozen
class ProviderPending:
    """The provider has it and has not paid it yet."""

    sent: Sent
    source: str


@frozen
class ProviderPaid:
    """The provider has paid it."""

    sent: Sent
    source: str


@frozen
class ProviderCanceled:
    """The provider has canceled it: it was not paid."""

    sent: Sent
    source: str


@frozen
class ProviderFailed:
    """It failed at the provider, perhaps after it was paid."""

    sent: Sent
    source: str


@frozen
class RecallDone:
    """What was transferred for it at the provider is back."""

    recalled: Recalled


@frozen
class Finalized:
    """The ledger has moved the held amount to the clearing account, by this event."""

    ledger_event_id: str


@frozen
class RolledBack:
    """The ledger has released the held amount, by this event."""

    ledger_event_id: str


@frozen
class Returned:
    """The ledger has moved the amount back from the clearing account, by this event."""

    ledger_event_id: str


@frozen
class StepFailed:
    """A step came to nothing for now; it is tried again."""

    code: str
    message: str


News = ProviderPending | ProviderPaid | ProviderCanceled | ProviderFailed
PayoutEvent = (
    LockApplied
    | LockRefused
    | SendAnswered
    | SendDeclined
    | SendUnanswered
    | NotFound
    | Withdrawn
    | News
    | RecallDone
    | Finalized
    | RolledBack
    | Returned
    | StepFailed
)

NEWS: Mapping[ProviderStatus, type[News]] = {
    ProviderStatus.PENDING: ProviderPending,
    ProviderStatus.IN_TRANSIT: ProviderPending,
    ProviderStatus.PAID: ProviderPaid,
    ProviderStatus.CANCELED: ProviderCanceled,
    ProviderStatus.FAILED: ProviderFailed,
}


def news(sent: Sent, source: str) -> News:
    """Return the event of what the provider says of a payout; ``source`` says who told us."""
    return NEWS[sent.status](sent, source)
