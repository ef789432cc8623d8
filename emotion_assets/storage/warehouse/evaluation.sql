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
