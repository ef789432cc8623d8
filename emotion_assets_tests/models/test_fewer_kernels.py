"""The training path with fewer kernels against the plain one: the same outputs, gradients and saved adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_assets.models.transformer import fewer_kernels
from emotion_assets.models.transformer.classifier import Classifier
from emotion_assets.models.transformer.fewer_kernels import launch_fewer_kernels
from emotion_assets.models.transformer.lora import add_adapters
from emotion_assets.settings.schema import Lora
from emotion_assets_tests.worlds.tiny import HALF, PREFIX, base_folder, classifier_of, rows_of

LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def _gradients(folder: Path, objective: str, fewer: bool, **settings: Any) -> list[torch.Tensor]:
    """The loss and the gradients of the adapters in double precision, in which rounding hides nothing."""
    classifier = classifier_of(folder, objective, **settings)
    classifier.backbone.double()
    if fewer:
        assert launch_fewer_kernels(classifier.backbone) == ""
        classifier.needs_autocast = False
    loss, _ = classifier.loss(rows_of(6, prefix=PREFIX), LABELS, 0.0)
    loss.backward()
    return [loss, *(p.grad for p in classifier.parameters() if p.requires_grad and p.grad is not None)]


def _assert_close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    """But for the rounding of transformers' norms, which compute in fp32."""
    assert (mine.double() - theirs.double()).norm() < 1e-4 * theirs.double().norm()


@pytest.mark.parametrize("objective", ["head", "instruction"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_loss_and_gradients_are_those_of_the_plain_path(tmp_path: Path, model_type: str, objective: str) -> None:
    folder = base_folder(tmp_path / "base", model_type)
    plain, fewer = (_gradients(folder, objective, how) for how in (False, True))
    assert len(plain) == len(fewer) > 14
    for theirs, mine in zip(plain, fewer, strict=True):
        _assert_close(mine, theirs)


def test_a_scaling_that_is_no_power_of_two_is_folded_in(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    plain, fewer = (_gradients(folder, "head", how, lora={"rank": 8, "alpha": 12}) for how in (False, True))
    for theirs, mine in zip(plain, fewer, strict=True):
        _assert_close(mine, theirs)


def test_the_copies_follow_the_optimizer(tmp_path: Path) -> None:
    """Three steps of Adam: the losses of the plain path."""
    folder, losses = base_folder(tmp_path / "base"), []
    for fewer in (False, True):
        classifier = classifier_of(folder)
        classifier.backbone.double()
        if fewer:
            launch_fewer_kernels(classifier.backbone)
            classifier.needs_autocast = False
        optimizer = torch.optim.Adam([p for p in classifier.parameters() if p.requires_grad], lr=1e-2, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            loss, _ = classifier.loss(rows_of(6), LABELS, 0.0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-4)
    assert losses[2] < 0.9 * losses[0]


def _flat(classifier: Classifier) -> torch.Tensor:
    """All gradients as one vector."""
    parts = [p.grad.flatten().double() for p in classifier.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(parts)


def test_in_half_precision_it_is_as_close_to_the_exact_gradient(tmp_path: Path) -> None:
    """On the average of some batches; of one, either can be the closer one."""
    folder, errors = base_folder(tmp_path / "base"), {False: 0.0, True: 0.0}
    for seed in range(4):
        rows = rows_of(6, seed=seed, prefix=PREFIX)
        exact = classifier_of(folder)
        exact.backbone.double()
        exact.loss(rows, LABELS, 0.0)[0].backward()
        for fewer in errors:
            classifier = classifier_of(folder, runtime=HALF)
            if fewer:
                assert launch_fewer_kernels(classifier.backbone) == ""
                classifier.needs_autocast = False
            with HALF.autocast():
                classifier.loss(rows, LABELS, 0.0)[0].backward()
            errors[fewer] += ((_flat(classifier) - _flat(exact)).norm() / _flat(exact).norm()).item() / 4
    assert errors[True] < 1.2 * errors[False] < 0.1


@pytest.mark.parametrize("lora", [{"train_embeddings": True}, {"dropout": 0.1}], ids=["whole modules", "dropout"])
def test_what_it_does_not_fit_stays_as_it_is(tmp_path: Path, lora: dict[str, Any]) -> None:
    backbone = classifier_of(base_folder(tmp_path / "base"), runtime=HALF, lora=lora).backbone
    assert launch_fewer_kernels(backbone) == "something else than plain adapters is trained"
    assert not any(hasattr(module, "group") for module in backbone.modules())


def test_a_base_in_fp32_stays_as_it_is(tmp_path: Path) -> None:
    backbone = classifier_of(base_folder(tmp_path / "base")).backbone
    assert launch_fewer_kernels(backbone) == "the base is not held in one half-precision format"


@pytest.mark.parametrize(("product", "said"), [("missing", "NotImplementedError: no such kernel"), ("wrong", "differ")])
def test_kernels_that_fail_or_differ_on_this_device_are_not_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, product: str, said: str
) -> None:
    def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if product == "missing":
            raise NotImplementedError("no such kernel")
        return 1.1 * (x @ y).float()

    monkeypatch.setattr(fewer_kernels, "_product_in_fp32", broken)
    backbone = classifier_of(base_folder(tmp_path / "base"), runtime=HALF).backbone
    assert said in launch_fewer_kernels(backbone)
    assert not any(hasattr(module, "group") for module in backbone.modules())


def test_a_part_that_is_not_adapted_is_left_out(tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(base_folder(tmp_path / "base"), dtype=torch.bfloat16)
    adapted = add_adapters(model, Lora(target_modules=["q_proj", "v_proj"]), causal_head=False)
    assert launch_fewer_kernels(adapted) == ""
    assert sum(hasattr(module, "group") for module in adapted.modules()) == 4
