-- Feedback has sources, versions of a text, and an identity beside its id. What was there before is of the source default;
-- its identities are filled in when feedback is next stored (warehouse.feedback.fill_identities).

ALTER TABLE ingested_files ADD COLUMN source VARCHAR DEFAULT 'default';
ALTER TABLE ingested_files ALTER COLUMN source SET NOT NULL;

ALTER TABLE feedback ADD COLUMN source VARCHAR DEFAULT 'default';
ALTER TABLE feedback ALTER COLUMN source SET NOT NULL;
ALTER TABLE feedback ADD COLUMN identity VARCHAR DEFAULT '';
ALTER TABLE feedback ALTER COLUMN identity SET NOT NULL;
ALTER TABLE feedback ADD COLUMN version BIGINT DEFAULT '1';
ALTER TABLE feedback ALTER COLUMN version SET NOT NULL;
