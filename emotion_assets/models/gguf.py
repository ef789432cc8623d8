"""Turn a GGUF file into a checkpoint folder of safetensors, as every other base is stored.

Belongs here: what a GGUF file must be before it is read, and the conversion. Does not belong here: where the file comes
from (``bases``, ``wheels``). GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from emotion_assets.settings.errors import DataError

SUFFIX = ".gguf"
ARCHITECTURE = "llama"


def check_gguf(path: Path) -> None:
    """Refuse a file that is no GGUF of a Llama, from its header alone.

    Raises:
        DataError: not a GGUF file, cut off, or of another architecture.
    """
    from gguf import GGUFReader

    try:
        field = GGUFReader(str(path)).get_field("general.architecture")
        architecture = field.contents() if field else "none"
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the path of a GGUF file") from None
    except Exception as error:  # whatever numpy or the reader raises over bytes that are something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable GGUF file ({reason}); get it again") from None
    if architecture != ARCHITECTURE:
        raise DataError(f"{path}: holds the architecture {architecture!r}; use a GGUF file of a {ARCHITECTURE}")


def convert_gguf(path: Path, target: Path) -> None:
    """Write the dequantised model and its fast tokenizer into the folder ``target``.

    In half precision: the scales of a GGUF file are no finer, and the folder is half as large.

    Raises:
        DataError: see ``check_gguf``, or the weights do not fill the model that the header describes.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    with _parsed_once():
        check_gguf(path)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        model = _dequantised(path)
    # A model that was read from GGUF refuses to be saved: its config goes on naming the quantisation.
    fresh = type(model)(_plain_config(model.config))
    fresh.load_state_dict(model.state_dict())
    logging.disable_progress_bar()  # of one file, into the middle of a run's lines
    fresh.half().save_pretrained(target)
    tokenizer.save_pretrained(target)


def convert_tokenizer(path: Path, target: Path) -> None:
    """Write the fast tokenizer of a GGUF file into the folder ``target``.  Raises as ``check_gguf`` does."""
    from transformers import AutoTokenizer

    with _parsed_once():
        check_gguf(path)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    tokenizer.save_pretrained(target)


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """While this is open, each file is parsed once; transformers does so for config, tokenizer and weights, and lists
    the names of all tensors again for every one of them. With 49 thousand tokens a parse takes seconds."""
    import gguf

    with (
        mock.patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        mock.patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
    ):
        yield


def _dequantised(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise DataError(f"{path}: holds no weights for {missing[0]} ({len(missing)} missing); get a whole file")
    return model


def _plain_config(config: Any) -> Any:
    content = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype", "transformers_version"):
        content.pop(key, None)
    return type(config)(**content)
