"""Group ``evaluation``: predictions of every model, the evaluation tables with their page, and the champion."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from emotion_assets.defs import metadata as display
from emotion_assets.defs.conditions import follow_any_predictions, follow_inputs
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.defs.resources import MODEL_POOL, RETRY_ONCE, WAREHOUSE_POOL
from emotion_assets.settings import versions
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import BALANCE, CHAMPION, EVALUATION, RAW_DATASET, model_key, predictions_key
from emotion_assets.storage.store import StoredFolder, fingerprint
from emotion_assets.storage.warehouse.declaration import columns_of
from emotion_assets.storage.warehouse.tables import ChampionDecision, Evaluation
from emotion_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from emotion_assets.evaluation.precision import Precision

GROUP, OWNER = "evaluation", "team:ml"


def evaluation_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    return [*(_predictions(name) for name in settings.models), _evaluation_table(settings), _champion_model(settings)]


def _predictions(name: str) -> dg.AssetsDefinition:
    key = dg.AssetKey(predictions_key(name))

    @dg.multi_asset(
        name="__".join(key.path),
        specs=[
            dg.AssetSpec(
                key,
                deps=[model_key(name), RAW_DATASET],
                group_name=GROUP,
                owners=[OWNER],
                kinds={"predictions", "parquet"},
                code_version=fingerprint(versions.PREDICTIONS)[:12],
                automation_condition=follow_inputs(),
                description=f"Class probabilities of {name} for every row of validation and test.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "distributions",
                asset=key,
                description=(
                    "One probability distribution over the dataset's labels for every row of validation and test. "
                    "Predictions that fail are left out of the evaluation."
                ),
            )
        ],
        can_subset=True,
        pool=MODEL_POOL,
    )
    @user_errors_as_failures
    def predictions(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from emotion_assets.evaluation.predictions import predict, prediction_problems

        store = workspace.store
        dataset = store.current(RAW_DATASET)
        if context.selected_asset_keys:
            model = store.current(model_key(name))
            folder = predict(name, model, dataset, store)
            workspace.publish(predictions_key(name), "predictions", folder)
            shown = _predictions_metadata(folder)
            yield dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion(folder.digest), metadata=shown)
        if context.selected_asset_check_keys:
            problems = prediction_problems(store.current(predictions_key(name)), dataset)
            yield display.check_result(key.path, "distributions", problems, dg.AssetCheckSeverity.ERROR)

    return predictions


def _predictions_metadata(folder: StoredFolder) -> dict[str, Any]:
    return {
        **display.rows(sum(folder.info["rows"].values())),
        **display.columns({"label": "int16", "probabilities": "list<float32>"}),
        **split_accuracies(folder),
        "texts per second": folder.info["texts_per_second"],
        "model version": folder.info["model_digest"][:12],
        "path": dg.MetadataValue.path(folder.path),
    }


def _precision_metadata(precision: "Precision") -> dict[str, Any]:
    measured = [vars(one) for one in precision.measured]
    return {
        "scores feedback in": precision.number_format or "the format it was trained in",
        "why in that format": precision.why,
        **({"formats on validation": display.table(measured)} if measured else {}),
    }


def split_accuracies(predictions: StoredFolder) -> dict[str, float]:
    from emotion_assets.evaluation.predictions import SCORED_SPLITS, read_predictions

    return {f"{split} accuracy": float(read_predictions(predictions, split).right.mean()) for split in SCORED_SPLITS}


def _evaluation_table(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=EVALUATION,
        deps=[*(predictions_key(name) for name in settings.models), BALANCE],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"python", "duckdb"},
        code_version=fingerprint(versions.EVALUATION, versions.METRICS, _figures())[:12],
        pool=WAREHOUSE_POOL,
        retry_policy=RETRY_ONCE,
        automation_condition=follow_any_predictions(GROUP),
        description=(
            "Every model on the same rows: accuracy, F1, calibration, confusion, cost and paired differences, with 95% "
            f"intervals, in DuckDB and as [a page]({settings.reports_url}/evaluation.html)."
        ),
    )
    @user_errors_as_failures
    def evaluation_table(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.MaterializeResult[None]:
        from emotion_assets.evaluation.evaluate import evaluate_all
        from emotion_assets.reports.evaluation_page import write_evaluation_page

        outcome = evaluate_all(workspace.settings, workspace.store, workspace.warehouse, context.run.run_id, _now())
        for name, why in outcome.missing.items():
            context.log.warning(f"{name} is not evaluated: {why}")
        page = write_evaluation_page(workspace.settings, workspace.store, workspace.warehouse)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprint(outcome.keys)),
            metadata={
                **evaluation_metadata(workspace),
                "new evaluations": outcome.added,
                "not evaluated": dg.MetadataValue.json(outcome.missing),
                "page": display.page(workspace.settings, page),
                "path": dg.MetadataValue.path(page),
            },
        )

    return evaluation_table


def _figures() -> list[str]:
    """The columns of the table: one more is one more figure to compute."""
    return [column.name for column in columns_of(Evaluation)]


def evaluation_metadata(workspace: Workspace) -> dict[str, Any]:
    """The leaderboard, and the confusion of the model that leads it."""
    from emotion_assets.defs.plots import accuracy_intervals, confusion_plot
    from emotion_assets.evaluation.published import with_published
    from emotion_assets.storage.warehouse.evaluation import (
        confusion_on,
        evaluation_keys,
        read_leaderboard,
    )

    with workspace.warehouse.reading() as db:
        board = [row for row in read_leaderboard(db) if row["comparable"]]
        best = board[0]
        confusion = [
            row
            for row in confusion_on(db, "test", best["split_fingerprint"])
            if (row["model"], row["model_version"]) == (best["model"], best["model_version"])
        ]
        rows = len(evaluation_keys(db))
    ranked = with_published(board)
    settings, picture = workspace.settings, fingerprint([row["model_version"] for row in board])[:12]
    return {
        **display.rows(rows),
        **display.table_columns(Evaluation),
        "leaderboard": display.table(short_leaderboard(ranked)),
        "accuracy": accuracy_intervals(settings, f"accuracy-{picture}", ranked),
        "confusion of the best": confusion_plot(
            settings, f"confusion-{picture}", confusion, f"{best['model']} on test"
        ),
        "best test accuracy": best["accuracy"],
        "best macro F1": best["macro_f1"],
        **{f"test accuracy of {row['model']}": row["accuracy"] for row in board},
        **{f"macro F1 of {row['model']}": row["macro_f1"] for row in board},
        **{f"texts per second of {row['model']}": row["texts_per_second"] for row in board},
    }


def short_leaderboard(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that fit beside each other on an asset's page; the page of the evaluation has them all."""
    return [
        {
            "model": f"{row['model']} (published)" if row["published"] else row["model"],
            "accuracy": f"{row['accuracy']:.3f}",
            "95%": f"{row['accuracy_low']:.3f}–{row['accuracy_high']:.3f}",
            "macro F1": "" if row["macro_f1"] is None else f"{row['macro_f1']:.3f}",
            "weights": "" if row["total_parameters"] is None else _short_count(row["total_parameters"]),
            "texts/s": "" if row["texts_per_second"] is None else f"{row['texts_per_second']:,.0f}",
        }
        for row in rows
    ]


def _short_count(n: int) -> str:
    """Three digits and a unit: 137958 is 138k."""
    for unit in ("", "k", "M"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n = n / 1000  # type: ignore[assignment]
    return f"{n:.3g}G"


class ChampionConfig(dg.Config):
    """All off: the rule decides. A pin or a rollback holds until ``unpin``."""

    pin: str = Field(
        default="",
        description="a model of the profile, or a model version that was evaluated: it becomes the champion",
    )
    rollback: bool = Field(default=False, description="the champion before the present one becomes the champion again")
    unpin: bool = Field(default=False, description="let the rule decide again")


def _champion_model(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=CHAMPION,
        deps=[EVALUATION],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"python", "duckdb"},
        code_version=fingerprint(versions.CHAMPION, versions.PRECISION, settings.evaluation.model_dump())[:12],
        pool=WAREHOUSE_POOL,
        retry_policy=RETRY_ONCE,
        automation_condition=follow_inputs(at_once=True),
        description=(
            "The model version that scores feedback, chosen on validation, and why. Run config: pin (a model or "
            "version), rollback, unpin."
        ),
    )
    @user_errors_as_failures
    def champion_model(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: ChampionConfig
    ) -> dg.MaterializeResult[None]:
        from emotion_assets.evaluation.champion import ChampionRequest, choose_champion
        from emotion_assets.evaluation.precision import choose_precision
        from emotion_assets.reports.evaluation_page import write_evaluation_page
        from emotion_assets.storage.exports import export_tables

        request = ChampionRequest(config.pin, config.rollback, config.unpin)
        settings, store, warehouse = workspace.settings, workspace.store, workspace.warehouse
        choice = choose_champion(settings, store, warehouse, request, context.run.run_id, _now())
        write_evaluation_page(settings, store, warehouse)
        if choice.decision["run_id"] == context.run.run_id:
            export_tables(warehouse)  # what a rebuild of the database could not find elsewhere
        context.log.info(f"{choice.decision['action']}: {choice.decision['reason']}")
        precision = choose_precision(choice.model, store.current(RAW_DATASET), store)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(choice.model.digest),
            metadata=decision_metadata(choice.decision, workspace) | _precision_metadata(precision),
        )

    return champion_model


def decision_metadata(decision: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
    from emotion_assets.storage.warehouse.evaluation import champion_decisions

    with workspace.warehouse.reading() as db:
        rows = len(champion_decisions(db))
    numbers = [
        {key: entry[key] for key in ("model", "model_version", "accuracy", "difference", "qualifies", "why")}
        for entry in json.loads(decision["numbers"])
    ]
    accuracy = next((row["accuracy"] for row in numbers if row["model_version"] == decision["model_version"]), None)
    return {
        **display.rows(rows),
        **display.table_columns(ChampionDecision),
        **({} if accuracy is None else {"validation accuracy": accuracy}),
        "champion": decision["model"],
        "version": decision["model_version"],
        "action": decision["action"],
        "pinned": decision["pinned"],
        "reason": decision["reason"],
        "predecessor": f"{decision['predecessor_model']} {decision['predecessor_version']}"
        if decision["predecessor_model"]
        else "none",
        "decided at": decision["decided_at"].isoformat(),
        "candidates on validation": display.table(numbers),
    }


def _now() -> datetime:
    return datetime.now(UTC)
