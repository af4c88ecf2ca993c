"""What a caller may ask of loss events, with the contract's published ids, hashes and vectors."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from clawsettle.domain.errors import CallerError
from clawsettle.domain.loss_events import (
    Operation,
    Severity,
    Target,
    delivery_id,
    resolution_id,
    resolve_hash,
)
from clawsettle.domain.loss_requests import (
    METADATA_BYTES_MAX,
    REQUEUE_LIMIT_MAX,
    RETRY_LIMIT_MAX,
    TARGETS_MAX,
    LossRequest,
    RequeueRequest,
    RetryRequest,
    parse_loss,
    parse_requeue,
    parse_resolve,
    parse_retry,
)
from clawsettle.domain.risk_holds import REASON_MAX
from tests.domain.loss_cases import AT, EVENT_ID, loss_event

BODY: dict[str, object] = {
    "source_service": "stripe",
    "source_event_id": "evt_1",
    "account_did": "did:key:zA",
    "account_id": "acc_1",
    "amount_minor": "250",
    "reason_code": "chargeback",
    "severity": "high",
    "occurred_at": "2026-02-12T00:00:00.000Z",
    "currency": "USD",
}
NAMED = {"escrow_id": " esc_1 ", "bounty_id": "bty_1", "B": 1, "a": 1}
LATER = datetime(2026, 3, 1, tzinfo=UTC)


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in BODY.items() if name not in names}


def asked(**changes: object) -> LossRequest:
    return parse_loss("k1", {**BODY, **changes})


def fault(body: object) -> CallerError:
    with pytest.raises(CallerError) as refused:
        parse_loss("k1", body)
    return refused.value


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, "f4b39cf63e5edfdb65649c01a21667350616bf2c93c9378013d40f29ed431aff"),
        (NAMED, "de6a3cee25c85dd066df28fa3fd2835398bfefc3045f5ebb14212ce8cdc70276"),
    ],
)
def test_the_request_hash_is_that_of_the_contract(metadata: object, expected: str) -> None:
    assert asked(metadata=metadata).request_hash(LATER) == expected


def test_the_ids_are_those_of_the_contract() -> None:
    assert asked().loss_event_id == EVENT_ID
    apply_id = delivery_id(EVENT_ID, Operation.APPLY, Target.LEDGER)
    assert apply_id == "lso_a7205bc5f64f855c6fd3e159"
    resolve_id = delivery_id(EVENT_ID, Operation.RESOLVE, Target.LEDGER)
    assert resolve_id == "lro_f9743beb5382ca7e1a1c803e"
    assert resolution_id("rk1", EVENT_ID) == "lsr_495905b35fa9795a30320a86"


def test_the_hash_of_a_resolution_is_that_of_the_contract() -> None:
    targets = [Target.LEDGER, Target.ESCROW, Target.CLAWBOUNTIES]
    expected = "8c295f676dd5789bc68888c42e7693ca4f7e6389df59639b0bd44e0e4613cdb2"
    assert resolve_hash(EVENT_ID, None, targets) == expected


def test_what_means_the_same_is_one_request() -> None:
    spaced = asked(
        source_service=" stripe ",
        amount_minor=" 000250 ",
        occurred_at="Thu, 12 Feb 2026 00:00:00 GMT",
        metadata=None,
        targets=[],
        unknown="ignored",
    )
    assert spaced == asked()
    assert spaced.request_hash(LATER) == asked(metadata={}, targets=None).request_hash(LATER)


@pytest.mark.parametrize(
    "changes",
    [
        {"account_did": "did:key:zB"},
        {"account_id": None},
        {"amount_minor": "251"},
        {"metadata": {"a": 1}},
        {"occurred_at": "2026-02-12T00:00:00.001Z"},
        {"reason_code": "fraud"},
        {"severity": "low"},
        {"source_event_id": "evt_2"},
        {"source_service": "other"},
        {"targets": ["ledger", "clawinsure", "clawincome"]},
    ],
)
def test_whatever_differs_changes_the_hash(changes: dict[str, object]) -> None:
    assert asked(**changes).request_hash(LATER) != asked().request_hash(LATER)


def test_a_list_of_targets_is_hashed_as_it_was_given_and_told_each_once() -> None:
    doubled = asked(targets=["ledger", "clawincome", "ledger"])
    assert doubled.targets == (Target.LEDGER, Target.CLAWINCOME)
    single = asked(targets=["ledger", "clawincome"])
    assert doubled.request_hash(LATER) != single.request_hash(LATER)


@pytest.mark.parametrize(
    ("metadata", "more"),
    [
        ({}, ()),
        ({"escrow_id": "esc_1"}, (Target.ESCROW,)),
        ({"bounty_id": "bty_1"}, (Target.CLAWBOUNTIES,)),
        (NAMED, (Target.ESCROW, Target.CLAWBOUNTIES)),
        ({"escrow_id": 1, "bounty_id": None}, ()),
    ],
)
def test_the_usual_targets_are_told_and_those_that_the_metadata_name(
    metadata: dict[str, object], more: tuple[Target, ...]
) -> None:
    usual = (Target.LEDGER, Target.CLAWINSURE, Target.CLAWINCOME)
    assert asked(metadata=metadata).targets == (*usual, *more)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metadata": {"escrow_id": " "}}, "metadata.escrow_id"),
        ({"metadata": {"escrow_id": "e" * 256}}, "metadata.escrow_id"),
        ({"metadata": {"bounty_id": ""}}, "metadata.bounty_id"),
        ({"targets": ["escrow"]}, "metadata.escrow_id"),
        ({"targets": ["escrow"], "metadata": {"escrow_id": 1}}, "metadata.escrow_id"),
        ({"targets": ["clawbounties", "escrow"]}, "metadata.bounty_id"),
    ],
)
def test_a_chosen_target_needs_what_it_acts_on(changes: dict[str, object], field: str) -> None:
    error = fault({**BODY, **changes})
    assert (error.code, error.details) == ("INVALID_REQUEST", {"field": field})


def test_a_blank_name_of_a_target_that_is_not_chosen_matters_to_nobody() -> None:
    metadata = {"escrow_id": " ", "bounty_id": ""}
    assert asked(metadata=metadata, targets=["ledger"]).metadata == metadata


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"source_service": " "}, "source_service"),
        ({"source_service": "s" * 256}, "source_service"),
        ({"source_event_id": 1}, "source_event_id"),
        ({"source_event_id": "e" * 256}, "source_event_id"),
        ({"account_did": None}, "account_did"),
        ({"account_did": "key:zA"}, "account_did"),
        ({"account_did": "did:Key:zA"}, "account_did"),
        ({"account_did": "did:key:z A"}, "account_did"),
        ({"account_did": "did:key:zA\nx"}, "account_did"),
        ({"account_did": "did:key:é"}, "account_did"),
        ({"account_did": "did:key:" + "z" * 248}, "account_did"),
        ({"account_id": " "}, "account_id"),
        ({"account_id": 7}, "account_id"),
        ({"amount_minor": 250}, "amount_minor"),
        ({"amount_minor": "0"}, "amount_minor"),
        ({"amount_minor": "-1"}, "amount_minor"),
        ({"amount_minor": "1.0"}, "amount_minor"),
        ({"amount_minor": "٣"}, "amount_minor"),
        ({"amount_minor": str(2**63)}, "amount_minor"),
        ({"amount_minor": "9" * 5000}, "amount_minor"),
        ({"reason_code": ""}, "reason_code"),
        ({"reason_code": "r" * 256}, "reason_code"),
        ({"severity": "HIGH"}, "severity"),
        ({"severity": " high "}, "severity"),
        ({"severity": ["high"]}, "severity"),
        ({"occurred_at": ""}, "occurred_at"),
        ({"occurred_at": 1707696000}, "occurred_at"),
        ({"occurred_at": "1707696000"}, "occurred_at"),
        ({"occurred_at": "0000-01-01"}, "occurred_at"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "{}"}, "metadata"),
        ({"metadata": {"a": "é" * (METADATA_BYTES_MAX // 2)}}, "metadata"),
        ({"evidence": {"a": "e" * METADATA_BYTES_MAX}}, "metadata"),
        ({"targets": "ledger"}, "targets"),
        ({"targets": {"ledger": True}}, "targets"),
        ({"targets": ["Ledger"]}, "targets"),
        ({"targets": [["ledger"]]}, "targets"),
        ({"targets": ["ledger"] * (TARGETS_MAX + 1)}, "targets"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, object], field: str) -> None:
    error = fault({**BODY, **changes})
    assert (error.code, error.details) == ("INVALID_REQUEST", {"field": field})


@pytest.mark.parametrize("body", [None, [], "stripe", 1])
def test_a_body_is_an_object(body: object) -> None:
    assert (fault(body).code, fault(body).details) == ("INVALID_REQUEST", {})


def test_the_first_bad_field_in_the_contracts_order_is_named() -> None:
    order = [
        "source_service",
        "source_event_id",
        "account_did",
        "account_id",
        "amount_minor",
        "reason_code",
        "severity",
        "occurred_at",
        "metadata",
        "targets",
        "currency",
    ]
    body: dict[str, object] = dict.fromkeys(reversed(order), False)
    for name in order:
        assert fault(body).details["field"] == name
        body[name] = BODY.get(name)
    body["targets"] = ["escrow"]
    assert fault({**body, "currency": "EUR"}).code == "UNSUPPORTED_CURRENCY"
    assert fault(body).details == {"field": "metadata.escrow_id"}


@pytest.mark.parametrize("currency", ["usd", " USD", "EUR", None, 1])
def test_another_currency_is_refused_with_what_was_given(currency: object) -> None:
    error = fault({**BODY, "currency": currency})
    assert error.code == "UNSUPPORTED_CURRENCY"
    assert error.details == {"field": "currency", "value": currency}


def test_a_missing_currency_is_refused_without_a_value() -> None:
    error = fault(without("currency"))
    assert (error.code, error.details) == ("UNSUPPORTED_CURRENCY", {"field": "currency"})


def test_the_nested_source_wins_where_it_is_no_blank() -> None:
    request = asked(source={"service": " other ", "external_event_id": "evt_9"})
    assert (request.source_service, request.source_event_id) == ("other", "evt_9")
    blank = asked(source={"service": " ", "external_event_id": 9})
    assert (blank.source_service, blank.source_event_id) == ("stripe", "evt_1")
    assert asked(source=["stripe"]) == asked(source="stripe") == asked()


def test_the_kind_is_the_reason_where_none_is_given() -> None:
    request = parse_loss("k1", {**without("reason_code"), "kind": " fraud "})
    assert request.reason_code == "fraud"
    assert asked(reason_code=" ", kind="fraud").reason_code == "fraud"
    assert asked(kind="fraud").reason_code == "chargeback"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Severity.HIGH),
        ({"severity": None, "risk": {"score": 99}}, Severity.HIGH),
        ({"severity": "low", "risk": {"score": 99}}, Severity.LOW),
        ({"risk": {"score": 85}}, Severity.CRITICAL),
        ({"risk": {"score": 84.9}}, Severity.HIGH),
        ({"risk": {"score": 65}}, Severity.HIGH),
        ({"risk": {"score": 64}}, Severity.MEDIUM),
        ({"risk": {"score": 35}}, Severity.MEDIUM),
        ({"risk": {"score": 34}}, Severity.LOW),
        ({"risk": {"score": -1}}, Severity.LOW),
        ({"risk": {"score": True}}, Severity.HIGH),
        ({"risk": {"score": "99"}}, Severity.HIGH),
        ({"risk": 99}, Severity.HIGH),
    ],
)
def test_the_severity_is_the_one_given_or_that_of_the_score(
    given: dict[str, object], expected: Severity
) -> None:
    assert parse_loss("k1", {**without("severity"), **given}).severity is expected


def test_what_is_told_beside_the_metadata_overlays_them() -> None:
    request = asked(
        metadata={"provider": "mine", "kind": "mine", "evidence": "mine", "other": 1},
        source={"provider": "stripe", "external_payment_id": "pi_1"},
        kind="dispute",
        evidence={"file": "f_1"},
    )
    assert request.metadata == {
        "provider": "stripe",
        "kind": "dispute",
        "evidence": {"file": "f_1"},
        "other": 1,
        "external_payment_id": "pi_1",
    }


def test_what_is_no_overlay_leaves_the_metadata_alone() -> None:
    request = asked(
        metadata={"provider": "mine"},
        source={"provider": 1, "external_payment_id": None},
        kind=" ",
        evidence=[1],
    )
    assert request.metadata == {"provider": "mine"}


@pytest.mark.parametrize("absent", [without("occurred_at"), {**BODY, "occurred_at": None}])
def test_an_event_without_an_instant_is_replayed_with_the_one_it_has(
    absent: dict[str, object],
) -> None:
    request = parse_loss("k1", absent)
    assert request.occurred_at is None
    event = loss_event(request_hash=request.request_hash(LATER), occurred_at=LATER)
    assert request.conflict_with(event) is None
    assert asked(occurred_at="2026-03-01").conflict_with(event) is None
    conflict = asked(occurred_at="2026-03-02").conflict_with(event)
    assert conflict is not None
    assert (conflict.code, conflict.details) == (
        "IDEMPOTENCY_CONFLICT",
        {"idempotency_key": "k1", "existing_loss_event_id": EVENT_ID},
    )


def test_a_source_event_under_another_key_is_told_which_event_it_has() -> None:
    event = loss_event(request_hash=asked().request_hash(AT))
    conflict = evolve(asked(), idempotency_key="k2").conflict_with(event)
    assert conflict is not None
    assert (conflict.code, conflict.details) == (
        "IDEMPOTENCY_CONFLICT",
        {
            "source_service": "stripe",
            "source_event_id": "evt_1",
            "existing_loss_event_id": EVENT_ID,
        },
    )


@pytest.mark.parametrize(
    "metadata",
    [{"a": "\0"}, {"\0": 1}, {"a": "\ud800"}, {"a": float("nan")}, {"a": float("inf")}],
)
def test_what_postgresql_cannot_keep_is_refused(metadata: dict[str, object]) -> None:
    assert fault({**BODY, "metadata": metadata}).code == "INVALID_REQUEST"
    assert fault({**BODY, "reason_code": "\0"}).code == "INVALID_REQUEST"


def test_metadata_may_be_as_large_as_the_limit() -> None:
    frame = len('{"a":""}')
    assert asked(metadata={"a": "a" * (METADATA_BYTES_MAX - frame)})


def test_a_did_may_have_colons_in_its_identifier() -> None:
    assert asked(account_did=" did:web:example.com:u-1_x ").account_did == (
        "did:web:example.com:u-1_x"
    )


@given(
    st.dictionaries(
        st.sampled_from(sorted({*BODY, "source", "metadata", "targets", "risk"})),
        st.none()
        | st.integers()
        | st.text()
        | st.lists(st.text())
        | st.dictionaries(st.text(), st.text()),
    )
)
def test_any_body_is_read_or_refused(changes: dict[str, object]) -> None:
    try:
        request = asked(**changes)
    except CallerError:
        return
    assert request.targets
    assert len(request.request_hash(AT)) == 64


def test_a_resolution_may_say_why() -> None:
    request = parse_resolve(EVENT_ID, "rk1", {"reason": " won ", "other": 1})
    assert (request.loss_event_id, request.idempotency_key) == (EVENT_ID, "rk1")
    assert (request.reason, request.fault) == ("won", None)


@pytest.mark.parametrize("body", [{}, {"reason": None}])
def test_a_resolution_need_not_say_why(body: object) -> None:
    request = parse_resolve(EVENT_ID, "rk1", body)
    assert (request.reason, request.fault) == (None, None)


@pytest.mark.parametrize("reason", ["", " ", 1, [], "r" * (REASON_MAX + 1)])
def test_a_wrong_reason_is_kept_as_the_fault(reason: object) -> None:
    found = parse_resolve(EVENT_ID, "rk1", {"reason": reason}).fault
    assert found is not None
    assert (found.code, found.details) == ("INVALID_REQUEST", {"field": "reason"})


@pytest.mark.parametrize("body", [None, [], "won", 1])
def test_a_resolution_that_is_no_object_is_a_fault(body: object) -> None:
    found = parse_resolve(EVENT_ID, "rk1", body).fault
    assert found is not None
    assert found.code == "INVALID_REQUEST"


def test_a_reason_is_one_that_the_ledgers_holds_take() -> None:
    longest = asked(reason_code="r" * 255)
    assert len(f"loss_event_resolved:{longest.reason_code}") <= REASON_MAX


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, RetryRequest(Operation.APPLY, 25, None, force=False)),
        (
            {"operation": None, "loss_event_id": None},
            RetryRequest(Operation.APPLY, 25, None, force=False),
        ),
        ({"operation": " "}, RetryRequest(Operation.APPLY, 25, None, force=False)),
        ({"operation": " Resolve "}, RetryRequest(Operation.RESOLVE, 25, None, force=False)),
        ({"limit": 10.0}, RetryRequest(Operation.APPLY, 10, None, force=False)),
        ({"limit": 10**30}, RetryRequest(Operation.APPLY, RETRY_LIMIT_MAX, None, force=False)),
        (
            {"loss_event_id": " lse_1 ", "force": True},
            RetryRequest(Operation.APPLY, 25, "lse_1", force=True),
        ),
        (
            {"loss_event_id": "lse_1", "force": "yes", "other": 1},
            RetryRequest(Operation.APPLY, 25, "lse_1", force=False),
        ),
        ({"force": True}, RetryRequest(Operation.APPLY, 25, None, force=False)),
    ],
)
def test_a_retry_is_read_with_its_defaults(body: object, expected: RetryRequest) -> None:
    assert parse_retry(body, 25) == expected


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"operation": "undo", "limit": 0}, "operation"),
        ({"operation": 1}, "operation"),
        ({"operation": ["apply"]}, "operation"),
        ({"limit": None}, "limit"),
        ({"limit": 0, "loss_event_id": ""}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": "25"}, "limit"),
        ({"limit": True}, "limit"),
        ({"loss_event_id": " "}, "loss_event_id"),
        ({"loss_event_id": 1}, "loss_event_id"),
    ],
)
def test_a_bad_field_of_a_retry_is_named(body: dict[str, object], field: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse_retry(body, 25)
    assert refused.value.details == {"field": field}


@pytest.mark.parametrize("parse", [partial(parse_retry, limit_default=25), parse_requeue])
def test_a_retry_and_a_requeue_are_objects(parse: Callable[[object], object]) -> None:
    bodies: list[object] = [None, [], "apply"]
    for body in bodies:
        with pytest.raises(CallerError) as refused:
            parse(body)
        assert refused.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"target_service": "Ledger"}, RequeueRequest(None, Target.LEDGER, None, None, 100)),
        ({"outbox_id": " lso_1 "}, RequeueRequest(None, None, None, "lso_1", 100)),
        (
            {"operation": "resolve", "loss_event_id": "lse_1", "limit": 7},
            RequeueRequest(Operation.RESOLVE, None, "lse_1", None, 7),
        ),
        (
            {"operation": None, "target_service": "escrow", "limit": 10**30},
            RequeueRequest(None, Target.ESCROW, None, None, REQUEUE_LIMIT_MAX),
        ),
    ],
)
def test_a_requeue_is_read_with_its_defaults(body: object, expected: RequeueRequest) -> None:
    assert parse_requeue(body) == expected


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "loss_event_id"),
        ({"operation": "apply", "target_service": " "}, "loss_event_id"),
        ({"operation": "undo"}, "operation"),
        ({"target_service": "stripe"}, "target_service"),
        ({"loss_event_id": ""}, "loss_event_id"),
        ({"outbox_id": 1}, "outbox_id"),
        ({"outbox_id": "lso_1", "limit": 0}, "limit"),
    ],
)
def test_a_bad_field_of_a_requeue_is_named(body: dict[str, object], field: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse_requeue(body)
    assert refused.value.details == {"field": field}
