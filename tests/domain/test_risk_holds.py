"""Risk holds: money is set aside once a loss and given back at most once, whoever asks and how."""

from collections.abc import Mapping
from typing import Any

import pytest

from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.risk_holds import parse_apply_hold, parse_release, parse_release_by_source
from tests.domain.ledger_desk import Desk
from tests.domain.ledger_requests import (
    ALIAS,
    ALICE,
    ALICE_ID,
    BOB,
    BOB_ID,
    CLEARING,
    Asked,
    held,
    locked,
    moved,
    open_account,
    released,
    released_by_source,
    settled,
)


@pytest.fixture
def desk() -> Desk:
    """Alice has 100, Bob nothing."""
    desk = Desk()
    desk.ask(open_account(BOB), settled("k1", "pi_1", "payin", 100))
    return desk


def hold_of(desk: Desk, asked: Asked) -> Mapping[str, Any]:
    hold = desk.ask(asked).body["hold"]
    assert isinstance(hold, Mapping)
    return hold


def test_a_hold_sets_money_aside_and_is_answered_in_full(desk: Desk) -> None:
    answer = desk.ask(held("h1", "loss_1", ALICE, 30, metadata={"case": "7"}))
    event = desk.event("risk_hold:h1:apply")
    assert answer.created
    assert answer.body == {
        "hold": {
            "hold_id": desk.answers.hold_ids["h1"],
            "idempotency_key": "h1",
            "source_loss_event_id": "loss_1",
            "account_ref": ALICE,
            "account_id": ALICE_ID,
            "amount_minor": "30",
            "currency": "USD",
            "reason": "chargeback",
            "status": "active",
            "hold_transfer_event_id": event.event_id,
            "release_idempotency_key": None,
            "release_transfer_event_id": None,
            "metadata": {"case": "7"},
            "created_at": "2026-02-11T00:00:00.000Z",
            "updated_at": "2026-02-11T00:00:00.000Z",
            "released_at": None,
        },
        "replay": False,
    }
    assert desk.answers.hold_ids["h1"].startswith("rsk_")
    assert desk.stands(ALICE_ID) == "A70 H30"
    assert desk.reserved(ALICE_ID) == 30
    desk.prove()


def test_a_release_gives_the_whole_amount_back(desk: Desk) -> None:
    applied = hold_of(desk, held("h1", "loss_1", ALICE, 30))
    desk.later()
    answer = desk.ask(released_by_source("r1", "loss_1", reason="won"))
    event = desk.event(f"risk_hold:{applied['hold_id']}:release:r1")
    assert answer.body == {
        "hold": {
            **applied,
            "status": "released",
            "release_idempotency_key": "r1",
            "release_transfer_event_id": event.event_id,
            "updated_at": "2026-02-11T00:00:00.001Z",
            "released_at": "2026-02-11T00:00:00.001Z",
        },
        "replay": False,
    }
    assert event.metadata["reason"] == "won"
    assert desk.stands(ALICE_ID) == "A100"
    assert desk.reserved(ALICE_ID) == 0
    desk.prove()


def test_a_hold_is_released_by_its_id(desk: Desk) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), released("r1", "h1"))
    assert desk.stands(ALICE_ID) == "A100"


@pytest.mark.parametrize(
    "again",
    [
        held("h1", "loss_1", ALICE, 30),
        held("h1", "loss_1", ALICE, "030"),
        held("h1", "loss_1", ALIAS, 30),
        held("h1", "loss_1", ALICE_ID, 30, reason="another", metadata={"a": 1}),
    ],
)
@pytest.mark.parametrize("over", [False, True])
def test_a_repeated_apply_is_answered_with_the_hold(desk: Desk, again: Asked, over: bool) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30))
    if over:
        desk.ask(released_by_source("r1", "loss_1"))
    before = desk.stands(ALICE_ID)
    answer = desk.ask(again)
    assert (answer.created, answer.body["replay"]) == (False, True)
    assert hold_of(desk, again)["status"] == ("released" if over else "active")
    assert desk.stands(ALICE_ID) == before


@pytest.mark.parametrize(
    "other",
    [
        held("h1", "loss_2", ALICE, 30),
        held("h1", "loss_1", ALICE, 31),
        held("h1", "loss_1", BOB, 30),
        held("h1", "loss_1", "nobody", 30),
    ],
)
def test_a_key_used_for_another_hold_is_refused(desk: Desk, other: Asked) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30))
    error = desk.refused(other)
    assert error.code == "IDEMPOTENCY_KEY_REUSED"


def test_a_loss_has_one_hold_and_another_key_is_told_which(desk: Desk) -> None:
    applied = hold_of(desk, held("h1", "loss_1", ALICE, 30))
    error = desk.refused(held("h2", "loss_1", ALICE, 30))
    assert error.code == "SOURCE_LOSS_EVENT_ALREADY_BOUND"
    assert error.details == {
        "hold_id": applied["hold_id"],
        "account_id": ALICE_ID,
        "amount_minor": "30",
        "status": "active",
    }
    assert desk.stands(ALICE_ID) == "A70 H30"
    desk.ask(released_by_source("r1", "loss_1"))
    error = desk.refused(held("h2", "loss_1", ALICE, 30))
    assert error.details["status"] == "released"


@pytest.mark.parametrize("account", [ALICE, BOB, "did:key:nobody", CLEARING])
def test_a_hold_that_nobody_covers_leaves_nothing(desk: Desk, account: str) -> None:
    assert desk.refused(held("h1", "loss_1", account, 101)).code == "INSUFFICIENT_FUNDS"
    assert desk.attempt(held("h1", "loss_1", ALICE, 100)) == "created"


@pytest.mark.parametrize("account", ["nobody", "acc_00000000", "clr_28a671f7", "did:internal:x"])
def test_a_hold_on_what_is_no_account_is_refused(desk: Desk, account: str) -> None:
    assert desk.refused(held("h1", "loss_1", account, 1)).code == "INVALID_ACCOUNT"


@pytest.mark.parametrize("account", [ALICE_ID, ALIAS])
def test_an_account_can_be_named_by_its_id_and_by_its_alias(desk: Desk, account: str) -> None:
    applied = hold_of(desk, held("h1", "loss_1", account, 30))
    assert (applied["account_ref"], applied["account_id"]) == (account, ALICE_ID)
    assert desk.stands(ALICE_ID) == "A70 H30"


def test_a_clearing_accounts_money_can_be_held(desk: Desk) -> None:
    desk.ask(moved("t1", (ALICE, "A"), (CLEARING, "A"), 40), held("h1", "loss_1", CLEARING, 30))
    desk.ask(released_by_source("r1", "loss_1"))
    desk.prove()


@pytest.mark.parametrize("release", [released_by_source("r1", "loss_1"), released("r1", "h1")])
def test_a_repeated_release_is_answered_and_gives_nothing_more(desk: Desk, release: Asked) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), held("h2", "loss_2", ALICE, 30))
    desk.ask(released("r1", "h1"))
    answer = desk.ask(release)
    assert (answer.created, answer.body["replay"]) == (False, True)
    assert desk.stands(ALICE_ID) == "A70 H30"


@pytest.mark.parametrize("release", [released_by_source("r2", "loss_1"), released("r2", "h1")])
def test_a_release_under_another_key_is_refused_and_told_the_first(
    desk: Desk, release: Asked
) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), held("h2", "loss_2", ALICE, 30))
    desk.ask(released("r1", "h1"))
    error = desk.refused(release)
    assert error.code == "IDEMPOTENCY_CONFLICT"
    assert error.details == {"release_idempotency_key": "r1"}


def test_a_release_of_an_unknown_hold_says_what_was_looked_for(desk: Desk) -> None:
    assert desk.refused(released_by_source("r1", "loss_1")).details == {
        "source_loss_event_id": "loss_1"
    }
    error = desk.refused(released("r1", "h1"))
    assert error.code == "NOT_FOUND"
    assert "hold_id" in error.details


def test_a_release_that_held_does_not_cover_leaves_the_hold_active(desk: Desk) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), moved("t1", (ALICE, "H"), (ALICE, "A"), 10))
    error = desk.refused(released("r1", "h1"))
    assert error.code == "RISK_HOLD_RELEASE_FAILED"
    assert error.details["code"] == "INSUFFICIENT_FUNDS"
    assert hold_of(desk, held("h1", "loss_1", ALICE, 30))["status"] == "active"
    desk.ask(moved("t2", (ALICE, "A"), (ALICE, "H"), 10), released("r1", "h1"))
    assert desk.stands(ALICE_ID) == "A100"


def test_a_release_takes_nothing_of_what_others_have_reserved(desk: Desk) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), locked("p1", 20), held("h2", "loss_2", ALICE, 10))
    desk.ask(released("r1", "h1"))
    assert desk.stands(ALICE_ID) == "A70 H30"
    assert desk.reserved(ALICE_ID) == 30
    desk.prove()


def test_the_ledgers_own_fields_win_over_the_callers_metadata(desk: Desk) -> None:
    own = {
        "source_domain": "clawledger",
        "source_ref": "loss_1",
        "transfer_kind": "risk_hold_apply",
        "reason": "chargeback",
    }
    forged = dict.fromkeys([*own, "reservation", "undercut", "spec_v1", "from_bucket"], "forged")
    desk.ask(held("h1", "loss_1", ALICE, 30, metadata={**forged, "case": "7"}))
    metadata = desk.event("risk_hold:h1:apply").metadata
    assert own.items() <= metadata.items()
    assert metadata["case"] == "7"
    assert "forged" not in metadata.values()
    assert metadata["reservation"] == {
        "reservation_id": desk.answers.hold_ids["h1"],
        "opened": "risk_hold",
    }


def test_no_key_makes_an_apply_and_a_release_the_same_event(desk: Desk) -> None:
    """The two events' keys are both made of a caller's text, so one text could name both."""
    hold_id = hold_of(desk, held("h1", "loss_1", ALICE, 30))["hold_id"]
    error = desk.refused(held(f"{hold_id}:release:x", "loss_2", ALICE, 30))
    assert error.code == "INVALID_REQUEST"
    desk.ask(released("x:apply", "h1"))
    assert len(desk.book.known.events) == desk.book.tail.seq
    desk.prove()


APPLY = dict(held("h1", "loss_1", ALICE, 30).body)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"idempotency_key": " "}, "INVALID_REQUEST"),
        ({"source_loss_event_id": None}, "INVALID_REQUEST"),
        ({"account": ""}, "INVALID_REQUEST"),
        ({"amount_minor": 30}, "INVALID_REQUEST"),
        ({"amount_minor": "0"}, "INVALID_REQUEST"),
        ({"amount_minor": "0", "currency": "EUR"}, "INVALID_REQUEST"),
        ({"currency": None}, "UNSUPPORTED_CURRENCY"),
        ({"currency": "EUR", "reason": ""}, "UNSUPPORTED_CURRENCY"),
        ({"reason": ""}, "INVALID_REQUEST"),
        ({"reason": "x" * 2001}, "INVALID_REQUEST"),
        ({"metadata": None}, "INVALID_REQUEST"),
        ({"metadata": []}, "INVALID_REQUEST"),
    ],
)
def test_the_first_bad_field_of_an_apply_is_told(fields: dict[str, object], code: str) -> None:
    with pytest.raises(ClawsettleError) as caught:
        parse_apply_hold({**APPLY, **fields}, currency="USD")
    assert caught.value.code == code


@pytest.mark.parametrize("body", [None, [], "x"])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(ClawsettleError):
        parse_apply_hold(body, currency="USD")
    with pytest.raises(ClawsettleError):
        parse_release_by_source(body)
    with pytest.raises(ClawsettleError):
        parse_release("rsk_1", body)


def test_a_release_by_source_looks_for_the_hold_before_the_rest_is_judged(desk: Desk) -> None:
    bad = released_by_source("", "loss_1", reason=7)
    assert desk.refused(bad).code == "NOT_FOUND"
    desk.ask(held("h1", "loss_1", ALICE, 30))
    assert desk.refused(bad).code == "INVALID_REQUEST"
    assert desk.refused(released_by_source("r1", "", reason="won")).code == "INVALID_REQUEST"


def test_a_release_by_id_judges_the_request_before_it_looks_for_the_hold(desk: Desk) -> None:
    assert desk.refused(released("", "h1")).code == "INVALID_REQUEST"
    assert desk.refused(released("r1", "h1", reason=" ")).code == "INVALID_REQUEST"


def test_a_reason_may_be_null(desk: Desk) -> None:
    desk.ask(held("h1", "loss_1", ALICE, 30), released("r1", "h1", reason=None))
    assert desk.stands(ALICE_ID) == "A100"


def test_another_accounts_hold_is_not_touched(desk: Desk) -> None:
    desk.ask(settled("k2", "pi_2", "payin", 50, account_id=BOB_ID))
    desk.ask(held("h1", "loss_1", ALICE, 30), held("h2", "loss_2", BOB, 30), released("r1", "h1"))
    assert (desk.stands(ALICE_ID), desk.stands(BOB_ID)) == ("A100", "A20 H30")
