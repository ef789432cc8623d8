"""What a kind of model is to the rest of the project: its settings, its inputs, how it is trained and how it answers.

A kind is one file in ``kinds/``, found there by ``registry``; nothing else names it. Its settings and its description
are read whenever Dagster loads the project: a kind's file imports torch and other heavy libraries in functions alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import ModelSettings, Settings
from emotion_assets.storage.keys import RAW_DATASET
from emotion_assets.storage.store import Store, StoredFolder

if TYPE_CHECKING:
    import numpy as np

    from emotion_assets.training.progress import Report
    from emotion_assets.training.resume import ResumeState

S = TypeVar("S", bound=ModelSettings)


@dataclass(frozen=True)
class TrainingRun:
    """One training: what it reads, where its results go, who hears of its progress.

    Attributes:
        name: name of the model in the profile; progress lines and errors call it so.
        inputs: stored folders by role, as ``Kind.inputs`` names them.
        target: the folder to fill.
        report: called with the progress every few seconds.
        resume_state: where an unfinished training keeps its state, and finds it again.
        feedback: texts of the home's feedback, without labels; none of a kind that asks for none. They are not to be
            kept in ``target``, nor their words: a person's text must be gone once it is forgotten.
    """

    name: str
    labels: Sequence[str]
    seed: int
    inputs: Mapping[str, StoredFolder]
    target: Path
    report: Report
    resume_state: ResumeState | None = None
    feedback: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """Texts as a model reads them, each distinct text once.

    Attributes:
        rows: one row for each distinct text; what a row is, the kind of model alone knows.
        truncated: ``[distinct]`` bool, whether the text is longer than the model reads: it is scored on its beginning.
        places: ``[texts]``, for each text the index of its row.
    """

    rows: Any
    truncated: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Class probabilities ``[texts, labels]`` float32, each row summing to one, and ``[texts]`` bool: read in part;
    of a cascade also ``[texts]`` bool: answered by its first model."""

    probabilities: np.ndarray
    truncated: np.ndarray
    by_first: np.ndarray | None = None


class Scorer(ABC):
    """A loaded model. ``labels`` is the order of the probability columns.

    Scoring has two halves that may run in two threads, one ahead of the other: ``prepare`` and ``answer``. A kind of
    model gives ``encode`` and ``predict``, and need not think of texts that repeat.
    """

    labels: list[str]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        """Each text as a row that the model reads, and ``[texts]`` bool: which are longer than it reads. A text gives
        the same row whatever stands beside it. Other threads may run ``predict`` meanwhile."""

    @abstractmethod
    def predict(self, rows: Any) -> np.ndarray:
        """Class probabilities ``[rows, labels]`` float32 of what ``encode`` gave, in its order."""

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """The first half, without the model: every distinct text is encoded once."""
        import numpy as np

        index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        if not index:
            return Prepared(None, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
        rows, truncated = self.encode(list(index))
        return Prepared(rows, truncated, np.fromiter((index[text] for text in texts), dtype=np.int64))

    def answer(self, prepared: Prepared) -> Scores:
        """The second half: the probabilities of every text, in the order in which the texts were given."""
        import numpy as np

        if not len(prepared.truncated):
            return Scores(np.zeros((0, len(self.labels)), dtype=np.float32), prepared.truncated)
        probabilities = self.predict(prepared.rows)
        return Scores(probabilities[prepared.places], prepared.truncated[prepared.places])

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities ``[texts, labels]``, float32, each row summing to one."""
        return self.answer(self.prepare(texts)).probabilities

    def word_vectors(self, words: Sequence[str]) -> np.ndarray | None:
        """What the model knows of each word by itself, ``[words, width]`` float32; None if it has no such vectors."""
        return None


@dataclass(frozen=True)
class Export:
    """A model as a folder that another library loads.

    Attributes:
        library: ``transformers`` or ``peft``.
        loaded_by: the class that loads it.
        code: Python that defines ``probabilities(text, temperature)``, for the model card.
        format: the number format of the weights.
        base: the name of the base on the Hub and its revision; None where it is not from there.
    """

    library: str
    loaded_by: str
    code: str
    format: str
    base: tuple[str, str] | None


class Kind(ABC, Generic[S]):
    """A kind of model."""

    name: ClassVar[str]
    """Its name in the recipe of a training and in a stored model's ``model.json``."""

    settings: type[S]
    """What a profile says of such a model. The values of its ``method`` are this kind's alone."""

    several_devices: ClassVar[bool] = False
    """Whether a training can be done by several processes, each on its part of every step's rows."""

    ui_kinds: ClassVar[tuple[str, ...]]
    """The badges of the asset in the UI."""

    def inputs(self, model: S, settings: Settings) -> dict[str, list[str]]:
        """The asset keys that a training reads, by role."""
        return {"dataset": RAW_DATASET}

    def feedback_texts(self, model: S) -> int:
        """How many distinct texts of the home's feedback a training learns from, at most."""
        return 0

    def used_settings(self, model: S) -> dict[str, Any]:
        """The settings that decide a training of this model, nested as in a profile."""
        return model.model_dump(mode="json", exclude={"paper_accuracy"})

    @abstractmethod
    def describe(self, model: S) -> str:
        """A sentence for the UI."""

    @abstractmethod
    def train(self, model: S, run: TrainingRun) -> dict[str, Any]:
        """Train the model and save it into ``run.target``, with a ``model.json`` that holds ``kind`` and ``labels``.

        Returns what was measured: ``trainable_parameters``, ``total_parameters``, ``train_seconds``,
        ``peak_memory_mb``, ``base``, ``runtime`` and, where there are such, ``validation_accuracy`` and the loss
        ``curve``.
        """

    def number_formats(self, model: StoredFolder) -> tuple[str, ...]:
        """The number formats, besides fp32, in which this machine may compute a stored model faster."""
        return ()

    @abstractmethod
    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        """The scorer of a stored model.

        Args:
            number_format: ``fp32`` or one of ``number_formats``; empty for the one that the model was trained in.

        Raises:
            StoreError: something that it needs is not in the store any more, or was altered.
        """

    def export(self, model: StoredFolder, store: Store, target: Path, temperature: float, adapter: bool) -> Export:
        """Write a stored model into the folder ``target`` for plain transformers; with ``adapter``, for PEFT, without
        its base.

        Args:
            temperature: of the calibration, noted in the model's config.

        Raises:
            DataError: no class of transformers computes what the model computes.
        """
        raise DataError(f"{self.name} is no model of transformers; {model.path} holds it as JSON and safetensors")
