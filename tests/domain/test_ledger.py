"""The ledger's decisions: answers, replays, refusals, and what a refusal leaves behind."""

import copy
from collections.abc import Callable

import pytest
from attrs import evolve

from clawsettle.domain.book import Book, Records
from clawsettle.domain.errors import (
    CallerError,
    ClawsettleError,
    ConflictError,
    IllegalTransition,
    NotFoundError,
)
from clawsettle.domain.fields import TEXT_MAX
from clawsettle.domain.journal import GENESIS_HASH
from clawsettle.domain.ledger import Command, OpenAccount, decide
from clawsettle.domain.money import MINOR_MAX
from tests.domain.ledger_cases import (
    ALICE,
    ALICE_DID,
    BOB,
    STRIPE_USD,
    available,
    check_books,
    events_of,
    fund,
    held_account,
    new_book,
    request,
    settlement_of,
)

HUGE = str(MINOR_MAX)


def refused(book: Book, command: Command) -> ClawsettleError:
    """Decide a command that must be refused, and return why; the book must be as before."""
    before = copy.deepcopy(book)
    with pytest.raises(ClawsettleError) as caught:
        decide(book, command)
    assert book == before
    return caught.value


def test_a_first_payin_is_answered_with_settlement_flags_and_event() -> None:
    book = new_book()
    answer = decide(book, request("k1", metadata={"order": "7"}, rail="card"))
    (event,) = events_of(book)
    natural_key = ("stripe", "pi_1", "payin")
    settlement_id = book.known.settlements[natural_key].settlement_id
    assert answer.created
    assert answer.body == {
        "settlement": {
            "id": settlement_id,
            "provider": "stripe",
            "external_payment_id": "pi_1",
            "direction": "payin",
            "status": "confirmed",
            "account_id": ALICE,
            "amount_minor": "1000",
            "currency": "USD",
            "rail": "card",
            "metadata": {"order": "7"},
            "settled_at": "2026-02-11T00:00:00.000Z",
            "latest_event_id": event.event_id,
            "created_at": "2026-02-11T00:00:00.000Z",
            "updated_at": "2026-02-11T00:00:00.000Z",
        },
        "idempotency": {"key": "k1", "replayed": False, "deduped": False},
        "event": {
            "id": event.event_id,
            "event_type": "payin_settle",
            "event_hash": event.event_hash,
            "created_at": "2026-02-11T00:00:00.000Z",
        },
    }
    assert settlement_id.startswith("set_")
    assert event.event_id.startswith("evt_")


def test_an_event_says_what_the_contract_says_it_says() -> None:
    book = new_book()
    answer = decide(book, request("k1", metadata={"order": "7"}, rail="card", network="stripe"))
    settlement_id = settlement_of(answer)["id"]
    (event,) = events_of(book)
    assert event.seq == 1
    assert event.previous_hash == GENESIS_HASH
    assert event.idempotency_key == f"payment_settlement:{settlement_id}:payin_settle"
    assert (event.account_id, event.to_account_id) == (ALICE, None)
    assert (event.amount_minor, event.bucket) == (1000, "available")
    assert event.metadata == {
        "payment_settlement": {
            "settlement_id": settlement_id,
            "provider": "stripe",
            "external_payment_id": "pi_1",
            "direction": "payin",
            "status": "confirmed",
            "network": "stripe",
            "rail": "card",
        },
        "provider_metadata": {"order": "7"},
    }


def test_money_comes_from_the_providers_contra_account_and_goes_back_to_it() -> None:
    book = new_book()
    decide(book, request("k1", provider="adyen", amount_minor="700"))
    decide(book, request("k2"))
    assert available(book) == 1700
    assert available(book, "external:adyen:USD") == -700
    assert available(book, STRIPE_USD) == -1000
    decide(book, request("k3", status="reversed"))
    assert available(book) == 700
    assert available(book, STRIPE_USD) == 0
    assert [[p.delta_minor for p in event.postings] for event in events_of(book)] == [
        [700, -700],
        [1000, -1000],
        [-1000, 1000],
    ]
    check_books(book)


def test_a_replay_is_the_first_answer_whatever_has_happened_since() -> None:
    book = new_book()
    first = decide(book, request("k1"))
    decide(book, request("k2", status="reversed"))
    before = copy.deepcopy(book)
    replay = decide(book, request("k1"))
    assert not replay.created
    assert replay.body == {
        **first.body,
        "idempotency": {"key": "k1", "replayed": True, "deduped": False},
    }
    assert settlement_of(replay)["status"] == "confirmed"
    assert book == before


def test_a_replay_of_a_deduped_answer_stays_deduped() -> None:
    book = new_book()
    decide(book, request("k1"))
    deduped = decide(book, request("k2"))
    replay = decide(book, request("k2"))
    assert deduped.body["idempotency"] == {"key": "k2", "replayed": False, "deduped": True}
    assert replay.body == {
        **deduped.body,
        "idempotency": {"key": "k2", "replayed": True, "deduped": True},
    }
    assert "event" not in replay.body


def test_another_spelling_of_the_same_request_is_a_replay() -> None:
    book = new_book()
    decide(book, request("k1"))
    replay = decide(book, request("k1", amount_minor="001000", currency="usd"))
    assert replay.body["idempotency"] == {"key": "k1", "replayed": True, "deduped": False}


@pytest.mark.parametrize(
    "changed",
    [
        {"amount_minor": "1001"},
        {"status": "reversed"},
        {"external_payment_id": "pi_2"},
        {"metadata": {"a": 1}},
        {"account_id": "acc_unknown"},
        {"currency": "EUR"},
    ],
)
def test_a_used_key_is_refused_for_any_other_request_before_anything_else(
    changed: dict[str, object],
) -> None:
    book = new_book()
    decide(book, request("k1"))
    error = refused(book, request("k1", **changed))
    assert isinstance(error, ConflictError)
    assert error.code == "IDEMPOTENCY_KEY_REUSED"


def test_after_a_refusal_the_key_is_free_also_for_another_request() -> None:
    book = new_book()
    error = refused(book, request("k1", account_id="acc_unknown"))
    assert isinstance(error, NotFoundError)
    answer = decide(book, request("k1", amount_minor="5"))
    assert answer.created
    assert available(book) == 5


@pytest.mark.parametrize("account_id", ["acc_unknown", STRIPE_USD, "external:adyen:USD"])
def test_settlements_go_to_user_accounts_only(account_id: str) -> None:
    book = new_book()
    fund(book, 1)
    error = refused(book, request("k1", account_id=account_id))
    assert isinstance(error, NotFoundError)
    assert (error.code, error.details) == ("NOT_FOUND", {"field": "account_id"})


def test_a_currency_that_is_not_the_books_is_refused() -> None:
    error = refused(new_book(), request("k1", currency="EUR"))
    assert isinstance(error, CallerError)
    assert error.code == "UNSUPPORTED_CURRENCY"


@pytest.mark.parametrize("status", ["confirmed", "pending", "reversed"])
@pytest.mark.parametrize("changed", [{"amount_minor": "1001"}, {"account_id": BOB}])
def test_the_same_payment_with_other_terms_is_a_conflict_before_its_status_is_judged(
    status: str, changed: dict[str, object]
) -> None:
    book = new_book()
    decide(book, request("k1"))
    error = refused(book, request("k2", status=status, **changed))
    assert isinstance(error, ConflictError)
    assert error.code == "DUPLICATE_CONFLICT"
    assert error.details == {
        "provider": "stripe",
        "external_payment_id": "pi_1",
        "direction": "payin",
    }


def test_a_failed_payin_may_change_its_amount_but_not_its_account() -> None:
    book = new_book()
    decide(book, request("k1", status="failed"))
    assert refused(book, request("k2", account_id=BOB)).code == "DUPLICATE_CONFLICT"


@pytest.mark.parametrize("direction", ["refund", "payout"])
def test_only_payins_may_change_their_amount(direction: str) -> None:
    book = new_book()
    fund(book, 5000)
    decide(book, request("k1", direction=direction, status="failed"))
    error = refused(book, request("k2", direction=direction, amount_minor="5"))
    assert error.code == "DUPLICATE_CONFLICT"


def test_an_unknown_account_is_told_before_a_conflict() -> None:
    book = new_book()
    decide(book, request("k1"))
    error = refused(book, request("k2", account_id="acc_unknown", amount_minor="7"))
    assert error.code == "NOT_FOUND"


def test_a_step_that_does_not_exist_is_told_before_the_funds() -> None:
    book = new_book()
    decide(book, request("k1"))
    decide(book, request("k2", direction="refund"))
    error = refused(book, request("k3", direction="refund", status="failed"))
    assert isinstance(error, IllegalTransition)
    assert error.details == {"from": "confirmed", "to": "failed"}


def _refund_too_much(book: Book) -> Command:
    fund(book, 999)
    return request("k2", direction="refund")


def _reverse_what_was_spent(book: Book) -> Command:
    decide(book, request("k1"))
    decide(book, request("spent", direction="refund", external_payment_id="re", amount_minor="1"))
    return request("k2", status="reversed")


@pytest.mark.parametrize("arrange", [_refund_too_much, _reverse_what_was_spent])
def test_money_that_is_not_there_is_not_taken(arrange: Callable[[Book], Command]) -> None:
    book = new_book()
    error = refused(book, arrange(book))
    assert isinstance(error, ConflictError)
    assert error.code == "INSUFFICIENT_FUNDS"
    assert error.details == {
        "account_id": ALICE,
        "bucket": "available",
        "requested": "1000",
        "available": "999",
    }


def test_only_the_available_bucket_pays() -> None:
    book = new_book()
    book.known.accounts[ALICE] = held_account(book.known.accounts[ALICE], 5000)
    error = refused(book, request("k1", direction="refund"))
    assert error.details["available"] == "0"


def test_the_last_minor_unit_can_be_taken() -> None:
    book = new_book()
    fund(book, 1000)
    decide(book, request("k1", direction="refund"))
    assert available(book) == 0
    check_books(book)


def test_an_account_holds_no_more_than_storage_can() -> None:
    book = new_book()
    decide(book, request("k1", amount_minor=HUGE))
    assert available(book) == MINOR_MAX
    error = refused(book, request("k2", external_payment_id="pi_2", provider="x", amount_minor="1"))
    assert isinstance(error, ConflictError)
    assert error.code == "BALANCE_LIMIT_EXCEEDED"
    assert error.details == {"account_id": ALICE, "bucket": "available"}


def test_the_total_of_all_buckets_is_bounded_too() -> None:
    book = new_book()
    book.known.accounts[ALICE] = held_account(book.known.accounts[ALICE], MINOR_MAX)
    assert refused(book, request("k1", amount_minor="1")).code == "BALANCE_LIMIT_EXCEEDED"


def test_a_contra_account_is_bounded_on_its_negative_side() -> None:
    book = new_book()
    decide(book, request("k1", amount_minor=HUGE))
    error = refused(book, request("k2", external_payment_id="p2", account_id=BOB, amount_minor="1"))
    assert error.code == "BALANCE_LIMIT_EXCEEDED"
    assert error.details == {"account_id": STRIPE_USD, "bucket": "available"}
    decide(book, request("k3", provider="adyen", account_id=BOB, amount_minor=HUGE))
    check_books(book)


def test_a_new_did_gets_the_account_that_callers_derive() -> None:
    book = new_book(ALICE_DID)
    assert book.known.accounts[ALICE].view() == {
        "id": ALICE,
        "did": ALICE_DID,
        "balances": {
            "available": "0",
            "held": "0",
            "bonded": "0",
            "feePool": "0",
            "promo": "0",
            "total": "0",
        },
        "createdAt": "2026-02-11T00:00:00.000Z",
        "updatedAt": "2026-02-11T00:00:00.000Z",
    }
    assert book.changed != Records()


def test_an_account_that_exists_is_answered_unchanged() -> None:
    book = new_book(ALICE_DID)
    fund(book, 70)
    before = copy.deepcopy(book)
    answer = decide(book, OpenAccount(ALICE_DID))
    assert not answer.created
    assert answer.body == book.known.accounts[ALICE].view()
    assert book == before


def test_colliding_dids_have_accounts_and_money_of_their_own() -> None:
    book = new_book("did:key:Aa", "did:key:BB")
    short, long = book.known.accounts
    assert short == "acc_76c1a16a"
    assert long.startswith("acc_76c1a16a_")
    fund(book, 5, account_id=short)
    fund(book, 7, account_id=long)
    assert decide(book, OpenAccount("did:key:Aa")).body["id"] == short
    assert decide(book, OpenAccount("did:key:BB")).body["id"] == long
    assert (available(book, short), available(book, long)) == (5, 7)
    assert book.known.accounts[long].did == "did:key:BB"


def test_a_did_whose_ids_are_both_taken_is_refused() -> None:
    book = new_book("did:key:Aa", "did:key:BB")
    long = list(book.known.accounts)[1]
    book.known.accounts[long] = evolve(book.known.accounts[long], did="did:key:another")
    assert refused(book, OpenAccount("did:key:BB")).code == "CREATE_FAILED"


def test_a_natural_key_always_has_the_same_settlement_id_and_no_other_has_it() -> None:
    def named(**changed: object) -> object:
        return settlement_of(decide(new_book(), request("k", status="pending", **changed)))["id"]

    assert named() == named(amount_minor="7", account_id=BOB)
    ids = [
        named(),
        named(provider="a", external_payment_id="b:c"),
        named(provider="a:b", external_payment_id="c"),
        named(direction="payout"),
        named(external_payment_id="x" * TEXT_MAX),
    ]
    assert len(set(ids)) == len(ids)
