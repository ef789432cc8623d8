"""An untuned base as a model: its answers are those of the checkpoint itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_assets.jobs.process import TrainingJob, run_job, stored_input
from emotion_assets.models.registry import load_scorer
from emotion_assets.models.transformer.tokens import load_tokenizer
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import StoredFolder
from emotion_assets_tests.worlds.tiny import LABELS, stored_case


def _job(base: StoredFolder, tokens: StoredFolder, target: Path) -> TrainingJob:
    return TrainingJob(
        kind="zero_shot",
        name="zero_shot",
        settings={"method": "zero_shot", "base": "tiny"},
        labels=LABELS,
        seed=5,
        inputs={"base": stored_input(base), "tokens": stored_input(tokens)},
        target=str(target),
        checkpoints=str(target.parent / "checkpoints"),
    )


def test_its_probabilities_are_those_of_the_label_words_after_the_prompt(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    store, base, tokens = stored_case(tmp_path)
    with store.writing("models") as draft:
        measured = run_job(_job(base, tokens, draft.path), lambda line: None)
        model = draft.finish(measured)
    scores = load_scorer(model, store).score(["walk river stone", "cloud"])

    tokenizer = load_tokenizer(base.path)
    untouched = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    words = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS]
    assert all(len(ids) == 1 for ids in words)
    for row, text in zip(scores, ("walk river stone", "cloud"), strict=True):
        prompt = tokenizer(f"{tokenizer.bos_token or ''}say the feeling\n{text}\n", add_special_tokens=False)
        with torch.no_grad():
            logits = untouched(torch.tensor([prompt["input_ids"]])).logits[0, -1]
        expected = torch.softmax(logits[torch.tensor(words).flatten()], 0)
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-4)


def test_nothing_is_trained_and_the_base_is_not_copied(tmp_path: Path) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("models") as draft:
        measured = run_job(_job(base, tokens, draft.path), lambda line: None)
        model = draft.finish(measured)
    assert (measured["trainable_parameters"], measured["train_seconds"]) == (0, 0.0)
    assert measured["total_parameters"] > 1000
    assert not list(model.path.rglob("*.safetensors"))


def test_an_encoder_is_refused_in_one_line(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path, "bert")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(
        DataError, match=r"^zero_shot: answers with a label word, which needs a causal base; this one is"
    ):
        run_job(_job(base, tokens, target), lambda line: None)
