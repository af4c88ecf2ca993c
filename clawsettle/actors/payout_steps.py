"""The steps of a payout that reach outside, and what each answer means for it.

Guarantees: nothing here decides what comes next or stores anything. An effect is asked for under
its own key; on every attempt but the first its key is looked up before. An answer that cannot be
read, or none in time, is never taken for a yes or a no.
Source: payouts contract sections 4 and 7; 11 (1, 9, 20, 24, 25).
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog
import trio
from attrs import define, field, frozen

from clawsettle.clients.ledger import Ledger
from clawsettle.clients.payout_provider import PayoutProvider
from clawsettle.domain.errors import CallerError, ClawsettleError, ConflictError, ProviderError
from clawsettle.domain.forwarding import Refused, Unknown
from clawsettle.domain.ledger_orders import Applied
from clawsettle.domain.payout_events import (
    Finalized,
    LockApplied,
    LockRefused,
    NotFound,
    PayoutEvent,
    RecallDone,
    Returned,
    RolledBack,
    SendAnswered,
    SendDeclined,
    SendUnanswered,
    StepFailed,
    Withdrawn,
    news,
)
from clawsettle.domain.payout_transfers import STAGES, transfer_of
from clawsettle.domain.payouts import Payout, PayoutStatus, PayoutStep
from clawsettle.domain.providers import (
    Absent,
    Declined,
    ProviderStatus,
    Recalled,
    Sent,
    Unanswered,
)

_log = structlog.get_logger(__name__)
_NO_FUNDS = "INSUFFICIENT_FUNDS"
_NOT_YET = frozenset({ProviderStatus.PENDING, ProviderStatus.IN_TRANSIT})
_APPLIED: Mapping[PayoutStep, Callable[[str], PayoutEvent]] = {
    PayoutStep.LOCK: LockApplied,
    PayoutStep.FINALIZE: Finalized,
    PayoutStep.ROLL_BACK: RolledBack,
    PayoutStep.RETURN: Returned,
}
# How long a request that was never answered may still be under way.
_QUIET = timedelta(minutes=2)


@frozen
class StepResult:
    """What a step came to: the event for the payout, and the error for who waits, if it failed."""

    event: PayoutEvent
    failure: ClawsettleError | None = None


@define(eq=False)
class PayoutSteps:
    """See the module. ``timeout_s`` bounds each step."""

    ledger: Ledger
    provider: PayoutProvider
    timeout_s: float
    _perform: Mapping[PayoutStep, Callable[[Payout], Awaitable[StepResult]]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._perform = {
            PayoutStep.SEND: self._send,
            PayoutStep.LOOK: self._look,
            PayoutStep.RECALL: self._recall,
            PayoutStep.CANCEL: self._cancel,
        }

    async def perform(self, step: PayoutStep, payout: Payout) -> StepResult:
        """Do one step for a payout that the caller has leased; raises nothing."""
        try:
            with trio.move_on_after(self.timeout_s):
                if step in STAGES:
                    return await self._transfer(step, payout)
                return await self._perform[step](payout)
        except ClawsettleError as error:
            return _failed(error.code, error.message, error)
        except Exception:  # noqa: BLE001 - whatever went wrong, the payout must not be lost sight of
            _log.exception("payout_step_broke", payout_id=payout.payout_id, step=step)
        return self._unanswered(step, payout, Unanswered("no answer in time"))

    async def _transfer(self, step: PayoutStep, payout: Payout) -> StepResult:
        order = transfer_of(payout, step)
        if payout.attempts > 1:
            found = await self.ledger.transferred(order)
            if found is not None:
                return StepResult(_APPLIED[step](found.event_id))
        outcome = await self.ledger.transfer(order)
        if isinstance(outcome, Applied):
            return StepResult(_APPLIED[step](outcome.event_id))
        error = _not_transferred(payout, order.key, outcome)
        # A refusal is the ledger's word only on requests that it has: after a lost answer an
        # earlier one may still be on its way to it, and would lock what nobody gives back.
        is_last_word = payout.attempts <= 1 or _is_quiet(payout)
        if step is PayoutStep.LOCK and is_last_word and _is_no(outcome):
            return StepResult(LockRefused(error.code, outcome.message), error)
        return _failed(error.code, outcome.message, error)

    async def _send(self, payout: Payout) -> StepResult:
        outcome = await self.provider.send(payout.order)
        match outcome:
            case Sent():
                return _sent(outcome, "provider:send")
            case Declined():
                _log.warning(
                    "payout_declined",
                    payout_id=payout.payout_id,
                    code=outcome.code,
                    http_status=outcome.http_status,
                    reason=outcome.message,
                )
                return StepResult(SendDeclined(outcome), _refusal(payout, outcome))
        return self._unanswered(PayoutStep.SEND, payout, outcome)

    async def _look(self, payout: Payout) -> StepResult:
        outcome = await self.provider.look(payout.order)
        was_sent = payout.status is PayoutStatus.SUBMITTED
        match outcome:
            case Sent() if was_sent:
                return StepResult(news(outcome, "provider:look"))
            case Sent():
                return _sent(outcome, "provider:look")
            case Absent() if was_sent:
                return _failed(
                    "PROVIDER_OBJECT_MISSING",
                    "the provider does not know the payout it had taken",
                    _silence(payout),
                )
            case Absent():
                return StepResult(NotFound(outcome))
        return self._unanswered(PayoutStep.LOOK, payout, outcome)

    async def _recall(self, payout: Payout) -> StepResult:
        outcome = await self.provider.recall(payout.order)
        match outcome:
            case Recalled():
                return StepResult(RecallDone(outcome))
            case Declined():
                message = f"the provider gives nothing back: {outcome.code}"
                return _failed("STRIPE_TRANSFER_FAILED", message, _refusal(payout, outcome))
        return self._unanswered(PayoutStep.RECALL, payout, outcome)

    async def _cancel(self, payout: Payout) -> StepResult:
        """Ask for the end of a payout that was sent; one that was not is withdrawn."""
        if payout.status is not PayoutStatus.SUBMITTED:
            found = await self._look(payout)
            if not isinstance(found.event, NotFound):
                return found
            if payout.status is not PayoutStatus.UNKNOWN or not _is_quiet(payout):
                error = ConflictError(
                    "it may still be on its way to the provider; cancel it in some minutes",
                    details={"payout_id": payout.payout_id},
                )
                return _failed(error.code, error.message, error)
            return StepResult(Withdrawn(found.event.absent, "ops:cancel"))
        outcome = await self.provider.cancel(payout.order)
        match outcome:
            case Sent():
                return StepResult(news(outcome, "ops:cancel"))
            case Declined():
                return _failed(
                    "STRIPE_TRANSFER_FAILED",
                    f"the provider does not cancel it: {outcome.code}",
                    _refusal(payout, outcome),
                )
        return self._unanswered(PayoutStep.CANCEL, payout, outcome)

    def _unanswered(self, step: PayoutStep, payout: Payout, outcome: Unanswered) -> StepResult:
        if step in STAGES:
            silence = Unknown(outcome.message, timed_out=True)
            error = _not_transferred(payout, transfer_of(payout, step).key, silence)
            return _failed(error.code, outcome.message, error)
        error = _silence(payout)
        if payout.status in {PayoutStatus.SENDING, PayoutStatus.UNKNOWN}:
            return StepResult(SendUnanswered(outcome), error)
        return _failed(error.code, outcome.message, error)


def _failed(code: str, message: str, error: ClawsettleError) -> StepResult:
    return StepResult(StepFailed(code, message), error)


def _sent(sent: Sent, source: str) -> StepResult:
    """Return that it was sent; with more news, when the provider tells more at once."""
    return StepResult(SendAnswered(sent) if sent.status in _NOT_YET else news(sent, source))


def _refusal(payout: Payout, declined: Declined) -> ProviderError:
    details: dict[str, object] = {"payout_id": payout.payout_id, "stripe_code": declined.code}
    if declined.http_status is not None:
        details["stripe_status"] = declined.http_status
    return ProviderError(
        "the provider refused the payout", code="STRIPE_TRANSFER_FAILED", details=details
    )


def _silence(payout: Payout) -> ProviderError:
    return ProviderError(
        "the provider has not answered; whether it has acted is being found out",
        code="STRIPE_API_ERROR",
        details={"payout_id": payout.payout_id},
    )


def _is_quiet(payout: Payout) -> bool:
    """Return whether no request from before a payout's status can be under way any more."""
    return datetime.now(UTC) - payout.status_at >= _QUIET


def _is_no(outcome: Refused | Unknown) -> bool:
    """Return whether the ledger will not lock the amount: it is not there, or cannot be asked."""
    return isinstance(outcome, Refused) and (outcome.final or outcome.code == _NO_FUNDS)


def _not_transferred(payout: Payout, key: str, outcome: Refused | Unknown) -> ClawsettleError:
    if isinstance(outcome, Refused) and outcome.code == _NO_FUNDS:
        details: dict[str, object] = {"idempotency_key": key}
        if outcome.available_minor is not None:
            details = {
                "account_id": payout.account_id,
                "amount_minor": str(payout.amount_minor),
                "available_minor": str(outcome.available_minor),
            }
        return CallerError("the balance does not cover it", code=_NO_FUNDS, details=details)
    details = {"idempotency_key": key}
    if outcome.ledger_status is not None:
        details["ledger_status"] = outcome.ledger_status
    if isinstance(outcome, Refused) and outcome.code is not None:
        details["ledger_code"] = outcome.code
    is_late = isinstance(outcome, Unknown) and outcome.timed_out
    return ProviderError(
        "the ledger has not applied the transfer",
        code="LEDGER_TIMEOUT" if is_late else "LEDGER_INGEST_FAILED",
        details=details,
    )
