-- name: destinations
-- Where payouts to these accounts would go, and the payouts that their keys stand for already.
-- $1 text[] account ids   $2 text[] idempotency keys, one each
SELECT
    i.account_id AS asked_account_id, i.idempotency_key AS asked_key, c.account_did AS asked_did,
    c.connect_account_id AS asked_connect_account_id, c.onboarding_status,
    date_trunc('milliseconds', now()) AS read_at, p.*
FROM unnest($1::text[], $2::text[]) AS i (account_id, idempotency_key)
LEFT JOIN LATERAL (
    SELECT * FROM connect_account WHERE account_id = i.account_id LIMIT 1
) AS c ON true
LEFT JOIN LATERAL (
    SELECT * FROM payout WHERE idempotency_key = i.idempotency_key LIMIT 1
) AS p ON true;

-- name: insert
-- Keep new payouts, leased to the caller from birth; one whose key is taken is left out. No conflict
-- is named: of two at once under one key the later may meet the earlier at either of its two ids.
-- Sorted, so that two daemons with the same keys cannot deadlock.
-- $1 payout[] whole rows
WITH inserted AS (
    INSERT INTO payout SELECT i.* FROM unnest($1::payout[]) AS i
    ORDER BY i.payout_id
    ON CONFLICT DO NOTHING
    RETURNING payout_id
), audited AS (
    INSERT INTO payout_audit (payout_id, event_type, to_status, details, at)
    SELECT i.payout_id, 'payout.initiated', i.status, '{}', i.created_at
    FROM unnest($1::payout[]) AS i JOIN inserted USING (payout_id)
)
SELECT payout_id FROM inserted;

-- name: by_ids
-- These payouts, as they stand.
-- $1 text[] payout ids
SELECT * FROM payout WHERE payout_id = ANY ($1::text[]);

-- name: claim
-- Lease these payouts to the caller, those that may be worked on now; each claim counts. A live
-- lease of somebody else is never taken. With force, waiting ones are taken before their time.
-- $1 text[] payout ids   $2 boolean force   $3 double precision lease in seconds
UPDATE payout AS p
SET lease_token = nextval('lease_token'),
    due_at = now() + $3::double precision * interval '1 second',
    attempts = p.attempts + 1
WHERE p.payout_id = ANY (ARRAY(
    SELECT c.payout_id FROM payout AS c
    WHERE c.payout_id = ANY ($1::text[]) AND c.due_at IS NOT NULL
      AND (c.due_at <= now() OR ($2::boolean AND c.lease_token IS NULL))
    ORDER BY c.payout_id
    FOR UPDATE SKIP LOCKED
))
RETURNING p.*;

-- name: claim_due
-- Lease the payouts that are due, longest due first: waiting ones whose time has come, and those
-- whose holder let the lease run out.
-- $1 integer most rows   $2 double precision lease in seconds
UPDATE payout AS p
SET lease_token = nextval('lease_token'),
    due_at = now() + $2::double precision * interval '1 second',
    attempts = p.attempts + 1
WHERE p.payout_id = ANY (ARRAY(
    SELECT c.payout_id FROM payout AS c
    WHERE c.due_at IS NOT NULL AND c.due_at <= now()
    ORDER BY c.due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
RETURNING p.*;

-- name: recall
-- The payouts that hearing these events has leased in a try whose answer was lost: they have their
-- tokens.
-- $1 text[] event ids   $2 bigint[] the lease tokens that their payouts were to get
SELECT e.event_id, p.*
FROM unnest($1::text[], $2::bigint[]) AS i (event_id, lease_token)
JOIN payout_event AS e ON e.event_id = i.event_id
JOIN payout AS p ON p.payout_id = e.payout_id AND p.lease_token = i.lease_token
WHERE e.event_id = ANY ($1::text[])
  AND p.payout_id = ANY (ARRAY(
      SELECT payout_id FROM payout_event WHERE event_id = ANY ($1::text[])
  ));

-- name: lock_objects
-- Keep everybody else who asks for these ids of the provider waiting until this transaction ends:
-- news of a payout that is not known yet, and the payout that is becoming known.
-- $1 text[] provider's payout ids, ascending
SELECT pg_advisory_xact_lock(hashtextextended('payout:' || i.id, 0))
FROM unnest($1::text[]) AS i (id);

-- name: lock
-- Take these payouts for the rest of the transaction, and before them the ids of the provider under
-- which they become known, as lock_objects does. Sorted, so that nobody deadlocks.
-- $1 text[] payout ids   $2 text[] provider's payout ids, ascending
WITH objects AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock(hashtextextended('payout:' || i.id, 0))) AS lock_count
    FROM unnest($2::text[]) AS i (id)
)
SELECT p.*, date_trunc('milliseconds', now()) AS read_at FROM payout AS p
WHERE p.payout_id = ANY ($1::text[]) AND (SELECT lock_count FROM objects) >= 0
ORDER BY p.payout_id
FOR UPDATE;

-- name: lock_named
-- Take the payouts that these ids stand for: the provider's or our own.
-- $1 text[] provider's payout ids   $2 text[] payout ids
SELECT p.*, date_trunc('milliseconds', now()) AS read_at FROM payout AS p
WHERE p.payout_id = ANY (ARRAY(
    SELECT payout_id FROM payout WHERE external_payout_id = ANY ($1::text[])
    UNION ALL
    SELECT payout_id FROM payout WHERE payout_id = ANY ($2::text[])
))
ORDER BY p.payout_id
FOR UPDATE;

-- name: store
-- Store payouts that this transaction has locked, with the audit rows of what happened to them.
-- Returns the news that waits for payouts that have become known by this.
-- $1 payout[] whole rows   $2 text[] payout ids, $3 text[] event types, $4 text[] keys (null: none),
-- $5 text[] statuses entered (null: none), $6 text[] details and $7 timestamptz[] instants of the
-- audit rows, in their order   $8 text[] provider's ids and $9 text[] ids of payouts become known
WITH stored AS (
    UPDATE payout AS p
    SET status = i.status, external_payout_id = i.external_payout_id, transfer_id = i.transfer_id,
        reversal_id = i.reversal_id, recalled_at = i.recalled_at, lock_event_id = i.lock_event_id,
        finalize_event_id = i.finalize_event_id, rollback_event_id = i.rollback_event_id,
        return_event_id = i.return_event_id, provider_status = i.provider_status,
        provider_source = i.provider_source, last_error_code = i.last_error_code,
        last_error_message = i.last_error_message, keyed_at = i.keyed_at,
        updated_at = i.updated_at, status_at = i.status_at, submitted_at = i.submitted_at,
        finalized_at = i.finalized_at, failed_at = i.failed_at, attempts = i.attempts,
        due_at = i.due_at, lease_token = i.lease_token
    FROM unnest($1::payout[]) AS i
    WHERE p.payout_id = ANY (ARRAY(SELECT payout_id FROM unnest($1::payout[])))
      AND p.payout_id = i.payout_id
), audited AS (
    INSERT INTO payout_audit
        (payout_id, event_type, event_idempotency_key, to_status, details, at)
    SELECT i.payout_id, i.event_type, i.key, i.to_status, i.details, i.at
    FROM unnest(
        $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[]
    ) WITH ORDINALITY AS i (payout_id, event_type, key, to_status, details, at, place)
    ORDER BY i.place
    ON CONFLICT (payout_id, event_type, event_idempotency_key) DO NOTHING
)
SELECT * FROM payout_event AS e
WHERE e.event_id = ANY (ARRAY(
    SELECT event_id FROM payout_event
    WHERE external_payout_id = ANY ($8::text[]) AND state = 'parked'
    UNION ALL
    SELECT event_id FROM payout_event
    WHERE named_payout_id = ANY ($9::text[]) AND state = 'parked'
))
ORDER BY e.event_id
FOR UPDATE;

-- name: keep_news
-- Keep what events say of payouts, with what became of it; what was parked before is judged anew.
-- $1 text[] event ids   $2 text[] event types   $3 text[] provider's payout ids   $4 text[] payout
-- ids named   $5 text[] connected accounts   $6 text[] account ids   $7 bigint[] amounts, minor
-- units   $8 text[] currencies   $9 text[] provider's statuses   $10 text[] states   $11 text[]
-- payout ids matched   $12 text[] reasons
INSERT INTO payout_event AS e
    (event_id, event_type, external_payout_id, named_payout_id, connect_account_id, account_id,
     amount_minor, currency, provider_status, state, payout_id, reason)
SELECT i.* FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]
) AS i
ON CONFLICT (event_id) DO UPDATE
    SET state = excluded.state, payout_id = excluded.payout_id, reason = excluded.reason
    WHERE e.state IN ('parked', 'quarantined');
