"""Which files of a folder are which split.

Belongs here: names, shards, folders that ``save_to_disk`` wrote, and files that look like a split and are none. Does
not belong here: what is in them (``rows``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from emotion_assets.forms.registry import all_forms
from emotion_assets.settings.errors import DataError

SPLITS = ("train", "validation", "test")
NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
"""What a split may be called, and which one it is."""

_SHARD = re.compile(r"([a-z]+)-([0-9]+)-of-([0-9]+)(?:-[0-9a-f]+)?")
_LIKE_A_SPLIT = {"train": r"train(ing)?", "validation": r"val(id(ation)?)?|dev|eval(uation)?", "test": r"test(ing)?"}
_NO_DATA = re.compile(
    r".*\.(md|rst|pdf|html|py|ipynb|sh|log|ya?ml|toml|ini|cfg|lock|png|jpg|svg|bak|tmp|md5|sha256)|.*~"
)


def find_splits(folder: Path) -> dict[str, list[Path]]:
    """The file of each split that the folder holds, its shards in order, or its folder that ``save_to_disk`` wrote.

    Raises:
        DataError: a split is there twice, in part or not at all, or a file looks like a split and is none.
    """
    if is_saved(folder):
        raise DataError(
            f"{folder}: holds one dataset without splits; divide it (train_test_split) and save the DatasetDict"
        )
    whole: dict[str, list[Path]] = {}
    shards: dict[tuple[str, str, int], dict[int, Path]] = {}
    unused: list[tuple[str, Path]] = []
    for path in _entries(folder):
        stem, suffix = stem_and_suffix(path)
        shard = _SHARD.fullmatch(stem) if suffix and path.is_file() else None
        if stem in NAMES and (is_saved(path) or (suffix and path.is_file())):
            whole.setdefault(NAMES[stem], []).append(path)
        elif shard and shard[1] in NAMES:
            parts = shards.setdefault((shard[1], suffix, int(shard[3])), {})
            if parts.setdefault(int(shard[2]), path) is not path:
                raise DataError(f"{folder}: holds {parts[int(shard[2])].name} and {path.name}; keep one file")
        elif split := _looks_like(path):
            unused.append((split, path))
    found = {split: [[path] for path in paths] for split, paths in whole.items()}
    for (name, _, count), parts in shards.items():
        found.setdefault(NAMES[name], []).append(_complete(parts, count, folder))
    for split, path in unused:
        raise DataError(f"{folder}: {path.name} looks like a split and is not used; {_fix(path, split, found)}")
    return _one_each(folder, found)


def pick_splits(names: Iterable[str]) -> dict[str, str]:
    """Which of the names that a dataset has for its splits is which; ``validation`` goes before ``dev``."""
    there = list(names)
    picked: dict[str, str] = {}
    for name, split in NAMES.items():
        if name in there:
            picked.setdefault(split, name)
    return picked


def is_saved(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote the folder."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """The name without the ending of a form that is read, and that ending; both lower case."""
    name = path.name.lower()
    suffix = max((suffix for suffix in _suffixes() if name.endswith(suffix)), key=len, default="")
    return name.removesuffix(suffix), suffix


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); give this user access to it") from None


def _one_each(folder: Path, found: Mapping[str, list[list[Path]]]) -> dict[str, list[Path]]:
    for split in SPLITS:
        sources = found.get(split, [])
        if len(sources) > 1:
            names = " and ".join(paths[0].name for paths in sources)
            raise DataError(f"{folder}: holds {names}; keep one file for each split")
        if not sources and split != "validation":
            forms = ", ".join(split + suffix for suffix in _suffixes())
            raise DataError(f"{folder}: the {split} split is missing; add one of {forms}")
    return {split: found[split][0] for split in SPLITS if split in found}


def _complete(parts: Mapping[int, Path], count: int, folder: Path) -> list[Path]:
    """All shards of a split, in order."""
    some = next(iter(parts.values())).name
    if missing := sorted(set(range(count)) - set(parts)):
        raise DataError(f"{folder}: shard {missing[0]} of {count} is missing beside {some}; add it (they count from 0)")
    if len(parts) != count:
        raise DataError(
            f"{folder}: holds {len(parts)} shards of {count} beside {some}; take out those that are no part"
        )
    return [parts[place] for place in sorted(parts)]


def _looks_like(path: Path) -> str | None:
    """The split that a name seems to mean, of a file that may hold data or of a folder."""
    name = path.name.lower()
    if name.startswith(".") or _NO_DATA.fullmatch(name):
        return None
    if path.is_dir() and not is_saved(path):
        return NAMES.get(name)
    stem, _, _ = name.partition(".")
    words = re.findall(r"[a-z]+", stem)
    return next(
        (s for word in words for s, like in _LIKE_A_SPLIT.items() if re.fullmatch(f"({like})(set)?", word)), None
    )


def _fix(path: Path, split: str, found: Mapping[str, list[list[Path]]]) -> str:
    _, suffix = stem_and_suffix(path)
    if split in found:
        return f"take it out of the folder, or add its rows to {found[split][0][0].name}"
    if path.is_dir():
        return f"save_to_disk did not write it: put its rows into {split}.csv, or take it out"
    return (
        f"name it {split}{suffix}, or take it out of the folder"
        if suffix
        else f"save it as {split}.csv, or take it out of the folder"
    )


def _suffixes() -> list[str]:
    return [suffix for form in all_forms() for suffix in form.suffixes]
