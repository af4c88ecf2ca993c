"""The life of a delivery: its table, what attempts make of it, and what follows for its event."""

from collections import Counter
from itertools import chain, combinations_with_replacement, product

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.forwarding import RetryPolicy
from clawsettle.domain.loss_answers import (
    Delivered,
    NothingToDo,
    Outcome,
    RefusedForGood,
    TriedInVain,
    Withheld,
)
from clawsettle.domain.loss_events import DeliveryState, LossStatus
from clawsettle.domain.loss_transitions import (
    MESSAGE_MAX,
    RETRY_AFTER_MAX_S,
    SLOW_FACTOR,
    TRANSITIONS,
    AttemptResult,
    Canceled,
    GaveUp,
    Requeued,
    failed_count,
    judge,
    next_state,
    roll_up,
)
from tests.domain.loss_cases import delivery

S = DeliveryState
POLICY = RetryPolicy(base_s=15, max_s=300, attempts_max=5, age_max_s=3600)
FROM_OPEN = {
    Delivered: S.FORWARDED,
    NothingToDo: S.NOT_APPLICABLE,
    TriedInVain: S.FAILED,
    RefusedForGood: S.DEAD,
    GaveUp: S.DEAD,
    Canceled: S.CANCELED,
}
STEPS: dict[S, dict[type[object], S]] = {
    S.PENDING: {**FROM_OPEN, Withheld: S.PENDING},
    S.WAITING: {**FROM_OPEN, Withheld: S.PENDING},
    S.FAILED: {**FROM_OPEN, Withheld: S.FAILED},
    S.FORWARDED: {},
    S.NOT_APPLICABLE: {Requeued: S.PENDING},
    S.DEAD: {Requeued: S.PENDING, Canceled: S.CANCELED},
    S.CANCELED: {},
}
EVENTS: list[object] = [
    Delivered(200),
    NothingToDo(404, "NOT_FOUND", "no policy"),
    TriedInVain(503, "BUSY", "later"),
    RefusedForGood(409, "CONFLICT", "never"),
    Withheld(7.0),
    GaveUp(),
    Requeued(),
    Canceled(),
]
OUTCOMES: list[Outcome] = [
    Delivered(200),
    NothingToDo(404, "NOT_FOUND", "no policy"),
    TriedInVain(503, "BUSY", "later"),
    RefusedForGood(409, "CONFLICT", "never"),
    Withheld(7.0),
]


@pytest.mark.parametrize(("state", "event"), list(product(S, EVENTS)))
def test_each_state_takes_its_events_and_refuses_the_others(state: S, event: object) -> None:
    to = STEPS[state].get(type(event))
    if to is not None:
        assert next_state(state, event) is to
        return
    with pytest.raises(IllegalTransition) as refused:
        next_state(state, event)
    assert refused.value.details == {"from_status": str(state)}


def test_the_table_has_every_state_and_no_event_but_these() -> None:
    assert set(TRANSITIONS) == set(S)
    assert set(chain(*TRANSITIONS.values())) == {type(event) for event in EVENTS}


def test_forwarded_is_never_left() -> None:
    assert TRANSITIONS[S.FORWARDED] == {}


def test_only_open_deliveries_take_attempts() -> None:
    takers = {state for state, steps in TRANSITIONS.items() if FROM_OPEN.keys() <= steps.keys()}
    assert takers == {state for state in S if state.is_open}
    for state, outcome in product(set(S) - takers, OUTCOMES):
        with pytest.raises(IllegalTransition):
            judge(delivery(state=state), outcome, age_s=0.0, policy=POLICY)


@pytest.mark.parametrize("state", [S.PENDING, S.WAITING, S.FAILED])
@pytest.mark.parametrize("attempts", [1, POLICY.attempts_max + 1])
@pytest.mark.parametrize("age_s", [0.0, POLICY.age_max_s + 1.0])
def test_a_success_counts_however_late_and_ends_doubt_and_error(
    state: S, attempts: int, age_s: float
) -> None:
    before = delivery(
        state=state, attempts=attempts, in_doubt=True, last_error_code="BUSY", last_http_status=503
    )
    result = judge(before, Delivered(409, is_shared=True), age_s=age_s, policy=POLICY)
    assert result == AttemptResult(S.FORWARDED, in_doubt=False, http_status=409, is_shared=True)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (NothingToDo(404, "NOT_FOUND", "no policy"), S.NOT_APPLICABLE),
        (RefusedForGood(409, "CONFLICT", "never"), S.DEAD),
    ],
)
def test_a_last_word_ends_the_delivery_and_its_doubt(
    outcome: NothingToDo | RefusedForGood, state: S
) -> None:
    before = delivery(attempts=1, in_doubt=True)
    result = judge(before, outcome, age_s=0.0, policy=POLICY)
    assert result == AttemptResult(
        state,
        in_doubt=False,
        http_status=outcome.http_status,
        error_code=outcome.code,
        error_message=outcome.message,
    )


@pytest.mark.parametrize(("before", "now"), list(product([False, True], repeat=2)))
def test_a_doubt_stays_until_something_ends_it(*, before: bool, now: bool) -> None:
    outcome = TriedInVain(503, "BUSY", "later", in_doubt=now)
    for attempts in (1, POLICY.attempts_max):
        doubted = delivery(attempts=attempts, in_doubt=before)
        result = judge(doubted, outcome, age_s=0.0, policy=POLICY)
        assert result.in_doubt is (before or now)


def test_what_was_withheld_is_as_it_was_and_no_attempt() -> None:
    before = delivery(
        state=S.FAILED,
        attempts=POLICY.attempts_max + 1,
        in_doubt=True,
        last_http_status=503,
        last_error_code="BUSY",
        last_error_message="later",
    )
    assert judge(before, Withheld(7.0), age_s=1e9, policy=POLICY) == AttemptResult(
        S.FAILED,
        in_doubt=True,
        retry_in_s=7.0,
        http_status=503,
        error_code="BUSY",
        error_message="later",
        attempted=False,
    )


@pytest.mark.parametrize(
    ("attempts", "documented_s"),
    [(1, 15), (2, 30), (3, 60), (4, 120), (5, 240), (6, 300), (99, 300)],
)
def test_the_waits_double_up_to_the_longest_with_jitter(attempts: int, documented_s: int) -> None:
    policy = evolve(POLICY, attempts_max=1000)
    outcome = TriedInVain(503, "BUSY", "later")
    waits = set()
    for event_id in map(str, range(50)):
        tried = delivery(event_id=event_id, attempts=attempts)
        result = judge(tried, outcome, age_s=0.0, policy=policy)
        assert result.state is S.FAILED
        assert result.retry_in_s is not None
        assert documented_s * 0.8 <= result.retry_in_s <= documented_s
        assert judge(tried, outcome, age_s=0.0, policy=policy) == result
        waits.add(result.retry_in_s)
        slow = judge(tried, evolve(outcome, is_slow=True), age_s=0.0, policy=policy)
        assert slow.retry_in_s == pytest.approx(result.retry_in_s * SLOW_FACTOR)
    assert len(waits) > 40


@pytest.mark.parametrize(
    ("retry_after_s", "least_s"),
    [(0.0, 0.0), (1.0, 0.0), (600.0, 600.0), (1e9, RETRY_AFTER_MAX_S)],
)
def test_a_target_that_says_when_is_left_alone_until_then(
    retry_after_s: float, least_s: float
) -> None:
    tried = delivery(attempts=1)
    alone = judge(tried, TriedInVain(429, "BUSY", ""), age_s=0.0, policy=POLICY).retry_in_s
    told = TriedInVain(429, "BUSY", "", retry_after_s=retry_after_s)
    assert alone is not None
    assert judge(tried, told, age_s=0.0, policy=POLICY).retry_in_s == max(alone, least_s)


@pytest.mark.parametrize(
    ("attempts", "age_s", "limit"),
    [
        (4, 3599.9, ""),
        (5, 0.0, "; given up after attempts_max (5) attempts"),
        (1, 3600.0, "; given up after age_max_s (3600) seconds"),
    ],
)
def test_what_was_tried_too_long_is_given_up_with_the_limit_told(
    attempts: int, age_s: float, limit: str
) -> None:
    outcome = TriedInVain(503, "BUSY", "later")
    result = judge(delivery(attempts=attempts), outcome, age_s=age_s, policy=POLICY)
    assert result.state is (S.DEAD if limit else S.FAILED)
    assert (result.retry_in_s is None) is bool(limit)
    assert (result.error_code, result.error_message) == ("BUSY", f"later{limit}")


def test_a_message_is_cut_but_never_the_limit_that_it_ends_with() -> None:
    outcome = TriedInVain(503, "BUSY", "m" * 2000)
    kept = judge(delivery(attempts=1), outcome, age_s=0.0, policy=POLICY).error_message
    assert kept == "m" * MESSAGE_MAX
    ended = judge(delivery(attempts=5), outcome, age_s=0.0, policy=POLICY).error_message
    assert ended is not None
    assert len(ended) == MESSAGE_MAX
    assert ended.endswith("attempts_max (5) attempts")


@given(
    st.lists(st.tuples(st.sampled_from(OUTCOMES), st.floats(0, 2 * POLICY.age_max_s)), max_size=12)
)
def test_however_attempts_end_a_delivery_is_open_and_due_or_at_an_end(
    attempts: list[tuple[Outcome, float]],
) -> None:
    now = delivery()
    for outcome, age_s in attempts:
        now = evolve(now, attempts=now.attempts + 1)
        if not now.state.is_open:
            with pytest.raises(IllegalTransition):
                judge(now, outcome, age_s=age_s, policy=POLICY)
            continue
        result = judge(now, outcome, age_s=age_s, policy=POLICY)
        assert result.state.is_open is (result.retry_in_s is not None)
        assert (result.state is S.FORWARDED) is isinstance(outcome, Delivered)
        made = now.attempts - (not result.attempted)
        now = evolve(now, state=result.state, in_doubt=result.in_doubt, attempts=made)
        assert now.attempts <= POLICY.attempts_max or now.state is not S.FAILED


def contract_status(states: tuple[S, ...]) -> LossStatus:
    """The contract's table, first match, told of the words that callers know.

    It is silent on what is not applicable, which counts as done, and on what was canceled, which
    counts as failed.
    """
    done = {S.FORWARDED, S.NOT_APPLICABLE}
    forwarded = sum(state is S.FORWARDED for state in states)
    failed = sum(state.wire in {S.FAILED, S.CANCELED} for state in states)
    pending = sum(state.wire is S.PENDING for state in states)
    table = [
        (all(state in done for state in states), LossStatus.FORWARDED),
        (failed and forwarded, LossStatus.PARTIALLY_FORWARDED),
        (failed and not pending and not forwarded, LossStatus.FAILED),
        (forwarded, LossStatus.PARTIALLY_FORWARDED),
        (failed and pending and not forwarded, LossStatus.PROCESSING),
        (True, LossStatus.RECORDED),
    ]
    return next(status for is_met, status in table if is_met)


def test_an_events_status_is_that_of_the_contracts_table() -> None:
    for count in range(6):
        for states in combinations_with_replacement(S, count):
            assert roll_up(Counter(states)) is contract_status(states), states
            failed = sum(state.wire is S.FAILED for state in states)
            assert failed_count(Counter(states)) == failed


def test_a_counter_that_names_states_without_any_changes_nothing() -> None:
    for count in range(4):
        for states in combinations_with_replacement(S, count):
            zeros = dict.fromkeys(S, 0)
            assert roll_up(zeros | Counter(states)) is roll_up(Counter(states))
