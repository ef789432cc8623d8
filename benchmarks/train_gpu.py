"""The paper's recipe on one CUDA GPU, on a randomly initialised checkpoint of the exact Llama-3-8B configuration.

LoRA rank 8 on all linear layers, 20 rows a step, 16,000 rows of the lengths of dair-ai/emotion, three epochs. Steps are
measured after a warm-up and the three epochs are extrapolated from them, unless ``--whole`` is given. Share of peak: 4
FLOP for each parameter of a linear layer and token that goes through it (frozen base: forward, and backward to the
inputs), over the chip's dense bf16 peak. Evaluation is that of 2,000 rows, as after each epoch. ``--load`` writes the
checkpoint to a temporary folder first (16 GB) and times how it is loaded. Passes are repeated from CUDA graphs where
they can be; ``--graphs both`` measures with and without. Without a CUDA GPU it says so and does the same on a
scaled-down model.

Beside it run LLaMA-Factory with Liger's kernels and Unsloth, objective ``instruction``, each in its own environment,
where the variables name a Python (see ``_gpu_peers``). Neither this benchmark nor its peers were ever run on a GPU.

    LLAMAFACTORY_PYTHON=... UNSLOTH_PYTHON=... python -m benchmarks.train_gpu
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks._gpu_peers import run_peers
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.networks import accuracy_of
from emotion_assets.models.transformer.attention import ATTENTION_NAME, choose_backend, register_packed_attention
from emotion_assets.models.transformer.batches import BUCKET, Batch
from emotion_assets.models.transformer.checkpoints import compile_parts, new_classifier
from emotion_assets.models.transformer.classifier import Classifier, ClassifierConfig
from emotion_assets.models.transformer.fewer_kernels import launch_fewer_kernels
from emotion_assets.models.transformer.lora import add_adapters, speed_up_adapters
from emotion_assets.models.transformer.memory import Sizes, rows_per_forward
from emotion_assets.settings.schema import Lora, Training
from emotion_assets.training.cuda_graphs import StaticPasses
from emotion_assets.training.runtime import Runtime, choose_runtime, free_memory, peak_memory_mb, set_seed
from emotion_assets.training.trainer import Trainer, TrainingTask
from emotion_assets.training.transfer import to_device

ROWS, EVALUATED, EPOCHS, PER_STEP = 16_000, 2000, 3, 20
LORA = Lora(rank=8, alpha=16)
PROMPT_HEAD, PROMPT_TAIL, ANSWER = 18, 5, 3  # Llama-3's chat form round a text, and a label word with its end of turn
PEAK_TFLOPS = {  # dense bf16, from the makers' data sheets, by the name that torch gives the device
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H200": 989.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA A10": 125.0,
    "NVIDIA GeForce RTX 4090": 165.0,
}
LLAMA3_8B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "pad_token_id": 128_001,
}
SCALED_DOWN = LLAMA3_8B | {
    "vocab_size": 8000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Measured:
    objective: str
    seconds: float
    tokens_per_second: float
    share_of_peak: float | None
    peak_mb: float
    attention: str
    graphs: str
    load_seconds: float | None
    evaluation_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps to measure (default 100)")
    parser.add_argument("--whole", action="store_true", help="run all three epochs")
    attentions = get_args(TransformerModel.model_fields["attention"].annotation)
    parser.add_argument("--attention", default="auto", choices=attentions)
    parser.add_argument("--precision", default="auto", choices=get_args(Training.model_fields["precision"].annotation))
    parser.add_argument("--graphs", default="auto", choices=("auto", "off", "both"), help="CUDA graphs (default auto)")
    parser.add_argument("--compile", action="store_true", help="compile norms and feed-forward parts")
    parser.add_argument("--load", action="store_true", help="write the checkpoint (16 GB) and time how it is loaded")
    parser.add_argument("--profile", action="store_true", help="print where the time of ten steps goes")
    options = parser.parse_args()
    runtime = choose_runtime(options.precision)
    cuda = runtime.device.type == "cuda"
    device = torch.cuda.get_device_name() if cuda else "the CPU"
    if not cuda:
        print("No CUDA GPU that torch can use is here: the same on a scaled-down model (7M), on the CPU.")
    rows = EPOCHS * ROWS if options.whole else PER_STEP * (options.steps if cuda else min(options.steps, 20))
    with_graphs = {"auto": (True,), "off": (False,), "both": (True, False)}[options.graphs]
    measured = [
        measure(name, runtime, rows, options, graphs) for name in ("head", "instruction") for graphs in with_graphs
    ]
    bars = {"head": 4 * 60, "instruction": 8 * 60}
    print(
        f"{'of bar':>7}  {'3 epochs s':>10}  {'tokens/s':>9}  {'of peak':>7}  {'peak MB':>8}  {'load s':>6}  "
        f"{'eval s':>6}  objective, attention"
    )
    for run in measured:
        seconds = run.seconds / rows * EPOCHS * ROWS
        ratio = f"{seconds / bars[run.objective]:.2f}" if cuda else "-"
        peak = f"{run.share_of_peak:.1%}" if run.share_of_peak is not None else "-"
        load = "-" if run.load_seconds is None else f"{run.load_seconds:.1f}"
        print(
            f"{ratio:>7}  {seconds:>10.0f}  {run.tokens_per_second:>9,.0f}  {peak:>7}  {run.peak_mb:>8,.0f}  "
            f"{load:>6}  {run.evaluation_seconds:>6.1f}  "
            f"{run.objective}, {run.attention}; CUDA graphs: {run.graphs}"
        )
    numbers = str(runtime.dtype).removeprefix("torch.")
    print(f"{device}, {numbers}; {rows:,} rows measured{'' if options.whole else ', 3 epochs extrapolated'}")
    free_memory()  # of what was measured, for the processes of the peers
    run_peers(LLAMA3_8B if cuda else SCALED_DOWN, _rows(rows, cuda, "head"), PER_STEP, cuda)
    return 0


def measure(objective: str, runtime: Runtime, rows: int, options: argparse.Namespace, graphs: bool) -> Measured:
    """Train on made-up rows; every token that goes through the layers counts, a shared beginning once a step."""
    cuda = runtime.device.type == "cuda"
    if cuda:
        gc.collect()  # the model before is held by cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    classifier, sizes, load_seconds = _classifier(objective, runtime, options)
    training = Training(batch_size=5, gradient_accumulation=4, epochs=1, learning_rate=5e-5, keep="last")
    model = TransformerModel.model_validate(
        {"method": "lora", "base": "random", "objective": objective, "lora": LORA, "training": training}
    )
    texts = _rows(max(rows, 10 * PER_STEP), sizes.parameters > 1e9, objective)
    labels = torch.randint(6, (len(texts),))
    size = rows_per_forward(sizes, model, runtime, [len(row) for row in texts])
    through = 0

    def pack(chosen: Sequence[int], bucket: int = 0) -> tuple[Batch, int]:
        nonlocal through
        batch = [texts[i] for i in chosen]
        shared = PROMPT_HEAD * (len(batch) - 1) if objective == "instruction" and len(batch) > 1 else 0
        through += sum(map(len, batch)) - shared + (ANSWER * len(batch) if objective == "instruction" else 0)
        return classifier.pack_for_loss(batch, labels[list(chosen)], bucket=bucket)

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        batch, targets = pack(chosen)
        return classifier.loss_of_packed(to_device(batch, runtime.device)), targets

    problem = classifier.why_shapes_differ() if graphs else "not asked for"

    def train(n: int) -> str:
        passes = problem or StaticPasses(partial(pack, bucket=BUCKET), classifier.loss_of_packed)
        task = TrainingTask(objective, classifier, n, loss_of, static_passes=passes)
        trainer = Trainer(task, training, runtime, 1, size)
        trainer.fit(lambda p: print(p.line(), flush=True))
        return trainer.graphs.describe()

    train(5 * PER_STEP)  # the first steps pay for lazy set-up
    if options.profile:
        _profile(lambda: train(10 * PER_STEP), cuda)
    through = 0
    if cuda:
        torch.cuda.synchronize()
    started = time.monotonic()
    how = train(rows)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    classifier.eval()
    evaluated = _rows(EVALUATED if cuda else 100, sizes.parameters > 1e9, objective)
    started = time.monotonic()
    with torch.no_grad():
        accuracy_of(classifier, evaluated, np.zeros(len(evaluated), dtype=np.int64), runtime)
    evaluation_seconds = time.monotonic() - started
    name = torch.cuda.get_device_name() if cuda else ""
    peak = PEAK_TFLOPS.get(name)
    share = 4 * sizes.linear * through / seconds / (peak * 1e12) if peak else None
    return Measured(
        objective=objective,
        seconds=seconds,
        tokens_per_second=through / seconds,
        share_of_peak=share,
        peak_mb=peak_memory_mb(),
        attention=str(classifier.backend),
        graphs=how,
        load_seconds=load_seconds,
        evaluation_seconds=evaluation_seconds,
    )


def _classifier(
    objective: str, runtime: Runtime, options: argparse.Namespace
) -> tuple[Classifier, Sizes, float | None]:
    """The classifier as ``new_classifier`` makes it, with random weights; and how long it took to load, if it did."""
    from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

    cuda = runtime.device.type == "cuda"
    content = LLAMA3_8B if cuda else SCALED_DOWN
    register_packed_attention()
    set_seed(1)
    loader: Any = AutoModelForCausalLM if objective == "instruction" else AutoModel
    config = LlamaConfig(**content)
    answers = [[100 + i, 200 + i, 300] for i in range(6)] if objective == "instruction" else []
    labels = [str(i) for i in range(6)]
    shape = ClassifierConfig("lora", objective, "last", labels, 512, "", "", answers)
    sizes = Sizes.of({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **content})
    backend = choose_backend(options.attention, runtime)
    with torch.device(runtime.device):
        backbone = loader.from_config(config, dtype=runtime.dtype, attn_implementation=ATTENTION_NAME)
    if options.load:
        with tempfile.TemporaryDirectory() as folder:
            backbone.save_pretrained(folder)
            del backbone
            model = TransformerModel(method="lora", base="b", objective=objective, lora=LORA, compile=options.compile)
            started = time.monotonic()
            loaded = new_classifier(Path(folder), model, shape, runtime, backend)
            return loaded, sizes, time.monotonic() - started
    backbone, problem = add_adapters(backbone, LORA, causal_head=objective == "instruction"), "not asked for"
    speed_up_adapters(backbone)
    if options.compile:
        compile_parts(backbone)
    elif cuda:
        problem = launch_fewer_kernels(backbone)
        print(f"{objective}: a step {f'adapter by adapter ({problem})' if problem else 'in few kernels'}", flush=True)
    classifier = Classifier(backbone, shape, backend)
    classifier.needs_autocast = bool(problem)
    return classifier.to(runtime.device), sizes, None


def _rows(n: int, large: bool, objective: str) -> list[list[int]]:
    """Rows of the dataset's lengths: a log-normal whose median is 18 tokens and whose 95th percentile is 43."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.exp(torch.randn(n, generator=generator) * 0.53 + 2.89).round().clamp(3, 100).int().tolist()
    top = 128_000 if large else 8000
    head = list(range(1000, 1000 + PROMPT_HEAD)) if objective == "instruction" else []
    tail = list(range(2000, 2000 + PROMPT_TAIL)) if objective == "instruction" else []
    return [head + torch.randint(400, top, (k,), generator=generator).tolist() + tail for k in lengths]


def _profile(run: Any, cuda: bool) -> None:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        run()
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))
    trace = Path(tempfile.mkdtemp()) / "trace.json"
    found.export_chrome_trace(str(trace))
    print(f"trace: {trace}")


if __name__ == "__main__":
    sys.exit(main())
