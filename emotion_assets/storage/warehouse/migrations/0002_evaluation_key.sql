-- Predictions made anew and metrics defined anew get rows of their own: both join the key of an evaluation. Rows of before
-- carry the empty string, which no later row does.

ALTER TABLE evaluation ADD COLUMN predictions_digest VARCHAR DEFAULT '';
ALTER TABLE evaluation ALTER COLUMN predictions_digest SET NOT NULL;
ALTER TABLE evaluation ADD COLUMN metrics_version VARCHAR DEFAULT '';
ALTER TABLE evaluation ALTER COLUMN metrics_version SET NOT NULL;

ALTER TABLE evaluation_by_class ADD COLUMN predictions_digest VARCHAR DEFAULT '';
ALTER TABLE evaluation_by_class ALTER COLUMN predictions_digest SET NOT NULL;
ALTER TABLE evaluation_by_class ADD COLUMN metrics_version VARCHAR DEFAULT '';
ALTER TABLE evaluation_by_class ALTER COLUMN metrics_version SET NOT NULL;

ALTER TABLE confusion ADD COLUMN predictions_digest VARCHAR DEFAULT '';
ALTER TABLE confusion ALTER COLUMN predictions_digest SET NOT NULL;
ALTER TABLE confusion ADD COLUMN metrics_version VARCHAR DEFAULT '';
ALTER TABLE confusion ALTER COLUMN metrics_version SET NOT NULL;

ALTER TABLE model_comparison ADD COLUMN predictions_a VARCHAR DEFAULT '';
ALTER TABLE model_comparison ALTER COLUMN predictions_a SET NOT NULL;
ALTER TABLE model_comparison ADD COLUMN predictions_b VARCHAR DEFAULT '';
ALTER TABLE model_comparison ALTER COLUMN predictions_b SET NOT NULL;
ALTER TABLE model_comparison ADD COLUMN metrics_version VARCHAR DEFAULT '';
ALTER TABLE model_comparison ALTER COLUMN metrics_version SET NOT NULL;

ALTER TABLE evaluation_current ADD COLUMN predictions_digest VARCHAR DEFAULT '';
ALTER TABLE evaluation_current ALTER COLUMN predictions_digest SET NOT NULL;
ALTER TABLE evaluation_current ADD COLUMN metrics_version VARCHAR DEFAULT '';
ALTER TABLE evaluation_current ALTER COLUMN metrics_version SET NOT NULL;
