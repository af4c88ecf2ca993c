"""What must hold of netting whatever has happened, in SQL over everything that is stored.

The embedded ledger's own tables are read, too: an entry has moved when the journal says so.
"""

from clawsettle.storage.bridge import Database

ALWAYS = """
WITH entry AS (
    SELECT e.*, r.source_clearing_domain AS source, r.target_clearing_domain AS target
    FROM netting_entry AS e JOIN netting_run AS r USING (run_id)
), listed AS (
    SELECT run_id, entry_id, status, target, 'sweep' AS direction, unnest(payout_ids) AS payout_id
    FROM entry
    UNION ALL
    SELECT run_id, entry_id, status, target, 'return', unnest(compensated_payout_ids) FROM entry
)
SELECT 'a payout is in two entries: ' || direction || ' ' || payout_id AS broken FROM listed
WHERE status <> 'released' GROUP BY direction, payout_id HAVING count(*) > 1
UNION ALL
SELECT 'an entry and its items disagree: ' || coalesce(l.entry_id, i.entry_id)
FROM (SELECT * FROM listed WHERE status <> 'released') AS l
FULL JOIN (SELECT * FROM netting_item WHERE entry_id IS NOT NULL) AS i
  ON (i.run_id, i.entry_id, i.direction, i.payout_id)
   = (l.run_id, l.entry_id, l.direction, l.payout_id)
WHERE l.payout_id IS NULL OR i.payout_id IS NULL
UNION ALL
SELECT 'an entry is not the sum of its payouts: ' || e.entry_id FROM entry AS e
WHERE e.status <> 'released' AND e.amount_minor <> (
    SELECT sum(CASE l.direction WHEN 'sweep' THEN p.amount_minor ELSE -p.amount_minor END)
    FROM listed AS l JOIN payout AS p USING (payout_id)
    WHERE (l.run_id, l.entry_id) = (e.run_id, e.entry_id)
)
UNION ALL
SELECT 'an item has not the amount of its payout: ' || i.payout_id
FROM netting_item AS i JOIN payout AS p USING (payout_id)
WHERE i.amount_minor <> CASE i.direction WHEN 'sweep' THEN p.amount_minor ELSE -p.amount_minor END
UNION ALL
SELECT 'a run is not the sum of its entries: ' || r.run_id FROM netting_run AS r
WHERE (r.total_amount_minor, r.candidate_count) <> (
    SELECT coalesce(sum(amount_minor), 0),
           coalesce(sum(cardinality(payout_ids) + cardinality(compensated_payout_ids)), 0)
    FROM netting_entry AS e WHERE e.run_id = r.run_id
)
UNION ALL
SELECT 'a payout came back that had not left for there: ' || l.payout_id FROM listed AS l
WHERE l.direction = 'return' AND l.status <> 'released' AND NOT EXISTS (
    SELECT FROM listed AS s
    WHERE (s.payout_id, s.direction, s.status, s.target)
        = (l.payout_id, 'sweep', 'applied', l.target)
)
UNION ALL
SELECT 'a payout is queued wrongly: ' || p.payout_id FROM payout AS p
LEFT JOIN netting_item AS s ON s.payout_id = p.payout_id AND s.direction = 'sweep'
LEFT JOIN netting_item AS b ON b.payout_id = p.payout_id AND b.direction = 'return'
WHERE CASE
    WHEN p.status = 'paid' THEN s.payout_id IS NULL OR b.payout_id IS NOT NULL
    ELSE (b.payout_id IS NULL) <> (s.payout_id IS NULL)
         OR (s.payout_id IS NOT NULL AND s.entry_id IS NULL)
END
UNION ALL
SELECT 'a report is not that of its run: ' || r.run_id
FROM netting_run AS r LEFT JOIN LATERAL (
    SELECT * FROM netting_report AS v WHERE v.run_id = r.run_id ORDER BY version DESC LIMIT 1
) AS v ON true
WHERE r.completed_at IS NOT NULL
  AND (r.report_hash, r.status) IS DISTINCT FROM (v.artifact_sha256, v.status)
"""
AT_REST = """
SELECT 'a run is still open: ' || run_id AS broken FROM netting_run
WHERE status IN ('created', 'running', 'releasing') OR due_at IS NOT NULL
UNION ALL
SELECT 'an entry of an ended run is still ' || e.status || ': ' || e.entry_id
FROM netting_entry AS e WHERE e.status IN ('pending', 'applying')
UNION ALL
SELECT 'an entry of a run that is ' || r.status || ' is ' || e.status || ': ' || e.entry_id
FROM netting_entry AS e JOIN netting_run AS r USING (run_id)
WHERE r.status <> 'failed' AND e.status NOT IN ('applied', 'released')
UNION ALL
SELECT 'the counts are not those of the entries: ' || r.run_id
FROM netting_run AS r CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status = 'applied') AS applied_count,
           count(*) FILTER (WHERE status IN ('unknown', 'failed')) AS failed_count
    FROM netting_entry AS e WHERE e.run_id = r.run_id
) AS c
WHERE (r.applied_count, r.failed_count) <> (c.applied_count, c.failed_count)
UNION ALL
SELECT 'an entry has not the audit rows of its end: ' || e.entry_id
FROM netting_entry AS e CROSS JOIN LATERAL (
    SELECT count(*) AS row_count FROM netting_audit AS a
    WHERE (a.run_id, a.entry_id) = (e.run_id, e.entry_id)
      AND a.event_type = 'netting.entry.' || e.status
) AS a
WHERE a.row_count = 0 OR (e.status IN ('applied', 'released') AND a.row_count > 1)
UNION ALL
SELECT 'the audit trail does not end as the run: ' || r.run_id
FROM netting_run AS r LEFT JOIN LATERAL (
    SELECT event_type FROM netting_audit AS a
    WHERE a.run_id = r.run_id AND a.entry_id IS NULL ORDER BY audit_id DESC LIMIT 1
) AS a ON true
WHERE a.event_type IS DISTINCT FROM 'netting.run.' || r.status
"""
IN_THE_LEDGER = """
WITH entry AS (
    SELECT e.*, r.source_clearing_domain AS source, r.target_clearing_domain AS target
    FROM netting_entry AS e JOIN netting_run AS r USING (run_id)
), moved AS (
    SELECT substr(l.idempotency_key, 15) AS entry_id, l.event_id, l.amount_minor,
           f.domain AS source, t.domain AS target
    FROM ledger_event AS l
    JOIN ledger_account AS f ON f.account_id = l.account_id
    JOIN ledger_account AS t ON t.account_id = l.to_account_id
    WHERE l.idempotency_key LIKE 'netting:entry:%'
)
SELECT 'money has moved for what is not its entry: ' || m.entry_id AS broken
FROM moved AS m LEFT JOIN entry AS e ON e.entry_id = m.entry_id
WHERE e.entry_id IS NULL OR abs(e.amount_minor) <> m.amount_minor OR e.status = 'released'
   OR (m.source, m.target) <> (
       CASE WHEN e.amount_minor > 0 THEN e.source ELSE e.target END,
       CASE WHEN e.amount_minor > 0 THEN e.target ELSE e.source END
   )
UNION ALL
SELECT 'money has moved twice: ' || entry_id FROM moved GROUP BY entry_id HAVING count(*) > 1
UNION ALL
SELECT 'an applied entry has not moved: ' || e.entry_id
FROM entry AS e LEFT JOIN moved AS m USING (entry_id)
WHERE e.status = 'applied' AND e.amount_minor <> 0
  AND m.event_id IS DISTINCT FROM e.ledger_event_id
"""
IN_THE_LEDGER_AT_REST = """
SELECT 'money has moved, and its entry is ' || e.status || ': ' || e.entry_id AS broken
FROM netting_entry AS e JOIN ledger_event AS l
  ON l.idempotency_key = 'netting:entry:' || e.entry_id
WHERE e.status <> 'applied'
"""
EMPTY = """
DELETE FROM netting_item; DELETE FROM netting_entry; DELETE FROM netting_audit;
DELETE FROM netting_report; DELETE FROM netting_run; DELETE FROM payout_audit; DELETE FROM payout
"""
"""Makes netting and its payouts what they were when they were installed."""
END = "UPDATE netting_run SET due_at = now() WHERE due_at IS NOT NULL"


async def netting_faults(
    database: Database, *, at_rest: bool = True, ledger_is_here: bool = True
) -> list[str]:
    """What is broken; ``at_rest`` when every lease is over and every run was taken up.

    Without ``ledger_is_here`` the ledger is elsewhere, and is not looked at.
    """
    statements = [ALWAYS] + [AT_REST] * at_rest
    if ledger_is_here:
        statements += [IN_THE_LEDGER] + [IN_THE_LEDGER_AT_REST] * at_rest
    return [row["broken"] for sql in statements for row in await database.fetch(sql)]


async def end_netting_leases(database: Database) -> None:
    """Let the time pass that runs are leased for."""
    await database.fetch(END)


async def age_doubts(database: Database) -> None:
    """Let the minutes pass in which a request that was never answered may still arrive."""
    await database.fetch(
        "UPDATE netting_entry SET doubt_at = doubt_at - interval '10 minutes',"
        " unanswered_at = unanswered_at - interval '10 minutes' WHERE doubt_at IS NOT NULL"
    )
