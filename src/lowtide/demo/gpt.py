"""A small GPT over bytes, in plain torch: what people write, with nothing arranged for a compiler.

Comes in: bytes as int64 tensors. Goes out: the mean loss of predicting each next byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Size:
    """How large the model and its batches are."""

    layers: int = 4
    width: int = 256
    heads: int = 8
    context: int = 256
    batch: int = 4


class Block(nn.Module):
    """Attention over the past, then a two-layer perceptron, each on a normalised copy and added back."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)
        self.up = nn.Linear(size.width, 4 * size.width)
        self.down = nn.Linear(4 * size.width, size.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, context, width) -> the same shape."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Embeddings, blocks, and a head over the 256 bytes."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, size.width)
        self.place = nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, 256, bias=False)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Mean loss of ``following`` (batch, context) after ``text`` of the same shape."""
        places = torch.arange(text.shape[1], device=text.device)
        logits = self.head(self.norm(self.blocks(self.byte(text) + self.place(places))))
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())
