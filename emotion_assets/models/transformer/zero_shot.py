"""Store an untuned base as a model of its own, which answers by the probability of the label words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from emotion_assets.models.kind import TrainingRun
from emotion_assets.models.networks import count_parameters
from emotion_assets.models.transformer.checkpoints import check_checkpoint, load_classifier, save_config
from emotion_assets.models.transformer.classifier import ClassifierConfig
from emotion_assets.models.transformer.compatibility import require_compatible
from emotion_assets.models.transformer.memory import Sizes
from emotion_assets.models.transformer.precision import MEASURED_ROWS, choose_measured_runtime
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, encode_answers, load_tokenizer, read_tokens
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training.runtime import Runtime, describe_dtype, peak_memory_mb


def store_untuned(run: TrainingRun) -> dict[str, Any]:
    """Write the config and the tokenizer of an untuned classifier into ``run.target``; the base stays where it is.

    Returns what ``Kind.train`` returns; nothing is trained.

    Raises:
        DataError: base, tokenizer and labels do not fit together, or the base is not causal.
    """
    base, tokens = run.inputs["base"], run.inputs["tokens"]
    tokenizer = load_tokenizer(tokens.file(TOKENIZER_FOLDER))
    base_config = check_checkpoint(base.path)
    summary = require_compatible(run, tokenizer, base_config, prompts=True)
    config = ClassifierConfig(
        method="zero_shot",
        objective="instruction",
        pooling="last",
        labels=list(run.labels),
        max_length=summary["max_length"],
        base_digest=base.digest,
        instruction=summary["instruction"],
        answers=encode_answers(tokenizer, run.labels),
        system=summary.get("system", ""),
        kind="zero_shot",
    )
    save_config(config, run.target)
    tokenizer.save_pretrained(run.target / TOKENIZER_FOLDER)
    rows, _ = read_tokens(tokens, "validation", "prompt_ids")

    def load_step(runtime: Runtime) -> Callable[[], None]:
        classifier = load_classifier(StoredFolder(run.target, ""), base, runtime)

        def step() -> None:
            with torch.no_grad(), runtime.autocast():
                classifier.log_probabilities(rows[:MEASURED_ROWS], runtime.device)

        return step

    runtime = choose_measured_runtime("auto", Sizes.of(base_config).parameters, load_step)
    if runtime.device.type == "cpu" and runtime.dtype == torch.bfloat16:
        config = replace(config, precision="bf16")
        save_config(config, run.target)
    classifier = load_classifier(StoredFolder(run.target, ""), base, runtime)
    return {
        "trainable_parameters": 0,
        "total_parameters": count_parameters(classifier)[1],
        "train_seconds": 0.0,
        "peak_memory_mb": peak_memory_mb(),
        "runtime": f"{runtime.device.type}, {describe_dtype(runtime.dtype)} ({runtime.why})",
        "base": base.info["origin"],
        "base_digest": base.digest,
    }
