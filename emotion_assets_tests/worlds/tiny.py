"""Tiny random checkpoints and rows for the tests of training: real classes of transformers, a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import Backend, choose_backend
from emotion_assets.models.transformer.checkpoints import new_classifier
from emotion_assets.models.transformer.classifier import COUNT_FROM_PADDING, Classifier, ClassifierConfig
from emotion_assets.models.transformer.tokens import make_tokenizer, write_tokens
from emotion_assets.settings.schema import TokenizerSettings, TrainedTokenizer
from emotion_assets.storage.store import Store, StoredFolder
from emotion_assets.training.runtime import Runtime, choose_runtime, set_seed

CPU, HALF = choose_runtime("fp32"), choose_runtime("bf16")
VOCABULARY = 120
LABELS = ["joy", "anger", "fear"]
# The second label is the beginning of none, takes two tokens and ends like all with token 2.
ANSWERS = [[11, 2], [12, 13, 2], [14, 15, 16, 2]]
PREFIX = [1, 20, 21, 22, 23, 24]

_WIDTHS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def config_of(model_type: str, dropout: float = 0.0) -> Any:
    from transformers import AutoConfig

    extra: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": dropout}
    if model_type in ("llama", "mistral", "qwen2", "qwen3", "smollm3"):
        extra = {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    if model_type == "qwen3":
        extra["head_dim"] = 8
    if model_type == "electra":
        extra["embedding_size"] = 24
    if model_type in COUNT_FROM_PADDING:  # so that as many tokens fit as into the others
        extra["max_position_embeddings"] = _WIDTHS["max_position_embeddings"] + 1
    return AutoConfig.for_model(model_type, **_WIDTHS | extra)


def base_folder(folder: Path, model_type: str = "llama", seed: int = 3, dropout: float = 0.0) -> Path:
    """A checkpoint with random weights, large enough to make attention matter."""
    from transformers import AutoModel, AutoModelForCausalLM

    set_seed(seed)
    causal = model_type in ("llama", "mistral", "qwen2", "qwen3", "smollm3")
    model = (AutoModelForCausalLM if causal else AutoModel).from_config(config_of(model_type, dropout))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return folder


def rows_of(n: int, seed: int = 5, prefix: list[int] | None = None) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 12, (n,), generator=generator).tolist()
    return [(prefix or []) + torch.randint(30, VOCABULARY, (k,), generator=generator).tolist() for k in lengths]


def classifier_config_of(
    objective: str = "head", pooling: str = "last", method: str = "lora", digest: str = "d"
) -> ClassifierConfig:
    answers = ANSWERS if objective == "instruction" else []
    return ClassifierConfig(method, objective, pooling, LABELS, 64, digest, "", answers)


def classifier_of(
    base: Path,
    objective: str = "head",
    pooling: str = "last",
    method: str = "lora",
    backend: Backend | None = None,
    runtime: Runtime = CPU,
    **settings: Any,
) -> Classifier:
    """A classifier whose adapters are not zero any more, so that they count."""
    set_seed(7)
    model = TransformerModel.model_validate(
        {"method": method, "base": "b", "objective": objective, "pooling": pooling, **settings}
    )
    backend = backend or choose_backend("auto", CPU)
    classifier = new_classifier(base, model, classifier_config_of(objective, pooling, method), runtime, backend)
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return classifier


def stored_case(
    root: Path, model_type: str = "llama", rows: int = 60, dropout: float = 0.0
) -> tuple[Store, StoredFolder, StoredFolder]:
    """A store with tokens (prompts too) of made-up texts and a base of the same tokenizer.

    ``dropout``: of an encoder's attention weights.
    """
    max_length = 48 if model_type == "roberta" else 64  # its positions begin after the padding's
    words = ["walk", "river", "stone", "cloud", "amber", "lantern", "quiet", "storm", "garden", "copper", "meadow"]
    generator = torch.Generator().manual_seed(1)

    def text() -> str:
        picks = torch.randint(len(words), (int(torch.randint(2, 9, (1,), generator=generator)),), generator=generator)
        return " ".join(words[i] for i in picks.tolist())

    frames = {
        split: pd.DataFrame({"text": [text() for _ in range(n)], "label": [LABELS[i % 3] for i in range(n)]})
        for split, n in (("train", rows), ("validation", 9), ("test", 9))
    }
    source = TrainedTokenizer(algorithm="word", vocab_size=VOCABULARY, min_frequency=1)
    texts = [*frames["train"]["text"], *LABELS, "say the feeling"]
    tokenizer = make_tokenizer(TokenizerSettings(source=source, max_length=max_length), texts, "tiny")
    store = Store(root / "store")
    with store.writing("tokens") as draft:
        write_tokens(draft.path, tokenizer, frames, LABELS, max_length, "say the feeling")
        tokens = draft.finish({})
    with store.writing("base_models") as draft:
        base_folder(draft.path, model_type, dropout=dropout)
        tokenizer.save_pretrained(draft.path)
        config = json.loads((draft.path / "config.json").read_text(encoding="utf-8"))
        base = draft.finish({"origin": "random", "vocab_size": config["vocab_size"], "model_type": model_type})
    return store, base, tokens


def trained(root: Path, model_type: str = "llama", **settings: Any) -> tuple[Store, StoredFolder, StoredFolder]:
    """A store, the base in it, and a model that was trained on it for a moment."""
    store, base, tokens = stored_case(root, model_type)
    training = {"epochs": 2, "batch_size": 10, "learning_rate": 1e-2}
    model = TransformerModel.model_validate({"method": "lora", "base": "b", "training": training, **settings})
    with store.writing("models") as draft:
        inputs = {"base": stored_input(base), "tokens": stored_input(tokens)}
        job = TrainingJob(
            "transformer", "m", model.model_dump(mode="json"), LABELS, 5, inputs, str(draft.path), str(root / "state")
        )
        folder = draft.finish(run_job(job, lambda line: None))
    return store, base, folder
