-- name: run
-- A run.
-- $1 text run id
SELECT * FROM netting_run WHERE run_id = $1;

-- name: entries
-- What a run moves, by entry id.
-- $1 text run id
SELECT * FROM netting_entry WHERE run_id = $1 ORDER BY entry_id;

-- name: runs
-- Runs, the newest first.
-- $1 timestamptz, $2 text instant and run id of the last one before the page (both null: from the
-- start)   $3 integer most rows
SELECT * FROM netting_run
WHERE (created_at, run_id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::text, ''))
ORDER BY created_at DESC, run_id DESC
LIMIT $3;

-- name: runs_in
-- Those of them that are in one status.
-- $1 to $3 as above   $4 text status
SELECT * FROM netting_run
WHERE status = $4
  AND (created_at, run_id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::text, ''))
ORDER BY created_at DESC, run_id DESC
LIMIT $3;

-- name: audit
-- What was done to a run and its entries, oldest first.
-- $1 text run id   $2 bigint number of the last row before the page (0: from the start)
-- $3 integer most rows
SELECT * FROM netting_audit WHERE run_id = $1 AND audit_id > $2
ORDER BY audit_id
LIMIT $3;
