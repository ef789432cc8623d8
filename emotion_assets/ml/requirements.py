"""What a base checkpoint needs that this machine may lack: a GPU of some size, the Hub, a licence and a token.

Asked before anything is downloaded or trained, and by ``emotion-assets doctor``.
"""

from __future__ import annotations

from emotion_assets.ml.datasets import DataError
from emotion_assets.ml.hub import hub_problem
from emotion_assets.settings import BaseSettings, HubSource


def checkpoint_problems(base: BaseSettings) -> list[str]:
    """All that stands between this machine and the checkpoint, each with the fix; empty when it can be used."""
    problems = [gpu_problem(base.gpu_memory_gb)]
    if isinstance(base.source, HubSource):
        source = base.source
        problem = hub_problem(source.hub, source.revision, gated=source.gated)
        problems.append(f"{source.hub}: {problem}" if problem else None)
    return [problem for problem in problems if problem]


def require_checkpoint(base: BaseSettings, name: str) -> None:
    """Raise a ``DataError`` of one line that names everything the base lacks here."""
    if problems := checkpoint_problems(base):
        raise DataError(f"bases.{name}: {'; '.join(problems)}")


def gpu_problem(needed_gb: float) -> str | None:
    """What is wrong with this machine's GPU for a base that needs ``needed_gb`` (10^9 bytes) of its memory."""
    import torch

    if not needed_gb:
        return None
    fix = "run on a larger machine, or use EMOTION_PROFILE=laptop"
    if not torch.cuda.is_available():
        return f"needs a CUDA GPU with {needed_gb:g} GB, and torch finds none here; {fix}"
    properties = torch.cuda.get_device_properties(0)
    if properties.total_memory < needed_gb * 1e9:
        found = properties.total_memory / 1e9
        return f"needs a GPU with {needed_gb:g} GB, and {properties.name} has {found:.0f} GB; {fix}"
    return None
