-- name: record_action
-- Keep what an operator did, in the transaction that does it.
-- $1 text kind of what it is done to   $2 text its id   $3 text action   $4 text the key's
-- fingerprint   $5 text name of the operator (null: not given)   $6 text reason
INSERT INTO operator_action (kind, subject, action, actor, by, why)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: actions_of
-- What operators did to one thing, oldest first.
-- $1 text kind   $2 text its id
SELECT action, actor, by, why, at FROM operator_action
WHERE kind = $1 AND subject = $2
ORDER BY action_id;
