"""One training step of the exact Llama-3-8B configuration without its memory: peak of memory, kernels, transfers.

Everything is a FakeTensor of torch on ``cuda:0``: shapes and lifetimes are real, there are no values.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer import fewer_kernels
from emotion_assets.models.transformer.attention import (
    ATTENTION_NAME,
    VARLEN_KERNELS,
    Backend,
    register_packed_attention,
)
from emotion_assets.models.transformer.classifier import Classifier, ClassifierConfig
from emotion_assets.models.transformer.fewer_kernels import launch_fewer_kernels
from emotion_assets.models.transformer.lora import add_adapters, speed_up_adapters
from emotion_assets.models.transformer.memory import CONTEXT_BYTES, Sizes, estimate_memory
from emotion_assets.settings.schema import Lora, Training
from emotion_assets.training import transfer
from emotion_assets.training.runtime import Runtime
from emotion_assets.training.trainer import Trainer, TrainingTask
from emotion_assets_tests.fake_cuda.tensors import DEVICE, NO_KERNEL

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


def lengths_of_the_dataset(rows: int) -> list[int]:
    """Tokens of rows as dair-ai/emotion has them: a log-normal whose median is 18."""
    drawn = np.exp(np.random.default_rng(0).standard_normal(rows) * 0.53 + 2.89)
    return [int(n) for n in np.clip(np.round(drawn), 3, 100)]


@dataclass
class _Ledger(TorchDispatchMode):
    """Counts bytes that live on the device, and kernels."""

    live: int = 0
    peak: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "mm" and func._overloadname == "dtype":
            out = args[0].new_empty((args[0].shape[0], args[1].shape[1]), dtype=args[2])
        else:
            out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.device.type == "cuda"]
        used = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.device.type == "cuda"]
        if (made or used) and func.namespace != "prim" and name not in NO_KERNEL:
            self.kernels[name] += 1
        for tensor in made:
            self.hold(tensor)
        return out


def _on_device(module: nn.Module) -> None:
    """Replace all tensors of a module by ones on the device, without values."""
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype, device=DEVICE)
                part._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)


def _backbone(objective: str, dtype: torch.dtype) -> Any:
    """The base with its adapters, on the device that has no memory at all."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    register_packed_attention()
    loader: Any = AutoModelForCausalLM if objective == "instruction" else AutoModel
    with torch.device("meta"):
        backbone = loader.from_config(
            AutoConfig.for_model(**cast(dict[str, Any], CONFIG)), dtype=dtype, attn_implementation=ATTENTION_NAME
        )
        return add_adapters(backbone, Lora(rank=8, alpha=16), objective == "instruction")


def _classifier(backbone: Any, objective: str, few: bool) -> Classifier:
    speed_up_adapters(backbone)
    _on_device(backbone)
    problem = launch_fewer_kernels(backbone) if few else "not asked for"
    assert not (few and problem), problem
    answers = [[100 + i, 200 + i, 300] for i in range(6)] if objective == "instruction" else []
    config = ClassifierConfig("lora", objective, "last", [str(i) for i in range(6)], 512, "", "", answers)
    backend = Backend("varlen", "", VARLEN_KERNELS["varlen"].load(), supports_dropout=False)
    with DEVICE:
        classifier = Classifier(backbone, config, backend)
    classifier.needs_autocast = bool(problem)
    return classifier


@contextmanager
def _without_values() -> Any:
    """Where the code reads values, or needs a device, there is none."""

    def there(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        return [torch.empty(t.shape, dtype=t.dtype, device=device) for t in tensors]

    replaced: list[tuple[Any, str, Any]] = [
        (fake_tensor, "init_gpu_context", lambda device: None),
        (transfer, "_move_together", there),
        (transfer.HostCopy, "__init__", lambda self, values: None),
        (transfer.HostCopy, "read", lambda self: [1.0, 1.0, 1.0, 1.0]),
        (torch, "manual_seed", lambda seed: None),
        (fewer_kernels, "_problem", lambda device, kind: ""),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def _two_steps(
    classifier: Classifier, rows: Sequence[Sequence[int]], labels: torch.Tensor, runtime: Runtime, training: Training
) -> tuple[_Ledger, int, int]:
    """What the device held and did, its kernels of the second step alone; of these the ones of forward and backward
    passes; and the bytes of the weights."""
    ledger = _Ledger()
    for tensor in [*classifier.parameters(), *classifier.buffers()]:
        ledger.hold(tensor)
    weights = ledger.live
    task = TrainingTask("8b", classifier, len(rows), lambda chosen: classifier.loss(rows, labels))
    trainer = Trainer(task, training, runtime, 1, len(rows))
    one_pass, of_passes = trainer._pass, 0

    def counted(rows: Sequence[int], divisor: int) -> tuple[torch.Tensor, float]:
        nonlocal of_passes
        before = ledger.kernels.total()
        found = one_pass(rows, divisor)
        of_passes += ledger.kernels.total() - before
        return found

    with ledger:
        trainer.step(range(len(rows)))
        ledger.kernels.clear()
        trainer._pass = counted  # type: ignore[method-assign]
        trainer.step(range(len(rows)))
    return ledger, of_passes, weights


def step_of_8b(
    lengths: Sequence[int], objective: str = "head", precision: str = "bf16", few: bool = True
) -> dict[str, Any]:
    """The second optimizer step on rows of these lengths, all in one forward pass."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    runtime = Runtime(DEVICE, dtype, "")
    training = Training(batch_size=5, gradient_accumulation=max(len(lengths) // 5, 1), keep="last")
    rows = [[5 + j % 400 for j in range(n)] for n in lengths]
    labels = torch.zeros(len(rows), dtype=torch.int64)  # of the host, where they have values
    with _disable_current_modes(), _without_values():
        backbone = _backbone(objective, dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            classifier = _classifier(backbone, objective, few)
            ledger, of_passes, weights = _two_steps(classifier, rows, labels, runtime, training)
    model = TransformerModel.model_validate(
        {"method": "lora", "base": "b", "objective": objective, "training": training.model_dump()}
    )
    expected = estimate_memory(Sizes.of(CONFIG), model, runtime, lengths).total - CONTEXT_BYTES
    return {
        "tokens": sum(lengths),
        "weights": weights,
        "peak": ledger.peak,
        "expected": expected,
        "kernels": dict(ledger.kernels),
        "kernels_of_passes": of_passes,
    }
