"""What the dataset's source is now, without reading a row of it: by this a new source is told from the one before.

Belongs here: the version of a folder, of the Hub and of the reviewed rows that join. Does not belong here: what is in
them (``splits``) and who asks (``defs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emotion_assets.dataset.files import find_splits
from emotion_assets.dataset.splits import find_source, folder_of
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import DatasetSettings
from emotion_assets.storage.hub import newest_revision
from emotion_assets.storage.store import file_sha256, fingerprint
from emotion_assets.storage.warehouse.database import Warehouse
from emotion_assets.storage.warehouse.review import fingerprint_reviews


@dataclass(frozen=True)
class SourceState:
    """``version`` is equal for equal content; ``where`` names the source; ``hashes`` hold the sha256 of each file by
    what tells it unchanged, for the next look."""

    version: str
    where: str
    hashes: dict[str, str]


def look_at_source(settings: DatasetSettings, warehouse: Warehouse, known: Mapping[str, str]) -> SourceState:
    """The present state of the source that the settings name: of a folder the sha256 of the files that would be read,
    of the Hub the revision. A file of the same name, size, times and inode as in ``known`` is not read again.

    Raises:
        DataError: the source is not there, or its splits are not complete.
        UserError: reviewed rows join the dataset, and the database cannot be read.
    """
    hashes: dict[str, str] = {}
    folder = folder_of(settings)
    if folder is None:
        version = settings.revision or _newest_revision(settings)
    else:
        contents = {}
        for split, paths in find_splits(folder).items():
            for path in (file for part in paths for file in _files_of(part)):
                identity = _identity(path)
                hashes[identity] = known.get(identity) or file_sha256(path)
                contents[f"{split}/{path.relative_to(folder)}"] = hashes[identity]
        version = fingerprint(contents)
    if settings.join_reviewed:
        with warehouse.reading() as db:
            version = fingerprint(version, fingerprint_reviews(db))
    return SourceState(version, find_source(settings) if folder is None else str(folder), hashes)


def _newest_revision(settings: DatasetSettings) -> str:
    find_source(settings)  # says what is missing, where something is
    try:
        return newest_revision(settings.source)
    except Exception as error:  # whatever the HTTP client raises
        raise DataError(
            f"dataset {settings.source}: the Hub does not say its revision ({type(error).__name__}); try again later, "
            "or give dataset.revision"
        ) from None


def _files_of(path: Path) -> list[Path]:
    """The files of a split: itself, or those of a folder that ``save_to_disk`` wrote."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _identity(path: Path) -> str:
    about = path.stat()
    return f"{path}|{about.st_size}|{about.st_mtime_ns}|{about.st_ctime_ns}|{about.st_ino}"
