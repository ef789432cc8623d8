"""Start a training as its own process under Dagster Pipes, hear of it, and end it with the run.

Belongs here: the process, its group, its messages, and what its end means for the step. Does not belong here: what is
trained (``jobs.process``) and what is done with the result (``defs.training``).
https://docs.dagster.io/integrations/external-pipelines
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from emotion_assets.settings.cores import count_cores

if TYPE_CHECKING:
    from emotion_assets.jobs.process import TrainingJob

TERM_SECONDS = 3.0
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]
StepContext = dg.AssetExecutionContext | dg.OpExecutionContext
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # nothing is downloaded in it, and its progress is reported in lines


def run_training(context: StepContext, job: TrainingJob, processes: int = 1) -> dict[str, Any]:
    """Run the job in a new process group and return what it measured; ``job.target`` is filled then.

    Several processes are started by torchrun. Each trains on its part of a step's rows, with its share of the cores.

    The group is ended when this returns or raises for whatever reason, a cancelled run included, and ends by itself
    when this process is killed.

    Raises:
        dg.Failure: the training failed. The description is one line; what a user can fix is not retried.
    """
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        job = dataclasses.replace(job, result=str(Path(folder) / "result.json"))
        job_file = Path(folder) / "job.json"
        job_file.write_text(job.to_json(), encoding="utf-8")
        launcher = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes > 1 else []
        module = ["-m", "emotion_assets.jobs.process", str(job_file), "--end-with-parent"]
        code = _run(context, [sys.executable, *launcher, *module], processes)
        result = json.loads(job.result_file.read_text(encoding="utf-8")) if job.result_file.is_file() else {}
    if code == 0 and result and "error" not in result:
        return result
    raise _failure(job.name, code, result)


def _run(context: StepContext, command: list[str], processes: int) -> int:
    """The exit code of the command, minus the signal's number if one ended it."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env={**os.environ, **QUIET, **share_cores(processes), **session.get_bootstrap_env_vars()},
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            _end_group(process)


def share_cores(processes: int) -> dict[str, str]:
    """The environment in which several processes have the threads that one would have, and talk on loopback alone."""
    if processes == 1:
        return {}
    threads = int(os.environ.get("OMP_NUM_THREADS") or count_cores())
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {"OMP_NUM_THREADS": str(max(1, threads // processes)), **loopback}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then kill what is left of it."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(TERM_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlive their parent are in the group too
        process.wait()
        if process.stdin:
            process.stdin.close()


def _failure(name: str, code: int, result: dict[str, Any]) -> dg.Failure:
    if "error" in result:  # torchrun ends with code 1 whatever the processes ended with
        defect = "traceback" in result
        metadata = {"traceback": dg.MetadataValue.md(f"```\n{result['traceback']}\n```")} if defect else None
        return dg.Failure(result["error"], metadata=metadata, allow_retries=False)  # it would fail again
    if code == -signal.SIGKILL:
        line = "the training process was killed, most likely because memory ran out; lower batch_size or free memory"
    elif code < 0:
        line = f"the training process was ended by {signal.Signals(-code).name}; materialise again to resume"
    else:
        line = f"the training process ended with code {code} and no result; its standard error says why"
    return dg.Failure(f"{name}: {line}", allow_retries=True)
