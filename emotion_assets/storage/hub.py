"""The one place that talks to the Hugging Face Hub: is a repository available, and if not, why and what to do.

Nothing is downloaded to find out; a copy in the local cache counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def hub_problem(
    repo: str, revision: str | None, repo_type: str = "model", gated: bool = False, weights: bool = False
) -> str | None:
    """One line that says what stands between this machine and the repository, or None if nothing does.

    Args:
        weights: a copy in the cache counts only if its safetensors are there too (a tokenizer alone may be).
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(repo, revision=revision, repo_type=repo_type, local_files_only=True)
        if not weights or _has_weights(Path(folder)):
            return None
    except (LocalEntryNotFoundError, OSError):
        pass
    page = f"the page of {repo} on the Hub"
    licence = f"; accept its licence on {page}, then set HF_TOKEN to a read token of that account" if gated else ""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return f"not in the local cache, and HF_HUB_OFFLINE forbids the Hub; unset it and connect{licence}"
    try:
        HfApi().repo_info(repo, revision=revision, repo_type=repo_type, timeout=10)
        if gated:
            HfApi().auth_check(repo, repo_type=repo_type)
        return None
    except GatedRepoError:
        return f"access is gated; accept its licence on {page}, then set HF_TOKEN to a read token of that account"
    except RepositoryNotFoundError:
        return f"no such repository on the Hub, or it is private; check the name{licence or ', or set HF_TOKEN'}"
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no status")
        return f"the Hub answered {status}; try again later{licence}"
    except Exception as error:  # whatever the HTTP client raises when no network is there
        return f"not in the local cache, and the Hub cannot be reached ({type(error).__name__}); connect{licence}"


def newest_revision(repo: str, repo_type: str = "dataset") -> str:
    """The commit that the repository's main branch is at; of the local cache where the Hub may not be asked.

    Raises:
        Exception: whatever the Hub's client raises when it cannot be reached; ``hub_problem`` says why.
    """
    from huggingface_hub import HfApi, snapshot_download

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Path(snapshot_download(repo, repo_type=repo_type, local_files_only=True)).name
    return str(HfApi().repo_info(repo, repo_type=repo_type, timeout=10).sha)


def _has_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return all((folder / name).is_file() for name in json.loads(index.read_text())["weight_map"].values())
    return any(folder.glob("*.safetensors"))


def download_checkpoint(repo: str, revision: str, weights: bool = True) -> Path:
    """The local snapshot folder of a checkpoint: config, tokenizer and, unless declined, its safetensors."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "LICENSE*"] + (["*.safetensors"] if weights else [])
    ignore = ["original/*", "onnx/*", "openvino/*"]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignore))
