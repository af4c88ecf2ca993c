-- name: lock_tail
-- Take the journal's tail for the rest of the transaction: from here on this writer is the only one.
-- The clock is read after the lock is had, so that instants follow the order of the journal.
SELECT t.seq, t.event_hash, t.created_at, clock_timestamp() AS now_at
FROM (SELECT * FROM ledger_tail FOR UPDATE) AS t;

-- name: tail
-- The journal's tail, without a lock.
SELECT seq, event_hash, created_at FROM ledger_tail;

-- name: answers
-- The stored answers under these idempotency keys.
-- $1 text[] keys
SELECT idempotency_key, request_hash, settlement_id, answer
FROM ledger_ingestion WHERE idempotency_key = ANY ($1::text[]);

-- name: settlements
-- The settlements with these natural keys.
-- $1 text[] providers   $2 text[] external payment ids   $3 text[] directions
SELECT s.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (provider, external_payment_id, direction)
JOIN ledger_settlement AS s USING (provider, external_payment_id, direction);

-- name: accounts
-- The accounts with these ids.
-- $1 text[] account ids
SELECT * FROM ledger_account WHERE account_id = ANY ($1::text[]);

-- name: account_by_did
-- $1 text DID
SELECT * FROM ledger_account WHERE did = $1;

-- name: put_state
-- Store the accounts, settlements and answers that a batch has made or changed. An answer is kept
-- once: a second one under its key is a fault and fails the batch.
-- accounts     $1 text[] ids   $2 text[] kinds   $3 text[] DIDs   $4..$8 bigint[] available, held,
--              bonded, fee pool and promo, minor units   $9, $10 timestamptz[] created, updated
-- settlements  $11..$27 arrays of the columns in table order; amounts in minor units
-- answers      $28 text[] keys   $29 text[] request hashes   $30 text[] settlement ids
--              $31 text[] answers   $32 timestamptz the batch's instant
WITH accounts AS (
    INSERT INTO ledger_account AS a
        (account_id, kind, did, available_minor, held_minor, bonded_minor, fee_pool_minor,
         promo_minor, created_at, updated_at)
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::timestamptz[], $10::timestamptz[]
    )
    ON CONFLICT (account_id) DO UPDATE
        SET available_minor = excluded.available_minor, held_minor = excluded.held_minor,
            bonded_minor = excluded.bonded_minor, fee_pool_minor = excluded.fee_pool_minor,
            promo_minor = excluded.promo_minor, updated_at = excluded.updated_at
), settlements AS (
    INSERT INTO ledger_settlement AS s
        (settlement_id, provider, external_payment_id, direction, status, account_id, amount_minor,
         currency, network, rail, metadata, provider_created_at, provider_updated_at, settled_at,
         latest_event_id, created_at, updated_at)
    SELECT * FROM unnest(
        $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
        $17::bigint[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[],
        $23::text[], $24::text[], $25::text[], $26::timestamptz[], $27::timestamptz[]
    )
    ON CONFLICT (settlement_id) DO UPDATE
        SET status = excluded.status, amount_minor = excluded.amount_minor,
            network = excluded.network, rail = excluded.rail, metadata = excluded.metadata,
            provider_created_at = excluded.provider_created_at,
            provider_updated_at = excluded.provider_updated_at, settled_at = excluded.settled_at,
            latest_event_id = excluded.latest_event_id, updated_at = excluded.updated_at
)
INSERT INTO ledger_ingestion (idempotency_key, request_hash, settlement_id, answer, created_at)
SELECT i.*, $32 FROM unnest($28::text[], $29::text[], $30::text[], $31::text[]) AS i;

-- name: append_journal
-- Append links to the journal with their postings, and move its tail.
-- events    $1..$12 arrays of the columns in table order; amounts in minor units
-- postings  $13 bigint[] seqs   $14 smallint[] legs   $15 text[] accounts   $16 text[] buckets
--           $17 bigint[] deltas, minor units
-- tail      $18 bigint seq   $19 text hash   $20 timestamptz instant of the last event
WITH events AS (
    INSERT INTO ledger_event
        (seq, event_id, idempotency_key, event_type, account_id, to_account_id, amount_minor,
         bucket, previous_hash, event_hash, metadata, created_at)
    SELECT * FROM unnest(
        $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[]
    )
), postings AS (
    INSERT INTO ledger_posting (seq, leg, account_id, bucket, delta_minor)
    SELECT * FROM unnest($13::bigint[], $14::smallint[], $15::text[], $16::text[], $17::bigint[])
)
UPDATE ledger_tail SET seq = $18, event_hash = $19, created_at = $20;

-- name: settlements_of_payment
-- The settlements of one external payment, newest first: at most one a direction.
-- $1 text provider   $2 text external payment id   $3 text direction (null: any)
SELECT * FROM ledger_settlement
WHERE provider = $1 AND external_payment_id = $2 AND ($3::text IS NULL OR direction = $3)
ORDER BY created_at DESC, settlement_id DESC
LIMIT 3;

-- name: list_settlements
-- A page of settlements, newest first, after the cursor's row if there is one.
-- $1 text account id   $2 text status   $3 text provider   $4 text direction (null: any)
-- $5 timestamptz cursor instant   $6 text cursor id (both null: from the start)   $7 integer rows
SELECT * FROM ledger_settlement
WHERE ($1::text IS NULL OR account_id = $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR provider = $3)
  AND ($4::text IS NULL OR direction = $4)
  AND ($5::timestamptz IS NULL OR (created_at, settlement_id) < ($5, $6::text))
ORDER BY created_at DESC, settlement_id DESC
LIMIT $7;

-- name: journal_page
-- A stretch of the journal in order. $1 bigint after this number   $2 integer rows
SELECT * FROM ledger_event WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: trial_balance
-- What the books must say: postings that do not sum to zero for their event, and accounts whose
-- balance is not the sum of their postings. Both lists are empty in a sound book.
SELECT 'event' AS kind, seq::text AS subject, sum(delta_minor)::text AS difference
FROM ledger_posting GROUP BY seq HAVING sum(delta_minor) <> 0
UNION ALL
SELECT 'account', a.account_id, (a.available_minor - coalesce(p.total_minor, 0))::text
FROM ledger_account AS a
LEFT JOIN (
    SELECT account_id, sum(delta_minor) AS total_minor FROM ledger_posting
    WHERE bucket = 'available' GROUP BY account_id
) AS p USING (account_id)
WHERE a.available_minor <> coalesce(p.total_minor, 0);
