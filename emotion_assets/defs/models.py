"""Group ``models``: base checkpoints, the LoRA-tuned Llama and the baselines. Training runs in a process of its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from emotion_assets.defs import metadata as display
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.defs.resources import MODEL_POOL, RETRY_ONCE, STARTS_FIRST
from emotion_assets.defs.training import (
    TrainingRequest,
    devices_of,
    feedback_inputs,
    request_model,
    stored_inputs,
    train_or_recall,
)
from emotion_assets.jobs.process import PRETRAINING, stored_input
from emotion_assets.models.hyperparameters import MAX_SEED, replace_settings, require_seed
from emotion_assets.models.registry import kind_of
from emotion_assets.settings import versions
from emotion_assets.settings.schema import FolderSource, PretrainedHere, Settings
from emotion_assets.storage.keys import FEEDBACK, MAIN_MODEL, base_key, model_key, tokens_key
from emotion_assets.storage.store import StoredFolder, StoreError, fingerprint
from emotion_assets.storage.workspace import Workspace

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
GROUP, OWNER = "models", "team:ml"


class DevicesConfig(dg.Config):
    """How a training is run; it decides nothing about the result but rounding."""

    devices: int = Field(
        default=0,
        description="GPUs of the training (without a GPU: processes); 0: as the profile says. A kind that trains on "
        "one ignores it",
    )


class TrainingConfig(DevicesConfig):
    """Other hyperparameters than the profile's, for a candidate: another version of the same model, which is predicted
    with, evaluated and judged by the rule of the champion like any other. The next run without them recalls the
    profile's version. The bounds are the profile's own (``settings.schema``, ``models.kinds``)."""

    learning_rate: float | None = Field(
        default=None, description="the highest learning rate, above 0; empty: as the profile says"
    )
    epochs: int | None = Field(default=None, description="1 or more; empty: as the profile says")
    batch_size: int | None = Field(
        default=None, description="rows of a batch on one device, 1 or more; empty: as the profile says"
    )
    lora_rank: int | None = Field(
        default=None, description="rank of the LoRA adapters, 1 or more; empty: as the profile says"
    )
    lora_dropout: float | None = Field(
        default=None, description="dropout before the LoRA adapters, from 0 to below 1; empty: as the profile says"
    )
    seed: int | None = Field(
        default=None, description=f"of this training, from 0 to {MAX_SEED}; empty: as the profile says"
    )

    def settings(self) -> dict[str, Any]:
        """What is given of the model's settings, by their path in the profile."""
        given = {
            "training.learning_rate": self.learning_rate,
            "training.epochs": self.epochs,
            "training.batch_size": self.batch_size,
            "lora.rank": self.lora_rank,
            "lora.dropout": self.lora_dropout,
        }
        return {path: value for path, value in given.items() if value is not None}

    def seed_of(self, name: str, settings: Settings) -> int:
        """The seed of the training of a model.

        Raises:
            SettingsError: no generator takes it.
        """
        if self.seed is None:
            return settings.seed
        require_seed(f"{name}: seed", self.seed)
        return self.seed


def model_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    bases = [_base_model(settings, name) for name in settings.bases]
    return [*bases, *(_model_asset(settings, name) for name in settings.models)]


def _code_version(settings: Settings, part: BaseModel) -> str:
    """Of all that a ``TrainingJob`` is told, but its inputs, which have data versions of their own."""
    return fingerprint(versions.TRAINING, settings.seed, settings.labels, part.model_dump(mode="json"))[:12]


def _base_model(settings: Settings, name: str) -> dg.AssetsDefinition:
    base = settings.bases[name]
    made_here = isinstance(base.source, PretrainedHere)
    tokens = tokens_key(base.tokenizer)
    main = settings.models.get(MAIN_MODEL)

    spec = dg.AssetSpec(
        base_key(name),
        deps=[tokens] if made_here else [],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"checkpoint", "pytorch", "huggingface"},
        code_version=_code_version(settings, base),
        description=(
            f"The {base.source.build.model_type} checkpoint pre-trained here on the training texts."
            if isinstance(base.source, PretrainedHere)
            else "The base checkpoint as a local folder, every file hashed."
        ),
    )

    @dg.multi_asset(
        name="__".join(spec.key.path),
        specs=[spec],
        check_specs=[_intact(spec.key)],
        can_subset=True,
        pool=MODEL_POOL if made_here else None,
        retry_policy=RETRY_ONCE,
        op_tags=STARTS_FIRST if main is not None and main.base_name == name else None,
    )
    @user_errors_as_failures
    def base_model(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: DevicesConfig
    ) -> Results:
        if not context.selected_asset_keys:
            yield from _check_intact(context, workspace)
            return
        if made_here:
            inputs = {"tokens": stored_input(workspace.store.current(tokens, verify=False))}  # the process verifies
            devices = config.devices or devices_of(settings.devices, few_weights=False)
            request = TrainingRequest(
                base_key(name), "base_models", PRETRAINING, base.source, inputs, settings.seed, devices
            )
            folder, how = train_or_recall(context, workspace, request)
            workspace.publish(request.key, request.store_kind, folder)
            made = _recipe_metadata(base.source.model_dump(mode="json") | {"seed": settings.seed}, how)
        else:
            folder, made = _resolve_base(workspace, name), {}
        curves = {"pre-training": folder.info.get("curve")}
        yield _materialize_result(workspace.settings, base_key(name), folder, curves, made)
        yield from _intact_now(context)

    return base_model


def _resolve_base(workspace: Workspace, name: str) -> StoredFolder:
    """A base from the Hub, a package or a folder, stored.

    One that was stored before is recalled, unless it comes from a folder, which may hold something else today.
    """
    settings, store = workspace.settings, workspace.store
    source = settings.bases[name].source
    fixed = not isinstance(source, FolderSource)
    recipe = fingerprint("base", versions.TRAINING, source.model_dump(mode="json")) if fixed else None
    folder = store.recall(recipe) if recipe else None
    if folder is None:
        from emotion_assets.models.bases import resolve_checkpoint
        from emotion_assets.models.requirements import require_checkpoint

        require_checkpoint(settings, name)
        trained = {key: model for key, model in settings.models.items() if model.base_name == name}
        with store.writing("base_models") as draft:
            folder = draft.finish(resolve_checkpoint(settings.bases[name], name, draft.path, trained))
    workspace.publish(base_key(name), "base_models", folder, recipe)
    return folder


def _model_asset(settings: Settings, name: str) -> dg.AssetsDefinition:
    model = settings.models[name]
    kind = kind_of(model)
    sources = kind.inputs(model, settings)
    texts = kind.feedback_texts(model)

    spec = dg.AssetSpec(
        model_key(name),
        deps=[*sources.values(), *([FEEDBACK] if texts else [])],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"classifier", *kind.ui_kinds},
        code_version=_code_version(settings, model),
        description=kind.describe(model),
    )

    @dg.multi_asset(
        name="__".join(spec.key.path),
        specs=[spec],
        check_specs=[_intact(spec.key)],
        can_subset=True,
        pool=MODEL_POOL,
        retry_policy=RETRY_ONCE,
        op_tags=STARTS_FIRST if name == MAIN_MODEL else None,
    )
    @user_errors_as_failures
    def trained_model(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: TrainingConfig
    ) -> Results:
        if not context.selected_asset_keys:
            yield from _check_intact(context, workspace)
            return
        asked, seed = replace_settings(name, model, config.settings()), config.seed_of(name, settings)
        inputs = stored_inputs(workspace, asked) | feedback_inputs(workspace, asked)
        request = request_model(settings, name, asked, inputs, seed, config.devices)
        folder, how = train_or_recall(context, workspace, request)
        workspace.publish(request.key, request.store_kind, folder)
        used = kind.used_settings(asked) | {"seed": seed}
        made = _recipe_metadata(used, how)
        made |= _difference_from_profile(kind.used_settings(model) | {"seed": settings.seed}, used)
        curves = {"training": folder.info.get("curve")}
        yield _materialize_result(workspace.settings, model_key(name), folder, curves, made)
        yield from _intact_now(context)

    return trained_model


def _intact(key: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "store_intact", asset=key, description="Every file in the store is the one that was written, by its sha256."
    )


def _check_intact(context: dg.AssetExecutionContext, workspace: Workspace) -> Iterator[dg.AssetCheckResult]:
    """Read every file of the current version."""
    for check in context.selected_asset_check_keys:
        problem = None
        try:
            workspace.store.current(check.asset_key.path)
        except StoreError as error:
            problem = str(error)
        yield _intact_result(check, problem)


def _intact_now(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """What was just written was hashed as it was, and what was recalled was verified: nothing is read again."""
    for check in context.selected_asset_check_keys:
        yield _intact_result(check, None)


def _intact_result(check: dg.AssetCheckKey, problem: str | None) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=problem is None,
        check_name=check.name,
        asset_key=check.asset_key,
        severity=dg.AssetCheckSeverity.ERROR,
        description=problem,
    )


def _recipe_metadata(used: Mapping[str, Any], how: str) -> dict[str, Any]:
    """What a training was told, one small table for each part of it, and how its result came to be."""
    parts = {key: value for key, value in used.items() if isinstance(value, dict)}
    whole = {key: value for key, value in used.items() if key not in parts}
    tables = {"recipe": whole, **{f"recipe: {key}": part for key, part in parts.items()}}
    return {
        "this version was": how,
        **{
            name: display.table([{"setting": key, "value": value} for key, value in part.items()])
            for name, part in tables.items()
        },
    }


def _difference_from_profile(profile: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a candidate that are not the profile's."""
    before = _flat(profile)
    other = [
        {"setting": path, "value": value, "profile": before[path]}
        for path, value in _flat(used).items()
        if before[path] != value
    ]
    return {"other than the profile": display.table(other)} if other else {}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their paths, one level deep."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        part = {f"{key}.{inner}": setting for inner, setting in value.items()} if isinstance(value, dict) else {}
        flat |= part or {key: value}
    return flat


def _materialize_result(
    settings: Settings, key: Sequence[str], folder: StoredFolder, curves: Mapping[str, Any], made: Mapping[str, Any]
) -> dg.MaterializeResult[None]:
    info = folder.info
    picture = f"{'-'.join(key)}-{folder.version}"
    plots = {
        name: display.curve(settings, picture, curve["steps"], curve["losses"], curve["validation_accuracy"], name)
        for name, curve in curves.items()
        if curve and curve["steps"]
    }
    figures = {
        key.replace("_mb", " (MB)").replace("_", " "): round(value, 4) if isinstance(value, float) else value
        for key, value in info.items()
        if isinstance(value, (int, float, str)) and not key.startswith("base_digest")
    }
    return dg.MaterializeResult(
        data_version=dg.DataVersion(folder.digest),
        metadata={**made, **plots, **figures, "version": folder.version, "path": dg.MetadataValue.path(folder.path)},
    )
