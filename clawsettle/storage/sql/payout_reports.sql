-- name: clock
-- The database's time, to the millisecond.
SELECT date_trunc('milliseconds', now()) AS read_at;

-- name: day
-- The payouts created on a day, oldest first, as texts. With a cut: those created before it, with
-- what they had then. Each instant and what came with it is set once: a payout was submitted with
-- its provider's id, paid with its finalize event, failed with its rollback event, and it left
-- 'initiated' with its lock event. The status of then is the last one that its audit trail has; the
-- + 0 keeps the planner from walking everybody's trail for it.
-- Ids are ASCII of one form, so that every collation sorts them alike.
-- $1 timestamptz first and $2 timestamptz last instant of the day   $3 timestamptz cut (null: none)
SELECT
    p.payout_id,
    p.account_id,
    CASE WHEN $3::timestamptz IS NULL OR p.submitted_at < $3 THEN p.external_payout_id END,
    p.amount_minor::text,
    p.currency::text,
    s.status,
    to_char(p.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    CASE WHEN $3::timestamptz IS NULL OR p.submitted_at < $3 THEN
        to_char(p.submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    END,
    CASE WHEN $3::timestamptz IS NULL OR p.finalized_at < $3 THEN
        to_char(p.finalized_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    END,
    CASE WHEN $3::timestamptz IS NULL OR p.failed_at < $3 THEN
        to_char(p.failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    END,
    CASE WHEN $3::timestamptz IS NULL OR s.status <> 'initiated' THEN p.lock_event_id END,
    CASE WHEN $3::timestamptz IS NULL OR p.finalized_at < $3 THEN p.finalize_event_id END,
    CASE WHEN $3::timestamptz IS NULL OR p.failed_at < $3 THEN p.rollback_event_id END
FROM payout AS p
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN $3::timestamptz IS NULL OR p.status_at < $3 THEN p.status
        ELSE (
            SELECT a.to_status FROM payout_audit AS a
            WHERE a.payout_id = p.payout_id AND a.at < $3 AND a.to_status IS NOT NULL
            ORDER BY a.audit_id + 0 DESC
            LIMIT 1
        )
    END AS status
) AS s
WHERE p.created_at BETWEEN $1 AND $2 AND ($3::timestamptz IS NULL OR p.created_at < $3)
ORDER BY p.created_at, p.payout_id;
