"""Taking a loss event back: when, from whom, what remains, and whose an escrow's hold is."""

from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.loss_events import Delivery, DeliveryState, Operation, Target
from clawsettle.domain.loss_resolutions import (
    Residual,
    Step,
    apply_step,
    is_canceled,
    join_step,
    not_ready,
    release_step,
    residuals,
    taken_back,
    unseen,
)
from tests.domain.loss_cases import AT, delivery

S = DeliveryState
T = Target
APPLY, RESOLVE = Operation.APPLY, Operation.RESOLVE

MONEY = {T.LEDGER, T.ESCROW, T.CLAWINCOME}
APPLIES = st.fixed_dictionaries(
    {},
    optional={
        target: st.builds(
            delivery,
            st.just(target),
            st.sampled_from(S),
            in_doubt=st.booleans(),
            lease_token=st.none() | st.just(1),
        )
        for target in T
    },
).map(lambda by_target: list(by_target.values()))


def applied(event_id: str, state: S = S.FORWARDED, **changes: Any) -> Delivery:
    return delivery(T.ESCROW, state, APPLY, event_id=event_id, **changes)


def release(event_id: str, state: S = S.PENDING, **changes: Any) -> Delivery:
    return delivery(T.ESCROW, state, RESOLVE, event_id=event_id, **changes)


@pytest.mark.parametrize("state", S)
def test_an_event_is_not_ready_while_somebody_can_still_be_told(state: S) -> None:
    told, other = delivery(T.LEDGER, S.FORWARDED), delivery(T.CLAWINSURE, state)
    expected = [T.CLAWINSURE] if state.is_open else []
    assert not_ready([told, other], list(T), AT) == expected


@pytest.mark.parametrize("state", [S.PENDING, S.WAITING, S.FAILED])
def test_a_target_that_is_not_configured_keeps_nobody_unless_it_is_being_told(state: S) -> None:
    other = delivery(T.CLAWINSURE, state)
    assert not_ready([other], {T.LEDGER}, AT) == []
    later, before = AT + timedelta(seconds=1), AT - timedelta(seconds=1)
    leased = evolve(other, lease_token=1, due_at=later)
    assert not_ready([leased], {T.LEDGER}, AT) == [T.CLAWINSURE]
    assert not_ready([evolve(leased, due_at=before)], {T.LEDGER}, AT) == []


def test_who_let_a_lease_run_out_may_have_told_its_target() -> None:
    left = delivery(T.LEDGER, S.PENDING, lease_token=1, due_at=AT - timedelta(seconds=1))
    assert taken_back([left]) == [T.LEDGER]


@pytest.mark.parametrize("state", S)
def test_what_was_not_delivered_ends_when_its_event_is_resolved(state: S) -> None:
    assert is_canceled(delivery(state=state)) is (state.is_open or state is S.DEAD)


@given(APPLIES)
def test_resolving_leaves_no_apply_that_anybody_would_make(applies: list[Delivery]) -> None:
    if not not_ready(applies, list(T), AT):
        assert not any(one.state.is_open and not is_canceled(one) for one in applies)


@pytest.mark.parametrize(("target", "state"), list(product(T, S)))
def test_whoever_was_told_is_told_that_it_is_over(target: Target, state: S) -> None:
    is_told = state is S.FORWARDED and target is not T.CLAWINSURE
    assert taken_back([delivery(target, state)]) == ([target] if is_told else [])


@pytest.mark.parametrize(("target", "state"), list(product(T, {S.DEAD, S.WAITING})))
def test_who_may_have_been_told_is_asked_to_let_go_where_that_does_no_harm(
    target: Target, state: S
) -> None:
    # A credit for a debit that was never made would be a gift.
    is_asked = target in {T.LEDGER, T.ESCROW, T.CLAWBOUNTIES}
    assert taken_back([delivery(target, state, in_doubt=True)]) == ([target] if is_asked else [])


@pytest.mark.parametrize("state", S)
def test_a_release_has_to_find_what_was_delivered_and_nothing_else(state: S) -> None:
    expected = set() if state is S.FORWARDED else {T.LEDGER}
    assert unseen([delivery(T.LEDGER, state), delivery(T.ESCROW, S.FORWARDED)]) == expected


def test_targets_are_told_in_their_own_order() -> None:
    applies = [delivery(target, S.FORWARDED) for target in reversed(T)]
    assert taken_back(applies) == [T.LEDGER, T.ESCROW, T.CLAWINCOME, T.CLAWBOUNTIES]


@pytest.mark.parametrize(("target", "state"), list(product(T, S)))
def test_money_remains_only_where_an_event_was_delivered(target: Target, state: S) -> None:
    (residual,) = residuals(250, [delivery(target, state)], is_resolved=False)
    took = 250 if state is S.FORWARDED and target in MONEY else 0
    assert residual == Residual(target, took, 0, is_uncertain=False, stays=None)
    assert residual.residual_minor == took


@pytest.mark.parametrize(("target", "state"), list(product(sorted(MONEY), S)))
def test_what_was_taken_back_does_not_remain(target: Target, state: S) -> None:
    back = delivery(target, state, RESOLVE)
    (residual,) = residuals(250, [back, delivery(target, S.FORWARDED)], is_resolved=True)
    is_over = state in {S.FORWARDED, S.NOT_APPLICABLE}
    assert residual == Residual(target, 250, 250 if is_over else 0, is_uncertain=False, stays=None)


@pytest.mark.parametrize(
    ("state", "applied_minor", "is_uncertain"),
    [
        (S.PENDING, 0, True),
        (S.DEAD, 0, True),
        (S.FORWARDED, 250, False),
        (S.NOT_APPLICABLE, 0, False),
    ],
)
def test_a_doubt_remains_until_the_target_has_let_go(
    state: S, applied_minor: int, *, is_uncertain: bool
) -> None:
    apply = delivery(T.LEDGER, S.CANCELED, in_doubt=True)
    back = delivery(T.LEDGER, state, RESOLVE)
    (residual,) = residuals(250, [apply, back], is_resolved=True)
    assert residual == Residual(
        T.LEDGER, applied_minor, applied_minor, is_uncertain=is_uncertain, stays=None
    )


def test_a_debit_in_doubt_stays_in_doubt() -> None:
    apply = delivery(T.CLAWINCOME, S.CANCELED, in_doubt=True)
    (residual,) = residuals(250, [apply], is_resolved=True)
    assert residual == Residual(T.CLAWINCOME, 0, 0, is_uncertain=True, stays=None)


@pytest.mark.parametrize(
    ("target", "stays"), [(T.CLAWINSURE, "claim"), (T.CLAWBOUNTIES, "bounty_disputed")]
)
def test_what_cannot_be_undone_is_told_once_the_event_is_resolved(
    target: Target, stays: str
) -> None:
    deliveries = [delivery(target, S.FORWARDED), delivery(target, S.FORWARDED, RESOLVE)]
    (now,) = residuals(250, deliveries[:1], is_resolved=False)
    (later,) = residuals(250, deliveries, is_resolved=True)
    assert (now.stays, later.stays) == (None, stays)
    (never,) = residuals(250, [delivery(target, S.CANCELED)], is_resolved=True)
    assert never.stays is None


def test_residuals_are_in_the_order_of_targets_and_rendered_as_digits() -> None:
    shown = residuals(
        2**63 - 1, [delivery(target, S.FORWARDED) for target in reversed(T)], is_resolved=True
    )
    assert [one.target for one in shown] == list(T)
    assert shown[0].view() == {
        "target_service": "ledger",
        "applied_minor": "9223372036854775807",
        "released_minor": "0",
        "residual_minor": "9223372036854775807",
        "uncertain": False,
        "not_undone": None,
    }


@given(APPLIES, st.integers(1, 2**63 - 1))
def test_once_all_was_taken_back_nothing_remains(applies: list[Delivery], amount: int) -> None:
    if not_ready(applies, list(T), AT):
        return
    backs = [delivery(target, S.FORWARDED, RESOLVE) for target in taken_back(applies)]
    canceled = [
        evolve(one, state=S.CANCELED, due_at=None) if is_canceled(one) else one for one in applies
    ]
    for one in residuals(amount, canceled + backs, is_resolved=True):
        assert one.residual_minor == 0
        if one.is_uncertain:
            assert one.target in {T.CLAWINSURE, T.CLAWINCOME}


LEAVING = release("lse_2", last_attempted_at=AT)
ASKED_AT = AT + timedelta(minutes=1)
REFUSED = applied("lse_1", S.PENDING, last_attempted_at=ASKED_AT)


def test_a_refused_escrow_that_is_nobodys_of_ours_is_refused() -> None:
    assert join_step(REFUSED, []) is Step.GO_ON
    for state in (S.DEAD, S.CANCELED, S.NOT_APPLICABLE, S.PENDING, S.WAITING, S.FAILED):
        assert join_step(REFUSED, [applied("lse_2", state)]) is Step.GO_ON


def test_a_hold_of_another_event_is_shared() -> None:
    assert join_step(REFUSED, [applied("lse_2")]) is Step.SHARE
    assert join_step(REFUSED, [applied("lse_2"), release("lse_2")]) is Step.SHARE
    assert join_step(REFUSED, [applied("lse_2", S.DEAD), applied("lse_3")]) is Step.SHARE


@pytest.mark.parametrize("state", [S.PENDING, S.WAITING, S.FAILED])
def test_a_hold_that_another_event_may_be_getting_is_waited_for(state: S) -> None:
    assert join_step(REFUSED, [applied("lse_2", state, lease_token=1)]) is Step.WAIT
    assert join_step(REFUSED, [applied("lse_2", state, in_doubt=True)]) is Step.WAIT


def test_a_hold_that_another_event_is_letting_go_of_is_waited_for() -> None:
    leaving = [applied("lse_2"), release("lse_2", S.FAILED, last_attempted_at=AT)]
    assert join_step(REFUSED, leaving) is Step.WAIT
    assert join_step(REFUSED, [*leaving, applied("lse_3")]) is Step.SHARE


@pytest.mark.parametrize(
    ("after_s", "step"), [(-60, Step.GO_ON), (0, Step.WAIT), (0.001, Step.WAIT), (60, Step.WAIT)]
)
def test_a_refusal_may_be_older_than_the_release_of_the_hold(after_s: float, step: Step) -> None:
    released_at = ASKED_AT + timedelta(seconds=after_s)
    let_go = release("lse_2", S.FORWARDED, last_attempted_at=AT, forwarded_at=released_at)
    assert join_step(REFUSED, [applied("lse_2"), let_go]) is step


@pytest.mark.parametrize("state", [S.FORWARDED, S.NOT_APPLICABLE])
@pytest.mark.parametrize("apply", [applied("lse_2"), applied("lse_2", S.CANCELED, in_doubt=True)])
def test_an_event_that_was_taken_back_keeps_nobody(state: S, apply: Delivery) -> None:
    others = [apply, release("lse_2", state, last_attempted_at=AT)]
    assert join_step(REFUSED, others) is Step.GO_ON
    assert release_step(release("lse_1", in_doubt=True), others) is Step.GO_ON


def test_a_release_goes_on_when_nobody_else_holds() -> None:
    for others in ([], [applied("lse_2", S.DEAD)], [applied("lse_2", S.PENDING)]):
        assert release_step(release("lse_1"), others) is Step.GO_ON


def test_a_hold_that_another_event_has_is_not_released() -> None:
    for in_doubt in (False, True):
        asked = release("lse_1", in_doubt=in_doubt)
        assert release_step(asked, [applied("lse_2")]) is Step.SHARE
        assert release_step(asked, [applied("lse_2"), release("lse_2")]) is Step.SHARE


def test_a_repeated_release_waits_while_another_event_may_be_getting_the_hold() -> None:
    for other in (
        applied("lse_2", S.PENDING, lease_token=1),
        applied("lse_2", S.FAILED, in_doubt=True),
    ):
        assert release_step(release("lse_1"), [other]) is Step.GO_ON
        assert release_step(release("lse_1", in_doubt=True), [other]) is Step.WAIT
        assert release_step(release("lse_1"), [other], may_be_absent=True) is Step.WAIT
        assert release_step(release("lse_1", in_doubt=True), [other, LEAVING]) is Step.GO_ON


@pytest.mark.parametrize("state", [S.PENDING, S.FAILED, S.FORWARDED])
def test_the_second_release_of_a_hold_waits_for_who_may_be_getting_it_anew(state: S) -> None:
    """The first one may have lifted it: then the second would lift the new one."""
    first = [applied("lse_2"), release("lse_2", state, last_attempted_at=AT)]
    new = applied("lse_3", S.PENDING, lease_token=1)
    assert release_step(release("lse_1"), first) is Step.GO_ON
    assert release_step(release("lse_1"), [*first, new]) is Step.WAIT


def test_an_escrow_is_not_asked_for_a_hold_while_one_is_being_released() -> None:
    new = applied("lse_1", S.PENDING, lease_token=1)
    assert apply_step(new, []) is Step.GO_ON
    assert apply_step(new, [applied("lse_2"), release("lse_2")]) is Step.GO_ON
    assert apply_step(new, [applied("lse_2"), LEAVING]) is Step.WAIT
    over = evolve(LEAVING, state=S.FORWARDED, due_at=None)
    assert apply_step(new, [applied("lse_2"), over]) is Step.GO_ON


def test_an_apply_in_doubt_waits_for_no_release_that_waits_for_it() -> None:
    doubted = applied("lse_1", S.FAILED, in_doubt=True)
    again = evolve(LEAVING, in_doubt=True)
    assert release_step(again, [doubted]) is Step.WAIT
    assert apply_step(doubted, [applied("lse_2"), again]) is Step.GO_ON


@given(st.integers(1, 5), st.data())
def test_of_all_that_share_a_hold_somebody_releases_it_and_nobody_before_the_last_begins(
    count: int, data: st.DataObject
) -> None:
    """Events let go one after another, each claimed and decided at any time of the others."""
    names = [f"lse_{number}" for number in range(count)]
    applies = {name: applied(name) for name in names}
    releases: dict[str, Delivery] = {}
    waiting, sent = list(names), []
    while waiting:
        name = data.draw(st.sampled_from(waiting))
        own = releases.get(name)
        if own is None:
            releases[name] = release(name, last_attempted_at=AT)
            continue
        others = [
            rows[other]
            for other in names
            if other != name
            for rows in (applies, releases)
            if other in rows
        ]
        step = release_step(own, others)
        assert step is not Step.WAIT
        if step is Step.GO_ON:
            assert releases.keys() == applies.keys()
            sent.append(name)
        releases[name] = evolve(own, state=S.FORWARDED, due_at=None, forwarded_at=AT)
        waiting.remove(name)
    assert sent
