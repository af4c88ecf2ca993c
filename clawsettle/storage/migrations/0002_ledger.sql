-- The embedded ledger: accounts, settlements, the hash-chained journal and its postings.
-- Locks: creates only; nothing existing is touched.

CREATE TABLE ledger_account (
    account_id      text        NOT NULL,
    kind            text        NOT NULL,
    did             text,
    available_minor bigint      NOT NULL DEFAULT 0,
    held_minor      bigint      NOT NULL DEFAULT 0,
    bonded_minor    bigint      NOT NULL DEFAULT 0,
    fee_pool_minor  bigint      NOT NULL DEFAULT 0,
    promo_minor     bigint      NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CONSTRAINT ledger_account_pk PRIMARY KEY (account_id),
    CONSTRAINT ledger_account_did_once UNIQUE (did),
    CONSTRAINT ledger_account_kind_known CHECK (kind IN ('user', 'external')),
    CONSTRAINT ledger_account_user_has_did CHECK ((kind = 'user') = (did IS NOT NULL)),
    CONSTRAINT ledger_account_not_negative CHECK (
        kind = 'external' OR (
            available_minor >= 0 AND held_minor >= 0 AND bonded_minor >= 0
            AND fee_pool_minor >= 0 AND promo_minor >= 0
        )
    )
);

CREATE TABLE ledger_settlement (
    settlement_id       text        NOT NULL,
    provider            text        NOT NULL,
    external_payment_id text        NOT NULL,
    direction           text        NOT NULL,
    status              text        NOT NULL,
    account_id          text        NOT NULL,
    amount_minor        bigint      NOT NULL,
    currency            char(3)     NOT NULL,
    network             text,
    rail                text,
    metadata            text,
    provider_created_at text,
    provider_updated_at text,
    settled_at          text,
    latest_event_id     text,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT ledger_settlement_pk PRIMARY KEY (settlement_id),
    CONSTRAINT ledger_settlement_natural_key UNIQUE (provider, external_payment_id, direction),
    CONSTRAINT ledger_settlement_account_fk
        FOREIGN KEY (account_id) REFERENCES ledger_account (account_id),
    CONSTRAINT ledger_settlement_direction_known CHECK (direction IN ('payin', 'refund', 'payout')),
    CONSTRAINT ledger_settlement_status_known
        CHECK (status IN ('pending', 'confirmed', 'failed', 'reversed')),
    CONSTRAINT ledger_settlement_amount_positive CHECK (amount_minor > 0)
);
COMMENT ON COLUMN ledger_settlement.provider_updated_at IS
    'as the caller sent it: the contract gives such texts back unchanged';
CREATE INDEX ledger_settlement_newest ON ledger_settlement (created_at DESC, settlement_id DESC);
CREATE INDEX ledger_settlement_by_account
    ON ledger_settlement (account_id, created_at DESC, settlement_id DESC);

CREATE TABLE ledger_ingestion (
    idempotency_key text        NOT NULL,
    request_hash    text        NOT NULL,
    settlement_id   text        NOT NULL,
    answer          text        NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT ledger_ingestion_pk PRIMARY KEY (idempotency_key),
    CONSTRAINT ledger_ingestion_settlement_fk
        FOREIGN KEY (settlement_id) REFERENCES ledger_settlement (settlement_id)
);

CREATE TABLE ledger_event (
    seq             bigint      NOT NULL,
    event_id        text        NOT NULL,
    idempotency_key text        NOT NULL,
    event_type      text        NOT NULL,
    account_id      text        NOT NULL,
    to_account_id   text,
    amount_minor    bigint      NOT NULL,
    bucket          text        NOT NULL,
    previous_hash   text        NOT NULL,
    event_hash      text        NOT NULL,
    metadata        text        NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT ledger_event_pk PRIMARY KEY (seq),
    CONSTRAINT ledger_event_id_once UNIQUE (event_id),
    CONSTRAINT ledger_event_key_once UNIQUE (idempotency_key),
    CONSTRAINT ledger_event_link_once UNIQUE (previous_hash),
    CONSTRAINT ledger_event_account_fk
        FOREIGN KEY (account_id) REFERENCES ledger_account (account_id),
    CONSTRAINT ledger_event_bucket_known
        CHECK (bucket IN ('available', 'held', 'bonded', 'feePool', 'promo')),
    CONSTRAINT ledger_event_amount_positive CHECK (amount_minor > 0)
);

CREATE TABLE ledger_posting (
    seq         bigint   NOT NULL,
    leg         smallint NOT NULL,
    account_id  text     NOT NULL,
    bucket      text     NOT NULL,
    delta_minor bigint   NOT NULL,
    CONSTRAINT ledger_posting_pk PRIMARY KEY (seq, leg),
    CONSTRAINT ledger_posting_event_fk FOREIGN KEY (seq) REFERENCES ledger_event (seq),
    CONSTRAINT ledger_posting_account_fk
        FOREIGN KEY (account_id) REFERENCES ledger_account (account_id),
    CONSTRAINT ledger_posting_bucket_known
        CHECK (bucket IN ('available', 'held', 'bonded', 'feePool', 'promo')),
    CONSTRAINT ledger_posting_moves CHECK (delta_minor <> 0)
);

-- One row: the journal's last link. Locking it is what makes the writers of all daemons one.
CREATE TABLE ledger_tail (
    one        boolean     NOT NULL DEFAULT true,
    seq        bigint      NOT NULL,
    event_hash text        NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT ledger_tail_pk PRIMARY KEY (one),
    CONSTRAINT ledger_tail_single CHECK (one)
);
INSERT INTO ledger_tail (seq, event_hash, created_at)
VALUES (0, repeat('0', 64), date_trunc('milliseconds', now()));
