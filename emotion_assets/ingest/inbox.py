"""What lies in the inbox: which files may be read now, which are left alone and why, and their sha256.

Belongs here: looking at folders and files, and opening them safely. Does not belong here: what the files hold. Nothing
in the inbox is ever moved, changed or deleted.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from emotion_assets.forms.problems import Reason
from emotion_assets.forms.registry import GZIP, inbox_suffixes
from emotion_assets.settings.errors import UserError

ARCHIVES = frozenset({".zip", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".7z", ".rar", ".tar", ".jar", ".ods"})
TEMPORARY = frozenset(
    {".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".incomplete", ".swp", ".lock"}
)
MAX_FOLDER_DEPTH = 16
_CHUNK_BYTES = 1 << 20


class Unavailable(UserError):  # noqa: N818
    """A file that cannot be read now: changed, replaced or removed since it was listed, or not to be opened.

    It says nothing about the file's content: leave it for the next tick.
    """


@dataclass(frozen=True)
class InboxFile:
    """A file below the inbox as it was when listed.

    ``name`` is relative to the inbox, with everything unprintable and every backslash escaped, so that it is unique
    and safe to show. ``problem`` is None for a file to read now, otherwise the reason why it is left alone; ``detail``
    says it in a sentence.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    problem: Reason | None = None
    detail: str = ""


def list_inbox(inbox: Path, settle_seconds: float, now: float) -> list[InboxFile]:
    """Every file below the inbox, sorted by name; an inbox that does not exist is empty.

    A file is still being written while its content or its inode changed less than ``settle_seconds`` before ``now``
    (``time.time()``). A change that lies ahead of ``now``, after a clock was set back, counts as one just made: such
    a file is late, never lost. A folder that is not entered is listed as one entry with its problem. A hard link is
    the file itself and is read.

    Raises:
        Unavailable: the inbox is there and cannot be listed.
    """
    if not os.path.lexists(inbox):
        return []
    if not inbox.is_dir():
        raise Unavailable(f"{inbox}: the inbox is not a folder; make it one")
    return sorted(_walk(inbox, inbox, settle_seconds, now), key=lambda file: file.name)


def sha256_of(file: InboxFile) -> str:
    """sha256 of the file's bytes, streamed.

    Raises:
        Unavailable: it is not, or no longer, the file that was listed.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(file.path) as stream:
            _require_unchanged(file, os.fstat(stream.fileno()))
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
            _require_unchanged(file, os.fstat(stream.fileno()))
    except OSError as error:
        raise Unavailable(f"{file.name}: {error.strerror}; it is tried again at the next tick") from None
    return digest.hexdigest()


def check_unchanged(file: InboxFile) -> None:
    """To be called after a file was read or quarantined, before that is committed.

    Raises:
        Unavailable: the file is not as it was when listed, so that what was read may be a mixture.
    """
    try:
        _require_unchanged(file, os.lstat(file.path))
    except OSError as error:
        raise Unavailable(f"{file.name}: {error.strerror}; it is tried again at the next tick") from None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading: never through a link, never waiting for a FIFO's other end.

    Raises:
        Unavailable: it is a link or no regular file.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise Unavailable(f"{safe_text(path.name)}: {Reason.LINK.explain}") from None
        raise error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unavailable(f"{safe_text(path.name)}: {Reason.NOT_REGULAR.explain}")
    return os.fdopen(descriptor, "rb")


def safe_text(name: str) -> str:
    """The name on one line: unprintable characters (newlines, direction marks, undecodable bytes) and backslashes are
    escaped, which keeps different names different."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode() for char in name
    )


def _walk(folder: Path, inbox: Path, settle_seconds: float, now: float) -> Iterator[InboxFile]:
    try:
        with os.scandir(folder) as entries:
            children = list(entries)
    except OSError as error:
        if folder == inbox:
            raise Unavailable(f"{inbox}: {error.strerror}; make the inbox readable") from None
        yield _make_entry(folder, inbox, None, Reason.UNREADABLE)
        return
    for entry in children:
        path = Path(entry.path)
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # removed between the listing and the look at it
        if stat.S_ISDIR(status.st_mode) and not entry.name.startswith("."):
            if len(path.relative_to(inbox).parts) > MAX_FOLDER_DEPTH:
                yield _make_entry(path, inbox, status, Reason.TOO_DEEP_FOLDER)
            else:
                yield from _walk(path, inbox, settle_seconds, now)
        else:
            yield _make_entry(path, inbox, status, why_left_alone(entry.name, status, settle_seconds, now))


def why_left_alone(name: str, status: os.stat_result, settle_seconds: float, now: float) -> Reason | None:
    """Why a file of this name and state would not be read now if it lay in the inbox; None if it would."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    last = suffixes[-1] if suffixes else ""
    if stat.S_ISLNK(status.st_mode):
        return Reason.LINK
    if name.startswith("."):
        return Reason.HIDDEN
    if not stat.S_ISREG(status.st_mode):
        return Reason.NOT_REGULAR
    if last in TEMPORARY or name.endswith("~") or name.startswith("~"):
        return Reason.TEMPORARY
    if last == GZIP:
        last = suffixes[-2] if len(suffixes) > 1 else last
    if last in ARCHIVES:
        return Reason.ARCHIVE
    if last not in inbox_suffixes():
        return Reason.UNKNOWN_EXTENSION
    # The inode's time moves with every write and cannot be set by a program; the content's time, which copying
    # programs set to what it was at the source, counts too unless it lies in the future.
    changed = max(time for time in (status.st_ctime, status.st_mtime) if time <= now or time == status.st_ctime)
    return Reason.STILL_WRITTEN if settle_seconds and now - changed < settle_seconds else None


def _make_entry(path: Path, inbox: Path, status: os.stat_result | None, problem: Reason | None) -> InboxFile:
    name = safe_text(str(path.relative_to(inbox)))
    return InboxFile(
        path=path,
        name=name,
        size=status.st_size if status else 0,
        mtime_ns=status.st_mtime_ns if status else 0,
        ctime_ns=status.st_ctime_ns if status else 0,
        inode=status.st_ino if status else 0,
        problem=problem,
        detail=f"{name}: {problem.explain}" if problem else "",
    )


def _require_unchanged(file: InboxFile, status: os.stat_result) -> None:
    listed = (file.inode, file.size, file.mtime_ns, file.ctime_ns)
    if (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns) != listed:
        raise Unavailable(f"{file.name}: changed while it was read; it is tried again at the next tick")
