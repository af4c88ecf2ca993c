"""The embedded ledger as a risk target: the ledger port's answers, without the port.

Source: loss-events contract section 5, ledger-api contract section 9.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from clawsettle.actors.ledger_keeper import LedgerKeeper
from clawsettle.domain.canonical import compact_json
from clawsettle.domain.errors import ClawsettleError, Overloaded, StorageError
from clawsettle.domain.ledger import Command
from clawsettle.domain.loss_answers import Answered, Unanswered
from clawsettle.domain.loss_calls import Call
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release_by_source
from clawsettle.storage.ledger_reader import HoldFilter, LedgerReader

_CREATED, _REPEATED = 201, 200


@frozen(eq=False)
class EmbeddedRiskLedger:
    """See the module, and ``clients.risk_targets.RiskTarget``."""

    keeper: LedgerKeeper
    reader: LedgerReader

    async def send(self, call: Call) -> Answered | Unanswered:
        """Have a hold applied or released."""
        try:
            answer = await self.keeper.ask(self._parsed(call))
        except Overloaded as error:
            return Unanswered(error.message, sent=False)
        except StorageError as error:
            return Unanswered(error.message)
        except ClawsettleError as error:
            body = {"error": error.message, "code": error.code, "details": dict(error.details)}
            return Answered(self._status_of(call)(error), compact_json(body))
        return Answered(_CREATED if answer.created else _REPEATED, compact_json(answer.body))

    async def hold_of(self, loss_event_id: str) -> Mapping[str, Any] | Unanswered | None:
        """Read the hold of a loss event."""
        try:
            holds = await self.reader.list_holds(
                HoldFilter(source_loss_event_id=loss_event_id), limit=1
            )
        except StorageError as error:
            return Unanswered(error.message)
        return holds[0].view() if holds else None

    def _parsed(self, call: Call) -> Command:
        if _is_apply(call):
            return parse_apply_hold(call.body, currency=self.keeper.book.currency)
        return parse_release_by_source(call.body)

    def _status_of(self, call: Call) -> Callable[[ClawsettleError], int]:
        return self.keeper.transfer_status_of if _is_apply(call) else self.keeper.status_of


def _is_apply(call: Call) -> bool:
    return call.path.endswith("/apply")
