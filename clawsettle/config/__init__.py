"""Settings: clawsettle.toml, the environment and credential files become frozen classes.

`load` reads, `serving_problems`, `production_problems` and `describe` report, `Settings` is what
the other rooms are given, `netting_defaults` what of it netting requests are read with, and
`target_addresses` where loss events are told. Nothing outside this room reads a file or the
environment for its configuration.
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
    target_warnings,
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
    LossEventSettings,
    NettingSettings,
    PayoutSettings,
    Settings,
    StripeSettings,
    TargetSettings,
    netting_defaults,
)
from clawsettle.config.targets import (
    TargetAddress,
    configured_targets,
    given_target,
    target_addresses,
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
    "LossEventSettings",
    "NettingSettings",
    "PayoutSettings",
    "Row",
    "Secret",
    "Settings",
    "StripeSettings",
    "TargetAddress",
    "TargetSettings",
    "configured_targets",
    "describe",
    "given_target",
    "http_ledger_problems",
    "load",
    "matches_any",
    "netting_defaults",
    "netting_problems",
    "production_problems",
    "serving_problems",
    "target_addresses",
    "target_warnings",
]
