"""What the report of a netting run has, how it is written, and what is hashed."""

import json
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from clawsettle.domain.canonical import canonical_json, sha256_hex
from clawsettle.domain.netting import Entry, EntryStatus, Run
from clawsettle.domain.netting_reports import (
    COMPENSATED,
    FIELDS,
    HASHED_HEAD,
    csv_cells,
    csv_columns,
    hashed_tail,
    report_row,
    sent_head,
    sent_tail,
    summary,
)
from clawsettle.domain.payout_reports import csv_lines
from tests.storage.netting_runs import stored_entry, stored_run

RUN_ID = "nrun_7f62d5fe77e066cd99eecc2bc7e4"
EMPTY = (
    '{"entries":[],"run_id":"nrun_c3c9e4a18ac491343a2ad1f399f3","summary":{"applied_count":0,'
    '"candidate_count":0,"currency":"USD","failed_count":0,'
    '"source_clearing_domain":"clawsettle.payouts","status":"applied",'
    '"target_clearing_domain":"clawsettle.netting","total_amount_minor":"0"}}'
)


def published_run() -> tuple[Run, list[Entry]]:
    """The contract's run with its two entries, in the order of their ids."""
    run = stored_run(
        "idem_netting_deterministic",
        candidate_count=3,
        applied_count=2,
        total_amount_minor=1200,
    )
    assert run.run_id == RUN_ID
    return run, [
        stored_entry(run, "acct_B", "p_3", ledger_event_id="evt_netting_1"),
        stored_entry(
            run, "acct_A", "p_1", "p_2", amount_minor=500, ledger_event_id="evt_netting_2"
        ),
    ]


def hashed(run: Run, entries: list[Entry]) -> str:
    rows = ",".join(canonical_json(report_row(entry)) for entry in entries)
    return HASHED_HEAD + rows + hashed_tail(run)


def test_the_contracts_run_has_the_published_hash() -> None:
    run, entries = published_run()
    assert [entry.entry_id for entry in entries] == [
        "nte_29916e3a5eabb38fbf7e10573554",
        "nte_b655efa53de26422509e6bcd3ec6",
    ]
    assert sha256_hex(hashed(run, entries)) == (
        "a41d9b82b2efd4d2ef649d112e1ddb84e4de98844c88b8bdb351268396625f90"
    )


def test_the_empty_run_has_the_published_text_and_hash() -> None:
    run = attrs.evolve(stored_run(), run_id="nrun_c3c9e4a18ac491343a2ad1f399f3")
    assert hashed(run, []) == EMPTY
    assert sha256_hex(EMPTY) == "cfdb887d941514b57e830cf6f71482ecf80b81acb999e63b329243a0960e2864"


def test_what_is_hashed_is_the_canonical_form_of_what_is_sent() -> None:
    run, entries = published_run()
    rows = ",".join(json.dumps(report_row(entry)) for entry in entries)
    sent = sent_head(run, datetime(2026, 2, 13, tzinfo=UTC), {"more": 1}) + rows + sent_tail("abc")
    told: dict[str, Any] = json.loads(sent)
    assert list(told) == [
        "run_id",
        "generated_at",
        "summary",
        "more",
        "entries",
        "artifact_sha256",
    ]
    assert told["generated_at"] == "2026-02-13T00:00:00.000Z"
    assert told["artifact_sha256"] == "abc"
    of_hash = {name: told[name] for name in ("run_id", "summary", "entries")}
    assert canonical_json(of_hash) == hashed(run, entries)


def test_a_summary_has_the_contracts_fields_in_its_order() -> None:
    run, _ = published_run()
    assert list(summary(run).items()) == [
        ("status", "applied"),
        ("currency", "USD"),
        ("source_clearing_domain", "clawsettle.payouts"),
        ("target_clearing_domain", "clawsettle.netting"),
        ("candidate_count", 3),
        ("applied_count", 2),
        ("failed_count", 0),
        ("total_amount_minor", "1200"),
    ]


def test_a_row_has_the_contracts_fields_and_leaves_out_what_is_not_set() -> None:
    _, (_, entry) = published_run()
    assert list(report_row(entry).items()) == [
        ("entry_id", "nte_b655efa53de26422509e6bcd3ec6"),
        ("connect_account_id", "acct_A"),
        ("payout_count", 2),
        ("amount_minor", "500"),
        ("status", "applied"),
        ("ledger_event_id", "evt_netting_2"),
        ("payout_ids", ["p_1", "p_2"]),
    ]


def test_what_may_have_moved_is_failed_to_callers() -> None:
    run, _ = published_run()
    row = report_row(
        stored_entry(
            run,
            "acct_C",
            "p_4",
            status=EntryStatus.UNKNOWN,
            last_error_code="C",
            last_error_message="m",
        )
    )
    assert (row["status"], row["last_error_code"], row["last_error_message"]) == (
        "failed",
        "C",
        "m",
    )


def test_compensated_payouts_are_told_where_there_are_some() -> None:
    run, _ = published_run()
    entry = stored_entry(
        run, "acct_C", "p_4", amount_minor=-300, compensated_payout_ids=("p_1", "p_2")
    )
    row = report_row(entry)
    assert list(row)[-1] == COMPENSATED
    assert (row["amount_minor"], row["payout_count"]) == ("-300", 1)
    columns = csv_columns(compensates=True)
    assert csv_lines([columns, csv_cells(row, columns)]).split("\n") == [
        ",".join((*FIELDS, "compensated_payout_ids")),
        f"{entry.entry_id},acct_C,1,-300,applied,evt_acct_C,,,p_4,p_1|p_2",
    ]


def test_a_run_without_compensation_has_the_contracts_columns() -> None:
    _, (_, entry) = published_run()
    columns = csv_columns(compensates=False)
    assert csv_lines([columns, csv_cells(report_row(entry), columns)]) == (
        "entry_id,connect_account_id,payout_count,amount_minor,status,ledger_event_id,"
        "last_error_code,last_error_message,payout_ids\n"
        "nte_b655efa53de26422509e6bcd3ec6,acct_A,2,500,applied,evt_netting_2,,,p_1|p_2"
    )


@pytest.mark.parametrize(
    ("message", "cell"),
    [("no, thanks", '"no, thanks"'), ("=1+1", "'=1+1"), ("a\rb", '"a\rb"'), ('"', '""""')],
)
def test_an_error_text_is_quoted_and_computes_nothing(message: str, cell: str) -> None:
    run, _ = published_run()
    row = report_row(
        stored_entry(
            run,
            "acct_C",
            "p_4",
            status=EntryStatus.FAILED,
            last_error_code="C",
            last_error_message=message,
        )
    )
    assert csv_lines([csv_cells(row, FIELDS)]).endswith(f",failed,,C,{cell},p_4")
