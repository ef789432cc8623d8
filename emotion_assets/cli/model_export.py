"""Export a trained model: the folder that plain transformers or PEFT loads, with its model card, safe to publish.

Belongs here: which model and which figures, and the card. Does not belong here: weights and the code that reads them
(``models.transformer.export``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Any

from emotion_assets.models.kind import Export
from emotion_assets.models.registry import all_kinds
from emotion_assets.settings.errors import UserError
from emotion_assets.settings.schema import HUB_ID
from emotion_assets.storage.atomic import drafting_folder, sync_folder
from emotion_assets.storage.keys import model_key, predictions_key
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.warehouse.evaluation import classes_on, evaluations_of

if TYPE_CHECKING:
    from emotion_assets.storage.workspace import Workspace

Row = Mapping[str, Any]
SPLITS = ("test", "validation")
CARD = "README.md"
TOKENS = "AutoModelForTokenClassification"
PIPELINES = {"AutoModelForSequenceClassification": "text-classification", "AutoModelForCausalLM": "text-generation"}
BY_TOKENS = """

It is a model for token classification, whose scores the code above takes together: transformers has no class for
sequence classification that computes the same, so its text-classification pipeline does not read this folder."""


def export_model(workspace: Workspace, name: str, target: Path, adapter: bool) -> list[str]:
    """Write the current version of a model into the new folder ``target``; returns what was done, in lines.

    Raises:
        UserError: there is no such model, it is not trained or not evaluated, or transformers has no such model; or the
            folder is there already or cannot be made. Nothing is left behind.
    """
    from emotion_assets.evaluation.metrics import fit_temperature
    from emotion_assets.evaluation.predictions import read_predictions

    settings, store = workspace.settings, workspace.store
    if name not in settings.models:
        raise UserError(f"--model {name}: not a model of the profile; use {', '.join(settings.models)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target}: is there already; give a folder that is new or empty")
    model = store.current(model_key(name))
    figures = _figures(workspace, name, model)
    validation = read_predictions(store.current(predictions_key(name)), "validation")
    temperature = fit_temperature(validation.actual, validation.probabilities)
    kind = all_kinds()[model.read_json("model.json")["kind"]]
    try:
        with drafting_folder(target.resolve().parent) as draft:
            try:
                made = kind.export(model, store, draft, temperature, adapter)
            except UserError as error:
                raise UserError(f"--model {name}: {error}") from None
            text = _card(name, model, made, figures, temperature, kind.describe(settings.models[name]))
            (draft / CARD).write_text(text, encoding="utf-8")
            for path in draft.iterdir():
                path.chmod(0o644)  # safetensors closes its files to every other user
            sync_folder(draft)
            draft.replace(target)
    except OSError as error:
        raise UserError(f"--to {target}: cannot be written ({error.strerror or error}); give another folder") from None
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    return [
        f"{name} {model.version} written to {target}: {made.library} {made.loaded_by}, {made.format}, {size:,.1f} MB",
        f"{target / CARD} has the code that reads it and the figures; nothing in it names a path of this machine",
    ]


def _figures(workspace: Workspace, name: str, model: StoredFolder) -> dict[str, tuple[Row, list[Row]]]:
    """By split, the evaluation of this model version and its rows by label.

    Raises:
        UserError: it was not evaluated.
    """
    figures: dict[str, tuple[Row, list[Row]]] = {}
    key = predictions_key(name)
    predicted = workspace.store.has(key) and workspace.store.current(key, verify=False).info["model_digest"]
    if predicted == model.digest:
        with workspace.warehouse.reading() as db:
            for split in SPLITS:
                rows = [row for row in evaluations_of(db, split) if _is_of(row, name, model)]
                if rows:
                    classes = classes_on(db, split, rows[0]["split_fingerprint"])
                    figures[split] = rows[0], [row for row in classes if _is_of(row, name, model)]
    if set(figures) != set(SPLITS):
        raise UserError(
            f"--model {name}: its version {model.version} was not evaluated yet; materialise predictions/{name} and "
            "evaluation_table first"
        )
    return figures


def _is_of(row: Row, name: str, model: StoredFolder) -> bool:
    return bool(row["model"] == name and row["model_version"] == model.version)


def _card(
    name: str,
    model: StoredFolder,
    made: Export,
    figures: Mapping[str, tuple[Row, list[Row]]],
    temperature: float,
    description: str,
) -> str:
    info, labels = model.info, model.read_json("model.json")["labels"]
    test, classes = figures["test"]
    base = f"{made.base[0]} at revision {made.base[1]}" if made.base else f"{info['base']} (on no hub)"
    return f"""---
{_metadata(name, made, test)}
---

# {name} {model.version}

{description} Made with emotion_assets. It gives each text one of {len(labels)} labels: {", ".join(labels)}.

## Use

```python
{made.code}

print(probabilities("I can't thank you enough"))
```

`temperature=1.0` gives the probabilities that the figures below are of. `temperature={temperature:.6g}`, chosen on
validation, gives calibrated ones, which is how this project scores feedback. Weights are in {made.format}, as
safetensors; another format or device rounds differently.{BY_TOKENS if made.loaded_by == TOKENS else ""}

## Figures

{_table(_split_rows(figures))}

On test, by label:

{_table([_by_label(row) for row in classes])}

Data: {test["dataset"]}. The interval is of 95%, of the number of rows; another text than these rows' kind gives other
figures.

## Training

{_table(_training_rows(info, base))}

The licence is that of the base and of the data; this card states none.
"""


def _metadata(name: str, made: Export, test: Row) -> str:
    """The card's YAML, which a hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    on_hub = fullmatch(HUB_ID, test["dataset"]) is not None and "/" in test["dataset"]
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=test["dataset"] if on_hub else "other",
            dataset_name=str(test["dataset"]),
            dataset_split="test",
            metric_type=kind,
            metric_name=title,
            metric_value=round(test[column], 4),
        )
        for kind, title, column in (("accuracy", "Accuracy", "accuracy"), ("f1", "Macro F1", "macro_f1"))
    ]
    data = ModelCardData(
        base_model=made.base[0] if made.base else None,
        library_name=made.library,
        pipeline_tag=PIPELINES.get(made.loaded_by),
        tags=["emotion", "text-classification"],
        model_name=name,
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _split_rows(figures: Mapping[str, tuple[Row, list[Row]]]) -> list[dict[str, str]]:
    return [
        {
            "split": split,
            "rows": f"{row['n_rows']:,}",
            "accuracy": f"{row['accuracy']:.4f} ({row['accuracy_low']:.4f} to {row['accuracy_high']:.4f})",
            "macro F1": f"{row['macro_f1']:.4f}",
            "weighted F1": f"{row['weighted_f1']:.4f}",
            "log loss": f"{row['log_loss']:.4f}",
            "calibration error": f"{row['ece']:.4f}",
        }
        for split, (row, _) in figures.items()
    ]


def _by_label(row: Row) -> dict[str, str]:
    shares = {key: f"{row[key]:.4f}" for key in ("precision", "recall", "f1")}
    return {"label": row["emotion"], "rows": f"{row['support']:,}", **shares}


def _training_rows(info: Row, base: str) -> list[dict[str, str]]:
    rows = {
        "base": base,
        "trained parameters": f"{info['trainable_parameters']:,} of {info['total_parameters']:,}",
        "time": f"{info['train_seconds']:,.0f} s on {info['runtime']}",
    }
    if "validation_accuracy" in info:
        rows["validation accuracy in training"] = f"{info['validation_accuracy']:.4f}"
    return [{"what": key, "value": value} for key, value in rows.items()]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with equal keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
