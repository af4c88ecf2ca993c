"""The state directory of ``clawsettle dev``: its secrets, and where the daemon can be reached.

``credentials/`` holds one file a secret, mode 0600, named as in ``$CREDENTIALS_DIRECTORY``;
``daemon.json`` (0600) tells the other commands the addresses and keys of the running daemon.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from attrs import asdict, frozen

from clawsettle.config import Settings
from clawsettle.domain.errors import ConfigError

DEFAULT_STATE_DIR = Path(".clawsettle")
DEFAULT_BASE_URL = "http://127.0.0.1:8787"
DEFAULT_LEDGER_BASE_URL = "http://127.0.0.1:8788"

_GENERATED = {
    "STRIPE_WEBHOOK_SIGNING_SECRET": "whsec_",
    "SETTLE_ADMIN_KEY": "settle_",
    "LEDGER_ADMIN_KEY": "ledger_",
}


@frozen
class DaemonFacts:
    """How to reach a daemon: addresses, one key each, and which events it takes as its own."""

    base_url: str
    ledger_base_url: str | None
    webhook_secret: str | None
    admin_key: str | None
    ledger_admin_key: str | None
    environment: str


def generated_secrets(state_dir: Path, settings: Settings) -> Mapping[str, str]:
    """Make sure the secrets that ``settings`` lack exist as files; return ``<NAME>_FILE`` entries.

    Raises: ConfigError when the directory cannot be written.
    """
    missing = {
        "STRIPE_WEBHOOK_SIGNING_SECRET": not settings.stripe.webhook_secrets,
        "SETTLE_ADMIN_KEY": not settings.admin.keys,
        "LEDGER_ADMIN_KEY": not settings.ledger.admin_keys,
    }
    folder = state_dir.absolute() / "credentials"
    environ = {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (name for name, lacks in missing.items() if lacks):
            file = folder / name.lower()
            if not file.exists():
                write_private(file, _GENERATED[name] + secrets.token_hex(24) + "\n")
            environ[f"{name}_FILE"] = str(file)
    except OSError as error:
        raise ConfigError([f"cannot keep secrets in {folder}: {error.strerror}"]) from error
    return environ


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
