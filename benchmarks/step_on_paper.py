"""What one step of the paper's recipe asks of a GPU, counted without one: kernels, memory, and the time that follows.

Llama-3-8B with LoRA rank 8 on all linear layers, 20 rows of the lengths of dair-ai/emotion, in bf16. The step runs
through the project's own code with tensors that have shapes and no values (torch's FakeTensors); needs Linux and a C++
compiler. Time is a prediction, not a measurement: on the host ``--launch`` microseconds for each kernel, on the chip 4
FLOP for each parameter of a linear layer and token over ``--share`` of an H100's dense peak, in the last layer's
feed-forward part for one token of each row. The longer of the two bounds the step. The last two columns are those of a
step whose pass is repeated from a CUDA graph: a graph counts as one launch, its chip computes a whole bucket of tokens;
what a graph itself takes between kernels is not counted.

    python -m benchmarks.step_on_paper
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from emotion_assets.models.transformer.batches import BUCKET
from emotion_assets.models.transformer.memory import Sizes
from emotion_assets_tests.fake_cuda.gpu import FakeGpu, compile_library
from emotion_assets_tests.fake_cuda.llama8b import CONFIG, lengths_of_the_dataset

PEAK, GIB = 989e12, 2**30
LAUNCHES_WITH_GRAPH = 2  # in place of a pass: the graph, and the gradients' zeros that it adds to


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launch", type=float, default=5.0, help="microseconds of the host for a kernel (default 5)")
    parser.add_argument("--share", type=float, default=0.6, help="share of the chip's peak (default 0.6)")
    options = parser.parse_args()
    linear, lengths = Sizes.of(CONFIG).linear, lengths_of_the_dataset(20)
    feed_forward = 3 * 4096 * 14_336  # of one layer of CONFIG: gate, up and down

    def milliseconds(tokens: int) -> float:
        products = linear * tokens - feed_forward * (tokens - len(lengths))
        return float(4e3 * products / (options.share * PEAK))

    bucket = sum(lengths) + BUCKET - sum(lengths) % BUCKET
    print(f"{sum(lengths)} tokens, in a bucket of {bucket}")
    print(
        f"{'kernels':>8}  {'peak GiB':>8}  {'expected':>8}  {'host ms':>7}  {'chip ms':>7}  {'graph: host ms':>14}  "
        f"{'chip ms':>7}  step"
    )
    with tempfile.TemporaryDirectory() as folder:
        gpu = FakeGpu(compile_library(Path(folder)))
        for objective in ("head", "instruction"):
            for few in (False, True):
                step = gpu("step_of_8b", lengths=lengths, objective=objective, few=few)
                kernels = sum(step["kernels"].values())
                launches = kernels - step["kernels_of_passes"] + LAUNCHES_WITH_GRAPH
                print(
                    f"{kernels:>8,}  {step['peak'] / GIB:>8.1f}  {step['expected'] / GIB:>8.1f}  "
                    f"{kernels * options.launch / 1e3:>7.1f}  {milliseconds(step['tokens']):>7.1f}  "
                    f"{launches * options.launch / 1e3:>14.1f}  {milliseconds(bucket):>7.1f}  "
                    f"{objective}, {'with fewer kernels' if few else 'adapter by adapter'}"
                )
        gpu.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
