"""What a run and an entry may become: the tables, their refusals, and every case there can be."""

from datetime import datetime, timedelta
from itertools import product
from typing import Any

import attrs
import pytest

from clawsettle.domain.errors import IllegalTransition
from clawsettle.domain.netting import EntryStatus, RunStatus
from clawsettle.domain.netting_transitions import (
    ENTRY_TRANSITIONS,
    ERROR_MESSAGE_MAX,
    QUIET,
    RUN_TRANSITIONS,
    Begun,
    Claimed,
    Completed,
    EntryCheck,
    EntryEvent,
    Failed,
    GivenBack,
    Moved,
    Orphaned,
    Refused,
    ReleaseAsked,
    Released,
    Resumed,
    RunEvent,
    TakenOver,
    Unanswered,
    Withheld,
    apply_entry,
    apply_run,
    conclude,
    entry_audit,
    judge_entry,
    may_arrive,
    may_be_under_way,
    run_audit,
)
from tests.domain.netting_cases import (
    AT,
    ENTRY_EVENTS,
    ERROR,
    REPORT_HASH,
    RUN_EVENTS,
    entry,
    next_entries,
    next_runs,
    run,
)
from tests.domain.payout_cases import walk

E, R = EntryStatus, RunStatus
LATER = AT + timedelta(seconds=1)
ENTRY_STEPS = {
    (E.PENDING, Claimed): E.APPLYING,
    (E.PENDING, Withheld): E.FAILED,
    (E.PENDING, Moved): E.APPLIED,
    (E.PENDING, GivenBack): E.RELEASED,
    (E.APPLYING, Moved): E.APPLIED,
    (E.APPLYING, Refused): E.FAILED,
    (E.APPLYING, Unanswered): E.UNKNOWN,
    (E.APPLYING, Orphaned): E.UNKNOWN,
    (E.UNKNOWN, Moved): E.APPLIED,
    (E.UNKNOWN, Resumed): E.PENDING,
    (E.UNKNOWN, GivenBack): E.RELEASED,
    (E.FAILED, Moved): E.APPLIED,
    (E.FAILED, Resumed): E.PENDING,
    (E.FAILED, GivenBack): E.RELEASED,
}
LEADS_TO = {event: str(to_status.wire) for (_, event), to_status in ENTRY_STEPS.items()}
RUN_STEPS = {
    (R.CREATED, Begun): R.RUNNING,
    (R.CREATED, ReleaseAsked): R.RELEASING,
    (R.RUNNING, TakenOver): R.RUNNING,
    (R.RUNNING, ReleaseAsked): R.RELEASING,
    (R.RUNNING, Completed): R.APPLIED,
    (R.RUNNING, Failed): R.FAILED,
    (R.RELEASING, TakenOver): R.RELEASING,
    (R.RELEASING, Completed): R.APPLIED,
    (R.RELEASING, Failed): R.FAILED,
    (R.RELEASING, Released): R.RELEASED,
    (R.FAILED, Begun): R.RUNNING,
    (R.FAILED, ReleaseAsked): R.RELEASING,
}
ENTRIES = walk(entry(), next_entries) | walk(entry(amount_minor=0), next_entries)
RUNS = walk(run(), next_runs)


def test_the_tables_name_every_status_and_every_event() -> None:
    assert ENTRY_TRANSITIONS.keys() == set(E)
    assert RUN_TRANSITIONS.keys() == set(R)
    assert {type(event) for event in ENTRY_EVENTS} == set(EntryEvent.__args__)
    assert {type(event) for event in RUN_EVENTS} == set(RunEvent.__args__)
    assert {entry.status for entry in ENTRIES} == set(E)
    assert {run.status for run in RUNS} == set(R)


@pytest.mark.parametrize(("status", "event"), [*product(E, ENTRY_EVENTS)])
def test_an_entry_takes_a_step_of_the_table_or_none(status: EntryStatus, event: EntryEvent) -> None:
    before, to_status = entry(status=status), ENTRY_STEPS.get((status, type(event)))
    if to_status is not None:
        after = apply_entry(before, event, now=LATER)
        assert (after.status, after.updated_at) == (to_status, LATER)
        return
    with pytest.raises(IllegalTransition) as refused:
        apply_entry(before, event, now=LATER)
    assert refused.value.details == {
        "run_id": "nrun_1",
        "entry_id": "nte_1",
        "from_status": str(status.wire),
        "to_status": LEADS_TO[type(event)],
    }


@pytest.mark.parametrize(("status", "event"), [*product(R, RUN_EVENTS)])
def test_a_run_takes_a_step_of_the_table_or_none(status: RunStatus, event: RunEvent) -> None:
    before, to_status = run(status=status), RUN_STEPS.get((status, type(event)))
    if to_status is not None:
        after = apply_run(before, event, now=LATER)
        assert (after.status, after.updated_at) == (to_status, LATER)
        return
    with pytest.raises(IllegalTransition) as refused:
        apply_run(before, event, now=LATER)
    assert refused.value.code == "INVALID_STATUS_TRANSITION"
    assert refused.value.details == {
        "run_id": "nrun_1",
        "from_status": str(status),
        "to_status": "released" if isinstance(event, ReleaseAsked) else "running",
    }


def test_only_what_has_moved_or_was_given_back_is_an_end() -> None:
    for status in E:
        assert status.is_end == (not ENTRY_TRANSITIONS[status])
    assert {status for status in R if not RUN_TRANSITIONS[status]} == {R.APPLIED, R.RELEASED}


def test_callers_know_the_contracts_words_and_two_of_ours() -> None:
    assert {str(status.wire) for status in E} == {
        *("pending", "applying", "applied", "failed", "released")
    }
    assert {str(status) for status in R} == {
        *("created", "running", "applied", "failed", "releasing", "released")
    }
    shown = entry(status=E.UNKNOWN).view()
    assert (shown["status"], shown["state"]) == ("failed", "unknown")
    assert "state" not in entry(status=E.FAILED).view()


def test_the_ledger_is_never_asked_before_the_claim_and_an_end_is_never_left() -> None:
    for before in ENTRIES:
        assert (before.status in {E.APPLYING, E.UNKNOWN}) <= (before.attempts > 0)
        if before.status.is_end:
            assert list(next_entries(before)) == []


def test_every_doubt_is_kept_until_the_end() -> None:
    for before in ENTRIES:
        for after in next_entries(before):
            assert (before.doubt_at is not None) <= (after.doubt_at is not None)
            assert (after.status is E.UNKNOWN) <= (after.doubt_at is not None)


def test_an_error_is_told_until_it_has_moved_and_an_event_only_then() -> None:
    for case in ENTRIES:
        moved = case.status is E.APPLIED
        assert (case.applied_at is not None) == moved
        assert (case.ledger_event_id is not None) == (moved and case.amount_minor != 0)
        assert not (moved and case.last_error_code)
        assert (case.status in {E.UNKNOWN, E.FAILED}) <= (case.last_error_code is not None)


def test_from_wherever_it_is_an_entry_can_be_resolved() -> None:
    for case in ENTRIES:
        reachable = {after.status for after in walk(case, next_entries)}
        assert reachable & {E.APPLIED, E.RELEASED}, case


def test_a_run_that_is_worked_on_has_no_report_and_one_that_has_ended_has() -> None:
    for case in RUNS:
        assert (case.completed_at is None) == case.status.is_open
        assert (case.report_hash is None) == case.status.is_open
        # What was wrong is told until it is known how the run ends this time.
        assert (case.status is R.FAILED) <= (case.last_error_code is not None)
        assert not (case.status is R.APPLIED and case.last_error_code)


def test_what_a_run_came_to_is_kept_with_it() -> None:
    ended = apply_run(run(status=R.RUNNING), Failed(3, 2, ERROR, REPORT_HASH), now=LATER)
    assert (ended.applied_count, ended.failed_count) == (3, 2)
    assert (ended.last_error_code, ended.last_error_message) == ERROR
    assert (ended.report_hash, ended.completed_at) == (REPORT_HASH, LATER)
    again = apply_run(ended, Begun(), now=LATER)
    assert (again.report_hash, again.completed_at) == (None, None)


@pytest.mark.parametrize(
    "event",
    [
        *(event("CODE", "x" * 501) for event in (Withheld, Refused, GivenBack)),
        Unanswered("CODE", "x" * 501, is_over=True),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_is_said_of_a_failure_is_kept_short(event: EntryEvent) -> None:
    for status in (status for status in E if type(event) in ENTRY_TRANSITIONS[status]):
        after = apply_entry(entry(status=status), event, now=AT)
        assert (after.last_error_code, after.last_error_message) == (
            "CODE",
            "x" * ERROR_MESSAGE_MAX,
        )


def test_each_claim_counts_and_each_doubt_has_its_instant() -> None:
    claimed = apply_entry(entry(attempts=1), Claimed(), now=LATER)
    assert (claimed.attempts, claimed.doubt_at) == (2, None)
    for event, unanswered_at in (
        (Unanswered(*ERROR, is_over=False), LATER),
        (Unanswered(*ERROR, is_over=True), None),
        (Orphaned(), None),
    ):
        doubted = apply_entry(claimed, event, now=LATER)
        assert (doubted.doubt_at, doubted.unanswered_at) == (LATER, unanswered_at)
        assert doubted.last_error_code == "LEDGER_INGEST_FAILED"
    assert apply_entry(claimed, Refused(*ERROR), now=LATER).doubt_at is None


def test_what_was_never_answered_may_be_under_way_for_two_minutes() -> None:
    silent = entry(status=E.UNKNOWN, doubt_at=AT, unanswered_at=AT)
    doubted = entry(status=E.UNKNOWN, doubt_at=AT)
    for judge, known in ((may_be_under_way, silent), (may_arrive, doubted)):
        assert judge(known, AT + timedelta(minutes=2, milliseconds=-1))
        assert not judge(known, AT + timedelta(minutes=2))
        assert not judge(entry(), AT)
    assert not may_be_under_way(doubted, AT)
    assert timedelta(minutes=2) == QUIET


CHECK = EntryCheck(1, 1200, 1200, belong_to_it=True, are_unchanged=True)


def test_an_entry_may_be_moved_while_it_is_what_its_payouts_are() -> None:
    assert judge_entry(entry(), CHECK) == Claimed()
    both = entry(amount_minor=0, compensated_payout_ids=("pout_00002",))
    nothing = attrs.evolve(CHECK, item_count=2, items_minor=0, payouts_minor=0)
    assert judge_entry(both, nothing) == Moved(None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"item_count": 0, "items_minor": None, "payouts_minor": None, "belong_to_it": None},
        {"item_count": 2},
        {"items_minor": 1199},
        {"payouts_minor": 1201},
        {"items_minor": 1, "payouts_minor": 1},
        {"belong_to_it": False},
        {"items_minor": 1, "are_unchanged": False},
    ],
)
@pytest.mark.parametrize("doubt_at", [None, AT])
def test_an_entry_that_is_not_its_payouts_sum_is_withheld(
    wrong: dict[str, Any], doubt_at: datetime | None
) -> None:
    judged = judge_entry(entry(doubt_at=doubt_at), attrs.evolve(CHECK, **wrong))
    assert isinstance(judged, Withheld)
    assert judged.code == "NETTING_SUM_MISMATCH"


def test_payouts_that_are_not_what_they_were_are_given_back_unless_they_may_have_moved() -> None:
    changed = attrs.evolve(CHECK, are_unchanged=False)
    given_back = judge_entry(entry(), changed)
    assert isinstance(given_back, GivenBack)
    held = judge_entry(entry(doubt_at=AT), changed)
    assert isinstance(held, Withheld)
    assert given_back.code == held.code == "PAYOUT_STATE_CHANGED"


@pytest.mark.parametrize("status", [status for status in E if not status.is_end])
def test_a_run_has_failed_while_any_entry_is_open(status: EntryStatus) -> None:
    counts = {E.APPLIED: 3, E.RELEASED: 2, status: 1}
    for open_status in (R.RUNNING, R.RELEASING):
        ended = conclude(run(status=open_status), counts, ERROR)
        assert ended == Failed(3, 1, ERROR, "")
    unnamed = conclude(run(status=R.RUNNING), counts, None)
    assert unnamed.error == ("NETTING_RUN_FAILED", None)


@pytest.mark.parametrize(
    ("status", "counts", "event"),
    [
        (R.RUNNING, {}, Completed),
        (R.RUNNING, {E.APPLIED: 2}, Completed),
        (R.RUNNING, {E.APPLIED: 2, E.RELEASED: 1}, Completed),
        (R.RELEASING, {E.APPLIED: 2}, Completed),
        (R.RELEASING, {E.APPLIED: 2, E.RELEASED: 1}, Released),
        (R.RELEASING, {E.RELEASED: 1}, Released),
    ],
)
def test_a_run_without_open_entries_has_moved_or_has_given_back(
    status: RunStatus, counts: dict[EntryStatus, int], event: type[object]
) -> None:
    ended = conclude(run(status=status), counts, None)
    assert type(ended) is event
    assert (ended.applied_count, ended.failed_count) == (counts.get(E.APPLIED, 0), 0)


def test_each_step_leaves_an_audit_row() -> None:
    claimed = apply_entry(entry(), Claimed(), now=AT)
    refused = apply_entry(claimed, Refused(*ERROR), now=AT)
    row = entry_audit(claimed, refused)
    assert (row.run_id, row.entry_id, row.event_type) == ("nrun_1", "nte_1", "netting.entry.failed")
    assert row.details == {
        "from_status": "applying",
        "attempts": 1,
        "code": ERROR[0],
        "message": ERROR[1],
    }
    moved = entry_audit(claimed, apply_entry(claimed, Moved("evt_1"), now=AT))
    assert moved.details == {"from_status": "applying", "attempts": 1, "ledger_event_id": "evt_1"}
    running = apply_run(run(), Begun(), now=AT)
    begun = run_audit(run(), running)
    assert (begun.entry_id, begun.event_type) == (None, "netting.run.running")
    assert begun.details == {"from_status": "created"}
    ended = run_audit(running, apply_run(running, Completed(1, 0, None, REPORT_HASH), now=AT))
    assert ended.event_type == "netting.run.applied"
    assert ended.details == {
        "from_status": "running",
        "applied_count": 1,
        "failed_count": 0,
        "report_hash": REPORT_HASH,
    }
