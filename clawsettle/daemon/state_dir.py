"""The state directory of ``clawsettle dev``: its secrets, and where the daemon can be reached.

``credentials/`` holds one file a secret, mode 0600, named as in ``$CREDENTIALS_DIRECTORY``;
``daemon.json`` (0600) tells the other commands the addresses and keys of the running daemon.
"""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import asdict, evolve, frozen

from clawsettle.config import Secret, Settings, given_target
from clawsettle.domain.errors import ConfigError
from clawsettle.domain.loss_events import Target

DEFAULT_BASE_URL = "http://127.0.0.1:8787"
DEFAULT_LEDGER_BASE_URL = "http://127.0.0.1:8788"

_TARGET_KEYS = {
    Target.ESCROW: "escrow_risk_key",
    Target.CLAWINSURE: "insure_risk_key",
    Target.CLAWINCOME: "income_risk_key",
    Target.CLAWBOUNTIES: "bounties_risk_key",
}


@frozen
class DaemonFacts:
    """How to reach a daemon: addresses, one key each, and which events it takes as its own.

    ``database_url`` is where its state is; unknown for a daemon that is not on this machine.
    """

    base_url: str
    ledger_base_url: str | None
    webhook_secret: str | None
    admin_key: str | None
    ledger_admin_key: str | None
    environment: str
    database_url: str | None = None


def locate(
    state_dir: Path, settings: Settings, *, base_url: str | None, ledger_base_url: str | None
) -> DaemonFacts:
    """Return how to reach the daemon: options first, then the state directory, then defaults.

    Secrets of the environment come before those of the state directory, as they do in the daemon.

    Raises: ConfigError when the state directory's file cannot be read.
    """
    known = read_facts(state_dir) or DaemonFacts(
        DEFAULT_BASE_URL, DEFAULT_LEDGER_BASE_URL, None, None, None, settings.stripe.environment
    )
    return evolve(
        known,
        base_url=base_url or known.base_url,
        ledger_base_url=ledger_base_url or known.ledger_base_url,
        webhook_secret=_first(settings.stripe.webhook_secrets) or known.webhook_secret,
        admin_key=_first(settings.admin.keys) or known.admin_key,
        ledger_admin_key=_first(settings.ledger.admin_keys) or known.ledger_admin_key,
    )


def _first(keys: Sequence[Secret]) -> str | None:
    return keys[0].reveal() if keys else None


def with_secrets(state_dir: Path, settings: Settings) -> Settings:
    """Return the settings with every key they lack: generated once, then kept as a file.

    Raises: ConfigError when the directory cannot be written.
    """
    webhook, admin, ledger = settings.stripe, settings.admin, settings.ledger
    with _credentials(state_dir) as folder:
        return evolve(
            settings,
            stripe=evolve(
                webhook,
                webhook_secrets=_given_or_kept(
                    webhook.webhook_secrets, folder / "stripe_webhook_signing_secret", "whsec_"
                ),
            ),
            admin=evolve(
                admin, keys=_given_or_kept(admin.keys, folder / "settle_admin_key", "settle_")
            ),
            ledger=evolve(
                ledger,
                admin_keys=_given_or_kept(
                    ledger.admin_keys, folder / "ledger_admin_key", "ledger_"
                ),
            ),
        )


def sandbox_keys(state_dir: Path, settings: Settings) -> dict[Target, Secret]:
    """Return a key for each target of loss events besides the ledger, given or kept as above.

    Raises: ConfigError when the directory cannot be written.
    """
    with _credentials(state_dir) as folder:
        return {
            target: _given_or_kept(given_target(settings, target)[1], folder / file, f"{target}_")[
                0
            ]
            for target, file in _TARGET_KEYS.items()
        }


@contextmanager
def _credentials(state_dir: Path) -> Iterator[Path]:
    """Give the folder of the secrets; what fails with it is a ConfigError."""
    folder = state_dir / "credentials"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        yield folder
    except (OSError, ValueError) as error:
        raise ConfigError([f"cannot keep secrets in {folder}: {error}"]) from error


def _given_or_kept(given: Sequence[Secret], file: Path, prefix: str) -> tuple[Secret, ...]:
    if given:
        return tuple(given)
    if not file.exists():
        write_private(file, prefix + secrets.token_hex(24) + "\n")
    return (Secret(file.read_text(encoding="utf-8").strip()),)


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    draft.replace(file)


def write_facts(state_dir: Path, facts: DaemonFacts) -> None:
    """Tell the other commands how to reach this daemon."""
    write_private(state_dir / "daemon.json", json.dumps(asdict(facts), indent=2) + "\n")


def read_facts(state_dir: Path) -> DaemonFacts | None:
    """Return what the last daemon on this directory said; None when there was none.

    Raises: ConfigError when the file cannot be read.
    """
    file = state_dir / "daemon.json"
    try:
        return DaemonFacts(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([f"{file} cannot be read: {error}"]) from error
