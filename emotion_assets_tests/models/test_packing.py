"""Packed rows give what each row gives alone, and what transformers' own forward pass gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import cross_entropy

from emotion_assets.models.kinds.transformer import TransformerModel
from emotion_assets.models.transformer.attention import (
    EAGER,
    PADDED_BACKENDS,
    SDPA,
    VARLEN_KERNELS,
    Backend,
    Layout,
    choose_backend,
)
from emotion_assets.models.transformer.batches import common_prefix, make_batch
from emotion_assets.models.transformer.checkpoints import load_backbone
from emotion_assets.training.transfer import outline
from emotion_assets_tests.worlds.tiny import (
    ANSWERS,
    CPU,
    HALF,
    PREFIX,
    base_folder,
    classifier_config_of,
    classifier_of,
    rows_of,
)

CAUSAL = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def _reference_varlen(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
    """What flash_attn_varlen_func promises, segment by segment; causal is aligned to the last key."""
    outs = []
    group = q.shape[1] // k.shape[1]
    for i in range(len(cu_q) - 1):
        qs = q[cu_q[i] : cu_q[i + 1]].transpose(0, 1)
        ks, vs = (x[cu_k[i] : cu_k[i + 1]].repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
        assert qs.shape[1] <= max_q and ks.shape[1] <= max_k
        scores = qs @ ks.transpose(1, 2) * scale
        if causal:
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(ks.shape[1] - qs.shape[1] + 1)
            scores = scores.masked_fill(hidden, float("-inf"))
        outs.append((scores.softmax(-1) @ vs).transpose(0, 1))
    return torch.cat(outs)


BACKENDS = [SDPA, EAGER, Backend("varlen", "a reference", _reference_varlen)]


@pytest.mark.parametrize("model_type", CAUSAL + ENCODERS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_packed_rows_equal_transformers_own_forward_of_each_row(
    tmp_path: Path, model_type: str, backend: Backend
) -> None:
    from transformers import AutoModel

    folder = base_folder(tmp_path / "base", model_type)
    rows = rows_of(6)
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    classifier = classifier_of(folder, method="full", backend=backend).eval()
    batch = make_batch(rows, CPU.device, classifier.causal, classifier.first_position)
    with torch.no_grad():
        packed = classifier.hidden(batch)[0].split(batch.lengths)
        for row, mine in zip(rows, packed, strict=True):
            alone = plain(torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "max"])
@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_probabilities_of_a_batch_are_those_of_its_rows_one_by_one(
    tmp_path: Path, model_type: str, pooling: str
) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base", model_type), pooling=pooling).eval()
    rows = rows_of(8)
    with torch.no_grad():
        together = classifier.log_probabilities(rows, CPU.device)
        alone = torch.cat([classifier.log_probabilities([row], CPU.device) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.exp().sum(1), torch.ones(len(rows)))


def test_a_row_does_not_feel_its_neighbours(tmp_path: Path) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base"), pooling="max").eval()
    rows = rows_of(6)
    others = [rows[0], *rows_of(5, seed=99)]
    with torch.no_grad():
        one, two = (classifier.log_probabilities(batch, CPU.device)[0] for batch in (rows, others))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_padding_on_the_right_needs_no_mask_for_a_causal_model(tmp_path: Path) -> None:
    """Masked, unmasked and packed: three ways to the same states."""
    from transformers import AutoModel

    folder = base_folder(tmp_path / "base")
    plain = AutoModel.from_pretrained(folder).eval()
    classifier = classifier_of(folder, method="full").eval()
    row = rows_of(1)[0]
    padded = torch.tensor([row + [0] * 7])
    mask = torch.tensor([[1] * len(row) + [0] * 7])
    with torch.no_grad():
        masked = plain(padded, attention_mask=mask).last_hidden_state[0, : len(row)]
        unmasked = plain(padded).last_hidden_state[0, : len(row)]
        packed = classifier.hidden(make_batch([row], CPU.device, True))[0]
    torch.testing.assert_close(masked, unmasked, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed, unmasked, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("objective", ["head", "instruction"])
@pytest.mark.parametrize("backend", [SDPA, BACKENDS[2]], ids=lambda b: b.name)
def test_every_backend_gives_the_gradients_of_eager(tmp_path: Path, backend: Backend, objective: str) -> None:
    folder, gradients = base_folder(tmp_path / "base"), []
    for each in (EAGER, backend):
        classifier = classifier_of(folder, objective, backend=each)
        classifier.loss(rows_of(6, prefix=PREFIX), torch.tensor([0, 1, 2, 2, 1, 0]), 0.0)[0].backward()
        gradients.append([p.grad for p in classifier.parameters() if p.requires_grad])
    for eager, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, mine, rtol=1e-3, atol=1e-4)


def test_a_kernel_without_dropout_is_passed_over_where_attention_drops(tmp_path: Path) -> None:
    calls: list[float] = []

    def no_dropout(*args: Any) -> torch.Tensor:
        calls.append(args[-1])
        return _reference_varlen(*args)  # type: ignore[no-any-return, no-untyped-call]

    backend = Backend("varlen", "a reference", no_dropout, supports_dropout=False)
    folder = base_folder(tmp_path / "base", "bert", dropout=0.1)
    classifier = classifier_of(folder, method="full", backend=backend).train()
    classifier.loss(rows_of(4), torch.zeros(4, dtype=torch.int64), 0.0)[0].backward()
    assert calls == []
    classifier.eval().log_probabilities(rows_of(4), CPU.device)
    assert calls == [0.0, 0.0]


def test_a_kernel_gets_one_format_under_autocast(tmp_path: Path) -> None:
    """A Llama held in fp32 turns queries and keys, not values, into fp32 by its rotary embedding."""
    seen: set[tuple[torch.dtype, ...]] = set()

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.add((q.dtype, k.dtype, v.dtype))
        return _reference_varlen(q, k, v, *rest)  # type: ignore[no-any-return, no-untyped-call]

    backend = Backend("varlen", "a spy", spy)
    classifier = classifier_of(base_folder(tmp_path / "base"), method="full", backend=backend, runtime=HALF)
    with HALF.autocast():
        classifier.loss(rows_of(4), torch.zeros(4, dtype=torch.int64), 0.0)[0].backward()
    assert seen == {(torch.bfloat16,) * 3}


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_label_scores_are_finer_than_the_format_of_the_base(tmp_path: Path, objective: str) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base"), objective, runtime=HALF).eval()
    with torch.no_grad(), HALF.autocast():
        scores = classifier.log_probabilities(rows_of(6), CPU.device)
        loss, _ = classifier.loss(rows_of(6), torch.zeros(6, dtype=torch.int64), 0.0)
    assert scores.dtype == loss.dtype == torch.float32
    assert (scores != scores.to(torch.bfloat16).float()).any()


@pytest.mark.parametrize("lora", [{}, {"train_embeddings": True}], ids=["frozen table", "trained table"])
def test_token_vectors_are_dropped_in_training_alone(tmp_path: Path, lora: dict[str, Any]) -> None:
    folder, rows = base_folder(tmp_path / "base"), rows_of(4)
    classifier = classifier_of(folder, lora=lora, embedding_dropout=0.5)
    plain = classifier_of(folder, lora=lora).eval()
    with torch.no_grad():
        one, two = (classifier.train().log_probabilities(rows, CPU.device) for _ in range(2))
        assert not torch.allclose(one, two)
        assert torch.equal(
            classifier.eval().log_probabilities(rows, CPU.device), plain.log_probabilities(rows, CPU.device)
        )


def test_the_last_token_of_an_answer_passes_no_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It predicts nothing: each row has its prompt and its answer but for that token, the shared beginning once."""
    classifier, read = classifier_of(base_folder(tmp_path / "base"), "instruction"), []
    hidden = classifier.hidden
    monkeypatch.setattr(
        classifier,
        "hidden",
        lambda batch, **reads: read.append(batch.inputs["input_ids"].numel()) or hidden(batch, **reads),
    )
    prompts, labels = rows_of(4, prefix=PREFIX), torch.tensor([0, 1, 2, 2])
    _, targets = classifier.loss(prompts, labels)
    tokens = sum(map(len, prompts)) - 3 * common_prefix(prompts)
    assert targets == sum(len(ANSWERS[label]) for label in labels.tolist())
    assert read == [tokens + targets - len(prompts)]


@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["no shared beginning", "shared beginning"])
@pytest.mark.parametrize(("objective", "consistency"), [("head", 0.0), ("head", 1.0), ("instruction", 0.0)])
def test_a_bucket_gives_the_loss_and_the_gradients_of_its_rows(
    tmp_path: Path, objective: str, consistency: float, prefix: list[int] | None
) -> None:
    classifier = classifier_of(base_folder(tmp_path / "base"), objective).eval()
    labels, results = torch.tensor([0, 1, 2, 2, 1]), []
    for bucket in (0, 64):
        batch, targets = classifier.pack_for_loss(rows_of(5, prefix=prefix), labels, consistency, bucket)
        loss = classifier.loss_of_packed(batch, consistency=consistency)
        classifier.zero_grad()
        loss.backward()
        gradients = {name: p.grad for name, p in classifier.named_parameters() if p.grad is not None}
        results.append((batch.inputs["input_ids"].numel(), targets, loss, gradients))
    (tokens, targets, loss, gradients), (in_bucket, same_targets, same_loss, same_gradients) = results
    assert in_bucket % 64 == 0 and 0 < in_bucket - tokens <= 64
    assert same_targets == targets and gradients
    torch.testing.assert_close(same_loss, loss)
    torch.testing.assert_close(same_gradients, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["head", "instruction"])
def test_batches_in_a_bucket_differ_in_the_numbers_in_tensors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Rows of other lengths, with answers of other lengths."""
    classifier = classifier_of(base_folder(tmp_path / "base"), objective)
    kernel = Backend("varlen", "", lambda *_: torch.zeros(()), supports_dropout=False)
    monkeypatch.setattr(classifier, "backend", kernel)
    assert classifier.why_shapes_differ() == ""
    outlines, tokens = [], []
    for seed, labels in ((1, [0, 0, 0, 0]), (2, [0, 1, 2, 1])):
        for bucket in (0, 64):
            rows = rows_of(4, prefix=PREFIX, seed=seed)
            batch, _ = classifier.pack_for_loss(rows, torch.tensor(labels), bucket=bucket)
            outlines.append(outline(batch))
            tokens.append(sum(map(len, rows)))
    assert tokens[0] != tokens[2] and outlines[0] != outlines[2]
    assert outlines[1] == outlines[3]


def test_what_keeps_batches_from_having_few_shapes_is_said(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    assert "lengths on the host" in classifier_of(folder, pooling="mean").why_shapes_differ()
    assert "padded to the longest row (sdpa)" in classifier_of(folder, pooling="last").why_shapes_differ()


def test_consistency_is_r_drop(tmp_path: Path) -> None:
    """Against torch's own cross entropy and KL divergence of the same two passes."""
    rows, labels = rows_of(4), torch.tensor([0, 1, 2, 1])
    classifier = classifier_of(base_folder(tmp_path / "base"), embedding_dropout=0.3).train()
    torch.manual_seed(3)
    loss, targets = classifier.loss(rows, labels, consistency=2.0)
    torch.manual_seed(3)
    p, q = classifier.log_probabilities([*rows, *rows], CPU.device).chunk(2)
    divergence = torch.nn.functional.kl_div
    both_ways = divergence(p, q, reduction="sum", log_target=True) + divergence(q, p, reduction="sum", log_target=True)
    entropy = (cross_entropy(p, labels, reduction="sum") + cross_entropy(q, labels, reduction="sum")) / 2
    assert targets == 4 and both_ways > 0.01
    torch.testing.assert_close(loss, entropy + both_ways)


def test_varlen_attn_is_called_as_torch_has_it_and_as_it_had_it_before_grouped_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import functools
    import inspect

    from emotion_assets.models.transformer import attention

    varlen = pytest.importorskip("torch.nn.attention.varlen")
    bound: list[dict[str, Any]] = []

    @functools.wraps(varlen.varlen_attn)  # with its signature
    def now(*args: Any, **options: Any) -> torch.Tensor:
        bound.append(inspect.signature(now).bind(*args, **options).arguments)
        return torch.zeros_like(args[0])

    def before(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        bound.append(locals())
        return torch.zeros_like(query)

    q, k = torch.zeros(5, 4, 8), torch.arange(2.0)[None, :, None].expand(5, 2, 8)
    ends = torch.tensor([0, 5])
    for function in (now, before):
        monkeypatch.setattr(varlen, "varlen_attn", function)
        attention._load_torch_varlen()(q, k, k, ends, ends, 5, 5, True, 0.5, 0.0)
    assert all(call["window_size"] == (-1, 0) and call["scale"] == 0.5 for call in bound)
    assert bound[0]["enable_gqa"] and bound[0]["key"].shape == k.shape
    assert bound[1]["key"][0, :, 0].tolist() == [0, 0, 1, 1]  # of a group each query head has its key head


def test_the_head_reads_what_transformers_sequence_classification_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = base_folder(tmp_path / "base")
    rows = rows_of(7)
    classifier = classifier_of(folder, pooling="last", method="full").eval()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    assert classifier.head is not None
    with torch.no_grad():
        theirs.score.weight.copy_(classifier.head.weight)
        classifier.head.bias.zero_()
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        logits = theirs(ids, attention_mask=(ids != 0).long()).logits
        mine = classifier.log_probabilities(rows, CPU.device)
    torch.testing.assert_close(mine, logits.log_softmax(-1), rtol=1e-4, atol=1e-5)


def _language_model(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["no shared beginning", "shared beginning"])
def test_the_instruction_loss_is_the_language_model_loss_on_answer_tokens(
    tmp_path: Path, prefix: list[int] | None
) -> None:
    folder = base_folder(tmp_path / "base")
    prompts, labels = rows_of(6, prefix=prefix), torch.tensor([0, 1, 2, 2, 1, 0])
    classifier = classifier_of(folder, "instruction").eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        loss, targets = classifier.loss(prompts, labels, 0.0)
        model = _language_model(folder)
        expected = torch.zeros(())
        for prompt, label in zip(prompts, labels.tolist(), strict=True):
            ids = torch.tensor([prompt + ANSWERS[label]])
            goal = torch.tensor([[-100] * len(prompt) + ANSWERS[label]])
            expected += model(ids, labels=goal).loss * len(ANSWERS[label])
    assert targets == sum(len(ANSWERS[label]) for label in labels.tolist())
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_label_words_are_scored_as_the_language_model_scores_them(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    prompts = rows_of(5, prefix=PREFIX)
    classifier = classifier_of(folder, "instruction").eval()
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        mine = classifier.log_probabilities(prompts, CPU.device)
        model = _language_model(folder)
        scores = torch.zeros(len(prompts), len(ANSWERS))
        for p, prompt in enumerate(prompts):
            for a, answer in enumerate(ANSWERS):
                words = answer[:-1]
                logits = model(torch.tensor([prompt + words])).logits[0, len(prompt) - 1 : -1]
                scores[p, a] = -cross_entropy(logits, torch.tensor(words), reduction="sum")
    torch.testing.assert_close(mine, scores.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_an_answer_that_begins_another_is_scored_with_its_end(tmp_path: Path) -> None:
    from emotion_assets.models.transformer.classifier import Classifier

    config = replace(classifier_config_of("instruction"), answers=[[11, 2], [11, 13, 2]])
    backbone = load_backbone(base_folder(tmp_path / "base"), config, CPU)
    assert Classifier(backbone, config, SDPA).scored_answers == [[11, 2], [11, 13, 2]]


def test_a_shared_beginning_changes_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, labels = rows_of(6, prefix=PREFIX), torch.tensor([0, 1, 2, 2, 1, 0])
    folder = base_folder(tmp_path / "base")
    gradients = []
    for share in (True, False):
        if not share:
            monkeypatch.setattr("emotion_assets.models.transformer.classifier.common_prefix", lambda rows: 0)
        classifier = classifier_of(folder, "instruction")
        classifier.loss(prompts, labels, 0.0)[0].backward()
        gradients.append([p.grad for p in classifier.parameters() if p.requires_grad])
    assert common_prefix(prompts) >= len(PREFIX)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_common_beginning_leaves_every_row_a_token_of_its_own() -> None:
    assert common_prefix([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]) == 4
    assert common_prefix([[1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 7]]) == 4
    assert common_prefix([[1, 2, 3, 9], [1, 2, 3, 8]]) == 0
    assert common_prefix([[1, 2, 3, 4, 5]]) == 0


def test_a_window_shorter_than_the_rows_is_refused(tmp_path: Path) -> None:
    from emotion_assets.models.transformer.attention import packed_attention
    from emotion_assets.settings.errors import UserError

    layout = Layout.of([9], [-1], True, CPU.device)
    x = torch.zeros(1, 2, 9, 8)
    with pytest.raises(UserError, match="max_length"):
        packed_attention(torch.nn.Identity(), x, x, x, None, layout=layout, sliding_window=4)


def _chosen(asked: str, monkeypatch: pytest.MonkeyPatch, **found: object) -> Backend:
    """The choice on a CUDA GPU in bf16, with these kernels in place of real ones; the probe runs on the CPU."""
    from emotion_assets.models.transformer import attention
    from emotion_assets.training.runtime import Runtime

    def missing() -> object:
        raise ImportError("not installed")

    def finder(name: str) -> Callable[[], object]:
        return (lambda: found[name]) if name in found else missing

    kernels = {name: replace(kernel, load=finder(name)) for name, kernel in attention.VARLEN_KERNELS.items()}
    check = attention._check_against_eager
    monkeypatch.setattr(attention, "VARLEN_KERNELS", kernels)
    monkeypatch.setattr(attention, "_check_against_eager", lambda kernel, runtime: check(kernel, half_cpu))
    half_cpu = Runtime(torch.device("cpu"), torch.bfloat16, "test")
    return choose_backend(asked, Runtime(torch.device("cuda"), torch.bfloat16, "test"))


def test_the_first_kernel_that_agrees_with_eager_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _chosen("auto", monkeypatch, flash_attention_2=_reference_varlen)
    assert backend.name == "flash_attention_2"
    assert "not varlen: not installed" in backend.why


def test_a_kernel_that_differs_from_eager_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def aligned_to_the_start(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, dropout):  # type: ignore[no-untyped-def]
        return _reference_varlen(q, k, v, cu_q, cu_k, max_q, max_k, False, scale, dropout)

    backend = _chosen("auto", monkeypatch, flash_attention_2=aligned_to_the_start)
    assert backend.name == "sdpa"
    assert "not flash_attention_2: differs from eager attention by" in backend.why


def test_the_kernel_asked_for_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"flash_attention_2": _reference_varlen, "varlen": _reference_varlen}
    assert _chosen("flash_attention_2", monkeypatch, **both).name == "flash_attention_2"
    assert _chosen("auto", monkeypatch, **both).name == "varlen"  # torch's own needs no other package


def test_the_cpu_takes_sdpa_and_says_why() -> None:
    assert str(choose_backend("auto", CPU)).startswith("sdpa (the kernels for rows of unequal length need a CUDA GPU")
    assert choose_backend("eager", CPU).name == "eager"


def test_a_profile_can_name_every_backend_and_no_other() -> None:
    names = get_args(TransformerModel.model_fields["attention"].annotation)
    assert set(names) == {"auto", *PADDED_BACKENDS, *VARLEN_KERNELS}


def test_the_hub_kernel_is_fetched_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _chosen("auto", monkeypatch, hub_kernel=_reference_varlen).name == "sdpa"
    assert _chosen("hub_kernel", monkeypatch, hub_kernel=_reference_varlen).name == "hub_kernel"
