"""The content-addressed store of folders: datasets, tokens, checkpoints, models, predictions.

A folder is there whole or not at all (``atomic``). Its ``manifest.json`` holds the sha256 of every file, and what the
folder is about where that decides how it is used; the digest of both is the folder's name and data version.
Pointers (one small JSON file per asset key) say which folder is current; recipes say which folder a given piece of
work has already made. Nothing here knows what the folders mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emotion_assets.settings.errors import UserError
from emotion_assets.storage.atomic import drafting_folder, sync, sync_folder, write_text_atomically
from emotion_assets.storage.failpoints import failpoint

MANIFEST = "manifest.json"
ABANDONED_SECONDS = 14 * 24 * 3600.0


class StoreError(UserError):
    """A stored folder that is missing, incomplete or altered."""


@dataclass(frozen=True)
class StoredFolder:
    """A finished folder of the store. ``digest`` is sha256 over its files' names and contents, and its identity."""

    path: Path
    digest: str

    @property
    def version(self) -> str:
        """The first 12 hex digits of the digest: short enough to read, long enough to tell folders apart."""
        return self.digest[:12]

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the maker wrote down about the folder (counts, settings, measurements)."""
        manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        return {**manifest["info"], **manifest.get("identity", {})}

    def file(self, name: str) -> Path:
        return self.path / name

    def seal(self) -> str:
        """Which files are there, and since when: another seal means that something was written since.

        Unlike the digest it costs no reading, so it can be asked for again and again. Raises StoreError when the folder
        is gone.
        """
        try:
            found = [(str(path.relative_to(self.path)), path.stat()) for path in sorted(self.path.rglob("*"))]
        except FileNotFoundError:
            found = []
        if not found:
            raise StoreError(f"{self.path}: not in the store any more; materialise the asset that makes it again")
        return fingerprint([(name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found])

    def require_unchanged(self, seal: str) -> None:
        """Raises StoreError when the folder has another seal than it had."""
        if self.seal() != seal:
            raise StoreError(f"{self.path}: changed while it was read; materialise the asset that makes it again")

    def read_json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text(encoding="utf-8"))


def fingerprint(*parts: Any) -> str:
    """sha256 of JSON-able parts: equal parts give equal fingerprints on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Store:
    root: Path

    @contextmanager
    def writing(self, kind: str) -> Iterator[Draft]:
        """A draft folder to fill; call ``finish`` on it inside the block. Without that nothing stays behind."""
        with drafting_folder(self.root / kind, ABANDONED_SECONDS) as folder:
            yield Draft(folder)

    def open(self, kind: str, digest: str, verify: bool = True, asset: str = "the asset that makes it") -> StoredFolder:
        """The folder of that kind and digest; ``asset`` is the one to materialise where it is not there or damaged.

        Raises:
            StoreError: it is not there, or a file in it does not have the sha256 that the manifest and the digest say.
        """
        folder = StoredFolder(self.root / kind / digest[:16], digest)
        again = f"delete {folder.path} and materialise {asset} again"
        try:
            manifest = json.loads(folder.file(MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{folder.path}: not in the store; materialise {asset} again") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise StoreError(f"{folder.path / MANIFEST}: damaged; {again}") from None
        if _digest(manifest["files"], manifest.get("identity")) != digest:
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
        asset = "/".join(key)
        try:
            pointer = json.loads(self._pointer(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{asset} was not materialised yet in {self.root}; materialise {asset} first (dg launch --assets "
                f"'*{asset}' takes all that it needs)"
            ) from None
        return self.open(pointer["kind"], pointer["digest"], verify, asset)

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
class Draft:
    """A folder that is being filled."""

    path: Path

    def file(self, name: str) -> Path:
        return self.path / name

    def finish(self, info: Mapping[str, Any], identity: Sequence[str] = ()) -> StoredFolder:
        """Hash, sync and rename the draft. A folder with the same digest that is there already is kept.

        Args:
            info: what is to be known about the folder.
            identity: the keys of ``info`` that decide how the folder is used. They are part of its digest: the same
                files about something else are another folder.
        """
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        sums = {str(p.relative_to(self.path)): file_sha256(p) for p in files}
        about = {key: info[key] for key in identity}
        if (stored := self._stored_before_identity(sums, about)) is not None:
            return stored
        digest = _digest(sums, about)
        rest = {key: value for key, value in info.items() if key not in about}
        manifest = {"files": sums, **({"identity": about} if about else {}), "info": rest}
        write_text_atomically(self.file(MANIFEST), json.dumps(manifest, indent=1) + "\n")
        sync_folder(self.path)
        failpoint("store.mid_save")
        return self._move(digest)

    def _move(self, digest: str) -> StoredFolder:
        kind = self.path.parent
        final = kind / digest[:16]
        while True:
            try:
                self.path.replace(final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                sync(kind)
                return StoredFolder(final, digest)
            try:  # it was there, or another run has been quicker
                return Store(kind.parent).open(kind.name, digest)
            except StoreError:
                shutil.rmtree(final)

    def _stored_before_identity(self, sums: Mapping[str, str], about: Mapping[str, Any]) -> StoredFolder | None:
        """The folder of these files from before there were identities, if it is about the same.

        It keeps its digest, so that what was made from it is not made again.
        """
        if not about:
            return None
        kind = self.path.parent
        try:
            folder = Store(kind.parent).open(kind.name, _digest(sums, None))
        except StoreError:
            return None
        agrees = all(key in folder.info and folder.info[key] == value for key, value in about.items())
        return folder if agrees else None


def _digest(sums: Mapping[str, str], identity: Mapping[str, Any] | None) -> str:
    return fingerprint(sums, identity) if identity else fingerprint(sums)
