-- Netting: what waits to be netted, the runs, their entries, what was done to them, and the report
-- of each run as it was whenever the run had ended.
-- Locks: payout against writers while its triggers are made and what is paid already is queued:
-- some seconds for a million payouts. All else is created only.

CREATE TABLE netting_run (
    run_id                 text        NOT NULL,
    idempotency_key        text        NOT NULL,
    request_hash           text        NOT NULL,
    asked_hash             text        NOT NULL,
    currency               char(3)     NOT NULL,
    selection_before       timestamptz NOT NULL,
    source_clearing_domain text        NOT NULL,
    target_clearing_domain text        NOT NULL,
    status                 text        NOT NULL,
    candidate_count        integer     NOT NULL,
    applied_count          integer     NOT NULL,
    failed_count           integer     NOT NULL,
    total_amount_minor     bigint      NOT NULL,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    last_error_code        text,
    last_error_message     text,
    report_hash            text,
    completed_at           timestamptz,
    is_scheduled           boolean     NOT NULL,
    due_at                 timestamptz,
    lease_token            bigint,
    CONSTRAINT netting_run_key_once UNIQUE (idempotency_key),
    CONSTRAINT netting_run_domains_differ CHECK (source_clearing_domain <> target_clearing_domain),
    CONSTRAINT netting_run_counts CHECK (
        candidate_count >= 0 AND applied_count >= 0 AND failed_count >= 0
    ),
    CONSTRAINT netting_run_status_known CHECK (
        status IN ('created', 'running', 'releasing', 'applied', 'failed', 'released')
    ),
    CONSTRAINT netting_run_open_is_due CHECK (
        (status IN ('created', 'running', 'releasing')) = (due_at IS NOT NULL)
    ),
    CONSTRAINT netting_run_leased_is_open CHECK (lease_token IS NULL OR due_at IS NOT NULL),
    CONSTRAINT netting_run_ended_is_reported CHECK (
        (status IN ('applied', 'failed', 'released'))
        = (report_hash IS NOT NULL AND completed_at IS NOT NULL)
    ),
    CONSTRAINT netting_run_applied_is_whole CHECK (status <> 'applied' OR failed_count = 0)
);
COMMENT ON COLUMN netting_run.asked_hash IS
    'of what the request said itself, so that a changed default makes it no other request';
COMMENT ON COLUMN netting_run.due_at IS
    'when the run may be claimed: at once, or at the end of its lease while it has one';

CREATE INDEX netting_run_due ON netting_run (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX netting_run_newest ON netting_run (created_at DESC, run_id DESC);
CREATE INDEX netting_run_by_status ON netting_run (status, created_at DESC, run_id DESC);
ALTER TABLE netting_run ADD CONSTRAINT netting_run_pk PRIMARY KEY (run_id);

CREATE TABLE netting_entry (
    entry_id               text        COLLATE "C" NOT NULL,
    run_id                 text        NOT NULL,
    connect_account_id     text        NOT NULL,
    currency               char(3)     NOT NULL,
    amount_minor           bigint      NOT NULL,
    payout_ids             text[]      NOT NULL,
    compensated_payout_ids text[]      NOT NULL,
    status                 text        NOT NULL,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    attempts               integer     NOT NULL,
    doubt_at               timestamptz,
    ledger_event_id        text,
    last_error_code        text,
    last_error_message     text,
    applied_at             timestamptz,
    unanswered_at          timestamptz,
    CONSTRAINT netting_entry_pk PRIMARY KEY (run_id, entry_id),
    CONSTRAINT netting_entry_run_fk FOREIGN KEY (run_id) REFERENCES netting_run (run_id),
    CONSTRAINT netting_entry_status_known CHECK (
        status IN ('pending', 'applying', 'unknown', 'applied', 'failed', 'released')
    ),
    CONSTRAINT netting_entry_has_payouts CHECK (
        cardinality(payout_ids) + cardinality(compensated_payout_ids) > 0
    ),
    CONSTRAINT netting_entry_applied_has_time CHECK ((status = 'applied') = (applied_at IS NOT NULL)),
    CONSTRAINT netting_entry_moved_has_event CHECK (
        (status = 'applied' AND amount_minor <> 0) = (ledger_event_id IS NOT NULL)
    ),
    CONSTRAINT netting_entry_unknown_has_time CHECK (status <> 'unknown' OR doubt_at IS NOT NULL)
);
COMMENT ON COLUMN netting_entry.amount_minor IS
    'signed: above zero it moves from the source to the target, below zero it comes back';
COMMENT ON COLUMN netting_entry.doubt_at IS
    'when last it was not known whether the ledger had applied the transfer';
COMMENT ON COLUMN netting_entry.unanswered_at IS
    'when last the ledger had given no answer at all, so that a request may have been under way';

CREATE TABLE netting_item (
    payout_id              text        NOT NULL,
    direction              text        NOT NULL,
    connect_account_id     text        NOT NULL,
    clearing_domain        text        NOT NULL,
    target_clearing_domain text,
    currency               char(3)     NOT NULL,
    amount_minor           bigint      NOT NULL,
    at                     timestamptz NOT NULL,
    run_id                 text,
    entry_id               text        COLLATE "C",
    CONSTRAINT netting_item_taken_by_a_run CHECK ((run_id IS NULL) = (entry_id IS NULL)),
    CONSTRAINT netting_item_direction CHECK (
        (direction = 'sweep' AND amount_minor > 0 AND target_clearing_domain IS NULL)
        OR (direction = 'return' AND amount_minor < 0 AND target_clearing_domain IS NOT NULL)
    )
);
COMMENT ON TABLE netting_item IS
    'payouts that wait for a run (no entry), and the one entry that each of them is in';
COMMENT ON COLUMN netting_item.target_clearing_domain IS
    'of a return: where the payout was swept to, so where its amount comes back from';

-- Nobody is given back what has not left: a return waits until its sweep has moved.
CREATE VIEW netting_waiting AS
SELECT i.* FROM netting_item AS i
WHERE i.entry_id IS NULL
  AND (
      i.direction = 'sweep'
      OR 'applied' = (
          SELECT e.status
          FROM (
              SELECT run_id, entry_id FROM netting_item
              WHERE payout_id = i.payout_id AND direction = 'sweep' LIMIT 1
          ) AS s
          CROSS JOIN LATERAL (
              SELECT status FROM netting_entry
              WHERE run_id = s.run_id AND entry_id = s.entry_id LIMIT 1
          ) AS e
      )
  );

-- A payout is queued in the commit that makes it paid, whichever program makes that commit, so that
-- none is left out while daemons of two releases run beside each other.
CREATE FUNCTION netting_queue_sweep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO netting_item
    VALUES (NEW.payout_id, 'sweep', NEW.connect_account_id, NEW.clearing_domain, NULL,
            NEW.currency, NEW.amount_minor, NEW.finalized_at, NULL, NULL);
    RETURN NULL;
END $$;

-- A payout that fails late and waits here still is taken out; one that a run has taken gets an item
-- against it. The lock makes this wait for a run that is just taking it.
CREATE FUNCTION netting_queue_return() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sweep netting_item;
BEGIN
    SELECT * INTO sweep FROM netting_item
    WHERE payout_id = NEW.payout_id AND direction = 'sweep' FOR UPDATE;
    IF sweep.entry_id IS NULL THEN
        DELETE FROM netting_item WHERE payout_id = NEW.payout_id AND direction = 'sweep';
    ELSE
        INSERT INTO netting_item
        SELECT NEW.payout_id, 'return', sweep.connect_account_id, sweep.clearing_domain,
               r.target_clearing_domain, sweep.currency, -sweep.amount_minor, NEW.status_at,
               NULL, NULL
        FROM netting_run AS r WHERE r.run_id = sweep.run_id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER netting_paid_at_once AFTER INSERT ON payout
    FOR EACH ROW WHEN (NEW.status = 'paid') EXECUTE FUNCTION netting_queue_sweep();
CREATE TRIGGER netting_paid AFTER UPDATE OF status ON payout
    FOR EACH ROW WHEN (NEW.status = 'paid' AND OLD.status <> 'paid')
    EXECUTE FUNCTION netting_queue_sweep();
CREATE TRIGGER netting_failed_late AFTER UPDATE OF status ON payout
    FOR EACH ROW WHEN (OLD.status = 'paid' AND NEW.status <> 'paid')
    EXECUTE FUNCTION netting_queue_return();

-- After the triggers: they have locked out everybody who could make a payout paid unseen.
INSERT INTO netting_item
SELECT payout_id, 'sweep', connect_account_id, clearing_domain, NULL, currency, amount_minor,
       finalized_at, NULL, NULL
FROM payout WHERE status = 'paid';

-- Made at once over all that is queued: row by row they take four times as long.
CREATE INDEX netting_item_waiting
    ON netting_item (clearing_domain, currency, direction, at, payout_id COLLATE "C")
    WHERE entry_id IS NULL;
ALTER TABLE netting_item
    ADD CONSTRAINT netting_item_pk PRIMARY KEY (payout_id, direction),
    ADD CONSTRAINT netting_item_payout_fk FOREIGN KEY (payout_id) REFERENCES payout (payout_id),
    ADD CONSTRAINT netting_item_entry_fk FOREIGN KEY (run_id, entry_id)
        REFERENCES netting_entry (run_id, entry_id);

CREATE TABLE netting_audit (
    audit_id   bigint      GENERATED ALWAYS AS IDENTITY,
    run_id     text        NOT NULL,
    entry_id   text        COLLATE "C",
    event_type text        NOT NULL,
    details    text        NOT NULL,
    at         timestamptz NOT NULL,
    CONSTRAINT netting_audit_pk PRIMARY KEY (audit_id),
    CONSTRAINT netting_audit_run_fk FOREIGN KEY (run_id) REFERENCES netting_run (run_id)
);
CREATE INDEX netting_audit_of_run ON netting_audit (run_id, audit_id);

CREATE TABLE netting_report (
    run_id          text        NOT NULL,
    version         integer     NOT NULL,
    status          text        NOT NULL,
    artifact_sha256 text        NOT NULL,
    content         bytea       NOT NULL,
    completed_at    timestamptz NOT NULL,
    CONSTRAINT netting_report_pk PRIMARY KEY (run_id, version),
    CONSTRAINT netting_report_run_fk FOREIGN KEY (run_id) REFERENCES netting_run (run_id)
);
COMMENT ON COLUMN netting_report.content IS
    'the text that the hash is of, as zlib; a run that is resumed ends again, as the next version';
