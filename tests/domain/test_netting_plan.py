"""A plan follows from its items and nothing else: not from their order, nor from the machine."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawsettle.domain.errors import ClawsettleError
from clawsettle.domain.money import MINOR_MAX
from clawsettle.domain.netting_plan import Direction, Item, Plan, plan_run
from tests.domain.netting_items import NOON, item, items, reports_of, seeded, text_of

RUN_ID = "nrun_7f62d5fe77e066cd99eecc2bc7e4"
ROOT = Path(__file__).parents[2]


def planned(*given: Item) -> Plan:
    return plan_run(RUN_ID, given)


def ids_by_hand(run_id: str, account: str, payout_ids: list[str], back: list[str]) -> str:
    """An entry's id, by the contract's recipe and none of our functions."""
    named = {
        "connect_account_id": account,
        "currency": "USD",
        "payout_ids": payout_ids,
        "run_id": run_id,
    }
    if back:
        named["compensated_payout_ids"] = back
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "nte_" + hashlib.sha256(text.encode()).hexdigest()[:28]


@given(items(), st.randoms(use_true_random=False))
def test_the_order_in_which_items_come_means_nothing(
    found: list[Item], drawn: random.Random
) -> None:
    shuffled = found.copy()
    drawn.shuffle(shuffled)
    assert plan_run(RUN_ID, iter(shuffled)) == plan_run(RUN_ID, found)


@given(items())
def test_each_item_is_in_one_entry_and_the_sums_are_theirs(found: list[Item]) -> None:
    plan = planned(*found)
    groups: dict[str, list[Item]] = defaultdict(list)
    for one in sorted(found, key=lambda one: (one.at, one.payout_id)):
        groups[one.connect_account_id].append(one)
    assert {entry.connect_account_id for entry in plan.entries} == groups.keys()
    assert len(plan.entries) == len(groups)
    for entry in plan.entries:
        group = groups[entry.connect_account_id]
        swept = [one.payout_id for one in group if one.direction is Direction.SWEEP]
        back = [one.payout_id for one in group if one.direction is Direction.RETURN]
        assert (list(entry.payout_ids), list(entry.compensated_payout_ids)) == (swept, back)
        assert entry.amount_minor == sum(one.amount_minor for one in group)
        assert entry.entry_id == ids_by_hand(RUN_ID, entry.connect_account_id, swept, back)
    assert plan.candidate_count == len(found)
    assert plan.total_amount_minor == sum(one.amount_minor for one in found)
    assert [one.entry_id for one in plan.entries] == sorted(one.entry_id for one in plan.entries)


def test_of_one_instant_the_ids_decide_and_before_them_the_instants() -> None:
    later = NOON + timedelta(milliseconds=1)
    three = (item("p_2", 1), item("p_3", 1), item("p_1", 1, at=later))
    for order in permutations(three):
        (entry,) = planned(*order).entries
        assert entry.payout_ids == ("p_2", "p_3", "p_1")


def test_what_failed_late_is_set_against_what_was_paid() -> None:
    (entry,) = planned(item("p_1", -700), item("p_2", 500), item("p_3", 100)).entries
    assert (entry.amount_minor, entry.payout_ids) == (-100, ("p_2", "p_3"))
    assert entry.compensated_payout_ids == ("p_1",)
    assert entry.view()["compensated_payout_ids"] == ["p_1"]
    assert entry.view()["amount_minor"] == "-100"


def test_what_comes_to_nothing_is_an_entry_still() -> None:
    plan = planned(item("p_1", -500), item("p_2", 500))
    assert [entry.amount_minor for entry in plan.entries] == [0]
    assert (plan.candidate_count, plan.total_amount_minor) == (2, 0)


def test_one_payout_can_be_swept_and_taken_back_in_one_entry_each_once() -> None:
    (entry,) = planned(item("p_1", -500), item("p_1", 500)).entries
    assert entry.payout_ids == entry.compensated_payout_ids == ("p_1",)


def test_accounts_are_the_same_only_when_every_character_is() -> None:
    names = ("acct_ä", "acct_a\u0308", "acct_A", "acct_a")
    plan = planned(*(item(f"p_{n}", 1, connect_account_id=name) for n, name in enumerate(names)))
    assert len({entry.entry_id for entry in plan.entries}) == len(names)


def test_currencies_are_never_summed() -> None:
    plan = planned(item("p_1", 1), item("p_2", 1, currency="EUR"))
    assert {(entry.currency, entry.amount_minor) for entry in plan.entries} == {
        ("USD", 1),
        ("EUR", 1),
    }


def test_without_items_there_is_a_plan_of_nothing() -> None:
    assert (list(planned().entries), planned().candidate_count) == ([], 0)


def test_another_run_names_the_same_group_otherwise() -> None:
    (here,), (there,) = (
        planned(item("p_1", 1)).entries,
        plan_run("nrun_2", [item("p_1", 1)]).entries,
    )
    assert here.entry_id != there.entry_id


@pytest.mark.parametrize("accounts", [("acct_A", "acct_A"), ("acct_A", "acct_B")])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_no_ledger_can_hold_is_refused(accounts: tuple[str, str], sign: int) -> None:
    at_most, one_more = (
        [
            item("p_1", sign * (MINOR_MAX - 1), connect_account_id=accounts[0]),
            item("p_2", sign * second, connect_account_id=accounts[1]),
        ]
        for second in (1, 2)
    )
    assert planned(*at_most).total_amount_minor == sign * MINOR_MAX
    with pytest.raises(ClawsettleError) as refused:
        planned(*one_more)
    assert refused.value.code == "BALANCE_LIMIT_EXCEEDED"


@settings(max_examples=20)
@given(items(amount_minor_max=MINOR_MAX))
def test_no_plan_has_a_sum_that_no_ledger_can_hold(found: list[Item]) -> None:
    try:
        plan = planned(*found)
    except ClawsettleError:
        return
    assert max((abs(entry.amount_minor) for entry in plan.entries), default=0) <= MINOR_MAX
    assert abs(plan.total_amount_minor) <= MINOR_MAX


SCRIPT = f"""
import random, sys
from clawsettle.domain.netting_plan import plan_run
from tests.domain.netting_items import reports_of, seeded, text_of
items = seeded(2000)
random.Random(sys.argv[1]).shuffle(items)
plan = plan_run("{RUN_ID}", items)
sys.stdout.buffer.write((text_of(plan) + reports_of(plan)).encode())
"""


@pytest.mark.parametrize(
    ("hash_seed", "zone", "locale"),
    [
        ("0", "UTC", "C"),
        ("1", "Pacific/Kiritimati", "C.UTF-8"),
        ("4294967295", "America/Caracas", "tr_TR.UTF-8"),
        ("random", "Asia/Kolkata", "de_DE@euro"),
    ],
)
def test_the_bytes_of_a_plan_and_of_its_reports_do_not_depend_on_the_machine(
    hash_seed: str, zone: str, locale: str
) -> None:
    there = {"PYTHONHASHSEED": hash_seed, "TZ": zone, "LC_ALL": locale, "LANG": locale}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, hash_seed],
        env={**os.environ, **there},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    plan = plan_run(RUN_ID, seeded(2000))
    assert ended.stdout == (text_of(plan) + reports_of(plan)).encode()
