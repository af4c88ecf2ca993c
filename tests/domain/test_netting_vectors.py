"""The contract's published ids, keys, texts and hashes of netting."""

from datetime import UTC, datetime
from typing import Any

import pytest

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.ledger_orders import TransferOrder
from clawsettle.domain.netting import Entry, entry_id, entry_key, transfer_of
from clawsettle.domain.netting_plan import Direction, Item, plan_run
from clawsettle.domain.netting_requests import NettingDefaults, parse_netting
from clawsettle.domain.transfers import Side
from tests.domain.netting_cases import entry, run

RUN_ID = "nrun_7f62d5fe77e066cd99eecc2bc7e4"
TEXT = (
    '{"connect_account_id":"acct_A","currency":"USD","payout_ids":["p_1","p_2"],'
    f'"run_id":"{RUN_ID}"}}'
)
FIRST, SECOND = "nte_b655efa53de26422509e6bcd3ec6", "nte_29916e3a5eabb38fbf7e10573554"
DEFAULTS = NettingDefaults("clawsettle.payouts", "clawsettle.netting", 100, {"clawsettle.netting"})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("idem_netting_deterministic", RUN_ID),
        ("idem_netting_retry", "nrun_56967ccc1a94948b27c5e0506c81"),
    ],
)
def test_a_runs_id_follows_from_its_key(key: str, expected: str) -> None:
    assert parse_netting(key, {}, DEFAULTS).run_id == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "e825f0f3b87c30ff27be5d543d8de4370b8ec07eee7ad8769ef4e56ba5c843e8"),
        ({"limit": 10}, "34001455ece9c90480f5ac76847ce21b185c389ff6ff6b539c3abda07d683581"),
        ({"limit": 50}, "90354179b7f527ec86842ecb5d2778f6c347e26d737bf0dfda416668ff19ace4"),
    ],
)
def test_the_request_hash_is_over_the_values_with_their_defaults(
    body: dict[str, Any], expected: str
) -> None:
    assert parse_netting("k", body, DEFAULTS).request_hash == expected
    whole = {
        "currency": " usd ",
        "limit": 100.0,
        "source_clearing_domain": " clawsettle.payouts ",
        "target_clearing_domain": "clawsettle.netting",
        "unknown": [1],
    }
    assert parse_netting("k", {**whole, **body}, DEFAULTS).request_hash == expected


def test_an_entry_is_named_by_its_text() -> None:
    text = entry_key(RUN_ID, "acct_A", "USD", ("p_1", "p_2"), ())
    assert text == TEXT
    assert entry_id(text) == FIRST
    assert entry_id(entry_key(RUN_ID, "acct_B", "USD", ("p_3",), ())) == SECOND


def test_the_plan_of_the_contracts_run_is_the_contracts() -> None:
    at = datetime(2026, 2, 11, tzinfo=UTC)
    items = [
        Item(payout_id, Direction.SWEEP, account, "USD", amount_minor, at)
        for payout_id, account, amount_minor in (
            ("p_3", "acct_B", 700),
            ("p_2", "acct_A", 300),
            ("p_1", "acct_A", 200),
        )
    ]
    plan = plan_run(RUN_ID, items)
    assert [(one.entry_id, one.amount_minor) for one in plan.entries] == [
        (SECOND, 700),
        (FIRST, 500),
    ]
    assert plan.entries[1].entry_key == TEXT
    assert (plan.candidate_count, plan.total_amount_minor) == (3, 1200)


def test_the_transfer_is_the_contracts() -> None:
    moved = contract_entry()
    assert transfer_of(run(run_id=RUN_ID), moved) == TransferOrder(
        f"netting:entry:{FIRST}",
        Side.of("clearing:clawsettle.payouts", "A"),
        Side.of("clearing:clawsettle.netting", "A"),
        500,
        "USD",
        {
            "netting_run_id": RUN_ID,
            "netting_entry_id": FIRST,
            "connect_account_id": "acct_A",
            "payout_count": 2,
            "payout_ids": ["p_1", "p_2"],
        },
    )


def test_what_fails_late_comes_back_the_same_way_and_says_so() -> None:
    back = contract_entry(
        entry_id="nte_back", amount_minor=-500, payout_ids=("p_3",), compensated_payout_ids=("p_1",)
    )
    order = transfer_of(run(run_id=RUN_ID), back)
    assert order is not None
    assert (order.source.text, order.destination.text) == (
        "clearing:clawsettle.netting",
        "clearing:clawsettle.payouts",
    )
    assert order.amount_minor == 500
    assert order.metadata["payout_count"] == 1
    assert order.metadata["compensated_payout_ids"] == ["p_1"]


def test_what_cancels_itself_out_orders_no_transfer() -> None:
    assert transfer_of(run(run_id=RUN_ID), contract_entry(amount_minor=0)) is None


def test_the_ledger_is_told_the_entrys_own_currency() -> None:
    order = transfer_of(run(run_id=RUN_ID), contract_entry(currency="EUR"))
    assert order is not None
    assert order.currency == "EUR"


@pytest.mark.parametrize("count", [500, 501])
def test_a_ledger_is_told_at_most_five_hundred_ids_and_of_more_their_hash(count: int) -> None:
    payout_ids = tuple(f"p_{number:04}" for number in range(count))
    many = contract_entry(payout_ids=payout_ids, compensated_payout_ids=payout_ids)
    order = transfer_of(run(run_id=RUN_ID), many)
    assert order is not None
    for name in ("payout_ids", "compensated_payout_ids"):
        named = list(payout_ids)
        hashed = sha256_hex(canonical_json({name: named}))
        expected = (named, None) if count == 500 else (None, hashed)
        assert (order.metadata.get(name), order.metadata.get(f"{name}_sha256")) == expected
    assert order.metadata["payout_count"] == count


def test_a_view_has_the_contracts_fields_in_their_order_and_leaves_out_what_is_unset() -> None:
    assert list(run().view()) == [
        *("id", "idempotency_key", "request_hash", "currency", "selection_before"),
        *("source_clearing_domain", "target_clearing_domain", "status", "candidate_count"),
        *("applied_count", "failed_count", "total_amount_minor", "created_at", "updated_at"),
    ]
    ended = run(
        last_error_code="LEDGER_INGEST_FAILED",
        last_error_message="no",
        report_hash="0" * 64,
        completed_at=datetime(2026, 2, 11, tzinfo=UTC),
        total_amount_minor=-1,
    ).view()
    assert list(ended)[12:15] == ["last_error_code", "last_error_message", "report_hash"]
    assert (list(ended)[-1], ended["completed_at"]) == ("completed_at", "2026-02-11T00:00:00.000Z")
    assert (ended["total_amount_minor"], ended["candidate_count"]) == ("-1", 1)
    shown = contract_entry().view()
    assert list(shown) == [
        *("id", "run_id", "entry_key", "connect_account_id", "currency", "amount_minor"),
        *("payout_count", "payout_ids", "idempotency_key", "status", "created_at", "updated_at"),
    ]
    assert (shown["amount_minor"], shown["payout_count"]) == ("500", 2)
    assert (shown["entry_key"], shown["idempotency_key"]) == (TEXT, f"netting:entry:{FIRST}")


def contract_entry(**changes: Any) -> Entry:
    """The first entry of the contract's run."""
    known: dict[str, Any] = {
        "entry_id": FIRST,
        "run_id": RUN_ID,
        "connect_account_id": "acct_A",
        "amount_minor": 500,
        "payout_ids": ("p_1", "p_2"),
    }
    return entry(**known | changes)
