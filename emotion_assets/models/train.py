"""From tokens and a base checkpoint to a trained, stored model: one function per kind of model.

Each fills a draft folder of the store and returns what was measured. Whoever calls (a Dagster step's own process, a
test, a benchmark) decides where the folder goes and who hears of the progress.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_assets.dataset.splits import read_split
from emotion_assets.models.bigru import BiGruClassifier, Vocabulary, save_bigru
from emotion_assets.models.tfidf_svm import save_svm, train_svm
from emotion_assets.models.transformer.attention import choose_backend
from emotion_assets.models.transformer.batches import batch_by_length
from emotion_assets.models.transformer.checkpoints import check_checkpoint, new_classifier, save_classifier
from emotion_assets.models.transformer.classifier import COUNT_FROM_PADDING, Classifier, ClassifierConfig
from emotion_assets.models.transformer.memory import Sizes, check_memory, rows_per_forward
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, encode_answers, load_tokenizer, read_tokens
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import BiGru, TfidfSvm, TransformerModel
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training import distributed
from emotion_assets.training.progress import Report, TrainingHistory
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.runtime import Runtime, choose_runtime, peak_memory_mb, set_seed
from emotion_assets.training.trainer import Trainer, TrainingError, TrainingTask

EVALUATION_BATCH = 64


def train_transformer(
    model: TransformerModel,
    base: StoredFolder,
    tokens: StoredFolder,
    labels: Sequence[str],
    seed: int,
    target: Path,
    stage: str,
    report: Report,
    checkpoint: ResumeState | None = None,
) -> dict[str, Any]:
    """Fine-tune a base checkpoint with LoRA or whole, and save the classifier into ``target``.

    Raises:
        DataError: base, tokenizer and labels do not fit together, or the memory is too small.
        TrainingError: the loss, a gradient or a weight is not finite.
    """
    summary = tokens.read_json("tokens.json")
    tokenizer = load_tokenizer(tokens.file(TOKENIZER_FOLDER))
    config = check_checkpoint(base.path)
    _refuse_other_labels(labels, summary["labels"], stage)
    _refuse_other_vocabulary(base, config, tokens, tokenizer, stage)
    _refuse_more_tokens_than_positions(base, config, summary["max_length"], stage)
    instruction = model.objective == "instruction"
    if instruction and summary["instruction"] is None:
        raise DataError(f"{stage}: the stored tokens hold no prompts; materialise {tokens.path.name}'s asset again")
    shape = ClassifierConfig(
        method=model.method,
        objective=model.objective,
        pooling=model.pooling,
        labels=list(labels),
        max_length=summary["max_length"],
        base_digest=base.digest,
        instruction=summary["instruction"] if instruction else "",
        answers=encode_answers(tokenizer, labels) if instruction else [],
        quantization=model.quantization,
        precision=model.training.precision,
        attention=model.attention,
    )
    runtime = choose_runtime(model.training.precision)
    sizes = Sizes.of(config)
    check_memory(config, {stage: model}, runtime)
    backend = choose_backend(model.attention, runtime)
    set_seed(seed)
    classifier = new_classifier(base.path, model, shape, runtime, backend)
    column = "prompt_ids" if instruction else "input_ids"
    rows, targets = read_tokens(tokens, "train", column)
    validation_rows, validation_targets = read_tokens(tokens, "validation", column)
    goal = torch.tensor(targets, device=runtime.device)
    smoothing = model.training.label_smoothing

    task = TrainingTask(
        stage,
        classifier,
        len(rows),
        lambda chosen: classifier.loss([rows[i] for i in chosen], goal[list(chosen)], smoothing, model.consistency),
        lambda: accuracy_of(classifier, validation_rows, validation_targets, runtime),
    )
    size = rows_per_forward(sizes, model, runtime, [len(row) for row in rows])
    fitted = Trainer(task, model.training, runtime, seed, size).fit(report, checkpoint)
    _refuse_non_finite(classifier, stage)
    if distributed.is_first():
        save_classifier(classifier, target)
        tokenizer.save_pretrained(target / TOKENIZER_FOLDER)
    extra = {"attention": str(backend), "base": base.info["origin"], "base_digest": base.digest}
    return _measured(classifier, fitted, runtime) | extra


def train_bigru(
    settings: BiGru,
    dataset: StoredFolder,
    labels: Sequence[str],
    seed: int,
    target: Path,
    stage: str,
    report: Report,
    checkpoint: ResumeState | None = None,
) -> dict[str, Any]:
    """Train the recurrent baseline on words and save it into ``target``."""
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    index = {label: i for i, label in enumerate(labels)}
    vocabulary = Vocabulary.learn(train["text"].tolist(), settings.vocab_size)
    rows = [vocabulary.encode(text, settings.max_length) for text in train["text"]]
    validation_rows = [vocabulary.encode(text, settings.max_length) for text in validation["text"]]
    runtime = choose_runtime("fp32")
    targets = torch.tensor([index[label] for label in train["label"]], device=runtime.device)
    validation_targets = np.array([index[label] for label in validation["label"]])
    smoothing = settings.training.label_smoothing
    set_seed(seed)
    model = BiGruClassifier(len(vocabulary), settings, len(labels)).to(runtime.device)

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        scores = model.log_probabilities([rows[i] for i in chosen], runtime.device)
        loss = torch.nn.functional.nll_loss(scores, targets[list(chosen)], reduction="sum")
        return (1 - smoothing) * loss - smoothing * scores.mean(1).sum(), len(chosen)

    task = TrainingTask(
        stage, model, len(rows), loss_of, lambda: accuracy_of(model, validation_rows, validation_targets, runtime)
    )
    fitted = Trainer(task, settings.training, runtime, seed).fit(report, checkpoint)
    _refuse_non_finite(model, stage)
    if distributed.is_first():
        save_bigru(model, vocabulary, settings, labels, target)
    return _measured(model, fitted, runtime) | {"base": "none (random weights)"}


def train_tfidf_svm(
    settings: TfidfSvm, dataset: StoredFolder, labels: Sequence[str], seed: int, target: Path
) -> dict[str, Any]:
    """Fit the TF-IDF baseline and save it into ``target``."""
    started = time.monotonic()
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    index = {label: i for i, label in enumerate(labels)}
    goal = np.array([index[label] for label in train["label"]])
    validation_goal = np.array([index[label] for label in validation["label"]])
    texts, validation_texts = train["text"].tolist(), validation["text"].tolist()
    model = train_svm(settings, texts, goal, validation_texts, validation_goal, len(labels), seed)
    save_svm(model, settings, labels, target)
    parameters = int(model.weights.size + model.bias.size)
    return {
        "trainable_parameters": parameters,
        "total_parameters": parameters,
        "train_seconds": time.monotonic() - started,
        "peak_memory_mb": peak_memory_mb(),
        "runtime": "cpu, fp32",
        "base": "none",
        "validation_accuracy": float((model.probabilities(validation_texts).argmax(1) == validation_goal).mean()),
    }


def accuracy_of(
    model: Classifier | BiGruClassifier, rows: Sequence[Sequence[int]], targets: np.ndarray, runtime: Runtime
) -> float:
    """Share of rows whose most probable label is the right one."""
    right = torch.zeros((), dtype=torch.int64, device=runtime.device)
    for chosen in distributed.shard(batch_by_length([len(row) for row in rows], EVALUATION_BATCH)):
        with runtime.autocast():
            scores = model.log_probabilities([rows[i] for i in chosen], runtime.device)
        right += (scores.argmax(1).cpu().numpy() == targets[chosen]).sum()
    distributed.all_reduce([right])
    return int(right) / len(rows)


def _refuse_other_labels(labels: Sequence[str], found: Sequence[str], stage: str) -> None:
    if list(labels) != list(found):
        raise DataError(
            f"{stage}: the stored tokens were made for the labels {', '.join(found)}, the profile names "
            f"{', '.join(labels)}; materialise the tokens again"
        )


def _refuse_other_vocabulary(
    base: StoredFolder, config: dict[str, Any], tokens: StoredFolder, tokenizer: Any, stage: str
) -> None:
    """Token ids mean something only to the base whose tokenizer made them."""
    where = tokens.file(TOKENIZER_FOLDER) / "tokenizer.json"
    fix = "give tokenizer and base the same source"
    if config["vocab_size"] < len(tokenizer):
        raise DataError(
            f"{stage}: {where} has {len(tokenizer)} tokens, the base checkpoint only {config['vocab_size']}; {fix}"
        )
    if base.file("tokenizer.json").is_file():
        own, given = load_tokenizer(base.path).get_vocab(), tokenizer.get_vocab()
        for token, number in given.items():
            if own.get(token) != number:
                raise DataError(
                    f"{stage}: {where} is not the tokenizer of the base (token {token!r} is {number} in one and "
                    f"{own.get(token, 'missing')} in the other); {fix}"
                )


def _refuse_more_tokens_than_positions(base: StoredFolder, config: dict[str, Any], length: int, stage: str) -> None:
    positions = config.get("max_position_embeddings")
    if positions is not None and config["model_type"] in COUNT_FROM_PADDING:
        positions -= config["pad_token_id"] + 1
    if positions is not None and length > positions:
        raise DataError(
            f"{stage}: max_length {length} of the tokenizer is more than the {positions} positions of the base "
            f"({base.file('config.json')}); lower max_length"
        )


def _refuse_non_finite(module: torch.nn.Module, stage: str) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise TrainingError(f"{stage}: {name} holds values that are not finite; lower learning_rate")


def _parameters(module: torch.nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all. A weight in four bits holds two parameters to a byte: PEFT counts them."""
    backbone: Any = getattr(module, "backbone", None)
    if hasattr(backbone, "get_nb_trainable_parameters"):
        trainable, total = backbone.get_nb_trainable_parameters()
        head = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("backbone."))
        return trainable + head, total + head
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def _measured(module: torch.nn.Module, fitted: TrainingHistory, runtime: Runtime) -> dict[str, Any]:
    trainable, total = _parameters(module)
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "train_seconds": fitted.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "runtime": f"{runtime.device.type}, {str(runtime.dtype).removeprefix('torch.')} ({runtime.why})",
        "validation_accuracy": max(fitted.scores, default=0.0),
        "curve": fitted.as_dict(),
    }
