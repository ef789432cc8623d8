"""Tokenizers and token ids: a family's tokens are made once, stored, and read by every model of that family.

Belongs here: learning or loading a tokenizer, encoding texts and prompts, the files that hold token ids. Does not
belong here: packing token ids into batches (``batches``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import TemplateError

from emotion_assets.dataset.files import SPLITS
from emotion_assets.models.sources import open_checkpoint
from emotion_assets.models.transformer.chat_date import has_live_date, pin_date
from emotion_assets.settings.errors import DataError
from emotion_assets.settings.schema import TokenizerSettings, TrainedTokenizer
from emotion_assets.storage.store import StoredFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FOLDER = "tokenizer"
MAX_ANSWER_TOKENS = 8  # kept free after a prompt


def make_tokenizer(settings: TokenizerSettings, texts: Sequence[str], name: str) -> PreTrainedTokenizerBase:
    """Learn a tokenizer from ``texts``, or load the one of a checkpoint.

    Raises:
        DataError: the folder holds no fast tokenizer, or the Hub repository cannot be used.
    """
    source = settings.source
    if isinstance(source, TrainedTokenizer):
        return _learn_tokenizer(source, texts, settings.max_length)
    with open_checkpoint(source, f"tokenizers.{name}", weights=False) as (folder, _):
        return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer in a folder, with a padding token where the checkpoint has none (Llama).

    Raises:
        DataError: there is no ``tokenizer.json`` in it, or its chat template writes the date in a way that cannot be
            pinned.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json; give a checkpoint folder with a fast tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = pin_date(tokenizer.chat_template)
    return tokenizer


def build_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str, text: str, system: str = "") -> str:
    """The prompt of the instruction objective, in the checkpoint's own chat template where it has one.

    Instruction and text are joined by a line break, as LLaMA-Factory joins ``instruction`` and ``input``.

    Args:
        system: the system prompt; where it is empty there is none but what the template itself adds.

    Raises:
        DataError: the template takes no system prompt.
    """
    messages = [{"role": "user", "content": f"{instruction}\n{text}"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    if not tokenizer.chat_template:
        return (tokenizer.bos_token or "") + "".join(message["content"] + "\n" for message in messages)
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the base's chat template refuses the prompt ({reason}); take system out") from None


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut at ``max_length``."""
    return encode_marking(tokenizer, texts, max_length)[0]


def encode_marking(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[list[list[int]], np.ndarray]:
    """As ``encode``, and ``[texts]`` bool: which were cut. Every text goes through the tokenizer once."""
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    backend.no_padding()
    backend.enable_truncation(max_length)
    try:
        encodings = backend.encode_batch_fast(list(texts))
    finally:
        backend.no_truncation()
    return [encoding.ids for encoding in encodings], np.array([bool(e.overflowing) for e in encodings], dtype=bool)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, instruction: str, texts: Sequence[str], max_length: int, system: str = ""
) -> list[list[int]]:
    """Token ids of each prompt. A text that is too long is truncated; the instruction and chat template never are."""
    return encode_prompts_marking(tokenizer, instruction, texts, max_length, system)[0]


def encode_prompts_marking(
    tokenizer: PreTrainedTokenizerBase, instruction: str, texts: Sequence[str], max_length: int, system: str = ""
) -> tuple[list[list[int]], np.ndarray]:
    """As ``encode_prompts``, and ``[texts]`` bool: which texts were cut.

    A text whose whole prompt leaves room for an answer is tokenised once, inside it. The others are tokenised by
    themselves, which says where to cut, and their prompts again.
    """
    limit = max_text_tokens(tokenizer, instruction, max_length, system)
    prompts = _ids(tokenizer, [build_prompt(tokenizer, instruction, text, system) for text in texts])
    truncated = np.zeros(len(prompts), dtype=bool)
    long = [i for i, prompt in enumerate(prompts) if len(prompt) > max_length - MAX_ANSWER_TOKENS]
    if long:
        spans = tokenizer(
            [texts[i] for i in long], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        found = zip(long, spans["offset_mapping"], strict=True)
        ends = {i: span[limit - 1][1] for i, span in found if len(span) > limit}
        shorter = _ids(
            tokenizer, [build_prompt(tokenizer, instruction, texts[i][:end], system) for i, end in ends.items()]
        )
        for i, prompt in zip(ends, shorter, strict=True):
            prompts[i], truncated[i] = prompt, True
    return prompts, truncated


def _ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    ids = tokenizer(list(prompts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [list(row) for row in ids]


def max_text_tokens(tokenizer: PreTrainedTokenizerBase, instruction: str, max_length: int, system: str = "") -> int:
    """How many tokens of a text fit into a prompt with a label word after it.

    Raises:
        DataError: the prompt without a text leaves no room for one.
    """
    empty = tokenizer(build_prompt(tokenizer, instruction, "", system), add_special_tokens=False)["input_ids"]
    if (limit := max_length - len(empty) - MAX_ANSWER_TOKENS) < 1:
        raise DataError(f"max_length {max_length} leaves no room for the text after the instruction; raise it")
    return limit


def encode_answers(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[list[int]]:
    """Token ids of each label word as an answer, with the end-of-turn token after it."""
    return [
        [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]  # type: ignore[misc]
        for label in labels
    ]


def write_tokens(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    splits: dict[str, pd.DataFrame],
    labels: Sequence[str],
    max_length: int,
    instruction: str | None,
    system: str = "",
) -> dict[str, Any]:
    """Encode every split into ``folder`` and return statistics per split.

    Columns: ``input_ids`` (list of int32), ``label`` (index into ``labels``), ``length`` before truncation, and
    ``prompt_ids`` when a model of the family is trained on the instruction objective.
    """
    index = {label: i for i, label in enumerate(labels)}
    statistics: dict[str, Any] = {}
    unknown = tokenizer.unk_token_id
    for split in SPLITS:
        texts = splits[split]["text"].tolist()
        full = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        ids = encode(tokenizer, texts, max_length)
        lengths = np.array([len(row) for row in full])
        truncated = lengths > max_length
        columns = {
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "label": pa.array([index[label] for label in splits[split]["label"]], pa.int16()),
            "length": pa.array(lengths, pa.int32()),
        }
        if instruction is not None:
            prompts, truncated = encode_prompts_marking(tokenizer, instruction, texts, max_length, system)
            columns["prompt_ids"] = pa.array(prompts, pa.list_(pa.int32()))
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
        tokens = sum(len(row) for row in ids)
        statistics[split] = {
            "rows": len(texts),
            "tokens": tokens,
            "length_median": int(np.median(lengths)),
            "length_p95": int(np.percentile(lengths, 95)),
            "length_max": int(lengths.max()),
            "truncated": int(truncated.sum()),
            "unknown_share": sum(row.count(unknown) for row in ids) / tokens if unknown is not None else 0.0,
        }
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    summary = {"labels": list(labels), "max_length": max_length, "instruction": instruction}
    summary |= {"system": system} if instruction is not None and system else {}
    (folder / "tokens.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return statistics


def read_tokens(folder: StoredFolder, split: str, column: str = "input_ids") -> tuple[list[list[int]], np.ndarray]:
    """Token ids per row and the label indices ``[rows]`` of one split."""
    table = pq.read_table(folder.file(f"{split}.parquet"), columns=[column, "label"])
    return table.column(column).to_pylist(), table.column("label").to_numpy().astype(np.int64)


def hold_a_live_date(folder: StoredFolder) -> bool:
    """Whether stored tokens hold prompts with the date of the day on which they were made, as they once could."""
    prompted = folder.read_json("tokens.json")["instruction"] is not None
    return prompted and has_live_date(folder.file(TOKENIZER_FOLDER))


def _learn_tokenizer(source: TrainedTokenizer, texts: Sequence[str], max_length: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if source.algorithm == "word":
        specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=source.vocab_size, min_frequency=source.min_frequency, special_tokens=specials
        )
        template = ("<s> $A", [("<s>", 2)])
    elif source.algorithm == "wordpiece":
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=source.vocab_size, min_frequency=source.min_frequency, special_tokens=specials
        )
        template = ("[CLS] $A [SEP]", [("[CLS]", 2), ("[SEP]", 3)])
    else:
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=source.vocab_size,
            min_frequency=source.min_frequency,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        template = ("<s> $A </s>", [("<s>", 0), ("</s>", 2)])
    trainer.show_progress = False
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=template[0], special_tokens=template[1])
    bert = source.algorithm == "wordpiece"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]" if bert else "<pad>",
        unk_token="[UNK]" if bert else "<unk>",
        mask_token="[MASK]" if bert else "<mask>",
        bos_token="[CLS]" if bert else "<s>",
        eos_token="[SEP]" if bert else "</s>",
        cls_token="[CLS]" if bert else "<s>",
        sep_token="[SEP]" if bert else "</s>",
        clean_up_tokenization_spaces=False,
    )
