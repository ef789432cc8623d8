"""The tables of the warehouse. Each row class is the one declaration of its table.

To add a column: append a field that may be NULL, at the end of its class; existing databases get the column at their
next write. Anything else (a column that may not be NULL, another type, another name) needs a numbered file in
``migrations/`` too. There are no primary keys: their index would be rebuilt in memory at every open. The statements
keep the keys, under the one-writer lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from emotion_assets.storage.warehouse.declaration import Default, Row

Status = Literal["ok", "abstain", "truncated"]


@dataclass(frozen=True, kw_only=True)
class ClassBalance(Row):
    """How many rows of each split carry each label."""

    table = "class_balance"

    split: Annotated[str, "train, validation or test"]
    emotion: Annotated[str, "label"]
    n: Annotated[int, "rows of the split with this label"]
    share: Annotated[float, "share of the split's rows, 0 to 1"]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Row):
    """The figures of one model version on one split. A row, once written, is never changed. Its key is model, split,
    model_version, split_fingerprint, predictions_digest and metrics_version."""

    table = "evaluation"

    model: Annotated[str, "name of the model in the profile"]
    base_model: Annotated[str, "checkpoint that the model was tuned from"]
    method: Annotated[str, "how it was trained"]
    profile: Annotated[str, "profile of the evaluation"]
    dataset: Annotated[str, "name of the dataset"]
    split: Annotated[str, "validation or test"]
    split_fingerprint: Annotated[str, "sha256 of the split's rows"]
    n_rows: Annotated[int, "rows of the split"]
    model_version: Annotated[str, "first 12 hex digits of model_digest"]
    accuracy: Annotated[float, "share of rows predicted right"]
    accuracy_low: Annotated[float, "lower bound of its 95% interval (Wilson)"]
    accuracy_high: Annotated[float, "upper bound of its 95% interval (Wilson)"]
    macro_f1: Annotated[float, "mean F1 of the labels"]
    weighted_f1: Annotated[float, "mean F1 of the labels, weighted by their rows"]
    log_loss: Annotated[float, "mean -ln of the right label's probability, in nats"]
    ece: Annotated[float, "expected calibration error, 15 bins"]
    trainable_parameters: Annotated[int | None, "parameters that training changed"]
    total_parameters: Annotated[int | None, "parameters of the whole model"]
    train_seconds: Annotated[float | None, "seconds of training"]
    texts_per_second: Annotated[float | None, "texts scored in a second when the predictions were made"]
    paper_accuracy: Annotated[float | None, "published accuracy, where the rows are the official test split"]
    evaluated_at: Annotated[datetime, "when the row was written"]
    run_id: Annotated[str, "Dagster run that wrote it"]
    model_digest: Annotated[str | None, "sha256 of the stored model"] = None
    macro_f1_low: Annotated[float | None, "lower bound of its 95% interval (bootstrap)"] = None
    macro_f1_high: Annotated[float | None, "upper bound of its 95% interval (bootstrap)"] = None
    temperature: Annotated[float | None, "temperature fitted on validation"] = None
    log_loss_scaled: Annotated[float | None, "log loss after temperature scaling; test alone"] = None
    ece_scaled: Annotated[float | None, "calibration error after temperature scaling; test alone"] = None
    peak_memory_mb: Annotated[float | None, "peak memory of the training, in MB"] = None
    predictions_digest: Annotated[str, "sha256 of the stored predictions; empty before schema version 2", Default("")]
    metrics_version: Annotated[str, "version of the metrics; empty before schema version 2", Default("")]


@dataclass(frozen=True, kw_only=True)
class EvaluationByClass(Row):
    """The figures of one label; belongs to the row of evaluation with the same key."""

    table = "evaluation_by_class"

    model: Annotated[str, "name of the model in the profile"]
    split: Annotated[str, "validation or test"]
    model_version: Annotated[str, "version of the model"]
    emotion: Annotated[str, "label"]
    support: Annotated[int, "rows with this label"]
    precision: Annotated[float, "share of the rows predicted so that are so"]
    recall: Annotated[float, "share of the label's rows that are predicted so"]
    f1: Annotated[float, "harmonic mean of precision and recall"]
    split_fingerprint: Annotated[str, "sha256 of the split's rows"]
    predictions_digest: Annotated[str, "sha256 of the stored predictions", Default("")]
    metrics_version: Annotated[str, "version of the metrics", Default("")]


@dataclass(frozen=True, kw_only=True)
class Confusion(Row):
    """One cell of a confusion matrix; belongs to the row of evaluation with the same key."""

    table = "confusion"

    model: Annotated[str, "name of the model in the profile"]
    split: Annotated[str, "validation or test"]
    model_version: Annotated[str, "version of the model"]
    actual: Annotated[str, "label of the rows"]
    predicted: Annotated[str, "label that the model gave"]
    n: Annotated[int, "how many rows"]
    split_fingerprint: Annotated[str, "sha256 of the split's rows"]
    predictions_digest: Annotated[str, "sha256 of the stored predictions", Default("")]
    metrics_version: Annotated[str, "version of the metrics", Default("")]


@dataclass(frozen=True, kw_only=True)
class ModelComparison(Row):
    """Two models on the same rows."""

    table = "model_comparison"

    split: Annotated[str, "validation or test"]
    model_a: Annotated[str, "the model that comes first in the alphabet"]
    model_b: Annotated[str, "the other model"]
    accuracy_difference: Annotated[float, "accuracy of a minus accuracy of b"]
    difference_low: Annotated[float, "lower bound of its 95% interval (paired bootstrap)"]
    difference_high: Annotated[float, "upper bound of its 95% interval (paired bootstrap)"]
    mcnemar_p: Annotated[float, "p value of McNemar's exact test"]
    version_a: Annotated[str, "version of model a"]
    version_b: Annotated[str, "version of model b"]
    only_a_right: Annotated[int, "rows that model a alone has right"]
    only_b_right: Annotated[int, "rows that model b alone has right"]
    split_fingerprint: Annotated[str, "sha256 of the split's rows"]
    predictions_a: Annotated[str, "sha256 of the stored predictions of model a", Default("")]
    predictions_b: Annotated[str, "sha256 of the stored predictions of model b", Default("")]
    metrics_version: Annotated[str, "version of the metrics", Default("")]


@dataclass(frozen=True, kw_only=True)
class EvaluationCurrent(Row):
    """Which row of evaluation is about a model as it is now.

    A model trained back to an earlier version, or evaluated on an earlier dataset again, gets no new row there; this
    table says that the old one counts again. The other way round, a champion that is measured again on new rows gets a
    new row that is not about its model as it is now.
    """

    table = "evaluation_current"

    model: Annotated[str, "name of the model in the profile"]
    split: Annotated[str, "validation or test"]
    model_version: Annotated[str, "version of the model"]
    split_fingerprint: Annotated[str, "sha256 of the split's rows"]
    since: Annotated[datetime, "when it became the current one"]
    predictions_digest: Annotated[str, "sha256 of the stored predictions", Default("")]
    metrics_version: Annotated[str, "version of the metrics", Default("")]


@dataclass(frozen=True, kw_only=True)
class ChampionDecision(Row):
    """Which model version scores feedback from then on, and why."""

    table = "champion_decisions"

    decided_at: Annotated[datetime, "when it was decided"]
    run_id: Annotated[str, "Dagster run that decided"]
    action: Annotated[str, "first, promoted, kept, pinned or rolled_back"]
    pinned: Annotated[bool, "whether it holds until unpinned"]
    model: Annotated[str, "the champion"]
    model_version: Annotated[str, "its version"]
    model_digest: Annotated[str, "sha256 of the stored model"]
    predecessor_model: Annotated[str | None, "the champion before"]
    predecessor_version: Annotated[str | None, "its version"]
    predecessor_digest: Annotated[str | None, "sha256 of its stored model"]
    split_fingerprint: Annotated[str | None, "validation rows that decided; none for a pin"]
    reason: Annotated[str, "why, in a sentence"]
    numbers: Annotated[str, "JSON: what the rule said of each candidate"]
    evidence: Annotated[str, "fingerprint of all that led to it; the same evidence twice in a row is one decision"]


@dataclass(frozen=True, kw_only=True)
class IngestedFile(Row):
    """A file of the inbox, by its content. One row per content ever seen."""

    table = "ingested_files"
    check = "rows_read = rows_accepted + rows_duplicate + rows_rejected"

    file_sha256: Annotated[str, "sha256 of the file's content"]
    file_name: Annotated[str, "name it was first read under"]
    status: Annotated[Literal["ingested", "quarantined"], "ingested or quarantined"]
    reason: Annotated[str | None, "why it was quarantined"]
    rows_read: Annotated[int, "rows of the file"]
    rows_accepted: Annotated[int, "rows that are new in feedback"]
    rows_duplicate: Annotated[int, "rows that feedback has already"]
    rows_rejected: Annotated[int, "rows in feedback_rejects"]
    ingested_at: Annotated[datetime, "when it was read"]
    run_id: Annotated[str, "Dagster run that read it"]
    size_bytes: Annotated[int, "size of the file"]
    reading: Annotated[str, "fingerprint of the settings that it was read with"]
    source: Annotated[str, "folder of the inbox that it came in, or default", Default("default")]
    rows_undated: Annotated[int | None, "accepted rows whose created_at could not be read"] = None
    dating: Annotated[str | None, "fingerprint of the settings that their times were last tried with, if later"] = None


@dataclass(frozen=True, kw_only=True)
class Feedback(Row):
    """An accepted row of feedback."""

    table = "feedback"

    feedback_id: Annotated[str, "id from the file, after the source's name; or made from the content"]
    text: Annotated[str, "what the customer wrote"]
    created_at: Annotated[datetime | None, "when it was written, from the file"]
    received_at: Annotated[datetime, "when it was read here"]
    source_sha256: Annotated[str, "file that it came in"]
    row_number: Annotated[int, "its row in that file, from 1"]
    attributes: Annotated[str, "JSON object: every other column of the file"]
    source: Annotated[str, "folder of the inbox that it came in, or default", Default("default")]
    identity: Annotated[str, "what makes it the same row within its source: its id, or its content", Default("")]
    version: Annotated[int, "1, and more for each later text of the same id", Default("1")]


@dataclass(frozen=True, kw_only=True)
class FeedbackReject(Row):
    """A row of a file that was not accepted, and why."""

    table = "feedback_rejects"

    source_sha256: Annotated[str, "file that it came in"]
    row_number: Annotated[int, "its row in that file, from 1"]
    reason_code: Annotated[str, "kind of reason"]
    detail: Annotated[str, "reason in words"]
    raw_excerpt: Annotated[str, "beginning of the row as it was"]


@dataclass(frozen=True, kw_only=True)
class FeedbackUndated(Row):
    """How many accepted rows of a file have a created_at of a form that could not be read."""

    table = "feedback_undated"

    source_sha256: Annotated[str, "file that they came in"]
    source: Annotated[str, "folder of the inbox that it came in, or default"]
    form: Annotated[str, "the value with its digits as 9 and its letters as A"]
    n: Annotated[int, "rows"]


@dataclass(frozen=True, kw_only=True)
class Forgotten(Row):
    """A row that was removed for good: it is known by a salted hash and not accepted again."""

    table = "forgotten"

    source: Annotated[str, "source that it was of"]
    salt: Annotated[str, "random, the same for every row"]
    identity_hash: Annotated[str, "sha256 of salt and identity, or of salt and the row's place in its file"]
    forgotten_at: Annotated[datetime, "when it was removed"]


@dataclass(frozen=True, kw_only=True)
class ScoringModel(Row):
    """A model version that has scored feedback, or two models in a cascade. When temperature or threshold change, its
    rows of scored_feedback change with them, in one transaction. Probabilities of a cascade are calibrated for each of
    its models; its temperature is 1."""

    table = "scoring_models"

    model_version: Annotated[str, "version of the model"]
    model: Annotated[str, "name of the model in the profile"]
    place: Annotated[int, "1 for the first that scored, rising; the highest scored last"]
    labels: Annotated[list[str], "order of scored_feedback.probabilities"]
    temperature: Annotated[float, "chosen on validation"]
    threshold: Annotated[float, "chosen on validation: less confident answers abstain"]
    target_accuracy: Annotated[float, "accuracy that the threshold was chosen for"]
    coverage: Annotated[float, "share of validation rows that are answered"]
    validation_rows: Annotated[int, "rows that it was chosen on"]
    recorded_at: Annotated[datetime, "when it was recorded"]
    decision_rule: Annotated[str | None, "version of the rule that gave its scores their status"] = None
    first_model: Annotated[str | None, "of a cascade: the cheap model that answers first"] = None
    first_version: Annotated[str | None, "of a cascade: version of that model"] = None
    last_version: Annotated[str | None, "of a cascade: version of the champion, which answers the rest"] = None
    first_threshold: Annotated[float | None, "of a cascade: confidence from which on the cheap model answers"] = None
    first_share: Annotated[float | None, "of a cascade: share of validation rows that the cheap model answers"] = None
    first_agreement: Annotated[float | None, "of a cascade: share of those with the champion's label"] = None


@dataclass(frozen=True, kw_only=True)
class ScoredFeedback(Row):
    """The score of one row of feedback by one model version, the key."""

    table = "scored_feedback"

    feedback_id: Annotated[str, "row of feedback"]
    model_version: Annotated[str, "version of the model that scored it"]
    emotion: Annotated[str, "most probable label"]
    confidence: Annotated[float, "its probability, 0 to 1"]
    probabilities: Annotated[list[float], "probability of every label, in the order of scoring_models.labels"]
    status: Annotated[Status, "ok, abstain (not sure enough) or truncated (longer than the model reads)"]
    scored_at: Annotated[datetime, "when it was scored"]
    run_id: Annotated[str, "Dagster run that scored it"]
    truncated: Annotated[bool, "whether the text is longer than the model reads"]
    answered_by: Annotated[str | None, "of a cascade: version of the model that gave the score"] = None


@dataclass(frozen=True, kw_only=True)
class ReviewItem(Row):
    """A row of feedback for a person to label."""

    table = "review_queue"

    feedback_id: Annotated[str, "row of feedback"]
    text: Annotated[str, "what the customer wrote"]
    emotion: Annotated[str, "label that the model gave"]
    confidence: Annotated[float, "its probability, 0 to 1"]
    reason: Annotated[Literal["abstain", "audit"], "abstain (not sure) or audit (drawn at random)"]
    label: Annotated[str | None, "label that a person gave"] = None
    reviewer: Annotated[str | None, "who gave it"] = None
    reviewed_at: Annotated[datetime | None, "when"] = None
    audit: Annotated[bool, "whether it was drawn at random: accuracy on such rows is not biased"]


TABLES: tuple[type[Row], ...] = tuple(Row.__subclasses__())
"""Every declared table."""
