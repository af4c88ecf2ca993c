"""What is sent to the daemons of a round, and how their books are then compared with it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from attrs import frozen

from clawsettle.sandbox.risk_targets import RiskSandbox
from clawsettle.storage.bridge import Database
from tests.torture.audit import Audit, audit_events
from tests.torture.ledger_audit import audit_orders
from tests.torture.ledger_load import LedgerLoad
from tests.torture.load import EventLoad, Load
from tests.torture.loss_audit import audit_losses
from tests.torture.loss_load import LossLoad
from tests.torture.netting_audit import audit_netting
from tests.torture.netting_load import NettingLoad
from tests.torture.site import ADMIN_KEY, ANSWER_DEADLINE_S, LEDGER_KEY, SECRET, Daemon

PATIENCE_S = 2 * ANSWER_DEADLINE_S
AnyLoad = TypeVar("AnyLoad", bound=Load)


@frozen
class Plan:
    """What a round has prepared: its daemons, ``account_ids`` by DID, and whom losses are told.

    ``acknowledge`` is when the daemons answer an event; ``seed`` chooses what is sent.
    """

    daemons: Sequence[Daemon]
    targets: RiskSandbox
    account_ids: Mapping[str, str]
    concurrency: int
    acknowledge: str
    seed: str


@frozen
class Traffic(Generic[AnyLoad]):
    """A kind of load and the audit that belongs to it."""

    load: Callable[[Plan], AnyLoad]
    audit: Callable[[Database, Sequence[Daemon], AnyLoad, datetime | None], Awaitable[Audit]]


def _event_load(plan: Plan) -> EventLoad:
    return EventLoad(
        addresses=[daemon.address for daemon in plan.daemons],
        concurrency=plan.concurrency,
        patience_s=PATIENCE_S,
        secret=SECRET,
        account_ids=list(plan.account_ids.values()),
        committed=plan.acknowledge == "committed",
    )


def _ledger_load(plan: Plan) -> LedgerLoad:
    return LedgerLoad(
        addresses=[daemon.ledger_address for daemon in plan.daemons],
        concurrency=plan.concurrency,
        patience_s=PATIENCE_S,
        key=LEDGER_KEY,
        account_ids=plan.account_ids,
        seed=plan.seed,
    )


def _netting_load(plan: Plan) -> NettingLoad:
    return NettingLoad(
        addresses=[daemon.address for daemon in plan.daemons],
        concurrency=plan.concurrency,
        patience_s=PATIENCE_S,
        key=ADMIN_KEY,
        secret=SECRET,
        account_ids=plan.account_ids,
        seed=plan.seed,
    )


def _loss_load(plan: Plan) -> LossLoad:
    return LossLoad(
        addresses=[daemon.address for daemon in plan.daemons],
        concurrency=plan.concurrency,
        patience_s=PATIENCE_S,
        key=ADMIN_KEY,
        secret=SECRET,
        account_ids=plan.account_ids,
        seed=plan.seed,
        targets=plan.targets,
    )


EVENTS = Traffic(_event_load, audit_events)
ORDERS = Traffic(_ledger_load, audit_orders)
NETTING = Traffic(_netting_load, audit_netting)
LOSSES = Traffic(_loss_load, audit_losses)
