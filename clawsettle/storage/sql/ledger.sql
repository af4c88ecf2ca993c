-- name: lock_tail
-- Take the journal's tail for the rest of the transaction: nobody else can store a batch meanwhile.
SELECT seq FROM ledger_tail WHERE one FOR UPDATE;

-- name: tail
-- The journal's tail, without a lock.
SELECT seq, event_hash, content_hash, created_at FROM ledger_tail WHERE one;

-- name: load
-- The book that a batch is decided on: the tail, and the records that the batch touches (null: none
-- of them exist), all as of one instant. With a settlement come the payin it refunds and what of that
-- payin is refunded (numeric: no payin bounds refunds that came before it); with a hold its account
-- and reservation.
-- $1 text[] account ids   $2 text[] providers   $3 text[] external payment ids   $4 text[] directions
-- $5 text[] keys of settlements   $6 text[] keys of events   $7 text[] reservation ids
-- $8 text[] providers and $9 text[] external payment ids of payins whose refunds count
-- $10 text[] keys, $11 text[] source loss event ids and $12 text[] ids of holds
WITH settlements AS (
    SELECT s.settlement
    FROM unnest($2::text[], $3::text[], $4::text[]) AS k (provider, external_payment_id, direction)
    CROSS JOIN LATERAL (
        SELECT n AS settlement FROM ledger_settlement AS n
        WHERE n.provider = k.provider AND n.external_payment_id = k.external_payment_id
          AND n.direction = k.direction
        LIMIT 1
    ) AS s
), links AS (
    SELECT provider, payin FROM unnest($8::text[], $9::text[]) AS k (provider, payin)
    UNION
    SELECT (settlement).provider, (settlement).refund_of FROM settlements
    WHERE (settlement).refund_of IS NOT NULL
), payins AS (
    SELECT s.settlement
    FROM links AS k
    CROSS JOIN LATERAL (
        SELECT n AS settlement FROM ledger_settlement AS n
        WHERE n.provider = k.provider AND n.external_payment_id = k.payin AND n.direction = 'payin'
        LIMIT 1
    ) AS s
), refunds AS (
    SELECT array_agg(k.provider) AS providers, array_agg(k.payin) AS payins,
           array_agg(s.refunded_minor) AS refunded_minor
    FROM links AS k
    CROSS JOIN LATERAL (
        SELECT sum(n.amount_minor) AS refunded_minor FROM ledger_settlement AS n
        WHERE n.provider = k.provider AND n.refund_of = k.payin
          AND n.direction = 'refund' AND n.status = 'confirmed'
    ) AS s
    WHERE s.refunded_minor IS NOT NULL
), holds AS (
    SELECT h AS hold FROM ledger_risk_hold AS h WHERE h.idempotency_key = ANY ($10::text[])
    UNION ALL
    SELECT h FROM ledger_risk_hold AS h WHERE h.source_loss_event_id = ANY ($11::text[])
    UNION ALL
    -- In the order of the key, which no other index that has it in it gives.
    (SELECT h FROM ledger_risk_hold AS h WHERE h.hold_id = ANY ($12::text[]) ORDER BY h.hold_id)
)
SELECT
    t.version, t.seq, t.event_hash, t.content_hash, t.created_at, clock_timestamp() AS now_at,
    (SELECT array_agg(a) FROM ledger_account AS a
     WHERE a.account_id = ANY ($1::text[] || ARRAY(SELECT (hold).account_id FROM holds))) AS accounts,
    ARRAY(SELECT settlement FROM settlements UNION ALL SELECT settlement FROM payins) AS settlements,
    r.providers AS refund_providers, r.payins AS refund_payins, r.refunded_minor,
    (SELECT array_agg(i)
     FROM ledger_ingestion AS i WHERE i.idempotency_key = ANY ($5::text[])) AS answers,
    (SELECT array_agg(e) FROM ledger_event AS e WHERE e.idempotency_key = ANY ($6::text[])) AS events,
    (SELECT array_agg(n) FROM ledger_reservation AS n
     WHERE n.reservation_id = ANY ($7::text[] || ARRAY(SELECT (hold).hold_id FROM holds)))
        AS reservations,
    ARRAY(SELECT hold FROM holds) AS holds
FROM ledger_tail AS t CROSS JOIN refunds AS r
WHERE t.one;

-- name: accounts
-- The accounts with these ids.
-- $1 text[] account ids
SELECT * FROM ledger_account WHERE account_id = ANY ($1::text[]);

-- name: account_by_did
-- $1 text DID
SELECT * FROM ledger_account WHERE did = $1;

-- name: store
-- Store what a batch has made or changed, if the book it was decided on is still the latest one;
-- returns nothing, and changes nothing, if somebody has stored another batch since. Each array holds
-- whole rows, their columns in the table's order. A second answer or event under a key is a fault
-- and fails the batch.
-- $1 bigint version and $2 bigint seq of the book decided on   $3 bigint seq, $4 text event hash,
-- $5 text content hash and $6 timestamptz instant of the last event
-- $7 ledger_account[]   $8 ledger_settlement[]   $9 ledger_ingestion[]   $10 ledger_event[]
-- $11 ledger_posting[]   $12 ledger_reservation[]   $13 ledger_risk_hold[]
WITH moved AS (
    UPDATE ledger_tail
    SET version = version + 1, seq = $3, event_hash = $4, content_hash = $5, created_at = $6
    WHERE one AND version = $1 AND seq = $2
    RETURNING version
), accounts AS (
    INSERT INTO ledger_account SELECT i.* FROM moved CROSS JOIN unnest($7::ledger_account[]) AS i
    ON CONFLICT (account_id) DO UPDATE
        SET available_minor = excluded.available_minor, held_minor = excluded.held_minor,
            bonded_minor = excluded.bonded_minor, fee_pool_minor = excluded.fee_pool_minor,
            promo_minor = excluded.promo_minor, reserved_minor = excluded.reserved_minor,
            updated_at = excluded.updated_at
), settlements AS (
    INSERT INTO ledger_settlement
    SELECT i.* FROM moved CROSS JOIN unnest($8::ledger_settlement[]) AS i
    ON CONFLICT (settlement_id) DO UPDATE
        SET status = excluded.status, amount_minor = excluded.amount_minor,
            network = excluded.network, rail = excluded.rail, metadata = excluded.metadata,
            provider_created_at = excluded.provider_created_at,
            provider_updated_at = excluded.provider_updated_at, settled_at = excluded.settled_at,
            latest_event_id = excluded.latest_event_id,
            updated_at = excluded.updated_at
), answers AS (
    INSERT INTO ledger_ingestion
    SELECT i.* FROM moved CROSS JOIN unnest($9::ledger_ingestion[]) AS i
), events AS (
    INSERT INTO ledger_event SELECT i.* FROM moved CROSS JOIN unnest($10::ledger_event[]) AS i
), postings AS (
    INSERT INTO ledger_posting SELECT i.* FROM moved CROSS JOIN unnest($11::ledger_posting[]) AS i
), reservations AS (
    INSERT INTO ledger_reservation
    SELECT i.* FROM moved CROSS JOIN unnest($12::ledger_reservation[]) AS i
    ON CONFLICT (reservation_id) DO UPDATE
        SET closed_event_id = excluded.closed_event_id, closed_at = excluded.closed_at
), holds AS (
    INSERT INTO ledger_risk_hold
    SELECT i.* FROM moved CROSS JOIN unnest($13::ledger_risk_hold[]) AS i
    ON CONFLICT (hold_id) DO UPDATE
        SET release_idempotency_key = excluded.release_idempotency_key,
            release_transfer_event_id = excluded.release_transfer_event_id,
            updated_at = excluded.updated_at, released_at = excluded.released_at
)
SELECT version FROM moved;

-- name: settlements_of_payment
-- The settlements of one external payment, newest first: at most one a direction.
-- $1 text provider   $2 text external payment id   $3 text direction (null: any)
SELECT * FROM (
    SELECT * FROM ledger_settlement
    WHERE provider = $1 AND external_payment_id = $2 AND ($3::text IS NULL OR direction = $3)
    LIMIT 3
) AS found
ORDER BY created_at DESC, settlement_id DESC;

-- name: list_settlements
-- A page of settlements, newest first, after the cursor's row if there is one. Two walks of which
-- one is run, because one plan serves all values: an account's settlements have their own index.
-- $1 text account id   $2 text status   $3 text provider   $4 text direction (null: any)
-- $5 timestamptz cursor instant   $6 text cursor id (both null: from the start)   $7 integer rows
(
    SELECT * FROM ledger_settlement
    WHERE $1::text IS NOT NULL AND account_id = $1
      AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR provider = $3)
      AND ($4::text IS NULL OR direction = $4)
      AND (created_at, settlement_id) < (coalesce($5::timestamptz, 'infinity'), coalesce($6::text, ''))
    ORDER BY created_at DESC, settlement_id DESC
    LIMIT $7
)
UNION ALL
(
    SELECT * FROM ledger_settlement
    WHERE $1::text IS NULL
      AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR provider = $3)
      AND ($4::text IS NULL OR direction = $4)
      AND (created_at, settlement_id) < (coalesce($5::timestamptz, 'infinity'), coalesce($6::text, ''))
    ORDER BY created_at DESC, settlement_id DESC
    LIMIT $7
);

-- name: events_by_key
-- The events under these keys, in no order. $1 text[] idempotency keys
SELECT * FROM ledger_event WHERE idempotency_key = ANY ($1::text[]);

-- name: event_by_id
-- $1 text event id
SELECT * FROM ledger_event WHERE event_id = $1;

-- name: clearing_account
-- A clearing account by its domain or its id. $1 text domain   $2 text id (one of them null)
SELECT * FROM ledger_account WHERE $1::text IS NOT NULL AND domain = $1
UNION ALL
SELECT * FROM ledger_account WHERE $1::text IS NULL AND account_id = $2 AND kind = 'clearing';

-- name: clearing_accounts
-- Every clearing account by domain: there are as many as a platform has purposes.
SELECT * FROM ledger_account WHERE domain IS NOT NULL ORDER BY domain;

-- name: list_holds
-- Risk holds, newest first. One of four walks is run, because one plan serves all values.
-- $1 text source loss event id   $2 text account as it was referred to   $3 boolean only active
-- (true) or released (false) ones (null each: any)   $4 integer rows
(
    SELECT * FROM ledger_risk_hold
    WHERE $1::text IS NOT NULL AND source_loss_event_id = $1
      AND ($2::text IS NULL OR account_ref = $2)
      AND ($3::boolean IS NULL OR (released_at IS NULL) = $3)
    LIMIT $4
)
UNION ALL
(
    SELECT * FROM ledger_risk_hold
    WHERE $1::text IS NULL AND $2::text IS NOT NULL AND account_ref = $2
      AND ($3::boolean IS NULL OR (released_at IS NULL) = $3)
    ORDER BY created_at DESC, hold_id DESC
    LIMIT $4
)
UNION ALL
(
    SELECT * FROM ledger_risk_hold
    WHERE $1::text IS NULL AND $2::text IS NULL AND $3::boolean AND released_at IS NULL
    ORDER BY created_at DESC, hold_id DESC
    LIMIT $4
)
UNION ALL
(
    SELECT * FROM ledger_risk_hold
    WHERE $1::text IS NULL AND $2::text IS NULL AND $3::boolean IS NOT TRUE
      AND ($3::boolean IS NULL OR released_at IS NOT NULL)
    ORDER BY created_at DESC, hold_id DESC
    LIMIT $4
);

-- name: totals
-- What all user and clearing accounts hold together, by bucket, in minor units.
SELECT coalesce(sum(available_minor), 0)::text AS available_minor,
       coalesce(sum(held_minor), 0)::text AS held_minor,
       coalesce(sum(bonded_minor), 0)::text AS bonded_minor,
       coalesce(sum(fee_pool_minor), 0)::text AS fee_pool_minor,
       coalesce(sum(promo_minor), 0)::text AS promo_minor
FROM ledger_account WHERE kind IN ('user', 'clearing');

-- name: journal_page
-- A stretch of the journal in order, each event with its postings.
-- $1 bigint after this number   $2 integer rows
SELECT e AS event,
       ARRAY(SELECT p FROM ledger_posting AS p WHERE p.seq = e.seq ORDER BY p.leg) AS postings
FROM ledger_event AS e
WHERE e.seq > $1
ORDER BY e.seq
LIMIT $2;

-- name: account_page
-- A stretch of the accounts by id. $1 text after this id   $2 integer rows
SELECT * FROM ledger_account WHERE account_id > $1 ORDER BY account_id LIMIT $2;

-- name: reservation_page
-- A stretch of the reservations by id. $1 text after this id   $2 integer rows
SELECT * FROM ledger_reservation WHERE reservation_id > $1 ORDER BY reservation_id LIMIT $2;

-- name: hold_page
-- A stretch of the risk holds by id. $1 text after this id   $2 integer rows
SELECT * FROM ledger_risk_hold WHERE hold_id > $1 ORDER BY hold_id LIMIT $2;
