"""How much memory a training needs, estimated from the config.json of its base checkpoint.

There is one estimate, ``estimate_memory``, and it has two uses: to refuse a base that is too large for this machine
before it is downloaded, and to choose how many rows go through one forward pass. It is no upper bound;
``emotion_assets_tests/models/test_memory.py`` holds it against what autograd really keeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import PADDED_BACKENDS
from emotion_assets.models.transformer.classifier import CAUSAL_MODEL_TYPES
from emotion_assets.settings.errors import DataError
from emotion_assets.training.runtime import Runtime

TYPICAL_TOKENS = 64  # of a row with its prompt, where the rows are not known yet
CONTEXT_BYTES = 600 * 2**20  # CUDA's context, or Python's and torch's code
PADDING = 1.6  # positions per token in attention's padded blocks, about
MAX_ACTIVATION_SHARE = 0.5  # of the free memory that the activations of a whole step may take in one forward pass
NF4_BYTES = 0.56  # per weight in four bits, with its share of the scales
ADAM_BYTES = 16.0  # per trained parameter in fp32: itself, its gradient and the two moments of Adam
HALF_COPIES = 4.0  # per adapter's parameter on a GPU: two copies in half precision


@dataclass(frozen=True)
class Sizes:
    """The sizes of a base checkpoint that decide how much memory its training takes.

    Attributes:
        parameters: all of them.
        language_head: those of the language-model head, where it is no copy of the embeddings.
        linear: parameters of the linear layers inside the transformer blocks.
        linear_sides: inputs plus outputs of these layers, summed: a LoRA adapter has ``rank`` times as many parameters.
        gated: whether the feed-forward part multiplies two projections (SwiGLU), as causal models do.
    """

    parameters: int
    language_head: int
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
        """Count the parameters of the model that a config.json describes, without allocating them."""
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        settings = AutoConfig.for_model(**config)
        causal = "CausalLM" in "".join(config.get("architectures") or [])
        with torch.device("meta"):
            model: Any = (AutoModelForCausalLM if causal else AutoModel).from_config(settings)
        linear = [
            m.weight.shape for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n
        ]
        heads = settings.num_attention_heads
        head = model.get_output_embeddings() if causal else None
        own_head = head is not None and head.weight is not model.get_input_embeddings().weight
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            language_head=head.weight.numel() if head is not None and own_head else 0,
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

    def activation_bytes(self, element: int, packed: bool = False) -> float:
        """Bytes that the forward pass keeps of one token for the backward pass, without activation checkpointing.

        Args:
            element: the size of a number: 2 bytes in half precision, else 4.
            packed: a causal model on a GPU whose kernels take rows without padding and normalise in one piece.
        """
        feed_forward = (4 if self.gated else 2) * self.intermediate
        attention = 2 * (self.heads + self.key_value_heads) * self.head_width
        if packed:  # of each norm its input and its output, query, key, value and the output of attention
            return float(self.layers * element * (4 * self.hidden + attention + feed_forward))
        layer = (
            element * (8 * self.hidden + PADDING * attention + feed_forward) + 4 * 2 * self.hidden
        )  # norms keep fp32
        return float(self.layers * layer)


@dataclass(frozen=True)
class Estimate:
    """Bytes that a training takes, by part; ``activations`` are those of ``rows`` rows in one forward pass."""

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


def estimate_memory(sizes: Sizes, model: TransformerModel, runtime: Runtime, lengths: Sequence[int]) -> Estimate:
    """The memory of training ``model`` with rows of these many tokens in one forward pass."""
    element = 4 if runtime.dtype == torch.float32 else 2
    parameters = sizes.parameters - (sizes.language_head if model.objective == "head" else 0)
    lora = model.lora
    plain = model.method == "lora" and model.quantization == "none" and not (lora.dropout or lora.train_embeddings)
    fewer_kernels = plain and runtime.device.type == "cuda" and element == 2
    if model.method == "full":
        weights, trained = (0.0 if element == 4 else 2.0 * parameters), ADAM_BYTES * parameters
    else:
        frozen = NF4_BYTES if model.quantization == "nf4" else float(element)
        weights = frozen * sizes.linear + element * (parameters - sizes.linear)
        trained = (ADAM_BYTES + (HALF_COPIES if fewer_kernels else 0)) * lora.rank * sizes.linear_sides
    packed = fewer_kernels and sizes.gated and model.attention not in PADDED_BACKENDS
    activations = sum(lengths) * model.passes * sizes.activation_bytes(element, packed)
    return Estimate(weights, trained, activations, len(lengths))


def check_memory(config: Mapping[str, Any], models: Mapping[str, TransformerModel], runtime: Runtime) -> None:
    """Refuse a base if this machine's memory is too small for each of the models to be trained on it.

    Raises:
        DataError: names the model that needs least, what it needs, and what there is.
    """
    if not models:
        return
    sizes = Sizes.of(config)
    estimates = {
        name: estimate_memory(sizes, model, runtime, [TYPICAL_TOKENS] * model.training.batch_size)
        for name, model in models.items()
    }
    name, smallest = min(estimates.items(), key=lambda item: item[1].total)
    available = total_memory(runtime)
    if smallest.total > available:
        on_gpu = runtime.device.type != "cpu"
        place = "the GPU has" if on_gpu else "no GPU is there that torch can use, and only"
        memory = "" if on_gpu else " of memory"
        raise DataError(
            f"models.{name}: needs about {smallest}, {place} {available / 2**30:.1f} GiB{memory}; use a smaller base, "
            "a larger GPU, or for method lora quantization: nf4"
        )


def rows_per_forward(sizes: Sizes, model: TransformerModel, runtime: Runtime, lengths: Sequence[int]) -> int:
    """How many rows go through one forward pass: a whole optimizer step's where they fit, else ``batch_size``.

    They fit if the activations of the step's longest possible rows take at most ``MAX_ACTIVATION_SHARE`` of the memory
    that is free, with the weights already loaded. Apart from rounding, and from what dropout draws,
    the trained weights do not depend on it.

    Args:
        lengths: tokens of each training row.
    """
    rows_per_step = model.training.batch_size * model.training.gradient_accumulation
    needed = estimate_memory(sizes, model, runtime, sorted(lengths)[-rows_per_step:]).activations
    fits = needed <= MAX_ACTIVATION_SHARE * free_memory(runtime)
    return rows_per_step if fits else model.training.batch_size


def total_memory(runtime: Runtime) -> float:
    """All memory in bytes: of the GPU in use, else of this machine or, if smaller, of its container."""
    if runtime.device.type == "cuda":
        return float(torch.cuda.get_device_properties(runtime.device).total_memory)
    if runtime.device.type == "mps":
        return float(torch.mps.recommended_max_memory())
    return machine_memory()


def machine_memory() -> float:
    """All memory in bytes of this machine or, if smaller, of its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min(machine, _container_limit() or machine))


def free_memory(runtime: Runtime) -> float:
    """The memory in bytes that is free now: of the GPU in use, else of this machine or its container."""
    if runtime.device.type == "cuda":
        return float(torch.cuda.mem_get_info(runtime.device)[0])
    if runtime.device.type == "mps":
        return float(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").is_file() else []
    available = next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    return min(available or total_memory(runtime) / 2, total_memory(runtime))


def _container_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
