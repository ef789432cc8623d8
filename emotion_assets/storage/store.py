"""The content-addressed store of folders: datasets, tokens, checkpoints, models, predictions.

A folder is written beside its final place, fsynced, and renamed, so it is there whole or not at all. Its
``manifest.json`` holds the sha256 of every file; the digest of that list is the folder's name and data version.
Pointers (one small JSON file per asset key) say which folder is current; recipes say which folder a given piece of
work has already made. Nothing here knows what the folders mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.failpoints import failpoint

MANIFEST = "manifest.json"
ABANDONED_SECONDS = 14 * 24 * 3600.0


class StoreError(UserError):
    """A stored folder that is missing, incomplete or altered."""


@dataclass(frozen=True)
class StoredFolder:
    """A finished folder of the store. ``digest`` is sha256 over its files' names and contents."""

    path: Path
    digest: str

    @property
    def version(self) -> str:
        """The first 12 hex digits of the digest: short enough to read, long enough to tell folders apart."""
        return self.digest[:12]

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the maker wrote down about the folder (counts, settings, measurements)."""
        info: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["info"]
        return info

    def file(self, name: str) -> Path:
        return self.path / name

    def read_json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text(encoding="utf-8"))


def fingerprint(*parts: Any) -> str:
    """sha256 of JSON-able parts: equal parts give equal fingerprints on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@dataclass(frozen=True)
class Store:
    root: Path

    @contextmanager
    def writing(self, kind: str) -> Iterator[_Draft]:
        """A draft folder to fill; call ``finish`` on it inside the block. Without that nothing stays behind."""
        parent = self.root / kind
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(".draft-*"):  # of a process that was killed
            with suppress(FileNotFoundError):  # a run beside this one may have just finished it
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(left)
        draft = _Draft(Path(tempfile.mkdtemp(dir=parent, prefix=".draft-")), parent)
        try:
            yield draft
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)

    def open(self, kind: str, digest: str, verify: bool = True) -> StoredFolder:
        """The folder of that kind and digest.

        Raises:
            StoreError: it is not there, or a file in it does not have the sha256 that the manifest and the digest say.
        """
        folder = StoredFolder(self.root / kind / digest[:16], digest)
        again = f"delete {folder.path} and materialise again"
        try:
            manifest = json.loads(folder.file(MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{folder.path}: not in the store; materialise the asset that makes it again") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise StoreError(f"{folder.path / MANIFEST}: damaged; {again}") from None
        if fingerprint(manifest["files"]) != digest:
            raise StoreError(f"{folder.path / MANIFEST}: was altered since it was stored; {again}")
        if verify:
            for name, expected in manifest["files"].items():
                path = folder.file(name)
                if not path.is_file() or file_sha256(path) != expected:
                    state = "was altered" if path.is_file() else "is missing"
                    raise StoreError(f"{path}: {state} since it was stored; {again}")
        return folder

    def point(self, key: Sequence[str], kind: str, folder: StoredFolder) -> None:
        """Make ``folder`` the current one of the asset ``key``, atomically."""
        content = {"kind": kind, "digest": folder.digest}
        failpoint("store.before_point")
        write_text_atomically(self._pointer(key), json.dumps(content) + "\n")

    def current(self, key: Sequence[str], verify: bool = True) -> StoredFolder:
        """The current folder of the asset ``key``.

        Raises:
            StoreError: the asset was never materialised here, or its folder is damaged.
        """
        try:
            pointer = json.loads(self._pointer(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{'/'.join(key)} was not materialised yet in {self.root}; materialise it first") from None
        return self.open(pointer["kind"], pointer["digest"], verify)

    def has(self, key: Sequence[str]) -> bool:
        return self._pointer(key).is_file()

    def remember(self, recipe: str, kind: str, folder: StoredFolder) -> None:
        """Note that the work described by ``recipe`` (a fingerprint) has given ``folder``."""
        content = {"kind": kind, "digest": folder.digest}
        write_text_atomically(self.root / "recipes" / f"{recipe}.json", json.dumps(content) + "\n")

    def recall(self, recipe: str) -> StoredFolder | None:
        """The intact folder that this very work gave before, if there is one."""
        path = self.root / "recipes" / f"{recipe}.json"
        if not path.is_file():
            return None
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            return self.open(note["kind"], note["digest"])
        except (StoreError, json.JSONDecodeError):
            return None

    def _pointer(self, key: Sequence[str]) -> Path:
        return self.root / "pointers" / f"{'__'.join(key)}.json"


@dataclass(frozen=True)
class _Draft:
    path: Path
    parent: Path

    def file(self, name: str) -> Path:
        return self.path / name

    def finish(self, info: dict[str, Any]) -> StoredFolder:
        """Hash, fsync and rename the draft. A folder with the same content that is there already is kept."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        sums = {str(p.relative_to(self.path)): file_sha256(p) for p in files}
        digest = fingerprint(sums)
        write_text_atomically(self.file(MANIFEST), json.dumps({"files": sums, "info": info}, indent=1) + "\n")
        for path in files:
            _fsync(path)
        for folder in {p.parent for p in files}:
            _fsync(folder)
        failpoint("store.mid_save")
        final = self.parent / digest[:16]
        while True:
            try:
                self.path.replace(final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                _fsync(self.parent)
                return StoredFolder(final, digest)
            try:  # it was there, or another run has been quicker
                return Store(self.parent.parent).open(self.parent.name, digest)
            except StoreError:
                shutil.rmtree(final)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
