"""A model of a profile with some of its settings replaced, for one training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from emotion_assets.models.registry import kind_of
from emotion_assets.settings.errors import SettingsError
from emotion_assets.settings.schema import ModelSettings


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
