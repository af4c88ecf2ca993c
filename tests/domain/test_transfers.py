"""Transfers: what may move where, once a key, and what reservations keep for payouts."""

from collections.abc import Callable

import pytest

from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.journal import Bucket, EventType
from clawsettle.domain.transfers import BUCKETS, parse_transfer
from tests.domain.ledger_cases import empty_book
from tests.domain.ledger_desk import Desk
from tests.domain.ledger_requests import (
    ALIAS,
    ALICE,
    ALICE_ID,
    ANN,
    BEN,
    BOB,
    BOB_ID,
    CLEARING,
    CLEARING_ID,
    NETTING,
    NETTING_ID,
    SHARED_ID,
    Asked,
    Place,
    finalized,
    held,
    locked,
    moved,
    open_account,
    open_clearing,
    rolled_back,
    settled,
)

TRANSFER = dict(moved("t1", (ALICE, "A"), (BOB, "A"), 30).body)


@pytest.fixture
def desk() -> Desk:
    """Alice has 100, Bob nothing."""
    return funded(Desk())


def funded(desk: Desk) -> Desk:
    desk.ask(open_account(BOB), settled("k1", "pi_1", "payin", 100))
    return desk


def test_a_transfer_moves_money_and_says_so_in_its_event(desk: Desk) -> None:
    answer = desk.ask(moved("t1", (ALICE, "A"), (BOB, "P"), "030", metadata={"note": "x"}))
    event = desk.event("t1")
    assert answer.created
    assert answer.body == {"event_id": event.event_id, "status": "applied"}
    assert (event.event_type, event.account_id, event.to_account_id, event.amount_minor) == (
        EventType.TRANSFER,
        ALICE_ID,
        BOB_ID,
        30,
    )
    assert event.bucket is Bucket.AVAILABLE
    assert event.metadata == {
        "note": "x",
        "spec_v1": {
            "currency": "USD",
            "from": {"account": ALICE, "bucket": "A"},
            "to": {"account": BOB, "bucket": "P"},
            "amount_minor": "30",
        },
        "from_bucket": "available",
        "to_bucket": "promo",
    }
    assert (desk.stands(ALICE_ID), desk.stands(BOB_ID)) == ("A70", "P30")
    desk.prove()


def test_money_moves_between_any_two_buckets() -> None:
    desk = funded(Desk())
    path = [
        ((who, letter), (other, to))
        for who in (ALICE, BOB, CLEARING)
        for other in (ALICE, BOB, CLEARING)
        for letter in BUCKETS
        for to in BUCKETS
        if (who, letter) != (other, to)
    ]
    at: Place = (ALICE, "A")
    for number, (source, destination) in enumerate(path):
        if at != source:
            desk.ask(moved(f"to{number}", at, source, 100))
        desk.ask(moved(f"t{number}", source, destination, 100))
        at = destination
    assert desk.stands(CLEARING_ID) == "F100"  # the last of the path
    desk.prove()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"idempotency_key": None, "currency": "EUR"}, "INVALID_REQUEST"),
        ({"idempotency_key": " "}, "INVALID_REQUEST"),
        ({"idempotency_key": "k" * 513}, "INVALID_REQUEST"),
        ({"currency": "EUR", "from": None}, "UNSUPPORTED_CURRENCY"),
        ({"currency": None}, "UNSUPPORTED_CURRENCY"),
        ({"from": "did:key:alice"}, "INVALID_REQUEST"),
        ({"to": {"account": " ", "bucket": "A"}}, "INVALID_REQUEST"),
        ({"to": {"account": BOB, "bucket": "a"}}, "INVALID_REQUEST"),
        ({"to": {"account": BOB, "bucket": ["A"]}}, "INVALID_REQUEST"),
        ({"to": {"account": BOB}}, "INVALID_REQUEST"),
        ({"amount_minor": 30}, "INVALID_REQUEST"),
        ({"amount_minor": "0"}, "INVALID_REQUEST"),
        ({"amount_minor": "-1"}, "INVALID_REQUEST"),
        ({"amount_minor": "9223372036854775808"}, "INVALID_REQUEST"),
        ({"metadata": None}, "INVALID_REQUEST"),
        ({"metadata": {"a": "\0"}}, "INVALID_REQUEST"),
        ({"idempotency_key": "payment_settlement:set_1:payin_settle"}, "INVALID_REQUEST"),
        ({"idempotency_key": " risk_hold:h1:apply "}, "INVALID_REQUEST"),
    ],
)
def test_the_first_bad_field_is_told(fields: dict[str, object], code: str) -> None:
    with pytest.raises(ClawsettleError) as caught:
        parse_transfer({**TRANSFER, **fields}, currency="USD")
    assert caught.value.code == code


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(ClawsettleError):
        parse_transfer(body, currency="USD")


@pytest.mark.parametrize(
    "again",
    [
        moved("t1", (ALICE, "A"), (BOB, "A"), 30),
        moved(" t1 ", (f" {ALICE} ", "A"), (BOB, "A"), "030", currency=" usd "),
        moved("t1", (ALICE, "A"), (BOB, "A"), 30, metadata={"source": "another"}),
    ],
)
def test_a_repeated_transfer_is_answered_with_its_event(desk: Desk, again: Asked) -> None:
    first = desk.ask(moved("t1", (ALICE, "A"), (BOB, "A"), 30))
    desk.ask(moved("t2", (ALICE, "A"), (BOB, "A"), 70))
    answer = desk.ask(again)
    assert (answer.created, answer.body) == (False, first.body)
    assert desk.stands(BOB_ID) == "A100"


@pytest.mark.parametrize(
    "other",
    [
        moved("t1", (ALICE, "A"), (BOB, "A"), 31),
        moved("t1", (BOB, "A"), (ALICE, "A"), 30),
        moved("t1", (ALICE, "A"), (BOB, "P"), 30),
        moved("t1", (ALICE, "B"), (BOB, "A"), 30),
        moved("t1", (ALICE, "A"), (CLEARING, "A"), 30),
        moved("t1", (ALICE, "A"), ("nobody", "A"), 30),
        moved("t1", (ALICE, "A"), (ALICE, "A"), 30),
    ],
)
def test_a_key_used_for_other_money_is_refused_before_anything_else(
    desk: Desk, other: Asked
) -> None:
    desk.ask(moved("t1", (ALICE, "A"), (BOB, "A"), 30))
    assert desk.refused(other).code == "IDEMPOTENCY_KEY_REUSED"


def test_after_a_refusal_the_key_is_free(desk: Desk) -> None:
    assert desk.refused(moved("t1", (ALICE, "A"), (BOB, "A"), 101)).code == "INSUFFICIENT_FUNDS"
    desk.ask(moved("t1", (ALICE, "A"), (BOB, "A"), 100))


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "did:KEY:x",
        "did:key:",
        "did:internal:x",
        "did:claw:account:alice",
        "did:claw:account:acc_00000000",
        "acc_00000000",
        "clr_28a671f7",
        "external:stripe:USD",
        "clearing: ",
    ],
)
def test_what_names_no_account_is_refused_on_either_side(desk: Desk, name: str) -> None:
    for asked in (
        moved("t1", (name, "A"), (BOB, "A"), 1),
        moved("t1", (ALICE, "A"), (name, "A"), 1),
        moved("t1", (name, "A"), (name, "A"), 1),
        moved("t1", ("did:key:unknown", "A"), (name, "A"), 1),
    ):
        assert desk.refused(asked).code == "INVALID_ACCOUNT"


@pytest.mark.parametrize("name", [ALICE, ALICE_ID, ALIAS])
@pytest.mark.parametrize("other", [ALICE, ALICE_ID, ALIAS])
def test_the_same_bucket_of_one_account_is_refused_however_it_is_named(
    desk: Desk, name: str, other: str
) -> None:
    assert desk.refused(moved("t1", (name, "A"), (other, "A"), 101)).code == "INVALID_REQUEST"
    desk.ask(moved("t1", (name, "A"), (other, "B"), 40))
    assert desk.stands(ALICE_ID) == "A60 B40"


@pytest.mark.parametrize("name", ["did:key:unknown", "clearing:unknown"])
def test_the_same_bucket_of_an_account_yet_to_be_opened_is_refused_as_such(
    desk: Desk, name: str
) -> None:
    assert desk.refused(moved("t1", (name, "A"), (name, "A"), 1)).code == "INVALID_REQUEST"
    assert desk.refused(moved("t1", (name, "A"), (name, "H"), 1)).code == "INSUFFICIENT_FUNDS"


def test_two_spellings_of_a_domain_yet_to_be_opened_are_one_account(desk: Desk) -> None:
    asked = moved("t1", ("clearing:x", "A"), ("clearing: x", "A"), 1)
    assert desk.refused(asked).code == "INVALID_REQUEST"


def test_lack_of_cover_is_told_with_figures_and_leaves_nothing(desk: Desk) -> None:
    error = desk.refused(moved("t1", (ALICE, "A"), ("did:key:new", "A"), 101))
    assert error.code == "INSUFFICIENT_FUNDS"
    assert error.details == {
        "account_id": ALICE_ID,
        "bucket": "available",
        "requested": "101",
        "available": "100",
    }


def test_an_unknown_source_has_nothing_and_is_not_opened(desk: Desk) -> None:
    error = desk.refused(moved("t1", ("did:key:unknown", "H"), ("did:key:new", "A"), 1))
    assert error.code == "INSUFFICIENT_FUNDS"
    assert error.details["available"] == "0"
    assert error.details["bucket"] == "held"


def test_a_destination_is_opened_by_the_transfer_that_succeeds(desk: Desk) -> None:
    desk.ask(
        moved("t1", (ALICE, "A"), (ANN, "A"), 10), moved("t2", (ALICE, "A"), (CLEARING, "F"), 5)
    )
    assert (desk.stands(SHARED_ID), desk.stands(CLEARING_ID)) == ("A10", "F5")
    opened = desk.book.known.accounts[CLEARING_ID]
    assert (opened.domain, opened.name) == ("clawsettle.payouts", "clawsettle.payouts")


def test_strict_opens_no_destination() -> None:
    desk = funded(Desk(empty_book(strict=True)))
    for name in (ANN, CLEARING):
        error = desk.refused(moved("t1", (ALICE, "A"), (name, "A"), 10))
        assert (error.code, error.details) == ("NOT_FOUND", {"field": "to.account"})
    desk.ask(open_account(ANN), open_clearing("clawsettle.payouts"))
    desk.ask(
        moved("t1", (ALICE, "A"), (ANN, "A"), 10), moved("t2", (ALICE, "A"), (CLEARING, "A"), 10)
    )


def test_two_dids_of_one_short_id_have_accounts_of_their_own(desk: Desk) -> None:
    desk.ask(moved("t1", (ALICE, "A"), (ANN, "A"), 10), moved("t2", (ALICE, "A"), (BEN, "A"), 20))
    desk.ask(moved("t3", (BEN, "A"), (ANN, "A"), 5))
    assert desk.stands(SHARED_ID) == "A15"
    assert desk.event("t2").to_account_id != SHARED_ID
    desk.prove()


def test_a_clearing_account_pays_and_is_named_by_its_domain_however_spaced(desk: Desk) -> None:
    desk.ask(
        open_clearing("clawsettle.netting", "Netting"),
        moved("t1", (ALICE, "A"), (CLEARING, "A"), 50),
    )
    desk.ask(moved("t2", (" clearing: clawsettle.payouts ", "A"), (NETTING, "A"), 20))
    assert desk.stands(CLEARING_ID) == "A30"
    assert desk.stands(NETTING_ID) == "A20"
    assert desk.book.known.accounts[NETTING_ID].name == "Netting"


def test_the_ledgers_own_fields_win_over_the_callers_metadata(desk: Desk) -> None:
    own = ["spec_v1", "from_bucket", "to_bucket", "reservation", "undercut"]
    forged = {"opened": "payout", "reservation_id": "payout:p9"}
    metadata = {**dict.fromkeys(own, forged), "note": 1}
    desk.ask(moved("t1", (ALICE, "A"), (ALICE, "H"), 30, metadata=metadata))
    kept = desk.event("t1").metadata
    assert kept.keys() == {"note", "spec_v1", "from_bucket", "to_bucket"}
    assert kept["from_bucket"] == "available"
    assert desk.reserved(ALICE_ID) == 0
    desk.prove()


def test_a_lock_reserves_and_its_finalisation_pays_out(desk: Desk) -> None:
    desk.ask(locked("p1", 30))
    assert (desk.stands(ALICE_ID), desk.reserved(ALICE_ID)) == ("A70 H30", 30)
    desk.ask(finalized("p1", 30))
    assert (desk.stands(ALICE_ID), desk.reserved(ALICE_ID)) == ("A70", 0)
    assert desk.stands(CLEARING_ID) == "A30"
    told = [
        desk.event(f"payout:{step}:p1").metadata["reservation"] for step in ("lock", "finalize")
    ]
    assert told == [
        {"reservation_id": "payout:p1", "opened": "payout"},
        {"reservation_id": "payout:p1", "closed": "payout"},
    ]
    desk.prove()


def test_a_rollback_gives_the_locked_money_back(desk: Desk) -> None:
    desk.ask(locked("p1", 30), locked("p2", 20), rolled_back("p1", 30))
    assert (desk.stands(ALICE_ID), desk.reserved(ALICE_ID)) == ("A80 H20", 20)
    desk.prove()


@pytest.mark.parametrize("end", [finalized, rolled_back])
@pytest.mark.parametrize("again", [finalized, rolled_back])
def test_a_reservation_is_spent_once(
    desk: Desk, end: Callable[[str, int], Asked], again: Callable[[str, int], Asked]
) -> None:
    desk.ask(locked("p1", 30), locked("p2", 30), end("p1", 30))
    if end is again:
        assert not desk.ask(again("p1", 30)).created
    else:
        error = desk.refused(again("p1", 30))
        assert error.code == "CONFLICT"
        assert error.details["reservation_id"] == "payout:p1"
    assert desk.reserved(ALICE_ID) == 30


@pytest.mark.parametrize(
    "misuse",
    [
        finalized("p1", 29),
        finalized("p1", 31),
        rolled_back("p1", 10),
        finalized("p1", 30, account=BOB),
        moved("payout:finalize:p1", (BOB, "H"), (ALICE, "A"), 30),
    ],
)
def test_a_reservation_is_spent_whole_and_by_its_own_account(desk: Desk, misuse: Asked) -> None:
    desk.ask(
        settled("k2", "pi_2", "payin", 100, account_id=BOB_ID),
        locked("p1", 30),
        locked("p2", 30),
        moved("b", (BOB, "A"), (BOB, "H"), 100),
    )
    error = desk.refused(misuse)
    assert error.code == "CONFLICT"
    assert error.details == {
        "reservation_id": "payout:p1",
        "account_id": ALICE_ID,
        "amount_minor": "30",
    }
    desk.ask(finalized("p1", 30))


@pytest.mark.parametrize(
    "plain",
    [
        moved("t1", (ALICE, "H"), (BOB, "A"), 31),
        moved("t1", (ALICE, "H"), (CLEARING, "A"), 31),
        moved("payout:lock:p9", (ALICE, "H"), (BOB, "H"), 31),
        finalized("p9", 31),
    ],
)
def test_nobody_else_is_paid_with_reserved_money(desk: Desk, plain: Asked) -> None:
    """30 of the 60 are a payout's; a payout without a reservation is like any other transfer."""
    desk.ask(locked("p1", 30), moved("t0", (ALICE, "A"), (ALICE, "H"), 30))
    error = desk.refused(plain)
    assert error.code == "INSUFFICIENT_FUNDS"
    assert error.details["available"] == "30"
    within = {**plain.body, "amount_minor": "30"}
    desk.ask(Asked(plain.route, within))
    assert desk.reserved(ALICE_ID) == 30


def test_a_holds_money_is_reserved_too(desk: Desk) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30))
    assert desk.refused(moved("t1", (ALICE, "H"), (BOB, "A"), 1)).code == "INSUFFICIENT_FUNDS"


def test_an_admins_move_may_undercut_reservations_and_is_flagged(desk: Desk) -> None:
    desk.ask(locked("p1", 30), moved("t0", (ALICE, "A"), (ALICE, "H"), 10))
    assert desk.ask(moved("free", (ALICE, "H"), (ALICE, "A"), 10)).undercut is None
    answer = desk.ask(moved("t1", (ALICE, "H"), (ALIAS, "A"), 20))
    flag = {"held": "10", "reserved": "30"}
    assert answer.undercut == flag
    assert desk.event("t1").metadata["undercut"] == flag
    assert "undercut" not in answer.body
    desk.prove()


def test_what_was_undercut_fails_until_the_money_is_back(desk: Desk) -> None:
    """The reconciliation smoke: drain, fail to roll back, restore, roll back."""
    desk.ask(locked("p1", 30), moved("t1", (ALICE, "H"), (ALICE, "A"), 30))
    error = desk.refused(rolled_back("p1", 30))
    assert (error.code, error.details["available"]) == ("INSUFFICIENT_FUNDS", "0")
    assert desk.ask(moved("t2", (ALICE, "A"), (ALICE, "H"), 30)).undercut is None
    desk.ask(rolled_back("p1", 30))
    assert (desk.stands(ALICE_ID), desk.reserved(ALICE_ID)) == ("A100", 0)
    desk.prove()


def test_a_lock_of_another_shape_reserves_nothing(desk: Desk) -> None:
    desk.ask(moved("payout:lock:p1", (ALICE, "A"), (BOB, "H"), 30))
    assert (desk.reserved(ALICE_ID), desk.reserved(BOB_ID)) == (0, 0)
    desk.ask(moved("payout:finalize:p1", (BOB, "H"), (ALICE, "A"), 10))
    assert desk.stands(BOB_ID) == "H20"


def test_a_lock_that_was_refused_reserves_nothing(desk: Desk) -> None:
    assert desk.refused(locked("p1", 101)).code == "INSUFFICIENT_FUNDS"
    desk.ask(locked("p1", 100))
    assert desk.reserved(ALICE_ID) == 100


def test_a_payout_can_be_locked_by_an_alias_and_paid_by_the_did(desk: Desk) -> None:
    desk.ask(locked("p1", 30, account=ALIAS), finalized("p1", 30))
    assert desk.reserved(ALICE_ID) == 0


def test_the_payouts_own_settlement_moves_nothing(desk: Desk) -> None:
    desk.ask(locked("p1", 30), settled("k2", "po_1", "payout", 30))
    assert desk.stands(ALICE_ID) == "A70 H30"
    memo = list(desk.book.known.events.values())[-1]
    assert (memo.event_type, memo.postings) == (EventType.PAYOUT_SETTLE, ())
