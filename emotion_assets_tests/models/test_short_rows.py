"""The attention for short rows in half precision on a CPU."""

from __future__ import annotations

import pytest
import torch

from emotion_assets.models.transformer import attention


def test_short_rows_in_half_precision_agree_with_eager_forward_and_backward() -> None:
    layout = attention.Layout.of([5, 3, 9], [-1, -1, -1], True, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, heads, 17, 64, generator=generator) for heads in (6, 2, 2)]
    results = []
    for backend, dtype in ((attention.SDPA, torch.bfloat16), (attention.EAGER, torch.float32)):
        q, k, v = (x.to(dtype).requires_grad_() for x in inputs)
        out, _ = attention.packed_attention(torch.nn.Identity(), q, k, v, None, layout=layout, backend=backend)
        if dtype == torch.bfloat16:
            assert "_ShortRows" in {type(node).__name__.removesuffix("Backward") for node in _graph(out.grad_fn)}
        out.float().square().sum().backward()
        results.append([out.float(), *(x.grad.float() for x in (q, k, v) if x.grad is not None)])
    for mine, reference in zip(*results, strict=True):
        assert ((mine - reference).norm() / reference.norm()).item() < 0.02


@pytest.mark.parametrize(("heads", "groups", "width", "causal"), [(12, 12, 32, False), (9, 3, 64, True)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_scoring_rows_of_one_length_are_read_as_they_stand(
    dtype: torch.dtype, heads: int, groups: int, width: int, causal: bool
) -> None:
    """As MiniLM and SmolLM2 have them: as eager attention gives it, and the same bits in whatever company."""
    lengths = [1, 1, 2, 3, 3, 3, 22, 22, 31, 32, 33, 128, 129, 140, 140]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, sum(lengths), width, generator=generator).to(dtype) for n in (heads, groups, groups))

    def attend(q, k, v, lengths, backend=attention.SDPA):  # type: ignore[no-untyped-def]
        layout = attention.Layout.of(lengths, [-1] * len(lengths), causal, torch.device("cpu"))
        with torch.inference_mode():
            out, _ = attention.packed_attention(torch.nn.Identity(), q, k, v, None, layout=layout, backend=backend)
        return out.squeeze(0)

    together = attend(q, k, v, lengths)
    reference = attend(q.float(), k.float(), v.float(), lengths, attention.EAGER)
    assert ((together.float() - reference).norm() / reference.norm()).item() < (
        0.02 if dtype != torch.float32 else 1e-5
    )
    for out, *row in zip(together.split(lengths), *(x.split(lengths, dim=2) for x in (q, k, v)), strict=True):
        assert torch.allclose(attend(*(x.contiguous() for x in row), [len(out)]), out, atol=1e-6, rtol=0)


def _graph(node: object) -> list[object]:
    """All nodes of an autograd graph."""
    nodes, todo = [], [node]
    while todo:
        current = todo.pop()
        if current is not None:
            nodes.append(current)
            todo += [parent for parent, _ in current.next_functions]  # type: ignore[attr-defined]
    return nodes
