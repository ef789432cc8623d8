"""The training loop against a loop written out by hand, cut off and resumed, split and merged."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from emotion_assets.settings.schema import Training
from emotion_assets.training import distributed, resume
from emotion_assets.training.optimizer import learning_rate_factor
from emotion_assets.training.progress import TrainingHistory
from emotion_assets.training.resume import STATE_FILE, ResumeState
from emotion_assets.training.runtime import Runtime
from emotion_assets.training.trainer import FORWARD_TOKENS, LossFunction, Trainer, TrainingError, TrainingTask
from emotion_assets_tests.worlds.tiny import CPU, PREFIX, base_folder, classifier_of, rows_of

ROWS = 47  # the last step of an epoch is a short one


@pytest.fixture
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "MIN_SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(resume, "MAX_SHARE_OF_TIME", 1e9)


class _KilledError(Exception):
    pass


def _case(seed: int = 0, dropout: float = 0.3) -> tuple[torch.nn.Module, LossFunction, Callable[[], float]]:
    """A small network with dropout, so that the random state matters, and its loss."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(dropout), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    )
    x, y = torch.randn(ROWS, 8), torch.randint(3, (ROWS,))

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        index = list(chosen)
        return torch.nn.functional.cross_entropy(model(x[index]), y[index], reduction="sum"), len(index)

    def evaluate() -> float:
        return float((model(x).argmax(1) == y).float().mean())

    return model, loss_of, evaluate


TRAINING = Training(epochs=3, batch_size=5, gradient_accumulation=2, learning_rate=1e-2, keep="best")


def _fit(
    training: Training = TRAINING,
    resume_state: ResumeState | None = None,
    dropout: float = 0.3,
    rows_per_forward: int = 0,
    wrap: Callable[[LossFunction], LossFunction] = lambda loss_of: loss_of,
    lengths: Sequence[int] | None = None,
) -> tuple[dict[str, torch.Tensor], TrainingHistory]:
    model, loss_of, evaluate = _case(dropout=dropout)
    task = TrainingTask("test", model, ROWS, wrap(loss_of), evaluate, lengths=lengths)
    history = Trainer(task, training, CPU, 3, rows_per_forward).fit(lambda _: None, resume_state)
    return model.state_dict(), history


def _equal(one: dict, two: dict, tolerance: float = 0.0) -> None:
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=tolerance)


def test_the_loop_does_what_a_plain_torch_loop_does() -> None:
    training = TRAINING.model_copy(update={"keep": "last", "warmup_share": 0.2})
    weights, _ = _fit(training, dropout=0.0)
    model, loss_of, _ = _case(dropout=0.0)
    steps = math.ceil(ROWS / 10)
    total, warmup = 3 * steps, int(3 * steps * 0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator, step = torch.Generator().manual_seed(3), 0
    for _ in range(3):
        order = torch.randperm(ROWS, generator=generator).tolist()
        for start in range(0, ROWS, 10):
            done = (step - warmup) / (total - warmup)
            factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * done))
            optimizer.param_groups[0]["lr"] = 1e-2 * factor
            optimizer.zero_grad()
            loss, count = loss_of(order[start : start + 10])
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
    _equal(weights, model.state_dict(), 1e-6)


def test_the_cosine_is_that_of_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 0, 40)
    for step in range(40):
        assert learning_rate_factor(Training(), step, 40) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_twenty_rows_at_once_have_the_gradient_of_four_times_five(tmp_path: Path, objective: str) -> None:
    folder = base_folder(tmp_path / "base")
    rows = rows_of(20, prefix=PREFIX)
    labels = torch.arange(20) % 3
    gradients = []
    for size in (20, 5):
        classifier = classifier_of(folder, objective)
        targets = 0
        for start in range(0, 20, size):
            loss, count = classifier.loss(rows[start : start + size], labels[start : start + size], 0.0)
            loss.backward()
            targets += count
        gradients.append([p.grad / targets for p in classifier.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_merged_micro_batches_give_the_same_weights() -> None:
    accumulated, _ = _fit(dropout=0.0)
    merged, _ = _fit(dropout=0.0, rows_per_forward=10)
    _equal(accumulated, merged, 1e-6)


def test_a_pass_of_many_tokens_goes_in_several_of_about_the_same_on_a_cpu() -> None:
    lengths = [40 + 10 * (row % 30) for row in range(ROWS)]
    passes: list[list[int]] = []

    def recording(loss_of: LossFunction) -> LossFunction:
        def recorded(rows: Sequence[int]) -> tuple[torch.Tensor, float]:
            passes.append(list(rows))
            return loss_of(rows)

        return recorded

    at_once, _ = _fit(dropout=0.0, rows_per_forward=10)
    split, history = _fit(dropout=0.0, rows_per_forward=10, wrap=recording, lengths=lengths)
    _equal(at_once, split, 1e-6)
    assert len(passes) > TRAINING.epochs * math.ceil(ROWS / 10)
    assert max(sum(lengths[row] for row in rows) for rows in passes) <= FORWARD_TOKENS + max(lengths)
    assert sorted(row for rows in passes for row in rows) == sorted(list(range(ROWS)) * TRAINING.epochs)
    assert history.rows_per_forward == 10, "the limit of rows stays what it was"


def test_a_merged_step_that_fills_the_memory_is_split_and_what_it_held_is_freed() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def tight(loss_of: LossFunction) -> LossFunction:
        def wrapped(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
            if len(chosen) > 5:
                activations = torch.zeros(1000)
                held.append(weakref.ref(activations))
                raise torch.OutOfMemoryError("CUDA out of memory")
            alive.extend(reference() is not None for reference in held)
            return loss_of(chosen)

        return wrapped

    accumulated, _ = _fit(dropout=0.0)
    split, history = _fit(dropout=0.0, rows_per_forward=10, wrap=tight)
    assert len(held) == 1 and not any(alive)
    assert history.rows_per_forward == 5
    _equal(accumulated, split, 1e-6)


@pytest.mark.parametrize(("fits", "rows", "checkpointed"), [(2, 2, False), (1, 1, False), (0, 1, True)])
def test_a_split_goes_down_to_one_row_and_then_to_activation_checkpointing(
    fits: int, rows: int, checkpointed: bool
) -> None:
    model, loss_of, evaluate = _case(dropout=0.0)
    less: list[bool] = []

    def tight(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        if len(chosen) > (1 if less else fits):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_of(chosen)

    task = TrainingTask("test", model, ROWS, tight, evaluate, lambda: less.append(True))
    history = Trainer(task, TRAINING, CPU, 3).fit(lambda _: None)
    assert (history.rows_per_forward, history.checkpointed, len(less)) == (rows, checkpointed, int(checkpointed))
    _equal(_fit(dropout=0.0)[0], model.state_dict(), 1e-6)


def test_what_does_not_fit_at_all_is_an_error() -> None:
    def never(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        _fit(wrap=lambda _: never)


def test_the_gradients_of_several_processes_are_summed_as_one_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        sent.append(tensor)
        tensor.mul_(2)  # as if another process had the same

    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    gradients = [torch.ones(2, 3), torch.full((4,), 2.0), torch.ones(2, 2).t()]
    sums = torch.tensor([1.0, 5.0], dtype=torch.float64)
    distributed.all_reduce([sums, *gradients])
    assert [(tensor.dtype, tensor.numel()) for tensor in sent] == [(torch.float64, 2), (torch.float32, 14)]
    assert sums.tolist() == [2.0, 10.0]
    assert [gradient.unique().tolist() for gradient in gradients] == [[2.0], [4.0], [2.0]]


def test_processes_share_a_steps_rows_with_about_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(100, 132))
    lengths = torch.randint(3, 90, (32,), generator=torch.Generator().manual_seed(3)).tolist()
    assert distributed.shard_by_size(rows, lengths) == rows, "one process has them all"
    monkeypatch.setattr(distributed, "is_joined", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    shards = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
        shards.append(distributed.shard_by_size(rows, lengths))
    assert sorted([*shards[0], *shards[1]]) == rows
    tokens = [sum(lengths[row - 100] for row in shard) for shard in shards]
    assert abs(tokens[0] - tokens[1]) <= min(lengths)


def test_accumulation_weighs_targets_not_micro_batches() -> None:
    """Five micro-batches of unequal numbers of targets count target by target."""
    weight = torch.nn.Parameter(torch.zeros(1))
    module = torch.nn.ParameterList([weight])
    seen: list[int] = []

    def loss_of(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
        seen.extend(chosen)
        targets = sum(1 + i % 3 for i in chosen)
        return weight.sum() * sum((1 + i % 3) * i for i in chosen), targets

    training = Training(epochs=1, batch_size=2, gradient_accumulation=5, max_grad_norm=1e9, learning_rate=1.0)
    gradients: list[float] = []
    weight.register_hook(lambda g: None)
    original = torch.nn.utils.clip_grad_norm_

    def spy(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
        gradients.append(parameters[0].grad.item())  # type: ignore[union-attr]
        return original(parameters, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        Trainer(TrainingTask("test", module, 10, loss_of), training, CPU, 0).fit(lambda _: None)
    expected = sum((1 + i % 3) * i for i in range(10)) / sum(1 + i % 3 for i in range(10))
    assert gradients == [pytest.approx(expected)]
    assert sorted(seen) == list(range(10))


@pytest.mark.usefixtures("_always_due")
@pytest.mark.parametrize("calls", [3, 11, 14, 25])
def test_a_killed_training_resumes_to_the_same_result(tmp_path: Path, calls: int) -> None:
    """Killed in the first, second and third epoch; ten forward passes make an epoch."""
    whole, history = _fit()

    def dies(loss_of: LossFunction) -> LossFunction:
        left = iter(range(calls))

        def wrapped(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
            if next(left, None) is None:
                raise _KilledError
            return loss_of(chosen)

        return wrapped

    resume_state = ResumeState(tmp_path, "recipe")
    with pytest.raises(_KilledError):
        _fit(resume_state=resume_state, wrap=dies)
    again, resumed = _fit(resume_state=ResumeState(tmp_path, "recipe"))
    assert resumed.resumed_at_step > 0
    _equal(whole, again)
    assert resumed.scores == history.scores
    assert resumed.best_epoch == history.best_epoch


@pytest.mark.usefixtures("_always_due")
def test_the_names_in_a_state_file_stay_so_that_an_older_versions_training_resumes(tmp_path: Path) -> None:
    _fit(resume_state=ResumeState(tmp_path, "recipe"))
    state = ResumeState(tmp_path, "recipe").read()
    assert state is not None
    tensors, facts = state
    moments = {f"optimizer.{i}.{name}" for i in range(4) for name in ("step", "exp_avg", "exp_avg_sq")}
    assert set(tensors) == {f"{part}.{i}" for part in ("parameter", "kept") for i in range(4)} | moments
    assert list(facts) == ["fitted", "at", "scaler"]
    assert list(facts["at"]) == ["step", "epochs_done", "stepping", "elapsed", "recent", "best"]
    assert list(facts["fitted"]) == [
        *("steps", "losses", "scores", "best_epoch", "seconds", "rows_per_second", "rows_per_forward"),
        *("resumed_at_step", "checkpointed", "memory_ran_out"),
    ]


def test_a_state_of_before_checkpointing_was_known_is_resumed_from(tmp_path: Path) -> None:
    state = ResumeState(tmp_path, "recipe")
    state.is_due = lambda: True  # type: ignore[method-assign]
    whole, _ = _fit(resume_state=state)
    found = state.read()
    assert found is not None
    tensors, facts = found
    del facts["fitted"]["checkpointed"], facts["fitted"]["memory_ran_out"]
    state.write(tensors, facts)
    again, history = _fit(resume_state=ResumeState(tmp_path, "recipe"))
    assert history.resumed_at_step == 15 and not history.checkpointed
    _equal(whole, again)


@pytest.mark.usefixtures("_always_due")
def test_the_state_of_another_training_is_not_resumed_from(tmp_path: Path) -> None:
    _fit(resume_state=ResumeState(tmp_path, "one"))
    assert (tmp_path / STATE_FILE).is_file()
    _, history = _fit(resume_state=ResumeState(tmp_path, "another"))
    assert history.resumed_at_step == 0


def test_damaged_state_is_not_resumed_from(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    _, history = _fit(resume_state=ResumeState(tmp_path, "one"))
    assert history.resumed_at_step == 0


def test_a_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume_state = ResumeState(tmp_path, "one")
    resume_state.write({"x": torch.ones(2)}, {"n": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emotion_assets.storage.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        resume_state.write({"x": torch.zeros(2)}, {"n": 2})
    state = resume_state.read()
    assert state is not None and state[1] == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(value: float) -> None:
    def broken(loss_of: LossFunction) -> LossFunction:
        return lambda chosen: (loss_of(chosen)[0] * value, len(chosen))

    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step 1"):
        _fit(wrap=broken)


def test_a_gradient_that_is_not_finite_stops_the_training() -> None:
    def broken(loss_of: LossFunction) -> LossFunction:
        def wrapped(chosen: Sequence[int]) -> tuple[torch.Tensor, int]:
            loss, count = loss_of(chosen)
            return loss + 0 * (loss - loss.detach()).abs().sqrt(), count  # sqrt at 0 has an infinite slope

        return wrapped

    with pytest.raises(TrainingError, match="gradient is not finite at step 1"):
        _fit(wrap=broken)


def test_fp16_training_scales_the_loss_and_skips_what_overflows() -> None:
    """On the CPU, where fp16 autocast works too: early steps overflow at the first scale and must not touch weights."""
    half = Runtime(torch.device("cpu"), torch.float16, "test")
    assert half.needs_loss_scaling
    model, loss_of, evaluate = _case(dropout=0.0)
    training = TRAINING.model_copy(update={"epochs": 20, "keep": "last"})
    before = evaluate()
    history = Trainer(TrainingTask("test", model, ROWS, loss_of, evaluate), training, half, 3).fit(lambda _: None)
    assert history.scores[-1] > before + 0.3
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_best_epoch_is_kept_and_the_earliest_of_equals() -> None:
    model, loss_of, _ = _case()
    scores = iter([0.5, 0.7, 0.7])
    kept = []

    def evaluate() -> float:
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(scores)

    history = Trainer(TrainingTask("test", model, ROWS, loss_of, evaluate), TRAINING, CPU, 3).fit(lambda _: None)
    assert history.best_epoch == 2
    _equal(kept[1], model.state_dict())
