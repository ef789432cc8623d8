"""New texts out of training texts: where they come from, how many there are, and that they are the same each time."""

from __future__ import annotations

import subprocess
import sys

from emotion_assets.models.recombination import recombine
from emotion_assets_tests.worlds.feedback import sample_texts

TEXTS = ["i feel sad and alone today", "he was angry and loud", "we danced because the sun shone", "no joint here"]


def test_a_new_text_is_the_beginning_of_one_and_the_end_of_another_joined_at_a_word_of_both() -> None:
    texts = sample_texts()
    made = recombine(texts, 200, 3)
    assert len(made) == len(set(made)) == 200
    assert not set(made) & set(texts)
    beginnings = {tuple(words[:i]) for words in map(str.split, texts) for i in range(1, len(words))}
    ends = {tuple(words[i:]) for words in map(str.split, texts) for i in range(1, len(words))}
    through_joint = {tuple(words[: i + 1]) for words in map(str.split, texts) for i in range(1, len(words))}
    for words in map(str.split, made):
        cuts = [i for i in range(1, len(words)) if tuple(words[:i]) in beginnings and tuple(words[i:]) in ends]
        assert any(tuple(words[: cut + 1]) in through_joint for cut in cuts), words
    longest = max(len(text.split()) for text in texts)
    assert max(len(text.split()) for text in made) <= longest


def test_all_that_can_be_made_of_few_texts() -> None:
    assert set(recombine(TEXTS, 100, 0)) == {"i feel sad and loud", "he was angry and alone today"}


def test_texts_that_share_no_word_or_have_no_spaces_give_none() -> None:
    assert recombine(["one two three", "four five six"], 10, 0) == []
    assert recombine(["今日はとても嬉しい", "今日はとても悲しい"], 10, 0) == []
    assert recombine([], 10, 0) == []
    assert recombine(TEXTS, 0, 0) == []


def test_a_seed_gives_the_same_texts_in_every_process() -> None:
    code = (
        "from emotion_assets.models.recombination import recombine\n"
        "from emotion_assets_tests.worlds.feedback import sample_texts\n"
        "print('\\n'.join(recombine(sample_texts(), 50, 7)))"
    )
    made = recombine(sample_texts(), 50, 7)
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.splitlines() == made
    assert recombine(sample_texts(), 50, 8) != made
