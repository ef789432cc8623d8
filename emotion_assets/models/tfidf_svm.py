"""TF-IDF and a linear support vector machine: the cheap baseline that a large model must beat.

Stored without pickle: vocabulary as JSON, weights as safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from emotion_assets.settings.schema import TfidfSvm


@dataclass
class TfidfSvmClassifier:
    """Margins ``x W + b`` divided by a temperature, then a softmax: probabilities ``[texts, labels]``."""

    vectorizer: TfidfVectorizer
    weights: np.ndarray
    bias: np.ndarray
    temperature: float

    def margins(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self.vectorizer.transform(texts) @ self.weights + self.bias)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return softmax(self.margins(texts) / self.temperature, axis=1)


def train_svm(
    settings: TfidfSvm,
    texts: Sequence[str],
    labels: np.ndarray,
    validation_texts: Sequence[str],
    validation_labels: np.ndarray,
    n_labels: int,
    seed: int,
) -> TfidfSvmClassifier:
    """Fit on the training rows; the temperature minimises the log loss of the validation rows (Guo et al. 2017)."""
    vectorizer = _vectorizer(settings)
    features = vectorizer.fit_transform(texts)
    svm = LinearSVC(C=settings.c, random_state=seed).fit(features, labels)
    weights, bias = svm.coef_.T, svm.intercept_
    if n_labels == 2:  # scikit-learn gives one margin for two classes
        weights, bias = np.hstack([-weights, weights]), np.concatenate([-bias, bias])
    weights, bias = weights.astype(np.float32), bias.astype(np.float32)
    model = TfidfSvmClassifier(vectorizer, weights, bias, 1.0)
    margins = model.margins(validation_texts)

    def log_loss(temperature: float) -> float:
        scores = log_softmax(margins / temperature, axis=1)
        return -float(scores[np.arange(len(margins)), validation_labels].mean())

    model.temperature = float(minimize_scalar(log_loss, bounds=(0.02, 5.0), method="bounded").x)
    return model


def save_svm(model: TfidfSvmClassifier, settings: TfidfSvm, labels: Sequence[str], folder: Path) -> None:
    terms = sorted(model.vectorizer.vocabulary_, key=model.vectorizer.vocabulary_.__getitem__)
    idf = np.asarray(model.vectorizer.idf_, dtype=np.float64)
    save_file({"weights": model.weights, "bias": model.bias, "idf": idf}, folder / "model.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
    content = {
        "kind": "tfidf_svm",
        "labels": list(labels),
        "temperature": model.temperature,
        "settings": settings.model_dump(mode="json"),
    }
    (folder / "model.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_svm(folder: Path) -> TfidfSvmClassifier:
    content: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    terms = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    arrays = load_file(folder / "model.safetensors")
    vectorizer = _vectorizer(TfidfSvm.model_validate(content["settings"]))
    vectorizer.set_params(vocabulary={term: i for i, term in enumerate(terms)})
    vectorizer.idf_ = arrays["idf"]
    return TfidfSvmClassifier(vectorizer, arrays["weights"], arrays["bias"], content["temperature"])


def _vectorizer(settings: TfidfSvm) -> TfidfVectorizer:
    return TfidfVectorizer(
        ngram_range=(1, settings.ngram_max),
        min_df=settings.min_frequency,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",
    )
