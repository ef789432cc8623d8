"""Finding a profile, reading it, overriding it from the environment; one-line errors for what is wrong in it."""

from __future__ import annotations

import difflib
import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, ValidationError, create_model

from emotion_assets.models.registry import all_kinds
from emotion_assets.profiles.wheels import default_profile
from emotion_assets.settings.errors import SettingsError
from emotion_assets.settings.frozen import Frozen
from emotion_assets.settings.schema import (
    NAME,
    PACKAGE_DIR,
    PROJECT_DIR,
    BaseSettings,
    FolderSource,
    HubSource,
    PackageSource,
    PretrainedHere,
    Settings,
    TokenizerSettings,
    TrainedTokenizer,
)

PROFILES_DIR = PACKAGE_DIR / "profiles"


def load_settings(
    profile: str | None = None, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read the profile that ``EMOTION_PROFILE`` names, or else ``default_profile()``; apply ``EMOTION_DATASET``,
    ``EMOTION_HOME``, ``EMOTION_REPORTS_URL``, ``EMOTION_WEBHOOK`` and ``overrides``.

    ``overrides`` is nested like a profile (``home`` may be given too); its mappings are merged into the profile's.

    Raises:
        SettingsError: one line naming the file and key that is wrong, and the fix.
    """
    environ = os.environ if environ is None else environ
    name = profile or environ.get("EMOTION_PROFILE") or default_profile()
    path = _profile_path(name)
    content = _read_yaml(path)
    for owned in ("home", "profile"):
        if owned in content:
            raise SettingsError(f"{path}: key {owned!r} is not for a profile; set EMOTION_{owned.upper()} instead")
    if dataset := environ.get("EMOTION_DATASET"):
        named = content.get("dataset")
        kept: dict[str, Any] = named if isinstance(named, dict) else {}
        same = kept.get("source") == dataset
        content["dataset"] = {**kept, "source": dataset, **({} if same else {"revision": None})}
    if webhook := environ.get("EMOTION_WEBHOOK"):
        content["failure_webhook"] = webhook
    home = Path(environ.get("EMOTION_HOME") or PROJECT_DIR / "data").expanduser()
    content |= {"profile": path.stem, "home": home if home.is_absolute() else Path.cwd() / home}
    if url := environ.get("EMOTION_REPORTS_URL"):
        content["reports_url"] = url.rstrip("/")
    content = _merged(content, overrides or {})
    try:
        settings = _PROFILE.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_problem(error)}") from None
    return _with_absolute_folders(settings, path)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _profile_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise SettingsError(f"EMOTION_PROFILE={name}: no such file; give the path of a profile's YAML file")
        return path.resolve()
    path = PROFILES_DIR / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in PROFILES_DIR.glob("*.yaml")))
        raise SettingsError(f"EMOTION_PROFILE={name}: no such profile; use {names}, or the path of a .yaml file")
    return path


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise SettingsError(f"{path}{line}: {getattr(error, 'problem', None) or error}; fix the YAML") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds no keys; start from {PROFILES_DIR / 'embedded.yaml'}")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """YAML allows a key twice and keeps the last silently; a profile must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _first_problem(error: ValidationError) -> str:
    """One of pydantic's problems as one line: key, what is wrong, what would be right. A misspelt key comes first:
    the key it was meant to be is reported missing beside it."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in _without_tags(problem["loc"]))
    if problem["type"] == "extra_forbidden":
        valid = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1)
        return f"key {key!r} does not exist; " + (f"did you mean {close[0]!r}?" if close else f"use {', '.join(valid)}")
    if problem["type"] == "missing":
        return f"key {key!r} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (given: {problem['input']!r})" if isinstance(problem["input"], (str, int, float, bool)) else ""
    message = message[0].lower() + message[1:] + given
    return f"{key}: {message}" if key else message


def _profile_type() -> type[Settings]:
    """The settings with ``models`` narrowed to the kinds there are, told apart by ``method``."""
    union: Any = functools.reduce(operator.or_, (kind.settings for kind in all_kinds().values()))
    model = Annotated[union, Field(discriminator="method")]
    models = Annotated[dict[Annotated[str, Field(pattern=NAME)], model], Field(min_length=1)]
    return create_model("Settings", __base__=Settings, models=(models, ...))


def _methods(settings: type[Frozen]) -> tuple[str, ...]:
    return get_args(settings.model_fields["method"].annotation)


_PROFILE = _profile_type()

_TAGGED: dict[Any, type[Frozen]] = {
    "hub": HubSource,
    "folder": FolderSource,
    "package": PackageSource,
    "algorithm": TrainedTokenizer,
    "build": PretrainedHere,
    **{method: kind.settings for kind in all_kinds().values() for method in _methods(kind.settings)},
}


def _walk(location: tuple[Any, ...]) -> list[tuple[Any, type[Frozen] | None, bool]]:
    """Each part of a pydantic location with the model it stands in, and whether it is a union's tag and not a key."""
    here: type[Frozen] | None = _PROFILE
    steps: list[tuple[Any, type[Frozen] | None, bool]] = []
    for part in location:
        if here is None and part in _TAGGED:
            steps.append((part, None, True))
            here = _TAGGED[part]
            continue
        steps.append((part, here, False))
        field = here.model_fields.get(part) if here is not None else None
        if part in ("tokenizers", "bases") and here is _PROFILE:
            here = None
        elif field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            here = field.annotation
        elif len(steps) > 1 and here is None and steps[-2][0] in ("tokenizers", "bases"):
            here = TokenizerSettings if steps[-2][0] == "tokenizers" else BaseSettings
        else:
            here = None
    return steps


def _without_tags(location: tuple[Any, ...]) -> list[Any]:
    return [part for part, _, is_tag in _walk(location) if not is_tag]


def _keys_beside(location: tuple[Any, ...]) -> list[str]:
    model = _walk(location)[-1][1]
    return sorted(set(model.model_fields) - {"home", "profile"}) if model else []


def _with_absolute_folders(settings: Settings, profile: Path) -> Settings:
    """Folders in a profile are relative to the profile's file; ``EMOTION_DATASET`` is relative to where one stands."""

    def absolute(source: Any, key: str) -> Any:
        if not isinstance(source, FolderSource):
            return source
        folder = source.folder.expanduser()
        folder = folder if folder.is_absolute() else profile.parent / folder
        if not folder.is_dir() and not (folder.suffix.lower() == ".gguf" and folder.is_file()):
            raise SettingsError(
                f"{profile}: {key}.folder: {folder} is not a folder; give the path of a checkpoint folder or GGUF file"
            )
        return FolderSource(folder=folder.resolve())

    tokenizers = {
        name: t.model_copy(update={"source": absolute(t.source, f"tokenizers.{name}.source")})
        for name, t in settings.tokenizers.items()
    }
    bases = {
        name: b.model_copy(update={"source": absolute(b.source, f"bases.{name}.source")})
        for name, b in settings.bases.items()
    }
    return settings.model_copy(update={"tokenizers": tokenizers, "bases": bases})
