"""A small network that learns from another model's answers. The training itself stands in ``models.distillation``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from emotion_assets.models.kind import Kind, Scorer, TrainingRun
from emotion_assets.models.kinds.bigru import BiGruNetwork
from emotion_assets.settings.schema import Settings, Training, require_name
from emotion_assets.storage.keys import RAW_DATASET, model_key
from emotion_assets.storage.store import Store, StoredFolder


class Distilled(BiGruNetwork):
    """A bigru taught by the probabilities of another model: on the training rows, on new texts made of these, and on
    feedback that has no label."""

    method: Literal["distilled"]
    teacher: Annotated[str, Field(description="a model of the profile")]
    temperature: Annotated[float, Field(gt=0, description="softens both distributions; 1 takes them as they are")] = 2.0
    teacher_weight: Annotated[
        float, Field(gt=0, le=1, description="of the teacher's labels on a training row; the rest is its true label's")
    ] = 0.5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2  # soft labels on many texts leave little to overfit
    feedback_texts: Annotated[int, Field(ge=0, description="distinct texts of the feedback, at most")] = 5000
    recombined_texts: Annotated[
        int, Field(ge=0, description="new texts out of two training rows each, at most; the teacher labels them")
    ] = 50_000

    hidden_words: Annotated[
        float,
        Field(ge=0, lt=1, description="share that teaches the unknown word; above 0 words seen once are known too"),
    ] = 0.01  # a word seen once stands in several new texts, whose labels say what the teacher knows of it

    training: Training = Training(learning_rate=2e-3, epochs=6, batch_size=64, keep="last")
    """The epoch with the best validation accuracy is an early one, which is less often of the teacher's opinion."""

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Distilled:
        if self.training.label_smoothing:
            raise ValueError("training.label_smoothing: the teacher's labels are soft already; take it out")
        if self.training.class_weights != "none":
            raise ValueError("training.class_weights: the teacher's labels are not weighted; take it out")
        return self

    def check_against(self, key: str, settings: Settings) -> None:
        """The teacher is another model of the profile, and one that needs no teacher itself."""
        require_name(f"{key}.teacher", self.teacher, settings.models, "models")
        if isinstance(settings.models[self.teacher], Distilled):
            raise ValueError(f"{key}.teacher: {self.teacher} is distilled itself; name the model that it learns from")


class DistilledKind(Kind[Distilled]):
    """A small network that learns from another model's answers."""

    name = "distilled"
    settings = Distilled
    ui_kinds = ("pytorch",)

    def inputs(self, model: Distilled, settings: Settings) -> dict[str, list[str]]:
        return {"dataset": RAW_DATASET, "teacher": model_key(model.teacher)}

    def feedback_texts(self, model: Distilled) -> int:
        return model.feedback_texts

    def describe(self, model: Distilled) -> str:
        made = f", on at most {model.recombined_texts} new texts made of these" if model.recombined_texts else ""
        texts = f", on at most {model.feedback_texts} texts of the feedback" if model.feedback_texts else ""
        return f"A one-layer bidirectional GRU taught by {model.teacher}, on the training rows{made}{texts}."

    def train(self, model: Distilled, run: TrainingRun) -> dict[str, Any]:
        from emotion_assets.models.distillation import distil

        return distil(model, run)

    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        from emotion_assets.models.bigru import BiGruScorer

        return BiGruScorer(model)
