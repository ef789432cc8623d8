"""Distillation: the loss against its formula, what the student reads, and what is kept of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from transformers import AutoTokenizer

from emotion_assets.cli.forget import forget, make_person
from emotion_assets.dataset.splits import read_split
from emotion_assets.jobs.process import FEEDBACK, TrainingJob, feedback_input, run_job, stored_input
from emotion_assets.models import distillation
from emotion_assets.models.bigru import UNKNOWN, KnownWords, Vocabulary, fit_bigru, hide_words, load_bigru, words
from emotion_assets.models.distillation import NO_LABEL, distillation_loss
from emotion_assets.models.kind import Scorer, TrainingRun
from emotion_assets.models.kinds.distilled import Distilled
from emotion_assets.models.registry import load_scorer
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.errors import DataError, SettingsError
from emotion_assets.settings.schema import Training
from emotion_assets.storage.keys import RAW_DATASET, model_key
from emotion_assets.storage.store import StoredFolder
from emotion_assets.storage.warehouse.unlabelled import draw_texts
from emotion_assets.storage.workspace import Workspace
from emotion_assets.training.resume import ResumeState
from emotion_assets.training.runtime import choose_runtime
from emotion_assets_tests.worlds import feedback as world
from emotion_assets_tests.worlds.tiny import LABELS, trained

WORD_TABLES = ("embed_tokens.weight", "word_embeddings.weight")
SMALL = Training(epochs=6, batch_size=32, learning_rate=1e-2)
STUDENT = Distilled(
    method="distilled", teacher="tfidf_svm", recombined_texts=0, hidden_size=32, embedding_size=32, training=SMALL
)


def reference_loss(
    logits: np.ndarray, teacher: np.ndarray, targets: list[int], temperature: float, weight: float
) -> float:
    """Row by row in float64, as Hinton et al. 2015 have it: section 2, the two objectives and T^2."""

    def softmax(z: np.ndarray) -> np.ndarray:
        raised = np.exp(z - z.max())
        return np.asarray(raised / raised.sum())

    total = 0.0
    for row, target in enumerate(targets):
        q = softmax(np.log(teacher[row]) / temperature)
        p = softmax(logits[row] / temperature)
        soft = temperature**2 * float((q * np.log(q / p)).sum())
        if target == NO_LABEL:
            total += soft
        else:
            total += weight * soft - (1 - weight) * float(np.log(softmax(logits[row])[target]))
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_loss_is_the_papers(temperature: float, weight: float) -> None:
    draw = np.random.default_rng(3)
    logits, teacher = draw.normal(size=(5, 6)) * 3, draw.dirichlet(np.ones(6), 5)
    targets = [2, NO_LABEL, 0, 5, NO_LABEL]
    scores = torch.log_softmax(torch.from_numpy(logits), -1)
    loss = distillation_loss(scores, torch.from_numpy(teacher), torch.tensor(targets), temperature, weight)
    assert float(loss) == pytest.approx(reference_loss(logits, teacher, targets, temperature, weight), rel=1e-12)


def test_its_gradient_is_that_of_cross_entropy_with_soft_targets() -> None:
    draw = torch.Generator().manual_seed(5)
    teacher = torch.softmax(torch.randn(8, 6, generator=draw, dtype=torch.float64), -1)
    gradients = []
    for loss_of in (
        lambda z: distillation_loss(torch.log_softmax(z, -1), teacher, torch.full((8,), NO_LABEL), 1.0, 0.5),
        lambda z: torch.nn.functional.cross_entropy(z, teacher, reduction="sum"),
    ):
        logits = torch.arange(48, dtype=torch.float64).reshape(8, 6).sin().requires_grad_()
        loss_of(logits).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


def test_a_teacher_that_is_certain_gives_a_finite_loss() -> None:
    certain = torch.eye(6)[:3]
    scores = torch.log_softmax(torch.zeros(3, 6), -1).requires_grad_()
    loss = distillation_loss(scores, certain, torch.tensor([0, NO_LABEL, 2]), 2.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts the teacher was asked for, each time."""
    counts: list[int] = []
    ask = distillation.ask_teacher

    def counted(name: str, run: TrainingRun, texts: list[str]) -> np.ndarray:
        counts.append(len(texts))
        return ask(name, run, texts)

    monkeypatch.setattr(distillation, "ask_teacher", counted)
    return counts


def drop_texts(workspace: Workspace, name: str, texts: list[str]) -> None:
    rows = [{"id": f"{name}-{i}", "text": text, "email": f"{i}@example.org"} for i, text in enumerate(texts)]
    world.drop_csv(workspace, f"{name}.csv", rows)
    world.ingest(workspace.settings.inbox, workspace.warehouse, workspace.settings.feedback, "run")


def make_job(workspace: Workspace, folder: Path, student: Distilled = STUDENT) -> TrainingJob:
    store = workspace.store
    inputs: dict[str, dict[str, Any]] = {
        "dataset": stored_input(store.current(RAW_DATASET)),
        "teacher": stored_input(store.current(model_key("tfidf_svm"))),
        FEEDBACK: feedback_input(workspace.warehouse, student.feedback_texts),
    }
    labels, settings = list(workspace.settings.labels), student.model_dump(mode="json")
    return TrainingJob("distilled", "student", settings, labels, 17, inputs, "", str(folder))


def train(workspace: Workspace, folder: Path, student: Distilled = STUDENT) -> StoredFolder:
    with workspace.store.writing("models") as draft:
        job = dataclasses.replace(make_job(workspace, folder, student), target=str(draft.path))
        return draft.finish(run_job(job, lambda line: None))


def test_texts_without_labels_bring_the_student_nearer_to_its_teacher(tmp_path: Path) -> None:
    """The teacher knows the corpus, the student's training rows are few: the rest it can only have from the teacher, on
    texts of the feedback or on new ones that are made of the training rows."""
    workspace = world.make_workspace(tmp_path / "home", 1200)
    teacher = workspace.store.current(model_key("tfidf_svm"))
    known = read_split(workspace.store.current(RAW_DATASET), "train")["text"].tolist()[300:]
    few = world.make_workspace(tmp_path / "few", 300)
    with few.store.writing("models") as draft:
        for file in teacher.path.iterdir():
            draft.file(file.name).write_bytes(file.read_bytes()) if file.name != "manifest.json" else None
        few.store.point(model_key("tfidf_svm"), "models", draft.finish(teacher.info))
    drop_texts(few, "unlabelled", known)
    asked = load_scorer(teacher, workspace.store)
    test = world.sample_texts()
    agreement = []
    for texts, made in ((0, 0), (5000, 0), (0, 1000)):
        update = {"feedback_texts": texts, "recombined_texts": made}
        folder = train(few, tmp_path / f"state{texts}-{made}", STUDENT.model_copy(update=update))
        assert bool(folder.info["feedback_texts"]) == bool(texts)
        assert folder.info["recombined_texts"] == made
        student = load_scorer(folder, few.store)
        assert student.labels == asked.labels
        agreement.append((student.score(test).argmax(1) == asked.score(test).argmax(1)).mean())
    alone, with_feedback, with_new = agreement
    assert with_feedback > alone + 0.05
    assert with_new > alone + 0.03


def test_nothing_of_the_feedback_is_in_the_store(workspace: Workspace, tmp_path: Path) -> None:
    drop_texts(workspace, "letters", [f"zanzibarish quagmirely dear number {i}" for i in range(40)])
    folder = train(workspace, tmp_path / "state")
    assert folder.info["feedback_texts"] == 40
    assert folder.info["teacher"] == f"tfidf_svm {workspace.store.current(model_key('tfidf_svm')).version}"
    for file in (*workspace.store.root.rglob("*"), *(tmp_path / "state").rglob("*")):
        if file.is_file():
            assert b"zanzibarish" not in file.read_bytes(), file
            assert b"quagmirely" not in file.read_bytes(), file


def test_the_recipe_follows_teacher_and_texts_alone(workspace: Workspace, tmp_path: Path) -> None:
    def recipe() -> str:
        return make_job(workspace, tmp_path).recipe

    before = recipe()
    drop_texts(workspace, "first", ["a new text", "another new text"])
    with_texts = recipe()
    assert with_texts != before
    drop_texts(workspace, "again", ["a new text"])  # another row, the same text
    assert recipe() == with_texts
    world.train_champion(workspace, c=0.2)
    assert recipe() != with_texts


def test_feedback_that_changed_since_the_start_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    job = make_job(workspace, tmp_path)
    drop_texts(workspace, "late", ["a text that came in between"])
    with pytest.raises(DataError, match="student: the feedback has changed since this training was started"):
        run_job(dataclasses.replace(job, target=str(tmp_path)), print)


def test_the_texts_drawn_are_distinct_and_change_as_little_as_can_be(workspace: Workspace) -> None:
    assert draw_texts(workspace.warehouse, 10) == []
    assert not workspace.settings.database.exists()
    drop_texts(workspace, "many", [f"text {i // 2}" for i in range(200)])
    drawn = draw_texts(workspace.warehouse, 30)
    assert len(set(drawn)) == len(drawn) == 30
    assert len(draw_texts(workspace.warehouse, 1000)) == 100
    drop_texts(workspace, "one", ["one more text"])
    assert len(set(draw_texts(workspace.warehouse, 30)) - set(drawn)) <= 1


def test_a_person_is_forgotten_by_the_next_student_and_the_present_one_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    drop_texts(workspace, "letters", [f"the quite particular letter {i}" for i in range(5)])
    student = train(workspace, tmp_path / "state")
    recipe = make_job(workspace, tmp_path).recipe
    said = "\n".join(forget(workspace, make_person(None, None, "email=3@example.org")))
    assert f"{student.path}: holds no text, but learned from 5 texts" in said
    assert str(workspace.store.current(model_key("tfidf_svm")).path) not in said
    assert make_job(workspace, tmp_path).recipe != recipe
    assert train(workspace, tmp_path / "again").info["feedback_texts"] == 4


def test_texts_that_a_split_has_are_left_out_however_they_are_written(workspace: Workspace, tmp_path: Path) -> None:
    dataset = workspace.store.current(RAW_DATASET)
    seen = [read_split(dataset, split)["text"].iloc[0] for split in ("train", "validation", "test")]
    run = TrainingRun("student", workspace.settings.labels, 17, {"dataset": dataset}, tmp_path, print)
    texts = [*seen, *(f"  {text.upper()}!! " for text in seen), "something else"]
    assert distillation.unknown_texts(run, texts, [], ["one more"]) == [["something else"], [], ["one more"]]


def test_a_student_knows_words_seen_once_and_learns_the_unknown_word_from_hidden_ones(
    workspace: Workspace, tmp_path: Path
) -> None:
    texts = read_split(workspace.store.current(RAW_DATASET), "train")["text"]
    seen = Counter(word for text in texts for word in words(text))
    once = {word for word, count in seen.items() if count == 1}
    assert once
    for share, expected in ((0.01, set(seen)), (0.0, set(seen) - once)):
        student = STUDENT.model_copy(update={"hidden_words": share})
        known = train(workspace, tmp_path / f"{share}", student).read_json("vocabulary.json")
        assert set(known) == expected


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_students_words_begin_at_the_principal_components_of_its_teachers(tmp_path: Path, model_type: str) -> None:
    _, base, teacher = trained(tmp_path, model_type)
    run = TrainingRun("student", LABELS, 17, {"teacher": teacher}, tmp_path, print)
    known = ["walk", "river", "stone", "cloud", "amber", "lantern", "quiet", "storm", "garden", "meadow", "riverstone"]
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    (table,) = (
        tensor for name, tensor in load_file(base.file("model.safetensors")).items() if name.endswith(WORD_TABLES)
    )
    means = [table[tokenizer(f" {word}", add_special_tokens=False)["input_ids"]].mean(0).numpy() for word in known]
    expected = PCA(4).fit_transform(np.array(means))
    found = distillation.first_vectors("teacher", run, known, 4).numpy()
    assert found.std(ddof=1) == pytest.approx(1)
    assert np.abs(found) == pytest.approx(np.abs(expected / expected.std(ddof=1)), abs=1e-3)  # a sign is arbitrary
    assert distillation.first_vectors("teacher", run, known * 9, 64).shape == (0, 64)  # wider than the teacher's
    assert distillation.first_vectors("teacher", run, known, 16).shape == (0, 16)  # more than there are words
    assert distillation.first_vectors("teacher", run, [], 4).shape == (0, 4)


def test_a_network_begins_with_the_vectors_it_is_given(workspace: Workspace, tmp_path: Path) -> None:
    dataset = workspace.store.current(RAW_DATASET)
    texts = read_split(dataset, "train")["text"].tolist()[:64]
    vocabulary = Vocabulary.learn(texts, 1000)
    vectors = torch.randn(len(vocabulary.words), 32)
    still = Training(epochs=1, batch_size=64, learning_rate=1e-9)
    run = TrainingRun("student", workspace.settings.labels, 17, {"dataset": dataset}, tmp_path, print)
    fit_bigru(
        "distilled",
        STUDENT.model_copy(update={"training": still}),
        run,
        texts,
        KnownWords(vocabulary, vectors),
        lambda scores, chosen: (-scores.sum(), len(chosen)),
        choose_runtime("fp32"),
    )
    assert torch.allclose(load_bigru(tmp_path)[0].embedding.weight[UNKNOWN + 1 :], vectors, atol=1e-6)


def test_words_are_hidden_in_the_share_asked_for_and_the_same_ones_by_the_same_seed() -> None:
    rows = [[2] * length for length in (1, 30, 4000, 6000)]
    torch.manual_seed(5)
    hidden = hide_words(rows, 0.1)
    assert [len(row) for row in hidden] == [len(row) for row in rows]
    assert set(hidden[3]) == {2, UNKNOWN}
    assert 0.08 < sum(row.count(UNKNOWN) for row in hidden) / 10_031 < 0.12
    torch.manual_seed(5)
    assert hide_words(rows, 0.1) == hidden


def test_no_text_of_another_split_is_made_for_the_student(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    dataset = workspace.store.current(RAW_DATASET)
    unseen = [read_split(dataset, split)["text"].iloc[0] for split in ("validation", "test")]
    monkeypatch.setattr(distillation, "recombine", lambda texts, count, seed: [*unseen, "a text that nobody has"])
    assert train(workspace, tmp_path / "state").info["recombined_texts"] == 1
    assert asked == [601]


def test_an_interrupted_training_does_not_ask_the_teacher_again(
    workspace: Workspace, tmp_path: Path, asked: list[int]
) -> None:
    state = tmp_path / "state"
    first = train(workspace, state)
    assert train(workspace, state).digest == first.digest
    assert asked == [600]
    (state / "teacher.safetensors").write_bytes(b"torn")
    assert train(workspace, state).digest == first.digest
    assert asked == [600, 600]
    world.train_champion(workspace, c=0.2)  # another recipe
    train(workspace, state)
    assert asked == [600, 600, 600]


def test_what_was_computed_once_is_of_one_recipe(tmp_path: Path) -> None:
    def never() -> torch.Tensor:
        raise AssertionError

    kept = ResumeState(tmp_path, "a").compute_once("answers", lambda: torch.ones(2))
    assert torch.equal(ResumeState(tmp_path, "a").compute_once("answers", never), kept)
    assert torch.equal(ResumeState(tmp_path, "b").compute_once("answers", lambda: torch.zeros(2)), torch.zeros(2))


class Stranger(Scorer):
    labels: list[str] = ["good", "bad"]  # noqa: RUF012

    def encode(self, texts: Any) -> tuple[Any, np.ndarray]:
        raise AssertionError("it is refused before it is asked")

    def predict(self, rows: Any) -> np.ndarray:
        raise AssertionError("it is refused before it is asked")


def test_a_teacher_of_other_labels_is_one_line(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_assets.models.registry.load_scorer", lambda folder, store: Stranger())
    with pytest.raises(DataError, match=r"student: its teacher tfidf_svm \w{12} knows the labels good, bad, .* again"):
        train(workspace, tmp_path / "state")


def test_progress_of_the_teacher_is_said(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "REPORT_SECONDS", 0)
    lines: list[str] = []
    job = dataclasses.replace(make_job(workspace, tmp_path / "state"), target=str(tmp_path))
    run_job(job, lines.append)
    assert any(line.startswith("student: tfidf_svm has labelled 512 of 600 texts, ") for line in lines)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"teacher": "nobody"}, r"models\.student\.teacher: 'nobody' is not under models"),
        ({"teacher": "student"}, r"models\.student\.teacher: student is distilled itself"),
        ({"teacher": "bigru", "training": {"label_smoothing": 0.1}}, "label_smoothing: the teacher's labels are soft"),
        ({"teacher": "bigru", "temperature": 0}, r"models\.student\.temperature: .*greater than 0"),
    ],
)
def test_a_student_that_cannot_be_taught_is_one_line(student: dict[str, Any], said: str) -> None:
    models = {"student": {"method": "distilled"} | student}
    with pytest.raises(SettingsError, match=said):
        load_settings("embedded", environ={}, overrides={"models": models})


def test_the_graph_has_the_student_after_its_teacher_and_the_feedback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_home: Callable[..., Workspace]
) -> None:
    from emotion_assets.defs.build import build_defs

    monkeypatch.setenv("EMOTION_PROFILE", str(world.TINY))
    specs = {spec.key.to_user_string(): spec for spec in build_defs({"home": tmp_path}).resolve_all_asset_specs()}
    read = {dep.asset_key.to_user_string() for dep in specs["baseline_models/student"].deps}
    assert read == {"raw_emotion_dataset", "baseline_models/bert_base", "feedback"}
    assert specs["baseline_models/student"].automation_condition is None
