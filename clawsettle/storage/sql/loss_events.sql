-- name: known
-- The events that these orders would be, by their keys or by their sources; an order without one has
-- a row of its own all the same.
-- $1 text[] idempotency keys   $2 text[] source services   $3 text[] source event ids, one each
SELECT date_trunc('milliseconds', now()) AS read_at, e.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS i (key, service, event)
LEFT JOIN LATERAL (
    SELECT * FROM loss_event WHERE idempotency_key = i.key
    UNION ALL
    SELECT * FROM loss_event WHERE source_event_id = i.event AND source_service = i.service
) AS e ON true;

-- name: insert_events
-- Keep new events; one whose key or source is taken is left out. Sorted, so that two daemons with
-- the same events cannot deadlock.
-- $1 loss_event[] whole rows
INSERT INTO loss_event SELECT i.* FROM unnest($1::loss_event[]) AS i
ORDER BY i.loss_event_id
ON CONFLICT DO NOTHING
RETURNING loss_event_id;

-- name: insert_deliveries
-- Keep new deliveries.
-- $1 loss_delivery[] whole rows
INSERT INTO loss_delivery SELECT i.* FROM unnest($1::loss_delivery[]) AS i
ON CONFLICT DO NOTHING;

-- name: deliveries_of
-- The deliveries of these events for one operation, in the order of the wire.
-- $1 text[] loss event ids   $2 text operation
SELECT * FROM loss_delivery
WHERE loss_event_id = ANY ($1::text[]) AND operation = $2
ORDER BY created_at, delivery_id;

-- name: lock_event
-- The event, for the rest of the transaction: nothing comes of its deliveries meanwhile.
-- $1 text loss event id
SELECT date_trunc('milliseconds', now()) AS read_at, e.*
FROM loss_event AS e WHERE e.loss_event_id = $1
FOR NO KEY UPDATE;

-- name: lock_applies
-- The apply deliveries of an event, for the rest of the transaction, in the order of the wire: none
-- is leased meanwhile.
-- $1 text loss event id
SELECT * FROM loss_delivery
WHERE loss_event_id = $1 AND operation = 'apply'
ORDER BY created_at, delivery_id
FOR NO KEY UPDATE;

-- name: resolution_of_key
-- The resolution that a key stands for.
-- $1 text idempotency key
SELECT * FROM loss_resolution WHERE idempotency_key = $1;

-- name: resolution_of_event
-- The resolution of an event.
-- $1 text loss event id
SELECT * FROM loss_resolution WHERE loss_event_id = $1;

-- name: insert_resolution
-- Keep a resolution, unless its key is taken.
-- $1 loss_resolution[] one whole row
INSERT INTO loss_resolution SELECT i.* FROM unnest($1::loss_resolution[]) AS i
ON CONFLICT DO NOTHING
RETURNING loss_event_id;

-- name: cancel
-- End deliveries that need not be made any more, and that this transaction has locked.
-- $1 text loss event id   $2 text[] targets
UPDATE loss_delivery
SET state = 'canceled', due_at = NULL, lease_token = NULL,
    in_doubt = in_doubt OR lease_token IS NOT NULL, updated_at = date_trunc('milliseconds', now())
WHERE loss_event_id = $1 AND operation = 'apply' AND target = ANY ($2::text[]);
