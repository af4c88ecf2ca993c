"""What must hold of loss events whatever has happened, in SQL over everything that is stored.

The embedded ledger's own tables are read, too: a hold is there when they say so.
"""

from clawsettle.storage.bridge import Database

ALWAYS = """
WITH counted AS (
    SELECT loss_event_id, operation,
           count(*) FILTER (WHERE state = 'forwarded') AS forwarded,
           count(*) FILTER (WHERE state IN ('failed', 'dead')) AS failed,
           count(*) FILTER (WHERE state IN ('failed', 'dead', 'canceled')) AS missed,
           count(*) FILTER (WHERE state IN ('pending', 'waiting')) AS untried,
           count(*) AS target_count
    FROM loss_delivery GROUP BY loss_event_id, operation
), parent AS (
    SELECT loss_event_id, 'apply' AS operation, status, target_count, forwarded_count, failed_count
    FROM loss_event
    UNION ALL
    SELECT loss_event_id, 'resolve', status, target_count, forwarded_count, failed_count
    FROM loss_resolution
)
SELECT 'the roll-up is not that of the deliveries: ' || p.operation || ' ' || p.loss_event_id
       AS broken
FROM parent AS p LEFT JOIN counted AS c USING (loss_event_id, operation)
WHERE (p.target_count, p.forwarded_count, p.failed_count, p.status) <> (
    coalesce(c.target_count, 0), coalesce(c.forwarded, 0), coalesce(c.failed, 0),
    CASE
        WHEN coalesce(c.missed, 0) + coalesce(c.untried, 0) = 0 THEN 'forwarded'
        WHEN c.forwarded > 0 THEN 'partially_forwarded'
        WHEN c.missed > 0 AND c.untried > 0 THEN 'processing'
        WHEN c.missed > 0 THEN 'failed'
        ELSE 'recorded'
    END
)
UNION ALL
SELECT 'a delivery without its parent: ' || d.delivery_id
FROM loss_delivery AS d LEFT JOIN parent AS p USING (loss_event_id, operation)
WHERE p.loss_event_id IS NULL
UNION ALL
SELECT 'taken back from whom it was not told: ' || r.delivery_id
FROM loss_delivery AS r LEFT JOIN loss_delivery AS a
  ON (a.loss_event_id, a.target, a.operation) = (r.loss_event_id, r.target, 'apply')
WHERE r.operation = 'resolve' AND a.state IS DISTINCT FROM 'forwarded'
  AND a.in_doubt IS NOT TRUE
UNION ALL
SELECT 'told, and not taken back: ' || a.delivery_id
FROM loss_delivery AS a JOIN loss_resolution AS s USING (loss_event_id)
LEFT JOIN loss_delivery AS r
  ON (r.loss_event_id, r.target, r.operation) = (a.loss_event_id, a.target, 'resolve')
WHERE a.operation = 'apply' AND a.state = 'forwarded' AND a.target <> 'clawinsure'
  AND r.delivery_id IS NULL
UNION ALL
SELECT 'told of an event that is resolved: ' || a.delivery_id
FROM loss_delivery AS a JOIN loss_resolution AS s USING (loss_event_id)
WHERE a.operation = 'apply' AND a.due_at IS NOT NULL
"""
AT_REST = """
SELECT 'a delivery is still open: ' || delivery_id || ' ' || state AS broken
FROM loss_delivery WHERE due_at IS NOT NULL
"""
IN_THE_LEDGER_AT_REST = """
WITH told AS (
    SELECT e.loss_event_id, e.amount_minor, a.in_doubt, a.state AS applied, r.state AS released
    FROM loss_delivery AS a JOIN loss_event AS e USING (loss_event_id)
    LEFT JOIN loss_delivery AS r
      ON (r.loss_event_id, r.target, r.operation) = (a.loss_event_id, a.target, 'resolve')
    WHERE a.operation = 'apply' AND a.target = 'ledger'
)
SELECT 'the ledger was told, and has no such hold: ' || t.loss_event_id AS broken
FROM told AS t LEFT JOIN ledger_risk_hold AS h ON h.source_loss_event_id = t.loss_event_id
WHERE t.applied = 'forwarded' AND h.amount_minor IS DISTINCT FROM t.amount_minor
UNION ALL
SELECT 'the ledger holds for what it was not told of: ' || h.source_loss_event_id
FROM ledger_risk_hold AS h LEFT JOIN told AS t ON t.loss_event_id = h.source_loss_event_id
WHERE t.loss_event_id IS NULL
   OR (t.applied <> 'forwarded' AND NOT t.in_doubt AND h.released_at IS NULL)
UNION ALL
SELECT 'a hold is ' || CASE WHEN h.released_at IS NULL THEN 'there' ELSE 'released' END
       || ', and its release is ' || coalesce(t.released, 'not asked for') || ': '
       || t.loss_event_id
FROM told AS t JOIN ledger_risk_hold AS h ON h.source_loss_event_id = t.loss_event_id
WHERE (h.released_at IS NOT NULL) <> (coalesce(t.released, '') = 'forwarded')
"""


async def loss_faults(
    database: Database, *, at_rest: bool = True, ledger_is_here: bool = True
) -> list[str]:
    """What is broken; ``at_rest`` when nothing is under way and nothing waits any more.

    Without ``ledger_is_here`` the ledger is elsewhere, and is not looked at.
    """
    statements = [ALWAYS] + [AT_REST] * at_rest
    statements += [IN_THE_LEDGER_AT_REST] * (at_rest and ledger_is_here)
    return [row["broken"] for sql in statements for row in await database.fetch(sql)]
