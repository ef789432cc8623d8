"""What every scorer keeps to: distinct texts once, the caller's order, the same answers in whatever company."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_assets.models.bigru import BiGruClassifier
from emotion_assets.models.kind import Scorer
from emotion_assets.models.kinds.bigru import BiGruNetwork
from emotion_assets.models.networks import TOKENS, batch_by_tokens, score_in_batches, score_side_by_side
from emotion_assets.storage.store import StoredFolder
from emotion_assets.training.runtime import choose_runtime, cpu_has_bf16
from emotion_assets_tests.worlds.tiny import base_folder, classifier_of, rows_of


class ByLength(Scorer):
    """Remembers what it was asked; a text's probability is its length over ten."""

    def __init__(self) -> None:
        self.labels, self.encoded, self.predicted = ["a", "b"], [], 0

    def encode(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        self.encoded += texts
        return list(texts), np.array([len(text) > 5 for text in texts])

    def predict(self, rows: Any) -> np.ndarray:
        self.predicted += len(rows)
        p = np.array([len(text) / 10 for text in rows], dtype=np.float32)
        return np.stack([p, 1 - p], axis=1)


def test_identical_texts_are_encoded_and_predicted_once_and_answers_keep_the_callers_order() -> None:
    scorer = ByLength()
    texts = ["long text", "a", "bb", "a", "long text", "ccc", "a"]
    scores = scorer.answer(scorer.prepare(texts))
    assert sorted(scorer.encoded) == ["a", "bb", "ccc", "long text"]
    assert scorer.predicted == 4
    assert scores.probabilities[:, 0].tolist() == pytest.approx([len(text) / 10 for text in texts])
    assert scores.truncated.tolist() == [len(text) > 5 for text in texts]


def test_no_texts_give_no_rows() -> None:
    scores = ByLength().answer(ByLength().prepare([]))
    assert (scores.probabilities.shape, scores.truncated.shape) == ((0, 2), (0,))


def test_batches_hold_every_row_once_by_length_and_keep_to_the_tokens() -> None:
    lengths = [*np.random.default_rng(3).integers(1, 60, 500).tolist(), 300]
    batches = batch_by_tokens(lengths, 128)
    assert sorted(i for batch in batches for i in batch) == list(range(501))
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest)
    assert all(len(batch) * top <= 128 for batch, top in zip(batches[:-1], longest, strict=False))
    assert batches[-1] == [500]  # longer than all tokens together: alone
    assert len(batches) < 1.5 * sum(lengths) / 128 + 2


@pytest.mark.parametrize("model_type", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("tokens", [40, 100_000])
def test_probabilities_do_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, tokens: int
) -> None:
    pooling = "last" if model_type == "llama" else "mean"
    model = classifier_of(base_folder(tmp_path / "base", model_type), pooling=pooling).eval()
    rows = rows_of(60)
    runtime = choose_runtime("fp32")
    with torch.inference_mode():
        alone = torch.cat([model.log_probabilities([row], runtime.device) for row in rows]).exp().numpy()
    monkeypatch.setitem(TOKENS, "cpu", tokens)
    together = score_in_batches(model, rows, runtime, 3)
    assert np.abs(together - alone).max() < 1e-5
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = score_in_batches(model, [rows[i] for i in order], runtime, 3)
    assert np.abs(shuffled - alone[order]).max() < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_cores_with_batches_of_their_own_score_as_one_after_the_other(threads: int) -> None:
    torch.manual_seed(3)
    model = BiGruClassifier(50, BiGruNetwork(method="bigru", embedding_size=16, hidden_size=16), 4).eval()
    drawn = np.random.default_rng(3)
    rows = [drawn.integers(2, 50, length).tolist() for length in drawn.integers(1, 90, 700)]
    runtime, before = choose_runtime("fp32"), torch.get_num_threads()
    expected = score_in_batches(model, rows, runtime, 4)
    torch.set_num_threads(threads)
    try:
        assert np.abs(score_side_by_side(model, rows, runtime, 4) - expected).max() < 1e-6
        assert score_side_by_side(model, [], runtime, 4).shape == (0, 4)
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == threads, "threads that begin later"
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16 matrices")
@pytest.mark.parametrize("model_type", ["llama", "bert", "roberta"])
def test_in_bf16_too_probabilities_do_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    pooling = "last" if model_type == "llama" else "mean"
    model = classifier_of(base_folder(tmp_path / "base", model_type), pooling=pooling, method="full").eval()
    model.backbone.to(torch.bfloat16)
    runtime, long = choose_runtime("fp32"), [token for row in rows_of(60) for token in row]
    rows = [row * 4 for row in rows_of(60)] + [long[:n] for n in (1, 1, 2, 3, 3, 5, 7, 33, 60)]
    results = []
    for tokens in (100, 700, 4096):
        monkeypatch.setitem(TOKENS, "cpu", tokens)
        results.append(score_in_batches(model, rows, runtime, 3, steady=True))
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = np.empty_like(results[0])
    for part in np.array_split(order, 9):
        shuffled[part] = score_in_batches(model, [rows[i] for i in part], runtime, 3, steady=True)
    for other in (*results[1:], shuffled):
        assert np.abs(other - results[0]).max() < 1e-5
    monkeypatch.setitem(TOKENS, "cpu", 100_000)
    in_fp32 = score_in_batches(model.float(), rows, runtime, 3)
    assert np.abs(in_fp32 - results[0]).max() > 1e-5  # and it was computed in bf16


def test_a_bigru_marks_what_it_reads_in_part(tmp_path: Path) -> None:
    from emotion_assets.models.bigru import BiGruClassifier, BiGruScorer, Vocabulary, save_bigru
    from emotion_assets.models.kinds.bigru import BiGru

    settings = BiGru(method="bigru", max_length=8, hidden_size=8, embedding_size=8)
    vocabulary = Vocabulary(["so", "glad", "today"])
    save_bigru("bigru", BiGruClassifier(len(vocabulary), settings, 2), vocabulary, settings, ["a", "b"], tmp_path)
    scorer = BiGruScorer(StoredFolder(tmp_path, "d"))
    rows, truncated = scorer.encode(["so glad", "so glad " * 4, "so glad " * 4 + "today", "zxq wvu", " "])
    assert truncated.tolist() == [False, False, True, False, False]
    assert rows[1] == rows[2]
    assert rows[3:] == [[1, 1], [1]]
    assert scorer.score(["zxq wvu"]).sum() == pytest.approx(1, abs=1e-6)
