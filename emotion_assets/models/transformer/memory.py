"""How much memory a training needs, from the base's config alone: to refuse before a download, and to choose how many
rows go through one forward pass.

An estimate, not a bound: ``emotion_assets_tests/ml/test_memory.py`` holds it against what autograd really keeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emotion_assets.models.transformer.classifier import CAUSAL_MODEL_TYPES
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import Training, TransformerModel
from emotion_assets.training.runtime import Runtime

TYPICAL_TOKENS = 64  # of a row with its prompt, where the rows are not known yet
CONTEXT_BYTES = 600 * 2**20  # CUDA's own, or Python's and torch's code
PADDING = 1.6  # attention blocks hold padding: about so many places for each token
MERGE_SHARE = 0.5  # of the memory that is left may go into activations of a merged step
NF4_BYTES = 0.56  # of a weight in four bits, its share of the scales included


@dataclass(frozen=True)
class Sizes:
    """Parameters of a checkpoint, and of the linear layers among them, from its config.json."""

    parameters: int
    linear: int
    linear_sides: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    gated: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Count the parameters of the model that the config describes; no memory is taken."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        settings = AutoConfig.for_model(**config)
        causal = "CausalLM" in "".join(config.get("architectures") or [])
        with torch.device("meta"):
            model: Any = (AutoModelForCausalLM if causal else AutoModel).from_config(settings)
        linear = [
            m.weight.shape for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n
        ]
        heads = settings.num_attention_heads
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            linear=sum(a * b for a, b in linear),
            linear_sides=sum(a + b for a, b in linear),
            hidden=settings.hidden_size,
            intermediate=settings.intermediate_size,
            layers=settings.num_hidden_layers,
            heads=heads,
            key_value_heads=getattr(settings, "num_key_value_heads", None) or heads,
            gated=config["model_type"] in CAUSAL_MODEL_TYPES,
            head_width=getattr(settings, "head_dim", None) or settings.hidden_size // heads,
        )

    def activation_bytes(self, element: int) -> float:
        """What the backward pass of one token needs, gradient checkpointing off; ``element`` is 2 or 4 bytes."""
        attention = PADDING * 2 * (self.heads + self.key_value_heads) * self.head_width
        feed_forward = (4 if self.gated else 2) * self.intermediate
        layer = element * (8 * self.hidden + attention + feed_forward) + 4 * 2 * self.hidden  # norms keep fp32
        return float(self.layers * layer)


@dataclass(frozen=True)
class Estimate:
    """Bytes of a training's parts; ``rows`` go through one forward pass."""

    weights: float
    trained: float
    activations: float
    rows: int

    @property
    def total(self) -> float:
        return self.weights + self.trained + self.activations + CONTEXT_BYTES

    def __str__(self) -> str:
        return (
            f"{self.total / 2**30:.1f} GiB (weights {self.weights / 2**30:.1f}, trained parameters with optimiser "
            f"{self.trained / 2**30:.1f}, activations {self.activations / 2**30:.1f} for {self.rows} rows at a time)"
        )


def estimate(sizes: Sizes, model: TransformerModel, runtime: Runtime, rows: int, tokens: float) -> Estimate:
    """Memory of training ``model`` with ``rows`` rows of altogether ``tokens`` tokens in one forward pass.

    A trained parameter takes 16 bytes in fp32: itself, its gradient and two moments of Adam.
    """
    element = 4 if runtime.dtype == torch.float32 else 2
    if model.method == "full":
        weights, trained = (0 if element == 4 else 2.0 * sizes.parameters), 16.0 * sizes.parameters
    else:
        frozen = NF4_BYTES if model.quantization == "nf4" else float(element)
        weights = frozen * sizes.linear + element * (sizes.parameters - sizes.linear)
        trained = 16.0 * model.lora.rank * sizes.linear_sides
    return Estimate(weights, trained, tokens * sizes.activation_bytes(element), rows)


def preflight(config: Mapping[str, Any], models: Mapping[str, TransformerModel], runtime: Runtime) -> None:
    """Refuse a base of which no model could be trained in this machine's memory.

    Raises:
        DataError: names the model that needs least, what it needs, and what is there.
    """
    if not models:
        return
    sizes = Sizes.of(config)
    needs = {
        name: estimate(
            sizes,
            model,
            runtime,
            model.training.batch_size,
            TYPICAL_TOKENS * model.training.batch_size * model.passes,
        )
        for name, model in models.items()
    }
    name = min(needs, key=lambda key: needs[key].total)
    there = memory_total(runtime)
    if needs[name].total > there:
        place = "the GPU has" if runtime.device.type == "cuda" else "no GPU is there that torch can use, and only"
        memory = "" if runtime.device.type == "cuda" else " of memory"
        raise DataError(
            f"models.{name}: needs about {needs[name]}, {place} {there / 2**30:.1f} GiB{memory}; use a smaller base, a "
            "larger GPU, or for method lora quantization: nf4"
        )


def rows_per_forward(sizes: Sizes, training: Training, runtime: Runtime, lengths: Sequence[int]) -> int:
    """A whole step's rows where the activations of its longest rows fit in memory with room to spare, else
    ``batch_size``."""
    step = training.batch_size * training.gradient_accumulation
    tokens = sum(sorted(lengths)[-step:])
    element = 4 if runtime.dtype == torch.float32 else 2
    fits = tokens * sizes.activation_bytes(element) <= MERGE_SHARE * memory_left(runtime)
    return step if fits else training.batch_size


def memory_total(runtime: Runtime) -> float:
    """Bytes of memory of the GPU in use, or of this machine within its container's limit."""
    if runtime.device.type == "cuda":
        return float(torch.cuda.get_device_properties(runtime.device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min(machine, _container_limit() or machine))


def memory_left(runtime: Runtime) -> float:
    """Bytes that can be had now."""
    if runtime.device.type == "cuda":
        return float(torch.cuda.mem_get_info(runtime.device)[0])
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").is_file() else []
    available = next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    return min(available or memory_total(runtime) / 2, memory_total(runtime))


def _container_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
