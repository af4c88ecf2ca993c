-- name: run_by_key
-- The run that a key stands for, and the database's time.
-- $1 text idempotency key
SELECT r.*, date_trunc('milliseconds', now()) AS read_at
FROM (SELECT $1::text AS idempotency_key) AS i
LEFT JOIN LATERAL (
    SELECT * FROM netting_run WHERE idempotency_key = i.idempotency_key LIMIT 1
) AS r ON true;

-- name: serialise
-- Keep everybody else who prepares a run from this clearing account waiting until this transaction
-- ends, so that the second of two sees what the first has taken.
-- $1 text source clearing domain
SELECT pg_advisory_xact_lock(hashtextextended('netting:' || $1::text, 0));

-- name: waiting
-- What a run would take, returns first, then the longest waiting.
-- $1 text source and $2 text target clearing domain   $3 text currency   $4 timestamptz cut, which
-- is the last instant taken   $5 integer most items
SELECT payout_id, direction, connect_account_id, currency, amount_minor, at
FROM netting_waiting
WHERE clearing_domain = $1::text AND currency = $3::char(3) AND at <= $4::timestamptz
  AND (direction = 'sweep' OR target_clearing_domain = $2::text)
ORDER BY direction, at, payout_id COLLATE "C"
LIMIT $5;

-- name: take_waiting
-- The same, and nobody else has them until this transaction ends. An item that is just being taken
-- out, because its payout fails, is left out: to wait for it could end in a deadlock.
-- $1 text source and $2 text target clearing domain   $3 text currency   $4 timestamptz cut, which
-- is the last instant taken   $5 integer most items
SELECT payout_id, direction, connect_account_id, currency, amount_minor, at
FROM netting_waiting
WHERE clearing_domain = $1::text AND currency = $3::char(3) AND at <= $4::timestamptz
  AND (direction = 'sweep' OR target_clearing_domain = $2::text)
ORDER BY direction, at, payout_id COLLATE "C"
LIMIT $5
FOR UPDATE SKIP LOCKED;

-- name: insert_run
-- Keep a new run; none when its key is taken.
-- $1 netting_run[] whole rows
INSERT INTO netting_run SELECT * FROM unnest($1::netting_run[])
ON CONFLICT DO NOTHING
RETURNING run_id;

-- name: insert_entries
-- Keep entries of a new run.
-- $1 netting_entry[] whole rows
INSERT INTO netting_entry SELECT * FROM unnest($1::netting_entry[]);

-- name: link
-- Put items that this transaction has taken into their entries. There is nothing to join: whatever the
-- tables held when this was planned, it takes a step an item.
-- $1 text run id   $2 text direction   $3 jsonb entry ids by payout ids
UPDATE netting_item SET run_id = $1, entry_id = $3::jsonb ->> payout_id
WHERE payout_id = ANY (ARRAY(SELECT jsonb_object_keys($3::jsonb))) AND direction = $2;

-- name: ended_run
-- A run that nobody works on any more.
-- $1 text run id
SELECT * FROM netting_run WHERE run_id = $1 AND due_at IS NULL;

-- name: lock_run
-- A run, for the rest of the transaction, and the database's time.
-- $1 text run id
SELECT *, date_trunc('milliseconds', now()) AS read_at FROM netting_run
WHERE run_id = $1
FOR UPDATE;

-- name: lock_due
-- Runs that are due, for the rest of the transaction, longest due first: those that nobody has begun,
-- and those whose holder has let the lease run out.
-- $1 integer most rows
SELECT *, date_trunc('milliseconds', now()) AS read_at FROM netting_run
WHERE due_at IS NOT NULL AND due_at <= now()
ORDER BY due_at
LIMIT $1
FOR UPDATE SKIP LOCKED;

-- name: hold
-- Renew a lease, and with it take the run for the rest of the transaction; none when it is lost.
-- $1 text run id   $2 bigint lease token   $3 double precision lease in seconds
UPDATE netting_run SET due_at = now() + $3::double precision * interval '1 second'
WHERE run_id = $1 AND lease_token = $2
RETURNING *, date_trunc('milliseconds', now()) AS read_at;

-- name: let_go
-- Give up a lease: the run may be claimed at once.
-- $1 text run id   $2 bigint lease token
UPDATE netting_run SET due_at = now(), lease_token = NULL WHERE run_id = $1 AND lease_token = $2;

-- name: store_run
-- Store a run that this transaction has taken.
-- $1 text run id   $2 netting_run[] whole row
UPDATE netting_run AS r
SET status = i.status, applied_count = i.applied_count, failed_count = i.failed_count,
    updated_at = i.updated_at, last_error_code = i.last_error_code,
    last_error_message = i.last_error_message, report_hash = i.report_hash,
    completed_at = i.completed_at, due_at = i.due_at, lease_token = i.lease_token
FROM unnest($2::netting_run[]) AS i
WHERE r.run_id = $1;

-- name: entries_in
-- The entries of a run that have one of these statuses.
-- $1 text run id   $2 text[] statuses   $3 text entry id that they come after   $4 integer most rows
SELECT * FROM netting_entry
WHERE run_id = $1 AND status = ANY ($2::text[]) AND entry_id > $3
ORDER BY entry_id
LIMIT $4;

-- name: in_doubt
-- The entries of a run that are open, and may have moved without that being known.
-- $1 text run id   $2 text entry id that they come after   $3 integer most rows
SELECT * FROM netting_entry
WHERE run_id = $1 AND status IN ('pending', 'unknown') AND doubt_at IS NOT NULL AND entry_id > $2
ORDER BY entry_id
LIMIT $3;

-- name: next_entries
-- Entries that wait to be moved, or were claimed by a try of this commit whose answer was lost, and
-- what they are made of: the sum of their items and their number, the sum of the payouts themselves,
-- whether the payouts are such as the entry has them, and whether they are still what they were when
-- they were taken.
-- $1 text run id   $2 boolean those that bring money back (false: the others)
-- $3 text entry id that they come after   $4 integer most rows
SELECT e.*, c.*
FROM netting_entry AS e
CROSS JOIN LATERAL (
    SELECT source_clearing_domain FROM netting_run WHERE run_id = $1 LIMIT 1
) AS r
CROSS JOIN LATERAL (
    SELECT
        count(*) AS item_count,
        sum(i.amount_minor)::bigint AS items_minor,
        sum(CASE i.direction WHEN 'sweep' THEN p.amount_minor ELSE -p.amount_minor END)::bigint
            AS payouts_minor,
        bool_and(
            p.amount_minor = abs(i.amount_minor)
            AND p.connect_account_id = e.connect_account_id AND p.currency = e.currency
            AND p.clearing_domain = r.source_clearing_domain
        ) AS belong_to_it,
        bool_and(
            CASE i.direction
                WHEN 'sweep' THEN p.status = 'paid'
                ELSE p.status IN ('returning', 'returned')
            END
        ) AS are_unchanged
    FROM netting_item AS i
    CROSS JOIN LATERAL (SELECT * FROM payout WHERE payout_id = i.payout_id LIMIT 1) AS p
    WHERE i.payout_id = ANY (e.payout_ids || e.compensated_payout_ids)
      AND i.entry_id = e.entry_id
) AS c
WHERE e.run_id = $1 AND e.status IN ('pending', 'applying')
  AND (e.amount_minor < 0) = $2::boolean AND e.entry_id > $3
ORDER BY e.entry_id
LIMIT $4;

-- name: store_entries
-- Store entries of a run that this transaction has taken, with the audit rows of those that end an
-- attempt; one that is stored already is left as it is.
-- $1 text run id   $2 text[] entry ids   $3 text[] statuses from and $4 text[] to   $5 integer[]
-- attempts   $6 timestamptz[] instants of doubt   $7 text[] ledger event ids   $8 text[] error codes
-- and $9 text[] messages   $10 timestamptz[] instants of application and $11 of silence   $12 text[]
-- event types (null: no audit row) and $13 text[] details of the audit rows   $14 timestamptz now
WITH told AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::text[], $3::text[], $4::text[], $5::integer[], $6::timestamptz[], $7::text[],
        $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[]
    ) AS i (entry_id, from_status, status, attempts, doubt_at, ledger_event_id, last_error_code,
            last_error_message, applied_at, unanswered_at, event_type, details)
), stored AS (
    UPDATE netting_entry AS e
    SET status = i.status, attempts = i.attempts, doubt_at = i.doubt_at,
        ledger_event_id = i.ledger_event_id, last_error_code = i.last_error_code,
        last_error_message = i.last_error_message, applied_at = i.applied_at,
        unanswered_at = i.unanswered_at, updated_at = $14
    FROM told AS i
    WHERE e.run_id = $1 AND e.entry_id = ANY ($2::text[])
      AND e.entry_id = i.entry_id AND e.status = i.from_status AND e.status <> i.status
    RETURNING e.entry_id
)
INSERT INTO netting_audit (run_id, entry_id, event_type, details, at)
SELECT $1, i.entry_id, i.event_type, i.details, $14
FROM told AS i JOIN stored USING (entry_id)
WHERE i.event_type IS NOT NULL
ORDER BY i.entry_id;

-- name: keep_audit
-- Keep an audit row of a run.
-- $1 text run id   $2 text event type   $3 text details   $4 timestamptz instant
INSERT INTO netting_audit (run_id, event_type, details, at) VALUES ($1, $2, $3, $4);

-- name: lock_items
-- Take the items of entries for the rest of the transaction: what becomes of their payouts waits.
-- $1 text[] payout ids of the entries   $2 text[] entry ids
SELECT 1 FROM netting_item
WHERE payout_id = ANY ($1::text[]) AND entry_id = ANY ($2::text[])
ORDER BY payout_id, direction
FOR UPDATE;

-- name: free_items
-- Let the items of entries that have not moved wait for another run. Of a payout that is not paid
-- any more nothing is left: neither the sweep, nor the return that waits for it.
-- $1 text[] payout ids of the entries   $2 text[] entry ids
WITH items AS MATERIALIZED (
    SELECT i.payout_id, i.direction = 'return' OR p.status = 'paid' AS waits
    FROM netting_item AS i
    CROSS JOIN LATERAL (SELECT status FROM payout WHERE payout_id = i.payout_id LIMIT 1) AS p
    WHERE i.payout_id = ANY ($1::text[]) AND i.entry_id = ANY ($2::text[])
), gone AS (
    DELETE FROM netting_item
    WHERE payout_id = ANY (ARRAY(SELECT payout_id FROM items WHERE NOT waits))
)
UPDATE netting_item SET run_id = NULL, entry_id = NULL
WHERE payout_id = ANY (ARRAY(SELECT payout_id FROM items WHERE waits))
  AND entry_id = ANY ($2::text[]);

-- name: tally
-- How many entries of a run have each status.
-- $1 text run id
SELECT status, count(*) AS entry_count FROM netting_entry WHERE run_id = $1 GROUP BY status;

-- name: keep_report
-- Keep the report of a run that has ended, as its next version.
-- $1 text run id   $2 text status   $3 text SHA-256 of the content   $4 bytea content as zlib
-- $5 timestamptz when the run ended
INSERT INTO netting_report (run_id, version, status, artifact_sha256, content, completed_at)
SELECT $1, 1 + count(*), $2, $3, $4, $5 FROM netting_report WHERE run_id = $1;
