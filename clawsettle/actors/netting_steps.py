"""What is asked of the ledger for one entry of a netting run, and what its answer means.

Guarantees: an entry that may have been asked for before is looked up first, and what is found under
its key counts only when it is this very transfer; an answer that says nothing for certain leads to
an unknown outcome, never to a refusal.
Source: netting contract section 6; 10 (6, 7, 8, 15, 18, 22).
"""

import structlog
import trio
from attrs import evolve, frozen

from clawsettle.clients.ledger import Ledger
from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.forwarding import Refused as LedgerRefusal
from clawsettle.domain.forwarding import Unknown
from clawsettle.domain.ledger_orders import Applied, TransferOrder
from clawsettle.domain.netting import Entry, Run, transfer_of
from clawsettle.domain.netting_transitions import (
    EntryEvent,
    GivenBack,
    Moved,
    Refused,
    Unanswered,
    may_arrive,
)

_log = structlog.get_logger(__name__)
_NO_FUNDS = "INSUFFICIENT_FUNDS"
_CONFLICT = 409
_NOT_LET_IN = frozenset({401, 403})
_NOT_APPLIED = "LEDGER_INGEST_FAILED"


@frozen
class NettingSteps:
    """See the module. ``timeout_s`` bounds each question to the ledger."""

    ledger: Ledger
    timeout_s: float

    async def move(self, run: Run, entry: Entry) -> EntryEvent:
        """Have the ledger apply an entry that the caller has claimed; raises nothing."""
        order = transfer_of(run, entry)
        if order is None:
            return Moved(None)
        if entry.doubt_at is not None:
            found = await self._look(order)
            if found is not None:
                return found
        outcome = await self._ask(order)
        if isinstance(outcome, Applied):
            return Moved(outcome.event_id)
        if _is_last_word(outcome):
            return Refused(*_said(outcome))
        found = await self._look(order) or Unanswered(*_said(outcome), is_over=True)
        is_silent = isinstance(outcome, Unknown) and outcome.ledger_status is None
        if is_silent and isinstance(found, Unanswered):
            return evolve(found, is_over=False)
        return found

    async def look(self, run: Run, entry: Entry) -> EntryEvent | None:
        """Return that an entry in doubt has moved, when the ledger says so; raises nothing."""
        order = transfer_of(run, entry)
        found = None if order is None or entry.doubt_at is None else await self._look(order)
        return found if isinstance(found, Moved) else None

    async def give_back(self, run: Run, entry: Entry) -> EntryEvent | None:
        """Return that an entry's payouts may go, or that it has moved; None while neither is sure.

        It is sure when the ledger was never asked in vain, or does not know the order when none can
        be on its way any more: that was so when the run was claimed, by the clock that has written
        both instants. Raises nothing.
        """
        order = transfer_of(run, entry)
        if order is None or entry.doubt_at is None:
            return GivenBack()
        found = await self._look(order)
        if isinstance(found, Unanswered) or may_arrive(entry, run.updated_at):
            return found if isinstance(found, Moved) else None
        return found or GivenBack()

    async def _ask(self, order: TransferOrder) -> Applied | LedgerRefusal | Unknown:
        try:
            with trio.move_on_after(self.timeout_s):
                return await self.ledger.transfer(order)
        except Exception:  # noqa: BLE001 - whatever went wrong, it may have been applied
            _log.exception("netting_transfer_broke", idempotency_key=order.key)
        return Unknown("no answer in time", timed_out=True)

    async def _look(self, order: TransferOrder) -> Moved | Unanswered | None:
        """Return what the ledger has under an order's key; None when it has nothing there."""
        try:
            with trio.move_on_after(self.timeout_s):
                found = await self.ledger.transferred(order)
                return None if found is None else Moved(found.event_id)
        except ClawsettleError as error:
            return Unanswered(_NOT_APPLIED, error.message, is_over=True)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("netting_look_broke", idempotency_key=order.key)
        message = "the ledger has not said in time whether it has moved"
        return Unanswered(_NOT_APPLIED, message, is_over=True)


def _is_last_word(outcome: LedgerRefusal | Unknown) -> bool:
    """Return whether nothing has moved; under a key in conflict there is something to look at."""
    if isinstance(outcome, Unknown):
        return not outcome.sent
    if outcome.ledger_status in _NOT_LET_IN or outcome.code == _NO_FUNDS:
        return True
    return outcome.final and outcome.ledger_status != _CONFLICT


def _said(outcome: LedgerRefusal | Unknown) -> tuple[str, str]:
    """Return the code and message that are kept of an answer, as the contract has them."""
    code = outcome.code if isinstance(outcome, LedgerRefusal) else None
    if code == _NO_FUNDS:
        return _NO_FUNDS, "the clearing account does not cover it"
    told = {"status": outcome.ledger_status, "code": code}
    tail = " ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    message = "the ledger has not applied the transfer"
    if isinstance(outcome, Unknown):
        message = outcome.message
    return _NOT_APPLIED, f"{message} ({tail})" if tail else message
