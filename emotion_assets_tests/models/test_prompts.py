"""Prompts of a chat template: the ids of LLaMA-Factory's, a system prompt, and no date of the day."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import transformers.utils.chat_template_utils as chat_templates

from emotion_assets.models.transformer.chat_date import pin_date
from emotion_assets.models.transformer.tokens import (
    TOKENIZER_FOLDER,
    build_prompt,
    encode_answers,
    encode_prompts,
    encode_prompts_marking,
    hold_a_live_date,
    load_tokenizer,
    max_text_tokens,
    write_tokens,
)
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import Store
from emotion_assets_tests.worlds.llama3 import DATED_TEMPLATE, make_tokenizer

INSTRUCTION = "Do emotion classification for data in the following text."
SYSTEM = "You are a helpful assistant."
TEXTS = ["i didnt feel humiliated", "i am feeling grouchy, at 100 percent!", "im grabbing a minute to post 🙂"]
LABELS = ["joy", "sadness", "surprise"]


@pytest.fixture(scope="module")
def llama3() -> Any:
    return make_tokenizer([*TEXTS, *LABELS, INSTRUCTION, SYSTEM])


def header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def ids_of_0_8_1(tokenizer: Any, text: str) -> list[int]:
    """What LLaMA-Factory 0.8.1 makes of a row of the instruction format, template ``llama3``.

    From llamafactory/data/template.py (``Template._encode``, ``_convert_elements_to_ids``, the registration of
    ``llama3``) and data/aligner.py (``convert_alpaca``) of its wheel: the begin-of-text token; the system turn, whose
    default is SYSTEM, and the user turn with the assistant's header behind it, encoded one by one without special
    tokens; instruction and input joined by a line break.
    """
    parts = [
        f"{header('system')}{SYSTEM}<|eot_id|>",
        f"{header('user')}{INSTRUCTION}\n{text}<|eot_id|>{header('assistant')}",
    ]
    return [tokenizer.bos_token_id, *(i for part in parts for i in tokenizer.encode(part, add_special_tokens=False))]


def ids_of_0_9_5(tokenizer: Any, text: str) -> list[int]:
    """The same of 0.9.5: the begin-of-text token is a prefix of its own, and there is no default system prompt."""
    user = f"{header('user')}{INSTRUCTION}\n{text}<|eot_id|>{header('assistant')}"
    return [tokenizer.bos_token_id, *tokenizer.encode(user, add_special_tokens=False)]


def test_prompts_are_those_of_llamafactory(llama3: Any) -> None:
    old = encode_prompts(llama3, INSTRUCTION, TEXTS, 512, SYSTEM)
    new = encode_prompts(llama3, INSTRUCTION, TEXTS, 512)
    assert old == [ids_of_0_8_1(llama3, text) for text in TEXTS]
    assert new == [ids_of_0_9_5(llama3, text) for text in TEXTS]
    assert old != new


def test_answers_are_those_of_llamafactory(llama3: Any) -> None:
    """Both versions end an answer with ``<|eot_id|>``: 0.8.1 puts it in the place of the end-of-text token
    (``replace_eos``), 0.9.5 writes it into the assistant's turn."""
    end = llama3.convert_tokens_to_ids("<|eot_id|>")
    expected = [[*llama3.encode(label, add_special_tokens=False), end] for label in LABELS]
    assert encode_answers(llama3, LABELS) == expected
    assert expected == [llama3.encode(f"{label}<|eot_id|>", add_special_tokens=False) for label in LABELS]


def test_a_system_prompt_takes_its_room_from_the_text(llama3: Any) -> None:
    longer, shorter = (max_text_tokens(llama3, INSTRUCTION, 150, system) for system in ("", SYSTEM))
    assert shorter < longer
    text = next(
        t for t in (" joy" * n for n in range(200)) if len(llama3.encode(t, add_special_tokens=False)) > shorter
    )
    assert encode_prompts_marking(llama3, INSTRUCTION, [text], 150)[1].tolist() == [False]
    (prompt,), cut = encode_prompts_marking(llama3, INSTRUCTION, [text], 150, SYSTEM)
    assert cut.tolist() == [True]
    assert len(prompt) <= 150
    assert llama3.decode(prompt).endswith(header("assistant"))


def test_a_base_without_a_template_reads_the_system_prompt_as_a_line() -> None:
    tokenizer = make_tokenizer(TEXTS, template="")
    tokenizer.chat_template = None
    assert build_prompt(tokenizer, "Do it.", "a text", "Be kind.") == "<|begin_of_text|>Be kind.\nDo it.\na text\n"
    assert build_prompt(tokenizer, "Do it.", "a text") == "<|begin_of_text|>Do it.\na text\n"


def test_a_template_that_takes_no_system_prompt_says_so() -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    with pytest.raises(DataError, match=r"refuses the prompt \(no system role\); take system out"):
        build_prompt(make_tokenizer(TEXTS, refusing), "Do it.", "a text", "Be kind.")


class _Tomorrow(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2031, 3, 9)


def test_scoring_makes_the_prompts_of_the_training_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tokenizer(TEXTS, DATED_TEMPLATE).save_pretrained(tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    with Store(tmp_path).writing("tokens") as draft:
        write_tokens(
            draft.path, tokenizer, dict.fromkeys(("train", "validation", "test"), frame), LABELS, 256, "Do it."
        )
        folder = draft.finish({})
    trained = pd.read_parquet(folder.file("train.parquet"))["prompt_ids"].map(list).tolist()
    assert not hold_a_live_date(folder)
    monkeypatch.setattr(chat_templates, "datetime", _Tomorrow)
    chat_templates._compile_jinja_template.cache_clear()
    scored = load_tokenizer(folder.file(TOKENIZER_FOLDER))
    assert "09 Mar 2031" in make_tokenizer(TEXTS, DATED_TEMPLATE).apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False
    )  # a template that is not pinned follows the clock
    assert encode_prompts(scored, "Do it.", TEXTS, 256) == trained
    assert "Today Date: 26 Jul 2024" in scored.decode(trained[0])


def test_pinning_changes_nothing_but_the_date() -> None:
    live, pinned = make_tokenizer(TEXTS, DATED_TEMPLATE), make_tokenizer(TEXTS, pin_date(DATED_TEMPLATE))
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a text"}]
    today = datetime.now().strftime("%d %b %Y")
    one, two = (t.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) for t in (live, pinned))
    assert one.replace(f"Today Date: {today}", "Today Date: 26 Jul 2024") == two


def test_tokens_from_before_the_date_was_pinned_are_told(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(TEXTS, DATED_TEMPLATE)
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    for name, instruction in (("prompts", "Do it."), ("texts", None)):
        with Store(tmp_path).writing(name) as draft:
            splits = dict.fromkeys(("train", "validation", "test"), frame)
            write_tokens(draft.path, tokenizer, splits, LABELS, 256, instruction)
            assert hold_a_live_date(draft.finish({})) == (name == "prompts")


def test_a_date_in_a_format_that_cannot_be_seen_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"writes today's date in a format of its own making.*edit chat_template\.jinja"
    ):
        pin_date("{% set f = '%d' %}{{ strftime_now(f) }}")


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] }}", pin_date("{{ strftime_now('%Y') }}")])
def test_a_template_without_a_live_date_stays_as_it_is(template: str) -> None:
    assert pin_date(template) == template
