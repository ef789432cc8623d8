-- Tables and views of the dataset and feedback groups. Row identity is kept by the ledger's joins under the one-writer
-- lock; there are no primary keys because their index is rebuilt in memory at every open.

CREATE TABLE IF NOT EXISTS class_balance (
    split   VARCHAR NOT NULL,
    emotion VARCHAR NOT NULL,
    n       BIGINT NOT NULL,
    share   DOUBLE NOT NULL
);

-- One row per file content ever seen. status: ingested or quarantined. reading: fingerprint of the reading settings.
CREATE TABLE IF NOT EXISTS ingested_files (
    file_sha256    VARCHAR NOT NULL,
    file_name      VARCHAR NOT NULL,
    status         VARCHAR NOT NULL CHECK (status IN ('ingested', 'quarantined')),
    reason         VARCHAR,
    rows_read      BIGINT NOT NULL,
    rows_accepted  BIGINT NOT NULL,
    rows_duplicate BIGINT NOT NULL,
    rows_rejected  BIGINT NOT NULL,
    ingested_at    TIMESTAMPTZ NOT NULL,
    run_id         VARCHAR NOT NULL,
    size_bytes     BIGINT NOT NULL,
    reading        VARCHAR NOT NULL,
    CHECK (rows_read = rows_accepted + rows_duplicate + rows_rejected)
);

-- attributes: every other column of the file, as one JSON object.
CREATE TABLE IF NOT EXISTS feedback (
    feedback_id   VARCHAR NOT NULL,
    text          VARCHAR NOT NULL,
    created_at    TIMESTAMPTZ,
    received_at   TIMESTAMPTZ NOT NULL,
    source_sha256 VARCHAR NOT NULL,
    row_number    BIGINT NOT NULL,
    attributes    VARCHAR NOT NULL
);

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

CREATE TABLE IF NOT EXISTS feedback_rejects (
    source_sha256 VARCHAR NOT NULL,
    row_number    BIGINT NOT NULL,
    reason_code   VARCHAR NOT NULL,
    detail        VARCHAR NOT NULL,
    raw_excerpt   VARCHAR NOT NULL
);

-- One row per model version that has scored feedback. place: 1 for the first, rising; the highest scored last. A new
-- champion is not among them before its first scoring run.
-- labels: the order of scored_feedback.probabilities. temperature and threshold: chosen on the validation split; when
-- they change, the version's rows of scored_feedback change with them, in one transaction.
CREATE TABLE IF NOT EXISTS scoring_models (
    model_version   VARCHAR NOT NULL,
    model           VARCHAR NOT NULL,
    place           BIGINT NOT NULL,
    labels          VARCHAR[] NOT NULL,
    temperature     DOUBLE NOT NULL,
    threshold       DOUBLE NOT NULL,
    target_accuracy DOUBLE NOT NULL,
    coverage        DOUBLE NOT NULL,
    validation_rows BIGINT NOT NULL,
    recorded_at     TIMESTAMPTZ NOT NULL
);

CREATE TABLE IF NOT EXISTS scored_feedback (
    feedback_id   VARCHAR NOT NULL,
    model_version VARCHAR NOT NULL,
    emotion       VARCHAR NOT NULL,
    confidence    DOUBLE NOT NULL,
    probabilities FLOAT[] NOT NULL,
    status        VARCHAR NOT NULL CHECK (status IN ('ok', 'abstain', 'truncated')),
    scored_at     TIMESTAMPTZ NOT NULL,
    run_id        VARCHAR NOT NULL,
    truncated     BOOLEAN NOT NULL
);

-- reason: abstain or audit. audit: drawn at random, so that accuracy measured on reviewed rows is not biased.
CREATE TABLE IF NOT EXISTS review_queue (
    feedback_id VARCHAR NOT NULL,
    text        VARCHAR NOT NULL,
    emotion     VARCHAR NOT NULL,
    confidence  DOUBLE NOT NULL,
    reason      VARCHAR NOT NULL CHECK (reason IN ('abstain', 'audit')),
    label       VARCHAR,
    reviewer    VARCHAR,
    reviewed_at TIMESTAMPTZ,
    audit       BOOLEAN NOT NULL
);

CREATE OR REPLACE VIEW current_scores AS
SELECT s.*
FROM scored_feedback s
JOIN scoring_models m USING (model_version)
WHERE m.place = (SELECT max(place) FROM scoring_models);

-- Each row's score by the newest model that has scored it: history that no later champion has rescored stays visible.
CREATE OR REPLACE VIEW latest_scores AS
SELECT s.*
FROM scored_feedback s
JOIN scoring_models m USING (model_version)
QUALIFY row_number() OVER (PARTITION BY s.feedback_id ORDER BY m.place DESC) = 1;
