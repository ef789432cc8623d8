"""Asset keys: one spelling for the whole graph."""

from __future__ import annotations

MAIN_MODEL = "llama3_lora_model"
"""The name in a profile of the model that the graph is about."""

DATASET_SOURCE = ["dataset_source"]
"""Where the labelled text comes from: observed, not made."""

RAW_DATASET = ["raw_emotion_dataset"]
BALANCE = ["class_balance_report"]
EVALUATION = ["evaluation_table"]
CHAMPION = ["champion_model"]
SWEEP = ["sweep"]
"""What a sweep of seeds and learning rates found: reported by its job, not materialised."""

FEEDBACK = ["feedback"]
SCORED_FEEDBACK = ["scored_feedback"]
CHAMPION_PREDICTIONS = [*CHAMPION, "predictions"]
"""A pointer of the store, not an asset: the predictions of the very version that is champion."""


def tokens_key(tokenizer: str) -> list[str]:
    return ["tokenised_splits", tokenizer]


def base_key(base: str) -> list[str]:
    return ["base_models", base]


def model_key(model: str) -> list[str]:
    """The main model stands alone; every other model is a baseline."""
    return [model] if model == MAIN_MODEL else ["baseline_models", model]


def predictions_key(model: str) -> list[str]:
    return ["predictions", model]
