-- name: clock
-- The database's time, to the millisecond.
SELECT date_trunc('milliseconds', now()) AS read_at;

-- name: ids_of_day
-- The payouts to which something happened on a day: created, submitted, paid or failed.
-- The order of the first part is what has the planner enter by the index on that instant.
-- $1 timestamptz first and $2 timestamptz last instant of the day   $3 timestamptz cut
SELECT DISTINCT payout_id
FROM (
    (SELECT payout_id FROM payout WHERE created_at BETWEEN $1 AND $2 AND created_at < $3
     ORDER BY created_at, payout_id)
    UNION ALL
    SELECT payout_id FROM payout WHERE submitted_at BETWEEN $1 AND $2 AND submitted_at < $3
    UNION ALL
    SELECT payout_id FROM payout WHERE finalized_at BETWEEN $1 AND $2 AND finalized_at < $3
    UNION ALL
    SELECT payout_id FROM payout WHERE failed_at BETWEEN $1 AND $2 AND failed_at < $3
) AS happened
ORDER BY payout_id;

-- name: span
-- When the first of these payouts was created, and the last one submitted before the cut.
-- $1 text[] payout ids   $2 timestamptz cut
SELECT
    min(created_at) AS created_at,
    max(submitted_at) FILTER (WHERE submitted_at < $2) AS submitted_at
FROM payout
WHERE payout_id = ANY ($1::text[]);

-- name: as_of
-- Payouts, with the status that each had at a cut and since when; those that were not there yet are
-- left out. The + 0 keeps the planner from walking everybody's trail for one payout's last entry.
-- $1 text[] payout ids   $2 timestamptz cut
SELECT p.*, stood.to_status AS status_then, stood.at AS status_at_then
FROM payout AS p
CROSS JOIN LATERAL (
    SELECT a.to_status, a.at FROM payout_audit AS a
    WHERE a.payout_id = p.payout_id AND a.at < $2 AND a.to_status IS NOT NULL
    ORDER BY a.audit_id + 0 DESC
    LIMIT 1
) AS stood
WHERE p.payout_id = ANY ($1::text[])
ORDER BY p.payout_id;

-- name: connect_accounts
-- The accounts at the provider that payouts can have gone to.
SELECT connect_account_id FROM connect_account
WHERE connect_account_id IS NOT NULL
ORDER BY connect_account_id;
