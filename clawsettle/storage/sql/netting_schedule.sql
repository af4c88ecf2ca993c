-- name: clock
-- The database's time.
SELECT now() AS read_at;

-- name: run_is_there
-- One row when a run has been prepared.
-- $1 text run id
SELECT 1 FROM netting_run WHERE run_id = $1;

-- name: next_failed
-- The scheduled run whose last attempt failed longest ago.
-- $1 timestamptz instant that it had failed before   $2 timestamptz instant at which the run that it
-- comes after had failed, and $3 text the id of that run (null: the first of all)
-- $4 boolean those, too, of whose entries the outcome is not known
SELECT r.* FROM netting_run AS r
LEFT JOIN LATERAL (
    SELECT status FROM netting_entry WHERE run_id = r.run_id AND status = 'unknown' LIMIT 1
) AS doubt ON true
WHERE r.status = 'failed' AND r.is_scheduled AND r.completed_at < $1
  AND ($2::timestamptz IS NULL OR (r.completed_at, r.run_id) > ($2, $3))
  AND ($4::boolean OR doubt.status IS NULL)
ORDER BY r.completed_at, r.run_id
LIMIT 1;
