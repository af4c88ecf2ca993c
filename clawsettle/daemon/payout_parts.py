"""The parts of a daemon that make payouts, put together; without a provider there are none."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from clawsettle.actors.onboarder import Onboarder
from clawsettle.actors.payout_janitor import PayoutJanitor
from clawsettle.actors.payout_keeper import PayoutKeeper
from clawsettle.actors.payout_steps import PayoutSteps
from clawsettle.actors.supervisor import Actor
from clawsettle.clients.ledger import Ledger
from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.config import PayoutSettings, Settings
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.payout_schedule import PayoutSchedule
from clawsettle.storage.bridge import Database
from clawsettle.storage.connect_accounts import ConnectAccounts
from clawsettle.storage.payouts import Payouts

if TYPE_CHECKING:
    from clawsettle.clients.stripe_connect import StripeConnect

CLAIM_BATCH_MAX = 500
BATCH_MAX = 256
# Payouts have no end of tries: one that cannot go on stays to be seen, and is tried again.
_NO_END = 2**31 - 1


@frozen(eq=False)
class PayoutParts:
    """What makes payouts in a daemon; actors in the order in which they must stop.

    ``listening`` is told the daemon's own address, ``close`` ends the provider's connections.
    """

    provider: PayoutProvider
    onboarder: Onboarder
    keeper: PayoutKeeper
    janitor: PayoutJanitor
    actors: tuple[Actor, ...]
    listening: Callable[[str], None]
    close: Callable[[], None]


def payout_schedule(settings: PayoutSettings) -> PayoutSchedule:
    """Return the waits that the settings name."""
    policy = RetryPolicy(settings.retry_base_s, settings.retry_max_s, _NO_END, _NO_END)
    return PayoutSchedule(settings.lease_s, policy, settings.ask_after_s)


def assemble_payouts(settings: Settings, database: Database, ledger: Ledger) -> PayoutParts | None:
    """Put the parts together; None when the settings name no provider."""
    if settings.payouts.provider == "off":
        return None
    provider, background, listening, close = _provider(settings)
    configured = settings.payouts
    payouts = Payouts(database, payout_schedule(configured))
    keeper = PayoutKeeper(
        payouts,
        PayoutSteps(ledger, provider, configured.step_timeout_s),
        configured.clearing_domain,
        configured.in_flight_max,
        configured.mailbox_max,
        BATCH_MAX,
    )
    janitor = PayoutJanitor(payouts, keeper, CLAIM_BATCH_MAX, configured.poll_s)
    accounts = ConnectAccounts(database)
    return PayoutParts(
        provider,
        Onboarder(accounts, ledger, provider, configured.step_timeout_s),
        keeper,
        janitor,
        (janitor, keeper, *background),
        listening,
        close,
    )


def _provider(
    settings: Settings,
) -> tuple[PayoutProvider, tuple[Actor, ...], Callable[[str], None], Callable[[], None]]:
    """Return the provider, what of it is an actor, who is told the address, and its end."""
    configured = settings.payouts
    if configured.provider == "stripe":
        stripe = open_stripe(settings)
        return stripe, (), lambda _address: None, stripe.close
    from clawsettle.sandbox.simulated_provider import SimulatedProvider

    simulated = SimulatedProvider(
        configured.onboard_base_url,
        settings.stripe.webhook_secrets[0].reveal(),
        livemode=settings.stripe.environment == "production",
    )
    return simulated, (simulated,), simulated.deliver_to, lambda: None


def open_stripe(settings: Settings) -> "StripeConnect":
    """Return Stripe as the settings name it; whoever has it closes it.

    Raises: ConfigError without a secret key.
    """
    from clawsettle.clients.stripe_connect import STRIPE_URL, StripeConnect

    configured = settings.payouts
    if settings.stripe.secret_key is None:
        raise ConfigError(["stripe.secret_key is not set, so Stripe cannot be asked"])
    return StripeConnect(
        settings.stripe.secret_key.reveal(),
        configured.onboard_refresh_url or configured.onboard_base_url,
        configured.onboard_return_url or configured.onboard_base_url,
        settings.stripe.connect_timeout_s,
        settings.stripe.api_timeout_s,
        configured.in_flight_max,
        settings.stripe.api_base_url or STRIPE_URL,
    )
