"""Weights of labels and the cross entropy against scikit-learn and torch; early stopping against transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight

from emotion_assets.settings.schema import PretrainedHere, Training
from emotion_assets.training.loss import label_weights, summed_cross_entropy
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.trainer import Trainer, TrainingTask
from emotion_assets_tests.worlds.tiny import CPU

BALANCED = Training(class_weights="balanced")
LABELS = np.array([0] * 30 + [1] * 12 + [2] * 5 + [3] * 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_mean_loss_and_its_gradient_are_those_of_sklearns_weights_in_torchs_cross_entropy(smoothing: float) -> None:
    reference = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(4), y=LABELS)).float()
    logits = torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.from_numpy(LABELS)
    theirs = torch.nn.functional.cross_entropy(logits, targets, weight=reference, label_smoothing=smoothing)
    (their_gradient,) = torch.autograd.grad(theirs, logits)
    weights = label_weights(BALANCED, LABELS, 4)
    assert weights is not None
    loss = summed_cross_entropy(torch.log_softmax(logits, 1), targets, smoothing, torch.from_numpy(weights))
    mine = loss / float(weights[LABELS].sum())
    (gradient,) = torch.autograd.grad(mine, logits)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(gradient, their_gradient)


def test_without_weights_it_is_torchs_cross_entropy() -> None:
    logits, targets = torch.randn(9, 4), torch.arange(9) % 4
    mine = summed_cross_entropy(torch.log_softmax(logits, 1), targets, 0.2)
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(mine, theirs)
    assert label_weights(Training(), LABELS, 4) is None


def test_a_label_without_rows_has_a_weight_and_no_row_weighs_less_than_one() -> None:
    weights = label_weights(BALANCED, LABELS, 6)
    assert weights is not None
    assert weights.shape == (6,)
    assert weights.min() == 1
    assert weights[4:].tolist() == [1, 1]


def test_a_training_whose_rows_weigh_unequally_takes_the_step_of_the_weighted_mean() -> None:
    """In micro-batches of unlike weight, as torch's weighted mean over the whole step has it."""
    generator = torch.Generator().manual_seed(2)
    x, labels = torch.randn(12, 5, generator=generator), np.array([0] * 9 + [1] * 2 + [2])
    targets, weights = torch.from_numpy(labels), label_weights(BALANCED, labels, 3)
    assert weights is not None
    on_device = torch.from_numpy(weights)
    results = []
    for ours in (True, False):
        torch.manual_seed(4)
        model = torch.nn.Linear(5, 3)

        def loss_of(chosen: Sequence[int], model: torch.nn.Module = model) -> tuple[torch.Tensor, float]:
            picked = list(chosen)
            scores = torch.log_softmax(model(x[picked]), 1)
            return summed_cross_entropy(scores, targets[picked], 0.0, on_device), float(weights[labels[picked]].sum())

        if ours:
            training = Training(
                epochs=1, batch_size=3, gradient_accumulation=4, learning_rate=0.1, scheduler="constant"
            )
            Trainer(TrainingTask("t", model, 12, loss_of), training, CPU, 3).fit(lambda _: None)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            reference = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(3), y=labels)).float()
            torch.nn.functional.cross_entropy(model(x), targets, weight=reference).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)


def _epochs(scores: Sequence[float], patience: int | None, state: ResumeState | None = None) -> tuple[int, int]:
    """How many epochs a training with these validation scores takes, and which one it keeps."""
    model, left = torch.nn.Linear(2, 2), iter(scores)

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, float]:
        return model(torch.ones(len(chosen), 2)).square().sum(), len(chosen)

    task = TrainingTask("t", model, 4, loss_of, lambda: next(left))
    history = Trainer(task, Training(epochs=len(scores), batch_size=2, patience=patience), CPU, 1).fit(
        lambda _: None, state
    )
    return len(history.scores), history.best_epoch


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_stops_where_the_early_stopping_of_transformers_does(patience: int) -> None:
    from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

    generator = np.random.default_rng(patience)
    for _ in range(20):
        scores = (generator.integers(0, 6, size=9) / 10).tolist()
        callback = EarlyStoppingCallback(early_stopping_patience=patience)
        arguments = TrainingArguments(
            output_dir="unused", metric_for_best_model="accuracy", greater_is_better=True,
            load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch", report_to=[],
        )  # fmt: skip
        state, control = TrainerState(), TrainerControl()
        stopped = len(scores)
        for epoch, score in enumerate(scores, 1):
            callback.on_evaluate(arguments, state, control, {"eval_accuracy": score})
            if state.best_metric is None or score > state.best_metric:  # as the Trainer does after its callbacks
                state.best_metric = score
            if control.should_training_stop:
                stopped = epoch
                break
        assert _epochs(scores, patience) == (stopped, 1 + int(np.argmax(scores[:stopped])))


def test_without_patience_all_epochs_are_trained() -> None:
    assert _epochs([0.5, 0.1, 0.1, 0.1], None) == (4, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patience": 2, "keep": "last"}, "patience waits for a better epoch, so the best one is kept"),
        ({"patience": 0}, "greater than or equal to 1"),
        ({"class_weights": "sqrt"}, "'none' or 'balanced'"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Training.model_validate(settings)


@pytest.mark.parametrize("key", [{"patience": 2}, {"class_weights": "balanced"}])
def test_pre_training_reads_no_labels(key: dict[str, object]) -> None:
    build = {"model_type": "llama", "hidden_size": 8, "layers": 1, "heads": 1, "intermediate_size": 8}
    with pytest.raises(ValidationError, match=rf"pretrain\.{next(iter(key))} needs labels"):
        PretrainedHere.model_validate({"build": build, "pretrain": key})
