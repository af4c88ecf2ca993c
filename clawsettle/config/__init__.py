"""Settings: clawsettle.toml, the environment and credential files become frozen classes.

`load` reads, `serving_problems`, `production_problems` and `describe` report, `Settings` is what
the other rooms are given, and `netting_defaults` what of it netting requests are read with. Nothing
outside this room reads a file or the environment for its configuration.
"""

from clawsettle.config.address import Address
from clawsettle.config.keys import KeyProblem
from clawsettle.config.load import Loaded, load
from clawsettle.config.report import (
    Row,
    describe,
    http_ledger_problems,
    netting_problems,
    production_problems,
    serving_problems,
)
from clawsettle.config.secret import Secret, matches_any
from clawsettle.config.settings import (
    AdminSettings,
    AuthSettings,
    DaemonSettings,
    DatabaseSettings,
    DeliveryLogSettings,
    ForwardingSettings,
    LedgerSettings,
    LogSettings,
    NettingSettings,
    PayoutSettings,
    Settings,
    StripeSettings,
    netting_defaults,
)

__all__ = [
    "Address",
    "AdminSettings",
    "AuthSettings",
    "DaemonSettings",
    "DatabaseSettings",
    "DeliveryLogSettings",
    "ForwardingSettings",
    "KeyProblem",
    "LedgerSettings",
    "Loaded",
    "LogSettings",
    "NettingSettings",
    "PayoutSettings",
    "Row",
    "Secret",
    "Settings",
    "StripeSettings",
    "describe",
    "http_ledger_problems",
    "load",
    "matches_any",
    "netting_defaults",
    "netting_problems",
    "production_problems",
    "serving_problems",
]
