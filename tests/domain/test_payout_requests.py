"""What a caller may ask of payouts, with the contract's published ids, hashes and keys."""

from typing import Any

import pytest

from clawsettle.domain.errors import CallerError
from clawsettle.domain.ledger_orders import TransferOrder
from clawsettle.domain.payout_requests import PayoutRequest, parse_payout
from clawsettle.domain.payout_transfers import transfer_of
from clawsettle.domain.payouts import PayoutStep
from clawsettle.domain.transfers import Side
from clawsettle.sandbox.simulated_provider import connect_account_id
from tests.domain.payout_cases import payout

BODY = {"account_id": "acc_payout_1", "amount_minor": "1200", "currency": "usd"}


def request(**changes: Any) -> PayoutRequest:
    return parse_payout("idem_payout_1", {**BODY, **changes})


def test_the_ids_are_those_of_the_contract() -> None:
    assert connect_account_id("acc_payout_1") == "acct_2d9613ecee4e99e2374cc591"
    assert request().payout_id == "pout_e441ff0d7cd276eda27d75ca657c"


@pytest.mark.parametrize(
    ("account_id", "metadata", "expected"),
    [
        (
            "acc_payout_1",
            {"invoice": "inv_1"},
            "6669e09f56b25d1c64b1966917cb775b08b2ed4854f6a8dd5d6e337a77780ba7",
        ),
        ("acc_payout_1", None, "f79c78c7b897711db74b98fe4b1c27373bacb933dc59463eb8329ccec14fddac"),
        (
            "acc_6171dd30",
            {"b": 1, "a": "x"},
            "b2c12528ee0217d86adb74b4c1b3dc712014728c101da6f18c1dd0f34cb27839",
        ),
    ],
)
def test_the_request_hash_is_that_of_the_contract(
    account_id: str, metadata: dict[str, object] | None, expected: str
) -> None:
    asked = request(account_id=account_id, **({} if metadata is None else {"metadata": metadata}))
    assert asked.request_hash(connect_account_id(account_id)) == expected


def test_what_means_the_same_is_one_request() -> None:
    spaced = request(account_id=" acc_payout_1 ", amount_minor=" 01200", currency=" USD ")
    assert spaced == request()
    assert spaced.request_hash("acct_1") == request(metadata={}).request_hash("acct_1")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"account_id": " "}, "account_id"),
        ({"account_id": None, "amount_minor": None}, "account_id"),
        ({"amount_minor": 1200}, "amount_minor"),
        ({"amount_minor": "0"}, "amount_minor"),
        ({"amount_minor": "1e3"}, "amount_minor"),
        ({"amount_minor": "-1"}, "amount_minor"),
        ({"amount_minor": "\u0661"}, "amount_minor"),
        ({"amount_minor": str(2**63)}, "amount_minor"),
        ({"currency": ""}, "currency"),
        ({"metadata": None}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"metadata": None, "amount_minor": "x"}, "metadata"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CallerError) as refused:
        request(**changes)
    assert (refused.value.code, refused.value.details) == ("INVALID_REQUEST", {"field": field})


def test_another_currency_is_refused_as_such() -> None:
    with pytest.raises(CallerError) as refused:
        request(currency="eur", amount_minor="x")
    assert (refused.value.code, refused.value.details) == (
        "UNSUPPORTED_CURRENCY",
        {"currency": "EUR"},
    )


@pytest.mark.parametrize(
    ("step", "key", "source", "destination", "stage"),
    [
        (PayoutStep.LOCK, "lock", ("user", "A"), ("user", "H"), "lock"),
        (PayoutStep.FINALIZE, "finalize", ("user", "H"), ("clearing", "A"), "finalize_paid"),
        (PayoutStep.ROLL_BACK, "rollback", ("user", "H"), ("user", "A"), "rollback_failed"),
        (PayoutStep.RETURN, "return", ("clearing", "A"), ("user", "A"), "return_failed"),
    ],
)
def test_each_transfer_has_its_own_key_and_the_payouts_own_accounts(
    step: PayoutStep, key: str, source: tuple[str, str], destination: tuple[str, str], stage: str
) -> None:
    sides = {"user": "did:key:alice", "clearing": "clearing:clawsettle.payouts"}
    told = payout(provider_source="payout.paid:evt_1")
    assert transfer_of(told, step) == TransferOrder(
        f"payout:{key}:pout_00001",
        Side.of(sides[source[0]], source[1]),
        Side.of(sides[destination[0]], destination[1]),
        1200,
        "USD",
        {"payout_id": "pout_00001", "stage": stage, "source": "payout.paid:evt_1"},
    )
    assert "source" not in transfer_of(payout(), step).metadata
