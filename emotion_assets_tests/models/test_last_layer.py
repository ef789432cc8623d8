"""The last layer computed where it is read: the loss and the gradients of the whole layer, for less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_assets.models.transformer.classifier import Classifier
from emotion_assets_tests.worlds.tiny import CPU, PREFIX, base_folder, classifier_of, rows_of

LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
ROWS = rows_of(6, prefix=PREFIX)
WAYS = [("head", "last"), ("head", "first"), ("instruction", "last")]


def double(folder: Path, objective: str, pooling: str) -> Classifier:
    """In double precision, in which rounding hides nothing."""
    classifier = classifier_of(folder, objective, pooling)
    classifier.backbone.double()
    return classifier


def tokens_seen(classifier: Classifier) -> list[int]:
    """A list that gets the number of tokens of each pass through the last layer's feed-forward part."""
    seen: list[int] = []
    body: Any = classifier._body
    body.layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize(("objective", "pooling"), WAYS)
def test_loss_and_gradients_are_those_of_the_whole_layer(
    tmp_path: Path, model_type: str, objective: str, pooling: str
) -> None:
    folder, results = base_folder(tmp_path / "base", model_type), []
    for narrows in (False, True):
        classifier = double(folder, objective, pooling)
        assert classifier.narrows
        classifier.narrows = narrows
        seen = tokens_seen(classifier)
        loss, targets = classifier.loss(ROWS, LABELS)
        loss.backward()
        assert (seen == [targets]) == narrows
        gradients = [p.grad for p in classifier.parameters() if p.requires_grad and p.grad is not None]
        results.append([loss.detach(), *gradients])
    assert len(results[0]) == len(results[1]) > 14
    for whole, narrow in zip(*results, strict=True):
        assert (narrow - whole).norm() <= 1e-5 * whole.norm()  # transformers' norms compute in fp32


def test_with_recomputed_activations_the_gradients_are_the_same(tmp_path: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        classifier = double(base_folder(tmp_path / f"base{checkpointing}"), "instruction", "last").train()
        if checkpointing:
            classifier.checkpoint_activations()
        classifier.loss(ROWS, LABELS)[0].backward()
        gradients.append([p.grad for p in classifier.parameters() if p.requires_grad and p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_scoring_and_pooling_of_all_tokens_read_the_whole_layer(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    tokens = sum(map(len, ROWS))
    scored, pooled = classifier_of(folder), classifier_of(folder, pooling="max")
    seen_in_scoring, seen_in_training = tokens_seen(scored), tokens_seen(pooled)
    with torch.inference_mode():
        scored.log_probabilities(ROWS, CPU.device)
    pooled.loss(ROWS, LABELS)
    assert seen_in_scoring == seen_in_training == [tokens]


def test_an_encoder_is_left_as_it_is(tmp_path: Path) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base", "bert"), pooling="first", method="full")
    assert not classifier.narrows
    classifier.loss(ROWS, LABELS)[0].backward()
