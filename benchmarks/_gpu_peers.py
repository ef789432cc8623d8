"""The peers of ``train_gpu``: LLaMA-Factory with Liger's kernels, and Unsloth, on the same configuration and recipe.

Each runs in an environment of its own, named by the path of its Python. Unsloth is run by LLaMA-Factory too, so that
both read the same files: its environment needs ``llamafactory`` and ``unsloth``, Liger's ``llamafactory`` and
``liger-kernel``. They train with the objective ``instruction`` on a checkpoint of random weights and on rows of as many
tokens as ``train_gpu`` has. Their rate includes the first steps, which pay for lazy set-up. Unsloth computes
activations twice, as LLaMA-Factory sets it up.

The settings were never run on a GPU: what a peer says where it fails is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.train_vs_llamafactory import CHAT, RECIPE, run_llamafactory

PEERS = {  # the variable with the Python, the package that must be there beside LLaMA-Factory, its settings
    "LLaMA-Factory with Liger": ("LLAMAFACTORY_PYTHON", "liger_kernel", {"enable_liger_kernel": True}),
    "LLaMA-Factory with Unsloth": ("UNSLOTH_PYTHON", "unsloth", {"use_unsloth": True}),
}
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
INSTRUCTION_WORDS = 14  # with the chat's four tokens the 18 before a text; after it one word and four tokens
LABELS = [f"label word{i}" for i in range(6)]


def run_peers(config: dict[str, Any], rows: Sequence[Sequence[int]], rows_per_step: int, cuda: bool) -> None:
    """Run each peer that is installed, one pass over ``rows``, and print its rows per second, or why it was not run."""
    ready = {}
    for name, (variable, package, settings) in PEERS.items():
        python = os.environ.get(variable, "")
        if problem := _why_not(python, variable, package, cuda):
            print(f"{name}: not run: {problem}")
        else:
            ready[name] = (python, settings)
    if not ready:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder, config, rows)
        for peer, (python, settings) in ready.items():
            here = folder / peer
            here.mkdir()
            try:
                state, _ = run_llamafactory(python, _settings(folder, rows_per_step) | settings, here, _environment())
            except SystemExit as error:
                print(f"{peer}: failed: {error}")
            else:
                print(f"{peer}: {state['train_samples_per_second']:.1f} rows/s, {state['train_runtime']:.1f} s")


def _why_not(python: str, variable: str, package: str, cuda: bool) -> str:
    """Why a peer cannot run; empty if it can."""
    if not python:
        return f"not installed ({variable} is not set)"
    code = f"import importlib.util as u; print(*[n for n in ('llamafactory', '{package}') if u.find_spec(n) is None])"
    try:
        missing = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{variable}={python} is no Python that runs ({error})"
    if missing:
        return f"{missing} not installed in the environment of {python}"
    return "" if cuda else "it needs a CUDA GPU"


def _settings(folder: Path, rows_per_step: int) -> dict[str, Any]:
    return RECIPE | {
        "model_name_or_path": str(folder / "base"),
        "dataset_dir": str(folder / "data"),
        "template": "llama3",
        "bf16": True,
        "per_device_train_batch_size": rows_per_step,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "flash_attn": "auto",
        "disable_gradient_checkpointing": True,
        "logging_steps": 50,
    }


def _environment() -> dict[str, str]:
    """The GPUs that this process sees, which ``run_llamafactory`` would hide."""
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}


def write_case(folder: Path, config: dict[str, Any], rows: Sequence[Sequence[int]]) -> None:
    """A checkpoint of random weights with a tokenizer whose words are tokens, and rows of that many words."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = word_tokenizer(config["vocab_size"])
    tokenizer.save_pretrained(folder / "base")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader: Any = AutoModelForCausalLM
    with torch.device(device):
        model = loader.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    data = folder / "data"
    data.mkdir()
    instruction = " ".join(f"w{i}" for i in range(INSTRUCTION_WORDS))
    content = [
        {"instruction": instruction, "input": " ".join(f"w{i}" for i in [*row, 0]), "output": LABELS[number % 6]}
        for number, row in enumerate(rows)
    ]
    (data / "emotion.json").write_text(json.dumps(content), encoding="utf-8")
    (data / "dataset_info.json").write_text(json.dumps({"emotion": {"file_name": "emotion.json"}}), encoding="utf-8")


def word_tokenizer(size: int) -> Any:
    """A tokenizer of ``size`` words ``w0``, ``w1``, ... (and those of ``LABELS``), each one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIALS, *dict.fromkeys(" ".join(LABELS).split())]
    words += [f"w{i}" for i in range(size - len(words))]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIALS[1])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[4],
        pad_token=SPECIALS[1],
        unk_token=SPECIALS[1],
        additional_special_tokens=SPECIALS[2:4],
        model_max_length=512,
    )
    fast.chat_template = CHAT
    return fast
