-- name: append
-- Append finished deliveries. Best effort by contract, so the commit need not wait for the disk.
-- $1 text[] delivery ids   $2 text[] event types   $3 timestamptz[] received   $4 timestamptz[]
-- processed   $5 integer[] milliseconds   $6 text[] statuses   $7 text[] error codes (null: none)
-- $8 text[] idempotency keys   $9 text[] sources
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true) AS commit_mode
)
INSERT INTO webhook_delivery_log
    (delivery_id, event_type, received_at, processed_at, processing_ms, status, error_code,
     idempotency_key, source)
SELECT i.*
FROM relaxed CROSS JOIN unnest(
    $1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::text[],
    $7::text[], $8::text[], $9::text[]
) AS i
ON CONFLICT (delivery_id) DO NOTHING;

-- name: expire
-- Delete the oldest deliveries past their retention, at most so many at a time.
-- $1 integer retention in days   $2 integer most rows
DELETE FROM webhook_delivery_log
WHERE delivery_id = ANY (ARRAY(
    SELECT delivery_id FROM webhook_delivery_log
    WHERE received_at < now() - $1::integer * interval '1 day'
    ORDER BY received_at
    LIMIT $2
))
RETURNING delivery_id;
