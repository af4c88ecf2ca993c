"""What each answer of a target means, in both shapes of errors, and what is no answer at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.loss_answers import (
    TEXT_MAX,
    UNPROVEN,
    UPSTREAM_ERROR,
    Answered,
    Contested,
    Delivered,
    HeldByAnother,
    NothingToDo,
    Open,
    Outcome,
    RefusedForGood,
    Sent,
    TriedInVain,
    Unanswered,
    read_answer,
    settle_contest,
)
from clawsettle.domain.loss_events import Operation, Target
from tests.domain.loss_cases import EVENT_ID

T = Target
APPLY, RESOLVE = Operation.APPLY, Operation.RESOLVE
CALLS = [
    *((APPLY, target) for target in Target),
    *((RESOLVE, target) for target in Target if target is not T.CLAWINSURE),
]
ABOUT = {"source_loss_event_id": EVENT_ID, "amount_minor": "250"}
HELD = {**ABOUT, "status": "active"}
RELEASED = {**ABOUT, "status": "released"}
SUCCESSES: dict[tuple[Operation, Target], dict[str, object]] = {
    (APPLY, T.LEDGER): {"hold": HELD, "replay": False},
    (APPLY, T.ESCROW): {"escrow_id": "esc_1", "risk_hold": {"source_loss_event_id": EVENT_ID}},
    (APPLY, T.CLAWINSURE): {"claim": ABOUT, "replay": False, "auto": True},
    (APPLY, T.CLAWINCOME): {"ok": True, "adjustment": ABOUT, "replay": False},
    (APPLY, T.CLAWBOUNTIES): {"ok": True},
    (RESOLVE, T.LEDGER): {"hold": RELEASED, "replay": False},
    (RESOLVE, T.ESCROW): {"escrow_id": "esc_1", "risk_hold": {"source_loss_event_id": EVENT_ID}},
    (RESOLVE, T.CLAWINCOME): {"ok": True, "adjustment": ABOUT, "replay": False},
    (RESOLVE, T.CLAWBOUNTIES): {"ok": True},
}


def sent(operation: Operation, target: Target, *, may_be_absent: bool = False) -> Sent:
    return Sent(operation, target, EVENT_ID, 250, may_be_absent)


def read(
    operation: Operation, target: Target, status: int, body: object, *, may_be_absent: bool = False
) -> Outcome | Open:
    asked = sent(operation, target, may_be_absent=may_be_absent)
    return read_answer(asked, Answered(status, json.dumps(body)))


def refused(
    operation: Operation, target: Target, status: int, code: str, *, may_be_absent: bool = False
) -> Outcome | Open:
    """Read a refusal, which means the same in either shape."""
    shapes = ({"error": "a text", "code": code}, {"error": code, "message": "a text"})
    first, second = (
        read(operation, target, status, shape, may_be_absent=may_be_absent) for shape in shapes
    )
    assert first == second
    return first


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize("status", [200, 201])
def test_a_success_that_names_what_was_asked_for_is_delivered(
    about: tuple[Operation, Target], status: int
) -> None:
    for replay in (False, True):
        body = {**SUCCESSES[about], "replay": replay}
        assert read(*about, status, body) == Delivered(status)


def test_a_replayed_apply_may_find_its_hold_released() -> None:
    assert read(APPLY, T.LEDGER, 200, {"hold": RELEASED, "replay": True}) == Delivered(200)


def test_a_release_may_name_another_event_that_shared_the_escrows_hold() -> None:
    body = {"escrow_id": "esc_1", "risk_hold": {"source_loss_event_id": "lse_another"}}
    assert read(RESOLVE, T.ESCROW, 200, body) == Delivered(200)


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize(
    "body",
    [
        {"error": "no", "code": "INTERNAL_ERROR"},
        {"error": {"message": "no"}},
        {"ok": False},
        {"ok": "no"},
        {"ok": None},
    ],
)
def test_a_200_that_reports_an_error_proves_nothing(
    about: tuple[Operation, Target], body: dict[str, object]
) -> None:
    outcome = read(*about, 200, {**SUCCESSES[about], **body})
    assert isinstance(outcome, TriedInVain)
    assert (outcome.http_status, outcome.code, outcome.in_doubt) == (200, UNPROVEN, True)
    assert not outcome.is_target_down


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize(
    "text", ["", "<html>welcome</html>", "[]", '"ok"', "null", "{", "[" * 9999]
)
def test_a_200_that_is_no_json_object_proves_nothing(
    about: tuple[Operation, Target], text: str
) -> None:
    outcome = read_answer(sent(*about), Answered(200, text))
    assert isinstance(outcome, TriedInVain)
    assert (outcome.code, outcome.in_doubt) == (UNPROVEN, True)


@pytest.mark.parametrize(
    ("operation", "target", "body"),
    [
        (APPLY, T.LEDGER, {}),
        (APPLY, T.LEDGER, {"hold": None}),
        (APPLY, T.LEDGER, {"hold": "yes"}),
        (APPLY, T.LEDGER, {"hold": {"status": "active"}}),
        (APPLY, T.LEDGER, {"hold": {**HELD, "source_loss_event_id": "lse_another"}}),
        (APPLY, T.LEDGER, {"hold": {**HELD, "amount_minor": "251"}}),
        (APPLY, T.ESCROW, {"escrow_id": "esc_1"}),
        (APPLY, T.ESCROW, {"risk_hold": {"source_loss_event_id": "lse_another"}}),
        (APPLY, T.CLAWINSURE, {"replay": True}),
        (APPLY, T.CLAWINSURE, {"claim": {"source_loss_event_id": "lse_another"}}),
        (APPLY, T.CLAWINCOME, {"ok": True}),
        (APPLY, T.CLAWINCOME, {"ok": True, "adjustment": {"amount_minor": "251"}}),
        (RESOLVE, T.LEDGER, {"hold": HELD}),
        (RESOLVE, T.LEDGER, {"hold": ABOUT}),
        (RESOLVE, T.LEDGER, {"hold": {"status": "released"}}),
        (RESOLVE, T.ESCROW, {"escrow_id": "esc_1"}),
        (RESOLVE, T.CLAWINCOME, {"adjustment": {"source_loss_event_id": "lse_another"}}),
    ],
)
def test_a_success_about_something_else_proves_nothing(
    operation: Operation, target: Target, body: object
) -> None:
    outcome = read(operation, target, 200, body)
    assert isinstance(outcome, TriedInVain)
    assert (outcome.code, outcome.in_doubt) == (UNPROVEN, True)


@pytest.mark.parametrize(
    ("operation", "target", "status", "code"),
    [
        (APPLY, T.LEDGER, 400, "INVALID_ACCOUNT"),
        (APPLY, T.LEDGER, 409, "IDEMPOTENCY_KEY_REUSED"),
        (RESOLVE, T.LEDGER, 404, "NOT_FOUND"),
        (APPLY, T.ESCROW, 404, "NOT_FOUND"),
        (APPLY, T.ESCROW, 409, "INVALID_STATUS"),
        (RESOLVE, T.ESCROW, 404, "NOT_FOUND"),
        (RESOLVE, T.ESCROW, 409, "IDEMPOTENCY_CONFLICT"),
        (APPLY, T.ESCROW, 409, "RISK_HOLD_NOT_ACTIVE"),
        (APPLY, T.CLAWINSURE, 409, "POLICY_NOT_CLAIMABLE"),
        (APPLY, T.CLAWINSURE, 409, "REQUEST_EXCEEDS_COVERAGE"),
        (APPLY, T.CLAWINCOME, 409, "IDEMPOTENCY_CONFLICT"),
        (APPLY, T.CLAWINCOME, 404, "NOT_FOUND"),
        (RESOLVE, T.CLAWINCOME, 409, "IDEMPOTENCY_CONFLICT"),
        (APPLY, T.CLAWBOUNTIES, 404, "NOT_FOUND"),
        (APPLY, T.CLAWBOUNTIES, 409, "IDEMPOTENCY_CONFLICT"),
        (APPLY, T.CLAWBOUNTIES, 409, "CONFLICT"),
        (RESOLVE, T.CLAWBOUNTIES, 404, "NOT_FOUND"),
        (RESOLVE, T.CLAWBOUNTIES, 409, "RISK_CLEAR_ALREADY_EXISTS"),
        (APPLY, T.LEDGER, 400, "INVALID_REQUEST"),
        (APPLY, T.CLAWINSURE, 400, "NOT_FOUND"),
        (APPLY, T.LEDGER, 422, "INVALID_REQUEST"),
        (APPLY, T.LEDGER, 409, UPSTREAM_ERROR),
    ],
)
def test_what_would_be_refused_whenever_it_comes_is_refused_for_good(
    operation: Operation, target: Target, status: int, code: str
) -> None:
    assert refused(operation, target, status, code) == RefusedForGood(status, code, "a text")


@pytest.mark.parametrize("about", CALLS)
def test_a_conflict_alone_proves_nothing_was_done(about: tuple[Operation, Target]) -> None:
    assert isinstance(refused(*about, 409, "SOME_CONFLICT"), RefusedForGood)
    without_code = RefusedForGood(409, UPSTREAM_ERROR, "HTTP 409")
    assert read_answer(sent(*about), Answered(409, "")) == without_code


def test_an_account_without_a_policy_is_nothing_to_do() -> None:
    expected = NothingToDo(404, "NOT_FOUND", "a text")
    assert refused(APPLY, T.CLAWINSURE, 404, "NOT_FOUND") == expected


@pytest.mark.parametrize("target", [T.LEDGER, T.ESCROW, T.CLAWBOUNTIES])
def test_what_may_never_have_been_applied_need_not_be_found_to_be_released(target: Target) -> None:
    expected = NothingToDo(404, "NOT_FOUND", "a text")
    assert refused(RESOLVE, target, 404, "NOT_FOUND", may_be_absent=True) == expected


def test_a_hold_that_is_not_active_was_released() -> None:
    assert refused(RESOLVE, T.ESCROW, 409, "RISK_HOLD_NOT_ACTIVE") == Delivered(409)


def test_an_escrow_that_is_held_for_another_event_is_left_open() -> None:
    outcome = refused(APPLY, T.ESCROW, 409, "IDEMPOTENCY_CONFLICT")
    assert outcome == HeldByAnother(409, "IDEMPOTENCY_CONFLICT", "a text")


@pytest.mark.parametrize(
    ("operation", "code"),
    [(APPLY, "SOURCE_LOSS_EVENT_ALREADY_BOUND"), (RESOLVE, "IDEMPOTENCY_CONFLICT")],
)
def test_what_another_key_has_done_at_the_ledger_is_settled_by_a_look(
    operation: Operation, code: str
) -> None:
    outcome = refused(operation, T.LEDGER, 409, code)
    assert outcome == Contested(409, code, "a text")
    assert isinstance(outcome, Contested)
    is_apply = operation is APPLY
    as_asked, otherwise = (HELD, RELEASED) if is_apply else (RELEASED, HELD)
    asked = sent(operation, T.LEDGER)
    assert settle_contest(asked, outcome, as_asked) == Delivered(409)
    wrong = [
        None,
        {},
        otherwise,
        {**as_asked, "amount_minor": "251"},
        {**as_asked, "amount_minor": 250},
        {**as_asked, "source_loss_event_id": "lse_another"},
    ]
    for hold in wrong:
        assert settle_contest(asked, outcome, hold) == RefusedForGood(409, code, "a text")


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_target_that_fails_may_have_done_it_and_is_down(
    about: tuple[Operation, Target], status: int
) -> None:
    answer = Answered(status, '{"error": "a text", "code": "ANY"}', retry_after_s=7.0)
    expected = TriedInVain(
        status, "ANY", "a text", in_doubt=True, is_target_down=True, retry_after_s=7.0
    )
    assert read_answer(sent(*about), answer) == expected


@pytest.mark.parametrize("about", CALLS)
def test_a_target_that_throttles_has_done_nothing(about: tuple[Operation, Target]) -> None:
    answer = Answered(429, "slow down", retry_after_s=60.0)
    expected = TriedInVain(
        429, UPSTREAM_ERROR, "slow down", is_target_down=True, retry_after_s=60.0
    )
    assert read_answer(sent(*about), answer) == expected


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize("was_sent", [True, False])
def test_silence_is_a_doubt_once_the_request_was_sent(
    about: tuple[Operation, Target], *, was_sent: bool
) -> None:
    outcome = read_answer(sent(*about), Unanswered("it hung", 200, sent=was_sent))
    expected = TriedInVain(200, "FETCH_FAILED", "it hung", in_doubt=was_sent, is_target_down=True)
    assert outcome == expected


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize("status", [401, 403, 301, 302, 307, 308])
def test_a_refused_key_or_a_moved_address_waits_for_somebody(
    about: tuple[Operation, Target], status: int
) -> None:
    for code in ("UNAUTHORIZED", "NOT_FOUND", "RISK_HOLD_NOT_ACTIVE"):
        assert refused(*about, status, code) == TriedInVain(status, code, "a text", is_slow=True)


@pytest.mark.parametrize("about", CALLS)
@pytest.mark.parametrize("text", ["", "<h1>not found</h1>", '{"detail": "Not Found"}', "[]"])
@pytest.mark.parametrize("may_be_absent", [True, False])
def test_a_404_without_a_code_comes_from_a_wrong_address(
    about: tuple[Operation, Target], text: str, *, may_be_absent: bool
) -> None:
    outcome = read_answer(sent(*about, may_be_absent=may_be_absent), Answered(404, text))
    assert outcome == TriedInVain(404, UPSTREAM_ERROR, text or "HTTP 404", is_slow=True)


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [(APPLY, 400, "INSUFFICIENT_FUNDS"), (RESOLVE, 409, "RISK_HOLD_RELEASE_FAILED")],
)
def test_money_that_is_not_there_waits_for_somebody(
    operation: Operation, status: int, code: str
) -> None:
    expected = TriedInVain(status, code, "a text", is_slow=True)
    assert refused(operation, T.LEDGER, status, code) == expected


@pytest.mark.parametrize(
    ("status", "code"), [(409, "DUPLICATE_CONFLICT"), (400, "DEPENDENCY_NOT_CONFIGURED")]
)
def test_what_is_of_the_moment_is_tried_again_soon(status: int, code: str) -> None:
    assert refused(APPLY, T.LEDGER, status, code) == TriedInVain(status, code, "a text")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": "a text", "code": "A_CODE"}, "A_CODE", "a text"),
        ({"error": "A_CODE", "message": "a text"}, "A_CODE", "a text"),
        ({"error": "OTHER", "code": "A_CODE", "message": "a text"}, "A_CODE", "a text"),
        ({"error": "a text", "code": "not a code"}, UPSTREAM_ERROR, "a text"),
        ({"error": "a text", "code": 7}, UPSTREAM_ERROR, "a text"),
        ({"error": "a text"}, UPSTREAM_ERROR, "a text"),
        ({"message": "a text"}, UPSTREAM_ERROR, "a text"),
        ({"code": "A_CODE"}, "A_CODE", '{"code": "A_CODE"}'),
        ({"error": "A_CODE"}, "A_CODE", '{"error": "A_CODE"}'),
        ({"error": {"code": "A_CODE"}}, UPSTREAM_ERROR, '{"error": {"code": "A_CODE"}}'),
        ({"error": "A" * 65, "message": "a text"}, UPSTREAM_ERROR, "a text"),
        ("t" * 1000, UPSTREAM_ERROR, ('"' + "t" * 1000)[:TEXT_MAX]),
    ],
)
def test_code_and_message_are_read_from_either_shape(body: object, code: str, message: str) -> None:
    assert read(APPLY, T.LEDGER, 400, body) == RefusedForGood(400, code, message)


@given(
    st.sampled_from(CALLS),
    st.integers(200, 599),
    st.text()
    | st.dictionaries(
        st.sampled_from(["error", "code", "message", "ok", "hold", "claim"]),
        st.none() | st.booleans() | st.text() | st.dictionaries(st.text(), st.text()),
    ).map(json.dumps),
    st.booleans(),
)
def test_any_answer_is_read_and_only_a_success_or_a_proof_is_delivered(
    about: tuple[Operation, Target], status: int, text: str, may_be_absent: bool
) -> None:
    outcome = read_answer(sent(*about, may_be_absent=may_be_absent), Answered(status, text))
    if isinstance(outcome, Delivered):
        assert status < 300 or (about, status) == ((RESOLVE, T.ESCROW), 409)
    if status >= 500:
        assert isinstance(outcome, TriedInVain)
        assert outcome.in_doubt
