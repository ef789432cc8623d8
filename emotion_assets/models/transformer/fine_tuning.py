"""Fine-tune a base checkpoint on stored tokens; parts that do not fit together are refused first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from emotion_assets.models.kind import TrainingRun
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.networks import accuracy_of, describe_training, require_finite
from emotion_assets.models.transformer.attention import choose_backend
from emotion_assets.models.transformer.checkpoints import check_checkpoint, new_classifier, save_classifier
from emotion_assets.models.transformer.classifier import COUNT_FROM_PADDING, Classifier, ClassifierConfig
from emotion_assets.models.transformer.memory import Sizes, check_memory, rows_per_forward
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, encode_answers, load_tokenizer, read_tokens
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training import distributed
from emotion_assets.training.runtime import Runtime, choose_runtime, cpu_has_bf16, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask

LARGE_BASE = 50_000_000  # parameters; below it matrix products are not what a step's time goes into


def fine_tune(model: TransformerModel, run: TrainingRun) -> dict[str, Any]:
    """Fine-tune the stored ``base`` on the stored ``tokens``, with LoRA or whole, and save the classifier.

    Raises:
        DataError: base, tokenizer and labels do not fit together, or the memory is too small.
        TrainingError: the loss, a gradient or a weight is not finite.
    """
    base, tokens = run.inputs["base"], run.inputs["tokens"]
    tokenizer = load_tokenizer(tokens.file(TOKENIZER_FOLDER))
    base_config = check_checkpoint(base.path)
    config = _classifier_config(model, run, tokenizer, base_config)
    sizes = Sizes.of(base_config)
    runtime = _choose_runtime(model, sizes)
    if (
        runtime.device.type == "cpu" and runtime.dtype == torch.bfloat16
    ):  # scored as it was trained, whatever `auto` means on the machine that scores
        config = replace(config, precision="bf16")
    check_memory(base_config, {run.name: model}, runtime)
    backend = choose_backend(model.attention, runtime)
    set_seed(run.seed)
    classifier = new_classifier(base.path, model, config, runtime, backend)
    history = _train(classifier, model, run, runtime, sizes)
    require_finite(classifier, run.name)
    if distributed.is_first():
        save_classifier(classifier, run.target)
        tokenizer.save_pretrained(run.target / TOKENIZER_FOLDER)
    origin = {"attention": str(backend), "base": base.info["origin"], "base_digest": base.digest}
    return describe_training(classifier, history, runtime) | origin


def _choose_runtime(model: TransformerModel, sizes: Sizes) -> Runtime:
    """As the profile says; with ``auto`` a large frozen base is computed in bf16 on a CPU made for it."""
    runtime = choose_runtime(model.training.precision)
    large = model.method == "lora" and sizes.parameters >= LARGE_BASE
    if model.training.precision == "auto" and runtime.device.type == "cpu" and large and cpu_has_bf16():
        return Runtime(runtime.device, torch.bfloat16, "no GPU; the CPU multiplies bf16 matrices")
    return runtime


def _classifier_config(
    model: TransformerModel, run: TrainingRun, tokenizer: Any, base_config: dict[str, Any]
) -> ClassifierConfig:
    """What rebuilds the classifier later, once base, tokens and labels are known to fit together."""
    base, tokens = run.inputs["base"], run.inputs["tokens"]
    summary = tokens.read_json("tokens.json")
    _require_same_labels(run.labels, summary["labels"], run.name)
    _require_same_vocabulary(base, base_config, tokens, tokenizer, run.name)
    _require_enough_positions(base, base_config, summary["max_length"], run.name)
    prompts = model.reads_prompts
    if prompts and summary["instruction"] is None:
        raise DataError(f"{run.name}: the stored tokens hold no prompts; materialise {tokens.path.name}'s asset again")
    return ClassifierConfig(
        method=model.method,
        objective=model.objective,
        pooling=model.pooling,
        labels=list(run.labels),
        max_length=summary["max_length"],
        base_digest=base.digest,
        instruction=summary["instruction"] if prompts else "",
        answers=encode_answers(tokenizer, run.labels) if prompts else [],
        quantization=model.quantization,
        precision=model.training.precision,
        attention=model.attention,
    )


def _train(classifier: Classifier, model: TransformerModel, run: TrainingRun, runtime: Runtime, sizes: Sizes) -> Any:
    column = "prompt_ids" if model.reads_prompts else "input_ids"
    rows, labels = read_tokens(run.inputs["tokens"], "train", column)
    validation_rows, validation_labels = read_tokens(run.inputs["tokens"], "validation", column)
    targets = torch.tensor(labels, device=runtime.device)
    smoothing = model.training.label_smoothing

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        return classifier.loss([rows[i] for i in chosen], targets[list(chosen)], smoothing, model.consistency)

    def evaluate() -> float:
        return accuracy_of(classifier, validation_rows, validation_labels, runtime)

    task = TrainingTask(run.name, classifier, len(rows), loss_of, evaluate)
    size = rows_per_forward(sizes, model, runtime, [len(row) for row in rows])
    return Trainer(task, model.training, runtime, run.seed, size).fit(run.report, run.resume_state)


def _require_same_labels(labels: Sequence[str], stored: Sequence[str], name: str) -> None:
    if list(labels) != list(stored):
        raise DataError(
            f"{name}: the stored tokens were made for the labels {', '.join(stored)}, the profile names "
            f"{', '.join(labels)}; materialise the tokens again"
        )


def _require_same_vocabulary(
    base: StoredFolder, config: dict[str, Any], tokens: StoredFolder, tokenizer: Any, name: str
) -> None:
    """Token ids mean something only to the base whose tokenizer made them."""
    where = tokens.file(TOKENIZER_FOLDER) / "tokenizer.json"
    fix = "give tokenizer and base the same source"
    if config["vocab_size"] < len(tokenizer):
        raise DataError(
            f"{name}: {where} has {len(tokenizer)} tokens, the base checkpoint only {config['vocab_size']}; {fix}"
        )
    if base.file("tokenizer.json").is_file():
        own, given = load_tokenizer(base.path).get_vocab(), tokenizer.get_vocab()
        for token, number in given.items():
            if own.get(token) != number:
                raise DataError(
                    f"{name}: {where} is not the tokenizer of the base (token {token!r} is {number} in one and "
                    f"{own.get(token, 'missing')} in the other); {fix}"
                )


def _require_enough_positions(base: StoredFolder, config: dict[str, Any], length: int, name: str) -> None:
    positions = config.get("max_position_embeddings")
    if positions is not None and config["model_type"] in COUNT_FROM_PADDING:
        positions -= config["pad_token_id"] + 1
    if positions is not None and length > positions:
        raise DataError(
            f"{name}: max_length {length} of the tokenizer is more than the {positions} positions of the base "
            f"({base.file('config.json')}); lower max_length"
        )
