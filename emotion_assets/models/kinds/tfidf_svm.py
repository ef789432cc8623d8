"""TF-IDF and a linear support vector machine: the cheap baseline that a large model must beat.

Stored without pickle: vocabulary as JSON, weights as safetensors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from emotion_assets.models.kind import Kind, Scorer, TrainingRun
from emotion_assets.settings.schema import ModelSettings
from emotion_assets.storage.store import Store, StoredFolder

if TYPE_CHECKING:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer


class TfidfSvm(ModelSettings):
    """TF-IDF over words and word pairs with a linear support vector machine, its margins calibrated."""

    method: Literal["tfidf_svm"]
    ngram_max: Annotated[int, Field(ge=1, le=3)] = 2
    min_frequency: Annotated[int, Field(ge=1)] = 1
    c: Annotated[float, Field(gt=0)] = 1.0
    paper_accuracy: None = None


class TfidfSvmKind(Kind[TfidfSvm]):
    """TF-IDF with a linear support vector machine."""

    name = "tfidf_svm"
    settings = TfidfSvm
    ui_kinds = ("scikitlearn",)

    def describe(self, model: TfidfSvm) -> str:
        return "TF-IDF with a linear support vector machine."

    def train(self, model: TfidfSvm, run: TrainingRun) -> dict[str, Any]:
        """Fit on the training rows; validation chooses the temperature."""
        import numpy as np

        from emotion_assets.dataset.splits import read_split
        from emotion_assets.training.runtime import peak_memory_mb

        started = time.monotonic()
        texts, targets = {}, {}
        for split in ("train", "validation"):
            frame = read_split(run.inputs["dataset"], split)
            texts[split] = frame["text"].tolist()
            targets[split] = np.array([run.labels.index(label) for label in frame["label"]])
        classifier = fit_classifier(model, texts["train"], targets["train"], len(run.labels), run.seed)
        classifier.fit_temperature(texts["validation"], targets["validation"])
        save_classifier(classifier, model, run.labels, run.target)
        parameters = int(classifier.weights.size + classifier.bias.size)
        right = classifier.probabilities(texts["validation"]).argmax(1) == targets["validation"]
        return {
            "trainable_parameters": parameters,
            "total_parameters": parameters,
            "train_seconds": time.monotonic() - started,
            "peak_memory_mb": peak_memory_mb(),
            "runtime": "cpu, fp32",
            "base": "none",
            "validation_accuracy": float(right.mean()),
        }

    def load(self, model: StoredFolder, store: Store, number_format: str = "") -> Scorer:
        return _Scorer(model)


class _Scorer(Scorer):
    def __init__(self, model: StoredFolder) -> None:
        self.labels = model.read_json("model.json")["labels"]
        self._classifier = load_classifier(model.path)

    def encode(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        import numpy as np

        return self._classifier.vectorizer.transform(texts), np.zeros(len(texts), dtype=bool)

    def predict(self, rows: Any) -> np.ndarray:
        return self._classifier.probabilities_of(rows).astype("float32")


@dataclass
class Classifier:
    """Margins ``x W + b`` divided by a temperature, then a softmax: probabilities ``[texts, labels]``."""

    vectorizer: TfidfVectorizer
    weights: np.ndarray
    bias: np.ndarray
    temperature: float = 1.0

    def margins(self, features: Any) -> np.ndarray:
        """``[rows, labels]`` of what the vectorizer gives, sparse ``[rows, terms]``."""
        import numpy as np

        return np.asarray(features @ self.weights + self.bias)

    def probabilities_of(self, features: Any) -> np.ndarray:
        from scipy.special import softmax

        return softmax(self.margins(features) / self.temperature, axis=1)  # type: ignore[no-any-return]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return self.probabilities_of(self.vectorizer.transform(texts))

    def fit_temperature(self, texts: Sequence[str], targets: np.ndarray) -> None:
        """Choose the temperature that minimises the log loss of these rows (Guo et al. 2017)."""
        import numpy as np
        from scipy.optimize import minimize_scalar
        from scipy.special import log_softmax

        margins = self.margins(self.vectorizer.transform(texts))

        def log_loss(temperature: float) -> float:
            scores = log_softmax(margins / temperature, axis=1)
            return -float(scores[np.arange(len(margins)), targets].mean())

        self.temperature = float(minimize_scalar(log_loss, bounds=(0.02, 5.0), method="bounded").x)


def fit_classifier(
    settings: TfidfSvm, texts: Sequence[str], targets: np.ndarray, n_labels: int, seed: int
) -> Classifier:
    """Fit vocabulary and weights; ``targets`` ``[texts]`` are indices of labels."""
    import numpy as np
    from sklearn.svm import LinearSVC

    vectorizer = _vectorizer(settings)
    features = vectorizer.fit_transform(texts)
    svm = LinearSVC(C=settings.c, random_state=seed).fit(features, targets)
    weights, bias = svm.coef_.T, svm.intercept_
    if n_labels == 2:  # scikit-learn gives one margin for two classes
        weights, bias = np.hstack([-weights, weights]), np.concatenate([-bias, bias])
    return Classifier(vectorizer, weights.astype(np.float32), bias.astype(np.float32))


def save_classifier(model: Classifier, settings: TfidfSvm, labels: Sequence[str], folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    terms = sorted(model.vectorizer.vocabulary_, key=model.vectorizer.vocabulary_.__getitem__)
    idf = np.asarray(model.vectorizer.idf_, dtype=np.float64)
    save_file({"weights": model.weights, "bias": model.bias, "idf": idf}, folder / "model.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
    content = {
        "kind": TfidfSvmKind.name,
        "labels": list(labels),
        "temperature": model.temperature,
        "settings": settings.model_dump(mode="json"),
    }
    (folder / "model.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_classifier(folder: Path) -> Classifier:
    from safetensors.numpy import load_file

    content: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    terms = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / "model.safetensors")
    vectorizer = _vectorizer(TfidfSvm.model_validate(content["settings"]))
    vectorizer.set_params(vocabulary={term: i for i, term in enumerate(terms)})
    vectorizer.idf_ = arrays["idf"]
    return Classifier(vectorizer, arrays["weights"], arrays["bias"], content["temperature"])


def _vectorizer(settings: TfidfSvm) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, settings.ngram_max),
        min_df=settings.min_frequency,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",
    )
