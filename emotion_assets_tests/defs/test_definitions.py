"""The code location: which assets there are, what each tells the UI, and what loading it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from emotion_assets.defs.build import build_defs
from emotion_assets_tests.conftest import PROJECT

GRAPH = {
    "dataset": [
        "dataset_source",
        "raw_emotion_dataset",
        "class_balance_report",
        *(f"tokenised_splits/{f}" for f in ("llama", "bert", "roberta")),
    ],
    "models": [
        *(f"base_models/{b}_mini" for b in ("llama", "bert_base", "bert_large", "roberta_base", "roberta_large")),
        "llama3_lora_model",
        *(
            f"baseline_models/{m}"
            for m in ("bert_base", "bert_large", "roberta_base", "roberta_large", "tfidf_svm", "bigru")
        ),
    ],
    "evaluation": [
        *(
            f"predictions/{m}"
            for m in (
                "llama3_lora_model",
                "bert_base",
                "bert_large",
                "roberta_base",
                "roberta_large",
                "tfidf_svm",
                "bigru",
            )
        ),
        "evaluation_table",
        "champion_model",
        "sweep",
    ],
    "feedback": ["feedback", "scored_feedback", "feedback_report"],
}

OUTSIDE = {"dataset_source", "sweep"}
"""Observed and reported, not materialised."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dg.AssetSpec]:
    defs = build_defs({"home": tmp_path_factory.mktemp("home")})
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


def homes(home: Path) -> dict[str, str]:
    """A home of the test's own, also where the project has a ``.env``, which dagster reads."""
    (home / "dagster").mkdir()
    return {"EMOTION_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}


def test_the_graph_has_the_assets_of_the_design_in_their_groups(specs: dict[str, dg.AssetSpec]) -> None:
    found: dict[str, list[str]] = {}
    for key, spec in specs.items():
        found.setdefault(str(spec.group_name), []).append(key)
    assert {group: sorted(keys) for group, keys in found.items()} == {g: sorted(keys) for g, keys in GRAPH.items()}


def test_every_asset_tells_what_it_is_who_owns_it_and_what_it_is_made_with(specs: dict[str, dg.AssetSpec]) -> None:
    for key, spec in specs.items():
        assert spec.description, key
        assert spec.owners, key
        assert spec.kinds, key
        assert spec.code_version or key in OUTSIDE, key


def test_every_asset_links_the_lines_that_make_it(specs: dict[str, dg.AssetSpec]) -> None:
    for key, spec in specs.items():
        (place,) = spec.metadata["dagster/code_references"].code_references
        body = Path(place.file_path).read_text(encoding="utf-8").splitlines()[place.line_number - 1 :]
        assert any(line.strip().startswith("def ") for line in body[:40]), key
        assert "defs" in place.file_path, key
        assert "failures.py" not in place.file_path, key


@pytest.mark.parametrize("profile", ["embedded", "paper"])
def test_kinds_tell_nodes_of_one_name_apart(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_PROFILE", profile)
    shown: dict[tuple[str, ...], str] = {}
    for spec in build_defs({"home": tmp_path}).resolve_all_asset_specs():
        node = (spec.key.path[-1], *sorted(spec.kinds))
        assert node not in shown, (spec.key, shown.get(node))
        shown[node] = spec.key.to_user_string()


def test_every_setting_of_a_run_is_described(tmp_path: Path) -> None:
    defs = build_defs({"home": tmp_path})
    for key in ("champion_model", "scored_feedback", "llama3_lora_model", "base_models/llama_mini"):
        fields = defs.resolve_assets_def(dg.AssetKey(key.split("/"))).op.config_schema.config_type.fields  # type: ignore[union-attr]
        assert fields
        assert [name for name, field in fields.items() if not field.description] == [], key


def test_training_never_starts_by_itself_and_analysis_follows_its_inputs(specs: dict[str, dg.AssetSpec]) -> None:
    followers = {key for key, spec in specs.items() if spec.automation_condition is not None}
    assert followers.isdisjoint({"raw_emotion_dataset", *GRAPH["models"]})
    expected = {"class_balance_report", "evaluation_table", "champion_model"}
    assert expected | {k for k in specs if k.startswith(("tokenised_splits/", "predictions/"))} <= followers


def test_the_llama_depends_on_its_base_and_tokens_alone(specs: dict[str, dg.AssetSpec]) -> None:
    deps = {dep.asset_key.to_user_string() for dep in specs["llama3_lora_model"].deps}
    assert deps == {"base_models/llama_mini", "tokenised_splits/llama"}


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    code = (
        "import emotion_assets.definitions, sys;"
        "heavy = ('torch', 'transformers', 'peft', 'datasets', 'sklearn', 'matplotlib', 'pandas', 'duckdb');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("profile", ["embedded", "pretrained", "laptop", "paper"])
def test_dagster_definitions_validate_passes_without_a_deprecation_warning(profile: str, tmp_path: Path) -> None:
    done = run(
        "-W", "error::DeprecationWarning:emotion_assets", "-m", "dagster", "definitions", "validate",
        EMOTION_PROFILE=profile, **homes(tmp_path),
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Validation successful" in said
    assert "Deprecat" not in said
    assert "BetaWarning" not in said


def test_a_broken_profile_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("description: x\nlabels: [a, b]\ndatset: {}\nmodels: {tfidf_svm: {method: tfidf_svm}}\n")
    done = run("-m", "dagster", "definitions", "validate", EMOTION_PROFILE=str(profile), **homes(tmp_path))
    assert done.returncode != 0
    assert f"{profile}: key 'datset' does not exist; did you mean 'dataset'?" in done.stdout + done.stderr


def test_changing_one_model_changes_the_code_version_of_that_model_alone(tmp_path: Path) -> None:
    def versions(**changes: object) -> dict[str, str | None]:
        defs = build_defs({"home": tmp_path, **changes})
        return {spec.key.to_user_string(): spec.code_version for spec in defs.resolve_all_asset_specs()}

    before = versions()
    after = versions(models={"llama3_lora_model": {"lora": {"rank": 16}}})
    assert {key for key in before if before[key] != after[key]} == {"llama3_lora_model"}
