-- name: payouts_created
-- Payouts made after the start and before the end, oldest first.
-- $1 timestamptz, $2 text start: an instant and a payout id, the pair itself left out
-- $3 timestamptz end   $4 integer most rows
SELECT * FROM payout
WHERE (created_at, payout_id) > ($1, $2) AND created_at < $3
ORDER BY created_at, payout_id
LIMIT $4;

-- name: payouts_created_in
-- Those of them that are in these statuses: one short walk for each, merged.
-- $1 to $4 as above   $5 text[] stored statuses
SELECT listed.*
FROM unnest($5::text[]) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT * FROM payout AS p
    WHERE p.status = wanted.status AND (p.created_at, p.payout_id) > ($1, $2) AND p.created_at < $3
    ORDER BY p.created_at, p.payout_id
    LIMIT $4
) AS listed
ORDER BY listed.created_at, listed.payout_id
LIMIT $4;

-- name: payouts_created_for
-- Those of them that are of one account; with statuses, all of the account's are looked through.
-- $1 to $4 as above   $5 text account's DID   $6 text[] stored statuses (null: any)
SELECT * FROM payout
WHERE account_did = $5 AND (created_at, payout_id) > ($1, $2) AND created_at < $3
  AND ($6::text[] IS NULL OR status = ANY ($6))
ORDER BY created_at, payout_id
LIMIT $4;

-- name: stuck_payouts
-- Payouts that have not ended and have been in their status for so long, the longest first. With no
-- minutes all of them, whatever two clocks say about the newest.
-- $1 integer minutes   $2 timestamptz, $3 text instant and id of the last one before the page (both
-- null: from the start)   $4 integer most rows
SELECT * FROM payout
WHERE due_at IS NOT NULL
  AND status_at <= CASE
      WHEN $1::integer = 0 THEN 'infinity' ELSE now() - $1::integer * interval '1 minute'
  END
  AND (status_at, payout_id) > (coalesce($2::timestamptz, '-infinity'), coalesce($3::text, ''))
ORDER BY status_at, payout_id
LIMIT $4;

-- name: failed_payouts
-- Payouts that have failed, the latest first.
-- $1 timestamptz, $2 text instant and id of the last one before the page (both null: from the start)
-- $3 integer most rows
SELECT * FROM payout
WHERE failed_at IS NOT NULL
  AND (failed_at, payout_id) < (coalesce($1::timestamptz, 'infinity'), coalesce($2::text, ''))
ORDER BY failed_at DESC, payout_id DESC
LIMIT $3;

-- name: payout_and_audit
-- A payout with its audit trail: a row for each entry, or one without any.
-- $1 text payout id
SELECT p.*, a.audit_id, a.event_type, a.event_idempotency_key, a.to_status, a.details, a.at
FROM payout AS p LEFT JOIN LATERAL (
    SELECT * FROM payout_audit WHERE payout_id = p.payout_id
) AS a ON true
WHERE p.payout_id = $1
ORDER BY a.audit_id;

-- name: news_waiting
-- What the provider has said that could not be applied, the newest first.
-- $1 text[] states, of parked and quarantined   $2 timestamptz, $3 text instant and event id of the
-- last one before the page (both null: from the start)   $4 integer most rows
SELECT listed.*
FROM unnest($1::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT * FROM payout_event AS e
    WHERE e.state = wanted.state
      AND e.state IN ('parked', 'quarantined')
      AND (e.received_at, e.event_id)
          < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY e.received_at DESC, e.event_id DESC
    LIMIT $4
) AS listed
ORDER BY listed.received_at DESC, listed.event_id DESC
LIMIT $4;

-- name: news_of
-- All that the provider has said of a payout, oldest first.
-- $1 text payout id
SELECT * FROM payout_event WHERE payout_id = $1
ORDER BY received_at, event_id;
