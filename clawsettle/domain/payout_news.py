"""What a Stripe event says of a payout or of a connected account, and whether it can be true.

News is compared with the payout it is about before it changes anything: another amount, currency or
account puts the event aside, and the payout goes on waiting for the true one. News of a payout
that nobody here knows is parked until one with that id is submitted.
Source: payouts contract section 7; 11 (7 to 10). webhook-forwarding contract W9 to W11.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.instants import iso_from_unix
from clawsettle.domain.money import currency_code, minor_from_json
from clawsettle.domain.payout_transitions import contradicts, is_overruled
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderStatus, Sent
from clawsettle.domain.stripe_events import StripeEvent, short_text

_SAYS: Mapping[str, ProviderStatus | None] = {
    "payout.created": None,
    "payout.updated": None,
    "payout.paid": ProviderStatus.PAID,
    "payout.failed": ProviderStatus.FAILED,
    "payout.canceled": ProviderStatus.CANCELED,
}
"""What an event's type says; where it says nothing the object's own status does."""


class NewsState(StrEnum):
    """What became of a piece of news; the values are the stored words."""

    PARKED = "parked"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    QUARANTINED = "quarantined"


@frozen
class PayoutNews:
    """What one event says of a payout at the provider; the amount in minor units.

    ``named_payout_id`` and ``account_id`` are what its metadata names, ``connect_account_id`` the
    account at the provider that the event is of.
    """

    event_id: str
    event_type: str
    external_payout_id: str
    named_payout_id: str | None
    connect_account_id: str | None
    account_id: str | None
    amount_minor: int
    currency: str
    status: ProviderStatus

    @property
    def sent(self) -> Sent:
        """Return it as the provider's answer to a question would be."""
        return Sent(self.external_payout_id, status=self.status)

    @property
    def source(self) -> str:
        """Return who brought it, as the ledger's metadata names it."""
        return f"{self.event_type}:{self.event_id}"


@frozen
class AccountNews:
    """Whether a connected account may be paid out to, as the provider said at ``said_at``."""

    connect_account_id: str
    active: bool
    said_at: datetime


@frozen
class Verdict:
    """What is to become of a piece of news, and why when it is put aside."""

    state: NewsState
    reason: str | None = None


def read_news(event: StripeEvent) -> PayoutNews | None:
    """Return what an event says of a payout; None when it is about no payout, or not legible."""
    if event.event_type not in _SAYS:
        return None
    subject = event.object
    external_id = short_text(subject.get("id"))
    amount_minor = minor_from_json(subject.get("amount"))
    currency = currency_code(subject.get("currency"))
    status = _SAYS[event.event_type] or _status(subject.get("status"))
    if external_id is None or amount_minor is None or currency is None or status is None:
        return None
    metadata = subject.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    return PayoutNews(
        event.event_id,
        event.event_type,
        external_id,
        short_text(named.get("payout_id")),
        event.account,
        short_text(named.get("account_id")),
        amount_minor,
        currency,
        status,
    )


def read_account_news(event: StripeEvent) -> AccountNews | None:
    """Return what an ``account.updated`` event says; None for every other event."""
    if event.event_type != "account.updated" or iso_from_unix(event.created) is None:
        return None
    account_id = short_text(event.object.get("id"))
    if account_id is None or not isinstance(event.created, int | float):
        return None
    said_at = datetime.fromtimestamp(int(event.created), UTC)
    return AccountNews(account_id, is_payable(event.object), said_at)


def is_payable(account: Mapping[str, object]) -> bool:
    """Return whether Stripe's account object says that it can be paid out to."""
    capabilities = account.get("capabilities")
    transfers = capabilities.get("transfers") if isinstance(capabilities, dict) else None
    return account.get("payouts_enabled") is True and transfers == "active"


def judge_news(told: PayoutNews, payout: Payout | None) -> Verdict:
    """Compare a piece of news with the payout it seems to be about.

    One that has not been sent yet cannot be what its provider speaks of.
    """
    if payout is None or payout.status is PayoutStatus.INITIATED:
        return Verdict(NewsState.PARKED)
    compared = {
        "amount": (told.amount_minor, payout.amount_minor),
        "currency": (told.currency, payout.currency),
        "account": (told.account_id or payout.account_id, payout.account_id),
        "connected account": (
            told.connect_account_id or payout.connect_account_id,
            payout.connect_account_id,
        ),
        "provider's id": (
            told.external_payout_id,
            payout.external_payout_id or told.external_payout_id,
        ),
        "payout id": (told.named_payout_id or payout.payout_id, payout.payout_id),
    }
    for name, (said, known) in compared.items():
        if said != known:
            return Verdict(
                NewsState.QUARANTINED, f"the event's {name} is {said}, the payout's is {known}"
            )
    if contradicts(payout, told.status):
        return Verdict(
            NewsState.QUARANTINED,
            f"{told.status} at the provider, but the payout is {payout.status} here",
        )
    if is_overruled(payout, told.status):
        return Verdict(NewsState.SUPERSEDED)
    return Verdict(NewsState.APPLIED)


def _status(word: object) -> ProviderStatus | None:
    return next((status for status in ProviderStatus if status == word), None)
