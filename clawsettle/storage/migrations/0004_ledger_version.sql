-- A number that every stored batch of the ledger raises, so that a writer can tell whether the book
-- it has decided on is still the latest one.
-- Locks: ledger_tail, exclusively, for the change of its one row's definition.
-- Daemons of the release before write under the tail's lock and do not raise it; each effect on
-- money moves seq, which is compared too.

ALTER TABLE ledger_tail ADD COLUMN version bigint NOT NULL DEFAULT 0;
