"""The peers of ``benchmarks.scoring``: the same tuned weights, each peer in its own customary loop.

A checkpoint with mean pooling and a linear head is no architecture of transformers, so the pipeline gets the BERT
classifier of transformers with the same encoder: as much work, other labels.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import choose_backend
from emotion_assets.models.transformer.checkpoints import new_classifier, save_classifier
from emotion_assets.models.transformer.classifier import Classifier, ClassifierConfig
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, encode, load_tokenizer
from emotion_assets.settings.schema import Training
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import choose_runtime, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask

MAX_LENGTH = 128
PIPELINE_SIZES = (1, 8, 32, 64, 128)


@dataclass(frozen=True)
class Tuned:
    """A tuned classifier: stored as this project stores it, and loaded."""

    checkpoint: Path
    model: StoredFolder
    classifier: Classifier
    tokenizer: Any
    labels: list[str]


def tune(checkpoint: Path, texts: Sequence[str], labels: Sequence[str], folder: Path) -> Tuned:
    """One epoch over a few rows: enough for weights that are no more the checkpoint's, and labels that differ."""
    names = sorted(set(labels))
    runtime = choose_runtime("fp32")
    training = Training(epochs=1, batch_size=32, learning_rate=1e-4, keep="last")
    settings = TransformerModel(method="full", base="checkpoint", pooling="mean", training=training)
    config = ClassifierConfig("full", "head", "mean", names, MAX_LENGTH, "none")
    set_seed(1)
    classifier = new_classifier(checkpoint, settings, config, runtime, choose_backend("auto", runtime))
    tokenizer = load_tokenizer(checkpoint)
    rows = encode(tokenizer, texts, MAX_LENGTH)
    targets = torch.tensor([names.index(label) for label in labels], device=runtime.device)

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        return classifier.loss([rows[i] for i in chosen], targets[list(chosen)])

    Trainer(TrainingTask("tuned", classifier, len(rows), loss_of), training, runtime, 1).fit(lambda progress: None)
    with Store(folder).writing("models") as draft:
        save_classifier(classifier, draft.path)
        tokenizer.save_pretrained(draft.path / TOKENIZER_FOLDER)
        model = draft.finish({})
    return Tuned(checkpoint, model, classifier.eval(), tokenizer, names)


def pipeline_rates(tuned: Tuned, texts: Sequence[str]) -> dict[int, float]:
    """Texts per second of the pipeline by ``batch_size``; 1 is its default."""
    from transformers import AutoModelForSequenceClassification, pipeline

    make: Any = pipeline
    model = AutoModelForSequenceClassification.from_pretrained(tuned.checkpoint, num_labels=len(tuned.labels))
    model.base_model.load_state_dict(tuned.classifier.backbone.state_dict(), strict=False)
    classify = make("text-classification", model=model, tokenizer=load_tokenizer(tuned.checkpoint))
    rates = {}
    for size in PIPELINE_SIZES:
        classify(list(texts[:64]), batch_size=size)
        started = time.perf_counter()
        classify(list(texts), batch_size=size, truncation=True, max_length=MAX_LENGTH)
        rates[size] = len(texts) / (time.perf_counter() - started)
        print(f"pipeline, batch_size {size}: {rates[size]:.0f} texts/s", flush=True)
    return rates


def sentence_transformers_rate(tuned: Tuned, texts: Sequence[str], folder: Path) -> float | str:
    """``SentenceTransformer.encode`` as it comes, which sorts by length, and the head on its vectors."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return "not installed"
    from sentence_transformers import SentenceTransformer, models

    saved = folder / "sentence"
    backbone: Any = tuned.classifier.backbone
    backbone.save_pretrained(saved)
    load_tokenizer(tuned.checkpoint).save_pretrained(saved)
    words = models.Transformer(str(saved), max_seq_length=MAX_LENGTH)
    model = SentenceTransformer(modules=[words, models.Pooling(words.get_word_embedding_dimension())], device="cpu")
    head: Any = tuned.classifier.head
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    model.encode(list(texts[:64]))
    started = time.perf_counter()
    vectors = model.encode(list(texts), show_progress_bar=False)
    (np.asarray(vectors) @ weight.T + bias).argmax(1)
    return len(texts) / (time.perf_counter() - started)


def onnx_rate(tuned: Tuned, texts: Sequence[str], folder: Path) -> float | str:
    """The encoder exported to ONNX, run by ONNX Runtime with its defaults over padded batches of similar length."""
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed ({', '.join(missing)})"
    import onnxruntime

    file = _export(tuned, folder)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    head: Any = tuned.classifier.head
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()

    def run(some: Sequence[str]) -> None:
        rows = encode(tuned.tokenizer, some, MAX_LENGTH)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), 64):
            batch = [rows[i] for i in order[start : start + 64]]
            ids = np.zeros((len(batch), len(batch[-1])), dtype=np.int64)
            for i, row in enumerate(batch):
                ids[i, : len(row)] = row
            mask = (np.arange(ids.shape[1]) < np.array([len(row) for row in batch])[:, None]).astype(np.int64)
            (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            (pooled @ weight.T + bias).argmax(1)

    run(texts[:64])
    started = time.perf_counter()
    run(texts)
    return len(texts) / (time.perf_counter() - started)


def _export(tuned: Tuned, folder: Path) -> Path:
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(
        tuned.checkpoint, add_pooling_layer=False, attn_implementation="eager"
    ).eval()
    model.load_state_dict(tuned.classifier.backbone.state_dict())

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden

    example = torch.ones(2, 8, dtype=torch.long)
    shape = {0: torch.export.Dim("rows", min=1, max=4096), 1: torch.export.Dim("tokens", min=1, max=MAX_LENGTH)}
    file = folder / "encoder.onnx"
    torch.onnx.export(
        Encoder().eval(), (example, example), str(file), input_names=["input_ids", "attention_mask"],
        dynamic_shapes={"input_ids": shape, "attention_mask": shape}, dynamo=True, verbose=False,
    )  # fmt: skip
    return file
