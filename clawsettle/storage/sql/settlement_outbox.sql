-- name: lock_refund_totals
-- Take the rows of these charges for the rest of the transaction, creating those that are missing.
-- Sorted, so that two daemons with the same charges cannot deadlock.
-- $1 text[] charge ids, ascending   $2 text[] their payment intent ids (null: not said)
INSERT INTO charge_refund AS c (charge_id, payment_intent_id)
SELECT i.charge_id, i.payment_intent_id
FROM unnest($1::text[], $2::text[]) AS i (charge_id, payment_intent_id)
ORDER BY i.charge_id
ON CONFLICT (charge_id) DO UPDATE
    SET payment_intent_id = coalesce(c.payment_intent_id, excluded.payment_intent_id)
RETURNING c.charge_id, c.total_minor;

-- name: set_refund_totals
-- Raise the recorded totals of charges whose rows this transaction holds.
-- $1 text[] charge ids   $2 bigint[] totals, minor units
UPDATE charge_refund AS c
SET total_minor = i.total_minor, updated_at = now()
FROM unnest($1::text[], $2::bigint[]) AS i (charge_id, total_minor)
WHERE c.charge_id = ANY ($1::text[])
  AND c.charge_id = i.charge_id AND c.total_minor < i.total_minor;

-- name: known_events
-- Which of these events are in the inbox already, and not as quarantined.
-- $1 text[] event ids
SELECT event_id FROM stripe_event
WHERE event_id = ANY ($1::text[]) AND disposition <> 'quarantined';

-- name: record_events
-- Insert events and, for those that forward, their outbox rows, in one statement and one commit.
-- A row is leased to the caller from its birth, or due at once where it has no lease token.
-- Returns the events that are new; the others were recorded by somebody before. A quarantined one
-- that is quarantined no longer counts as new.
-- $1 text[] event ids, ascending   $2 text[] types   $3 boolean[] livemode   $4 bytea[] SHA-256 of
-- the raw bodies   $5 text[] dispositions   $6 text[] payloads (null: no outbox row)
-- $7 text[] bodies to keep (null: none)   $8 bigint[] lease tokens (null: due at once)
-- $9 double precision lease in seconds
WITH incoming AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::boolean[], $4::bytea[], $5::text[], $6::text[], $7::text[],
        $8::bigint[]
    ) AS i (event_id, event_type, livemode, body_sha256, disposition, payload, body, lease_token)
), recorded AS (
    INSERT INTO stripe_event AS e
        (event_id, event_type, livemode, body_sha256, disposition, quarantined_body)
    SELECT event_id, event_type, livemode, body_sha256, disposition, body FROM incoming
    ORDER BY event_id
    ON CONFLICT (event_id) DO UPDATE
        SET event_type = excluded.event_type, livemode = excluded.livemode,
            body_sha256 = excluded.body_sha256, disposition = excluded.disposition,
            quarantined_body = NULL
        WHERE e.disposition = 'quarantined'
          AND excluded.disposition IN ('forwarded', 'superseded', 'heeded')
    RETURNING e.event_id
), queued AS (
    INSERT INTO settlement_outbox
        (event_id, payload, attempts, due_at, lease_token, last_attempted_at)
    SELECT
        i.event_id, i.payload, (i.lease_token IS NOT NULL)::integer,
        now() + CASE WHEN i.lease_token IS NULL THEN 0 ELSE $9::double precision END
            * interval '1 second',
        i.lease_token,
        CASE WHEN i.lease_token IS NOT NULL THEN now() END
    FROM incoming AS i JOIN recorded USING (event_id)
    WHERE i.payload IS NOT NULL
    RETURNING event_id, payload, state, attempts, due_at, lease_token
)
SELECT
    r.event_id, q.payload, q.state, q.attempts, 0::double precision AS age_s, q.due_at, q.lease_token
FROM recorded AS r LEFT JOIN queued AS q USING (event_id);

-- name: recall
-- The rows that this very recording made in a try whose answer was lost: they have its tokens.
-- $1 text[] event ids   $2 bigint[] the lease tokens they were to get
SELECT
    o.event_id, o.payload, o.state, o.attempts, 0::double precision AS age_s, o.due_at,
    o.lease_token,
    (SELECT f.payout_id FROM payout_event AS f
     WHERE f.event_id = o.event_id AND f.state = 'applied') AS payout_id
FROM settlement_outbox AS o
JOIN unnest($1::text[], $2::bigint[]) AS i (event_id, lease_token) USING (event_id, lease_token)
WHERE o.event_id = ANY ($1::text[]);

-- name: look
-- What is known of these events, with their outbox rows where they have one.
-- $1 text[] event ids
SELECT
    e.event_id, e.event_type, e.body_sha256, e.disposition, o.state, o.attempts, o.due_at,
    o.due_at <= now() AS due, o.lease_token IS NOT NULL AS leased,
    o.opened_at > o.created_at AS requeued, o.ledger_status, o.settlement_id
FROM stripe_event AS e
LEFT JOIN LATERAL (
    SELECT * FROM settlement_outbox WHERE event_id = e.event_id LIMIT 1
) AS o ON true
WHERE e.event_id = ANY ($1::text[]);

-- name: claim
-- Lease these rows to the caller if they may be attempted now; each claim counts as an attempt.
-- A live lease of somebody else is never taken. With force, waiting rows are taken before their
-- time.
-- $1 text[] event ids   $2 boolean force   $3 double precision lease in seconds
WITH claimable AS MATERIALIZED (
    SELECT c.event_id, c.lease_token IS NOT NULL AS rescued
    FROM settlement_outbox AS c
    WHERE c.event_id = ANY ($1::text[])
      AND (
          c.due_at <= now()
          OR ($2::boolean AND c.state IN ('pending', 'failed') AND c.lease_token IS NULL)
      )
    ORDER BY c.event_id
    FOR UPDATE SKIP LOCKED
)
UPDATE settlement_outbox AS o
SET lease_token = nextval('lease_token'),
    due_at = now() + $3::double precision * interval '1 second',
    attempts = o.attempts + 1,
    last_attempted_at = now(),
    updated_at = now()
WHERE o.event_id = ANY (ARRAY(SELECT event_id FROM claimable))
RETURNING
    o.event_id, o.payload, o.state, o.attempts,
    extract(epoch FROM now() - o.opened_at)::double precision AS age_s, o.due_at, o.lease_token,
    o.event_id = ANY (ARRAY(SELECT event_id FROM claimable WHERE rescued)) AS rescued,
    (SELECT f.payout_id FROM payout_event AS f
     WHERE f.event_id = o.event_id AND f.state = 'applied') AS payout_id;

-- name: claim_due
-- Lease the rows that are due, longest due first: waiting ones whose time has come, and those whose
-- holder let the lease run out (rescued). With force, waiting rows not yet due as well.
-- $1 integer most rows   $2 boolean force   $3 double precision lease in seconds
WITH due AS MATERIALIZED (
    SELECT c.event_id, c.lease_token IS NOT NULL AS rescued
    FROM settlement_outbox AS c
    WHERE c.due_at IS NOT NULL
      AND (c.due_at <= now() OR ($2::boolean AND c.lease_token IS NULL))
    ORDER BY c.due_at, c.event_id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE settlement_outbox AS o
SET lease_token = nextval('lease_token'),
    due_at = now() + $3::double precision * interval '1 second',
    attempts = o.attempts + 1,
    last_attempted_at = now(),
    updated_at = now()
WHERE o.event_id = ANY (ARRAY(SELECT event_id FROM due))
RETURNING
    o.event_id, o.payload, o.state, o.attempts,
    extract(epoch FROM now() - o.opened_at)::double precision AS age_s, o.due_at, o.lease_token,
    o.event_id = ANY (ARRAY(SELECT event_id FROM due WHERE rescued)) AS rescued,
    (SELECT f.payout_id FROM payout_event AS f
     WHERE f.event_id = o.event_id AND f.state = 'applied') AS payout_id;

-- name: finish
-- Record what attempts came to and give up their leases. A row whose lease is no longer the
-- caller's is left alone and not returned: somebody else owns it now. The commit need not wait for
-- the disk: if it is lost the lease runs out, and the same attempt is made again under its key.
-- $1 text[] event ids   $2 bigint[] lease tokens   $3 text[] states   $4 double precision[] seconds
-- until the next attempt (null: none)   $5 integer[] ledger statuses   $6 text[] settlement ids
-- $7 text[] error codes   $8 text[] error messages   $9 text[] blames
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true) AS commit_mode
)
UPDATE settlement_outbox AS o
SET state = r.state,
    due_at = now() + r.retry_in_s * interval '1 second',
    lease_token = NULL,
    ledger_status = r.ledger_status,
    settlement_id = r.settlement_id,
    last_error_code = r.error_code,
    last_error_message = r.error_message,
    blame = r.blame,
    forwarded_at = CASE WHEN r.state = 'forwarded' THEN now() END,
    updated_at = now()
FROM relaxed CROSS JOIN unnest(
    $1::text[], $2::bigint[], $3::text[], $4::double precision[], $5::integer[], $6::text[],
    $7::text[], $8::text[], $9::text[]
) AS r (
    event_id, lease_token, state, retry_in_s, ledger_status, settlement_id, error_code,
    error_message, blame
)
WHERE o.event_id = ANY ($1::text[])
  AND o.event_id = r.event_id AND o.lease_token = r.lease_token
RETURNING r.lease_token, o.due_at;

-- name: count_due
-- How many rows may be claimed now, counted no further than asked.
-- $1 integer the most to count
SELECT count(*) AS due_count
FROM (SELECT 1 FROM settlement_outbox WHERE due_at <= now() LIMIT $1) AS due;

-- name: backlog
-- How much waits: open and dead rows (each counted no further than asked) and how long the longest
-- due one is due.
-- $1 integer the most to count
SELECT
    (SELECT count(*) FROM (
        SELECT 1 FROM settlement_outbox WHERE due_at IS NOT NULL LIMIT $1
    ) AS open) AS open_count,
    (SELECT count(*) FROM (
        SELECT 1 FROM settlement_outbox WHERE state = 'dead' LIMIT $1
    ) AS dead) AS dead_count,
    (SELECT extract(epoch FROM now() - min(due_at))::double precision
     FROM settlement_outbox WHERE due_at IS NOT NULL AND due_at <= now()) AS oldest_due_s;
