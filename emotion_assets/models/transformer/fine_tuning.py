"""Fine-tune a base checkpoint on stored tokens; parts that do not fit together are refused first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from emotion_assets.models.kind import TrainingRun
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.networks import accuracy_of, describe_training, require_finite
from emotion_assets.models.transformer.attention import choose_backend
from emotion_assets.models.transformer.batches import BUCKET, Batch
from emotion_assets.models.transformer.checkpoints import check_checkpoint, new_classifier, save_classifier
from emotion_assets.models.transformer.classifier import CAUSAL_MODEL_TYPES, Classifier, ClassifierConfig
from emotion_assets.models.transformer.compatibility import require_compatible
from emotion_assets.models.transformer.heads import pooling_of
from emotion_assets.models.transformer.memory import Sizes, check_memory, rows_per_forward
from emotion_assets.models.transformer.precision import MEASURED_ROWS, choose_measured_runtime
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, encode_answers, load_tokenizer, read_tokens
from emotion_assets.training import distributed
from emotion_assets.training.cuda_graphs import StaticPasses
from emotion_assets.training.loss import label_weights
from emotion_assets.training.progress import TrainingHistory
from emotion_assets.training.runtime import Runtime, choose_runtime, describe_dtype, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask
from emotion_assets.training.transfer import to_device


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
    check_memory(base_config, {run.name: model}, choose_runtime(model.training.precision))
    runtime = _choose_runtime(model, config, run, sizes)
    if runtime.device.type == "cpu" and runtime.dtype == torch.bfloat16:
        config = replace(config, precision="bf16")  # scored as it was trained, whatever `auto` means where it is scored
    backend = choose_backend(model.attention, runtime)
    set_seed(run.seed)
    classifier = new_classifier(base.path, model, config, runtime, backend)
    history, graphs = _train(classifier, model, run, runtime, sizes)
    require_finite(classifier, run.name)
    if distributed.is_first():
        save_classifier(classifier, run.target)
        tokenizer.save_pretrained(run.target / TOKENIZER_FOLDER)
    origin = {"attention": str(backend), "base": base.info["origin"], "base_digest": base.digest}
    if classifier.step:
        origin["step"] = classifier.step
    if runtime.device.type == "cuda":
        origin["cuda_graphs"] = graphs
    return describe_training(classifier, history, runtime) | origin


def _choose_runtime(model: TransformerModel, config: ClassifierConfig, run: TrainingRun, sizes: Sizes) -> Runtime:
    """As the profile says; a large base may be measured, and a resumed training keeps what was chosen first."""
    requested = model.training.precision
    device = choose_runtime(requested).device

    def load_step(runtime: Runtime) -> Callable[[], None]:
        rows, labels = read_tokens(run.inputs["tokens"], "train", _column(model))
        backend = choose_backend(model.attention, runtime)
        classifier = new_classifier(run.inputs["base"].path, model, config, runtime, backend)
        targets = torch.tensor(labels[:MEASURED_ROWS])

        def step() -> None:
            with runtime.autocast():
                loss, _ = classifier.loss(rows[:MEASURED_ROWS], targets)
            loss.backward()

        return step

    def choose() -> dict[str, str]:
        chosen = choose_measured_runtime(requested, sizes.parameters, load_step)
        return {"dtype": describe_dtype(chosen.dtype), "why": chosen.why}

    # Of each kind of device its own: a training that goes on without its GPU must not compute in fp16 on the CPU.
    name = f"precision on {device.type}"
    choice = run.resume_state.decide(name, choose) if run.resume_state else choose()
    return Runtime(device, getattr(torch, choice["dtype"]), choice["why"])


def _classifier_config(
    model: TransformerModel, run: TrainingRun, tokenizer: Any, base_config: dict[str, Any]
) -> ClassifierConfig:
    """What rebuilds the classifier later, once base, tokens and labels are known to fit together."""
    prompts = model.reads_prompts
    summary = require_compatible(run, tokenizer, base_config, prompts)
    return ClassifierConfig(
        method=model.method,
        objective=model.objective,
        pooling=pooling_of(model.head, model.pooling, base_config["model_type"] in CAUSAL_MODEL_TYPES),
        labels=list(run.labels),
        max_length=summary["max_length"],
        base_digest=run.inputs["base"].digest,
        instruction=summary["instruction"] if prompts else "",
        answers=encode_answers(tokenizer, run.labels) if prompts else [],
        quantization=model.quantization,
        precision=model.training.precision,
        attention=model.attention,
        head=model.head,
        system=summary.get("system", "") if prompts else "",
    )


def _column(model: TransformerModel) -> str:
    """The column of the stored tokens that the model reads."""
    return "prompt_ids" if model.reads_prompts else "input_ids"


def _train(
    classifier: Classifier, model: TransformerModel, run: TrainingRun, runtime: Runtime, sizes: Sizes
) -> tuple[TrainingHistory, str]:
    """Train it; the history, and how its passes ran as CUDA graphs."""
    column = _column(model)
    rows, labels = read_tokens(run.inputs["tokens"], "train", column)
    validation_rows, validation_labels = read_tokens(run.inputs["tokens"], "validation", column)
    targets = torch.tensor(labels)
    smoothing = model.training.label_smoothing
    weights = label_weights(model.training, labels, len(classifier.config.labels))
    on_device = None if weights is None else torch.from_numpy(weights).to(runtime.device)

    def pack(chosen: Sequence[int], bucket: int = 0) -> tuple[Batch, float]:
        picked = list(chosen)
        batch, count = classifier.pack_for_loss([rows[i] for i in picked], targets[picked], model.consistency, bucket)
        return batch, count if weights is None else float(weights[labels[picked]].sum())

    def loss_of_packed(batch: Batch) -> torch.Tensor:
        return classifier.loss_of_packed(batch, smoothing, model.consistency, on_device)

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, float]:
        batch, count = pack(chosen)
        return loss_of_packed(to_device(batch, runtime.device)), count

    def evaluate() -> float:
        return accuracy_of(classifier, validation_rows, validation_labels, runtime)

    passes = classifier.why_shapes_differ() or StaticPasses(partial(pack, bucket=BUCKET), loss_of_packed)
    lengths = [len(row) for row in rows]
    task = TrainingTask(
        run.name, classifier, len(rows), loss_of, evaluate, classifier.checkpoint_activations, lengths, passes
    )
    size = rows_per_forward(sizes, model, runtime, lengths)
    trainer = Trainer(task, model.training, runtime, run.seed, size)
    return trainer.fit(run.report, run.resume_state), trainer.graphs.describe()
