"""News of a payout is compared with it: only what can be true of it changes anything."""

from typing import Any

import pytest

from clawsettle.domain.payout_news import (
    AccountNews,
    NewsState,
    PayoutNews,
    Verdict,
    judge_news,
    read_account_news,
    read_news,
)
from clawsettle.domain.payouts import PayoutStatus
from clawsettle.domain.providers import ProviderStatus
from clawsettle.domain.stripe_events import StripeEvent
from tests.domain.payout_cases import AT, OBJECT_ID, payout, told

S, P = PayoutStatus, ProviderStatus
SUBMITTED = payout(status=S.SUBMITTED, lock_event_id="evt_lock", external_payout_id=OBJECT_ID)


def event(event_type: str = "payout.paid", account: str | None = "acct_1", **object_: Any) -> Any:
    subject = {
        "id": OBJECT_ID,
        "amount": 1200,
        "currency": "usd",
        "status": "paid",
        "metadata": {"payout_id": "pout_00001", "account_id": "acc_32ca986a"},
        **object_,
    }
    return StripeEvent("evt_1", event_type, int(AT.timestamp()), False, subject, account)


def test_an_event_is_read_as_what_it_says_of_a_payout() -> None:
    assert read_news(event()) == told(P.PAID, event_id="evt_1")
    bare = read_news(event(account=None, metadata=None))
    assert bare is not None
    assert (bare.named_payout_id, bare.account_id, bare.connect_account_id) == (None, None, None)
    assert bare.source == "payout.paid:evt_1"


@pytest.mark.parametrize(
    ("event_type", "status", "said"),
    [
        ("payout.created", "pending", P.PENDING),
        ("payout.updated", "in_transit", P.IN_TRANSIT),
        ("payout.updated", "failed", P.FAILED),
        ("payout.paid", "in_transit", P.PAID),
        ("payout.failed", "paid", P.FAILED),
        ("payout.canceled", None, P.CANCELED),
    ],
)
def test_the_type_says_what_happened_and_else_the_object_does(
    event_type: str, status: str | None, said: ProviderStatus
) -> None:
    news = read_news(event(event_type, status=status))
    assert news is not None
    assert news.status is said


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": "payout.reconciliation_completed"},
        {"event_type": "payment_intent.succeeded"},
        {"id": None},
        {"amount": 0},
        {"amount": "12.00"},
        {"amount": 12.5},
        {"currency": "dollars"},
        {"event_type": "payout.updated", "status": "unheard of"},
    ],
)
def test_what_is_no_news_of_a_payout_is_not_read_as_such(changes: dict[str, Any]) -> None:
    assert read_news(event(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"amount_minor": 1}, "amount"),
        ({"currency": "EUR"}, "currency"),
        ({"account_id": "acc_2"}, "account"),
        ({"connect_account_id": "acct_2"}, "connected account"),
        ({"external_payout_id": "po_2"}, "provider's id"),
        ({"named_payout_id": "pout_2"}, "payout id"),
    ],
)
@pytest.mark.parametrize("status", P)
def test_news_that_contradicts_its_payout_is_put_aside_and_says_why(
    changes: dict[str, Any], named: str, status: ProviderStatus
) -> None:
    verdict = judge_news(told(status, **changes), SUBMITTED)
    assert verdict.state is NewsState.QUARANTINED
    (said,) = changes.values()
    assert verdict.reason is not None
    assert verdict.reason.startswith(f"the event's {named} is {said}, ")


@pytest.mark.parametrize("untold", ["named_payout_id", "account_id", "connect_account_id"])
def test_what_news_does_not_say_contradicts_nothing(untold: str) -> None:
    assert judge_news(told(P.PAID, **{untold: None}), SUBMITTED) == Verdict(NewsState.APPLIED)


def test_news_waits_for_a_payout_that_was_not_sent_yet() -> None:
    for known in (None, payout()):
        assert judge_news(told(P.PAID), known) == Verdict(NewsState.PARKED)


@pytest.mark.parametrize("known", P)
@pytest.mark.parametrize("said", P)
def test_of_two_pieces_of_news_the_later_by_rank_holds(
    known: ProviderStatus, said: ProviderStatus
) -> None:
    heard = payout(
        status=S.SUBMITTED, external_payout_id=OBJECT_ID, provider_status=known, lease_token=None
    )
    overruled = list(P).index(said) < list(P).index(known)
    expected = NewsState.SUPERSEDED if overruled else NewsState.APPLIED
    assert judge_news(told(said), heard) == Verdict(expected)


@pytest.mark.parametrize(
    "status", [S.FINALIZING_FAILED, S.FAILED, S.FINALIZING_CANCELED, S.CANCELED]
)
@pytest.mark.parametrize("said", P)
def test_news_that_an_amount_was_paid_that_we_gave_back_is_for_people(
    status: PayoutStatus, said: ProviderStatus
) -> None:
    declined = payout(status=status, lock_event_id="evt_lock")
    verdict = judge_news(told(said), declined)
    if said in {P.FAILED, P.CANCELED}:
        assert verdict == Verdict(NewsState.APPLIED)
    else:
        assert verdict.state is NewsState.QUARANTINED
        assert verdict.reason == f"{said} at the provider, but the payout is {status} here"


def test_an_account_is_active_when_it_may_be_transferred_to_and_paid_out_from() -> None:
    active: dict[str, Any] = {
        "id": "acct_1",
        "payouts_enabled": True,
        "capabilities": {"transfers": "active"},
    }
    updated = event("account.updated", **active)
    assert read_account_news(updated) == AccountNews("acct_1", active=True, said_at=AT)
    for missing in ("payouts_enabled", "capabilities"):
        (news,) = [read_account_news(event("account.updated", **{**active, missing: None}))]
        assert news is not None
        assert not news.active
    assert read_account_news(event("account.updated", id=None)) is None
    assert read_account_news(event("payout.paid", **active)) is None


def test_a_piece_of_news_is_what_the_providers_answer_would_be() -> None:
    news: PayoutNews = told(P.FAILED)
    assert (news.sent.external_payout_id, news.sent.status) == (OBJECT_ID, P.FAILED)
