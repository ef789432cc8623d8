"""The one validated description of what this code location does: profile, dataset, labels, models, folders.

Belongs here: the schema of a profile and the rules its parts obey together. Does not belong here: finding and reading
one (``profiles.reader``), anything that trains, reads data or talks to Dagster.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

PACKAGE_DIR = Path(__file__).parent.parent
PROJECT_DIR = PACKAGE_DIR.parent
SAMPLE_DIR = PROJECT_DIR / "data" / "sample"
HUB_ID = r"^[\w.-]+/[\w.-]+$|^[\w.-]+$"
NAME = r"^[a-z][a-z0-9_]*$"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class HubSource(Frozen):
    """A repository of the Hugging Face Hub at a fixed revision."""

    hub: Annotated[str, Field(pattern=HUB_ID)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="commit sha: a pinned, repeatable version")]
    gated: bool = False


class FolderSource(Frozen):
    """A local folder as ``from_pretrained`` takes it."""

    folder: Path


class TrainedTokenizer(Frozen):
    """A tokenizer learned from the training texts: whole words, WordPiece (BERT) or byte-level BPE (RoBERTa)."""

    algorithm: Literal["word", "wordpiece", "byte_bpe"]
    vocab_size: Annotated[int, Field(ge=100)] = 12000
    min_frequency: Annotated[int, Field(ge=1)] = 2


def _kind_of_source(value: Any) -> str | None:
    """Which source is meant is told by the key that only that source has."""
    has = value.__contains__ if isinstance(value, dict) else lambda key: hasattr(value, key)
    return next((key for key in ("hub", "folder", "algorithm", "build") if has(key)), None)


_SOURCE = Discriminator(
    _kind_of_source,
    custom_error_type="source",
    custom_error_message="needs one of the keys hub (with revision), folder, or for a part made here algorithm / build",
)


class TokenizerSettings(Frozen):
    source: Annotated[
        Annotated[HubSource, Tag("hub")]
        | Annotated[FolderSource, Tag("folder")]
        | Annotated[TrainedTokenizer, Tag("algorithm")],
        _SOURCE,
    ]
    max_length: Annotated[int, Field(ge=8, le=8192)] = 512


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

    @model_validator(mode="after")
    def _decay_has_its_optimizer(self) -> Training:
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError("weight_decay needs optimizer: adamw")
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


class BaseSettings(Frozen):
    tokenizer: str
    source: Annotated[
        Annotated[HubSource, Tag("hub")]
        | Annotated[FolderSource, Tag("folder")]
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


class TransformerModel(Frozen):
    """A fine-tuned transformer: LoRA adapters or all weights, read by a classification head or by the label words."""

    method: Literal["lora", "full"]
    base: str
    objective: Literal["head", "instruction"] = "head"
    pooling: Literal["first", "last", "mean", "max"] = "last"
    embedding_dropout: Annotated[float, Field(ge=0, lt=1, description="of token vectors, while training")] = 0.0
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    consistency: Annotated[float, Field(ge=0, description="weight of R-Drop: two passes of a row shall agree")] = 0.0
    lora: Lora = Lora()
    training: Training = Training()
    attention: Literal["auto", "flash_attention_2", "hub_kernel", "varlen", "sdpa", "eager"] = "auto"
    quantization: Annotated[Literal["none", "nf4"], Field(description="four-bit base weights (QLoRA)")] = "none"
    compile: Annotated[bool, Field(description="compile norms and feed-forward parts: slow start, faster steps")] = (
        False
    )
    paper_accuracy: float | None = None

    @property
    def passes(self) -> int:
        """How often a row goes through the model in one step."""
        return 2 if self.consistency else 1

    @model_validator(mode="after")
    def _nothing_is_without_effect(self) -> TransformerModel:
        if self.objective == "instruction" and self.method == "full":
            raise ValueError("objective instruction is trained with method lora")
        if self.objective == "instruction":
            for key, given in (
                ("pooling", self.pooling != "last"),
                ("head_dropout", self.head_dropout),
                ("consistency", self.consistency),
            ):
                if given:
                    raise ValueError(f"{key} is of a head, which objective instruction does not have; take it out")
            if self.training.label_smoothing:
                raise ValueError("training.label_smoothing is for objective head; take it out")
        drops = self.embedding_dropout or self.head_dropout or self.lora.dropout or self.method == "full"
        if self.consistency and not drops:
            raise ValueError("consistency compares two passes that differ by dropout; give an embedding_dropout too")
        if self.method == "full" and self.lora != Lora():
            raise ValueError("lora is for method lora; take it out, or set method: lora")
        if self.quantization != "none" and self.method == "full":
            raise ValueError("quantization is for a frozen base: use method lora")
        return self


class BiGru(Frozen):
    """A one-layer bidirectional GRU over words with max pooling."""

    method: Literal["bigru"]
    embedding_size: Annotated[int, Field(ge=8)] = 128
    hidden_size: Annotated[int, Field(ge=8)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    vocab_size: Annotated[int, Field(ge=100)] = 20000
    max_length: Annotated[int, Field(ge=8)] = 128
    training: Training = Training(learning_rate=2e-3, epochs=6, batch_size=64)
    paper_accuracy: None = None


class TfidfSvm(Frozen):
    """TF-IDF over words and word pairs with a linear support vector machine, its margins calibrated."""

    method: Literal["tfidf_svm"]
    ngram_max: Annotated[int, Field(ge=1, le=3)] = 2
    min_frequency: Annotated[int, Field(ge=1)] = 1
    c: Annotated[float, Field(gt=0)] = 1.0
    paper_accuracy: None = None


ModelSettings = Annotated[TransformerModel | BiGru | TfidfSvm, Field(discriminator="method")]


_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_WEEKDAYS = "mon|tue|wed|thu|fri|sat|sun"
_CRON = (
    r"0*[1-5]?\d",
    r"0*(1?\d|2[0-3])",
    r"0*([1-9]|[12]\d|3[01])",
    rf"0*([1-9]|1[0-2])|{_MONTHS}",
    rf"0*[0-7]|{_WEEKDAYS}",
)
_CRON_WORDS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_NO_SUCH_DAY = re.compile(r"\S+ \S+ 0*(3[01] 0*(2|feb) \S+|31 0*(4|6|9|11|apr|jun|sep|nov) \*)")


def _is_cron_field(value: str, field: str) -> bool:
    """Whether a field is a list of stars, values and ranges of them, each perhaps with a step."""
    item = rf"(\*|({value})(-({value}))?)(/0*[1-9]\d?)?"
    return re.fullmatch(f"{item}(,{item})*", field, re.ASCII) is not None


class FeedbackSettings(Frozen):
    target_accuracy: Annotated[
        float, Field(gt=0, le=1, description="of answered rows; surer rows are answered first")
    ] = 0.99
    audit_share: Annotated[float, Field(ge=0, le=1, description="of rows, drawn at random for review")] = 0.01
    batch_size: Annotated[int, Field(ge=1, description="distinct texts scored and committed together")] = 4096
    drift_min_rows: Annotated[int, Field(ge=10, description="fewer recent rows give no drift figure")] = 200
    cron: str = "0 * * * *"
    settle_seconds: Annotated[
        float, Field(ge=0, description="a file changed more recently waits for the next tick")
    ] = 5.0
    encoding: Annotated[str, Field(description="of CSV and JSONL files; never guessed")] = "utf-8"
    delimiter: Annotated[Literal["auto", ",", ";", "\t", "|"], Field(description="of CSV files")] = "auto"
    max_field_bytes: Annotated[int, Field(ge=1, description="a longer field rejects its row")] = 262_144
    max_row_bytes: Annotated[int, Field(ge=1, description="a longer row is rejected; bounds a reader's memory")] = (
        1_048_576
    )
    max_columns: Annotated[int, Field(ge=1)] = 1_000
    max_unpacked_bytes: Annotated[
        int, Field(ge=1, description="of a Parquet file once decompressed; a larger file is quarantined")
    ] = 2_147_483_648

    @field_validator("cron")
    @classmethod
    def _cron_is_a_schedule(cls, value: str) -> str:
        fields = value.lower().split()
        fits = len(fields) == len(_CRON) and all(map(_is_cron_field, _CRON, fields))
        if not fits and value not in _CRON_WORDS:
            raise ValueError(
                "not a cron schedule; give minute, hour, day, month and weekday, as in 0 * * * * for every hour"
            )
        if _NO_SUCH_DAY.fullmatch(" ".join(fields)):
            raise ValueError("names a day that its month does not have; give another day or month")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        try:
            known = "text,\n{}".encode(value).decode(value) == "text,\n{}"
        except (LookupError, UnicodeError, TypeError):
            known = False
        if not known:
            raise ValueError("not an encoding that Python knows; use utf-8, latin-1, cp1252, utf-16 or another")
        return value


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
    def _no_way_back_and_forth(self) -> EvaluationSettings:
        if self.as_good_within >= self.promotion_margin:
            raise ValueError(
                "as_good_within must be below promotion_margin, or two models could replace each other for ever"
            )
        return self


class DatasetSettings(Frozen):
    """Where labelled text comes from: ``sample``, a folder of split files, or a Hub dataset at a revision."""

    source: str = "sample"
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    join_reviewed: Annotated[bool, Field(description="rows labelled in the review queue are added to train")] = False
    validation_share: Annotated[float, Field(gt=0, lt=0.5, description="carved from train if no file has it")] = 0.1


class Settings(Frozen):
    profile: str
    description: str
    dataset: DatasetSettings
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    instruction: str = "Do emotion classification for data in the following text."
    seed: int = 17
    tokenizers: dict[Annotated[str, Field(pattern=NAME)], TokenizerSettings] = {}
    bases: dict[Annotated[str, Field(pattern=NAME)], BaseSettings] = {}
    models: Annotated[dict[Annotated[str, Field(pattern=NAME)], ModelSettings], Field(min_length=1)]
    evaluation: EvaluationSettings = EvaluationSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    parallel_steps: Annotated[int, Field(ge=1, description="steps of one run that go side by side")] = 1
    home: Path

    @model_validator(mode="after")
    def _names_agree(self) -> Settings:
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels: {repeated[0]!r} is named twice; name each label once")
        if any(not label.strip() or label != label.strip() for label in self.labels):
            raise ValueError("labels: a label is empty or has blanks around it; give each a plain name")
        for name, base in self.bases.items():
            _must_be_known(f"bases.{name}.tokenizer", base.tokenizer, self.tokenizers, "tokenizers")
            if isinstance(base.source, PretrainedHere):
                algorithm = getattr(self.tokenizers[base.tokenizer].source, "algorithm", None)
                if algorithm is None:
                    raise ValueError(
                        f"bases.{name}.source: a base built here needs a tokenizer learned here; give "
                        f"tokenizers.{base.tokenizer}.source an algorithm"
                    )
        for name, model in self.models.items():
            if not isinstance(model, TransformerModel):
                continue
            _must_be_known(f"models.{name}.base", model.base, self.bases, "bases")
            source = self.bases[model.base].source
            made_here = source.build.model_type if isinstance(source, PretrainedHere) else "llama"
            if model.objective == "instruction" and made_here != "llama":
                raise ValueError(
                    f"models.{name}.objective: instruction needs a causal base; {model.base} is {made_here}, use "
                    "objective: head"
                )
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


def _must_be_known(key: str, value: str, known: dict[str, Any], where: str) -> None:
    if value not in known:
        raise ValueError(f"{key}: {value!r} is not under {where}; known: {', '.join(known) or 'none'}")
