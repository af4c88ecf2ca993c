"""What each target is sent, word by word."""

from datetime import UTC, datetime
from typing import Any

import pytest

from clawsettle.domain.canonical import compact_json
from clawsettle.domain.loss_calls import Call, call_of, delivery_key, path_of
from clawsettle.domain.loss_events import Operation, Severity, Target
from tests.domain.loss_cases import EVENT_ID, loss_event

T = Target
APPLY, RESOLVE = Operation.APPLY, Operation.RESOLVE
METADATA: dict[str, object] = {"escrow_id": " esc_1 ", "bounty_id": " bty_1 ", "é": [1.0, None]}
EVENT = loss_event(
    METADATA,
    severity=Severity.MEDIUM,
    occurred_at=datetime(2026, 2, 12, 10, 0, 0, 5000, tzinfo=UTC),
)
SOURCE = {"source_service": "stripe", "source_event_id": "evt_1"}
MONEY = {"amount_minor": "250", "currency": "USD"}
CLAIM = {
    **SOURCE,
    "account_id": "acc_1",
    "account_did": "did:key:zA",
    **MONEY,
    "reason_code": "chargeback",
    "severity": "medium",
    "occurred_at": "2026-02-12T10:00:00.005Z",
    "metadata": METADATA,
}
CALLS: dict[tuple[Operation, Target], tuple[str, dict[str, Any]]] = {
    (APPLY, T.LEDGER): (
        "/v1/risk/holds/apply",
        {
            "account": "did:key:zA",
            **MONEY,
            "reason": "chargeback",
            "metadata": {
                **SOURCE,
                "severity": "medium",
                "account_did": "did:key:zA",
                "upstream": METADATA,
            },
        },
    ),
    (APPLY, T.ESCROW): (
        "/v1/escrows/esc_1/risk-hold",
        {
            "action": "apply",
            "reason": "chargeback",
            "metadata": {
                **SOURCE,
                "severity": "medium",
                "amount_minor": "250",
                "account_id": "acc_1",
                "account_did": "did:key:zA",
                "upstream": METADATA,
            },
        },
    ),
    (APPLY, T.CLAWINSURE): ("/v1/claims/auto", CLAIM),
    (APPLY, T.CLAWINCOME): ("/v1/risk/adjustments", {**CLAIM, "direction": "debit"}),
    (APPLY, T.CLAWBOUNTIES): (
        "/v1/risk/loss-events",
        {
            **SOURCE,
            "bounty_id": "bty_1",
            "account_did": "did:key:zA",
            **MONEY,
            "reason_code": "chargeback",
            "severity": "medium",
            "metadata": METADATA,
        },
    ),
    (RESOLVE, T.LEDGER): ("/v1/risk/holds/release-by-source", {"reason": "won"}),
    (RESOLVE, T.ESCROW): (
        "/v1/escrows/esc_1/risk-hold",
        {"action": "release", "reason": "won"},
    ),
    (RESOLVE, T.CLAWINCOME): (
        "/v1/risk/adjustments",
        {**CLAIM, "direction": "credit", "reason": "won"},
    ),
    (RESOLVE, T.CLAWBOUNTIES): (
        "/v1/risk/loss-events/clear",
        {"bounty_id": "bty_1", "reason": "won", "metadata": METADATA},
    ),
}


@pytest.mark.parametrize("about", CALLS)
def test_each_call_is_that_of_the_contract(about: tuple[Operation, Target]) -> None:
    operation, target = about
    path, fields = CALLS[about]
    kind = "loss-event" if operation is APPLY else "loss-event:resolve"
    key = f"{kind}:{EVENT_ID}:{target}"
    body = {"idempotency_key": key, "source_loss_event_id": EVENT_ID, **fields}
    assert call_of(EVENT, operation, target, "won") == Call(target, path, key, body)
    assert delivery_key(EVENT_ID, operation, target) == key
    assert path_of(operation, target, "esc_1" if target is T.ESCROW else None) == path


def test_every_repeat_is_the_same_request_to_the_byte() -> None:
    for operation, target in CALLS:
        bodies = {compact_json(call_of(EVENT, operation, target).body) for _ in range(3)}
        assert len(bodies) == 1


def test_every_target_but_the_insurer_can_be_told_that_an_event_is_over() -> None:
    assert {about for about in CALLS if about[0] is APPLY} == {(APPLY, target) for target in T}
    assert {target for operation, target in CALLS if operation is RESOLVE} == {*T} - {T.CLAWINSURE}


def test_no_two_deliveries_share_a_key() -> None:
    keys = {delivery_key(EVENT_ID, operation, target) for operation in Operation for target in T}
    assert len(keys) == len(Operation) * len(T)


@pytest.mark.parametrize("target", [T.LEDGER, T.ESCROW, T.CLAWINCOME, T.CLAWBOUNTIES])
def test_a_resolution_without_a_reason_gives_the_events(target: Target) -> None:
    body = call_of(EVENT, RESOLVE, target).body
    assert body["reason"] == "loss_event_resolved:chargeback"


@pytest.mark.parametrize("operation", [APPLY, RESOLVE])
def test_the_insurer_and_the_income_service_are_told_the_did_where_there_is_no_account(
    operation: Operation,
) -> None:
    event = loss_event(account_id=None)
    assert call_of(event, operation, T.CLAWINCOME).body["account_id"] == "did:key:zA"
    assert call_of(event, APPLY, T.CLAWINSURE).body["account_id"] == "did:key:zA"
    escrowed = loss_event({"escrow_id": "esc_1"}, account_id=None)
    assert call_of(escrowed, APPLY, T.ESCROW).body["metadata"]["account_id"] is None


@pytest.mark.parametrize(
    ("escrow_id", "segment"),
    [
        ("esc_0a-1", "esc_0a-1"),
        ("a/b", "a%2Fb"),
        ("../x?y#z", "..%2Fx%3Fy%23z"),
        ("é %", "%C3%A9%20%25"),
    ],
)
def test_an_escrow_is_one_segment_of_the_path(escrow_id: str, segment: str) -> None:
    for operation in Operation:
        call = call_of(loss_event({"escrow_id": escrow_id}), operation, T.ESCROW)
        assert call.path == f"/v1/escrows/{segment}/risk-hold"
