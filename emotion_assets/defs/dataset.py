"""Group ``dataset``: the raw splits, what is known about them, and their token ids."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from emotion_assets.defs import metadata as display
from emotion_assets.defs.conditions import follow_inputs
from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.defs.resources import RETRY_ONCE, STARTS_FIRST, WAREHOUSE_POOL
from emotion_assets.defs.source import observe_source
from emotion_assets.settings import versions
from emotion_assets.settings.schema import Settings
from emotion_assets.storage.keys import BALANCE, DATASET_SOURCE, RAW_DATASET, tokens_key
from emotion_assets.storage.store import StoredFolder, fingerprint
from emotion_assets.storage.warehouse.tables import ClassBalance
from emotion_assets.storage.workspace import Workspace

if TYPE_CHECKING:
    from emotion_assets.dataset.balance import BalanceReport

GROUP, OWNER = "dataset", "team:data"


def dataset_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    return [
        _raw_emotion_dataset(settings),
        _class_balance_report(settings),
        *(_tokenised_splits(settings, n) for n in settings.tokenizers),
    ]


def _raw_emotion_dataset(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=RAW_DATASET,
        deps=[DATASET_SOURCE],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"python", "parquet"},
        code_version=_code_version(settings, versions.DATASET, settings.dataset.model_dump(mode="json")),
        description="The labelled texts as train, validation and test in Parquet; the data version is a content hash.",
    )
    @user_errors_as_failures
    def raw_emotion_dataset(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.MaterializeResult[None]:
        from emotion_assets.dataset.source import look_at_source

        state = look_at_source(workspace.settings.dataset, workspace.warehouse, {})
        context.log_event(observe_source(state))
        # Dagster noted what it knew of the source before this step; what is read now is of the state just observed.
        context.get_step_execution_context().wipe_input_asset_version_info(dg.AssetKey(DATASET_SOURCE))
        folder = _store_dataset(context, workspace)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(folder.digest),
            metadata={
                **display.rows(sum(folder.info["rows"].values())),
                **display.columns({"text": "string", "label": "string"}),
                **{f"{split} rows": n for split, n in folder.info["rows"].items()},
                "splits": display.table(
                    [
                        {"split": split, "rows": n, "fingerprint": folder.info["fingerprints"][split][:12]}
                        for split, n in folder.info["rows"].items()
                    ]
                ),
                "dataset": folder.info["name"],
                "notes": "; ".join(folder.info["notes"]) or "none",
                "path": dg.MetadataValue.path(folder.path),
            },
        )

    return raw_emotion_dataset


def _code_version(settings: Settings, *parts: Any) -> str:
    """Of a step that is told the labels, their order and the seed."""
    return fingerprint(*parts, settings.labels, settings.seed)[:12]


def _store_dataset(context: dg.AssetExecutionContext, workspace: Workspace) -> StoredFolder:
    from emotion_assets.dataset.splits import (
        DATASET_IDENTITY,
        add_training_rows,
        describe_dataset,
        load_dataset,
        write_splits,
    )
    from emotion_assets.review.queue import reviewed_rows

    settings = workspace.settings
    dataset = load_dataset(settings.dataset, settings.labels, settings.seed)
    if settings.dataset.join_reviewed:
        dataset = add_training_rows(dataset, reviewed_rows(workspace.warehouse, settings.labels))
    with workspace.store.writing("datasets") as draft:
        write_splits(dataset, draft.path)
        folder = draft.finish(describe_dataset(dataset, settings.labels), DATASET_IDENTITY)
    workspace.publish(RAW_DATASET, "datasets", folder)
    for note in dataset.notes:
        context.log.info(note)
    return folder


def _class_balance_report(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        key=BALANCE,
        deps=[RAW_DATASET],
        group_name=GROUP,
        owners=[OWNER],
        kinds={"python", "duckdb"},
        code_version=_code_version(settings, versions.CLASS_BALANCE),
        pool=WAREHOUSE_POOL,
        retry_policy=RETRY_ONCE,
        automation_condition=follow_inputs(),
        description=(
            "Counts and shares per split and class, imbalance, shift, duplicates, conflicting and doubtful labels."
        ),
    )
    @user_errors_as_failures
    def class_balance_report(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.MaterializeResult[None]:
        from emotion_assets.dataset.balance import BalanceReport
        from emotion_assets.storage.warehouse.dataset import write_class_balance

        stored = _store_balance(workspace)
        report = BalanceReport.model_validate_json(stored.file("report.json").read_text(encoding="utf-8"))
        with workspace.warehouse.writing() as db:
            write_class_balance(db, [ClassBalance(**row) for row in report.counts])
        for remark in report.remarks():
            context.log.info(remark)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stored.digest),
            metadata={
                **display.rows(len(report.counts)),
                **display.table_columns(ClassBalance),
                **_balance_metadata(workspace.settings, f"shares-{stored.version}", report),
            },
        )

    return class_balance_report


def _store_balance(workspace: Workspace) -> StoredFolder:
    """The report on the current dataset, recalled where this very dataset was looked at before."""
    from emotion_assets.dataset.balance import balance_report
    from emotion_assets.dataset.splits import read_splits

    settings, store = workspace.settings, workspace.store
    dataset = store.current(RAW_DATASET)
    recipe = fingerprint("balance", versions.CLASS_BALANCE, settings.labels, settings.seed, dataset.digest)
    folder = store.recall(recipe)
    if folder is None:
        report = balance_report(read_splits(dataset), settings.labels, settings.seed)
        with store.writing("balance_reports") as draft:
            draft.file("report.json").write_text(report.model_dump_json(indent=1), encoding="utf-8")
            folder = draft.finish({"dataset": dataset.digest}, identity=["dataset"])
    workspace.publish(BALANCE, "balance_reports", folder, recipe)
    return folder


def _balance_metadata(settings: Settings, name: str, report: "BalanceReport") -> dict[str, Any]:
    shares = {
        split.split: {s.emotion: s.share for s in report.shares if s.split == split.split} for split in report.splits
    }
    return {
        "shares": display.bars(settings, name, shares, "Share of each emotion", "share of the split's rows"),
        "rows": display.table(report.counts),
        "imbalance ratio": report.imbalance_ratio,
        "defects": display.table([split.model_dump(exclude={"lengths"}) for split in report.splits]),
        "shared between splits": display.table([overlap.model_dump() for overlap in report.overlaps]),
        "shift of shares against train": display.table([shift.model_dump() for shift in report.shifts]),
        **{f"likely label errors in {split}": n for split, n in report.likely_label_errors.items()},
        "most doubtful labels": display.table(
            [error.model_dump(include={"split", "row", "label", "suggested"}) for error in report.label_errors[:8]]
        ),
    }


def _tokenised_splits(settings: Settings, name: str) -> dg.AssetsDefinition:
    tokenizer = settings.tokenizers[name]
    prompted = any(
        model.reads_prompts and model.base_name and settings.bases[model.base_name].tokenizer == name
        for model in settings.models.values()
    )
    instruction = settings.instruction if prompted else None
    system = settings.system if prompted else ""
    prompt = (instruction, system) if system else instruction

    key = dg.AssetKey(tokens_key(name))

    @dg.multi_asset(
        name="__".join(key.path),
        specs=[
            dg.AssetSpec(
                key,
                deps=[RAW_DATASET],
                group_name=GROUP,
                owners=[OWNER],
                kinds={"tokens", "parquet", "huggingface"},
                code_version=_code_version(settings, versions.TOKENS, tokenizer.model_dump(mode="json"), prompt),
                automation_condition=follow_inputs(),
                description=f"Token ids of the three splits for the {name} family, with its tokenizer.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "within_length",
                asset=key,
                description=(
                    f"Of no split more than one row in a hundred is longer than {tokenizer.max_length} tokens and was "
                    f"cut; else raise tokenizers.{name}.max_length."
                ),
            )
        ],
        op_tags=STARTS_FIRST,
        can_subset=True,
    )
    @user_errors_as_failures
    def tokenised_splits(
        context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from emotion_assets.dataset.problems import cut_problems

        if context.selected_asset_keys:
            folder = _tokens(workspace, name, instruction, system)
            shown = _tokens_metadata(folder, tokenizer.max_length)
            yield dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion(folder.digest), metadata=shown)
        if context.selected_asset_check_keys:
            folder = workspace.store.current(key.path)
            problems = cut_problems(folder.info["splits"], folder.read_json("tokens.json")["max_length"])
            yield display.check_result(key.path, "within_length", problems, dg.AssetCheckSeverity.WARN)

    return tokenised_splits


def _tokens_metadata(folder: StoredFolder, max_length: int) -> dict[str, Any]:
    statistics = folder.info["splits"]
    return {
        **display.rows(sum(part["rows"] for part in statistics.values())),
        **display.columns({"input_ids": "list<int32>", "label": "int16", "length": "int32"}),
        "lengths in tokens": display.table([{"split": split, **part} for split, part in statistics.items()]),
        "cut rows": sum(part["truncated"] for part in statistics.values()),
        "vocabulary": folder.info["vocab_size"],
        "max length": max_length,
        "path": dg.MetadataValue.path(folder.path),
    }


def _tokens(workspace: Workspace, name: str, instruction: str | None, system: str = "") -> StoredFolder:
    """The token folder of a family: recalled for a dataset seen before, since WordPiece training is not repeatable.

    Not recalled are prompts that hold the date of the day they were made: scoring could not make them again.
    """
    from emotion_assets.dataset.splits import read_splits
    from emotion_assets.models.transformer.tokens import hold_a_live_date, make_tokenizer, write_tokens

    settings, store = workspace.settings, workspace.store
    dataset, tokenizer = store.current(RAW_DATASET), settings.tokenizers[name]
    recipe = fingerprint(
        versions.TOKENS,
        tokenizer.model_dump(mode="json"),
        settings.labels,
        (instruction, system) if system else instruction,
        dataset.digest,
    )
    folder = store.recall(recipe)
    if folder is None or hold_a_live_date(folder):
        splits = read_splits(dataset)
        with store.writing("tokens") as draft:
            made = make_tokenizer(tokenizer, splits["train"]["text"].tolist(), name)
            statistics = write_tokens(
                draft.path, made, splits, settings.labels, tokenizer.max_length, instruction, system
            )
            folder = draft.finish({"splits": statistics, "vocab_size": len(made)})
    workspace.publish(tokens_key(name), "tokens", folder, recipe)
    return folder
