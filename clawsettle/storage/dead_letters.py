"""Dead letters: settlements that wait for an operator, and what operators do with them.

The row of the outbox is the dead letter; there is no copy of it. Each change locks the row, asks
the table of transitions, and keeps who did it in the same commit: of two operators at once one
acts, and the other is told what the row is by now.
Source: webhook-forwarding contract section 14 (W4); listing, requeue and discard are new.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import trio
from attrs import frozen

from clawsettle.domain.forwarding import (
    TRANSITIONS,
    Blame,
    Discarded,
    ForwardingState,
    Requeued,
    next_state,
)
from clawsettle.storage.bridge import Database, Row, Transaction
from clawsettle.storage.operator_actions import (
    Operator,
    OperatorAction,
    actions_of,
    record_action,
)
from clawsettle.storage.queries import load_queries
from clawsettle.storage.settlement_outbox import LeasedRow, leased_row

_SQL = load_queries("dead_letters")
KIND = "settlement"
STATES = (ForwardingState.DEAD, ForwardingState.DISCARDED)


@frozen
class DeadLetter:
    """A settlement that is dead or discarded, or was so once; instants are UTC.

    ``reason`` and ``code`` are of its last failed attempt. While it is dead or discarded it has a
    ``blame``, and ``updated_at`` is when it died.
    """

    event_id: str
    event_type: str
    payload: str
    state: ForwardingState
    attempts: int
    reason: str | None
    code: str | None
    blame: Blame | None
    ledger_status: int | None
    created_at: datetime
    last_attempted_at: datetime | None
    updated_at: datetime


@frozen
class DeadLetters:
    """The repository of dead letters; ``lease_s`` is the lease of a row revived for its caller.

    Every method is one commit, and raises StorageUnavailable or StorageError. A change whose
    answer was lost may be asked for again: it is then refused as no longer possible.
    """

    database: Database
    lease_s: float

    async def page(
        self,
        states: Sequence[ForwardingState],
        *,
        after: tuple[datetime, str] | None,
        limit: int,
    ) -> list[DeadLetter]:
        """Return up to ``limit`` rows in these of ``STATES``, newest dead first.

        Ties are broken by event id, highest first; ``after`` is ``updated_at`` and event id of
        the last row of the page before.
        """
        instant, event_id = after or (None, None)
        rows = await self.database.fetch(
            _SQL["page"], [str(state) for state in states], instant, event_id, limit
        )
        return [_letter(row) for row in rows]

    async def find(self, event_id: str) -> tuple[DeadLetter, Sequence[OperatorAction]] | None:
        """Return a settlement that is or was a dead letter, and its actions, oldest first."""
        rows = await self.database.fetch(_SQL["find"], event_id)
        actions = await actions_of(self.database, KIND, event_id)
        if not rows or not (actions or rows[0]["state"] in STATES):
            return None
        return _letter(rows[0]), actions

    async def requeue(self, event_id: str, operator: Operator) -> DeadLetter | None:
        """Bring a dead or discarded row back, due now; None when there is no such settlement.

        Raises: IllegalTransition when it is neither.
        """
        return await self._change(event_id, Requeued(), "requeue", operator, None)

    async def discard(self, event_id: str, operator: Operator) -> DeadLetter | None:
        """Close a dead row; None when there is no such settlement.

        Raises: IllegalTransition when it is not dead.
        """
        return await self._change(event_id, Discarded(), "discard", operator)

    async def revive(self, event_id: str, operator: Operator) -> list[LeasedRow]:
        """Requeue a dead row, leased to the caller for its first attempt; empty unless it is dead.

        A discarded one is left as it is.
        """
        begun = trio.current_time()

        async def work(transaction: Transaction) -> Sequence[Row]:
            if await _lock(transaction, event_id) is not ForwardingState.DEAD:
                return []
            await record_action(transaction, KIND, event_id, "requeue", operator)
            return await transaction.fetch(_SQL["requeue"], event_id, self.lease_s)

        rows = await self.database.transaction(work)
        return [leased_row(row, begun + self.lease_s) for row in rows]

    async def _change(
        self,
        event_id: str,
        event: Requeued | Discarded,
        action: Literal["requeue", "discard"],
        operator: Operator,
        *args: object,
    ) -> DeadLetter | None:
        async def work(transaction: Transaction) -> tuple[ForwardingState | None, Sequence[Row]]:
            before = await _lock(transaction, event_id)
            if before is None or type(event) not in TRANSITIONS[before]:
                return before, []
            await transaction.fetch(_SQL[action], event_id, *args)
            await record_action(transaction, KIND, event_id, action, operator)
            return before, await transaction.fetch(_SQL["find"], event_id)

        before, rows = await self.database.transaction(work)
        if before is None:
            return None
        next_state(before, event)
        return _letter(rows[0])


async def _lock(transaction: Transaction, event_id: str) -> ForwardingState | None:
    rows = await transaction.fetch(_SQL["lock"], event_id)
    return ForwardingState(rows[0]["state"]) if rows else None


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(
        event_id=row["event_id"],
        event_type=row["event_type"],
        payload=row["payload"],
        state=ForwardingState(row["state"]),
        attempts=row["attempts"],
        reason=row["last_error_message"],
        code=row["last_error_code"],
        blame=None if row["blame"] is None else Blame(row["blame"]),
        ledger_status=row["ledger_status"],
        created_at=row["created_at"],
        last_attempted_at=row["last_attempted_at"],
        updated_at=row["updated_at"],
    )
