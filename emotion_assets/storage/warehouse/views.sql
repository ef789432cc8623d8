-- The views, made anew whenever this file, a table or a migration has changed.

-- The row of evaluation that counts of each model version on each split: the current one, else the newest. Rows of
-- predictions or metrics that were replaced stay in evaluation and are not among them.
CREATE OR REPLACE VIEW newest_evaluations AS
SELECT e.*, coalesce(c.since, e.evaluated_at) AS current_at, c.since IS NOT NULL AS is_current
FROM evaluation e
LEFT JOIN evaluation_current c
    USING (model, split, model_version, split_fingerprint, predictions_digest, metrics_version)
QUALIFY row_number() OVER (
    PARTITION BY e.model, e.split, e.model_version, e.split_fingerprint
    ORDER BY c.since DESC NULLS LAST, e.evaluated_at DESC
) = 1;

-- Each model's newest version on the test split, best first. comparable: measured on the rows that were evaluated last;
-- a row of a model that left the profile, or of another dataset, may stand on other rows and comes after the others.
CREATE OR REPLACE VIEW leaderboard AS
WITH newest AS (
    SELECT *
    FROM newest_evaluations
    WHERE split = 'test'
    QUALIFY row_number() OVER (PARTITION BY model ORDER BY is_current DESC, current_at DESC) = 1
)
SELECT
    * EXCLUDE (current_at, is_current),
    split_fingerprint = first_value(split_fingerprint) OVER (ORDER BY current_at DESC, n_rows DESC) AS comparable
FROM newest
ORDER BY comparable DESC, accuracy DESC, total_parameters, model;

-- moment: when a row counts as written. A date before 1990 or after receipt is none (0001, 1900, 1970: programs' empty
-- dates), and the row counts when it was received. is_dated: false for such a row, a day's difference of zones apart.
CREATE OR REPLACE VIEW feedback_moments AS
SELECT
    feedback_id,
    CASE WHEN created_at >= TIMESTAMPTZ '1990-01-01 00:00:00+00' THEN least(created_at, received_at)
         ELSE received_at END AS moment,
    coalesce(
        created_at >= TIMESTAMPTZ '1990-01-01 00:00:00+00' AND created_at <= received_at + INTERVAL 1 DAY, true
    ) AS is_dated
FROM feedback;

-- Texts that a later one of the same id has replaced: the time they were written decides, then the order they came in.
CREATE OR REPLACE VIEW superseded_feedback AS
SELECT feedback_id
FROM feedback
WHERE (source, identity) IN (SELECT (source, identity) FROM feedback WHERE version > 1)
QUALIFY row_number() OVER (
    PARTITION BY source, identity
    ORDER BY coalesce(created_at, received_at) DESC, received_at DESC, version DESC
) > 1;

CREATE OR REPLACE VIEW current_scores AS
SELECT s.*
FROM scored_feedback s
JOIN scoring_models m USING (model_version)
ANTI JOIN superseded_feedback USING (feedback_id)
WHERE m.place = (SELECT max(place) FROM scoring_models);

-- Each row's score by the newest model that has scored it: history that no later champion has rescored stays visible.
CREATE OR REPLACE VIEW latest_scores AS
SELECT s.*
FROM scored_feedback s
JOIN scoring_models m USING (model_version)
ANTI JOIN superseded_feedback USING (feedback_id)
QUALIFY row_number() OVER (PARTITION BY s.feedback_id ORDER BY m.place DESC) = 1;
