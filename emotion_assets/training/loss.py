"""The cross entropy of labels, and how much the rows of each label count in it."""

from __future__ import annotations

import numpy as np
import torch

from emotion_assets.settings.schema import Training


def label_weights(training: Training, labels: np.ndarray, n_labels: int) -> np.ndarray | None:
    """What the loss of a row of each label is multiplied by, ``[n_labels]`` float32, or None where all count the same.

    ``balanced`` is ``rows / (n_labels * rows of the label)``, as scikit-learn computes it, divided by the smallest of
    these: a weighted mean does not depend on a common factor, and so the weights of any rows sum to at least 1. A label
    without rows has the weight 1.

    Args:
        labels: ``[rows]`` label indices of the training rows.
    """
    if training.class_weights == "none":
        return None
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    balanced = compute_class_weight("balanced", classes=present, y=labels)
    weights = np.ones(n_labels, dtype=np.float32)
    weights[present] = balanced / balanced.min()
    return weights


def summed_cross_entropy(
    log_probabilities: torch.Tensor, labels: torch.Tensor, smoothing: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The cross entropy summed over rows, from log-probabilities ``[rows, labels]`` and label indices ``[rows]``.

    With smoothing and weights as torch's ``cross_entropy`` defines them: the smoothed part weighs each label by its own
    weight, not by the row's.
    """
    if weights is None:
        right = log_probabilities.gather(1, labels[:, None]).sum()
        spread = log_probabilities.mean(1).sum()
    else:
        right = (log_probabilities * weights).gather(1, labels[:, None]).sum()
        spread = (log_probabilities * weights).mean(1).sum()
    return -((1 - smoothing) * right + smoothing * spread)
