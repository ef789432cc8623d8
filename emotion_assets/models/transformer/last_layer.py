"""The last layer's feed-forward part, computed for the tokens alone that the loss reads.

What follows attention in a layer treats each token by itself. In the last layer nobody reads the tokens that predict no
answer and are not pooled, so while training they end at its attention: of one layer's work, forward and backward, some
four fifths. In scoring all tokens pass: there a text's bits must not depend on how many rows are beside it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def narrow_last_layer(model: Any) -> bool:
    """Have the last of a causal model's ``layers`` take ``reads``: indices ``[n]`` of the tokens that it returns,
    ``[1, n, H]`` for ``[1, T, H]``. Without them it does what it did.

    Returns:
        Whether it does. A layer with other parts than Llama's is left as it is.
    """
    layer = model.layers[-1]
    if {name for name, _ in layer.named_children()} != PARTS:
        return False
    layer.forward = MethodType(_with_reads(layer.forward), layer)
    return True


def _with_reads(original: Any) -> Any:
    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, reads: Any = None, **kwargs: Any) -> torch.Tensor:
        if reads is None:
            whole: torch.Tensor = original(hidden_states, *args, **kwargs)
            return whole
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        read = (hidden_states + attended).index_select(1, reads)
        narrow: torch.Tensor = read + self.mlp(self.post_attention_layernorm(read))
        return narrow

    return forward
