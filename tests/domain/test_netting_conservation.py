"""Whether a run's money is all there, by what its entries, its payouts and the ledger say."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from clawsettle.domain.canonical import sha256_hex
from clawsettle.domain.ledger_orders import LedgerEvent
from clawsettle.domain.netting import Entry, Run, transfer_of
from clawsettle.domain.netting_conservation import (
    AppliedSums,
    Conservation,
    LedgerTally,
    conservation_sha256,
    prove,
)
from tests.storage.netting_runs import stored_entry, stored_run

RUN = stored_run()
SWEPT = stored_entry(RUN, "acct_A", "p_1", amount_minor=500)
BACK = stored_entry(
    RUN, "acct_B", amount_minor=-300, payout_ids=(), compensated_payout_ids=("p_0",)
)
NOTHING = stored_entry(
    RUN,
    "acct_C",
    "p_2",
    amount_minor=0,
    compensated_payout_ids=("p_9",),
    ledger_event_id=None,
)
ENTRIES = (SWEPT, BACK, NOTHING)
SUMS = AppliedSums(200, 200, agree=True)


def event_of(run: Run, entry: Entry, **changes: Any) -> LedgerEvent:
    """The event that the ledger made of an entry."""
    order = transfer_of(run, entry)
    assert order is not None
    assert order.source.ref is not None
    assert order.destination.ref is not None
    event = LedgerEvent(
        event_id=str(entry.ledger_event_id),
        key=order.key,
        event_type="transfer",
        account_id=order.source.ref.account_ids[0],
        to_account_id=order.destination.ref.account_ids[0],
        amount_minor=order.amount_minor,
        bucket=order.source.bucket,
        metadata={},
        created_at=None,
    )
    return attrs.evolve(event, **changes)


def events(**changes: Any) -> Mapping[str, LedgerEvent]:
    """The ledger's events, that of the swept entry changed."""
    made = [event_of(RUN, SWEPT, **changes), event_of(RUN, BACK)]
    return {event.key: event for event in made}


def proof(found: Mapping[str, LedgerEvent], sums: AppliedSums = SUMS) -> Conservation:
    tally = LedgerTally()
    for entry in ENTRIES:
        tally.add(RUN, [entry], found)
    return prove(sums, tally)


def test_it_holds_when_three_records_agree_both_ways() -> None:
    assert proof(events()) == Conservation(200, 200, 200, 2, holds=True)


def test_a_run_that_has_moved_nothing_holds() -> None:
    assert prove(AppliedSums(0, 0, agree=True), LedgerTally()).view() == {
        "entries_minor": "0",
        "payouts_minor": "0",
        "ledger_minor": "0",
        "ledger_event_count": 0,
        "holds": True,
    }


@pytest.mark.parametrize(
    ("changes", "ledger_minor"),
    [
        ({"amount_minor": 501}, 201),
        ({"event_type": "hold_created"}, 200),
        ({"to_account_id": "clr_other"}, -300),
        ({"bucket": "held"}, 200),
        ({"metadata": {"spec_v1": {"from": {"bucket": "H"}}}}, 200),
        ({"event_id": "evt_another"}, 200),
        (
            {
                "account_id": event_of(RUN, SWEPT).to_account_id,
                "to_account_id": event_of(RUN, SWEPT).account_id,
            },
            -800,
        ),
    ],
)
def test_an_event_that_is_another_transfer_counts_as_what_it_says(
    changes: dict[str, Any], ledger_minor: int
) -> None:
    assert proof(events(**changes)) == Conservation(200, 200, ledger_minor, 2, holds=False)


def test_an_event_that_is_missing_breaks_it() -> None:
    found = {key: event for key, event in events().items() if key != SWEPT.idempotency_key}
    assert proof(found) == Conservation(200, 200, -300, 1, holds=False)


def test_wrong_payouts_break_it_even_where_sums_agree() -> None:
    assert proof(events(), AppliedSums(200, 200, agree=False)).holds is False


def test_sums_of_entries_that_the_ledger_does_not_have_break_it() -> None:
    assert proof(events(), AppliedSums(300, 300, agree=True)).holds is False


@pytest.mark.parametrize(("agree", "holds"), [(True, None), (False, False)])
def test_a_ledger_that_does_not_answer_proves_nothing(agree: bool, holds: bool | None) -> None:
    assert prove(AppliedSums(200, 200, agree=agree), None).view() == {
        "entries_minor": "200",
        "payouts_minor": "200",
        "holds": holds,
    }


def test_the_proof_is_bound_to_its_report() -> None:
    conservation = prove(AppliedSums(200, 200, agree=True), None)
    assert conservation_sha256("abc", conservation) == sha256_hex(
        '{"artifact_sha256":"abc","conservation":'
        '{"entries_minor":"200","holds":null,"payouts_minor":"200"}}'
    )
