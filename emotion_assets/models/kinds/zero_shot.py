"""A base checkpoint as it is: it answers by the probability of the label words. It shows what tuning adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from emotion_assets.models.kind import Export, Kind, Scorer, TrainingRun
from emotion_assets.settings.schema import ModelSettings, PretrainedHere, Settings, require_name
from emotion_assets.storage.keys import base_key, tokens_key
from emotion_assets.storage.store import Store, StoredFolder


class ZeroShotModel(ModelSettings):
    """An untuned base: the label word that it finds most probable after the instruction and the text."""

    method: Literal["zero_shot"]
    base: str
    paper_accuracy: None = None

    @property
    def base_name(self) -> str:
        return self.base

    @property
    def reads_prompts(self) -> bool:
        return True

    def check_against(self, key: str, settings: Settings) -> None:
        """The base is there, and one that can go on with a text."""
        require_name(f"{key}.base", self.base, settings.bases, "bases")
        source = settings.bases[self.base].source
        if isinstance(source, PretrainedHere) and source.build.model_type != "llama":
            raise ValueError(f"{key}.base: {self.base} is {source.build.model_type}; zero_shot needs a causal base")


class ZeroShotKind(Kind[ZeroShotModel]):
    """An untuned base that answers with a label word."""

    name = "zero_shot"
    settings = ZeroShotModel
    ui_kinds = ("pytorch", "huggingface")

    def inputs(self, model: ZeroShotModel, settings: Settings) -> dict[str, list[str]]:
        return {"base": base_key(model.base), "tokens": tokens_key(settings.bases[model.base].tokenizer)}

    def describe(self, model: ZeroShotModel) -> str:
        return f"{model.base} before any tuning, read by the probability of the label words."

    def train(self, model: ZeroShotModel, run: TrainingRun) -> dict[str, Any]:
        """Nothing is trained: check that base, tokens and labels fit together, and choose a number format."""
        from emotion_assets.models.transformer.zero_shot import store_untuned

        return store_untuned(run)

    def number_formats(self, model: StoredFolder) -> tuple[str, ...]:
        from emotion_assets.models.transformer.scorer import faster_formats

        return faster_formats(model)

    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        from emotion_assets.models.transformer.scorer import TransformerScorer

        return TransformerScorer(model, store, number_format)

    def export(self, model: StoredFolder, store: Store, target: Path, temperature: float, adapter: bool) -> Export:
        from emotion_assets.models.transformer.export import export_model

        return export_model(model, store, target, temperature, adapter)
