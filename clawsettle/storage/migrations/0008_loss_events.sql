-- Loss events, their resolutions, and the deliveries of both to the targets that must act on them.
-- Locks: nothing that is there; all is created only.

CREATE TABLE loss_event (
    loss_event_id     text        COLLATE "C" NOT NULL,
    idempotency_key   text        NOT NULL,
    request_hash      text        NOT NULL,
    source_service    text        NOT NULL,
    source_event_id   text        NOT NULL,
    account_did       text        NOT NULL,
    account_id        text,
    amount_minor      bigint      NOT NULL,
    currency          char(3)     NOT NULL,
    reason_code       text        NOT NULL,
    severity          text        NOT NULL,
    occurred_at       timestamptz NOT NULL,
    metadata          text        NOT NULL,
    status            text        NOT NULL,
    target_count      integer     NOT NULL,
    forwarded_count   integer     NOT NULL DEFAULT 0,
    failed_count      integer     NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    last_forwarded_at timestamptz,
    CONSTRAINT loss_event_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT loss_event_severity_known
        CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT loss_event_status_known CHECK (
        status IN ('recorded', 'processing', 'partially_forwarded', 'forwarded', 'failed')
    ),
    CONSTRAINT loss_event_counts CHECK (
        forwarded_count >= 0 AND failed_count >= 0 AND forwarded_count + failed_count <= target_count
    )
);
COMMENT ON COLUMN loss_event.metadata IS
    'the caller''s object with the overlays, as JSON text: what is sent is what was given';
CREATE INDEX loss_event_by_status ON loss_event (status, created_at DESC, loss_event_id DESC);
CREATE INDEX loss_event_by_service
    ON loss_event (source_service, status, created_at DESC, loss_event_id DESC);
CREATE INDEX loss_event_by_account
    ON loss_event (account_id, created_at DESC, loss_event_id DESC) WHERE account_id IS NOT NULL;

CREATE TABLE loss_resolution (
    loss_event_id     text        COLLATE "C" NOT NULL,
    resolution_id     text        NOT NULL,
    idempotency_key   text        NOT NULL,
    request_hash      text        NOT NULL,
    reason            text,
    status            text        NOT NULL,
    target_count      integer     NOT NULL,
    forwarded_count   integer     NOT NULL DEFAULT 0,
    failed_count      integer     NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    last_forwarded_at timestamptz,
    resolved_at       timestamptz,
    CONSTRAINT loss_resolution_status_known CHECK (
        status IN ('recorded', 'processing', 'partially_forwarded', 'forwarded', 'failed')
    ),
    CONSTRAINT loss_resolution_resolved_once CHECK (status <> 'forwarded' OR resolved_at IS NOT NULL)
);

CREATE TABLE loss_delivery (
    loss_event_id      text        COLLATE "C" NOT NULL,
    operation          text        NOT NULL,
    target             text        NOT NULL,
    delivery_id        text        COLLATE "C" NOT NULL,
    escrow_id          text,
    state              text        NOT NULL,
    attempts           integer     NOT NULL DEFAULT 0,
    opened_at          timestamptz NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    due_at             timestamptz,
    lease_token        bigint,
    in_doubt           boolean     NOT NULL DEFAULT false,
    is_shared          boolean     NOT NULL DEFAULT false,
    last_http_status   integer,
    last_error_code    text,
    last_error_message text,
    last_attempted_at  timestamptz,
    forwarded_at       timestamptz,
    CONSTRAINT loss_delivery_operation_known CHECK (operation IN ('apply', 'resolve')),
    CONSTRAINT loss_delivery_target_known CHECK (
        target IN ('ledger', 'escrow', 'clawinsure', 'clawincome', 'clawbounties')
    ),
    CONSTRAINT loss_delivery_state_known CHECK (state IN (
        'pending', 'waiting', 'failed', 'forwarded', 'not_applicable', 'dead', 'canceled'
    )),
    CONSTRAINT loss_delivery_open_is_due CHECK (
        (state IN ('pending', 'waiting', 'failed')) = (due_at IS NOT NULL)
    ),
    CONSTRAINT loss_delivery_leased_is_open CHECK (lease_token IS NULL OR due_at IS NOT NULL),
    CONSTRAINT loss_delivery_forwarded_has_time
        CHECK ((state = 'forwarded') = (forwarded_at IS NOT NULL)),
    CONSTRAINT loss_delivery_escrow_is_named
        CHECK ((target = 'escrow') = (escrow_id IS NOT NULL))
);
COMMENT ON COLUMN loss_delivery.due_at IS
    'when the row may be claimed: its next attempt, or the end of its lease while it has one';
COMMENT ON COLUMN loss_delivery.in_doubt IS
    'whether the target may have acted on an attempt without our knowing';
COMMENT ON COLUMN loss_delivery.is_shared IS
    'apply: the escrow was held already for another event of ours; resolve: it stays held for one';
COMMENT ON COLUMN loss_delivery.opened_at IS
    'since when attempts are counted: when the row was recorded, requeued, or first taken up after waiting';

-- One backlog a target, so that none waits behind the rows of another.
CREATE INDEX loss_delivery_due ON loss_delivery (target, due_at, delivery_id)
    WHERE due_at IS NOT NULL;
CREATE INDEX loss_delivery_by_escrow ON loss_delivery (escrow_id) WHERE escrow_id IS NOT NULL;
CREATE INDEX loss_delivery_newest
    ON loss_delivery (operation, target, state, created_at DESC, delivery_id DESC);

CREATE TABLE loss_escrow (
    escrow_id text NOT NULL,
    CONSTRAINT loss_escrow_pk PRIMARY KEY (escrow_id)
);
COMMENT ON TABLE loss_escrow IS
    'one row an escrow, locked while it is decided whose its hold is; it says nothing itself';

-- Keys come after the indexes of lists: a statement that is planned on empty tables takes the newest
-- of the indexes that cost the same there, and ids are to be looked up by their own.
ALTER TABLE loss_event
    ADD CONSTRAINT loss_event_source_once UNIQUE (source_event_id, source_service),
    ADD CONSTRAINT loss_event_key_once UNIQUE (idempotency_key),
    ADD CONSTRAINT loss_event_pk PRIMARY KEY (loss_event_id);
ALTER TABLE loss_resolution
    ADD CONSTRAINT loss_resolution_id_once UNIQUE (resolution_id),
    ADD CONSTRAINT loss_resolution_key_once UNIQUE (idempotency_key),
    ADD CONSTRAINT loss_resolution_pk PRIMARY KEY (loss_event_id),
    ADD CONSTRAINT loss_resolution_event_fk FOREIGN KEY (loss_event_id)
        REFERENCES loss_event (loss_event_id);
ALTER TABLE loss_delivery
    ADD CONSTRAINT loss_delivery_pk PRIMARY KEY (loss_event_id, operation, target),
    ADD CONSTRAINT loss_delivery_id_once UNIQUE (delivery_id),
    ADD CONSTRAINT loss_delivery_event_fk FOREIGN KEY (loss_event_id)
        REFERENCES loss_event (loss_event_id);
CREATE INDEX loss_delivery_dead ON loss_delivery (target, delivery_id) WHERE state = 'dead';
