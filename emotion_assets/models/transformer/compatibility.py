"""Whether base checkpoint, tokenizer and labels fit together; what does not is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emotion_assets.models.kind import TrainingRun
from emotion_assets.models.transformer.classifier import CAUSAL_MODEL_TYPES, COUNT_FROM_PADDING
from emotion_assets.models.transformer.tokens import TOKENIZER_FOLDER, load_tokenizer
from emotion_assets.settings.errors import DataError
from emotion_assets.storage.store import StoredFolder


def require_compatible(run: TrainingRun, tokenizer: Any, base_config: dict[str, Any], prompts: bool) -> dict[str, Any]:
    """Check a run's ``base`` and ``tokens`` against each other and the labels; returns the tokens' summary.

    Args:
        base_config: config.json of the base.
        prompts: whether the model reads the prompts of the instruction.

    Raises:
        DataError: they do not fit together; the line says which and the fix.
    """
    base, tokens = run.inputs["base"], run.inputs["tokens"]
    summary: dict[str, Any] = tokens.read_json("tokens.json")
    _require_same_labels(run.labels, summary["labels"], run.name)
    _require_same_vocabulary(base, base_config, tokens, tokenizer, run.name)
    _require_enough_positions(base, base_config, summary["max_length"], run.name)
    if prompts and base_config["model_type"] not in CAUSAL_MODEL_TYPES:
        raise DataError(
            f"{run.name}: answers with a label word, which needs a causal base; this one is {base_config['model_type']}"
        )
    if prompts and summary["instruction"] is None:
        raise DataError(f"{run.name}: the stored tokens hold no prompts; materialise its tokenised_splits again")
    return summary


def _require_same_labels(labels: Sequence[str], stored: Sequence[str], name: str) -> None:
    if list(labels) != list(stored):
        raise DataError(
            f"{name}: the stored tokens were made for the labels {', '.join(stored)}, the profile names "
            f"{', '.join(labels)}; materialise the tokens again"
        )


def _require_same_vocabulary(
    base: StoredFolder, config: dict[str, Any], tokens: StoredFolder, tokenizer: Any, name: str
) -> None:
    """Token ids mean something only to the base whose tokenizer made them."""
    where = tokens.file(TOKENIZER_FOLDER) / "tokenizer.json"
    fix = "give tokenizer and base the same source"
    if config["vocab_size"] < len(tokenizer):
        raise DataError(
            f"{name}: {where} has {len(tokenizer)} tokens, the base checkpoint only {config['vocab_size']}; {fix}"
        )
    if base.file("tokenizer.json").is_file():
        own, given = load_tokenizer(base.path).get_vocab(), tokenizer.get_vocab()
        for token, number in given.items():
            if own.get(token) != number:
                raise DataError(
                    f"{name}: {where} is not the tokenizer of the base (token {token!r} is {number} in one and "
                    f"{own.get(token, 'missing')} in the other); {fix}"
                )


def _require_enough_positions(base: StoredFolder, config: dict[str, Any], length: int, name: str) -> None:
    positions = config.get("max_position_embeddings")
    if positions is not None and config["model_type"] in COUNT_FROM_PADDING:
        positions -= config["pad_token_id"] + 1
    if positions is not None and length > positions:
        raise DataError(
            f"{name}: max_length {length} of the tokenizer is more than the {positions} positions of the base "
            f"({base.file('config.json')}); lower max_length"
        )
