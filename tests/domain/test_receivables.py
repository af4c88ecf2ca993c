"""Refunds and reversals against their payin: the cap, and what an account owes for a refund."""

from collections.abc import Mapping

import pytest

from clawsettle.domain.journal import Bucket
from tests.domain.ledger_desk import Desk
from tests.domain.ledger_requests import (
    ALICE,
    ALICE_ID,
    BOB,
    BOB_ID,
    Asked,
    moved,
    open_account,
    settled,
)

OWED_ID = f"external:receivable:{ALICE_ID}"
STRIPE_ID = "external:stripe:USD"


@pytest.fixture
def desk() -> Desk:
    """Alice had 100 by pi_1 and has spent 70 of it; Bob has that."""
    desk = Desk()
    desk.ask(open_account(BOB), payin("pi_1", 100), moved("spent", (ALICE, "A"), (BOB, "A"), 70))
    return desk


def payin(name: str, amount: int, *, status: str = "confirmed", of: str = ALICE_ID) -> Asked:
    return settled(f"{name}:{status}", name, "payin", amount, status=status, account_id=of)


def refund(
    name: str, amount: int, *, status: str = "confirmed", of: str = ALICE_ID, **link: object
) -> Asked:
    """A refund of pi_1, unless another or no ``refund_of`` is given."""
    link = {"refund_of": "pi_1", **link}
    link = {field: value for field, value in link.items() if value is not None}
    return settled(f"{name}:{status}", name, "refund", amount, status=status, account_id=of, **link)


def balance(desk: Desk, account_id: str) -> int:
    account = desk.book.known.accounts.get(account_id)
    return 0 if account is None else account.balances[Bucket.AVAILABLE]


def events_of(desk: Desk, name: str) -> list[tuple[str, int]]:
    """The types and amounts of a settlement's events, in their order."""
    told = []
    for event in desk.book.known.events.values():
        named = event.metadata.get("payment_settlement", {})
        assert isinstance(named, Mapping)
        if named.get("external_payment_id") == name:
            told.append((str(event.event_type), event.amount_minor))
    return told


def test_a_covered_refund_owes_nothing(desk: Desk) -> None:
    desk.ask(refund("re_1", 30))
    assert desk.stands(ALICE_ID) == ""
    assert OWED_ID not in desk.book.known.accounts
    assert events_of(desk, "re_1") == [("payin_reverse", 30)]
    desk.prove()


def test_what_a_refund_does_not_cover_is_owed(desk: Desk) -> None:
    answer = desk.ask(refund("re_1", 100))
    assert answer.created
    assert events_of(desk, "re_1") == [("receivable_open", 70), ("payin_reverse", 100)]
    event = answer.body["event"]
    assert isinstance(event, Mapping)
    assert event["event_type"] == "payin_reverse"
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (0, -70)
    assert balance(desk, STRIPE_ID) == 0
    desk.prove()


def test_the_next_money_from_outside_repays_what_is_owed(desk: Desk) -> None:
    desk.ask(refund("re_1", 100), payin("pi_2", 50))
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (0, -20)
    desk.ask(payin("pi_3", 50))
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (30, 0)
    desk.ask(payin("pi_4", 50))
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (80, 0)
    assert events_of(desk, "pi_2") == [("payin_settle", 50), ("receivable_collect", 50)]
    assert events_of(desk, "pi_3") == [("payin_settle", 50), ("receivable_collect", 20)]
    assert events_of(desk, "pi_4") == [("payin_settle", 50)]
    desk.prove()


def test_a_transfer_repays_nothing(desk: Desk) -> None:
    desk.ask(refund("re_1", 100), moved("t1", (BOB, "A"), (ALICE, "A"), 40))
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (40, -70)


def test_another_accounts_payin_repays_nothing(desk: Desk) -> None:
    desk.ask(refund("re_1", 100), payin("pi_2", 50, of=BOB_ID))
    assert (balance(desk, BOB_ID), balance(desk, OWED_ID)) == (120, -70)


def test_a_reversed_refund_gives_the_money_back(desk: Desk) -> None:
    desk.ask(refund("re_1", 30), refund("re_1", 30, status="reversed"))
    assert events_of(desk, "re_1") == [("payin_reverse", 30), ("refund_reverse", 30)]
    assert desk.stands(ALICE_ID) == "A30"
    desk.ask(refund("re_2", 100))  # all of the payin can be refunded again
    desk.prove()


def test_a_reversed_refund_repays_what_it_owed_first(desk: Desk) -> None:
    desk.ask(refund("re_1", 100), refund("re_1", 100, status="reversed"))
    assert (balance(desk, ALICE_ID), balance(desk, OWED_ID)) == (30, 0)
    assert events_of(desk, "re_1")[2:] == [("refund_reverse", 100), ("receivable_collect", 70)]
    desk.prove()


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_a_refund_that_took_nothing_gives_nothing_back(desk: Desk, status: str) -> None:
    desk.ask(refund("re_1", 30, status=status))
    assert desk.attempt(refund("re_1", 30, status="reversed")) == (
        "created" if status == "pending" else "INVALID_STATUS_TRANSITION"
    )
    assert (desk.stands(ALICE_ID), events_of(desk, "re_1")) == ("A30", [])


def test_refunds_together_never_exceed_their_payin(desk: Desk) -> None:
    desk.ask(refund("re_1", 60))
    error = desk.refused(refund("re_2", 41))
    assert error.code == "REFUND_EXCEEDS_PAYIN"
    assert error.details == {
        "external_payment_id": "pi_1",
        "payin_status": "confirmed",
        "amount_minor": "100",
        "refunded_minor": "60",
        "requested": "41",
    }
    desk.ask(refund("re_2", 40))
    assert desk.refused(refund("re_3", 1)).code == "REFUND_EXCEEDS_PAYIN"
    assert balance(desk, OWED_ID) == -70


def test_only_confirmed_refunds_count(desk: Desk) -> None:
    desk.ask(refund("re_1", 60, status="pending"), refund("re_2", 60, status="failed"))
    desk.ask(refund("re_3", 100))
    assert desk.refused(refund("re_1", 60)).code == "REFUND_EXCEEDS_PAYIN"


def test_refunds_of_different_payins_do_not_count_together(desk: Desk) -> None:
    desk.ask(payin("pi_2", 50), refund("re_1", 100), refund("re_2", 50, refund_of="pi_2"))
    elsewhere = refund("re_3", 60, provider="adyen")
    assert desk.refused(elsewhere).code == "INSUFFICIENT_FUNDS"  # no such payin there


def test_a_payin_that_was_refunded_cannot_be_reversed_as_well(desk: Desk) -> None:
    desk.ask(moved("back", (BOB, "A"), (ALICE, "A"), 70), refund("re_1", 1))
    error = desk.refused(payin("pi_1", 100, status="reversed"))
    assert (error.code, error.details["refunded_minor"]) == ("REFUND_EXCEEDS_PAYIN", "1")
    desk.ask(refund("re_1", 1, status="reversed"), payin("pi_1", 100, status="reversed"))
    assert desk.stands(ALICE_ID) == ""
    desk.prove()


def test_a_reversed_payin_cannot_be_refunded(desk: Desk) -> None:
    desk.ask(moved("back", (BOB, "A"), (ALICE, "A"), 70), payin("pi_1", 100, status="reversed"))
    desk.ask(payin("pi_2", 100))
    error = desk.refused(refund("re_1", 1))
    assert (error.code, error.details["payin_status"]) == ("REFUND_EXCEEDS_PAYIN", "reversed")


def test_a_payin_reversal_that_is_not_covered_is_refused_not_owed(desk: Desk) -> None:
    error = desk.refused(payin("pi_1", 100, status="reversed"))
    assert error.code == "INSUFFICIENT_FUNDS"
    assert (error.details["requested"], error.details["available"]) == ("100", "30")
    settlement = desk.book.known.settlements["stripe", "pi_1", "payin"]
    assert settlement.status == "confirmed"


def test_a_refund_of_another_accounts_payin_is_refused(desk: Desk) -> None:
    error = desk.refused(refund("re_1", 10, of=BOB_ID))
    assert (error.code, error.details["external_payment_id"]) == ("DUPLICATE_CONFLICT", "pi_1")


@pytest.mark.parametrize("link", [None, "pi_unknown"])
def test_a_refund_of_no_known_payin_must_be_covered(desk: Desk, link: str | None) -> None:
    assert desk.refused(refund("re_1", 31, refund_of=link)).code == "INSUFFICIENT_FUNDS"
    desk.ask(refund("re_1", 30, refund_of=link))


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_a_refund_of_a_payin_without_its_money_must_be_covered(desk: Desk, status: str) -> None:
    """The payin may still come, and for another amount, so neither cap nor receivable apply."""
    desk.ask(payin("pi_2", 20, status=status))
    assert desk.refused(refund("re_1", 31, refund_of="pi_2")).code == "INSUFFICIENT_FUNDS"
    desk.ask(refund("re_1", 30, refund_of="pi_2"))


def test_a_refund_before_its_payin_counts_when_the_payin_comes(desk: Desk) -> None:
    desk.ask(refund("re_1", 30, refund_of="pi_2"), payin("pi_2", 50))
    assert desk.refused(refund("re_2", 21, refund_of="pi_2")).code == "REFUND_EXCEEDS_PAYIN"
    assert desk.refused(payin("pi_2", 50, status="reversed")).code == "REFUND_EXCEEDS_PAYIN"
    desk.ask(refund("re_2", 20, refund_of="pi_2"))


def test_a_payin_below_what_was_refunded_of_it_still_comes_in(desk: Desk) -> None:
    desk.ask(refund("re_1", 30, refund_of="pi_2"), payin("pi_2", 20))
    error = desk.refused(refund("re_2", 1, refund_of="pi_2"))
    assert (error.code, error.details["refunded_minor"]) == ("REFUND_EXCEEDS_PAYIN", "30")


def test_a_refund_keeps_its_link_and_takes_no_other(desk: Desk) -> None:
    desk.ask(refund("re_1", 30, status="pending"))
    answer = desk.ask(refund("re_1", 30, refund_of=None))
    settlement = answer.body["settlement"]
    assert isinstance(settlement, Mapping)
    assert settlement["refund_of"] == "pi_1"
    assert desk.refused(refund("re_1", 30, status="reversed", refund_of="pi_2")).code == (
        "DUPLICATE_CONFLICT"
    )
    assert desk.refused(refund("re_2", 71)).code == "REFUND_EXCEEDS_PAYIN"


def test_a_refund_recorded_without_a_link_takes_none_later(desk: Desk) -> None:
    desk.ask(refund("re_1", 30, status="pending", refund_of=None))
    assert desk.refused(refund("re_1", 30)).code == "DUPLICATE_CONFLICT"


@pytest.mark.parametrize("direction", ["payin", "payout"])
def test_only_a_refund_has_a_link(desk: Desk, direction: str) -> None:
    asked = settled("k", "x_1", direction, 10, refund_of="pi_1")
    assert desk.refused(asked).code == "INVALID_REQUEST"


def test_a_repeated_refund_owes_nothing_more(desk: Desk) -> None:
    desk.ask(refund("re_1", 100))
    assert desk.attempt(refund("re_1", 100)) == "repeated"
    again = settled("other key", "re_1", "refund", 100, refund_of="pi_1")
    assert desk.attempt(again) == "repeated"
    assert balance(desk, OWED_ID) == -70


def test_a_payin_that_failed_and_succeeded_may_be_refunded_up_to_what_came(desk: Desk) -> None:
    desk.ask(payin("pi_2", 80, status="failed"), payin("pi_2", 50))
    assert desk.refused(refund("re_1", 51, refund_of="pi_2")).code == "REFUND_EXCEEDS_PAYIN"
    desk.ask(refund("re_1", 50, refund_of="pi_2"))
