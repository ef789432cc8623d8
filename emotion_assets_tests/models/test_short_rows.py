"""The attention for short rows in half precision on a CPU."""

from __future__ import annotations

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


def _graph(node: object) -> list[object]:
    """All nodes of an autograd graph."""
    nodes, todo = [], [node]
    while todo:
        current = todo.pop()
        if current is not None:
            nodes.append(current)
            todo += [parent for parent, _ in current.next_functions]  # type: ignore[attr-defined]
    return nodes
