"""The audit of loss events can fail: what is changed behind its back, or done twice, is named."""

from collections.abc import Callable, Sequence

from tests.torture.audited import open_audited
from tests.torture.loss_load import LossLoad
from tests.torture.traffic import LOSSES

CLIENTS = 16

_TOLD = """
    SELECT loss_event_id FROM loss_event AS e
    WHERE (SELECT count(*) FROM loss_delivery AS d
           WHERE d.loss_event_id = e.loss_event_id AND d.state = 'forwarded') = 5
      AND NOT EXISTS (SELECT FROM loss_resolution AS r WHERE r.loss_event_id = e.loss_event_id)
    ORDER BY loss_event_id
"""
_RESOLVED = """
    SELECT loss_event_id FROM loss_resolution AS r
    WHERE (SELECT count(*) FROM loss_delivery AS d
           WHERE d.loss_event_id = r.loss_event_id AND d.state = 'forwarded') = 9
    ORDER BY loss_event_id
"""
_STATE = """
    UPDATE loss_delivery SET state = '{state}', due_at = NULL, forwarded_at = NULL
    WHERE loss_event_id = $1 AND operation = '{operation}' AND target = '{target}'
"""
_NOT_TAKEN_BACK = """
    DELETE FROM loss_delivery
    WHERE loss_event_id = $1 AND operation = 'resolve' AND target = 'ledger'
"""
_HELD_AGAIN = """
    UPDATE ledger_risk_hold
    SET released_at = NULL, release_idempotency_key = NULL, release_transfer_event_id = NULL
    WHERE source_loss_event_id = $1
"""


def _state(state: str, operation: str, target: str) -> str:
    return _STATE.format(state=state, operation=operation, target=target)


CHANGES = (
    (
        _TOLD,
        "UPDATE loss_event SET forwarded_count = forwarded_count - 1 WHERE loss_event_id = $1",
        "the roll-up is not that of the deliveries: apply",
    ),
    (
        _RESOLVED,
        "UPDATE loss_resolution SET status = 'failed' WHERE loss_event_id = $1",
        "the roll-up is not that of the deliveries: resolve",
    ),
    (
        _TOLD,
        "UPDATE loss_event SET reason_code = 'another' WHERE loss_event_id = $1",
        "recorded otherwise than ordered",
    ),
    (
        _TOLD,
        "UPDATE loss_event SET idempotency_key = 'another' WHERE loss_event_id = $1",
        "acknowledged, but not recorded",
    ),
    (
        _RESOLVED,
        "DELETE FROM loss_resolution WHERE loss_event_id = $1",
        "said to be resolved, and is not",
    ),
    (_RESOLVED, _state("canceled", "apply", "ledger"), "taken back from whom it was not told"),
    (_RESOLVED, _NOT_TAKEN_BACK, "told, and not taken back"),
    (_TOLD, _state("canceled", "apply", "ledger"), "a delivery has not ended as it should"),
    (_TOLD, _state("canceled", "apply", "clawinsure"), "done, and not recorded: apply clawinsure"),
    (
        _RESOLVED,
        "DELETE FROM ledger_risk_hold WHERE source_loss_event_id = $1",
        "the ledger was told, and has no such hold",
    ),
    (_RESOLVED, _HELD_AGAIN, "a hold is there, and its release is forwarded"),
    (
        _TOLD,
        "UPDATE loss_delivery SET attempts = 0 WHERE loss_event_id = $1",
        "asked more often than attempted",
    ),
)
"""Of which event each is, a statement, and what the audit says of its change."""


def _debit_twice(load: LossLoad) -> None:
    balances = load.targets.clawincome.balances_minor
    balances[next(iter(balances))] -= 1


def _answer_otherwise(load: LossLoad) -> None:
    next(iter(load.told.values())).append("lse_another")


def _lose_a_claim(load: LossLoad) -> None:
    load.targets.clawinsure.claims.popitem()


def _lift_a_hold(load: LossLoad) -> None:
    escrows = load.targets.escrow
    held = (i for i, one in escrows.state().items() if one["status"] == "frozen")
    escrows.seed({next(held): "held"})


def _ask_otherwise(load: LossLoad) -> None:
    load.unlike.add(next(iter(load.calls)))


MISTOLD: Sequence[tuple[Callable[[LossLoad], object], str]] = (
    (lambda load: load.unanswered.append("/v1/loss-events"), "without an answer"),
    (_answer_otherwise, "answered with another event"),
    (lambda load: load.resolved.pop(), "resolved, and nobody was told so"),
    (_ask_otherwise, "asked otherwise than before"),
    (lambda load: load.calls.update(["another"]), "asked under a key of nobody's"),
    (lambda load: load.calls.clear(), "forwarded, and never asked for"),
    (_lift_a_hold, "an escrow is not as its events make it"),
    (_debit_twice, "an income is not what its events make it"),
    (_lose_a_claim, "recorded, and not done: apply clawinsure"),
)
"""What clients or targets may have seen that the books do not bear out, and what is said of it."""


async def test_each_fault_of_loss_events_is_named() -> None:
    async with open_audited(LOSSES, clients=CLIENTS, count=250) as audited:
        events = {
            sql: [row["loss_event_id"] for row in await audited.database.fetch(sql)]
            for sql in (_TOLD, _RESOLVED)
        }
        for which, sql, fault in CHANGES:
            await audited.names_change(sql, [events[which].pop()], fault)
        for tell, fault in MISTOLD:
            await audited.names_telling(tell, fault)
