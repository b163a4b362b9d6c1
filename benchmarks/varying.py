"""Programs whose sizes vary or depend on data, for the tests and the benchmark of the run-time planner.

Each is a module, example arguments, what may vary for ``torch.export``, and ``draw(n)``: arguments at scale ``n`` (1..).

    python -m benchmarks varying

compiles a transformer of four layers with sizes that vary, and prints what the first call took and the first call at each
further length, beside a call at a length that was there before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D = torch.export.Dim.DYNAMIC


@dataclass(frozen=True)
class Varying:
    name: str
    module: nn.Module
    shapes: Any
    draw: Callable[[int], tuple[Any, ...]]

    def exported(self) -> Any:
        with torch.no_grad():
            return torch.export.export(self.module, self.draw(5), dynamic_shapes=self.shapes)


class Layer(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.n1, self.n2, self.heads = nn.LayerNorm(d), nn.LayerNorm(d), heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.o(a.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    """Sequence length varies."""

    def __init__(self, d: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(d, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Detection(nn.Module):
    """What scores above a threshold is kept, decoded and compared pairwise."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.score, self.box = nn.Linear(d, 1), nn.Linear(d, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.score(x).squeeze(-1).sigmoid()
        keep = scores > 0.5
        where = torch.nonzero(keep).squeeze(-1)
        boxes = self.box(x)[where]
        low = boxes[:, :2] - boxes[:, 2:].exp()
        high = boxes[:, :2] + boxes[:, 2:].exp()
        inner = (torch.minimum(high[:, None], high[None]) - torch.maximum(low[:, None], low[None])).clamp(min=0)
        area = ((high - low) * (high - low)).sum(-1).sqrt()
        overlap = inner.prod(-1) / (area[:, None] + area[None] + 1e-3)
        kept = scores[keep]
        return boxes * 2 - 1, (overlap * kept[:, None]).sum(-1).tanh(), where


class Nested(nn.Module):
    """A loop around a conditional around arithmetic, and a conditional inside a conditional."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(d, d) / d**0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def turn(i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
            big = lambda t: ((t @ self.w).relu() * 0.5 + 1).sin()  # noqa: E731
            small = lambda t: ((t * 2).cos() + (t + 1).exp() * 0.1).tanh()  # noqa: E731
            return i + 1, torch.cond(a.sum() > 0, big, small, (a,)) * 0.9 + a * 0.1

        turns = (x[:, 0] > 0).sum().clamp(max=4)
        _, y = torch._higher_order_ops.while_loop(lambda i, a: i < turns, turn, (torch.zeros((), dtype=torch.long), x))

        def inner(t):
            return torch.cond(t.mean() > 0.2, lambda u: (u * 3).sigmoid() * 2, lambda u: (u - 1).square() + u, (t,))

        z = torch.cond(x.sum() > 0, inner, lambda t: (t.abs() + 1).log() * t, (y,))
        return z + y, (y * 2).softmax(-1)


class Beam(nn.Module):
    """One step of a search that lengthens what it has: scores, the best of them, what they came from, one more column."""

    def __init__(self, d: int, words: int) -> None:
        super().__init__()
        self.words, self.out, self.embed = words, nn.Linear(d, words), nn.Embedding(words, d)

    def forward(self, tokens: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        state = self.embed(tokens)
        mixed = (state * state.mean(1, keepdim=True)).cumsum(1).tanh()
        logits = (self.out(mixed[:, -1]) * 3).log_softmax(-1) + scores[:, None]
        best, flat = logits.view(-1).topk(4)
        kept = tokens[flat // self.words]
        return torch.cat([kept, (flat % self.words)[:, None]], 1), best


class Ragged(nn.Module):
    """Rows of different lengths, packed by a mask, worked on and put back; their number is read off the data."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(x.shape[1])[None] < lengths[:, None]
        packed = x[mask]
        y = self.f(packed) + packed
        out = torch.zeros_like(x).masked_scatter(mask[..., None], y)
        total = lengths.sum().item()
        torch._check(total >= 0)
        torch._check(total <= 100000)
        extra = torch.arange(total) * 0.5
        return out * 2 + x, (extra + 1).log().cumsum(0)


class Small(nn.Module):
    """Many operations on few numbers."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(30):
            x = (x + y) * 0.5
            y = (x - y).tanh()
            x = x.relu()
        return x + y


class Words(nn.Module):
    """Different values, how often each, and a table of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found, back, counts = torch.unique(x, return_inverse=True, return_counts=True)
        table = (found[:, None] * 0.25 + torch.arange(8)).sin() * counts[:, None]
        return (table * 2).softmax(-1)[back] + 1, (table + 1).square().sum(-1)


def programs(scale: int = 1) -> list[Varying]:
    """The suite; ``scale`` 1 is for tests, more for measuring."""
    torch.manual_seed(0)
    d = 16 * scale

    def row(n: int) -> Tensor:
        return torch.randn(n * scale, d)

    def ragged(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 6 * scale, d)
        return x, torch.randint(0, 6 * scale + 1, (n,))

    return [
        Varying("transformer", Transformer(d, 4, 2), ({0: D, 1: D},), lambda n: (torch.randn(2 + n % 3, 2 + n * scale, d),)),
        Varying("detection", Detection(d), ({0: D},), lambda n: (row(4 * n),)),
        Varying("nested", Nested(d), ({0: D},), lambda n: (row(n + 1),)),
        Varying("beam", Beam(d, 40 * scale), ({1: D}, None), lambda n: (torch.randint(40, (4, n * scale + 1)), torch.randn(4))),
        Varying("ragged", Ragged(d), ({0: D}, {0: D}), lambda n: ragged(n + 1)),
        Varying("small ops", Small(), ({0: D}, {0: D}), lambda n: (torch.randn(n + 1, 8), torch.randn(n + 1, 8))),
        Varying("words", Words(), ({0: D},), lambda n: (torch.randint(0, 5 * n, (9 * n * scale,)),)),
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    print(
        "| what | first call, s | first call at another length, ms: median | worst | of the first | a call again, ms |"
    )
    print("|-|-:|-:|-:|-:|-:|")
    for train in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        net = Transformer(64, 4, 4)
        call = torch.compile(net, backend="lowtide", dynamic=True)

        def taken(n: int, call: Callable[..., Any] = call, train: bool = train) -> float:
            x = torch.randn(3, n, 64)
            began = time.perf_counter()
            with torch.set_grad_enabled(train):
                y = call(x)
                if train:
                    y.sum().backward()
            return time.perf_counter() - began

        first = taken(17)
        others = [taken(n) for n in range(20, 80, 6)]
        again = statistics.median(taken(n) for n in (62, 68, 74))
        median = statistics.median(others)
        print(
            f"| {'training' if train else 'inference'} | {first:.1f} | {1000 * median:.0f} | {1000 * max(others):.0f} "
            f"| {median / first:.1%} | {1000 * again:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
