"""A fine-tuned transformer. What trains and answers stands in ``models.transformer``, which needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from emotion_assets.models.kind import Export, Kind, Scorer, TrainingRun
from emotion_assets.settings.schema import (
    Lora,
    ModelSettings,
    PretrainedHere,
    Settings,
    Training,
    require_name,
    unless_used,
)
from emotion_assets.storage.keys import base_key, tokens_key
from emotion_assets.storage.store import Store, StoredFolder


class TransformerModel(ModelSettings):
    """A fine-tuned transformer: LoRA adapters or all weights, read by a classification head or by the label words."""

    method: Literal["lora", "full"]
    base: str
    objective: Literal["head", "instruction"] = "head"
    pooling: Literal["first", "last", "mean", "max"] = "last"
    head: Annotated[
        Literal["linear", "transformers"],
        unless_used("linear"),
        Field(description="transformers: the head of the base's own model for sequence classification"),
    ] = "linear"
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

    @property
    def trains_few_weights(self) -> bool:
        return self.method == "lora" and not self.lora.train_embeddings

    @property
    def base_name(self) -> str:
        return self.base

    @property
    def reads_prompts(self) -> bool:
        return self.objective == "instruction"

    @property
    def passes(self) -> int:
        """How often a row goes through the model in one step."""
        return 2 if self.consistency else 1

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> TransformerModel:
        if self.objective == "instruction" and self.method == "full":
            raise ValueError("objective instruction is trained with method lora")
        if self.objective == "instruction":
            for key, given in (
                ("pooling", self.pooling != "last"),
                ("head_dropout", self.head_dropout),
                ("consistency", self.consistency),
                ("head", self.head != "linear"),
            ):
                if given:
                    raise ValueError(f"{key} is of a head, which objective instruction does not have; take it out")
            for key, given in (
                ("label_smoothing", self.training.label_smoothing),
                ("class_weights", self.training.class_weights != "none"),
            ):
                if given:
                    raise ValueError(f"training.{key} is for objective head; take it out")
        if self.head == "transformers" and (self.pooling != "last" or self.head_dropout):
            key = "pooling" if self.pooling != "last" else "head_dropout"
            raise ValueError(f"{key} is of head: linear; the head of transformers has its own, take it out")
        drops = self.embedding_dropout or self.head_dropout or self.lora.dropout or self.method == "full"
        if self.consistency and not drops:
            raise ValueError("consistency compares two passes that differ by dropout; give an embedding_dropout too")
        if self.method == "full" and self.lora != Lora():
            raise ValueError("lora is for method lora; take it out, or set method: lora")
        if self.quantization != "none" and self.method == "full":
            raise ValueError("quantization is for a frozen base: use method lora")
        return self

    def check_against(self, key: str, settings: Settings) -> None:
        """The base is there, and one that the objective can be trained on."""
        require_name(f"{key}.base", self.base, settings.bases, "bases")
        source = settings.bases[self.base].source
        made_here = source.build.model_type if isinstance(source, PretrainedHere) else "llama"
        if self.objective == "instruction" and made_here != "llama":
            raise ValueError(
                f"{key}.objective: instruction needs a causal base; {self.base} is {made_here}, use objective: head"
            )


class TransformerKind(Kind[TransformerModel]):
    """A base checkpoint, fine-tuned through LoRA adapters or whole."""

    name = "transformer"
    settings = TransformerModel
    several_devices = True
    ui_kinds = ("pytorch", "huggingface")

    def inputs(self, model: TransformerModel, settings: Settings) -> dict[str, list[str]]:
        return {"base": base_key(model.base), "tokens": tokens_key(settings.bases[model.base].tokenizer)}

    def used_settings(self, model: TransformerModel) -> dict[str, Any]:
        settings = super().used_settings(model)
        return {key: value for key, value in settings.items() if key != "lora" or model.method == "lora"}

    def describe(self, model: TransformerModel) -> str:
        how = f"LoRA adapters (rank {model.lora.rank})" if model.method == "lora" else "all weights"
        head = f"a {model.pooling}-pooled head" if model.head == "linear" else "the classification head of transformers"
        read = "the label words" if model.objective == "instruction" else head
        return f"{model.base} fine-tuned through {how}, read by {read}."

    def train(self, model: TransformerModel, run: TrainingRun) -> dict[str, Any]:
        from emotion_assets.models.transformer.fine_tuning import fine_tune

        return fine_tune(model, run)

    def number_formats(self, model: StoredFolder) -> tuple[str, ...]:
        from emotion_assets.models.transformer.scorer import faster_formats

        return faster_formats(model)

    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        from emotion_assets.models.transformer.scorer import TransformerScorer

        return TransformerScorer(model, store, number_format)

    def export(self, model: StoredFolder, store: Store, target: Path, temperature: float, adapter: bool) -> Export:
        from emotion_assets.models.transformer.export import export_model

        return export_model(model, store, target, temperature, adapter)
