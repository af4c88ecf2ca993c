"""The audit of netting can fail: what is changed behind its back, or answered twice, is named."""

import copy
from collections.abc import Callable, Sequence

from tests.torture.audited import open_audited
from tests.torture.netting_load import NettingLoad
from tests.torture.traffic import NETTING

CLIENTS = 16

_MOVED = """
    SELECT entry_id, run_id, payout_ids[1] AS payout_id,
           'netting:entry:' || entry_id AS event_key, 'clawsettle.payouts' AS domain
    FROM netting_entry AS e
    WHERE status = 'applied' AND amount_minor > 0 AND compensated_payout_ids = '{}'
      AND NOT EXISTS (
          SELECT FROM netting_item AS i
          WHERE i.direction = 'return' AND i.payout_id = ANY (e.payout_ids)
      )
    ORDER BY row_number() OVER (PARTITION BY run_id ORDER BY entry_id), run_id
"""
_LISTED_TWICE = """
    UPDATE netting_entry SET payout_ids = payout_ids || (
        SELECT o.payout_ids[1] FROM netting_entry AS o
        WHERE o.entry_id <> $1 AND o.status = 'applied' AND cardinality(o.payout_ids) > 0 LIMIT 1
    ) WHERE entry_id = $1
"""
_UNMOVED = """
    UPDATE netting_entry SET status = 'failed', applied_at = NULL, ledger_event_id = NULL
    WHERE entry_id = $1
"""
_UNDER_WAY = """
    UPDATE netting_entry SET status = 'applying', applied_at = NULL, ledger_event_id = NULL
    WHERE entry_id = $1
"""
_REOPENED = """
    UPDATE netting_run
    SET status = 'running', due_at = 'infinity', report_hash = NULL, completed_at = NULL
    WHERE run_id = $1
"""
_NEVER_LEFT = """
    UPDATE netting_entry SET status = 'failed', applied_at = NULL, ledger_event_id = NULL
    WHERE $1 <> '' AND entry_id = (
        SELECT s.entry_id FROM netting_item AS s JOIN netting_item AS b USING (payout_id)
        WHERE s.direction = 'sweep' AND b.direction = 'return' LIMIT 1
    )
"""
CHANGES = (
    (
        "run_id",
        "UPDATE netting_report SET artifact_sha256 = '' WHERE run_id = $1",
        "a report is not that of its run",
    ),
    (
        "run_id",
        "DELETE FROM netting_audit WHERE run_id = $1 AND entry_id IS NULL",
        "the audit trail does not end as the run",
    ),
    (
        "run_id",
        "UPDATE netting_run SET candidate_count = candidate_count + 1 WHERE run_id = $1",
        "a run is not the sum of its entries",
    ),
    (
        "run_id",
        "UPDATE netting_run SET applied_count = applied_count - 1 WHERE run_id = $1",
        "the counts are not those of the entries",
    ),
    ("run_id", _REOPENED, "a run is still open"),
    (
        "entry_id",
        "DELETE FROM netting_audit WHERE entry_id = $1",
        "an entry has not the audit rows of its end",
    ),
    (
        "entry_id",
        "UPDATE netting_item SET amount_minor = amount_minor + 1 WHERE entry_id = $1",
        "an item has not the amount of its payout",
    ),
    (
        "payout_id",
        "UPDATE payout SET amount_minor = amount_minor + 1 WHERE payout_id = $1",
        "an entry is not the sum of its payouts",
    ),
    (
        "entry_id",
        "UPDATE netting_item SET entry_id = 'nte_another' WHERE entry_id = $1",
        "an entry and its items disagree",
    ),
    ("entry_id", _LISTED_TWICE, "a payout is in two entries"),
    (
        "payout_id",
        "DELETE FROM netting_item WHERE payout_id = $1",
        "a payout is queued wrongly",
    ),
    (
        "event_key",
        "DELETE FROM ledger_event WHERE idempotency_key = $1",
        "an applied entry has not moved",
    ),
    (
        "event_key",
        "UPDATE ledger_event SET amount_minor = amount_minor + 1 WHERE idempotency_key = $1",
        "money has moved for what is not its entry",
    ),
    ("entry_id", _UNMOVED, "money has moved, and its entry is failed"),
    ("entry_id", _UNDER_WAY, "an entry of an ended run is still applying"),
    ("entry_id", _NEVER_LEFT, "a payout came back that had not left for there"),
    (
        "domain",
        "UPDATE ledger_account SET available_minor = available_minor + 1 WHERE domain = $1",
        "source has 1, ",
    ),
)
"""What each is of (of another entry each), a statement, and what the audit says of its change."""


def _answer_otherwise(load: NettingLoad) -> None:
    answers = next(iter(load.told.values()))
    answers.append(copy.deepcopy(answers[0]))
    answers[-1]["run"]["total_amount_minor"] = "-1"


MISTOLD: Sequence[tuple[Callable[[NettingLoad], object], str]] = (
    (lambda load: load.unanswered.append("/v1/payouts"), "without an answer"),
    (lambda load: load.late.update(load.paid), "a payout is not what was told of it"),
    (lambda load: load.paid.popitem(), "a payout that nobody was told of"),
    (_answer_otherwise, "answered otherwise later"),
)
"""What clients may have seen that the books do not bear out, and what the audit says of it."""


async def test_each_fault_of_netting_is_named() -> None:
    async with open_audited(NETTING, clients=CLIENTS, count=200) as audited:
        entries = await audited.database.fetch(_MOVED)
        assert len(entries) >= len(CHANGES)
        for (name, sql, fault), entry in zip(CHANGES, entries, strict=False):
            await audited.names_change(sql, [entry[name]], fault)
        for tell, fault in MISTOLD:
            await audited.names_telling(tell, fault)
