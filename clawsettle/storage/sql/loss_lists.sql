-- name: whole
-- An event with all its deliveries, in the order of the wire, and its resolution if it has one.
-- $1 text loss event id
SELECT
    e.*,
    ARRAY(
        SELECT d FROM loss_delivery AS d WHERE d.loss_event_id = $1
        ORDER BY d.created_at, d.delivery_id
    ) AS deliveries,
    (SELECT r FROM loss_resolution AS r WHERE r.loss_event_id = $1) AS resolution
FROM loss_event AS e
WHERE e.loss_event_id = $1;

-- name: events
-- Events in these statuses, the newest first: one short walk for each, merged.
-- $1 text[] statuses   $2 timestamptz, $3 text instant and id of the last one before the page (both
-- null: from the start)   $4 integer most rows
SELECT listed.*
FROM unnest($1::text[]) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT * FROM loss_event AS e
    WHERE e.status = wanted.status
      AND (e.created_at, e.loss_event_id)
          < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY e.created_at DESC, e.loss_event_id DESC
    LIMIT $4
) AS listed
ORDER BY listed.created_at DESC, listed.loss_event_id DESC
LIMIT $4;

-- name: events_from
-- Those of them that come from one service.
-- $1 to $4 as above   $5 text source service
SELECT listed.*
FROM unnest($1::text[]) AS wanted (status)
CROSS JOIN LATERAL (
    SELECT * FROM loss_event AS e
    WHERE e.source_service = $5 AND e.status = wanted.status
      AND (e.created_at, e.loss_event_id)
          < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY e.created_at DESC, e.loss_event_id DESC
    LIMIT $4
) AS listed
ORDER BY listed.created_at DESC, listed.loss_event_id DESC
LIMIT $4;

-- name: events_about
-- Those of them that are about one account, of which all events are looked through.
-- $1 to $4 as above   $5 text account id   $6 text source service (null: any)
SELECT * FROM loss_event
WHERE account_id = $5
  AND (created_at, loss_event_id)
      < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
  AND status = ANY ($1::text[]) AND ($6::text IS NULL OR source_service = $6)
ORDER BY created_at DESC, loss_event_id DESC
LIMIT $4;

-- name: deliveries
-- Deliveries for one operation to these targets that are in these states, the newest first: one
-- short walk for each target and state, merged.
-- $1 text operation   $2 text[] targets   $3 text[] states   $4 timestamptz, $5 text instant and
-- delivery id of the last one before the page (both null: from the start)   $6 integer most rows
SELECT listed.*
FROM unnest($2::text[]) AS told (target)
CROSS JOIN unnest($3::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT * FROM loss_delivery AS d
    WHERE d.operation = $1 AND d.target = told.target AND d.state = wanted.state
      AND (d.created_at, d.delivery_id)
          < (coalesce($4::timestamptz, 'infinity'), coalesce($5::text, ''))
    ORDER BY d.created_at DESC, d.delivery_id DESC
    LIMIT $6
) AS listed
ORDER BY listed.created_at DESC, listed.delivery_id DESC
LIMIT $6;

-- name: deliveries_of
-- Those of them that are of one event.
-- $1 to $6 as above   $7 text loss event id
SELECT * FROM loss_delivery
WHERE loss_event_id = $7 AND operation = $1
  AND target = ANY ($2::text[]) AND state = ANY ($3::text[])
  AND (created_at, delivery_id)
      < (coalesce($4::timestamptz, 'infinity'), coalesce($5::text, ''))
ORDER BY created_at DESC, delivery_id DESC
LIMIT $6;
