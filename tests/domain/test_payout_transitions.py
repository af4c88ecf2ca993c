"""What a payout may become: the table, its replays, and every case that it can come to."""

from itertools import product

import pytest

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.payout_events import NEWS, StepFailed, news
from clawsettle.domain.payout_schedule import due_by_news
from clawsettle.domain.payout_transitions import ERROR_MESSAGE_MAX, TRANSITIONS, apply
from clawsettle.domain.payouts import WIRE_STATUSES, PayoutStatus, PayoutStep
from clawsettle.domain.providers import ProviderStatus
from tests.domain.payout_cases import (
    AT,
    BY_EVENTS,
    OUTCOMES,
    UNTELLING,
    Case,
    as_ordered,
    begin,
    claim,
    payout,
    sent,
    succeed,
    walk,
    whatever_happens,
)

S = PayoutStatus
BORN = begin(Case(payout()))
EVENTS = {
    *(event for outcomes in OUTCOMES.values() for event in outcomes),
    *(news(sent(status), "payout.updated:evt_1") for status in ProviderStatus),
}
EVENTFUL = [case for case in walk(BORN, whatever_happens) if case.heard == frozenset()]

# What the ledger has applied, by the stored status of a payout that nobody works on.
HELD = {PayoutStep.LOCK}
BOOKS: dict[PayoutStatus, list[set[PayoutStep]]] = {
    S.SUBMITTED: [HELD],
    S.PAID: [{*HELD, PayoutStep.FINALIZE}],
    S.FAILED: [set(), {*HELD, PayoutStep.ROLL_BACK}],
    S.CANCELED: [{*HELD, PayoutStep.ROLL_BACK}],
    S.RETURNED: [{*HELD, PayoutStep.FINALIZE, PayoutStep.RETURN}],
}
MOVES = {
    PayoutStep.LOCK: (-1200, 1200, 0),
    PayoutStep.FINALIZE: (0, -1200, 1200),
    PayoutStep.ROLL_BACK: (1200, -1200, 0),
    PayoutStep.RETURN: (1200, 0, -1200),
}


def rests(case: Case) -> bool:
    """Whether nothing is to be done but to wait for the provider."""
    return case.payout.due_at is None or case.payout.status is S.SUBMITTED


def money(case: Case) -> tuple[int, int, int]:
    moves = [MOVES[step] for step in case.applied]
    available, held, cleared = (sum(move[place] for move in moves) for place in range(3))
    return 5000 + available, held, cleared


@pytest.mark.parametrize("status", S)
def test_each_event_either_leads_somewhere_or_is_refused_and_changes_nothing(
    status: PayoutStatus,
) -> None:
    before = payout(status=status, lock_event_id="evt_lock", external_payout_id="po_1")
    for event in EVENTS:
        to_status = TRANSITIONS[status].get(type(event))
        if to_status is not None:
            assert apply(before, event, now=AT).payout.status is to_status
            continue
        with pytest.raises(IllegalTransition) as refused:
            apply(before, event, now=AT)
        assert refused.value.details == {
            "payout_id": before.payout_id,
            "from_status": str(status.wire),
        }


def test_the_table_names_every_status_and_no_event_twice_over() -> None:
    assert TRANSITIONS.keys() == set(S)
    assert {type(event) for event in EVENTS} == {e for row in TRANSITIONS.values() for e in row}


def test_an_end_is_left_by_news_of_a_late_failure_only() -> None:
    for status in (status for status in S if status.is_end):
        away = {event for event, to in TRANSITIONS[status].items() if to is not status}
        late = {NEWS[ProviderStatus.FAILED], NEWS[ProviderStatus.CANCELED]}
        assert away == (late if status is S.PAID else set())


def test_each_status_has_one_of_the_six_words_of_the_contract() -> None:
    assert {str(status) for status in WIRE_STATUSES} == {
        *("initiated", "submitted", "finalizing_paid", "paid", "finalizing_failed", "failed")
    }
    assert {status.wire for status in S} == set(WIRE_STATUSES)


def test_a_repetition_changes_no_status_and_leaves_no_second_trace() -> None:
    for case, event in product(EVENTFUL, EVENTS):
        if type(event) not in TRANSITIONS[case.payout.status]:
            continue
        once = apply(case.payout, event, now=AT)
        if type(event) not in TRANSITIONS[once.payout.status]:
            continue
        twice = apply(once.payout, event, now=AT)
        assert twice.payout == once.payout
        keys = [audit.key for audit in (*once.audits, *twice.audits) if audit.to_status is None]
        assert None not in keys
        assert not [audit for audit in twice.audits if audit.to_status is not None]


def test_whatever_happens_the_money_is_moved_once_and_only_forward() -> None:
    for case in EVENTFUL:
        assert min(money(case)) >= 0
        assert not {PayoutStep.FINALIZE, PayoutStep.ROLL_BACK} <= case.applied


def test_whatever_happens_a_payout_rests_only_where_its_books_are_right() -> None:
    rested = [case for case in EVENTFUL if case.payout.status in BOOKS and case.step is None]
    assert {case.payout.status for case in rested} == BOOKS.keys()
    for case in rested:
        assert case.applied in BOOKS[case.payout.status], case


def test_from_wherever_it_is_a_payout_comes_to_rest_without_anybody_asking() -> None:
    for start in EVENTFUL:
        case = start
        for _ in range(12):
            if case.step is not None:
                case = succeed(case)
            elif not rests(case):
                case = claim(case)
        assert rests(case), start
        assert case.applied in BOOKS[case.payout.status], start


def test_any_order_of_a_payouts_events_ends_in_the_same_books() -> None:
    ends: dict[frozenset[ProviderStatus], set[tuple[object, ...]]] = {}
    for case in walk(BORN, as_ordered):
        if case.step is None and rests(case):
            end = (case.payout.status.wire, *money(case))
            ends.setdefault(case.heard - UNTELLING, set()).add(end)
    assert ends == {events: {end} for events, end in BY_EVENTS.items()}


def test_what_is_said_of_a_failure_is_kept_short() -> None:
    failed = apply(payout(), StepFailed("CODE", "x" * 501), now=AT).payout
    assert failed.last_error_message == "x" * ERROR_MESSAGE_MAX
    assert failed.updated_at == AT


def test_news_gives_a_payout_to_whoever_comes_first_but_takes_it_from_nobody() -> None:
    waiting = payout(status=S.SUBMITTED, lease_token=None)
    paid = payout(status=S.FINALIZING_PAID, lease_token=None)
    assert due_by_news(waiting, paid, now=AT).due_at == AT
    held = payout(status=S.FINALIZING_PAID, attempts=0)
    assert due_by_news(waiting, held, now=AT) == payout(status=S.FINALIZING_PAID, attempts=1)
