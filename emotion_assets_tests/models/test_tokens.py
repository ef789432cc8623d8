"""Token ids are made once, upstream; truncation and lengths are told; prompts keep their form when a text is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from emotion_assets.models.transformer.tokens import (
    TOKENIZER_FOLDER,
    encode,
    encode_answers,
    encode_marking,
    encode_prompts,
    encode_prompts_marking,
    load_tokenizer,
    make_tokenizer,
    read_tokens,
    write_tokens,
)
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import TokenizerSettings
from emotion_assets.storage.store import Store

TEXTS = [
    "the parcel came late and I am furious",
    "what a lovely parcel, thank you",
    "the late parcel made me furious",
    "thank you",
]


def settings(algorithm: str, max_length: int = 16) -> TokenizerSettings:
    source = {"algorithm": algorithm, "vocab_size": 300, "min_frequency": 1}
    return TokenizerSettings.model_validate({"source": source, "max_length": max_length})


@pytest.mark.parametrize("algorithm", ["word", "wordpiece", "byte_bpe"])
def test_a_learned_tokenizer_survives_saving_and_gives_the_same_ids(tmp_path: Path, algorithm: str) -> None:
    tokenizer = make_tokenizer(settings(algorithm), TEXTS, "t")
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    unseen = [*TEXTS, "völlig neue Wörter 🎉"]
    assert encode(again, unseen, 16) == encode(tokenizer, unseen, 16)
    assert again.pad_token_id != again.eos_token_id
    assert all(encode(tokenizer, unseen, 16))


def test_splits_are_written_with_labels_lengths_and_truncation(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(settings("word", 8), TEXTS, "t")
    frame = pd.DataFrame({"text": [*TEXTS, "late " * 20], "label": ["anger", "joy", "anger", "joy", "anger"]})
    splits = {"train": frame, "validation": frame[:2], "test": frame[2:]}
    with Store(tmp_path).writing("tokens") as draft:
        statistics = write_tokens(draft.path, tokenizer, splits, ["joy", "anger"], 8, None)
        folder = draft.finish({})
    rows, labels = read_tokens(folder, "train")
    assert labels.tolist() == [1, 0, 1, 0, 1]
    assert rows == encode(tokenizer, frame["text"].tolist(), 8)
    assert max(map(len, rows)) == 8
    # "the parcel came late and I am furious" is 8 words and "late" 20 times is 20, each with a beginning token
    assert statistics["train"]["length_max"] == 21
    assert statistics["train"]["truncated"] == 2
    assert statistics["train"]["unknown_share"] == 0.0
    assert (folder.path / TOKENIZER_FOLDER / "tokenizer.json").is_file()


def test_a_long_text_is_cut_and_the_prompt_round_it_is_not() -> None:
    tokenizer = make_tokenizer(settings("byte_bpe", 64), [*TEXTS, "Classify this."], "t")
    short, long = encode_prompts(tokenizer, "Classify this.", ["thank you", "thank you " * 100], 64)
    assert len(long) <= 64
    assert short[:4] == long[:4]
    assert short[-1] == long[-1]
    assert tokenizer.decode(long).count("thank you") > 5


def test_a_text_cut_in_its_prompt_counts_as_truncated() -> None:
    tokenizer = make_tokenizer(settings("word", 64), [*TEXTS, "Classify this."], "t")
    texts = ["late " * n for n in (40, 45, 50, 55, 60, 65)]
    prompts, truncated = encode_prompts_marking(tokenizer, "Classify this.", texts, 64)
    whole = encode_prompts(tokenizer, "Classify this.", texts, 1000)
    cut = [one != other for one, other in zip(prompts, whole, strict=True)]
    assert truncated.tolist() == cut
    assert len(set(cut)) == 2
    rows, truncated = encode_marking(tokenizer, texts, 64)
    assert truncated.tolist() == [n + 1 > 64 for n in (40, 45, 50, 55, 60, 65)]
    assert [len(row) for row in rows] == [min(n + 1, 64) for n in (40, 45, 50, 55, 60, 65)]


@pytest.mark.parametrize("algorithm", ["word", "wordpiece", "byte_bpe"])
def test_the_ids_and_the_mark_are_those_of_the_tokenizer_itself(algorithm: str) -> None:
    tokenizer = make_tokenizer(settings(algorithm), TEXTS, "t")
    texts = ["", "  ", *TEXTS, "zxq wvu", "the late parcel " * 40, "\u0000 🎉"]
    rows, truncated = encode_marking(tokenizer, texts, 16)
    whole = tokenizer(texts)["input_ids"]
    assert rows == tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert truncated.tolist() == [len(row) > 16 for row in whole]
    assert tokenizer(texts)["input_ids"] == whole


def test_every_text_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(settings("word", 64), [*TEXTS, "Classify this."], "t")
    asked: list[str] = []

    class Counting:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            asked.extend(texts)
            return self._inner.encode_batch_fast(texts, **options)

        encode_batch = encode_batch_fast

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(tokenizer, "_tokenizer", Counting(tokenizer._tokenizer))
    encode_marking(tokenizer, TEXTS, 16)
    assert asked == TEXTS
    asked.clear()
    encode_prompts_marking(tokenizer, "Classify this.", TEXTS, 64)
    assert [text for text in asked if any(one in text for one in TEXTS)] == [
        f"<s>Classify this.\n{text}\n" for text in TEXTS
    ]


def test_a_maximum_too_short_for_the_instruction_is_refused() -> None:
    tokenizer = make_tokenizer(settings("word", 8), TEXTS, "t")
    with pytest.raises(DataError, match="max_length 8 leaves no room for the text after the instruction; raise it"):
        encode_prompts(tokenizer, "please classify the emotion of this message", ["thank you"], 8)


def test_answers_end_with_the_end_of_turn_token() -> None:
    tokenizer = make_tokenizer(settings("word"), [*TEXTS, "joy anger"], "t")
    answers = encode_answers(tokenizer, ["joy", "anger"])
    assert answers[0] != answers[1]
    assert {answer[-1] for answer in answers} == {tokenizer.eos_token_id}


def test_a_folder_without_a_fast_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json; give a checkpoint folder with a fast tokenizer"):
        load_tokenizer(tmp_path)
