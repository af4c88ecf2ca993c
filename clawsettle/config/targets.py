"""The targets of loss events that are reached over HTTP: which are configured, and how."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from clawsettle.config.secret import Secret
from clawsettle.config.settings import Settings
from clawsettle.domain.loss_events import Target


@frozen
class TargetAddress:
    """Where a target is, without a slash at the end, and the key that it is asked with."""

    base_url: str
    key: Secret


def target_addresses(settings: Settings) -> Mapping[Target, TargetAddress]:
    """Return the targets that have both a base URL and a key, in the order of ``Target``.

    The ledger is among them only with ``ledger.mode`` http, and takes its first risk key, or
    without one its first admin key. The embedded ledger needs no address.
    Source: loss-events 1, 10 (10, 11).
    """
    return {
        target: TargetAddress(base_url, keys[0])
        for target in Target
        for base_url, keys in [given_target(settings, target)]
        if base_url and keys
    }


def configured_targets(settings: Settings) -> frozenset[Target]:
    """Return the targets that can be told: those with an address, and the embedded ledger."""
    embedded = {Target.LEDGER} if settings.ledger.mode == "embedded" else set()
    return frozenset(target_addresses(settings)) | embedded


def given_target(settings: Settings, target: Target) -> tuple[str | None, Sequence[Secret]]:
    """Return the base URL and the keys of a target, as far as they are set. Source: loss-events 1.

    The embedded ledger has neither.
    """
    ledger, targets = settings.ledger, settings.targets
    match target:
        case Target.LEDGER if ledger.mode == "http":
            return ledger.base_url, ledger.risk_keys or ledger.admin_keys
        case Target.LEDGER:
            return None, ()
        case Target.ESCROW:
            return targets.escrow_base_url, targets.escrow_keys
        case Target.CLAWINSURE:
            return targets.clawinsure_base_url, targets.clawinsure_keys
        case Target.CLAWINCOME:
            return targets.clawincome_base_url, targets.clawincome_keys
        case Target.CLAWBOUNTIES:
            return targets.clawbounties_base_url, targets.clawbounties_keys
