-- Dead letters: rows that an operator can list, bring back or close, and who did what to them.
-- Locks: settlement_outbox against writers while its index is built (one scan of the table), then
-- against everybody for an instant. The two constraints are wider than those they replace, so no
-- existing row can break them: they are added NOT VALID, which spares the scan under the harder
-- lock and still binds every row written from now on. A new column with a stable default rewrites
-- nothing; rows that are open now are tried as if they had been opened now.

-- State first, so that counting and listing the dead costs the same however many were discarded.
CREATE INDEX settlement_outbox_dead_letters
    ON settlement_outbox (state, updated_at DESC, event_id DESC)
    WHERE state IN ('dead', 'discarded');

ALTER TABLE settlement_outbox
    ADD COLUMN opened_at timestamptz NOT NULL DEFAULT now(),
    DROP CONSTRAINT settlement_outbox_state_known,
    ADD CONSTRAINT settlement_outbox_state_known
        CHECK (state IN ('pending', 'failed', 'forwarded', 'dead', 'discarded')) NOT VALID,
    DROP CONSTRAINT settlement_outbox_dead_has_blame,
    ADD CONSTRAINT settlement_outbox_dead_has_blame
        CHECK ((state IN ('dead', 'discarded')) = (blame IS NOT NULL)) NOT VALID;
COMMENT ON COLUMN settlement_outbox.opened_at IS
    'since when the row is being tried: recorded, or requeued by an operator';
COMMENT ON COLUMN settlement_outbox.updated_at IS
    'last change of the row; discarding leaves it, so that it tells since when the row is dead';

CREATE TABLE operator_action (
    action_id bigint      GENERATED ALWAYS AS IDENTITY,
    kind      text        NOT NULL,
    subject   text        NOT NULL,
    action    text        NOT NULL,
    actor     text        NOT NULL,
    by        text,
    why       text        NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operator_action_pk PRIMARY KEY (action_id),
    CONSTRAINT operator_action_by_length CHECK (length(by) BETWEEN 1 AND 100),
    CONSTRAINT operator_action_why_length CHECK (length(why) BETWEEN 1 AND 500)
);
COMMENT ON TABLE operator_action IS
    'what operators did, written with the change itself; kind and subject name what it was done to';
COMMENT ON COLUMN operator_action.actor IS 'the key that was used, by the start of its SHA-256';
COMMENT ON COLUMN operator_action.by IS 'the name that the caller gave, unchecked';
CREATE INDEX operator_action_subject ON operator_action (kind, subject, action_id);
