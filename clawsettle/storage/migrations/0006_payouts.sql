-- Payouts: the accounts they go to, where each one stands, what was done to it, and what the
-- provider has said of it.
-- Locks: stripe_event against everybody for an instant. The constraint is wider than the one that it
-- replaces, so it is added NOT VALID, without a scan. All else is created only.

ALTER TABLE stripe_event
    DROP CONSTRAINT stripe_event_disposition_known,
    ADD CONSTRAINT stripe_event_disposition_known CHECK (
        disposition IN ('forwarded', 'ignored', 'superseded', 'quarantined', 'heeded')
    ) NOT VALID;
COMMENT ON COLUMN stripe_event.disposition IS
    'what was decided at intake: forwarded = has an outbox row; the others have none, and heeded ones '
    'have told something of a payout or of a connected account';

CREATE TABLE connect_account (
    account_id          text        NOT NULL,
    account_did         text        NOT NULL,
    provider            text        NOT NULL DEFAULT 'stripe',
    connect_account_id  text,
    onboarding_status   text        NOT NULL DEFAULT 'opening',
    onboarding_url      text,
    provider_said_at    timestamptz,
    created_at          timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    updated_at          timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    CONSTRAINT connect_account_pk PRIMARY KEY (account_id),
    CONSTRAINT connect_account_connect_once UNIQUE (connect_account_id),
    CONSTRAINT connect_account_status_known
        CHECK (onboarding_status IN ('opening', 'pending', 'active')),
    CONSTRAINT connect_account_opened_is_known CHECK (
        (onboarding_status = 'opening')
        = (connect_account_id IS NULL AND onboarding_url IS NULL)
    )
);
COMMENT ON COLUMN connect_account.created_at IS
    'when the account was first asked for: its idempotency key at the provider is this old';
COMMENT ON COLUMN connect_account.provider_said_at IS
    'the instant of the newest account event that was heeded; an older one changes nothing';

CREATE TABLE payout (
    payout_id          text        NOT NULL,
    idempotency_key    text        NOT NULL,
    request_hash       text        NOT NULL,
    provider           text        NOT NULL,
    account_id         text        NOT NULL,
    account_did        text        NOT NULL,
    connect_account_id text        NOT NULL,
    clearing_domain    text        NOT NULL,
    amount_minor       bigint      NOT NULL,
    currency           char(3)     NOT NULL,
    metadata           text,
    status             text        NOT NULL,
    external_payout_id text,
    transfer_id        text,
    reversal_id        text,
    recalled_at        timestamptz,
    lock_event_id      text,
    finalize_event_id  text,
    rollback_event_id  text,
    return_event_id    text,
    provider_status    text,
    provider_source    text,
    last_error_code    text,
    last_error_message text,
    keyed_at           timestamptz NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    status_at          timestamptz NOT NULL,
    submitted_at       timestamptz,
    finalized_at       timestamptz,
    failed_at          timestamptz,
    attempts           integer     NOT NULL DEFAULT 0,
    due_at             timestamptz,
    lease_token        bigint,
    CONSTRAINT payout_key_once UNIQUE (idempotency_key),
    CONSTRAINT payout_external_once UNIQUE (external_payout_id),
    CONSTRAINT payout_account_fk FOREIGN KEY (account_id) REFERENCES connect_account (account_id),
    CONSTRAINT payout_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT payout_status_known CHECK (status IN (
        'initiated', 'sending', 'unknown', 'submitted', 'finalizing_paid', 'paid',
        'finalizing_failed', 'failed', 'finalizing_canceled', 'canceled', 'returning', 'returned'
    )),
    CONSTRAINT payout_provider_status_known CHECK (
        provider_status IN ('pending', 'in_transit', 'paid', 'canceled', 'failed')
    ),
    CONSTRAINT payout_open_is_due CHECK (
        (status NOT IN ('paid', 'failed', 'canceled', 'returned')) = (due_at IS NOT NULL)
    ),
    CONSTRAINT payout_leased_is_open CHECK (lease_token IS NULL OR due_at IS NOT NULL),
    CONSTRAINT payout_sent_is_locked
        CHECK (status IN ('initiated', 'failed') OR lock_event_id IS NOT NULL),
    CONSTRAINT payout_sent_is_known
        CHECK (status NOT IN ('submitted', 'paid', 'returned') OR external_payout_id IS NOT NULL),
    CONSTRAINT payout_paid_is_finalized CHECK (
        (status IN ('paid', 'returning', 'returned'))
        = (finalize_event_id IS NOT NULL AND finalized_at IS NOT NULL)
    ),
    CONSTRAINT payout_failed_is_rolled_back CHECK (
        (status IN ('failed', 'canceled') AND lock_event_id IS NOT NULL)
        = (rollback_event_id IS NOT NULL)
    ),
    CONSTRAINT payout_returned_is_returned
        CHECK ((status = 'returned') = (return_event_id IS NOT NULL)),
    CONSTRAINT payout_given_back_is_recalled CHECK (
        (rollback_event_id IS NULL AND return_event_id IS NULL) OR recalled_at IS NOT NULL
    ),
    CONSTRAINT payout_failed_has_time
        CHECK ((status IN ('failed', 'canceled', 'returned')) = (failed_at IS NOT NULL))
);
COMMENT ON COLUMN payout.clearing_domain IS
    'where the money goes when it is paid; kept, so that a changed setting splits nothing';
COMMENT ON COLUMN payout.keyed_at IS
    'since when the provider may know the idempotency keys of this payout';
COMMENT ON COLUMN payout.status_at IS
    'when the status was entered: trying again and failing again leave it';
COMMENT ON COLUMN payout.due_at IS
    'when the row may be claimed: its next step, or the end of its lease while it has one';

CREATE INDEX payout_due ON payout (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX payout_stuck ON payout (status_at, payout_id) WHERE due_at IS NOT NULL;
CREATE INDEX payout_failures ON payout (failed_at DESC, payout_id DESC) WHERE failed_at IS NOT NULL;
CREATE INDEX payout_oldest ON payout (created_at, payout_id);
CREATE INDEX payout_submissions ON payout (submitted_at, payout_id) WHERE submitted_at IS NOT NULL;
CREATE INDEX payout_finalizations ON payout (finalized_at, payout_id)
    WHERE finalized_at IS NOT NULL;
CREATE INDEX payout_by_status ON payout (status, created_at, payout_id);
CREATE INDEX payout_by_account ON payout (account_did, created_at, payout_id);
-- The planner takes the newest of several indexes that cost the same, as all do on empty tables, and
-- a connection keeps its plans: the index that statements enter by is made after those of the lists.
ALTER TABLE payout ADD CONSTRAINT payout_pk PRIMARY KEY (payout_id);

CREATE TABLE payout_audit (
    audit_id              bigint      GENERATED ALWAYS AS IDENTITY,
    payout_id             text        NOT NULL,
    event_type            text        NOT NULL,
    event_idempotency_key text,
    to_status             text,
    details               text        NOT NULL,
    at                    timestamptz NOT NULL,
    CONSTRAINT payout_audit_pk PRIMARY KEY (audit_id),
    CONSTRAINT payout_audit_payout_fk FOREIGN KEY (payout_id) REFERENCES payout (payout_id),
    CONSTRAINT payout_audit_once UNIQUE (payout_id, event_type, event_idempotency_key)
);
COMMENT ON COLUMN payout_audit.to_status IS 'the status that this step has led to, if it led to another';

CREATE TABLE payout_event (
    event_id           text        NOT NULL,
    event_type         text        NOT NULL,
    external_payout_id text        NOT NULL,
    named_payout_id    text,
    connect_account_id text,
    account_id         text,
    amount_minor       bigint      NOT NULL,
    currency           char(3)     NOT NULL,
    provider_status    text        NOT NULL,
    state              text        NOT NULL,
    payout_id          text,
    reason             text,
    received_at        timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    CONSTRAINT payout_event_pk PRIMARY KEY (event_id),
    CONSTRAINT payout_event_event_fk FOREIGN KEY (event_id) REFERENCES stripe_event (event_id),
    CONSTRAINT payout_event_payout_fk FOREIGN KEY (payout_id) REFERENCES payout (payout_id),
    CONSTRAINT payout_event_provider_status_known CHECK (
        provider_status IN ('pending', 'in_transit', 'paid', 'canceled', 'failed')
    ),
    CONSTRAINT payout_event_state_known
        CHECK (state IN ('parked', 'applied', 'superseded', 'quarantined')),
    CONSTRAINT payout_event_parked_is_unmatched CHECK ((state = 'parked') = (payout_id IS NULL)),
    CONSTRAINT payout_event_quarantined_has_reason
        CHECK ((state = 'quarantined') = (reason IS NOT NULL))
);
COMMENT ON TABLE payout_event IS
    'what the provider has said of payouts, matched to them in the commit that records it';
CREATE INDEX payout_event_of_payout ON payout_event (payout_id, received_at)
    WHERE payout_id IS NOT NULL;
CREATE INDEX payout_event_parked_by_object ON payout_event (external_payout_id)
    WHERE state = 'parked';
CREATE INDEX payout_event_parked_by_name ON payout_event (named_payout_id) WHERE state = 'parked';
CREATE INDEX payout_event_open ON payout_event (state, received_at DESC, event_id DESC)
    WHERE state IN ('parked', 'quarantined');
