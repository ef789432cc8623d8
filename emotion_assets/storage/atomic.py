"""Files and folders that are there whole or not at all: written beside their place, synced to the disk, then renamed.

A reader sees the old or the new content, never a part; a killed process leaves a draft behind, never a torn file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRAFT = ".draft-"


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of ``path`` after the block. After an error ``path`` stays as it was."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        sync(draft)
        draft.chmod(0o644)  # mkstemp closes it to every other user
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the content of a file; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def drafting_folder(parent: Path, abandoned_after: float = 0.0) -> Iterator[Path]:
    """An empty folder inside ``parent`` to fill. Rename it inside the block; what is left of it after it is removed.

    Drafts of killed processes go first, once they are older than ``abandoned_after`` seconds.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for draft in parent.glob(f"{DRAFT}*"):
        with suppress(FileNotFoundError):  # a run beside this one may have just finished it
            if time.time() - draft.stat().st_mtime >= abandoned_after:
                shutil.rmtree(draft)
    draft = Path(tempfile.mkdtemp(dir=parent, prefix=DRAFT))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Put a folder with all that is in it on the disk, readable by other users."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    folder.chmod(0o755)  # mkdtemp closes it to every other user


def sync(path: Path) -> None:
    """Put a file's content, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
