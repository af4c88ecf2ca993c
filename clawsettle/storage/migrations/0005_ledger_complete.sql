-- The whole ledger: clearing accounts, transfers, reservations behind the held bucket, risk holds,
-- the link from a refund to its payin, and a second hash that covers what the first leaves out.
-- Locks: the ledger's tables, exclusively, while the new hash of every event is computed, in one
-- statement that has to end within the migrations' statement timeout. Stop the daemons of the release
-- before first: they do not know the second hash, so the database refuses what they write, and their
-- requests wait for the next release.

ALTER TABLE ledger_account
    ADD COLUMN domain text,
    ADD COLUMN name text,
    ADD COLUMN reserved_minor bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT ledger_account_kind_known,
    DROP CONSTRAINT ledger_account_user_has_did,
    ADD CONSTRAINT ledger_account_domain_once UNIQUE (domain),
    ADD CONSTRAINT ledger_account_kind_known CHECK (kind IN ('user', 'clearing', 'external')),
    ADD CONSTRAINT ledger_account_user_has_did CHECK ((kind = 'user') = (did IS NOT NULL)),
    ADD CONSTRAINT ledger_account_clearing_has_domain
        CHECK ((kind = 'clearing') = (domain IS NOT NULL) AND (domain IS NULL) = (name IS NULL)),
    ADD CONSTRAINT ledger_account_reserved_not_negative CHECK (reserved_minor >= 0);
COMMENT ON COLUMN ledger_account.reserved_minor IS
    'the sum of its active reservations; held may be less only after an admin has moved it away';

ALTER TABLE ledger_settlement ADD COLUMN refund_of text;
COMMENT ON COLUMN ledger_settlement.refund_of IS
    'the external_payment_id of the payin, of the same provider, that a refund gives back';
CREATE INDEX ledger_settlement_refunds ON ledger_settlement (provider, refund_of)
    WHERE direction = 'refund' AND status = 'confirmed' AND refund_of IS NOT NULL;

ALTER TABLE ledger_tail ADD COLUMN content_hash text NOT NULL DEFAULT repeat('0', 64);
ALTER TABLE ledger_tail ALTER COLUMN content_hash DROP DEFAULT;
ALTER TABLE ledger_event ADD COLUMN content_hash text, ADD COLUMN request_hash text;
COMMENT ON COLUMN ledger_event.content_hash IS
    'chained SHA-256 over event_hash, id, request hash, postings and metadata; see domain/journal.py';
COMMENT ON COLUMN ledger_event.request_hash IS
    'of a transfer''s request, which a repetition of its key is compared with';

DO $$
DECLARE
    event record;
    content text := repeat('0', 64);
BEGIN
    FOR event IN
        SELECT e.seq, e.event_hash, e.event_id, e.metadata, coalesce(p.legs, '') AS legs
        FROM ledger_event AS e
        LEFT JOIN (
            SELECT seq,
                   string_agg(length(account_id) || ':' || account_id || ':' || bucket || ':'
                              || delta_minor || E'\n', '' ORDER BY leg) AS legs
            FROM ledger_posting GROUP BY seq
        ) AS p USING (seq)
        ORDER BY e.seq
    LOOP
        content := encode(sha256(convert_to(
            content || E'\n' || event.event_hash || E'\n' || event.event_id || E'\n\n'
            || event.legs || event.metadata, 'UTF8')), 'hex');
        UPDATE ledger_event SET content_hash = content WHERE seq = event.seq;
    END LOOP;
    UPDATE ledger_tail SET content_hash = content;
END
$$;
ALTER TABLE ledger_event ALTER COLUMN content_hash SET NOT NULL;

CREATE TABLE ledger_reservation (
    reservation_id  text        NOT NULL,
    kind            text        NOT NULL,
    account_id      text        NOT NULL,
    amount_minor    bigint      NOT NULL,
    opened_event_id text        NOT NULL,
    closed_event_id text,
    opened_at       timestamptz NOT NULL,
    closed_at       timestamptz,
    CONSTRAINT ledger_reservation_pk PRIMARY KEY (reservation_id),
    CONSTRAINT ledger_reservation_opened_once UNIQUE (opened_event_id),
    CONSTRAINT ledger_reservation_account_fk
        FOREIGN KEY (account_id) REFERENCES ledger_account (account_id),
    CONSTRAINT ledger_reservation_kind_known CHECK (kind IN ('payout', 'risk_hold')),
    CONSTRAINT ledger_reservation_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT ledger_reservation_closed_by_event
        CHECK ((closed_event_id IS NULL) = (closed_at IS NULL))
);
COMMENT ON TABLE ledger_reservation IS
    'what of a held bucket belongs to which payout or risk hold; active until it is closed';

CREATE TABLE ledger_risk_hold (
    hold_id                   text        NOT NULL,
    idempotency_key           text        NOT NULL,
    source_loss_event_id      text        NOT NULL,
    account_ref               text        NOT NULL,
    account_id                text        NOT NULL,
    amount_minor              bigint      NOT NULL,
    currency                  char(3)     NOT NULL,
    reason                    text        NOT NULL,
    metadata                  text        NOT NULL,
    hold_transfer_event_id    text        NOT NULL,
    release_idempotency_key   text,
    release_transfer_event_id text,
    created_at                timestamptz NOT NULL,
    updated_at                timestamptz NOT NULL,
    released_at               timestamptz,
    CONSTRAINT ledger_risk_hold_pk PRIMARY KEY (hold_id),
    CONSTRAINT ledger_risk_hold_key_once UNIQUE (idempotency_key),
    CONSTRAINT ledger_risk_hold_source_once UNIQUE (source_loss_event_id),
    CONSTRAINT ledger_risk_hold_reservation_fk
        FOREIGN KEY (hold_id) REFERENCES ledger_reservation (reservation_id),
    CONSTRAINT ledger_risk_hold_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT ledger_risk_hold_released_once CHECK (
        (released_at IS NULL) = (release_idempotency_key IS NULL)
        AND (released_at IS NULL) = (release_transfer_event_id IS NULL)
    )
);
CREATE INDEX ledger_risk_hold_newest ON ledger_risk_hold (created_at DESC, hold_id DESC);
CREATE INDEX ledger_risk_hold_active ON ledger_risk_hold (created_at DESC, hold_id DESC)
    WHERE released_at IS NULL;
CREATE INDEX ledger_risk_hold_by_account
    ON ledger_risk_hold (account_ref, created_at DESC, hold_id DESC);

-- The journal only grows. A statement's trigger costs an insert nothing, and says no to what would
-- otherwise be found by the next proof only.
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never % once they are written', TG_TABLE_NAME, lower(TG_OP) || 'd'
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_NAME;
END
$$;
CREATE TRIGGER ledger_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_event
    EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_posting_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_posting
    EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_account_stays BEFORE DELETE OR TRUNCATE ON ledger_account
    EXECUTE FUNCTION ledger_refuse_change();

-- One statement writes an event, its postings and their accounts, and none of them ever goes: to look
-- each up again, row by row, was a fifth of a transfer's cost.
ALTER TABLE ledger_posting
    DROP CONSTRAINT ledger_posting_event_fk,
    DROP CONSTRAINT ledger_posting_account_fk;
ALTER TABLE ledger_event DROP CONSTRAINT ledger_event_account_fk;

-- That an event has one successor follows from its number, which is unique and one more than its
-- predecessor's, and from the tail, which one batch at a time moves. An index on random hashes said
-- it again, and made a transfer in a book of a million dearer by a sixth.
ALTER TABLE ledger_event DROP CONSTRAINT ledger_event_link_once;
