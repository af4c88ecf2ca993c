"""What differs between our payouts, the ledger's events and the provider's objects, by kind."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import attrs
import pytest

from clawsettle.domain.comparison_report import ComparisonReport, our_line, totals
from clawsettle.domain.ledger_orders import LedgerEvent
from clawsettle.domain.payout_comparison import (
    UNDER_WAY_MAX,
    WAITING_MAX,
    Comparison,
    Mismatch,
    ProviderRecord,
    ledger_keys,
)
from clawsettle.domain.payouts import Payout, PayoutStatus
from clawsettle.domain.providers import ProviderPayout, ProviderStatus
from tests.domain.payout_cases import payout as payout_case

DAY = datetime(2026, 2, 11, tzinfo=UTC)
AS_OF = DAY + timedelta(days=1)
EVENTS = {"lock": "evt_l", "finalize": "evt_f", "rollback": "evt_r", "return": "evt_b"}
S = PayoutStatus


STAGES = {
    S.INITIATED: (),
    S.UNKNOWN: ("lock",),
    S.SUBMITTED: ("lock",),
    S.FINALIZING_PAID: ("lock",),
    S.PAID: ("lock", "finalize"),
    S.FAILED: ("lock", "rollback"),
    S.RETURNED: ("lock", "finalize", "return"),
}


def payout(
    status: PayoutStatus = S.PAID, age: timedelta = timedelta(hours=10), **other: Any
) -> Payout:
    """A payout of that day that entered its status so long before the cut."""
    known = {
        "payout_id": "pout_1",
        "status": status,
        "status_at": AS_OF - age,
        "external_payout_id": None if status in {S.INITIATED, S.UNKNOWN} else "po_1",
        **{f"{stage}_event_id": EVENTS[stage] for stage in STAGES[status]},
    }
    return payout_case(**known | other)


def events(of: Payout, *stages: str, **changed: Any) -> dict[str, LedgerEvent]:
    """The ledger's events of a payout's stages."""
    keys = ledger_keys(of)
    return {
        keys[stage]: attrs.evolve(
            LedgerEvent(EVENTS[stage], keys[stage], "transfer", None, None, 1200, None, {}, DAY),
            **changed,
        )
        for stage in stages
    }


def told(status: ProviderStatus = ProviderStatus.PAID, **other: Any) -> ProviderPayout:
    known = {
        "external_payout_id": "po_1",
        "payout_id": "pout_1",
        "connect_account_id": "acct_1",
        "amount_minor": 1200,
        "currency": "USD",
        "status": status,
        "created_at": DAY,
        "transfer_id": "tr_1",
        "reversed": status is ProviderStatus.FAILED,
    }
    return ProviderPayout(**{**known, **other})


def compared(
    one: Payout | None,
    ledger: Mapping[str, LedgerEvent],
    *theirs: ProviderPayout,
    status_now: PayoutStatus | None = None,
) -> list[Mismatch]:
    record = ProviderRecord(DAY, AS_OF)
    for each in theirs:
        record.add(each)
    comparison = Comparison(AS_OF, record)
    if one is not None:
        comparison.add(one, ledger, status_now or one.status)
    return comparison.finish()


def found(mismatches: list[Mismatch]) -> list[tuple[str, str, str]]:
    return [(str(one.kind), str(one.record), one.subject) for one in mismatches]


@pytest.mark.parametrize(
    ("status", "stages", "says"),
    [
        (S.PAID, ("lock", "finalize"), ProviderStatus.PAID),
        (S.FAILED, ("lock", "rollback"), ProviderStatus.FAILED),
        (S.RETURNED, ("lock", "finalize", "return"), ProviderStatus.FAILED),
        (S.SUBMITTED, ("lock",), ProviderStatus.IN_TRANSIT),
    ],
)
def test_records_that_agree_have_no_mismatch(
    status: PayoutStatus, stages: tuple[str, ...], says: ProviderStatus
) -> None:
    one = payout(status)
    assert compared(one, events(one, *stages), told(says)) == []


def test_what_a_record_lacks_is_missing() -> None:
    one = payout()
    assert found(compared(one, events(one, "lock"), told())) == [("missing", "ledger", "finalize")]
    assert found(compared(one, events(one, "lock", "finalize"))) == [
        ("missing", "provider", "po_1")
    ]
    (stranger,) = compared(None, {}, told(payout_id=None))
    assert (stranger.kind, stranger.record, stranger.payout_id) == ("missing", "ours", None)


def test_an_object_of_another_day_is_nobodys_mismatch() -> None:
    assert compared(None, {}, told(created_at=DAY - timedelta(milliseconds=1))) == []
    assert compared(None, {}, told(created_at=AS_OF)) == []


def test_another_amount_is_told_with_both() -> None:
    one = payout()
    (mismatch,) = compared(one, events(one, "lock", "finalize"), told(amount_minor=1))
    assert (mismatch.kind, mismatch.expected, mismatch.found) == ("amount", "1200 USD", "1 USD")
    assert found(compared(one, events(one, "lock", "finalize", amount_minor=7), told())) == [
        ("amount", "ledger", "finalize"),
        ("amount", "ledger", "lock"),
    ]
    assert compared(one, events(one, "lock", "finalize", amount_minor=None), told()) == []


@pytest.mark.parametrize(
    ("status", "stages", "says"),
    [
        (S.SUBMITTED, ("lock",), ProviderStatus.PAID),
        (S.PAID, ("lock", "finalize"), ProviderStatus.FAILED),
        (S.FAILED, ("lock", "rollback"), ProviderStatus.PAID),
        (S.UNKNOWN, ("lock",), ProviderStatus.PENDING),
    ],
)
def test_another_state_at_the_provider_is_told_once_it_is_old(
    status: PayoutStatus, stages: tuple[str, ...], says: ProviderStatus
) -> None:
    old = payout(status, UNDER_WAY_MAX + timedelta(seconds=1))
    mismatches = compared(old, events(old, *stages), told(says))
    assert ("state", "provider", "po_1") in found(mismatches)
    young = payout(status, UNDER_WAY_MAX)
    assert compared(young, events(young, *stages), told(says)) == []


@pytest.mark.parametrize("says", [ProviderStatus.IN_TRANSIT, ProviderStatus.PAID])
def test_what_both_have_come_to_since_the_cut_is_no_finding(says: ProviderStatus) -> None:
    one = payout(S.SUBMITTED)
    assert compared(one, events(one, "lock"), told(says), status_now=S.PAID) == []


def test_what_fits_neither_then_nor_now_is_told() -> None:
    one = payout(S.SUBMITTED)
    mismatches = compared(one, events(one, "lock"), told(), status_now=S.FAILED)
    assert [(each.subject, each.expected, each.found) for each in mismatches] == [
        ("po_1", "submitted", "paid")
    ]


def test_the_days_objects_are_those_compared_and_those_made_on_it() -> None:
    record = ProviderRecord(DAY, AS_OF)
    before = DAY - timedelta(days=3)
    for each in (
        told(created_at=before),
        told(external_payout_id="po_2", payout_id="pout_2", created_at=before),
        told(external_payout_id="po_3", payout_id="pout_3"),
    ):
        record.add(each)
    record.of(payout(), S.PAID)
    assert [(one.external_payout_id, status) for one, status in record.of_day()] == [
        ("po_1", S.PAID),
        ("po_3", None),
    ]


def test_an_event_of_the_ledger_that_we_do_not_know_is_told() -> None:
    one = payout(S.SUBMITTED)
    mismatches = compared(one, events(one, "lock", "rollback"), told(ProviderStatus.PENDING))
    assert found(mismatches) == [("state", "ours", "rollback")]
    other = payout(lock_event_id="evt_else")
    assert found(compared(other, events(other, "lock", "finalize"), told())) == [
        ("state", "ledger", "lock")
    ]


def test_money_that_was_given_back_here_but_not_there_is_told() -> None:
    one = payout(S.FAILED)
    mismatches = compared(
        one, events(one, "lock", "rollback"), told(ProviderStatus.FAILED, reversed=False)
    )
    assert found(mismatches) == [("state", "provider", "tr_1")]


def test_two_of_what_there_is_one_of_are_told() -> None:
    one = payout()
    twice = compared(one, events(one, "lock", "finalize"), told(), told(external_payout_id="po_2"))
    assert found(twice) == [("duplicate", "provider", "payout")]
    ends = compared(one, events(one, "lock", "finalize", "rollback"), told())
    assert ("duplicate", "ledger", "finalize and rollback") in found(ends)


def test_what_has_stood_still_too_long_is_late() -> None:
    limits = {S.FINALIZING_PAID: UNDER_WAY_MAX, S.SUBMITTED: WAITING_MAX}
    for status, limit in limits.items():
        says = told(ProviderStatus.PAID if status is S.FINALIZING_PAID else ProviderStatus.PENDING)
        on_time = payout(status, limit)
        assert compared(on_time, events(on_time, "lock"), says) == []
        late = payout(status, limit + timedelta(seconds=1))
        (mismatch,) = compared(late, events(late, "lock"), says)
        assert (mismatch.kind, mismatch.found) == ("late", str(status))
        assert mismatch.age_s == int(limit.total_seconds()) + 1


def test_a_provider_that_keeps_nothing_has_no_mismatches() -> None:
    one = payout()
    comparison = Comparison(AS_OF, None)
    comparison.add(one, events(one, "lock", "finalize"), one.status)
    assert comparison.finish() == []


def test_sums_are_by_kind_and_currency() -> None:
    one = payout()
    mismatches = compared(one, {}, told(), told(external_payout_id="po_2", amount_minor=5))
    assert totals(mismatches) == {
        "amount": {"count": 1, "amount_minor": {"USD": "1200"}},
        "duplicate": {"count": 1, "amount_minor": {"USD": "1200"}},
        "missing": {"count": 2, "amount_minor": {"USD": "2400"}},
    }


_ELSEWHERE = """
from tests.domain.test_payout_comparison import report
print(report().sha256)
print(report().csv())
"""


def report() -> ComparisonReport:
    one = payout(metadata={"b": 1, "a": "é"})
    mismatches = compared(one, {}, told(external_payout_id="po_2"), told(amount_minor=5))
    return ComparisonReport(date(2026, 2, 11), AS_OF, {"ours": our_line(one)}, mismatches)


@pytest.mark.parametrize(
    "environ",
    [
        {"TZ": "Pacific/Auckland", "PYTHONHASHSEED": "1", "LC_ALL": "C"},
        {"TZ": "America/St_Johns", "PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8"},
    ],
)
def test_the_same_records_give_the_same_bytes_anywhere(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{report().sha256}\n{report().csv()}\n"
