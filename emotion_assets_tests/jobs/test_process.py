"""The training process: job in, model out, whatever interrupts it; what it refuses before any training starts."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_assets.jobs.process import TrainingJob, main, run_job, stored_input
from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.registry import load_scorer
from emotion_assets.settings.errors import DataError, UserError, user_line
from emotion_assets.settings.schema import Training
from emotion_assets.storage.store import Store, StoredFolder, StoreError
from emotion_assets.training.progress import TrainingHistory
from emotion_assets.training.resume import STATE_FILE
from emotion_assets.training.trainer import Trainer, TrainingError
from emotion_assets_tests.worlds import tiny
from emotion_assets_tests.worlds.tiny import LABELS, VOCABULARY, stored_case

ENVIRON = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _job(root: Path, base: StoredFolder, tokens: StoredFolder, target: Path, **settings: Any) -> TrainingJob:
    training = Training(epochs=settings.pop("epochs", 2), batch_size=5, gradient_accumulation=2, learning_rate=1e-3)
    model = TransformerModel.model_validate(
        {"method": "lora", "base": "tiny", "training": training.model_dump(), **settings}
    )
    target.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        kind="transformer",
        name="tiny_model",
        settings=model.model_dump(mode="json"),
        labels=LABELS,
        seed=5,
        inputs={"base": stored_input(base), "tokens": stored_input(tokens)},
        target=str(target),
        checkpoints=str(root / "checkpoints"),
    )


def _start(job: TrainingJob, root: Path, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    file = root / "job.json"
    file.write_text(job.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", *launcher, "emotion_assets.jobs.process", str(file), *more]
    return subprocess.Popen(
        command, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _weights(target: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        f"{path.name}:{name}": tensor
        for path in sorted(target.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def _assert_same(one: Path, two: Path, tolerance: float) -> None:
    first, second = _weights(one), _weights(two)
    assert first.keys() == second.keys() and first
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_a_job_fills_the_target_and_the_scorer_reads_it(tmp_path: Path, objective: str) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("models") as draft:
        measured = run_job(_job(tmp_path, base, tokens, draft.path, objective=objective), lambda line: None)
        model = draft.finish(measured)
    scores = load_scorer(model, store).score(["walk river stone", "cloud"])
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    for key in ("trainable_parameters", "total_parameters", "train_seconds", "peak_memory_mb", "validation_accuracy"):
        assert measured[key] is not None
    assert measured["attention"].startswith("sdpa (")
    assert measured["curve"]["rows_per_forward"] == 10


def test_a_model_is_scored_in_the_precision_and_with_the_attention_it_was_trained_with(tmp_path: Path) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("models") as draft:
        job = _job(tmp_path, base, tokens, draft.path, epochs=1, attention="eager")
        job.settings["training"]["precision"] = "bf16"
        model = draft.finish(run_job(job, lambda line: None))
    scorer: Any = load_scorer(model, store)
    assert scorer._model.backend.name == "eager"
    assert next(scorer._model.backbone.parameters()).dtype == torch.bfloat16


def test_a_job_survives_its_json_form() -> None:
    job = TrainingJob("bigru", "b", {"x": 1}, ["a"], 1, {"dataset": {"path": "p", "digest": "d"}}, "t", "c")
    assert TrainingJob.from_json(job.to_json()) == job


def test_the_training_process_does_without_dagster(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path)
    job = _job(tmp_path, base, tokens, tmp_path / "target", epochs=1)
    (tmp_path / "job.json").write_text(job.to_json(), encoding="utf-8")
    program = (
        "import sys\n"
        "for name in ('dagster', 'dagster_pipes', 'duckdb'): sys.modules[name] = None\n"
        "from emotion_assets.jobs.process import main\n"
        f"sys.exit(main([{str(tmp_path / 'job.json')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tiny_model: step" in done.stdout
    assert json.loads(job.result_file.read_text(encoding="utf-8"))["curve"]["steps"]


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, base, tokens = stored_case(tmp_path)
    (tmp_path / "no_folder").write_text("", encoding="utf-8")
    job = dataclasses.replace(
        _job(tmp_path, base, tokens, tmp_path / "t", epochs=1), result=str(tmp_path / "no_folder" / "result.json")
    )
    (tmp_path / "job.json").write_text(job.to_json(), encoding="utf-8")
    capsys.readouterr()
    assert main([str(tmp_path / "job.json")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tiny_model: ") and "result.json" in line


KILLED = [
    ("training.mid_step:40", False),
    ("training.mid_save:2", False),
    ("training.mid_step:40", True),
]


@pytest.mark.parametrize(("failpoint", "two_processes"), KILLED)
def test_a_killed_training_resumes_to_the_result_of_an_undisturbed_one(
    tmp_path: Path, failpoint: str, two_processes: bool
) -> None:
    _, base, tokens = stored_case(tmp_path)
    undisturbed = _job(tmp_path, base, tokens, tmp_path / "one", head_dropout=0.2, epochs=20)
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2") if two_processes else ()

    def run(job: TrainingJob, failpoint: str = "") -> int:
        program = tmp_path / "program.py"
        program.write_text(
            "import sys\nfrom emotion_assets.jobs import process\nfrom emotion_assets.training import resume\n"
            "resume.MIN_SECONDS_BETWEEN_WRITES, resume.MAX_SHARE_OF_TIME = 0.0, 1e9\n"
            "sys.exit(process.main(sys.argv[1:]))",
            encoding="utf-8",
        )
        file = tmp_path / "job.json"
        file.write_text(job.to_json(), encoding="utf-8")
        modules = ["-m", *launcher] if launcher else []
        done = subprocess.run(
            [sys.executable, *modules, str(program), str(file)],
            env=ENVIRON | {"EMOTION_FAILPOINT": failpoint, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            check=False,
            timeout=200,
        )
        return done.returncode

    assert run(undisturbed) == 0
    shutil.rmtree(undisturbed.checkpoints)
    again = dataclasses.replace(undisturbed, target=str(tmp_path / "two"))
    Path(again.target).mkdir()
    state = Path(again.checkpoints) / STATE_FILE
    assert run(again, failpoint) == (1 if two_processes else -signal.SIGKILL)
    assert state.is_file(), "the process ended before it wrote its state"
    assert run(again) == 0
    measured = json.loads(again.result_file.read_text(encoding="utf-8"))
    assert measured["curve"]["resumed_at_step"] > 0
    _assert_same(Path(undisturbed.target), Path(again.target), 0.0)


def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path, rows=61)
    one = _job(tmp_path, base, tokens, tmp_path / "one")
    alone = run_job(one, lambda line: None)
    two = dataclasses.replace(one, target=str(tmp_path / "two"), result=str(tmp_path / "two.json"))
    Path(two.target).mkdir()
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = _start(two, tmp_path, launcher=launcher)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output[-3000:]
    together = json.loads(Path(two.result).read_text(encoding="utf-8"))
    _assert_same(Path(one.target), Path(two.target), 2e-5)
    assert together["validation_accuracy"] == alone["validation_accuracy"]
    np.testing.assert_allclose(together["curve"]["losses"], alone["curve"]["losses"], atol=2e-4)


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path)
    job = _job(tmp_path, base, tokens, tmp_path / "target", epochs=100000)
    (tmp_path / "job.json").write_text(job.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "emotion_assets.jobs.process", str(tmp_path / "job.json"), "--end-with-parent"]
    process = subprocess.Popen(
        command, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    assert b"tiny_model: step " in process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=10) == -signal.SIGKILL
    process.stdout.close()


# What is refused, before any training starts.


def _refused(job: TrainingJob, fragments: list[str], kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind) as caught:
        run_job(job, lambda line: pytest.fail(f"training started: {line}"))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    assert not list(Path(job.target).iterdir())


def _other_base(store: Store, base: StoredFolder, change: Callable[[Path], None]) -> StoredFolder:
    with store.writing("base_models") as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        change(draft.path)
        return draft.finish(base.info)


def test_a_base_without_some_of_its_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def halve(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    store, base, tokens = stored_case(tmp_path)
    job = _job(tmp_path, _other_base(store, base, halve), tokens, tmp_path / "t")
    _refused(job, ["holds no weights for layers.1.", "get a whole checkpoint"], DataError)


@pytest.mark.parametrize(
    ("key", "value", "fragments"),
    [
        ("intermediate_size", 64, ["has another size than config.json says"]),
        ("max_position_embeddings", 40, ["max_length 64", "the 40 positions of the base", "config.json"]),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, key: str, value: int, fragments: list[str]) -> None:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")

    store, base, tokens = stored_case(tmp_path)
    _refused(_job(tmp_path, _other_base(store, base, change), tokens, tmp_path / "t"), fragments, DataError)


def test_a_tampered_base_is_refused(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path)
    weights = base.file("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    _refused(_job(tmp_path, base, tokens, tmp_path / "t"), ["model.safetensors", "was altered"], StoreError)


def test_a_tokenizer_with_more_tokens_than_the_base_is_refused(tmp_path: Path) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("base_models") as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base.path)
        model.resize_token_embeddings(8)
        model.save_pretrained(draft.path)
        small = draft.finish({"origin": "small", "vocab_size": 8})
    _refused(_job(tmp_path, small, tokens, tmp_path / "t"), ["tokenizer.json", "only 8"], DataError)


def test_the_tokenizer_of_another_base_is_refused(tmp_path: Path) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("base_models") as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        file = draft.path / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        vocabulary["river"], vocabulary["stone"] = vocabulary["stone"], vocabulary["river"]
        file.write_text(json.dumps(content), encoding="utf-8")
        other = draft.finish({"origin": "other", "vocab_size": VOCABULARY})
    _refused(_job(tmp_path, other, tokens, tmp_path / "t"), ["tokenizer.json", "is not the tokenizer of the base"])


def test_labels_that_disagree_with_the_tokens_are_refused(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path)
    job = dataclasses.replace(_job(tmp_path, base, tokens, tmp_path / "t"), labels=["joy", "fear", "anger"])
    _refused(job, ["tiny_model", "joy, anger, fear", "materialise the tokens again"], DataError)


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    store, base, tokens = stored_case(tmp_path)
    with store.writing("models") as draft:
        model = draft.finish(run_job(_job(tmp_path, base, tokens, draft.path, epochs=1), lambda line: None))
    from emotion_assets.models.transformer.checkpoints import load_classifier
    from emotion_assets.training.runtime import choose_runtime

    other = StoredFolder(base.path, "0" * 64)
    with pytest.raises(DataError, match=f"adapter: trained on the base {base.version}, not on 000000000000"):
        load_classifier(model, other, choose_runtime("fp32"))
    (model.file("adapter") / "adapter_model.safetensors").rename(model.file("adapter") / "adapter_model.bin")
    with pytest.raises(DataError, match="is a pickle and not read"):
        load_classifier(model, base, choose_runtime("fp32"))
    with pytest.raises(StoreError, match="is missing"):
        store.open("models", model.digest)


def test_four_bits_without_bitsandbytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, base, tokens = stored_case(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _refused(_job(tmp_path, base, tokens, tmp_path / "t", quantization="nf4"), ["bitsandbytes", "pip install"])


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_are_trained_and_scored_nearly_as_the_whole_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in ("hidden_size", "intermediate_size"):
        monkeypatch.setitem(tiny._WIDTHS, width, 128)  # bitsandbytes quantises 64 weights together
    store, base, tokens = stored_case(tmp_path)
    results = {}
    for quantization in ("none", "nf4"):
        root = tmp_path / quantization
        job = _job(root, base, tokens, root / "t", quantization=quantization, epochs=3)
        with store.writing("models") as draft:
            info = run_job(dataclasses.replace(job, target=str(draft.path)), lambda line: None)
            model = draft.finish(info)
        results[quantization] = info, load_scorer(model, store).score(["river stone", "cloud amber lantern"])
    (whole, expected), (quantised, scores) = results["none"], results["nf4"]
    assert quantised["total_parameters"] == whole["total_parameters"]
    assert quantised["trainable_parameters"] == whole["trainable_parameters"]
    assert quantised["curve"]["losses"] == pytest.approx(whole["curve"]["losses"], rel=0.05)
    assert 0 < np.abs(scores - expected).max() < 0.2


# How the process ends.


def test_a_user_error_ends_with_its_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, base, tokens = stored_case(tmp_path)
    job = dataclasses.replace(_job(tmp_path, base, tokens, tmp_path / "t"), labels=["joy"])
    (tmp_path / "job.json").write_text(job.to_json(), encoding="utf-8")
    capsys.readouterr()
    assert main([str(tmp_path / "job.json")]) == 2
    result = json.loads(job.result_file.read_text(encoding="utf-8"))
    assert result.keys() == {"error"}
    assert capsys.readouterr().err.strip() == result["error"]


def test_a_defect_ends_with_code_1_and_its_traceback(tmp_path: Path) -> None:
    _, base, tokens = stored_case(tmp_path)
    job = _job(tmp_path, base, tokens, tmp_path / "t")
    (tmp_path / "job.json").write_text(dataclasses.replace(job, settings={"method": "no"}).to_json(), encoding="utf-8")
    assert main([str(tmp_path / "job.json")]) == 1
    assert "Traceback" in json.loads(job.result_file.read_text(encoding="utf-8"))["traceback"]


@pytest.mark.parametrize(
    ("error", "fragment"),
    [
        (TrainingError("m: the loss is nan"), "m: the loss is nan"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
    ],
)
def test_full_disks_and_memory_become_one_clear_line(error: Exception, fragment: str) -> None:
    line = user_line(error)
    assert line is not None and fragment in line and "\n" not in line


def test_a_model_of_weights_that_are_not_finite_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, base, tokens = stored_case(tmp_path)

    def spoil(trainer: Trainer, *_: Any) -> TrainingHistory:
        with torch.no_grad():
            trainer.parameters[0].fill_(float("nan"))
        return trainer.history

    monkeypatch.setattr(Trainer, "fit", spoil)
    job = _job(tmp_path, base, tokens, tmp_path / "t")
    with pytest.raises(TrainingError, match="not finite"):
        run_job(job, lambda line: None)
    assert not list((tmp_path / "t").iterdir())
    assert isinstance(Store(tmp_path / "store").open("tokens", tokens.digest), StoredFolder)
