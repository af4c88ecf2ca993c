"""Settings: clawsettle.toml, the environment and credential files become frozen classes.

`load` reads, `serving_problems` and `describe` report, `Settings` is what the other rooms are
given. Nothing outside this room reads a file or the environment for its configuration.
"""

from clawsettle.config.address import Address
from clawsettle.config.keys import KeyProblem
from clawsettle.config.load import Loaded, load
from clawsettle.config.report import Row, describe, serving_problems
from clawsettle.config.secret import Secret, matches_any
from clawsettle.config.settings import (
    AdminSettings,
    DaemonSettings,
    DatabaseSettings,
    DeliveryLogSettings,
    ForwardingSettings,
    LedgerSettings,
    LogSettings,
    Settings,
    StripeSettings,
)

__all__ = [
    "Address",
    "AdminSettings",
    "DaemonSettings",
    "DatabaseSettings",
    "DeliveryLogSettings",
    "ForwardingSettings",
    "KeyProblem",
    "LedgerSettings",
    "Loaded",
    "LogSettings",
    "Row",
    "Secret",
    "Settings",
    "StripeSettings",
    "describe",
    "load",
    "matches_any",
    "serving_problems",
]
