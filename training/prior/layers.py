"""What the transformers of all families are made of: attention, pre-normalised layers, and how weights start."""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.training.prior.rotary import HEAD_WIDTH, Rotary


class Attention(nn.Module):
    """Multi-head attention of ``[B, T, dim]`` to itself or to a context ``[B, S, context_dim]``, without a mask.

    ``bias``: whether query, key and value have one.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int | None = None,
        head_width: int = HEAD_WIDTH,
        bias: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_query = nn.Linear(dim, inner, bias=bias)
        self.to_key_value = nn.Linear(context_dim or dim, 2 * inner, bias=bias)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, rotary: Rotary | None = None) -> Tensor:
        """Float ``[B, T, dim]`` to the same shape, or to ``[B, 1, dim]`` where the result is the same for all T."""
        source = x if context is None else context
        if source.shape[1] == 1 and not self.training:
            return self._of_one_key(source)
        query = rearrange(self.to_query(x), "b t (h d) -> b h t d", h=self.heads)
        halves = self.to_key_value(source).chunk(2, -1)
        key, value = (rearrange(half, "b t (h d) -> b h t d", h=self.heads) for half in halves)
        if rotary is not None:
            query, key = rotary(query), rotary(key)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(mixed, "b h t d -> b t (h d)"))

    def _of_one_key(self, source: Tensor) -> Tensor:
        """What every query gets from a source of one token: its softmax is 1, so queries and keys do not matter.

        Training goes the long way: processes that train together wait for the gradient of every parameter.
        """
        weight, bias = self.to_key_value.weight, self.to_key_value.bias
        value = functional.linear(source, weight.chunk(2)[1], None if bias is None else bias.chunk(2)[1])
        return self.to_out(value)


class Layer(nn.Module):
    """Pre-normalised attention and feed-forward, each beside its skip connection. The context is not normalised."""

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int | None = None,
        dropout: float = 0.0,
        head_width: int = HEAD_WIDTH,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, context_dim, head_width, bias)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, rotary: Rotary | None = None) -> Tensor:
        """Float ``[B, T, dim]`` to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), context, rotary))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def initialise(model: nn.Module) -> None:
    """Normal weights of deviation 0.02, the last of each residual branch smaller by the number of branches; no bias."""
    branches = 2 * sum(isinstance(module, Layer) for module in model.modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            last_of_branch = name.endswith((".to_out", ".feed_forward.2"))
            std = 0.02 / math.sqrt(branches) if last_of_branch else 0.02
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
