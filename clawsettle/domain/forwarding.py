"""The life of one settlement on its way to the ledger, and when it is tried again.

A row is ``pending`` until its first attempt has ended, ``failed`` while it waits for another,
``forwarded`` when the ledger has it, ``dead`` when no further attempt can help by itself, and
``discarded`` when an operator has closed a dead one. Dead and discarded rows can be requeued.
Source: webhook-forwarding contract sections 8 and 14 (W4, W5, W19, W24); discarding is new.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from attrs import frozen

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.money import balance_from_digits

ERROR_MESSAGE_MAX = 500
_JITTER = 0.2
_ECHOED = ("provider", "external_payment_id", "direction", "account_id", "amount_minor", "currency")
_FAILED_PAYIN = ("payin", "failed")
_OK, _REDIRECT, _BAD_REQUEST = 200, 300, 400
_FINAL_STATUSES = frozenset({_BAD_REQUEST, 409, 422})
# A refund may overtake the payment it refunds: the next attempt can find the money there.
_MENDABLE_CODES = frozenset({"INSUFFICIENT_FUNDS"})
# Our key is refused, or the address is not the ledger's own: settings of ours name both.
_MISCONFIGURED_STATUSES = frozenset({401, 403, *range(_REDIRECT, _BAD_REQUEST)})
_CODE = re.compile(r"[A-Z0-9_]{1,64}\Z")
_IDENTIFIER = re.compile(r"[!-~]{1,255}\Z")


class ForwardingState(StrEnum):
    """Where a settlement is; the values are the stored words."""

    PENDING = "pending"
    FAILED = "failed"
    FORWARDED = "forwarded"
    DEAD = "dead"
    DISCARDED = "discarded"


class Blame(StrEnum):
    """Where the cause of a dead letter lies.

    In our request, the party we send to, the provider we heard it from, the configuration, or what
    is stored.
    """

    US = "us"
    TARGET = "target"
    PROVIDER = "provider"
    CONFIG = "config"
    POISON = "poison"


@frozen
class Forwardable:
    """A settlement as the ledger is sent it: its idempotency key and the contract's payload."""

    key: str
    payload: Mapping[str, object]


@frozen
class Accepted:
    """The ledger has the settlement: its HTTP status and the settlement's id there."""

    ledger_status: int
    settlement_id: str


@frozen
class Refused:
    """The ledger answered no; its status and code decide whether time can mend it.

    ``available_minor`` is what the bucket has, when the ledger says so of one that has too little.
    """

    ledger_status: int
    message: str
    code: str | None = None
    available_minor: int | None = None

    @property
    def final(self) -> bool:
        """Whether time cannot mend it: 400, 409 and 422, but for money that is not there yet."""
        return self.ledger_status in _FINAL_STATUSES and self.code not in _MENDABLE_CODES


@frozen
class Unknown:
    """No usable answer: the ledger may or may not have it. Repeat under the same key.

    ``timed_out`` says that there was none in time; without ``sent`` the ledger was not reached, and
    for certain does not have it by this.
    """

    message: str
    ledger_status: int | None = None
    timed_out: bool = False
    sent: bool = True


@frozen
class Unreadable:
    """The stored payload cannot be read, so it was never sent."""

    message: str


@frozen
class Unheeded:
    """The ledger has the settlement, but the payout that it is about could not heed it yet."""

    code: str
    message: str
    ledger_status: int


LedgerOutcome = Accepted | Refused | Unknown
AttemptOutcome = LedgerOutcome | Unreadable | Unheeded


@frozen
class Succeeded:
    """Event: the ledger has it."""


@frozen
class FellThrough:
    """Event: this attempt failed, a later one may succeed."""


@frozen
class GaveUp:
    """Event: no later attempt can succeed unless somebody acts."""


@frozen
class Requeued:
    """Event: an operator brings a dead or discarded settlement back, with its whole life again."""


@frozen
class Discarded:
    """Event: an operator closes a dead settlement; it will not be sent."""


# Each event leads to one state, from wherever it is taken.
_LEADS_TO: Mapping[type[object], ForwardingState] = {
    Succeeded: ForwardingState.FORWARDED,
    FellThrough: ForwardingState.FAILED,
    GaveUp: ForwardingState.DEAD,
    Requeued: ForwardingState.FAILED,
    Discarded: ForwardingState.DISCARDED,
}


def _steps(*events: type[object]) -> Mapping[type[object], ForwardingState]:
    return {event: _LEADS_TO[event] for event in events}


TRANSITIONS: Mapping[ForwardingState, Mapping[type[object], ForwardingState]] = {
    ForwardingState.PENDING: _steps(Succeeded, FellThrough, GaveUp),
    ForwardingState.FAILED: _steps(Succeeded, FellThrough, GaveUp),
    ForwardingState.FORWARDED: _steps(Succeeded),
    ForwardingState.DEAD: _steps(Requeued, Discarded),
    ForwardingState.DISCARDED: _steps(Requeued),
}


def next_state(state: ForwardingState, event: object) -> ForwardingState:
    """Return the state after ``event``.

    Raises: IllegalTransition with ``from_status`` and ``to_status`` when the table has no step.
    """
    try:
        return TRANSITIONS[state][type(event)]
    except KeyError:
        raise IllegalTransition(
            f"a settlement that is {state} cannot become {_LEADS_TO[type(event)]} this way",
            details={"from_status": state, "to_status": _LEADS_TO[type(event)]},
        ) from None


@frozen
class RetryPolicy:
    """How failed attempts are spaced (seconds), and which limits end them.

    ``attempts_max`` counts attempts, ``age_max_s`` seconds since the row was opened or requeued.
    """

    base_s: int
    max_s: int
    attempts_max: int
    age_max_s: int

    def limit_reached(self, attempts: int, age_s: float) -> str:
        """Return which limit has ended a row, as the end of its message; blank while none has."""
        if attempts >= self.attempts_max:
            return f"; given up after attempts_max ({self.attempts_max}) attempts"
        if age_s >= self.age_max_s:
            return f"; given up after age_max_s ({self.age_max_s}) seconds"
        return ""


@frozen
class AttemptResult:
    """What one attempt makes of its row; ``retry_in_s`` only when it will be tried again."""

    state: ForwardingState
    retry_in_s: float | None = None
    ledger_status: int | None = None
    settlement_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    blame: Blame | None = None


@frozen
class Standing:
    """Where a settlement stands; open ones are ``due_at`` their next attempt or lease's end."""

    state: ForwardingState
    due_at: datetime | None = None
    ledger_status: int | None = None
    settlement_id: str | None = None


def read_answer(sent: Forwardable, ledger_status: int, body: object) -> LedgerOutcome:
    """Judge a ledger's HTTP answer: only one that names our payment and amount is a success.

    A 2xx that says anything else may come from a proxy or a wrong address, so it is unknown.
    """
    refused = read_refusal(ledger_status, body)
    if refused is not None:
        return refused
    settlement = body.get("settlement") if isinstance(body, dict) else None
    if not isinstance(settlement, dict):
        return Unknown("the ledger's answer names no settlement", ledger_status)
    settlement_id = identifier(settlement.get("id"))
    if settlement_id is None:
        return Unknown("the ledger's answer names no settlement id", ledger_status)
    moves_nothing = (sent.payload.get("direction"), sent.payload.get("status")) == _FAILED_PAYIN
    for name in _ECHOED:
        # The payment may have succeeded since, for another amount: that is the better news.
        if name == "amount_minor" and moves_nothing:
            continue
        if settlement.get(name) != sent.payload.get(name):
            return Unknown(f"the ledger's answer is about another {name}", ledger_status)
    return Accepted(ledger_status, settlement_id)


def read_refusal(ledger_status: int, body: object) -> Refused | None:
    """Return the refusal that a ledger's HTTP answer is; None for a 2xx."""
    if _OK <= ledger_status < _REDIRECT:
        return None
    said = body if isinstance(body, dict) else {}
    given = said.get("code")
    code = given if isinstance(given, str) and _CODE.match(given) else None
    return Refused(
        ledger_status,
        f"the ledger answered {ledger_status} {code or 'without a code'}",
        code,
        available_minor(said.get("details")),
    )


def available_minor(details: object) -> int | None:
    """Return what a refusal's details say is available; None when they say nothing of it."""
    given = details.get("available") if isinstance(details, Mapping) else None
    return balance_from_digits(given) if isinstance(given, str) else None


def identifier(value: object) -> str | None:
    """Return the id that another party gave something, when it is fit to be kept and shown."""
    return value if isinstance(value, str) and _IDENTIFIER.match(value) else None


def backoff_s(attempts: int, policy: RetryPolicy, *, seed: str) -> float:
    """Return the wait before the next attempt, in seconds.

    The documented delay is ``min(max, max(base, base * 2**(attempts-1)))``; up to a fifth of it
    is taken off, so that rows that failed together do not come back together. The share is
    drawn from ``seed`` and ``attempts``: the same row waits the same time on every daemon.
    """
    doubled = policy.base_s << min(max(attempts, 1) - 1, 32)
    documented = min(policy.max_s, max(policy.base_s, doubled))
    share = int(sha256_hex(f"{seed}:{attempts}")[:8], 16) / 0xFFFFFFFF
    return documented * (1 - _JITTER * share)


def judge(
    state: ForwardingState,
    outcome: AttemptOutcome,
    *,
    event_id: str,
    attempts: int,
    age_s: float,
    policy: RetryPolicy,
) -> AttemptResult:
    """Decide what an attempt's outcome means for its row.

    ``attempts`` counts this one; ``age_s`` is how long the row had been tried when it was claimed,
    by the database's clock. A refusal that time cannot mend (400, 409, 422) and an unreadable
    payload are dead at once; an unknown account (404), a refund that is not covered yet, a refused
    key, an overloaded or failing ledger and silence are tried again until ``attempts_max`` or
    ``age_max_s``. No row is ended without an attempt.

    Raises: IllegalTransition when the row's state takes no attempts.
    """
    if isinstance(outcome, Accepted):
        return AttemptResult(
            next_state(state, Succeeded()),
            ledger_status=outcome.ledger_status,
            settlement_id=outcome.settlement_id,
        )
    final = _is_final(outcome)
    limit = "" if final else policy.limit_reached(attempts, age_s)
    gives_up = final or limit != ""
    return AttemptResult(
        next_state(state, GaveUp() if gives_up else FellThrough()),
        retry_in_s=None if gives_up else backoff_s(attempts, policy, seed=event_id),
        ledger_status=None if isinstance(outcome, Unreadable) else outcome.ledger_status,
        error_code=_error_code(outcome),
        error_message=outcome.message[: ERROR_MESSAGE_MAX - len(limit)] + limit,
        blame=_blame(outcome) if gives_up else None,
    )


def _error_code(outcome: AttemptOutcome) -> str:
    if isinstance(outcome, Unheeded):
        return outcome.code
    return "INTERNAL_ERROR" if isinstance(outcome, Unreadable) else "LEDGER_INGEST_FAILED"


def _is_final(outcome: AttemptOutcome) -> bool:
    return isinstance(outcome, Unreadable) or (isinstance(outcome, Refused) and outcome.final)


def _blame(outcome: AttemptOutcome) -> Blame:
    if isinstance(outcome, Unreadable):
        return Blame.POISON
    if isinstance(outcome, Refused) and outcome.ledger_status == _BAD_REQUEST:
        return Blame.US
    if isinstance(outcome, Refused) and outcome.ledger_status in _MISCONFIGURED_STATUSES:
        return Blame.CONFIG
    return Blame.TARGET
