-- The inbox of verified Stripe events, the outbox of settlements on their way to the ledger,
-- and the log of deliveries.
-- Locks: creates only; nothing existing is touched.

-- Fencing tokens: whoever claims a row draws the next one, and every later write names it.
CREATE SEQUENCE lease_token AS bigint;

CREATE TABLE stripe_event (
    event_id        text        NOT NULL,
    event_type      text        NOT NULL,
    livemode        boolean     NOT NULL,
    body_sha256     bytea       NOT NULL,
    disposition     text        NOT NULL,
    quarantined_body text,
    received_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stripe_event_pk PRIMARY KEY (event_id),
    CONSTRAINT stripe_event_body_sha256_length CHECK (length(body_sha256) = 32),
    CONSTRAINT stripe_event_disposition_known
        CHECK (disposition IN ('forwarded', 'ignored', 'superseded', 'quarantined')),
    CONSTRAINT stripe_event_body_while_quarantined
        CHECK ((disposition = 'quarantined') = (quarantined_body IS NOT NULL))
);
COMMENT ON COLUMN stripe_event.disposition IS
    'what was decided at intake: forwarded = has an outbox row; the others have none';

CREATE TABLE settlement_outbox (
    event_id          text        NOT NULL,
    payload           text        NOT NULL,
    state             text        NOT NULL DEFAULT 'pending',
    attempts          integer     NOT NULL DEFAULT 0,
    due_at            timestamptz,
    lease_token       bigint,
    ledger_status     integer,
    settlement_id     text,
    last_error_code   text,
    last_error_message text,
    blame             text,
    last_attempted_at timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    forwarded_at      timestamptz,
    CONSTRAINT settlement_outbox_pk PRIMARY KEY (event_id),
    CONSTRAINT settlement_outbox_event_fk FOREIGN KEY (event_id) REFERENCES stripe_event (event_id),
    CONSTRAINT settlement_outbox_state_known
        CHECK (state IN ('pending', 'failed', 'forwarded', 'dead')),
    CONSTRAINT settlement_outbox_attempts_counted CHECK (attempts >= 0),
    CONSTRAINT settlement_outbox_open_is_due
        CHECK ((state IN ('pending', 'failed')) = (due_at IS NOT NULL)),
    CONSTRAINT settlement_outbox_leased_is_open CHECK (lease_token IS NULL OR due_at IS NOT NULL),
    CONSTRAINT settlement_outbox_forwarded_is_known
        CHECK ((state = 'forwarded') = (settlement_id IS NOT NULL AND forwarded_at IS NOT NULL)),
    CONSTRAINT settlement_outbox_blame_known
        CHECK (blame IN ('us', 'target', 'provider', 'config', 'poison')),
    CONSTRAINT settlement_outbox_dead_has_blame CHECK ((state = 'dead') = (blame IS NOT NULL))
);
COMMENT ON COLUMN settlement_outbox.due_at IS
    'when the row may be claimed: its next attempt, or the end of its lease while it has one';

-- Claimable rows only, so that the index stays small however long the history grows.
CREATE INDEX settlement_outbox_due ON settlement_outbox (due_at) WHERE due_at IS NOT NULL;

-- Stripe tells the total refunded of a charge, not each refund; this is the total recorded so far.
CREATE TABLE charge_refund (
    charge_id         text        NOT NULL,
    payment_intent_id text,
    total_minor       bigint      NOT NULL DEFAULT 0,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT charge_refund_pk PRIMARY KEY (charge_id),
    CONSTRAINT charge_refund_total_not_negative CHECK (total_minor >= 0)
);

CREATE TABLE webhook_delivery_log (
    delivery_id     text        NOT NULL,
    event_type      text        NOT NULL,
    source          text        NOT NULL DEFAULT 'stripe',
    received_at     timestamptz NOT NULL,
    processed_at    timestamptz NOT NULL,
    processing_ms   integer     NOT NULL,
    status          text        NOT NULL,
    error_code      text,
    idempotency_key text,
    CONSTRAINT webhook_delivery_log_pk PRIMARY KEY (delivery_id),
    CONSTRAINT webhook_delivery_log_status_known CHECK (status IN ('success', 'failed'))
);
CREATE INDEX webhook_delivery_log_received ON webhook_delivery_log (received_at);
