-- name: lock_due
-- Deliveries to a target that are due, longest due first: those whose time has come, and those whose
-- holder let the lease run out. They are this transaction's to lease.
-- $1 text target   $2 integer most rows
SELECT delivery_id FROM loss_delivery
WHERE target = $1 AND due_at <= now()
ORDER BY due_at, delivery_id
LIMIT $2
FOR UPDATE SKIP LOCKED;

-- name: lock_open
-- Those of these deliveries that may be attempted now; with force also before their time. A live
-- lease of somebody else is never taken. They are this transaction's to lease.
-- $1 text[] delivery ids   $2 boolean force
SELECT delivery_id FROM loss_delivery
WHERE delivery_id = ANY ($1::text[]) AND due_at IS NOT NULL
  AND (due_at <= now() OR ($2::boolean AND lease_token IS NULL))
ORDER BY delivery_id
FOR UPDATE SKIP LOCKED;

-- name: lease
-- Lease deliveries that this transaction has locked, with all that is needed to make them; each
-- lease counts as an attempt. One that was leased before may have been sent by whom it was leased to.
-- One that waited for its target to be configured begins its life only now.
-- $1 text[] delivery ids   $2 double precision lease in seconds
WITH leased AS (
    UPDATE loss_delivery AS d
    SET lease_token = nextval('lease_token'),
        due_at = now() + $2::double precision * interval '1 second',
        attempts = d.attempts + 1,
        opened_at = CASE
            WHEN d.state = 'waiting' THEN date_trunc('milliseconds', now()) ELSE d.opened_at
        END,
        in_doubt = d.in_doubt OR d.lease_token IS NOT NULL,
        last_attempted_at = now()
    WHERE d.delivery_id = ANY ($1::text[])
    RETURNING d.*
)
SELECT
    l.*, extract(epoch FROM now() - l.opened_at)::double precision AS age_s,
    l.operation = 'resolve' AND NOT EXISTS (
        SELECT FROM loss_delivery AS a
        WHERE a.loss_event_id = l.loss_event_id AND a.operation = 'apply' AND a.target = l.target
          AND a.state = 'forwarded'
    ) AS may_be_absent,
    (SELECT e FROM loss_event AS e WHERE e.loss_event_id = l.loss_event_id) AS event,
    (SELECT r.reason FROM loss_resolution AS r WHERE r.loss_event_id = l.loss_event_id) AS reason
FROM leased AS l;

-- name: due_ids
-- Deliveries of an operation to any of these targets that are due, longest due first.
-- $1 text[] targets   $2 text operation   $3 integer most rows
SELECT d.delivery_id
FROM unnest($1::text[]) AS t (target)
CROSS JOIN LATERAL (
    SELECT c.delivery_id, c.due_at FROM loss_delivery AS c
    WHERE c.target = t.target AND c.due_at <= now() AND c.operation = $2
    ORDER BY c.due_at, c.delivery_id
    LIMIT $3
) AS d
ORDER BY d.due_at, d.delivery_id
LIMIT $3;

-- name: open_ids
-- Those open deliveries of an event for an operation to any of these targets that may be attempted
-- now, longest due first; with force also before their time. A live lease of somebody else is none.
-- $1 text loss event id   $2 text operation   $3 text[] targets   $4 boolean force
-- $5 integer most rows
SELECT delivery_id FROM loss_delivery
WHERE loss_event_id = $1 AND operation = $2 AND target = ANY ($3::text[]) AND due_at IS NOT NULL
  AND (due_at <= now() OR ($4::boolean AND lease_token IS NULL))
ORDER BY due_at, delivery_id
LIMIT $5;

-- name: lock_events
-- The events of these deliveries, for the rest of the transaction, so that what is counted of them
-- is all there is. Sorted, so that two daemons cannot deadlock.
-- $1 text[] loss event ids
SELECT loss_event_id FROM loss_event
WHERE loss_event_id = ANY ($1::text[])
ORDER BY loss_event_id
FOR NO KEY UPDATE;

-- name: finish
-- Record what attempts came to and give up their leases. A row whose lease is no longer the
-- caller's is left alone and not returned. What was not attempted does not count as an attempt.
-- $1 text[] delivery ids   $2 bigint[] lease tokens   $3 text[] states   $4 double precision[] seconds
-- until the next attempt (null: none)   $5 boolean[] in doubt   $6 boolean[] shared   $7 integer[]
-- HTTP statuses   $8 text[] error codes   $9 text[] error messages   $10 boolean[] attempted
UPDATE loss_delivery AS d
SET state = r.state,
    due_at = now() + r.retry_in_s * interval '1 second',
    lease_token = NULL,
    attempts = d.attempts - (NOT r.attempted)::integer,
    in_doubt = r.in_doubt,
    is_shared = r.is_shared,
    last_http_status = r.http_status,
    last_error_code = r.error_code,
    last_error_message = r.error_message,
    updated_at = date_trunc('milliseconds', now()),
    forwarded_at = CASE WHEN r.state = 'forwarded' THEN date_trunc('milliseconds', now()) END
FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::double precision[], $5::boolean[], $6::boolean[],
    $7::integer[], $8::text[], $9::text[], $10::boolean[]
) AS r (
    delivery_id, lease_token, state, retry_in_s, in_doubt, is_shared, http_status, error_code,
    error_message, attempted
)
WHERE d.delivery_id = ANY ($1::text[])
  AND d.delivery_id = r.delivery_id AND d.lease_token = r.lease_token
RETURNING d.*, r.lease_token AS held_token;

-- name: counts
-- How many deliveries of these events are in which state.
-- $1 text[] loss event ids
SELECT loss_event_id, operation, state, count(*)::integer AS delivery_count
FROM loss_delivery
WHERE loss_event_id = ANY ($1::text[])
GROUP BY loss_event_id, operation, state;

-- name: roll_up_events
-- Store what follows for events from their apply deliveries.
-- $1 text[] loss event ids   $2 text[] statuses   $3 integer[] forwarded   $4 integer[] failed
-- $5 boolean[] whether one was forwarded just now
UPDATE loss_event AS e
SET status = r.status, forwarded_count = r.forwarded_count, failed_count = r.failed_count,
    updated_at = date_trunc('milliseconds', now()),
    last_forwarded_at =
        CASE WHEN r.is_news THEN date_trunc('milliseconds', now()) ELSE e.last_forwarded_at END
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::boolean[])
    AS r (loss_event_id, status, forwarded_count, failed_count, is_news)
WHERE e.loss_event_id = ANY ($1::text[]) AND e.loss_event_id = r.loss_event_id;

-- name: roll_up_resolutions
-- The same for resolutions from the resolve deliveries; they are resolved once.
-- $1 to $5 as of roll_up_events
UPDATE loss_resolution AS e
SET status = r.status, forwarded_count = r.forwarded_count, failed_count = r.failed_count,
    updated_at = date_trunc('milliseconds', now()),
    last_forwarded_at =
        CASE WHEN r.is_news THEN date_trunc('milliseconds', now()) ELSE e.last_forwarded_at END,
    resolved_at = CASE
        WHEN r.status = 'forwarded' THEN coalesce(e.resolved_at, date_trunc('milliseconds', now()))
        ELSE e.resolved_at
    END
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::boolean[])
    AS r (loss_event_id, status, forwarded_count, failed_count, is_news)
WHERE e.loss_event_id = ANY ($1::text[]) AND e.loss_event_id = r.loss_event_id;

-- name: lock_escrow
-- The right to decide whose an escrow's hold is, for the rest of the transaction.
-- $1 text escrow id
INSERT INTO loss_escrow (escrow_id) VALUES ($1)
ON CONFLICT (escrow_id) DO UPDATE SET escrow_id = excluded.escrow_id;

-- name: held
-- A delivery, as long as its lease is the caller's.
-- $1 text delivery id   $2 bigint lease token
SELECT delivery_id FROM loss_delivery WHERE delivery_id = $1 AND lease_token = $2;

-- name: at_escrows
-- The deliveries of all events to these escrows.
-- $1 text[] escrow ids
SELECT * FROM loss_delivery WHERE escrow_id = ANY ($1::text[]);

-- name: ended_of_event
-- Deliveries of an event that may be brought back.
-- $1 text loss event id
SELECT delivery_id, loss_event_id, operation, target FROM loss_delivery
WHERE loss_event_id = $1 AND state IN ('dead', 'not_applicable');

-- name: dead_at_target
-- Dead deliveries to a target.
-- $1 text target   $2 text operation (null: either)   $3 integer most rows
SELECT delivery_id, loss_event_id, operation, target FROM loss_delivery
WHERE state = 'dead' AND target = $1 AND ($2::text IS NULL OR operation = $2)
ORDER BY delivery_id
LIMIT $3;

-- name: by_ids
-- These deliveries.
-- $1 text[] delivery ids
SELECT * FROM loss_delivery WHERE delivery_id = ANY ($1::text[]);

-- name: requeue
-- Bring ended deliveries back, due now and with their whole life again; an apply only while its
-- event is not resolved. Their events are locked by this transaction.
-- $1 text[] delivery ids
UPDATE loss_delivery AS d
SET state = 'pending', attempts = 0, due_at = now(), updated_at = date_trunc('milliseconds', now()),
    opened_at = date_trunc('milliseconds', now())
WHERE d.delivery_id = ANY ($1::text[]) AND d.state IN ('dead', 'not_applicable')
  AND (d.operation = 'resolve' OR (
      SELECT r.loss_event_id FROM loss_resolution AS r WHERE r.loss_event_id = d.loss_event_id
  ) IS NULL)
RETURNING d.*;

-- name: troubles
-- What is open at each of these targets or dead, counted no further than asked, in groups by what is
-- known of it; and how long the longest due is due (seconds).
-- $1 text[] targets   $2 double precision seconds after which an open one is old   $3 integer the
-- most to count a target
SELECT
    t.target, c.state, c.last_http_status, c.last_error_code, c.is_old,
    count(*)::integer AS delivery_count,
    max(extract(epoch FROM now() - c.due_at))::double precision AS due_s
FROM unnest($1::text[]) AS t (target)
CROSS JOIN LATERAL (
    (SELECT d.state, d.last_http_status, d.last_error_code, d.due_at,
            d.opened_at < now() - $2::double precision * interval '1 second' AS is_old
     FROM loss_delivery AS d
     WHERE d.target = t.target AND d.due_at IS NOT NULL
     ORDER BY d.due_at, d.delivery_id
     LIMIT $3)
    UNION ALL
    (SELECT d.state, d.last_http_status, d.last_error_code, d.due_at, false
     FROM loss_delivery AS d
     WHERE d.target = t.target AND d.state = 'dead'
     ORDER BY d.delivery_id
     LIMIT $3)
) AS c
GROUP BY t.target, c.state, c.last_http_status, c.last_error_code, c.is_old;
