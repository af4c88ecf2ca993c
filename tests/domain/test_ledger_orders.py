"""Orders to a ledger, and what its answers to them are worth."""

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from clawsettle.domain.accounts import account_ids, clearing_ids
from clawsettle.domain.forwarding import Refused, Unknown
from clawsettle.domain.ledger_orders import (
    AnotherTransfer,
    Applied,
    LedgerAccount,
    LedgerError,
    LedgerEvent,
    TransferOrder,
    applied,
    read_account,
    read_event,
    read_transfer,
)
from clawsettle.domain.transfers import Side

Json = dict[str, Any]

ALICE = "did:key:alice"
ALICE_ID, BOB_ID = account_ids(ALICE)[0], account_ids("did:key:bob")[0]
CLEARING_ID = clearing_ids("clawsettle.payouts")[0]
KEY = "payout:finalize:pout_1"
ORDER = TransferOrder(
    KEY,
    Side.of(ALICE, "H"),
    Side.of("clearing:clawsettle.payouts", "A"),
    1200,
    "USD",
    {"payout_id": "pout_1", "stage": "finalize_paid", "source": "payout.paid:evt_1"},
)
SPEC: Json = {
    "currency": "USD",
    "from": {"account": ALICE, "bucket": "H"},
    "to": {"account": "clearing:clawsettle.payouts", "bucket": "A"},
    "amount_minor": "1200",
}
EVENT: Json = {
    "id": "evt_7",
    "idempotencyKey": KEY,
    "eventType": "transfer",
    "accountId": ALICE_ID,
    "toAccountId": CLEARING_ID,
    "amount": "1200",
    "bucket": "held",
    "metadata": {"payout_id": "pout_1", "spec_v1": SPEC},
    "createdAt": "2026-02-11T12:00:00.000Z",
}
ACCOUNT: Json = {
    "id": ALICE_ID,
    "did": ALICE,
    "balances": {"available": "3800", "held": "0", "bonded": "0"},
}


def without(body: Json, *names: str) -> Json:
    return {name: value for name, value in body.items() if name not in names}


def seen(body: Json) -> LedgerEvent:
    event = read_event(KEY, 200, body)
    assert event is not None
    return event


def test_an_order_is_sent_as_the_contract_says_in_its_order() -> None:
    assert list(ORDER.body().items()) == [
        ("idempotency_key", KEY),
        ("currency", "USD"),
        ("from", {"account": ALICE, "bucket": "H"}),
        ("to", {"account": "clearing:clawsettle.payouts", "bucket": "A"}),
        ("amount_minor", "1200"),
        ("metadata", ORDER.metadata),
    ]


@pytest.mark.parametrize("status", [200, 201, 299])
def test_an_answer_that_names_its_event_is_applied(status: int) -> None:
    assert read_transfer(status, {"event_id": "evt_7", "status": "applied"}) == Applied("evt_7")
    assert read_transfer(status, {"event_id": "evt_7"}) == Applied("evt_7")


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "evt_7",
        {},
        {"event_id": None},
        {"event_id": ""},
        {"event_id": " "},
        {"event_id": 7},
        {"event_id": "evt\n7"},
        {"event_id": "e" * 256},
        {"event_id": "evt_7", "status": "pending"},
        {"event_id": "evt_7", "status": None},
    ],
)
def test_a_2xx_that_says_anything_else_is_unknown(body: object) -> None:
    outcome = read_transfer(200, body)
    assert isinstance(outcome, Unknown)
    assert outcome.ledger_status == 200


def test_a_refusal_for_money_says_what_there_is() -> None:
    body = {"code": "INSUFFICIENT_FUNDS", "details": {"available": "700", "requested": "1200"}}
    outcome = read_transfer(400, body)
    assert isinstance(outcome, Refused)
    assert (outcome.ledger_status, outcome.code) == (400, "INSUFFICIENT_FUNDS")
    assert (outcome.available_minor, outcome.final) == (700, False)


@pytest.mark.parametrize(
    "details", [None, [], "700", {}, {"available": 700}, {"available": "-1"}, {"available": "7.0"}]
)
def test_a_refusal_that_does_not_say_what_there_is_says_nothing_of_it(details: object) -> None:
    outcome = read_transfer(400, {"code": "INSUFFICIENT_FUNDS", "details": details})
    assert isinstance(outcome, Refused)
    assert outcome.available_minor is None


REFUSALS = [
    (400, "INVALID_ACCOUNT", True),
    (409, "IDEMPOTENCY_KEY_REUSED", True),
    (422, "BALANCE_LIMIT_EXCEEDED", True),
    (400, "INSUFFICIENT_FUNDS", False),
    (422, "INSUFFICIENT_FUNDS", False),
    (302, None, False),
    (401, "UNAUTHORIZED", False),
    (403, None, False),
    (408, None, False),
    (429, None, False),
    (500, "EVENT_WRITE_FAILED", False),
    (503, "OVERLOADED", False),
]


@pytest.mark.parametrize(("status", "code", "final"), [*REFUSALS, (404, "NOT_FOUND", False)])
def test_only_a_refusal_that_time_cannot_mend_is_final(
    status: int, code: str | None, final: bool
) -> None:
    outcome = read_transfer(status, {"code": code})
    assert isinstance(outcome, Refused)
    assert (outcome.ledger_status, outcome.code, outcome.final) == (status, code, final)


@pytest.mark.parametrize(("status", "code", "final"), REFUSALS)
def test_a_refused_question_is_asked_again_unless_time_cannot_mend_it(
    status: int, code: str | None, final: bool
) -> None:
    for read, asked in ((read_account, "account_id"), (read_event, "idempotency_key")):
        with pytest.raises(LedgerError) as caught:
            read("x", status, {"code": code})
        assert caught.value.retryable is not final
        assert caught.value.details == {asked: "x", "ledger_status": status}


def test_an_account_is_read_with_its_balances() -> None:
    assert read_account(ALICE_ID, 200, ACCOUNT) == LedgerAccount(ALICE_ID, ALICE, 3800, 0)
    assert read_account(ALICE_ID, 404, {"code": "NOT_FOUND"}) is None


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        without(ACCOUNT, "id"),
        {**ACCOUNT, "id": BOB_ID},
        without(ACCOUNT, "did"),
        {**ACCOUNT, "did": " "},
        without(ACCOUNT, "balances"),
        {**ACCOUNT, "balances": {"available": "1"}},
        {**ACCOUNT, "balances": {"available": "", "held": "0"}},
        {**ACCOUNT, "balances": {"available": 3800, "held": "0"}},
        {**ACCOUNT, "balances": {"available": "-1", "held": "0"}},
        {**ACCOUNT, "balances": {"available": "9" * 19, "held": "0"}},
    ],
)
def test_an_answer_that_is_not_this_account_is_none(body: object) -> None:
    with pytest.raises(LedgerError) as caught:
        read_account(ALICE_ID, 200, body)
    assert (caught.value.code, caught.value.retryable) == ("LEDGER_INGEST_FAILED", True)
    assert caught.value.details == {"account_id": ALICE_ID}


def test_an_event_is_read_as_far_as_it_tells() -> None:
    assert read_event(KEY, 404, None) is None
    assert seen(EVENT) == LedgerEvent(
        "evt_7",
        KEY,
        "transfer",
        ALICE_ID,
        CLEARING_ID,
        1200,
        "held",
        EVENT["metadata"],
        datetime(2026, 2, 11, 12, tzinfo=UTC),
    )
    least = {"id": "evt_7", "idempotencyKey": KEY}
    for other in ({}, dict.fromkeys(without(EVENT, "id", "idempotencyKey"), None)):
        assert seen({**other, **least}) == LedgerEvent(
            "evt_7", KEY, None, None, None, None, None, {}, None
        )


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        without(EVENT, "id"),
        {**EVENT, "id": ""},
        without(EVENT, "idempotencyKey"),
        {**EVENT, "idempotencyKey": "payout:finalize:pout_2"},
        {**EVENT, "amount": 1200},
        {**EVENT, "amount": "12.00"},
        {**EVENT, "amount": "-1200"},
    ],
)
def test_an_answer_that_is_no_event_under_this_key_is_none(body: object) -> None:
    with pytest.raises(LedgerError) as caught:
        read_event(KEY, 200, body)
    assert (caught.value.code, caught.value.retryable) == ("LEDGER_INGEST_FAILED", True)
    assert caught.value.details == {"idempotency_key": KEY}


@pytest.mark.parametrize(
    "body",
    [
        EVENT,
        {"id": "evt_7", "idempotencyKey": KEY},
        {**EVENT, "metadata": {}},
        without(EVENT, "accountId", "toAccountId", "bucket", "amount"),
        {**EVENT, "accountId": "users/4711", "toAccountId": "house/1"},
        {**EVENT, "accountId": account_ids(ALICE)[1]},
        {**EVENT, "metadata": {"spec_v1": {**SPEC, "from": {"account": ALICE_ID, "bucket": "H"}}}},
    ],
)
def test_an_event_that_tells_nothing_else_is_the_orders(body: Json) -> None:
    assert applied(ORDER, seen(body)) == Applied("evt_7")


@pytest.mark.parametrize(
    ("body", "difference"),
    [
        ({**EVENT, "amount": "1201"}, "amount"),
        ({**EVENT, "eventType": "payin_settle"}, "type"),
        ({**EVENT, "bucket": "available"}, "bucket"),
        ({**EVENT, "metadata": {"spec_v1": {**SPEC, "amount_minor": "1201"}}}, "amount"),
        ({**EVENT, "metadata": {"spec_v1": {**SPEC, "currency": "EUR"}}}, "currency"),
        (
            {**EVENT, "metadata": {"spec_v1": {**SPEC, "to": {**SPEC["to"], "bucket": "F"}}}},
            "bucket",
        ),
        ({**EVENT, "metadata": {}, "accountId": BOB_ID}, "source"),
        ({**EVENT, "metadata": {}, "toAccountId": ALICE_ID}, "destination"),
        (
            {
                **without(EVENT, "toAccountId"),
                "metadata": {"spec_v1": {**SPEC, "to": {"account": "clearing:x", "bucket": "A"}}},
            },
            "destination",
        ),
    ],
)
def test_an_event_that_tells_otherwise_is_never_the_orders(body: Json, difference: str) -> None:
    with pytest.raises(AnotherTransfer, match=f"evt_7: it has another {difference}$") as caught:
        applied(ORDER, seen(body))
    assert (caught.value.code, caught.value.retryable) == ("LEDGER_INGEST_FAILED", False)
    assert caught.value.details == {"idempotency_key": KEY}


def test_an_order_without_an_event_is_not_applied() -> None:
    assert applied(ORDER, None) is None


def test_accounts_may_be_named_by_their_ids() -> None:
    by_id = evolve(ORDER, source=Side.of(ALICE_ID, "H"))
    assert applied(by_id, seen({**EVENT, "metadata": {}})) == Applied("evt_7")
    with pytest.raises(AnotherTransfer):
        applied(by_id, seen({**EVENT, "metadata": {}, "accountId": BOB_ID}))
