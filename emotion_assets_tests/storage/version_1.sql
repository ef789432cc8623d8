-- The statements that made a database before its schema had a version, word for word.

-- Tables and views of the evaluation group. A row of evaluation, once written, is never changed: its key is
-- (model, split, model_version, split_fingerprint), kept by the statements under the one-writer lock.

CREATE TABLE IF NOT EXISTS evaluation (
    model                VARCHAR NOT NULL,
    base_model           VARCHAR NOT NULL,
    method               VARCHAR NOT NULL,
    profile              VARCHAR NOT NULL,
    dataset              VARCHAR NOT NULL,
    split                VARCHAR NOT NULL,
    split_fingerprint    VARCHAR NOT NULL,
    n_rows               BIGINT NOT NULL,
    model_version        VARCHAR NOT NULL,
    accuracy             DOUBLE NOT NULL,
    accuracy_low         DOUBLE NOT NULL,
    accuracy_high        DOUBLE NOT NULL,
    macro_f1             DOUBLE NOT NULL,
    weighted_f1          DOUBLE NOT NULL,
    log_loss             DOUBLE NOT NULL,
    ece                  DOUBLE NOT NULL,
    trainable_parameters BIGINT,
    total_parameters     BIGINT,
    train_seconds        DOUBLE,
    texts_per_second     DOUBLE,
    paper_accuracy       DOUBLE,
    evaluated_at         TIMESTAMPTZ NOT NULL,
    run_id               VARCHAR NOT NULL,
    model_digest         VARCHAR,
    macro_f1_low         DOUBLE,
    macro_f1_high        DOUBLE,
    temperature          DOUBLE,
    log_loss_scaled      DOUBLE,
    ece_scaled           DOUBLE,
    peak_memory_mb       DOUBLE
);

CREATE TABLE IF NOT EXISTS evaluation_by_class (
    model             VARCHAR NOT NULL,
    split             VARCHAR NOT NULL,
    model_version     VARCHAR NOT NULL,
    emotion           VARCHAR NOT NULL,
    support           BIGINT NOT NULL,
    precision         DOUBLE NOT NULL,
    recall            DOUBLE NOT NULL,
    f1                DOUBLE NOT NULL,
    split_fingerprint VARCHAR NOT NULL
);

CREATE TABLE IF NOT EXISTS confusion (
    model             VARCHAR NOT NULL,
    split             VARCHAR NOT NULL,
    model_version     VARCHAR NOT NULL,
    actual            VARCHAR NOT NULL,
    predicted         VARCHAR NOT NULL,
    n                 BIGINT NOT NULL,
    split_fingerprint VARCHAR NOT NULL
);

-- accuracy_difference: accuracy of a minus accuracy of b on the same rows.
CREATE TABLE IF NOT EXISTS model_comparison (
    split               VARCHAR NOT NULL,
    model_a             VARCHAR NOT NULL,
    model_b             VARCHAR NOT NULL,
    accuracy_difference DOUBLE NOT NULL,
    difference_low      DOUBLE NOT NULL,
    difference_high     DOUBLE NOT NULL,
    mcnemar_p           DOUBLE NOT NULL,
    version_a           VARCHAR NOT NULL,
    version_b           VARCHAR NOT NULL,
    only_a_right        BIGINT NOT NULL,
    only_b_right        BIGINT NOT NULL,
    split_fingerprint   VARCHAR NOT NULL
);

-- Which row of evaluation is about a model as it is now. A model trained back to an earlier version, or evaluated on an
-- earlier dataset again, gets no new row there; this table says that the old one counts again. The other way round, a
-- champion that is measured again on new rows gets a new row that is not about its model as it is now.
CREATE TABLE IF NOT EXISTS evaluation_current (
    model             VARCHAR NOT NULL,
    split             VARCHAR NOT NULL,
    model_version     VARCHAR NOT NULL,
    split_fingerprint VARCHAR NOT NULL,
    since             TIMESTAMPTZ NOT NULL
);

-- action: first, promoted, kept, pinned, rolled_back. numbers: JSON, what the rule said of each candidate. evidence:
-- fingerprint of all that led to the decision; the same evidence twice in a row is one row.
CREATE TABLE IF NOT EXISTS champion_decisions (
    decided_at          TIMESTAMPTZ NOT NULL,
    run_id              VARCHAR NOT NULL,
    action              VARCHAR NOT NULL,
    pinned              BOOLEAN NOT NULL,
    model               VARCHAR NOT NULL,
    model_version       VARCHAR NOT NULL,
    model_digest        VARCHAR NOT NULL,
    predecessor_model   VARCHAR,
    predecessor_version VARCHAR,
    predecessor_digest  VARCHAR,
    split_fingerprint   VARCHAR,
    reason              VARCHAR NOT NULL,
    numbers             VARCHAR NOT NULL,
    evidence            VARCHAR NOT NULL
);

-- Each model's newest version on the test split, best first. comparable: measured on the rows that were evaluated last;
-- a row of a model that left the profile, or of another dataset, may stand on other rows and comes after the others.
CREATE OR REPLACE VIEW leaderboard AS
WITH newest AS (
    SELECT e.*, coalesce(c.since, e.evaluated_at) AS current_at
    FROM evaluation e
    LEFT JOIN evaluation_current c USING (model, split, model_version, split_fingerprint)
    WHERE e.split = 'test'
    QUALIFY row_number() OVER (PARTITION BY e.model ORDER BY c.since DESC NULLS LAST, e.evaluated_at DESC) = 1
)
SELECT
    * EXCLUDE (current_at),
    split_fingerprint = first_value(split_fingerprint) OVER (ORDER BY current_at DESC, n_rows DESC) AS comparable
FROM newest
ORDER BY comparable DESC, accuracy DESC, total_parameters, model;

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
