"""A profile is checked whole when it is loaded, and what is wrong with it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_assets.profiles.reader import PROFILES_DIR, load_settings
from emotion_assets.settings.errors import SettingsError

EMBEDDED = (PROFILES_DIR / "embedded.yaml").read_text(encoding="utf-8")


def problem_of(tmp_path: Path, text: str) -> str:
    profile = tmp_path / "mine.yaml"
    profile.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(str(profile), environ={})
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(profile))
    return message.removeprefix(str(profile))


@pytest.mark.parametrize("name", ["embedded", "laptop", "paper"])
def test_each_profile_of_the_project_loads(name: str) -> None:
    settings = load_settings(name, environ={})
    assert settings.labels == ("joy", "sadness", "anger", "fear", "love", "surprise")
    assert "llama3_lora_model" in settings.models


def test_the_paper_profile_holds_the_published_recipe_as_plain_values() -> None:
    settings = load_settings("paper", environ={})
    llama = settings.models["llama3_lora_model"]
    training = llama.training
    assert (training.optimizer, training.learning_rate, training.scheduler) == ("adam", 5e-5, "cosine")
    assert (training.batch_size, training.gradient_accumulation, training.epochs) == (5, 4, 3)
    assert (training.precision, llama.attention) == ("fp16", "varlen")
    assert (llama.lora.rank, llama.lora.alpha, llama.lora.target_modules) == (8, 16, "all-linear")
    assert settings.tokenizers["llama"].max_length == 512
    assert settings.instruction == "Do emotion classification for data in the following text."
    published = {name: model.paper_accuracy for name, model in settings.models.items() if model.paper_accuracy}
    assert published == {
        "llama3_lora_model": 0.9262,
        "bert_base": 0.9063,
        "bert_large": 0.9086,
        "roberta_base": 0.9125,
        "roberta_large": 0.9189,
    }


def test_a_misspelt_key_is_named_with_the_key_that_was_meant(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED.replace("embedding_dropout: 0.2", "embeding_dropout: 0.2"))
    assert (
        message == ": key 'models.llama3_lora_model.embeding_dropout' does not exist; did you mean 'embedding_dropout'?"
    )


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED + "\nparallel_steps: 1\n")
    assert "'parallel_steps' is given twice" in message
    assert " line " in message


def test_a_value_out_of_range_is_named_with_the_value(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED.replace("rank: 4", "rank: 0"))
    assert message == ": models.llama3_lora_model.lora.rank: input should be greater than or equal to 1 (given: 0)"


def test_a_model_on_an_unknown_base_is_told_the_known_ones(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED.replace("base: llama_mini", "base: lama_mini"))
    assert "models.llama3_lora_model.base: 'lama_mini' is not under bases; known: llama_mini, " in message


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("pooling is of a head", "    embedding_dropout: 0.2\n", "    objective: instruction\n"),
        ("consistency is of a head", "    pooling: max\n", "    objective: instruction\n"),
        ("consistency compares two passes", "    embedding_dropout: 0.2\n", ""),
        ("lora is for method lora", "method: lora", "method: full"),
        ("must be even", "hidden_size: 32, layers: 2, heads: 2", "hidden_size: 34, layers: 2, heads: 2"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path: Path, key: str, before: str, after: str) -> None:
    assert before in EMBEDDED
    assert key in problem_of(tmp_path, EMBEDDED.replace(before, after, 1))


def test_no_labels_at_all_are_refused(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED.replace("[joy, sadness, anger, fear, love, surprise]", "[]"))
    assert message.startswith(": labels: ")


def test_a_repeated_label_is_refused(tmp_path: Path) -> None:
    message = problem_of(tmp_path, EMBEDDED.replace("[joy, sadness, anger,", "[joy, joy, anger,"))
    assert message == ": labels: 'joy' is named twice; name each label once"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            "[0, 1]",
            'labels.0: a number to YAML, not text; put it in quotes, as in ["0", "1"] (given: 0)',
        ),
        (
            '["yes", no]',
            'labels.1: true or false to YAML, not text; put it in quotes, as in ["0", "1"] (given: False)',
        ),
    ],
)
def test_a_label_that_yaml_takes_for_something_else_is_to_be_quoted(tmp_path: Path, labels: str, said: str) -> None:
    assert problem_of(tmp_path, EMBEDDED.replace("[joy, sadness, anger, fear, love, surprise]", labels)) == f": {said}"


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("label_names: [joy, ' ']", "dataset.label_names: a name is empty or has blanks around it; give each number a"),
        ("label_names: [joy, joy]", "dataset.label_names: 'joy' is there twice; give each number a name of its own"),
        ("label_names: [0, 1]", "dataset.label_names.0: a number to YAML, not text; put it in quotes"),
        ("columns: {txt: tweet}", "key 'dataset.columns.txt' does not exist; did you mean 'text'?"),
    ],
)
def test_what_names_columns_and_labels_is_checked(tmp_path: Path, dataset: str, said: str) -> None:
    assert EMBEDDED.count("source: sample") == 1
    assert said in problem_of(tmp_path, EMBEDDED.replace("source: sample", f"source: sample\n  {dataset}"))


def test_a_hub_source_needs_a_pinned_revision(tmp_path: Path) -> None:
    text = (PROFILES_DIR / "laptop.yaml").read_text(encoding="utf-8")
    message = problem_of(tmp_path, text.replace("93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "main"))
    assert "tokenizers.llama.source.revision" in message


def test_a_checkpoint_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = problem_of(
        tmp_path,
        "description: x\ndataset: {source: sample}\nlabels: [joy, anger]\n"
        "tokenizers: {bert: {source: {folder: nowhere}}}\nmodels: {tfidf_svm: {method: tfidf_svm}}\n",
    )
    assert message == (
        f": tokenizers.bert.source.folder: {tmp_path / 'nowhere'} is not a folder; "
        "give the path of a checkpoint folder or GGUF file"
    )


def test_a_profile_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    profile = tmp_path / "latin.yaml"
    profile.write_bytes(b"description: caf\xe9\n")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 16; save the file as UTF-8"):
        load_settings(str(profile), environ={})


def test_an_unknown_profile_is_told_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="EMOTION_PROFILE=laptp: no such profile; use embedded, laptop, paper"):
        load_settings(environ={"EMOTION_PROFILE": "laptp"})


def test_the_environment_overrides_dataset_and_home(tmp_path: Path) -> None:
    settings = load_settings("paper", environ={"EMOTION_DATASET": "sample", "EMOTION_HOME": str(tmp_path)})
    assert settings.dataset.source == "sample"
    assert settings.dataset.revision is None
    assert settings.database == tmp_path / "emotion.duckdb"


def test_overrides_are_merged_into_the_profile_key_by_key() -> None:
    settings = load_settings("embedded", environ={}, overrides={"models": {"bigru": {"hidden_size": 16}}})
    assert settings.models["bigru"].hidden_size == 16
    assert set(settings.models) == set(load_settings("embedded", environ={}).models)


def test_the_address_of_the_pages_is_set_by_the_environment(tmp_path: Path) -> None:
    def url(**environ: str) -> str:
        return load_settings("embedded", environ={"EMOTION_HOME": str(tmp_path), **environ}).reports_url

    assert url() == "http://127.0.0.1:3001"
    assert url(EMOTION_REPORTS_URL="https://dagster.example.org/reports/") == "https://dagster.example.org/reports"
    with pytest.raises(SettingsError, match="reports_url"):
        url(EMOTION_REPORTS_URL="dagster.example.org")
