"""The whole table of steps: what each status may become, which event that writes, and when."""

import copy
from datetime import timedelta
from itertools import product

import pytest

from clawsettle.domain.book import Answer, Book
from clawsettle.domain.errors import ClawsettleError, IllegalTransition
from clawsettle.domain.ledger import decide
from tests.domain.ledger_cases import (
    ALICE,
    STRIPE_USD,
    available,
    check_books,
    event_types,
    events_of,
    fund,
    new_book,
    postings_of,
    request,
    settlement_of,
)

FUNDS = 10_000
STATUSES = ("pending", "confirmed", "failed", "reversed")
OLDER, BASE, NEWER = (f"2026-02-11T00:00:0{n}.000Z" for n in (1, 5, 9))

# How to get to a status, and for each requested status (in the order of STATUSES) what comes of
# it: "=" is deduped, "!" refused, else the new status and the event that it writes.
GRID: dict[str, list[tuple[list[str], list[str]]]] = {
    "payin": [
        ([], ["pending", "confirmed payin_settle", "failed", "reversed"]),
        (["pending"], ["=", "confirmed payin_settle", "failed", "reversed"]),
        (["confirmed"], ["!", "=", "!", "reversed payin_reverse"]),
        (["failed"], ["!", "confirmed payin_settle", "=", "!"]),
        (["confirmed", "reversed"], ["!", "!", "!", "="]),
        (["pending", "reversed"], ["!", "!", "!", "="]),
    ],
    "refund": [
        ([], ["pending", "confirmed payin_reverse", "failed", "reversed"]),
        (["pending"], ["=", "confirmed payin_reverse", "failed", "reversed"]),
        (["confirmed"], ["!", "=", "!", "reversed refund_reverse"]),
        (["failed"], ["!", "!", "=", "!"]),
        (["confirmed", "reversed"], ["!", "!", "!", "="]),
        (["reversed"], ["!", "!", "!", "="]),
    ],
    "payout": [
        ([], ["pending", "confirmed payout_settle", "failed", "reversed"]),
        (["pending"], ["=", "confirmed payout_settle", "failed", "reversed"]),
        (["confirmed"], ["!", "=", "reversed payout_reverse", "reversed payout_reverse"]),
        (["failed"], ["!", "!", "=", "!"]),
        (["confirmed", "failed"], ["!", "!", "=", "="]),
        (["reversed"], ["!", "!", "=", "="]),
    ],
}
EFFECT = {"payin_settle": 1000, "payin_reverse": -1000, "refund_reverse": 1000}
CASES = [
    pytest.param(direction, path, status, expected, id=f"{direction}-{'>'.join(path)}-{status}")
    for direction, rows in GRID.items()
    for path, outcomes in rows
    for status, expected in zip(STATUSES, outcomes, strict=True)
]


def book_at(direction: str, path: list[str], *, updated_at: str | None) -> Book:
    """A funded book whose payment has gone this way, last told at ``updated_at``."""
    book = new_book()
    fund(book, FUNDS)
    for number, status in enumerate(path):
        decide(
            book,
            request(
                f"path_{number}",
                direction=direction,
                status=status,
                provider_updated_at=updated_at,
            ),
        )
    return book


def tell(book: Book, direction: str, status: str, *, updated_at: str | None) -> Answer:
    return decide(
        book, request("told", direction=direction, status=status, provider_updated_at=updated_at)
    )


def check_outcome(
    book: Book, direction: str, status: str, expected: str, *, updated_at: str | None
) -> None:
    """Tell the book a status and compare what comes of it with a cell of the grid."""
    before, funds = copy.deepcopy(book), available(book)
    if expected == "!":
        with pytest.raises(IllegalTransition) as caught:
            tell(book, direction, status, updated_at=updated_at)
        current = before.known.settlements["stripe", "pi_1", direction]
        assert caught.value.code == "INVALID_STATUS_TRANSITION"
        assert caught.value.details == {"from": str(current.status), "to": status}
        assert book == before
        return
    answer = tell(book, direction, status, updated_at=updated_at)
    settlement = settlement_of(answer)
    check_books(book)
    if expected == "=":
        assert not answer.created
        assert answer.body["idempotency"] == {"key": "told", "replayed": False, "deduped": True}
        assert "event" not in answer.body
        assert book.known.settlements == before.known.settlements
        assert book.known.accounts == before.known.accounts
        assert events_of(book) == events_of(before)
        return
    to, _, event_type = expected.partition(" ")
    assert answer.created
    assert answer.body["idempotency"] == {"key": "told", "replayed": False, "deduped": False}
    assert settlement["status"] == to
    assert available(book) - funds == EFFECT.get(event_type, 0)
    written = events_of(book)[len(events_of(before)) :]
    assert [str(event.event_type) for event in written] == ([event_type] if event_type else [])
    if written:
        assert answer.body["event"] == written[0].summary()
        assert settlement["latest_event_id"] == written[0].event_id
    else:
        assert "event" not in answer.body


@pytest.mark.parametrize("updated_at", [None, NEWER])
@pytest.mark.parametrize(("direction", "path", "status", "expected"), CASES)
def test_news_takes_the_step_of_the_table_or_is_a_conflict(
    direction: str, path: list[str], status: str, expected: str, updated_at: str | None
) -> None:
    book = book_at(direction, path, updated_at=updated_at and BASE)
    check_outcome(book, direction, status, expected, updated_at=updated_at)


@pytest.mark.parametrize(("direction", "path", "status", "expected"), CASES)
def test_news_as_old_as_what_is_known_is_never_a_conflict(
    direction: str, path: list[str], status: str, expected: str
) -> None:
    book = book_at(direction, path, updated_at=BASE)
    expected = "=" if expected == "!" else expected
    check_outcome(book, direction, status, expected, updated_at=BASE)


@pytest.mark.parametrize(("direction", "path", "status", "expected"), CASES)
def test_late_news_is_deduped_and_takes_nothing_back(
    direction: str, path: list[str], status: str, expected: str
) -> None:
    book = book_at(direction, path, updated_at=BASE)
    # An older failure is overtaken; a reversal can only follow, whatever its clock says.
    if path and (status == "failed" or expected == "!"):
        expected = "="
    check_outcome(book, direction, status, expected, updated_at=OLDER)


@pytest.mark.parametrize(("known", "told"), [(None, OLDER), (OLDER, None), ("soon", OLDER)])
def test_without_two_readable_instants_a_contradiction_is_a_conflict(
    known: str | None, told: str | None
) -> None:
    book = book_at("payin", ["confirmed"], updated_at=known)
    check_outcome(book, "payin", "failed", "!", updated_at=told)


def test_instants_are_compared_as_instants_not_as_texts() -> None:
    book = book_at("payin", ["confirmed"], updated_at="2026-02-11T01:00:00+02:00")
    check_outcome(book, "payin", "failed", "!", updated_at="2026-02-11T00:00:00Z")
    book = book_at("payin", ["confirmed"], updated_at="2026-02-11T01:00:00-02:00")
    check_outcome(book, "payin", "failed", "=", updated_at="2026-02-11T02:59:59.999Z")


@pytest.mark.parametrize("updated_at", [None, OLDER, NEWER])
def test_a_failed_payin_can_still_succeed_for_another_amount(updated_at: str | None) -> None:
    book = new_book()
    first = request("k1", status="failed", amount_minor="1000", provider_updated_at=BASE)
    decide(book, first)
    answer = decide(book, request("k2", amount_minor="900", provider_updated_at=updated_at))
    assert answer.created
    assert settlement_of(answer)["amount_minor"] == "900"
    assert available(book) == 900
    assert available(book, STRIPE_USD) == -900
    assert [event.amount_minor for event in events_of(book)] == [900]
    check_books(book)


def test_a_late_failure_of_another_amount_does_not_touch_a_success() -> None:
    book = new_book()
    decide(book, request("k1", amount_minor="900", provider_updated_at=BASE))
    answer = decide(
        book, request("k2", status="failed", amount_minor="1000", provider_updated_at=OLDER)
    )
    assert not answer.created
    assert settlement_of(answer)["status"] == "confirmed"
    assert settlement_of(answer)["amount_minor"] == "900"
    assert available(book) == 900


def test_a_failure_told_again_with_another_amount_is_deduped() -> None:
    book = new_book()
    decide(book, request("k1", status="failed"))
    answer = decide(book, request("k2", status="failed", amount_minor="5"))
    assert answer.body["idempotency"] == {"key": "k2", "replayed": False, "deduped": True}
    assert settlement_of(answer)["amount_minor"] == "1000"


def test_a_returned_payout_ends_reversed_with_one_memo_however_often_it_is_told() -> None:
    book = new_book()
    decide(book, request("k1", direction="payout", provider_updated_at=BASE))
    returned = decide(
        book, request("k2", direction="payout", status="failed", provider_updated_at=NEWER)
    )
    settlement = settlement_of(returned)
    assert settlement["status"] == "reversed"
    for key, status in (("k3", "failed"), ("k4", "reversed"), ("k5", "failed")):
        again = decide(
            book, request(key, direction="payout", status=status, provider_updated_at=NEWER)
        )
        assert not again.created
    assert event_types(book, settlement["id"]) == ["payout_settle", "payout_reverse"]
    assert postings_of(book) == [], "a payout settlement moves nothing by itself"
    assert available(book) == 0
    check_books(book)


def test_a_payout_told_in_the_wrong_order_stays_failed() -> None:
    book = new_book()
    decide(book, request("k1", direction="payout", status="failed", provider_updated_at=NEWER))
    answer = decide(book, request("k2", direction="payout", provider_updated_at=BASE))
    assert not answer.created
    assert settlement_of(answer)["status"] == "failed"
    assert events_of(book) == []


def test_a_reversal_of_a_payin_that_was_never_credited_moves_nothing() -> None:
    book = new_book()
    decide(book, request("k1", status="reversed"))
    decide(book, request("k2", status="pending", external_payment_id="pi_2"))
    decide(book, request("k3", status="reversed", external_payment_id="pi_2"))
    assert events_of(book) == []
    assert postings_of(book) == []


def test_the_three_directions_of_one_payment_are_three_settlements() -> None:
    book = new_book()
    answers = [
        decide(book, request(direction, direction=direction))
        for direction in ("payin", "refund", "payout")
    ]
    assert len({settlement_of(answer)["id"] for answer in answers}) == 3
    assert all(answer.created for answer in answers)
    assert available(book) == 0


@pytest.mark.parametrize(("direction", "status"), list(product(GRID, STATUSES)))
def test_a_first_request_is_recorded_with_everything_it_said(direction: str, status: str) -> None:
    book = new_book()
    fund(book, 1000)
    said = {
        "network": "stripe",
        "rail": "card",
        "metadata": {"a": 1},
        "provider_created_at": OLDER,
        "provider_updated_at": BASE,
        "settled_at": NEWER,
    }
    answer = decide(book, request("k1", direction=direction, status=status, **said))
    settlement = settlement_of(answer)
    assert {name: settlement[name] for name in said} == said
    assert settlement["status"] == status
    assert settlement["account_id"] == ALICE
    assert settlement["created_at"] == settlement["updated_at"] == "2026-02-11T00:00:00.000Z"


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_nothing_is_settled_before_money_has_moved(status: str) -> None:
    assert "settled_at" not in settlement_of(decide(new_book(), request("k1", status=status)))


@pytest.mark.parametrize("status", ["confirmed", "reversed"])
def test_a_settlement_without_an_instant_is_settled_now(status: str) -> None:
    settlement = settlement_of(decide(new_book(), request("k1", status=status)))
    assert settlement["settled_at"] == "2026-02-11T00:00:00.000Z"


def test_a_step_replaces_what_it_says_and_keeps_the_rest() -> None:
    book = new_book()
    first = {
        "network": "stripe",
        "rail": "card",
        "metadata": {"a": 1, "b": 2},
        "provider_created_at": OLDER,
        "provider_updated_at": BASE,
        "settled_at": BASE,
    }
    confirmed = decide(book, request("k1", **first))
    reversal = {"status": "reversed", "rail": "link", "metadata": {"c": 3}}
    settlement = settlement_of(decide(book, request("k2", **reversal)))
    expected = {**first, "rail": "link", "metadata": {"c": 3}}
    assert {name: settlement[name] for name in first} == expected
    assert settlement["id"] == settlement_of(confirmed)["id"]


def test_a_step_that_says_nothing_new_keeps_everything_but_its_instant() -> None:
    book = new_book()
    said = {"network": "stripe", "metadata": {"a": 1}, "settled_at": BASE}
    before = settlement_of(decide(book, request("k1", status="pending", **said)))
    book.now += timedelta(seconds=7)
    after = settlement_of(decide(book, request("k2", status="failed")))
    assert after == {**before, "status": "failed", "updated_at": "2026-02-11T00:00:07.000Z"}


def test_a_settlement_names_its_last_event_also_when_nothing_changes() -> None:
    book = new_book()
    fund(book, 1000)
    pending = settlement_of(decide(book, request("k1", direction="refund", status="pending")))
    assert "latest_event_id" not in pending
    taken = settlement_of(decide(book, request("k2", direction="refund")))
    again = settlement_of(decide(book, request("k3", direction="refund")))
    assert again["latest_event_id"] == taken["latest_event_id"] == events_of(book)[-1].event_id


def test_a_refused_first_request_leaves_no_settlement_behind() -> None:
    book = new_book()
    with pytest.raises(ClawsettleError):
        decide(book, request("k1", direction="refund"))
    assert book.known.settlements == {}
    assert book.known.answers == {}
