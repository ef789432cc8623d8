"""The faster LoRA forward pass against PEFT's own, and adapters after a round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_assets.models.transformer.checkpoints import compile_parts, load_classifier, save_classifier
from emotion_assets.models.transformer.lora import add_adapters, speed_up_adapters
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import Lora
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training.runtime import Runtime
from emotion_assets_tests.worlds.tiny import CPU, HALF, base_folder, classifier_of, rows_of


def _adapted(folder: Path, fast: bool, **lora: bool) -> torch.nn.Module:
    from transformers import AutoModel

    torch.manual_seed(0)
    model = add_adapters(AutoModel.from_pretrained(folder), Lora(rank=4, **lora), causal_head=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    if fast:
        assert speed_up_adapters(model) == (0 if lora.get("use_dora") else 2 * 7)
    return model  # type: ignore[no-any-return]


def _run(folder: Path, fast: bool, mixed: bool, **lora: bool) -> list[torch.Tensor]:
    """Output and gradients."""
    model = _adapted(folder, fast, **lora)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = model(input_ids=torch.tensor(rows_of(1)), use_cache=False).last_hidden_state
    out.float().square().sum().backward()
    return [out.float(), *(p.grad for p in model.parameters() if p.requires_grad and p.grad is not None)]


def test_outputs_and_gradients_are_those_of_peft(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    for theirs, mine in zip(_run(folder, False, False), _run(folder, True, False), strict=True):
        assert (theirs - mine).norm() < 1e-5 * theirs.norm()


def _peft_itself(folder: Path, **options: bool) -> torch.Tensor:
    """The output of adapters that PEFT made and runs, without any code of ours."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="FEATURE_EXTRACTION", **options)
    model = get_peft_model(AutoModel.from_pretrained(folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model(input_ids=torch.tensor(rows_of(1)), use_cache=False).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", ["use_rslora", "use_dora"])
def test_a_variant_is_that_of_peft(tmp_path: Path, key: str) -> None:
    """Its output, and through the faster forward pass its output and gradients; and it is another than plain LoRA's."""
    folder = base_folder(tmp_path / "base")
    theirs = _run(folder, False, False, **{key: True})
    torch.testing.assert_close(theirs[0], _peft_itself(folder, **{key: True}))
    for one, other in zip(theirs, _run(folder, True, False, **{key: True}), strict=True):
        assert (one - other).norm() < 1e-5 * one.norm()
    assert (theirs[0] - _peft_itself(folder)).abs().max() > 0.01


@pytest.mark.parametrize("key", ["use_rslora", "use_dora"])
def test_a_variant_is_merged_and_read_back(tmp_path: Path, key: str) -> None:
    base = base_folder(tmp_path / "base")
    classifier = classifier_of(base, pooling="max", lora={key: True}).eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1.1)
        expected = classifier.log_probabilities(rows_of(5), CPU.device)
        save_classifier(classifier, tmp_path)
        loaded = load_classifier(StoredFolder(tmp_path, "m"), StoredFolder(base, "d"), CPU)
        torch.testing.assert_close(loaded.log_probabilities(rows_of(5), CPU.device), expected, rtol=0, atol=1e-4)


def test_in_mixed_precision_it_is_as_close_to_fp32_as_peft(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    exact, theirs, mine = (
        torch.cat([x.flatten() for x in _run(folder, *how)]) for how in ((False, False), (False, True), (True, True))
    )
    assert (mine - exact).norm() < 1.2 * (theirs - exact).norm()


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_merged_adapters_give_the_same_probabilities(tmp_path: Path, objective: str) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base"), objective).eval()
    rows = rows_of(5)
    with torch.no_grad():
        before = classifier.log_probabilities(rows, CPU.device)
        classifier.backbone = classifier.backbone.merge_and_unload()  # type: ignore[operator]
        after = classifier.log_probabilities(rows, CPU.device)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("objective", "method"), [("head", "lora"), ("head", "full"), ("instruction", "lora")])
def test_a_saved_classifier_is_read_back_head_included(tmp_path: Path, objective: str, method: str) -> None:
    base = base_folder(tmp_path / "base")
    pooling = "last" if objective == "instruction" else "max"
    classifier = classifier_of(base, objective, pooling=pooling, method=method).eval()
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(StoredFolder(tmp_path, "m"), StoredFolder(base, "d"), CPU)
    rows = rows_of(5)
    with torch.no_grad():
        mine, again = (c.log_probabilities(rows, CPU.device) for c in (classifier, loaded))
    torch.testing.assert_close(mine, again, rtol=0, atol=1e-6 if method == "full" else 1e-4)  # adapters are merged
    assert not [name for name, _ in loaded.named_parameters() if "lora_" in name]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("runtime", [CPU, HALF], ids=["fp32", "bf16"])
def test_trained_embeddings_are_held_and_read_back_in_fp32(tmp_path: Path, runtime: Runtime) -> None:
    base = base_folder(tmp_path / "base")
    classifier = classifier_of(base, pooling="max", runtime=runtime, lora={"train_embeddings": True}).eval()
    trained = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
    assert any("embed_tokens" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(StoredFolder(tmp_path, "m"), StoredFolder(base, "d"), runtime)
    rows = rows_of(5)
    with torch.no_grad(), runtime.autocast():
        mine, again = (c.log_probabilities(rows, CPU.device) for c in (classifier, loaded))
    rounding = 1e-4 if runtime is CPU else 0.05  # of adapters merged into the base's weights
    torch.testing.assert_close(mine, again, rtol=0, atol=rounding)
    before, after = (c.backbone.get_input_embeddings() for c in (classifier, loaded))  # type: ignore[operator]
    assert after.weight.dtype == torch.float32
    torch.testing.assert_close(_whole(before), after.weight, rtol=0, atol=0)


def _whole(embeddings: Any) -> torch.Tensor:
    """The trained copy of a module that PEFT trains whole."""
    return next(iter(embeddings.modules_to_save.values())).weight  # type: ignore[no-any-return]


def test_the_names_of_adapted_modules_are_stored_in_one_order(tmp_path: Path) -> None:
    """PEFT keeps them as a set, whose order changes from process to process, and with it the digest of the model."""
    classifier = classifier_of(base_folder(tmp_path / "base"))
    save_classifier(classifier, tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert len(content["target_modules"]) == 2 * 7
    assert content["target_modules"] == sorted(content["target_modules"])


def test_the_embeddings_of_an_encoder_can_be_trained_too(tmp_path: Path) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base", "bert"), lora={"train_embeddings": True})
    assert any("word_embeddings" in n for n, p in classifier.named_parameters() if p.requires_grad)


def test_target_modules_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(base_folder(tmp_path / "base"))
    with pytest.raises(UserError, match="target_modules"):
        add_adapters(model, Lora(target_modules=["no_such_part"]), causal_head=False)


def test_compiled_parts_change_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as for a real compilation; no C++ compiler is asked to build it."""
    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda m, **how: original(m, backend="aot_eager", **how))
    folder, gradients = base_folder(tmp_path / "base"), []
    for compiled in (False, True):
        classifier = classifier_of(folder)
        if compiled:
            compile_parts(classifier.backbone)
        for seed in (1, 2):
            classifier.loss(rows_of(4, seed=seed), torch.zeros(4, dtype=torch.int64), 0.0)[0].backward()
        gradients.append([p.grad for p in classifier.parameters() if p.requires_grad])
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-4)
