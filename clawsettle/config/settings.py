"""Every key of clawsettle.toml with its default, unit and range, as frozen classes.

The order here is the order of clawsettle.toml and of ``clawsettle config check``. A key that says
``env`` is also read from that environment name; every key is read from
``CLAWSETTLE_<SECTION>__<KEY>``. To add a key or a section, declare it here and describe it in
clawsettle.toml: nothing else has to change.
"""

# ruff: noqa: RUF009 - the calls in the class bodies declare attrs fields, not shared defaults

import re
from typing import Any, Literal

import attrs

from clawsettle import __version__
from clawsettle.config.address import Address
from clawsettle.config.keys import (
    EnvName,
    KeyProblem,
    address,
    choice,
    flag,
    seconds,
    secret,
    secrets,
    text,
    texts,
    whole,
)
from clawsettle.config.secret import Secret
from clawsettle.config.urls import (
    is_database_url,
    is_service_url,
    show_database_url,
    without_last_slash,
)
from clawsettle.domain.accounts import account_ref
from clawsettle.domain.netting_requests import LIMIT_MAX, NettingDefaults
from clawsettle.domain.onboarding import URL_WANTED, is_onboarding_url

_DAY_S = 86_400
_CURRENCY = re.compile(r"[A-Z]{3}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,98}[!-~])?")
_API_KEY = re.compile(r"[!-~]{1,500}")
_CLEARING_DOMAIN = "1 to 255 printable characters"
_SERVICE_URL = "an http:// or https:// URL with a host and without user, query or fragment"


def _is_currency(code: str) -> bool:
    return _CURRENCY.fullmatch(code) is not None


def _is_header_value(value: str) -> bool:
    return _HEADER_VALUE.fullmatch(value) is not None


def _is_api_key(key: str) -> bool:
    return _API_KEY.fullmatch(key) is not None


def _is_clearing_domain(domain: str) -> bool:
    return domain.isprintable() and account_ref(f"clearing:{domain}") is not None


def _service_url(env: str | None = None) -> Any:
    return text(None, _SERVICE_URL, is_service_url, env=env, clean=without_last_slash)


def _check_half_of_lease(key: str, timeout_s: float, section: str, lease_s: float) -> None:
    if 2 * timeout_s >= lease_s:
        raise KeyProblem(
            key,
            f"must be shorter than half of {section}.lease_s ({lease_s:g} seconds), "
            f"got {timeout_s:g}",
        )


@attrs.frozen(kw_only=True)
class DaemonSettings:
    """``[daemon]``: the process and its public HTTP server."""

    bind: Address = address("127.0.0.1:8787")
    drain_s: float = seconds(10.0, 0.01, 3600)
    body_max_bytes: int = whole(1_048_576, 1024, 67_108_864, "bytes")
    version_header: str = text(
        __version__, "1 to 100 printable ASCII characters", _is_header_value, env="SETTLE_VERSION"
    )
    request_max: int = whole(1000, 1, 100_000, "requests")


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """``[database]``: the PostgreSQL that holds all state."""

    url: Secret | None = secret(
        "DATABASE_URL", "a postgresql:// URL", is_database_url, show_database_url
    )
    pool_max: int = whole(8, 1, 500, "connections")
    statement_timeout_s: float = seconds(10.0, 0.01, 3600)


@attrs.frozen(kw_only=True)
class LogSettings:
    """``[log]``: what is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = choice(
        "debug", "info", "warning", "error", default="info"
    )
    format: Literal["auto", "json", "text"] = choice("auto", "json", "text", default="auto")


@attrs.frozen(kw_only=True)
class AdminSettings:
    """``[admin]``: who may call the operator's routes."""

    keys: tuple[Secret, ...] = secrets(EnvName("SETTLE_ADMIN_KEY"))


@attrs.frozen(kw_only=True)
class AuthSettings:
    """``[auth]``: which routes ask for an admin key."""

    payouts: Literal["admin", "open"] = choice("admin", "open", default="admin")


@attrs.frozen(kw_only=True)
class StripeSettings:
    """``[stripe]``: which webhook events are believed and taken, and how Stripe is reached."""

    webhook_secrets: tuple[Secret, ...] = secrets(EnvName("STRIPE_WEBHOOK_SIGNING_SECRET"))
    environment: Literal["production", "staging"] = choice(
        "production",
        "staging",
        default="production",
        env="SETTLE_ENV",
        aliases={"prod": "production", "live": "production", "stage": "staging"},
    )
    allow_testmode_in_production: bool = flag(
        default=False, env="STRIPE_ALLOW_TESTMODE_EVENTS_IN_PROD"
    )
    tolerance_s: int = whole(300, 1, _DAY_S, "seconds")
    future_skew_s: int = whole(300, 1, _DAY_S, "seconds")
    currencies: tuple[str, ...] = texts(
        ("USD",), "a list of three-letter upper-case currency codes, at least one", _is_currency
    )
    unmappable: Literal["refuse", "quarantine"] = choice("refuse", "quarantine", default="refuse")
    secret_key: Secret | None = secret(
        "STRIPE_SECRET_KEY",
        "1 to 500 printable ASCII characters without blanks",
        _is_api_key,
        lambda _key: "hidden (1 set)",
    )
    api_base_url: str | None = _service_url()
    connect_timeout_s: float = seconds(3.0, 0.01, 300)
    api_timeout_s: float = seconds(8.0, 0.01, 600)


@attrs.frozen(kw_only=True)
class ForwardingSettings:
    """``[forwarding]``: how accepted events reach the ledger, and when they are tried again.

    ``retry_base_s`` above ``retry_max_s`` is allowed: the delay is then ``retry_max_s``.
    Raises: KeyProblem unless ``attempt_timeout_s`` is shorter than half of ``lease_s``.
    """

    acknowledge: Literal["attempted", "committed"] = choice(
        "attempted", "committed", default="attempted"
    )
    answer_deadline_s: float = seconds(8.0, 0.01, 600)
    attempt_timeout_s: float = seconds(10.0, 0.01, 600)
    lease_s: float = seconds(30.0, 0.02, 3600)
    retry_batch_limit: int = whole(25, 1, 200, "events", env="FORWARDING_RETRY_BATCH_LIMIT")
    retry_base_s: int = whole(15, 1, _DAY_S, "seconds", env="FORWARDING_RETRY_BASE_SECONDS")
    retry_max_s: int = whole(300, 1, _DAY_S, "seconds", env="FORWARDING_RETRY_MAX_SECONDS")
    attempts_max: int = whole(1000, 1, 1_000_000, "attempts")
    age_max_s: int = whole(302_400, 1, 31_536_000, "seconds")
    retry_budget_s: float = seconds(20.0, 0.01, 600)
    poll_s: float = seconds(2.0, 0.01, 3600)
    in_flight_max: int = whole(64, 1, 10_000, "attempts")
    mailbox_max: int = whole(2000, 1, 1_000_000, "messages")

    def __attrs_post_init__(self) -> None:
        # A row may wait for one round of attempts before its own, all within one lease.
        _check_half_of_lease(
            "attempt_timeout_s", self.attempt_timeout_s, "forwarding", self.lease_s
        )


@attrs.frozen(kw_only=True)
class LedgerSettings:
    """``[ledger]``: the ledger, inside this process or behind HTTP.

    Only ``mode`` decides: ``base_url`` alone switches nothing.
    """

    mode: Literal["embedded", "http"] = choice("embedded", "http", default="embedded")
    base_url: str | None = _service_url("LEDGER_BASE_URL")
    # LEDGER_ADMIN_KEY is one key, commas and all: the contract rotates through the JSON array.
    admin_keys: tuple[Secret, ...] = secrets(
        EnvName("LEDGER_ADMIN_KEY", "whole"), EnvName("LEDGER_ADMIN_KEYS_JSON", "json")
    )
    verify_tokens: tuple[Secret, ...] = secrets(EnvName("LEDGER_SETTLEMENT_VERIFY_TOKEN"))
    risk_keys: tuple[Secret, ...] = secrets(EnvName("LEDGER_RISK_KEY"))
    bind: Address = address("127.0.0.1:8788")
    currency: str = text("USD", "a three-letter upper-case currency code", _is_currency)
    connect_timeout_s: float = seconds(3.0, 0.01, 300)
    batch_max: int = whole(500, 1, 10_000, "requests")
    strict_accounts: bool = flag(default=False)


@attrs.frozen(kw_only=True)
class PayoutSettings:
    """``[payouts]``: who sends payouts, and how their steps are worked on.

    ``retry_base_s`` above ``retry_max_s`` is allowed: the delay is then ``retry_max_s``.
    Raises: KeyProblem unless ``step_timeout_s`` is shorter than half of ``lease_s``.
    """

    provider: Literal["off", "simulated", "stripe"] = choice(
        "off", "simulated", "stripe", default="off"
    )
    clearing_domain: str = text(
        "clawsettle.payouts",
        _CLEARING_DOMAIN,
        _is_clearing_domain,
        env="PAYOUTS_CLEARING_DOMAIN",
    )
    stuck_minutes: int = whole(60, 1, 43_200, "minutes", env="PAYOUT_STUCK_MINUTES_DEFAULT")
    onboard_base_url: str = text(
        "https://dashboard.stripe.com/connect/accounts",
        _SERVICE_URL,
        is_service_url,
        env="STRIPE_CONNECT_ONBOARD_BASE_URL",
        clean=without_last_slash,
    )
    onboard_refresh_url: str | None = text(None, URL_WANTED, is_onboarding_url)
    onboard_return_url: str | None = text(None, URL_WANTED, is_onboarding_url)
    answer_deadline_s: float = seconds(20.0, 0.01, 600)
    step_timeout_s: float = seconds(10.0, 0.01, 600)
    lease_s: float = seconds(30.0, 0.02, 3600)
    retry_base_s: int = whole(15, 1, _DAY_S, "seconds")
    retry_max_s: int = whole(300, 1, _DAY_S, "seconds")
    ask_after_s: int = whole(3600, 1, _DAY_S, "seconds")
    poll_s: float = seconds(2.0, 0.01, 3600)
    in_flight_max: int = whole(64, 1, 10_000, "payouts")
    mailbox_max: int = whole(2000, 1, 1_000_000, "messages")

    def __attrs_post_init__(self) -> None:
        _check_half_of_lease("step_timeout_s", self.step_timeout_s, "payouts", self.lease_s)


@attrs.frozen(kw_only=True)
class NettingSettings:
    """``[netting]``: where paid payouts are netted to, how much at once, and when by itself.

    Raises: KeyProblem unless ``transfer_timeout_s`` is shorter than half of ``lease_s``.
    """

    source_clearing_domain: str | None = text(
        None, _CLEARING_DOMAIN, _is_clearing_domain, env="NETTING_SOURCE_CLEARING_DOMAIN"
    )
    target_clearing_domain: str = text(
        "clawsettle.netting",
        _CLEARING_DOMAIN,
        _is_clearing_domain,
        env="NETTING_TARGET_CLEARING_DOMAIN",
    )
    target_clearing_domains: tuple[str, ...] = texts(
        (), f"a list of texts of {_CLEARING_DOMAIN}", _is_clearing_domain
    )
    default_limit: int = whole(100, 1, LIMIT_MAX, "payouts", env="NETTING_RUN_DEFAULT_LIMIT")
    every_s: int = whole(0, 60, _DAY_S, "seconds", or_zero=True)
    answer_deadline_s: float = seconds(20.0, 0.01, 600)
    transfer_timeout_s: float = seconds(10.0, 0.01, 600)
    lease_s: float = seconds(30.0, 0.02, 3600)
    poll_s: float = seconds(2.0, 0.01, 3600)
    in_flight_max: int = whole(64, 1, 10_000, "transfers")
    batch_max: int = whole(256, 1, 10_000, "entries")

    def __attrs_post_init__(self) -> None:
        _check_half_of_lease("transfer_timeout_s", self.transfer_timeout_s, "netting", self.lease_s)


@attrs.frozen(kw_only=True)
class LossEventSettings:
    """``[loss_events]``: who may read loss events, and how they reach their targets.

    ``retry_base_s`` above ``retry_max_s`` is allowed: the delay is then ``retry_max_s``.
    Raises: KeyProblem unless ``attempt_timeout_s`` is shorter than half of ``lease_s``.
    """

    read_tokens: tuple[Secret, ...] = secrets(EnvName("SETTLE_LOSS_READ_TOKEN"))
    attempt_timeout_s: float = seconds(10.0, 0.01, 600)
    connect_timeout_s: float = seconds(3.0, 0.01, 300)
    lease_s: float = seconds(30.0, 0.02, 3600)
    retry_batch_limit: int = whole(25, 1, 500, "deliveries", env="LOSS_FORWARD_RETRY_BATCH_LIMIT")
    retry_base_s: int = whole(15, 1, _DAY_S, "seconds")
    retry_max_s: int = whole(300, 1, _DAY_S, "seconds")
    attempts_max: int = whole(1000, 1, 1_000_000, "attempts")
    age_max_s: int = whole(604_800, 1, 31_536_000, "seconds")
    alert_after_s: int = whole(900, 1, 31_536_000, "seconds")
    retry_budget_s: float = seconds(20.0, 0.01, 600)
    poll_s: float = seconds(2.0, 0.01, 3600)
    in_flight_max: int = whole(32, 1, 10_000, "attempts")
    mailbox_max: int = whole(2000, 1, 1_000_000, "messages")
    breaker_failures_max: int = whole(5, 1, 10_000, "failures")
    breaker_open_s: float = seconds(15.0, 0.01, 3600)

    def __attrs_post_init__(self) -> None:
        _check_half_of_lease(
            "attempt_timeout_s", self.attempt_timeout_s, "loss_events", self.lease_s
        )


@attrs.frozen(kw_only=True)
class TargetSettings:
    """``[targets]``: where loss events are told, besides the ledger, and with which key.

    A target of which either is missing is not configured: what is meant for it waits.
    """

    escrow_base_url: str | None = _service_url("ESCROW_BASE_URL")
    escrow_keys: tuple[Secret, ...] = secrets(EnvName("ESCROW_RISK_KEY", "whole"))
    clawinsure_base_url: str | None = _service_url("CLAWINSURE_BASE_URL")
    clawinsure_keys: tuple[Secret, ...] = secrets(EnvName("INSURE_RISK_KEY", "whole"))
    clawincome_base_url: str | None = _service_url("CLAWINCOME_BASE_URL")
    clawincome_keys: tuple[Secret, ...] = secrets(EnvName("INCOME_RISK_KEY", "whole"))
    clawbounties_base_url: str | None = _service_url("CLAWBOUNTIES_BASE_URL")
    clawbounties_keys: tuple[Secret, ...] = secrets(EnvName("BOUNTIES_RISK_KEY", "whole"))


@attrs.frozen(kw_only=True)
class DeliveryLogSettings:
    """``[delivery_log]``: the record of every webhook delivery."""

    retention_days: int = whole(90, 1, 36_500, "days")


@attrs.frozen(kw_only=True)
class Settings:
    """The whole configuration; ``Settings()`` is all defaults.

    A value made in code passes the same rules as one that was read. Raises: KeyProblem.
    Source: webhook-forwarding 2, W21; ledger-api 1; payouts 1; netting 1; loss-events 1.
    """

    daemon: DaemonSettings = attrs.field(factory=DaemonSettings)
    database: DatabaseSettings = attrs.field(factory=DatabaseSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    admin: AdminSettings = attrs.field(factory=AdminSettings)
    auth: AuthSettings = attrs.field(factory=AuthSettings)
    stripe: StripeSettings = attrs.field(factory=StripeSettings)
    forwarding: ForwardingSettings = attrs.field(factory=ForwardingSettings)
    ledger: LedgerSettings = attrs.field(factory=LedgerSettings)
    payouts: PayoutSettings = attrs.field(factory=PayoutSettings)
    netting: NettingSettings = attrs.field(factory=NettingSettings)
    loss_events: LossEventSettings = attrs.field(factory=LossEventSettings)
    targets: TargetSettings = attrs.field(factory=TargetSettings)
    delivery_log: DeliveryLogSettings = attrs.field(factory=DeliveryLogSettings)


def netting_defaults(settings: Settings) -> NettingDefaults:
    """Return what a netting run has that its request does not say, and where it may move money to.

    Source: netting 1; 10 (13).
    """
    netting = settings.netting
    return NettingDefaults(
        netting.source_clearing_domain or settings.payouts.clearing_domain,
        netting.target_clearing_domain,
        netting.default_limit,
        frozenset({netting.target_clearing_domain, *netting.target_clearing_domains}),
    )
