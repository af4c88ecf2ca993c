"""The page of what each answer of a risk target means, asked of the code that judges them."""

# ruff: noqa: INP001 - beside a script, not in a package

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from json import dumps

from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.loss_alerts import alert_of
from clawsettle.domain.loss_answers import (
    Answered,
    Contested,
    Delivered,
    HeldByAnother,
    Outcome,
    RefusedForGood,
    Sent,
    TriedInVain,
    Unanswered,
    Withheld,
    read_answer,
    settle_contest,
)
from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target
from clawsettle.domain.loss_transitions import SLOW_FACTOR, judge

_PAGE = """\
# What each answer of a target means

{note}

A delivery of a [loss event](http.md) is judged by the code that its target answers, in either
shape: `{{"error": text, "code": CODE}}` or `{{"error": CODE, "message": text}}`. Only an answer
that names what was asked for, or proves that an earlier request had been heeded, counts as
delivered.

- **Becomes**: the delivery's [state](state-machines.md#a-delivery-of-a-loss-event), then the
  `status` that callers see where that is another word.
- **Sent again**: *soon* after `retry_base_s`, doubled each time up to `retry_max_s`; *slowly*
  {slow_factor} times as late, because somebody has to mend something first. Never before a
  `Retry-After` of at most an hour. `attempts_max` and `age_max_s` end it: then it is `dead`.
- **May have acted**: the target may have done it without our knowing (`in_doubt`). The same request
  is repeated under the same key, and a resolution asks for a release where that does no harm.
- **Breaker**: it counts towards the circuit breaker of the target.
- **Alert**: why somebody should look. Whatever is sent again is also `late` after `alert_after_s`.

The settings are those of [`[loss_events]`](configuration.md#loss_events).
"""

_HEAD = """\
| Answer | Becomes | Sent again | May have acted | Breaker | Alert |
|---|---|---|---|---|---|"""

_POLICY = RetryPolicy(base_s=15, max_s=300, attempts_max=1000, age_max_s=604_800)
_EVENT_ID, _AMOUNT_MINOR = "lse_1", 250
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_ABOUT = {"source_loss_event_id": _EVENT_ID, "amount_minor": str(_AMOUNT_MINOR)}
_ACTIVE, _RELEASED = {**_ABOUT, "status": "active"}, {**_ABOUT, "status": "released"}

Call = tuple[Operation, Target]
_APPLY, _RESOLVE = Operation.APPLY, Operation.RESOLVE
_PROOFS: Mapping[Call, tuple[str, dict[str, object]]] = {
    (_APPLY, Target.LEDGER): ("the event's `hold`", {"hold": _ACTIVE}),
    (_RESOLVE, Target.LEDGER): ("the event's `hold`, released", {"hold": _RELEASED}),
    (_APPLY, Target.ESCROW): ("a `risk_hold`", {"risk_hold": _ABOUT}),
    (_RESOLVE, Target.ESCROW): ("a `risk_hold`", {"risk_hold": _ABOUT}),
    (_APPLY, Target.CLAWINSURE): ("a `claim`", {"claim": _ABOUT}),
    (_APPLY, Target.CLAWINCOME): ("an `adjustment`", {"adjustment": _ABOUT}),
    (_RESOLVE, Target.CLAWINCOME): ("an `adjustment`", {"adjustment": _ABOUT}),
    (_APPLY, Target.CLAWBOUNTIES): ("a JSON object", {}),
    (_RESOLVE, Target.CLAWBOUNTIES): ("a JSON object", {}),
}
_REFUSALS: Mapping[Call, Sequence[tuple[int, str]]] = {
    (_APPLY, Target.LEDGER): (
        (400, "INSUFFICIENT_FUNDS"),
        (400, "INVALID_ACCOUNT"),
        (409, "IDEMPOTENCY_KEY_REUSED"),
        (409, "DUPLICATE_CONFLICT"),
        (409, "SOURCE_LOSS_EVENT_ALREADY_BOUND"),
    ),
    (_RESOLVE, Target.LEDGER): (
        (404, "NOT_FOUND"),
        (409, "RISK_HOLD_RELEASE_FAILED"),
        (409, "IDEMPOTENCY_CONFLICT"),
    ),
    (_APPLY, Target.ESCROW): (
        (404, "NOT_FOUND"),
        (409, "INVALID_STATUS"),
        (409, "IDEMPOTENCY_CONFLICT"),
    ),
    (_RESOLVE, Target.ESCROW): ((404, "NOT_FOUND"), (409, "RISK_HOLD_NOT_ACTIVE")),
    (_APPLY, Target.CLAWINSURE): (
        (404, "NOT_FOUND"),
        (409, "POLICY_NOT_CLAIMABLE"),
        (409, "REQUEST_EXCEEDS_COVERAGE"),
    ),
    (_APPLY, Target.CLAWINCOME): ((409, "IDEMPOTENCY_CONFLICT"),),
    (_RESOLVE, Target.CLAWINCOME): ((409, "IDEMPOTENCY_CONFLICT"),),
    (_APPLY, Target.CLAWBOUNTIES): (
        (404, "NOT_FOUND"),
        (409, "CONFLICT"),
        (409, "IDEMPOTENCY_CONFLICT"),
    ),
    (_RESOLVE, Target.CLAWBOUNTIES): ((404, "NOT_FOUND"), (409, "RISK_CLEAR_ALREADY_EXISTS")),
}
_TO_ALL: Mapping[str, Answered | Unanswered] = {
    "2xx with `error`, or `ok` not true": Answered(200, '{"ok": false}'),
    "2xx that is no JSON object": Answered(200, "<html>"),
    "3xx, which is not followed": Answered(307, ""),
    "400, 422 and the like": Answered(400, '{"error": "text", "code": "INVALID_REQUEST"}'),
    "401, 403": Answered(401, '{"error": "text", "code": "UNAUTHORIZED"}'),
    "404 without a code": Answered(404, "not found"),
    "409 with a code not named below": Answered(409, '{"error": "text", "code": "CONFLICT"}'),
    "4xx `DEPENDENCY_NOT_CONFIGURED`": Answered(400, '{"error": "DEPENDENCY_NOT_CONFIGURED"}'),
    "408, 5xx": Answered(503, ""),
    "429": Answered(429, ""),
    "none, and the request was sent": Unanswered("no answer"),
    "none, and the request was not sent": Unanswered("no answer", sent=False),
}


def page(note: str) -> str:
    """Return the page."""
    parts = [_PAGE.format(note=note, slow_factor=SLOW_FACTOR).rstrip()]
    parts += ["\n## Of every target\n", _HEAD, *_common()]
    for target in Target:
        for operation in Operation:
            if (operation, target) in _PROOFS:
                parts += [f"\n## {target}: {operation}\n", _HEAD, *_of(operation, target)]
    parts += ["\n## Without an answer\n", _HEAD, *_unasked()]
    return "\n".join(parts) + "\n"


def _common() -> Iterator[str]:
    for label, answer in _TO_ALL.items():
        rows = {_row(call, label, _read(call, answer)) for call in _PROOFS}
        assert len(rows) == 1, label  # noqa: S101 - else it is no row of every target
        yield rows.pop()


def _of(operation: Operation, target: Target) -> Iterator[str]:
    call = (operation, target)
    proof, body = _PROOFS[call]
    yield _row(call, f"2xx with {proof}, now or replayed", _read(call, Answered(200, dumps(body))))
    if body:
        elsewhere = {name: {**_ABOUT, "amount_minor": "1"} for name in body}
        for label, wrong in (("without it", {}), ("about another amount", elsewhere)):
            read = _read(call, Answered(200, dumps(wrong)))
            if not isinstance(read, Delivered):
                yield _row(call, f"2xx {label}", read)
    for status, code in _REFUSALS[call]:
        answer = Answered(status, dumps({"error": "text", "code": code}))
        label, read = f"{status} `{code}`", _read(call, answer)
        if isinstance(read, Contested):
            yield from _contested(call, label, read)
        elif isinstance(read, HeldByAnother):
            yield from _held(call, label, read)
        else:
            yield _row(call, label, read)
            absent = _read(call, answer, may_be_absent=operation is _RESOLVE)
            if absent != read:
                yield _row(call, f"{label}, when it may not have been applied", absent)


def _contested(call: Call, label: str, contested: Contested) -> Iterator[str]:
    as_asked = _ACTIVE if call[0] is _APPLY else _RELEASED
    for told, hold in (("the ledger shows", as_asked), ("it does not show", None)):
        what = "active" if call[0] is _APPLY else "released"
        settled = settle_contest(_sent(call), contested, hold)
        yield _row(call, f"{label}, and {told} the event's hold {what}", settled)


def _held(call: Call, label: str, held: HeldByAnother) -> Iterator[str]:
    outcomes: Mapping[str, Outcome] = {
        "held for another event of ours": Delivered(held.http_status, is_shared=True),
        "another event of ours is getting or releasing it": TriedInVain(
            held.http_status, held.code, held.message
        ),
        "held for nobody of ours": RefusedForGood(held.http_status, held.code, held.message),
    }
    for why, outcome in outcomes.items():
        yield _row(call, f"{label}, {why}", outcome)


def _unasked() -> Iterator[str]:
    waiting = DeliveryState.WAITING
    alert = alert_of(waiting, None, None, is_configured=False, is_old=False)
    shown = f"`{waiting}` (`{waiting.wire}`)"
    yield f"| its target is not configured | {shown} | once it is | no | no | `{alert}` |"
    call = (_APPLY, Target.LEDGER)
    yield _row(call, "the breaker of its target is open", Withheld(15.0))
    outcome = _read(call, Unanswered("no answer"))
    yield _row(call, "none again, at `attempts_max` or `age_max_s`", outcome, is_last=True)


def _row(call: Call, label: str, outcome: object, *, is_last: bool = False) -> str:
    assert isinstance(outcome, Outcome)  # noqa: S101 - what is open is settled before
    delivery = _delivery(call, attempts=_POLICY.attempts_max if is_last else 1)
    result = judge(delivery, outcome, age_s=0.0, policy=_POLICY)
    again = "no"
    if result.retry_in_s is not None:
        again = "slowly" if isinstance(outcome, TriedInVain) and outcome.is_slow else "soon"
    alert = alert_of(
        result.state, result.http_status, result.error_code, is_configured=True, is_old=False
    )
    becomes = f"`{result.state}`"
    if result.state.wire is not result.state:
        becomes += f" (`{result.state.wire}`)"
    if result.is_shared:
        becomes += ", shared"
    is_down = isinstance(outcome, TriedInVain) and outcome.is_target_down
    return " | ".join(
        (
            f"| {label}",
            becomes,
            again,
            "yes" if result.in_doubt else "no",
            "yes" if is_down else "no",
            f"`{alert}` |" if alert else "none |",
        )
    )


def _read(call: Call, answer: Answered | Unanswered, *, may_be_absent: bool = False) -> object:
    return read_answer(_sent(call, may_be_absent=may_be_absent), answer)


def _sent(call: Call, *, may_be_absent: bool = False) -> Sent:
    return Sent(*call, _EVENT_ID, _AMOUNT_MINOR, may_be_absent)


def _delivery(call: Call, *, attempts: int) -> Delivery:
    operation, target = call
    return Delivery(
        loss_event_id=_EVENT_ID,
        operation=operation,
        target=target,
        delivery_id="lso_1",
        escrow_id=None,
        state=DeliveryState.PENDING,
        attempts=attempts,
        opened_at=_AT,
        created_at=_AT,
        updated_at=_AT,
    )
