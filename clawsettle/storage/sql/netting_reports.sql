-- name: run
-- A run, whether it compensates payouts, how often it has ended, and the database's time.
-- $1 text run id
SELECT
    r.*,
    EXISTS (
        SELECT FROM netting_entry AS e
        WHERE e.run_id = $1 AND cardinality(e.compensated_payout_ids) > 0
    ) AS compensates,
    (SELECT count(*) FROM netting_report AS v WHERE v.run_id = $1) AS version_count,
    date_trunc('milliseconds', now()) AS read_at
FROM netting_run AS r
WHERE r.run_id = $1;

-- name: entries
-- The entries of a run by their ids, whose column sorts by bytes: a hash is made of them, and a
-- language may have an order of its own for letters that stand together.
-- $1 text run id
SELECT * FROM netting_entry WHERE run_id = $1 ORDER BY entry_id;

-- name: applied_sums
-- What the applied entries of a run come to, what the payouts in them do, and whether they agree for
-- every entry; a sum may need more than 63 bits.
-- $1 text run id
SELECT
    coalesce(sum(e.amount_minor), 0)::text AS entries_minor,
    coalesce(sum(c.payouts_minor), 0)::text AS payouts_minor,
    coalesce(bool_and(e.amount_minor = c.payouts_minor), true) AS agree
FROM netting_entry AS e
CROSS JOIN LATERAL (
    SELECT coalesce(
        sum(CASE i.direction WHEN 'sweep' THEN p.amount_minor ELSE -p.amount_minor END), 0
    ) AS payouts_minor
    FROM netting_item AS i
    CROSS JOIN LATERAL (SELECT amount_minor FROM payout WHERE payout_id = i.payout_id LIMIT 1) AS p
    WHERE i.payout_id = ANY (e.payout_ids || e.compensated_payout_ids)
      AND i.entry_id = e.entry_id
) AS c
WHERE e.run_id = $1 AND e.status = 'applied';

-- name: entries_named
-- Some entries of a run.
-- $1 text run id   $2 text[] entry ids
SELECT * FROM netting_entry WHERE run_id = $1 AND entry_id = ANY ($2::text[]);

-- name: version
-- The report of a run as it was when it had ended for the nth time.
-- $1 text run id   $2 integer n, from 1
SELECT content, artifact_sha256 FROM netting_report WHERE run_id = $1 AND version = $2;
