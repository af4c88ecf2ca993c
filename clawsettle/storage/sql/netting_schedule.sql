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
SELECT * FROM netting_run
WHERE status = 'failed' AND is_scheduled AND completed_at < $1
  AND ($2::timestamptz IS NULL OR (completed_at, run_id) > ($2, $3))
ORDER BY completed_at, run_id
LIMIT 1;
