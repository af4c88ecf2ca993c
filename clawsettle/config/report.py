"""What an operator asks of a configuration: is it enough to serve, and what is in effect."""

from collections.abc import Iterable

import attrs

from clawsettle.config.load import Loaded
from clawsettle.config.settings import Settings, netting_defaults
from clawsettle.config.sources import catalogue, generic_name
from clawsettle.domain.loss_events import Target

_SERVING_NEEDS = ("database.url", "stripe.webhook_secrets", "admin.keys", "ledger.admin_keys")
_HTTP_LEDGER_NEEDS = ("ledger.base_url", "ledger.admin_keys")
_STRIPE_PAYOUT_NEEDS = ("stripe.secret_key",)


@attrs.frozen
class Row:
    """One line of ``clawsettle config check``; ``value`` is safe to show."""

    key: str
    value: str
    origin: str


def serving_problems(settings: Settings) -> list[str]:
    """List why a daemon must not start: what is missing, with the ways to set it, and what clashes.

    An empty list means that every route and the ledger can be served.
    Source: webhook-forwarding 1, 2, W21; ledger-api 1; payouts 1, 11 (3).
    """
    is_remote = settings.ledger.mode == "http"
    needs = [*_SERVING_NEEDS]
    if is_remote:
        needs += _HTTP_LEDGER_NEEDS
    if settings.payouts.provider == "stripe":
        needs += _STRIPE_PAYOUT_NEEDS
    problems = _missing(settings, needs)
    foreign = set(settings.stripe.currencies) - {settings.ledger.currency}
    if foreign and not is_remote:
        problems.append(
            f"stripe.currencies: the embedded ledger keeps {settings.ledger.currency} only "
            f"(ledger.currency), so it would refuse {', '.join(sorted(foreign))}"
        )
    if settings.auth.payouts == "open" and settings.stripe.environment == "production":
        problems.append(
            'auth.payouts: "open" lets anybody create payouts, so stripe.environment must be '
            '"staging"'
        )
    return problems + netting_problems(settings)


def http_ledger_problems(settings: Settings) -> list[str]:
    """List what a ledger over HTTP cannot be asked without. Source: new."""
    return _missing(settings, _HTTP_LEDGER_NEEDS)


def netting_problems(settings: Settings) -> list[str]:
    """List the targets of netting that are also sources: money would go around in a circle.

    Source: netting 2, 10 (13).
    """
    defaults = netting_defaults(settings)
    sources = {defaults.source_clearing_domain, settings.payouts.clearing_domain}
    return [
        f'netting: "{domain}" is a source (payouts.clearing_domain, '
        "netting.source_clearing_domain), so it must not be among the targets "
        "(netting.target_clearing_domain, netting.target_clearing_domains)"
        for domain in sorted(sources & set(defaults.targets))
    ]


def production_problems(settings: Settings) -> list[str]:
    """List what only ``clawsettle dev`` starts with.

    Source: new.
    """
    if settings.payouts.provider == "simulated" and settings.stripe.environment == "production":
        return [
            'payouts.provider: "simulated" pays nobody, so stripe.environment must be "staging"'
        ]
    return []


def target_warnings(settings: Settings) -> list[str]:
    """List the targets of loss events of which only the address or only the key is set.

    Loss events are recorded nevertheless, and what is meant for such a target waits.
    Source: loss-events 1, 10 (10).
    """
    halves = [
        (target, _missing(settings, (f"targets.{target}_base_url", f"targets.{target}_keys")))
        for target in Target
        if target is not Target.LEDGER
    ]
    return [
        f"{missing[0]}; until then what is meant for {target} waits"
        for target, missing in halves
        if len(missing) == 1
    ]


def describe(loaded: Loaded) -> list[Row]:
    """List every key with its effective value and origin, in the order of clawsettle.toml.

    Secrets show as ``hidden (2 set)`` or ``not set``, the database URL without its password.
    Source: new.
    """
    return [
        Row(name, key.show(_value(loaded.settings, name)), loaded.origins[name])
        for name, key in catalogue(Settings).items()
    ]


def _missing(settings: Settings, names: Iterable[str]) -> list[str]:
    return [_how_to_set(name) for name in dict.fromkeys(names) if not _value(settings, name)]


def _value(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


def _how_to_set(name: str) -> str:
    section, key = name.split(".")
    declared = catalogue(Settings)[name]
    variables = [env.name for env in declared.env] or [generic_name(name)]
    file = f", or a file named by {variables[0]}_FILE" if declared.is_secret else ""
    return (
        f"{name} is not set: write {key} under [{section}] in clawsettle.toml, "
        f"or set {' or '.join(variables)} in the environment{file}"
    )
