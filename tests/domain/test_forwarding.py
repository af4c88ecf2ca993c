"""The life of a settlement on its way to the ledger: states, waits and verdicts."""

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.forwarding import (
    ERROR_MESSAGE_MAX,
    TRANSITIONS,
    Accepted,
    AttemptOutcome,
    AttemptResult,
    Blame,
    Discarded,
    FellThrough,
    Forwardable,
    ForwardingState,
    GaveUp,
    Refused,
    Requeued,
    RetryPolicy,
    Succeeded,
    Unknown,
    Unreadable,
    backoff_s,
    judge,
    next_state,
    read_answer,
)

S = ForwardingState
POLICY = RetryPolicy(base_s=15, max_s=300, attempts_max=40, age_max_s=9000)
STEPS = {
    (S.PENDING, Succeeded): S.FORWARDED,
    (S.PENDING, FellThrough): S.FAILED,
    (S.PENDING, GaveUp): S.DEAD,
    (S.FAILED, Succeeded): S.FORWARDED,
    (S.FAILED, FellThrough): S.FAILED,
    (S.FAILED, GaveUp): S.DEAD,
    (S.FORWARDED, Succeeded): S.FORWARDED,
    (S.DEAD, Requeued): S.FAILED,
    (S.DEAD, Discarded): S.DISCARDED,
    (S.DISCARDED, Requeued): S.FAILED,
}


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(ForwardingState)


@pytest.mark.parametrize(
    ("state", "event_type"), list(product(S, (Succeeded, FellThrough, GaveUp, Requeued, Discarded)))
)
def test_each_state_takes_its_events_and_refuses_the_others(
    state: ForwardingState, event_type: type[object]
) -> None:
    expected = STEPS.get((state, event_type))
    if expected is None:
        with pytest.raises(IllegalTransition) as raised:
            next_state(state, event_type())
        assert raised.value.details["from_status"] == state
        assert raised.value.details["to_status"] in list(S)
    else:
        assert next_state(state, event_type()) is expected


def test_what_is_forwarded_never_leaves_that_state() -> None:
    assert set(TRANSITIONS[S.FORWARDED].values()) == {S.FORWARDED}


@pytest.mark.parametrize(
    ("attempts", "documented_s"),
    [(1, 15), (2, 30), (3, 60), (4, 120), (5, 240), (6, 300), (7, 300), (40, 300), (10**6, 300)],
)
def test_the_wait_doubles_to_its_maximum_with_at_most_a_fifth_taken_off(
    attempts: int, documented_s: int
) -> None:
    waits = [backoff_s(attempts, POLICY, seed=f"evt_{n}") for n in range(200)]
    assert max(waits) <= documented_s
    assert min(waits) >= 0.8 * documented_s
    assert max(waits) - min(waits) > 0.1 * documented_s, "rows must not come back together"


def test_the_same_row_waits_the_same_time_on_every_daemon() -> None:
    assert backoff_s(3, POLICY, seed="evt_1") == backoff_s(3, POLICY, seed="evt_1")


@given(
    st.integers(min_value=0, max_value=10_000),
    st.integers(min_value=1, max_value=10**6),
    st.integers(min_value=1, max_value=10**6),
)
@settings(deadline=None)
def test_no_wait_exceeds_the_maximum_even_if_the_base_does(
    attempts: int, base_s: int, max_s: int
) -> None:
    policy = RetryPolicy(base_s, max_s, attempts_max=1, age_max_s=1)
    wait_s = backoff_s(attempts, policy, seed="evt_1")
    assert 0.8 * min(base_s, max_s) <= wait_s <= max_s


@pytest.mark.parametrize("attempts", [1, 2, 9])
def test_a_base_above_the_maximum_means_the_maximum(attempts: int) -> None:
    wait_s = backoff_s(attempts, RetryPolicy(900, 300, attempts_max=9, age_max_s=1), seed="evt_1")
    assert 240 <= wait_s <= 300


def verdict(
    outcome: AttemptOutcome,
    *,
    state: ForwardingState = S.PENDING,
    attempts: int = 1,
    age_s: float = 0.0,
) -> AttemptResult:
    return judge(state, outcome, event_id="evt_1", attempts=attempts, age_s=age_s, policy=POLICY)


@pytest.mark.parametrize("state", [S.PENDING, S.FAILED])
@pytest.mark.parametrize("ledger_status", [200, 201])
def test_an_accepted_settlement_is_forwarded(state: ForwardingState, ledger_status: int) -> None:
    assert verdict(Accepted(ledger_status, "set_1"), state=state) == AttemptResult(
        S.FORWARDED, ledger_status=ledger_status, settlement_id="set_1"
    )


@pytest.mark.parametrize(("attempts", "age_s"), [(40, 0.0), (41, 0.0), (1, 9000.0), (99, 99999.0)])
def test_a_success_on_the_last_attempt_is_a_success(attempts: int, age_s: float) -> None:
    assert verdict(Accepted(200, "set_1"), attempts=attempts, age_s=age_s).state is S.FORWARDED


@pytest.mark.parametrize(
    ("outcome", "blame"),
    [
        (Refused(400, "no"), Blame.US),
        (Refused(409, "no"), Blame.TARGET),
        (Refused(422, "no"), Blame.TARGET),
        (Refused(422, "no", "BALANCE_LIMIT_EXCEEDED"), Blame.TARGET),
        (Refused(409, "no", "DUPLICATE_CONFLICT"), Blame.TARGET),
    ],
)
@pytest.mark.parametrize("state", [S.PENDING, S.FAILED])
@pytest.mark.parametrize("attempts", [1, 40])
def test_a_refusal_that_time_cannot_mend_is_dead_at_once(
    state: ForwardingState, outcome: Refused, blame: Blame, attempts: int
) -> None:
    assert verdict(outcome, state=state, attempts=attempts) == AttemptResult(
        S.DEAD,
        ledger_status=outcome.ledger_status,
        error_code="LEDGER_INGEST_FAILED",
        error_message="no",
        blame=blame,
    )


PASSING: list[Refused | Unknown] = [
    *(Refused(status, "no") for status in (301, 307, 401, 403, 404, 408, 429, 500, 502, 503, 504)),
    # A refund may overtake its payment; one that does not is tried until its attempts are used up.
    Refused(422, "no", "INSUFFICIENT_FUNDS"),
    Refused(404, "no", "NOT_FOUND"),
    Unknown("silence"),
    Unknown("a foreign answer", 200),
]


@pytest.mark.parametrize("outcome", PASSING)
@pytest.mark.parametrize("state", [S.PENDING, S.FAILED])
def test_a_failure_that_may_pass_is_tried_again(
    state: ForwardingState, outcome: Refused | Unknown
) -> None:
    result = verdict(outcome, state=state, attempts=2)
    assert result == AttemptResult(
        S.FAILED,
        retry_in_s=backoff_s(2, POLICY, seed="evt_1"),
        ledger_status=outcome.ledger_status,
        error_code="LEDGER_INGEST_FAILED",
        error_message=outcome.message,
    )


def blamed_when_exhausted(outcome: Refused | Unknown) -> Blame:
    ours = isinstance(outcome, Refused) and outcome.ledger_status in (301, 307, 401, 403)
    return Blame.CONFIG if ours else Blame.TARGET


@pytest.mark.parametrize("outcome", PASSING)
@pytest.mark.parametrize(
    ("attempts", "age_s", "limit"),
    [
        (40, 0.0, "attempts_max (40) attempts"),
        (41, 9000.0, "attempts_max (40) attempts"),
        (1, 9000.0, "age_max_s (9000) seconds"),
        (39, 9001.5, "age_max_s (9000) seconds"),
    ],
)
def test_attempts_end_at_the_first_limit_and_the_message_names_it(
    outcome: Refused | Unknown, attempts: int, age_s: float, limit: str
) -> None:
    assert verdict(outcome, attempts=39, age_s=8999.9).state is S.FAILED
    assert verdict(outcome, attempts=attempts, age_s=age_s) == AttemptResult(
        S.DEAD,
        ledger_status=outcome.ledger_status,
        error_code="LEDGER_INGEST_FAILED",
        error_message=f"{outcome.message}; given up after {limit}",
        blame=blamed_when_exhausted(outcome),
    )


@pytest.mark.parametrize("attempts", [1, 40])
def test_an_unreadable_payload_is_poison_and_was_never_sent(attempts: int) -> None:
    assert verdict(Unreadable("bad json"), attempts=attempts) == AttemptResult(
        S.DEAD, error_code="INTERNAL_ERROR", error_message="bad json", blame=Blame.POISON
    )


def test_a_message_is_cut_where_storage_ends() -> None:
    message = verdict(Refused(500, "x" * 2000)).error_message
    assert message == "x" * ERROR_MESSAGE_MAX


def test_a_long_message_still_says_which_limit_ended_its_row() -> None:
    message = verdict(Refused(500, "x" * 2000), attempts=40).error_message
    assert message is not None
    assert len(message) == ERROR_MESSAGE_MAX
    assert message.endswith("x; given up after attempts_max (40) attempts")


@pytest.mark.parametrize("state", [S.FORWARDED, S.DEAD, S.DISCARDED])
@pytest.mark.parametrize("outcome", [Refused(500, "no"), Refused(400, "no"), Unreadable("bad")])
def test_a_failure_never_moves_a_row_that_takes_no_attempts(
    state: ForwardingState, outcome: AttemptOutcome
) -> None:
    with pytest.raises(IllegalTransition):
        verdict(outcome, state=state)


@pytest.mark.parametrize("state", [S.DEAD, S.DISCARDED])
def test_a_closed_row_does_not_come_back_by_an_answer_alone(state: ForwardingState) -> None:
    with pytest.raises(IllegalTransition):
        verdict(Accepted(200, "set_1"), state=state)


PAYLOAD: Mapping[str, object] = {
    "provider": "stripe",
    "external_payment_id": "pi_1",
    "direction": "payin",
    "status": "confirmed",
    "account_id": "acc_1",
    "amount_minor": "2500",
    "currency": "USD",
    "metadata": {"stripe_event_id": "evt_1"},
}
SENT = Forwardable("stripe:event:evt_1", PAYLOAD)


def answer(**changed: object) -> dict[str, object]:
    """A ledger's body about what we sent, with some of it changed."""
    return {"settlement": {**PAYLOAD, "id": "set_1", **changed}, "idempotency": {}}


@pytest.mark.parametrize("ledger_status", [200, 201, 202, 299])
def test_an_answer_about_our_payment_is_accepted(ledger_status: int) -> None:
    assert read_answer(SENT, ledger_status, answer()) == Accepted(ledger_status, "set_1")


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "reversed"},
        {"metadata": {"other": 1}},
        {"network": "stripe"},
        {"created_at": "2025-02-11T16:06:40.000Z"},
    ],
)
def test_what_the_ledger_may_know_better_does_not_disturb(changed: dict[str, object]) -> None:
    assert read_answer(SENT, 200, answer(**changed)) == Accepted(200, "set_1")


@pytest.mark.parametrize(
    "changed",
    [
        {"provider": "other"},
        {"external_payment_id": "pi_2"},
        {"direction": "payout"},
        {"account_id": "acc_2"},
        {"amount_minor": "2501"},
        {"amount_minor": 2500},
        {"amount_minor": None},
        {"currency": "EUR"},
    ],
)
def test_an_answer_about_another_payment_is_no_success(changed: dict[str, object]) -> None:
    (name,) = changed
    outcome = read_answer(SENT, 201, answer(**changed))
    assert outcome == Unknown(f"the ledger's answer is about another {name}", 201)


@pytest.mark.parametrize(
    ("direction", "status", "accepted"),
    [
        ("payin", "failed", True),
        ("payin", "confirmed", False),
        ("payout", "failed", False),
        ("refund", "failed", False),
    ],
)
def test_only_a_failed_payin_may_be_answered_with_another_amount(
    direction: str, status: str, accepted: bool
) -> None:
    sent = Forwardable("k", {**PAYLOAD, "direction": direction, "status": status})
    outcome = read_answer(sent, 200, answer(direction=direction, amount_minor="900"))
    assert isinstance(outcome, Accepted if accepted else Unknown)
    elsewhere = answer(direction=direction, amount_minor="900", account_id="acc_2")
    assert isinstance(read_answer(sent, 200, elsewhere), Unknown)


@pytest.mark.parametrize("named", [None, "", 7, ["set_1"], "set 1", "set_1\n", "s" * 256, "\u00e9"])
def test_an_answer_without_a_settlement_id_is_no_success(named: object) -> None:
    assert isinstance(read_answer(SENT, 201, answer(id=named)), Unknown)


@pytest.mark.parametrize(
    "body",
    [None, "", "<html>ok</html>", [], 5, {}, {"settlement": None}, {"settlement": [PAYLOAD]}],
)
@pytest.mark.parametrize("ledger_status", [200, 204])
def test_a_success_that_is_not_the_ledgers_is_unknown(ledger_status: int, body: object) -> None:
    outcome = read_answer(SENT, ledger_status, body)
    assert isinstance(outcome, Unknown)
    assert outcome.ledger_status == ledger_status


@pytest.mark.parametrize("ledger_status", [199, 300, 302, 400, 404, 409, 422, 500, 503])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": "x", "code": "NOT_FOUND"}, "NOT_FOUND"),
        ({"error": "x", "code": 5}, None),
        ({"error": "x", "code": "no such code"}, None),
        ({"error": "x", "code": "NOT_FOUND\n"}, None),
        ({"error": "x", "code": "X" * 65}, None),
        ({"error": "x", "code": ""}, None),
        ("<html>", None),
        (None, None),
        (answer(), None),
    ],
)
def test_any_other_status_is_a_refusal_that_names_status_and_code(
    ledger_status: int, body: object, code: str | None
) -> None:
    message = f"the ledger answered {ledger_status} {code or 'without a code'}"
    assert read_answer(SENT, ledger_status, body) == Refused(ledger_status, message, code)
