"""When a payout is due again, and who goes on with it."""

from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.forwarding import backoff_s
from clawsettle.domain.payout_events import (
    LockApplied,
    NotFound,
    SendUnanswered,
    StepFailed,
    news,
)
from clawsettle.domain.payout_transitions import apply
from clawsettle.domain.payouts import PayoutStatus, PayoutStep
from clawsettle.domain.providers import KEY_LIFETIME, Absent, ProviderStatus, Unanswered
from tests.domain.payout_cases import AT, OBJECT_ID, SCHEDULE, payout, sent

S = PayoutStatus
SENDING = payout(status=S.SENDING, lock_event_id="evt_lock")
SUBMITTED = attrs.evolve(SENDING, status=S.SUBMITTED, external_payout_id=OBJECT_ID)
UNANSWERED = SendUnanswered(Unanswered("no answer"))
FAILED = StepFailed("LEDGER_INGEST_FAILED", "no answer")
AGES = st.timedeltas(timedelta(), timedelta(days=400))


def test_a_holder_keeps_what_he_goes_on_with_for_another_lease() -> None:
    after = SCHEDULE.owned(SENDING, LockApplied("evt_lock"), now=AT)
    assert (after.lease_token, after.due_at) == (-1, AT + timedelta(seconds=30))
    assert after.next_step() is PayoutStep.SEND


@pytest.mark.parametrize("status", [status for status in S if status.is_end])
def test_an_end_is_due_no_more(status: PayoutStatus) -> None:
    after = SCHEDULE.owned(payout(status=status), FAILED, now=AT)
    assert (after.lease_token, after.due_at, after.next_step()) == (None, None, None)


@pytest.mark.parametrize("attempts", [1, 2, 9, 40])
def test_what_came_to_nothing_is_tried_again_after_its_backoff(attempts: int) -> None:
    tried = payout(attempts=attempts)
    after = SCHEDULE.owned(tried, FAILED, now=AT)
    wait_s = backoff_s(attempts, SCHEDULE.policy, seed=tried.payout_id)
    assert (after.lease_token, after.due_at) == (None, AT + timedelta(seconds=wait_s))


@given(AGES)
def test_a_silent_provider_is_asked_ever_more_rarely_but_every_day(age: timedelta) -> None:
    after = SCHEDULE.owned(SUBMITTED, news(sent(), "provider:look"), now=AT + age)
    assert after.due_at is not None
    wait = after.due_at - (AT + age)
    assert wait == min(timedelta(days=1), max(timedelta(hours=1), age / 2))
    assert after.lease_token is None


@given(AGES)
def test_an_unknown_outcome_is_looked_for_within_the_longest_backoff(age: timedelta) -> None:
    unknown = attrs.evolve(SENDING, status=S.UNKNOWN)
    after = SCHEDULE.owned(unknown, UNANSWERED, now=AT + age)
    assert after.due_at is not None
    assert timedelta(seconds=15) <= after.due_at - (AT + age) <= timedelta(seconds=300)


def test_a_send_that_may_have_been_tried_is_looked_for_first() -> None:
    assert SENDING.next_step() is PayoutStep.SEND
    assert attrs.evolve(SENDING, attempts=2).next_step() is PayoutStep.LOOK


@pytest.mark.parametrize("status", [S.FINALIZING_FAILED, S.FINALIZING_CANCELED, S.RETURNING])
def test_nothing_is_given_back_before_it_is_recalled(status: PayoutStatus) -> None:
    giving_back = attrs.evolve(SENDING, status=status)
    assert giving_back.next_step() is PayoutStep.RECALL
    recalled = attrs.evolve(giving_back, recalled_at=AT)
    assert recalled.next_step() in {PayoutStep.ROLL_BACK, PayoutStep.RETURN}


@given(AGES)
def test_keys_are_taken_for_new_only_once_they_are_forgotten_and_nothing_was_found(
    age: timedelta,
) -> None:
    unknown = attrs.evolve(SENDING, status=S.UNKNOWN, attempts=3)
    found = apply(unknown, NotFound(Absent()), now=AT + age).payout
    assert found.keyed_at == (AT + age if age >= KEY_LIFETIME else AT)
    assert (found.status, found.attempts) == (S.SENDING, 0)


def test_an_order_names_what_is_known_at_the_provider() -> None:
    known = attrs.evolve(SUBMITTED, transfer_id="tr_1", metadata={"invoice": "inv_1"})
    order = known.order
    assert (order.external_payout_id, order.transfer_id, order.metadata) == (
        OBJECT_ID,
        "tr_1",
        {"invoice": "inv_1"},
    )
    assert (order.transfer_key, order.send_key) == (
        "payout:transfer:pout_00001",
        "payout:send:pout_00001",
    )
    assert known.provider_status is not ProviderStatus.PAID
