"""What a risk target's answer means for the delivery that it answers.

The answer's code decides, not its status alone: only a success that names what was asked for, and
what proves that an earlier request had been heeded, count as delivered. A 2xx that says anything
else may come from a proxy or a wrong address, so it is unknown.
Source: loss-events contract section 5; 10 (3, 4, 12, 16, 17).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from clawsettle.domain.loss_events import Operation, Target

TEXT_MAX = 500
_OK, _REDIRECT, _SERVER_ERROR = 200, 300, 500
_NOT_FOUND, _TIMEOUT, _CONFLICT, _THROTTLED = 404, 408, 409, 429
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
UPSTREAM_ERROR = "UPSTREAM_ERROR"
NOT_CONFIGURED = "DEPENDENCY_NOT_CONFIGURED"
UNPROVEN = "UNPROVEN_ANSWER"
"""The code of an answer that says neither yes nor no."""

# Somebody has to mend something, and the same request can succeed then: a key, an address, money.
_SLOW_STATUSES = frozenset({401, 403, *range(_REDIRECT, 400)})
_MENDABLE_CODES = frozenset({"INSUFFICIENT_FUNDS", "RISK_HOLD_RELEASE_FAILED"})
# Another request is at the same thing just now.
_MOMENTARY_CODES = frozenset({"DUPLICATE_CONFLICT", NOT_CONFIGURED})
_NOTHING_TO_DO = {(Operation.APPLY, Target.CLAWINSURE): frozenset({"NOT_FOUND"})}
_ALREADY_DONE = {
    (Operation.RESOLVE, Target.ESCROW): frozenset({"RISK_HOLD_NOT_ACTIVE"}),
}
# The ledger has something for the event under another key; what it has is looked up.
_CONTESTED = {
    (Operation.APPLY, Target.LEDGER): frozenset({"SOURCE_LOSS_EVENT_ALREADY_BOUND"}),
    (Operation.RESOLVE, Target.LEDGER): frozenset({"IDEMPOTENCY_CONFLICT"}),
}
# What a success names, of those targets whose answers are known to.
_NAMES = {
    Target.LEDGER: "hold",
    Target.ESCROW: "risk_hold",
    Target.CLAWINSURE: "claim",
    Target.CLAWINCOME: "adjustment",
}
# Who takes the event's whole amount; an insurer may allow less, an escrow freezes what it has.
_TAKE_ALL = frozenset({Target.LEDGER, Target.CLAWINCOME})


@frozen
class Sent:
    """What was asked for, as far as answers are compared with it.

    ``may_be_absent``: a release of what may never have been applied.
    """

    operation: Operation
    target: Target
    loss_event_id: str
    amount_minor: int
    may_be_absent: bool = False


@frozen
class Answered:
    """A whole HTTP answer; ``retry_after_s`` where it names one in seconds."""

    http_status: int
    text: str
    retry_after_s: float | None = None


@frozen
class Unanswered:
    """No whole answer came. Without ``sent`` the request has had no effect, for certain."""

    message: str
    http_status: int | None = None
    sent: bool = True


@frozen
class Delivered:
    """The target has done it, now or before."""

    http_status: int | None
    is_shared: bool = False


@frozen
class NothingToDo:
    """The target has nothing that the event concerns."""

    http_status: int | None
    code: str
    message: str


@frozen
class RefusedForGood:
    """The same request would be refused whenever it comes."""

    http_status: int | None
    code: str
    message: str


@frozen
class TriedInVain:
    """It may succeed later; ``is_slow`` when somebody has to mend something first.

    ``in_doubt`` says that the target may have done it. ``is_target_down`` says that other requests
    would fare the same just now.
    """

    http_status: int | None
    code: str
    message: str
    in_doubt: bool = False
    is_slow: bool = False
    is_target_down: bool = False
    retry_after_s: float | None = None


@frozen
class HeldByAnother:
    """The escrow is held for another event; whether that is one of ours decides what follows."""

    http_status: int
    code: str
    message: str


@frozen
class Contested:
    """The ledger has a hold of the event that another key applied or released."""

    http_status: int
    code: str
    message: str


@frozen
class Withheld:
    """It was not sent, because its target is down; it is due again after ``for_s`` seconds."""

    for_s: float


Outcome = Delivered | NothingToDo | RefusedForGood | TriedInVain | Withheld
Open = HeldByAnother | Contested
"""What an answer comes to only with a look at what else there is."""


def read_answer(sent: Sent, answer: Answered | Unanswered) -> Outcome | Open:
    """Judge what came back."""
    if isinstance(answer, Unanswered):
        return TriedInVain(
            answer.http_status,
            "FETCH_FAILED",
            answer.message,
            in_doubt=answer.sent,
            is_target_down=True,
        )
    body = _object(answer.text)
    if _OK <= answer.http_status < _REDIRECT:
        return _read_success(sent, answer, body)
    return _read_refusal(sent, answer, body)


def settle_contest(
    sent: Sent, contested: Contested, hold: Mapping[str, Any] | None
) -> Delivered | RefusedForGood:
    """Judge a contest by the event's hold as the ledger shows it; None when it shows none.

    Delivered is what is there as it was asked for: the event's own amount, held or released.
    """
    told = hold or {}
    is_as_asked = (
        told.get("source_loss_event_id") == sent.loss_event_id
        and told.get("amount_minor") == str(sent.amount_minor)
        and told.get("status") == ("active" if sent.operation is Operation.APPLY else "released")
    )
    if is_as_asked:
        return Delivered(contested.http_status)
    return RefusedForGood(contested.http_status, contested.code, contested.message)


def _read_success(sent: Sent, answer: Answered, body: Mapping[str, Any] | None) -> Outcome:
    fault = "it is no JSON object" if body is None else _fault_of_success(sent, body)
    if fault is None:
        return Delivered(answer.http_status)
    return TriedInVain(
        answer.http_status,
        UNPROVEN,
        f"the answer {answer.http_status} proves nothing: {fault}",
        in_doubt=True,
    )


def _fault_of_success(sent: Sent, body: Mapping[str, Any]) -> str | None:
    name = _NAMES.get(sent.target)
    has_code = name is None and isinstance(body.get("code"), str)
    if body.get("error") or has_code or body.get("ok", True) is not True:
        return "it reports an error"
    named = body.get(name) if name else {}
    if name and not named:
        return f"it names no {name}"
    told = named if isinstance(named, Mapping) else {}
    wanted = {"source_loss_event_id": sent.loss_event_id}
    if sent.target is Target.ESCROW and sent.operation is Operation.RESOLVE:
        wanted = {}  # the one hold of an escrow names the event that applied it, not all that share
    if sent.target in _TAKE_ALL:
        wanted["amount_minor"] = str(sent.amount_minor)
    for field, value in wanted.items():
        if told.get(field) is not None and str(told[field]) != value:
            return f"it is about another {field}"
    if sent.target is Target.LEDGER:
        # A replayed apply answers the hold as it stands, which may be released since.
        if "source_loss_event_id" not in told:
            return "the hold names no source_loss_event_id"
        if sent.operation is Operation.RESOLVE and told.get("status") != "released":
            return "the hold is not released"
    return None


def _read_refusal(sent: Sent, answer: Answered, body: Mapping[str, Any] | None) -> Outcome | Open:
    status = answer.http_status
    code, message = _code_and_message(answer, body)
    read = _read_known_code(sent, status, code, message)
    if read is not None:
        return read
    if status in (_THROTTLED, _TIMEOUT) or status >= _SERVER_ERROR:
        return TriedInVain(
            status,
            code,
            message,
            in_doubt=status != _THROTTLED,
            is_target_down=True,
            retry_after_s=answer.retry_after_s,
        )
    # A 404 that names no code of the target's is not the target's: the address is wrong.
    is_misplaced = status == _NOT_FOUND and code == UPSTREAM_ERROR
    if status in _SLOW_STATUSES or code in _MENDABLE_CODES or is_misplaced:
        return TriedInVain(status, code, message, is_slow=True)
    if code in _MOMENTARY_CODES:
        return TriedInVain(status, code, message, retry_after_s=answer.retry_after_s)
    return RefusedForGood(status, code, message)


def _read_known_code(sent: Sent, status: int, code: str, message: str) -> Outcome | Open | None:
    """Judge a refusal whose code says that there is nothing more to do, or somebody else was."""
    if status not in (_NOT_FOUND, _CONFLICT):
        return None
    about = (sent.operation, sent.target)
    is_absent = code == "NOT_FOUND" and sent.may_be_absent
    if is_absent or code in _NOTHING_TO_DO.get(about, ()):
        return NothingToDo(status, code, message)
    if code in _ALREADY_DONE.get(about, ()):
        return Delivered(status)
    if code in _CONTESTED.get(about, ()):
        return Contested(status, code, message)
    if about == (Operation.APPLY, Target.ESCROW) and code == "IDEMPOTENCY_CONFLICT":
        return HeldByAnother(status, code, message)
    return None


def _code_and_message(answer: Answered, body: Mapping[str, Any] | None) -> tuple[str, str]:
    """Read both shapes of errors: ``{error: text, code}`` and ``{error: CODE, message}``."""
    said = body or {}
    texts = [value for name in ("message", "error") if isinstance(value := said.get(name), str)]
    given = [value for name in ("code", "error") if isinstance(value := said.get(name), str)]
    code = next(filter(_CODE.match, given), UPSTREAM_ERROR)
    message = next((text for text in texts if text.strip() and text != code), "")
    told = message or answer.text[:TEXT_MAX].strip() or f"HTTP {answer.http_status}"
    # One text that PostgreSQL does not keep would hold up whatever is stored with it.
    return code, _UNSTORABLE.sub("\ufffd", told)


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
