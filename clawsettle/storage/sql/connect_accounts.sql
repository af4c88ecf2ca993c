-- name: find
-- One account's onboarding.
-- $1 text account id
SELECT account_id, account_did, provider, connect_account_id, onboarding_status, onboarding_url,
       created_at, updated_at
FROM connect_account
WHERE account_id = $1;

-- name: open
-- Keep that an account is asked for at the provider; of one that was asked for before, nothing
-- changes.
-- $1 text account id   $2 text its DID
INSERT INTO connect_account (account_id, account_did) VALUES ($1, $2)
ON CONFLICT (account_id) DO UPDATE SET account_id = excluded.account_id
RETURNING account_id, account_did, provider, connect_account_id, onboarding_status, onboarding_url,
          created_at, updated_at;

-- name: complete
-- Keep what the provider has opened, unless somebody has kept it meanwhile.
-- $1 text account id   $2 text the provider's account id   $3 text onboarding status   $4 text link
UPDATE connect_account
SET connect_account_id = $2, onboarding_status = $3, onboarding_url = $4
WHERE account_id = $1 AND onboarding_status = 'opening'
RETURNING account_id, account_did, provider, connect_account_id, onboarding_status, onboarding_url,
          created_at, updated_at;

-- name: refresh
-- Keep how a pending account stands at the provider, unless it has become another meanwhile.
-- $1 text account id   $2 text onboarding status   $3 text link
UPDATE connect_account
SET onboarding_status = $2, onboarding_url = $3, updated_at = date_trunc('milliseconds', now())
WHERE account_id = $1 AND onboarding_status = 'pending'
RETURNING account_id, account_did, provider, connect_account_id, onboarding_status, onboarding_url,
          created_at, updated_at;

-- name: note
-- Heed what the provider's event says of an account, unless a newer one was heeded. One that is
-- being opened has no id at the provider yet, so it is never found.
-- $1 text the provider's account id   $2 text onboarding status   $3 timestamptz when it was said
UPDATE connect_account
SET onboarding_status = $2,
    provider_said_at = $3,
    updated_at = CASE
        WHEN onboarding_status = $2 THEN updated_at ELSE date_trunc('milliseconds', now())
    END
WHERE connect_account_id = $1 AND coalesce(provider_said_at, '-infinity') <= $3;
