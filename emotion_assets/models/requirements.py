"""What a base checkpoint needs that this machine may lack: a GPU of some size, the Hub, a licence and a token.

Asked before anything is downloaded or trained, and by ``emotion-assets doctor``.
"""

from __future__ import annotations

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import HubSource, Settings
from emotion_assets.storage.hub import hub_problem

ANY_GPU_GB = 1.0


def checkpoint_problems(settings: Settings, name: str) -> list[str]:
    """All that stands between this machine and the base ``name``, each with the fix; empty when it can be used.

    ``gpu_memory_gb`` is the need of half-precision weights: where every model on the base has it in four bits, a GPU of
    any size will do here, and ``memory.check_memory`` computes the need.
    """
    base = settings.bases[name]
    models = [m for m in settings.models.values() if isinstance(m, TransformerModel) and m.base == name]
    four_bits = bool(models) and all(m.quantization == "nf4" for m in models)
    problems = [gpu_problem(min(base.gpu_memory_gb, ANY_GPU_GB) if four_bits else base.gpu_memory_gb)]
    if isinstance(base.source, HubSource):
        source = base.source
        problem = hub_problem(source.hub, source.revision, gated=source.gated, weights=True)
        problems.append(f"{source.hub}: {problem}" if problem else None)
    return [problem for problem in problems if problem]


def require_checkpoint(settings: Settings, name: str) -> None:
    """Raise a ``DataError`` of one line that names everything the base lacks here."""
    if problems := checkpoint_problems(settings, name):
        raise DataError(f"bases.{name}: {'; '.join(problems)}")


def gpu_problem(needed_gb: float) -> str | None:
    """What is wrong with this machine's GPU for a base that needs ``needed_gb`` (10^9 bytes) of its memory."""
    import torch

    from emotion_assets.training.runtime import choose_device

    if not needed_gb:
        return None
    fix = "run on a larger machine, or use EMOTION_PROFILE=laptop"
    if choose_device().type == "mps":
        memory = torch.mps.recommended_max_memory() / 1e9
        return (
            None if memory >= needed_gb else f"needs a GPU with {needed_gb:g} GB, Apple's may use {memory:.0f}; {fix}"
        )
    if not torch.cuda.is_available():
        return f"needs a CUDA GPU with {needed_gb:g} GB, and torch finds none here; {fix}"
    properties = torch.cuda.get_device_properties(0)
    if properties.total_memory < needed_gb * 1e9:
        available_gb = properties.total_memory / 1e9
        return f"needs a GPU with {needed_gb:g} GB, and {properties.name} has {available_gb:.0f} GB; {fix}"
    return None
