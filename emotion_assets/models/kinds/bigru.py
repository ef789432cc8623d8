"""A bidirectional GRU over words. The network itself stands in ``models.bigru``, which needs torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from emotion_assets.models.kind import Kind, Scorer, TrainingRun
from emotion_assets.settings.schema import ModelSettings, Training
from emotion_assets.storage.store import Store, StoredFolder


class BiGruNetwork(ModelSettings):
    """A one-layer bidirectional GRU over words with max pooling, however it is taught."""

    embedding_size: Annotated[int, Field(ge=8)] = 128
    hidden_size: Annotated[int, Field(ge=8)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    vocab_size: Annotated[int, Field(ge=100)] = 20000
    max_length: Annotated[int, Field(ge=8)] = 128
    training: Training = Training(learning_rate=2e-3, epochs=6, batch_size=64)
    paper_accuracy: None = None


class BiGru(BiGruNetwork):
    """The network taught by the labels of the training rows."""

    method: Literal["bigru"]


class BiGruKind(Kind[BiGru]):
    """What a small network without pre-training can do."""

    name = "bigru"
    settings = BiGru
    several_devices = True
    ui_kinds = ("pytorch",)

    def describe(self, model: BiGru) -> str:
        return "A one-layer bidirectional GRU over words with max pooling."

    def train(self, model: BiGru, run: TrainingRun) -> dict[str, Any]:
        from emotion_assets.models.bigru import train_bigru

        return train_bigru(model, run)

    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        from emotion_assets.models.bigru import BiGruScorer

        return BiGruScorer(model)
