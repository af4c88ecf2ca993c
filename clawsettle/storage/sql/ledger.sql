-- name: lock_tail
-- Take the journal's tail for the rest of the transaction: nobody else can store a batch meanwhile.
SELECT seq FROM ledger_tail WHERE one FOR UPDATE;

-- name: tail
-- The journal's tail, without a lock.
SELECT seq, event_hash, created_at FROM ledger_tail WHERE one;

-- name: load
-- The book that a batch is decided on: the tail, and the accounts, settlements and answers that the
-- batch touches (null: none of them exist), all as of one instant.
-- $1 text[] account ids   $2 text[] providers   $3 text[] external payment ids   $4 text[] directions
-- $5 text[] idempotency keys
SELECT
    t.version, t.seq, t.event_hash, t.created_at, clock_timestamp() AS now_at,
    (SELECT array_agg(a) FROM ledger_account AS a WHERE a.account_id = ANY ($1::text[])) AS accounts,
    (SELECT array_agg(s.settlement)
     FROM unnest($2::text[], $3::text[], $4::text[]) AS k (provider, external_payment_id, direction)
     CROSS JOIN LATERAL (
         SELECT n AS settlement FROM ledger_settlement AS n
         WHERE n.provider = k.provider AND n.external_payment_id = k.external_payment_id
           AND n.direction = k.direction
         LIMIT 1
     ) AS s) AS settlements,
    (SELECT array_agg(i)
     FROM ledger_ingestion AS i WHERE i.idempotency_key = ANY ($5::text[])) AS answers
FROM ledger_tail AS t
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
-- returns nothing, and changes nothing, if somebody has stored another batch since.
-- tail         $1 bigint version and $2 bigint seq of that book   $3 bigint new seq   $4 text hash
--              and $5 timestamptz instant of the last event
-- accounts     $6 text[] ids   $7 text[] kinds   $8 text[] DIDs   $9..$13 bigint[] available, held,
--              bonded, fee pool and promo, minor units   $14, $15 timestamptz[] created, updated
-- settlements  $16..$32 arrays of the columns in table order; amounts in minor units
-- answers      $33 text[] keys   $34 text[] request hashes   $35 text[] settlement ids
--              $36 text[] answers   $37 timestamptz the batch's instant. A second answer under a key
--              is a fault and fails the batch.
-- events       $38..$49 arrays of the columns in table order; amounts in minor units
-- postings     $50 bigint[] seqs   $51 smallint[] legs   $52 text[] accounts   $53 text[] buckets
--              $54 bigint[] deltas, minor units
WITH moved AS (
    UPDATE ledger_tail
    SET version = version + 1, seq = $3, event_hash = $4, created_at = $5
    WHERE one AND version = $1 AND seq = $2
    RETURNING version
), accounts AS (
    INSERT INTO ledger_account AS a
        (account_id, kind, did, available_minor, held_minor, bonded_minor, fee_pool_minor,
         promo_minor, created_at, updated_at)
    SELECT i.* FROM moved CROSS JOIN unnest(
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::bigint[], $14::timestamptz[], $15::timestamptz[]
    ) AS i
    ON CONFLICT (account_id) DO UPDATE
        SET available_minor = excluded.available_minor, held_minor = excluded.held_minor,
            bonded_minor = excluded.bonded_minor, fee_pool_minor = excluded.fee_pool_minor,
            promo_minor = excluded.promo_minor, updated_at = excluded.updated_at
), settlements AS (
    INSERT INTO ledger_settlement AS s
        (settlement_id, provider, external_payment_id, direction, status, account_id, amount_minor,
         currency, network, rail, metadata, provider_created_at, provider_updated_at, settled_at,
         latest_event_id, created_at, updated_at)
    SELECT i.* FROM moved CROSS JOIN unnest(
        $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
        $22::bigint[], $23::text[], $24::text[], $25::text[], $26::text[], $27::text[],
        $28::text[], $29::text[], $30::text[], $31::timestamptz[], $32::timestamptz[]
    ) AS i
    ON CONFLICT (settlement_id) DO UPDATE
        SET status = excluded.status, amount_minor = excluded.amount_minor,
            network = excluded.network, rail = excluded.rail, metadata = excluded.metadata,
            provider_created_at = excluded.provider_created_at,
            provider_updated_at = excluded.provider_updated_at, settled_at = excluded.settled_at,
            latest_event_id = excluded.latest_event_id, updated_at = excluded.updated_at
), answers AS (
    INSERT INTO ledger_ingestion
        (idempotency_key, request_hash, settlement_id, answer, created_at)
    SELECT i.*, $37
    FROM moved CROSS JOIN unnest($33::text[], $34::text[], $35::text[], $36::text[]) AS i
), events AS (
    INSERT INTO ledger_event
        (seq, event_id, idempotency_key, event_type, account_id, to_account_id, amount_minor,
         bucket, previous_hash, event_hash, metadata, created_at)
    SELECT i.* FROM moved CROSS JOIN unnest(
        $38::bigint[], $39::text[], $40::text[], $41::text[], $42::text[], $43::text[],
        $44::bigint[], $45::text[], $46::text[], $47::text[], $48::text[], $49::timestamptz[]
    ) AS i
), postings AS (
    INSERT INTO ledger_posting (seq, leg, account_id, bucket, delta_minor)
    SELECT i.* FROM moved CROSS JOIN unnest(
        $50::bigint[], $51::smallint[], $52::text[], $53::text[], $54::bigint[]
    ) AS i
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
