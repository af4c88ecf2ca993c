-- name: history
-- Events that were processed long ago, as the daemon would have left them: forwarded, settled,
-- chained by number alone (their hashes are unique but do not verify; nothing here reads them).
-- $1 bigint first number   $2 bigint last number   $3 text[] account ids
WITH n AS MATERIALIZED (
    SELECT
        g, 'evt_old' || lpad(g::text, 18, '0') AS event_id, 'pi_old' || lpad(g::text, 19, '0') AS pi,
        'set_' || md5(g::text) AS settlement_id, encode(sha256(g::text::bytea), 'hex') AS hash,
        encode(sha256((g - 1)::text::bytea), 'hex') AS previous_hash,
        'evt_' || lpad(to_hex(g), 12, '0') || left(encode(sha256(g::text::bytea), 'hex'), 20)
            AS ledger_event_id,
        ($3::text[])[1 + g % cardinality($3::text[])] AS account_id
    FROM generate_series($1::bigint, $2::bigint) AS g
), inbox AS (
    INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
    SELECT event_id, 'payment_intent.succeeded', true, sha256(event_id::bytea), 'forwarded' FROM n
), outbox AS (
    INSERT INTO settlement_outbox
        (event_id, payload, state, attempts, ledger_status, settlement_id, forwarded_at)
    SELECT event_id, rpad('{"external_payment_id":"' || pi || '"}', 480), 'forwarded', 1, 201,
        settlement_id, now()
    FROM n
), settlements AS (
    INSERT INTO ledger_settlement
        (settlement_id, provider, external_payment_id, direction, status, account_id, amount_minor,
         currency, network, rail, metadata, latest_event_id, created_at, updated_at)
    SELECT settlement_id, 'stripe', pi, 'payin', 'confirmed', account_id, 2500, 'USD', 'stripe',
        'card', rpad('{}', 120), ledger_event_id, now(), now()
    FROM n
), answers AS (
    INSERT INTO ledger_ingestion (idempotency_key, request_hash, settlement_id, answer, created_at)
    SELECT 'stripe:event:' || event_id, hash, settlement_id, rpad('{}', 900), now() FROM n
), events AS (
    INSERT INTO ledger_event
        (seq, event_id, idempotency_key, event_type, account_id, amount_minor, bucket,
         previous_hash, event_hash, content_hash, metadata, created_at)
    SELECT g, ledger_event_id, 'payment_settlement:' || settlement_id, 'payin_settle',
        account_id, 2500, 'available', previous_hash, hash, hash, rpad('{}', 300), now()
    FROM n
), postings AS (
    INSERT INTO ledger_posting (seq, leg, account_id, bucket, delta_minor)
    SELECT g, leg, CASE leg WHEN 0 THEN account_id ELSE 'external:stripe:USD' END, 'available',
        CASE leg WHEN 0 THEN 2500 ELSE -2500 END
    FROM n CROSS JOIN generate_series(0, 1) AS leg
), deliveries AS (
    INSERT INTO webhook_delivery_log
        (delivery_id, event_type, received_at, processed_at, processing_ms, status, idempotency_key)
    SELECT 'dlv_' || md5(event_id), 'payment_intent.succeeded', now(), now(), 12, 'success',
        'stripe:event:' || event_id
    FROM n
)
UPDATE ledger_tail
SET version = version + 1, seq = $2, event_hash = encode(sha256($2::text::bytea), 'hex'),
    content_hash = encode(sha256($2::text::bytea), 'hex');

-- name: contra_account
-- The account that history's money came from. $1 bigint minor units that left it
INSERT INTO ledger_account (account_id, kind, available_minor, created_at, updated_at)
VALUES ('external:stripe:USD', 'external', -$1::bigint, now(), now());

-- name: backlog
-- Events whose settlements are due and were never attempted, as after a long outage.
-- $1 bigint first number   $2 bigint last number   $3 text[] account ids
WITH n AS MATERIALIZED (
    SELECT g, 'evt_due' || lpad(g::text, 18, '0') AS event_id,
        ($3::text[])[1 + g % cardinality($3::text[])] AS account_id
    FROM generate_series($1::bigint, $2::bigint) AS g
), inbox AS (
    INSERT INTO stripe_event (event_id, event_type, livemode, body_sha256, disposition)
    SELECT event_id, 'payment_intent.succeeded', true, sha256(event_id::bytea), 'forwarded' FROM n
)
INSERT INTO settlement_outbox (event_id, payload, due_at)
SELECT event_id, json_build_object(
        'account_id', account_id, 'amount_minor', '2500', 'currency', 'USD', 'direction', 'payin',
        'external_payment_id', 'pi_due' || g, 'network', 'stripe', 'provider', 'stripe',
        'rail', 'card', 'status', 'confirmed', 'settled_at', '2026-01-01T00:00:00.000Z',
        'metadata', json_build_object('stripe_event_id', event_id, 'stripe_event_type',
            'payment_intent.succeeded', 'stripe_object_id', 'pi_due' || g)
    )::text, now()
FROM n;

-- name: transactions
-- How many transactions this database has seen.
SELECT xact_commit + xact_rollback AS count FROM pg_stat_database WHERE datname = current_database();

-- name: open_count
-- How many settlements are still on their way.
SELECT count(*) AS count FROM settlement_outbox WHERE due_at IS NOT NULL;

-- name: open_delivery_count
-- How many deliveries of loss events are still on their way.
SELECT count(*) AS count FROM loss_delivery WHERE due_at IS NOT NULL;

-- name: delivery_states
-- In which states deliveries of loss events are.
SELECT DISTINCT state FROM loss_delivery;

-- name: onboard
-- Accounts that may be paid out to, as their onboarding would have left them.
-- $1 text[] account ids   $2 text[] DIDs   $3 text[] the provider's account ids
INSERT INTO connect_account
    (account_id, account_did, connect_account_id, onboarding_status, onboarding_url)
SELECT i.account_id, i.account_did, i.connect_account_id, 'active', 'https://onboard'
FROM unnest($1::text[], $2::text[], $3::text[]) AS i (account_id, account_did, connect_account_id);

-- name: paid_payouts
-- Payouts of a dollar that have been paid, a millisecond after each other, to accounts by turns.
-- $1 bigint first number   $2 bigint last number   $3 text[] account ids, onboarded
WITH n AS MATERIALIZED (
    SELECT g, encode(sha256(g::text::bytea), 'hex') AS hash,
        ($3::text[])[1 + g % cardinality($3::text[])] AS account_id,
        date_trunc('milliseconds', now()) - interval '1 day' + g * interval '1 ms' AS at
    FROM generate_series($1::bigint, $2::bigint) AS g
)
INSERT INTO payout
    (payout_id, idempotency_key, request_hash, provider, account_id, account_did,
     connect_account_id, clearing_domain, amount_minor, currency, status, external_payout_id,
     lock_event_id, finalize_event_id, provider_status, keyed_at, created_at, updated_at, status_at,
     submitted_at, finalized_at)
SELECT 'pout_' || left(n.hash, 28), 'order:' || n.hash, n.hash, 'stripe', c.account_id,
    c.account_did, c.connect_account_id, 'clawsettle.payouts', 100, 'USD', 'paid',
    'po_' || left(n.hash, 24), 'evt_lock_' || left(n.hash, 24), 'evt_paid_' || left(n.hash, 24),
    'paid', n.at, n.at, n.at, n.at, n.at, n.at
FROM n JOIN connect_account AS c USING (account_id);

-- name: before_netting
-- A schema as it was before migration 7.
DROP TABLE netting_report, netting_audit, netting_item, netting_entry, netting_run CASCADE;
DROP FUNCTION netting_queue_sweep, netting_queue_return CASCADE;
DELETE FROM schema_migration WHERE number = 7;

-- name: no_queue
-- No payout is queued for netting any more.
DROP FUNCTION netting_queue_sweep, netting_queue_return CASCADE;

-- name: net_all
-- Runs of 100,000 payouts that took, long ago, all that was waiting.
CREATE TEMPORARY TABLE netted ON COMMIT DROP AS
SELECT i.*, 'nte_' || left(encode(sha256((run || i.connect_account_id)::bytea), 'hex'), 28) AS entry
FROM (
    SELECT payout_id, connect_account_id, amount_minor, at,
        'nrun_' || (row_number() OVER (ORDER BY at, payout_id) - 1) / 100000 AS run
    FROM netting_item
) AS i;
INSERT INTO netting_run
    (run_id, idempotency_key, request_hash, asked_hash, currency, selection_before,
     source_clearing_domain, target_clearing_domain, status, candidate_count, applied_count,
     failed_count, total_amount_minor, created_at, updated_at, report_hash, completed_at,
     is_scheduled)
SELECT run, 'key:' || run, run, run, 'USD', max(at), 'clawsettle.payouts', 'clawsettle.netting',
    'applied', count(*), count(DISTINCT entry), 0, sum(amount_minor), max(at), max(at), run,
    max(at), false
FROM netted GROUP BY run;
INSERT INTO netting_entry
    (entry_id, run_id, connect_account_id, currency, amount_minor, payout_ids,
     compensated_payout_ids, status, created_at, updated_at, attempts, ledger_event_id, applied_at)
SELECT entry, run, connect_account_id, 'USD', sum(amount_minor), array_agg(payout_id), '{}',
    'applied', max(at), max(at), 1, 'evt_' || entry, max(at)
FROM netted GROUP BY run, entry, connect_account_id;
UPDATE netting_item AS i SET run_id = n.run, entry_id = n.entry
FROM netted AS n WHERE i.payout_id = n.payout_id;
