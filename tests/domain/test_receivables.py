"""A refund and its payin: the cap on what may leave, and who owes what the account cannot cover."""

import copy
from typing import Any

import pytest

from clawsettle.domain.book import Answer, Book
from clawsettle.domain.errors import CallerError, ClawsettleError, ConflictError
from clawsettle.domain.ingestion import receivable_account_id
from clawsettle.domain.ledger import decide
from clawsettle.domain.settlements import IngestRequest
from tests.domain.ledger_cases import (
    ABSENT,
    ALICE,
    BOB,
    STRIPE_USD,
    available,
    check_books,
    event_types,
    events_of,
    fund,
    new_book,
    refund,
    request,
    settlement_of,
)

OWED = receivable_account_id(ALICE)


def paid_book(*, spent_minor: int = 0) -> Book:
    """A book where pi_1 brought Alice 1000, of which she has spent some."""
    book = new_book()
    decide(book, request("k1"))
    if spent_minor:
        spend(book, spent_minor)
    return book


def spend(book: Book, amount_minor: int) -> None:
    """Take money of Alice's by a refund that names no payin."""
    decide(book, refund(f"spent_{book.tail.seq}", amount_minor, refund_of=ABSENT))


def owed(book: Book) -> int:
    return -available(book, OWED) if OWED in book.known.accounts else 0


def refused(book: Book, command: IngestRequest) -> ClawsettleError:
    """Have a request refused that leaves no trace."""
    before = copy.deepcopy(book)
    with pytest.raises(ConflictError) as caught:
        decide(book, command)
    assert book == before
    return caught.value


def types_of(book: Book, answer: Answer) -> list[str]:
    return event_types(book, settlement_of(answer)["id"])


def test_a_refund_that_is_covered_owes_nothing() -> None:
    book = paid_book()
    answer = decide(book, refund("re_1", 300))
    assert settlement_of(answer)["refund_of"] == "pi_1"
    assert types_of(book, answer) == ["payin_reverse"]
    assert (available(book), owed(book)) == (700, 0)
    assert OWED not in book.known.accounts
    named: Any = events_of(book)[-1].metadata["payment_settlement"]
    assert named["refund_of"] == "pi_1"
    check_books(book)


def test_what_an_account_cannot_cover_of_a_refund_it_owes() -> None:
    book = paid_book(spent_minor=800)
    answer = decide(book, refund("re_1", 500))
    assert types_of(book, answer) == ["receivable_open", "payin_reverse"]
    event: Any = answer.body["event"]
    assert event["event_type"] == "payin_reverse"
    assert settlement_of(answer)["latest_event_id"] == event["id"]
    assert [one.amount_minor for one in events_of(book)[-2:]] == [300, 500]
    assert (available(book), owed(book)) == (0, 300)
    # What the provider took is on its account, whoever has to pay for it.
    assert available(book, STRIPE_USD) == -1000 + 800 + 500
    check_books(book)


def test_money_from_outside_repays_first_and_no_more_than_is_owed() -> None:
    book = paid_book(spent_minor=800)
    decide(book, refund("re_1", 500))
    first = decide(book, request("k2", external_payment_id="pi_2", amount_minor="100"))
    assert types_of(book, first) == ["payin_settle", "receivable_collect"]
    assert (available(book), owed(book)) == (0, 200)
    second = decide(
        book,
        request("k3", external_payment_id="pi_3", amount_minor="250", provider="adyen"),
    )
    assert types_of(book, second) == ["payin_settle", "receivable_collect"]
    assert (available(book), owed(book)) == (50, 0)
    third = decide(book, request("k4", external_payment_id="pi_4", amount_minor="250"))
    assert types_of(book, third) == ["payin_settle"]
    assert available(book) == 300
    check_books(book)


def test_a_refund_that_comes_back_repays_what_is_owed_for_it() -> None:
    book = paid_book(spent_minor=800)
    decide(book, refund("re_1", 500))
    answer = decide(book, refund("re_1", 500, status="reversed"))
    assert types_of(book, answer) == [
        "receivable_open",
        "payin_reverse",
        "refund_reverse",
        "receivable_collect",
    ]
    assert (available(book), owed(book)) == (200, 0)
    check_books(book)


def test_what_is_owed_is_the_accounts_own_debt() -> None:
    book = paid_book(spent_minor=1000)
    decide(book, refund("re_1", 400))
    fund(book, 900, account_id=BOB)
    assert (available(book, BOB), owed(book)) == (900, 400)
    check_books(book)


def test_refunds_together_never_exceed_their_payin() -> None:
    book = paid_book()
    fund(book, 5000)
    decide(book, refund("re_1", 700))
    error = refused(book, refund("re_2", 301))
    assert error.code == "REFUND_EXCEEDS_PAYIN"
    assert error.details == {
        "external_payment_id": "pi_1",
        "payin_status": "confirmed",
        "amount_minor": "1000",
        "refunded_minor": "700",
        "requested": "301",
    }
    decide(book, refund("re_2", 300))
    assert refused(book, refund("re_3", 1)).code == "REFUND_EXCEEDS_PAYIN"
    check_books(book)


def test_only_refunds_that_moved_money_count() -> None:
    book = paid_book()
    for status in ("pending", "failed", "reversed"):
        decide(book, refund(f"re_{status}", 1000, status=status))
    decide(book, refund("re_1", 1000))
    decide(book, refund("re_1", 1000, status="reversed"))
    decide(book, refund("re_2", 1000))
    assert refused(book, refund("re_3", 1)).code == "REFUND_EXCEEDS_PAYIN"
    check_books(book)


def test_a_payin_that_was_refunded_in_part_is_not_reversed_whole() -> None:
    book = paid_book()
    fund(book, 5000)
    decide(book, refund("re_1", 1))
    assert refused(book, request("k2", status="reversed")).code == "REFUND_EXCEEDS_PAYIN"
    decide(book, refund("re_1", 1, status="reversed"))
    assert decide(book, request("k2", status="reversed")).created
    error = refused(book, refund("re_2", 1))
    assert error.code == "REFUND_EXCEEDS_PAYIN"
    assert error.details["payin_status"] == "reversed"
    check_books(book)


def test_a_reversal_that_is_not_covered_is_refused_and_owes_nothing() -> None:
    book = paid_book(spent_minor=1)
    error = refused(book, request("k2", status="reversed"))
    assert error.code == "INSUFFICIENT_FUNDS"


def test_a_refund_of_another_accounts_payin_is_refused() -> None:
    book = paid_book()
    fund(book, 500, account_id=BOB)
    error = refused(book, refund("re_1", 5, account_id=BOB))
    assert error.code == "DUPLICATE_CONFLICT"
    assert error.details == {
        "provider": "stripe",
        "external_payment_id": "pi_1",
        "direction": "payin",
    }


@pytest.mark.parametrize("status", [None, "pending", "failed"])
def test_a_refund_has_to_be_covered_unless_its_payin_is_confirmed(status: str | None) -> None:
    book = new_book()
    if status is not None:
        decide(book, request("k1", status=status))
    error = refused(book, refund("re_1", 400))
    assert error.code == "INSUFFICIENT_FUNDS"
    fund(book, 400)
    assert types_of(book, decide(book, refund("re_1", 400))) == ["payin_reverse"]
    # It counts when the payin does come.
    decide(book, request("k2"))
    assert refused(book, refund("re_2", 601)).code == "REFUND_EXCEEDS_PAYIN"
    check_books(book)


def test_a_payin_is_looked_for_at_the_refunds_provider() -> None:
    book = paid_book(spent_minor=1000)
    assert refused(book, refund("re_1", 400, provider="adyen")).code == "INSUFFICIENT_FUNDS"


def test_a_recorded_refund_keeps_its_payin() -> None:
    book = paid_book()
    decide(book, refund("re_1", 300, status="pending"))
    assert refused(book, refund("re_1", 300, refund_of="pi_2")).code == "DUPLICATE_CONFLICT"
    answer = decide(book, refund("re_1", 300, refund_of=ABSENT))
    assert settlement_of(answer)["refund_of"] == "pi_1"
    assert refused(book, refund("re_2", 701)).code == "REFUND_EXCEEDS_PAYIN"


@pytest.mark.parametrize("direction", ["payin", "payout"])
def test_only_a_refund_names_a_payin(direction: str) -> None:
    with pytest.raises(CallerError, match="refund_of belongs to a refund"):
        request("k1", direction=direction, refund_of="pi_1")


def test_the_link_is_part_of_the_request() -> None:
    plain = request("k1", direction="refund").request_hash
    assert request("k1", direction="refund", refund_of="pi_1").request_hash != plain
