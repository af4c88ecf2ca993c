-- name: page
-- A page of the rows in these states, newest dead first and of one instant the highest event id
-- first. One short walk of the index for each state, merged.
-- $1 text[] states, of dead and discarded   $2 timestamptz, $3 text instant and event id where the
-- page before ended (both null: from the start)   $4 integer most rows
SELECT
    listed.event_id, (SELECT event_type FROM stripe_event AS e WHERE e.event_id = listed.event_id),
    listed.payload, listed.state, listed.attempts, listed.last_error_message,
    listed.last_error_code, listed.blame, listed.ledger_status, listed.created_at,
    listed.last_attempted_at, listed.updated_at
FROM unnest($1::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT *
    FROM settlement_outbox AS s
    WHERE s.state = wanted.state
      AND s.state IN ('dead', 'discarded')
      AND (s.updated_at, s.event_id)
          < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY s.updated_at DESC, s.event_id DESC
    LIMIT $4
) AS listed
ORDER BY listed.updated_at DESC, listed.event_id DESC
LIMIT $4;

-- name: find
-- One settlement, whatever its state.
-- $1 text event id
SELECT
    o.event_id, e.event_type, o.payload, o.state, o.attempts, o.last_error_message,
    o.last_error_code, o.blame, o.ledger_status, o.created_at, o.last_attempted_at, o.updated_at
FROM settlement_outbox AS o JOIN stripe_event AS e USING (event_id)
WHERE o.event_id = $1;

-- name: lock
-- The state of one settlement, held as it is for the rest of the transaction.
-- $1 text event id
SELECT state FROM settlement_outbox WHERE event_id = $1 FOR UPDATE;

-- name: requeue
-- Open a dead or discarded row anew: its attempts and its age are counted from now. It is due now,
-- or leased to the caller for its first attempt where a lease is given.
-- $1 text event id   $2 double precision lease in seconds (null: none)
UPDATE settlement_outbox
SET state = 'failed',
    blame = NULL,
    attempts = ($2::double precision IS NOT NULL)::integer,
    opened_at = now(),
    due_at = now() + coalesce($2::double precision, 0) * interval '1 second',
    lease_token = CASE WHEN $2::double precision IS NOT NULL THEN nextval('lease_token') END,
    last_attempted_at = CASE
        WHEN $2::double precision IS NULL THEN last_attempted_at ELSE now()
    END,
    updated_at = now()
WHERE event_id = $1 AND state IN ('dead', 'discarded')
RETURNING
    event_id, payload, state, attempts, 0::double precision AS age_s, due_at, lease_token,
    (SELECT f.payout_id FROM payout_event AS f
     WHERE f.event_id = $1 AND f.state = 'applied') AS payout_id;

-- name: discard
-- Close a dead row. Since when it is dead stays as it was.
-- $1 text event id
UPDATE settlement_outbox SET state = 'discarded' WHERE event_id = $1 AND state = 'dead'
RETURNING event_id;
