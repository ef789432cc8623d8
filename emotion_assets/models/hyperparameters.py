"""Other settings and seeds for a model of a profile than the profile's own, for one training or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from emotion_assets.models.registry import kind_of
from emotion_assets.settings.errors import SettingsError
from emotion_assets.settings.schema import ModelSettings, Settings

MAX_SEED = 2**31 - 1


def require_seed(what: str, seed: int) -> None:
    """Refuse a seed that a generator does not take; ``what`` names it in the error.

    Raises:
        SettingsError: it is not from 0 to ``MAX_SEED``.
    """
    if not 0 <= seed <= MAX_SEED:
        raise SettingsError(f"{what}: use 0 to {MAX_SEED} (given: {seed})")


def learning_rate_of(model: ModelSettings) -> float | None:
    """The highest learning rate of the model's training; None of a model that is not trained step by step."""
    rate: float | None = kind_of(model).used_settings(model).get("training", {}).get("learning_rate")
    return rate


def swept_models(settings: Settings) -> list[str]:
    """The models of the profile that a sweep is of unless it names others: those that have a learning rate."""
    return [name for name, model in settings.models.items() if learning_rate_of(model) is not None]


def swept_seeds(settings: Settings) -> list[int]:
    """The seeds of a sweep unless it names others: the profile's and the next two."""
    return [settings.seed + i for i in range(3)]


def replace_settings(name: str, model: ModelSettings, values: Mapping[str, Any]) -> ModelSettings:
    """The model with other values; the same model, equal to the last setting, for none.

    Args:
        name: of the model in the profile, for errors.
        values: by the path of a setting in the model, such as ``training.learning_rate``.

    Raises:
        SettingsError: one line; the model has no such setting, or the setting cannot have this value.
    """
    used, content = kind_of(model).used_settings(model), model.model_dump(mode="json")
    for path, value in values.items():
        *parts, key = path.split(".")
        here, known = content, used
        for part in parts:
            here, known = here[part] if part in known else {}, known.get(part, {})
        if key not in known:
            raise SettingsError(f"{name}: a model of method {model.method} has no {path}; leave it empty")
        here[key] = value
    try:
        return type(model).model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        where = f"{path}: " if path else ""
        raise SettingsError(f"{name}: {where}{message[0].lower()}{message[1:]} (given: {values.get(path)})") from None
