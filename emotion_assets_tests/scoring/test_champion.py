"""The champion from Python: ``from emotion_assets import load_champion``."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from emotion_assets.evaluation import precision
from emotion_assets.models import registry
from emotion_assets.scoring.calibration import calibrate
from emotion_assets.scoring.score import load_champion
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.store import StoreError
from emotion_assets.storage.workspace import Workspace
from emotion_assets_tests.conftest import PROJECT, TINY_PROFILE, Terminal
from emotion_assets_tests.worlds import feedback as world


def test_the_documented_line_gives_labels_confidence_status_and_version(workspace: Workspace) -> None:
    terminal = Terminal(workspace.settings.home, {"EMOTION_PROFILE": str(TINY_PROFILE)})
    code = (
        "from emotion_assets import load_champion; champion = load_champion();"
        "print([(a.emotion, round(a.confidence, 6), a.status, a.model_version) for a in "
        "champion.score(['I am so happy', 'zxq wvu', 'I am so happy'])])"
    )
    done = terminal.run("emotion_assets_tests.worlds.run_code", code)
    assert done.returncode == 0, done.stderr
    happy, unknown, again = eval(done.stdout)
    assert happy == again
    assert happy[0] == "joy"
    version = workspace.store.current(["champion_model"]).version
    assert {happy[3], unknown[3]} == {version}


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, emotion_assets; print([m for m in ('numpy', 'pyarrow', 'torch', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_no_attribute() -> None:
    import emotion_assets

    with pytest.raises(AttributeError, match="load_loser"):
        emotion_assets.load_loser  # noqa: B018


def test_no_texts_give_no_answers_and_no_strings_are_one_line(workspace: Workspace) -> None:
    champion = load_champion(workspace)
    assert champion.score([]) == []
    with pytest.raises(UserError, match="one string; give a list of strings"):
        champion.score("I am so happy")
    with pytest.raises(UserError, match="number 1 is a NoneType; give a list of strings"):
        champion.score(["fine", None])


@pytest.mark.parametrize("kind", ["tfidf_svm", "bigru"])
def test_a_text_of_unknown_words_and_a_text_of_a_megabyte_have_an_answer(workspace: Workspace, kind: str) -> None:
    """Unknown words say nothing: the answer is the model's guess without evidence. A bigru reads the beginning."""
    if kind == "bigru":
        world.train_bigru_champion(workspace, max_length=20)
    champion = load_champion(workspace)
    begun = "I am so happy today, what a lovely morning it is, and all of you made it better than it was "
    unknown, long, word = champion.answers(["zxq wvu", begun + "oh no " * 170_000, "x" * 2**20]).probabilities
    for row in (unknown, long, word):
        assert row.sum() == pytest.approx(1, abs=1e-5)
    truncated = champion.answers(["zxq wvu", begun + "oh no " * 170_000, "x" * 2**20]).truncated
    assert truncated.tolist() == [False, kind == "bigru", False]
    if kind == "bigru":
        (beginning,) = champion.answers([" ".join(begun.split()[:22])]).probabilities
        assert long == pytest.approx(beginning, abs=1e-5)


def test_a_loaded_champion_whose_files_change_refuses(workspace: Workspace) -> None:
    champion = load_champion(workspace)
    champion.calibration.folder.file("vocabulary.json").touch()
    with pytest.raises(StoreError, match="changed while it was read"):
        champion.score(["I am so happy"])


def test_the_threshold_is_the_one_of_feedback(workspace: Workspace) -> None:
    calibration = calibrate(workspace.settings, workspace.store)
    for answer in load_champion(workspace).score(world.sample_texts()[:50]):
        assert (answer.status == "abstain") == (answer.confidence < calibration.threshold)


def test_the_number_format_is_looked_up_to_score_and_goes_along_to_another_process(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = iter([("bf16",)])
    monkeypatch.setattr(registry, "number_formats_of", lambda model: next(machines))
    monkeypatch.setattr(precision, "stored_precision", lambda model, *_: str(registry.number_formats_of(model)))
    calibration = calibrate(workspace.settings, workspace.store)
    assert "precision" not in vars(calibration)
    sent = pickle.loads(pickle.dumps(calibration))
    assert sent.precision == calibration.precision == "('bf16',)"
    assert sent == calibration
