"""Models that need nothing but torch, each with something of its own that a compiler can get wrong.

Promised: every model trains (its loss depends on every parameter that wants a gradient) and infers; ``tiny`` compiles
in a second or two, ``bench`` takes up to some hundred MiB.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.suite.entry import Case, Entry, mean_square
from benchmarks.suite.layers import Block, Residual, convolve, next_word_loss, words
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class GPT(nn.Module):
    """A decoder-only transformer that returns its loss; the word embedding is the output layer too where ``tied``."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        length: int,
        *,
        tied: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, causal=True, drop=drop) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.drop = nn.Dropout(drop)
        nn.init.normal_(self.embed.weight, std=0.05)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.drop(self.embed(ids) + self.place[: ids.shape[1]])
        for block in self.blocks:
            x = self.layer(block, x)
        return next_word_loss(self.head(self.norm(x)), ids)

    def layer(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block; what a subclass changes."""
        return block(x)


class CheckpointedGPT(GPT):
    """Keeps only what enters each block and runs the block again in backward."""

    def layer(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=False)


class BrokenGPT(GPT):
    """Dynamo breaks the graph after every block."""

    def layer(self, block: nn.Module, x: Tensor) -> Tensor:
        y = block(x)
        torch._dynamo.graph_break()
        return y


def _gpt(kind: type[GPT] = GPT, **given: Any) -> Any:
    def make(tiny: bool) -> Case:
        vocabulary, width, heads, layers, rows, length = (97, 32, 2, 2, 2, 12) if tiny else (4096, 256, 4, 4, 8, 128)
        model = kind(vocabulary, width, heads, layers, length, **given)
        return Case(model, {"ids": words(rows, length, vocabulary)}, lambda loss: loss)

    return make


def _mlp_bn(tiny: bool) -> Case:
    rows, width = (16, 24) if tiny else (4096, 512)
    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return Case(nn.Sequential(*parts, nn.Linear(width, 5)), {"input": torch.randn(rows, width)}, mean_square)


def _convnet(tiny: bool) -> Case:
    base, rows, pixels = (8, 2, 16) if tiny else (32, 16, 96)
    model = nn.Sequential(
        nn.Conv2d(3, base, 7, 2, 3, bias=False),
        nn.BatchNorm2d(base),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(base, base),
        Residual(base, 2 * base, 2),
        Residual(2 * base, 4 * base, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * base, 10),
    )
    return Case(model, {"input": torch.randn(rows, 3, pixels, pixels)}, mean_square)


class Recurrent(nn.Module):
    """A gated cell written out, run along a sequence by a Python loop; every state is returned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            r1, z1, n1 = self.into(x[:, t]).chunk(3, -1)
            r2, z2, n2 = self.back(state).chunk(3, -1)
            z = torch.sigmoid(z1 + z2)
            state = z * state + (1 - z) * torch.tanh(n1 + torch.sigmoid(r1 + r2) * n2)
            states.append(state)
        return torch.stack(states, 1)


def _rnn(tiny: bool) -> Case:
    rows, length, width = (3, 5, 16) if tiny else (256, 24, 256)
    return Case(Recurrent(width), {"x": torch.randn(rows, length, width)}, mean_square)


class VAE(nn.Module):
    """Convolutions down, a sample by given noise, transposed convolutions back; returns picture, mean, log-variance."""

    def __init__(self, base: int, hidden: int, side: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, base, 4, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(base, 2 * base, 4, 2, 1), nn.LeakyReLU(0.1)
        )
        flat = 2 * base * (side // 4) ** 2
        self.mean, self.logvar, self.start = nn.Linear(flat, hidden), nn.Linear(flat, hidden), nn.Linear(hidden, flat)
        self.up = nn.Sequential(
            nn.Unflatten(1, (2 * base, side // 4, side // 4)),
            nn.ConvTranspose2d(2 * base, base, 4, 2, 1),
            nn.ELU(),
            nn.ConvTranspose2d(base, 3, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.down(image).flatten(1)
        mean, logvar = self.mean(h), self.logvar(h)
        return self.up(self.start(mean + noise * torch.exp(0.5 * logvar))), mean, logvar


def _vae(tiny: bool) -> Case:
    base, hidden, side, rows = (4, 6, 8, 3) if tiny else (32, 64, 64, 32)
    image = torch.rand(rows, 3, side, side)

    def loss(out: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        picture, mean, logvar = out
        apart = F.binary_cross_entropy(picture, image.to(picture.dtype))
        return apart - 0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).mean()

    return Case(VAE(base, hidden, side), {"image": image, "noise": torch.randn(rows, hidden)}, loss)


class Translator(nn.Module):
    """Attention encoder and decoder with embeddings of their own."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.encode = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.decode = nn.ModuleList(Block(width, heads, causal=True, crossed=True) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, x = self.source(source), self.target(target)
        for block in self.encode:
            memory = block(memory)
        for block in self.decode:
            x = block(x, memory)
        return self.head(x)


def _translator(tiny: bool) -> Case:
    vocabulary, width, heads, layers, rows, length = (50, 16, 2, 1, 2, 7) if tiny else (2048, 192, 4, 3, 8, 96)
    target = words(rows, length, vocabulary)
    given = {"source": words(rows, length + 2, vocabulary), "target": target}
    return Case(Translator(vocabulary, width, heads, layers), given, lambda logits: next_word_loss(logits, target))


class Lookup(nn.Module):
    """Embedding bags, gathering, scattering, indexed writes, sorting and top-k: memory that is reached by numbers."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, width, mode="mean")
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        self.mix = nn.Linear(width, width)

    def forward(self, ids: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bags = self.bag(ids, offsets)
        items = self.mix(self.table(ids))
        picked = items.index_select(0, rows)
        summed = torch.zeros_like(bags).index_add(0, rows % bags.shape[0], picked)
        spread = torch.zeros_like(items).scatter_add(0, rows[:, None].expand(-1, items.shape[1]), picked)
        written = spread.index_put((rows[:2],), items[:2], accumulate=True)
        ordered = items.sort(0).values.gather(1, (rows % items.shape[1])[None, :].expand(items.shape[0], -1))
        return bags + summed, written.masked_fill(written < -1, 0.5), ordered.topk(2, dim=0).values


def _lookup(tiny: bool) -> Case:
    vocabulary, width, count, bags = (40, 8, 12, 4) if tiny else (20_000, 128, 8192, 512)
    given = {
        "ids": torch.randint(0, vocabulary, (count,)),
        "offsets": torch.arange(0, count, count // bags),
        "rows": torch.randperm(count)[: count // 2],
    }
    return Case(Lookup(vocabulary, width), given, mean_square)


class SmallUNet(nn.Module):
    """Down, up by interpolation, with the way down joined in by concatenation."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.one, self.two, self.three = convolve(3, base), convolve(base, 2 * base), convolve(2 * base, 4 * base)
        self.four, self.five = convolve(6 * base, 2 * base), convolve(3 * base, base)
        self.last = nn.Conv2d(base, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        b = self.two(F.avg_pool2d(a, 2))
        c = self.three(F.max_pool2d(b, 2))
        d = self.four(torch.cat([F.interpolate(c, scale_factor=2, mode="nearest"), b], 1))
        up = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(self.five(torch.cat([up, a], 1)))


def _small_unet(tiny: bool) -> Case:
    base, rows, pixels = (8, 2, 16) if tiny else (32, 4, 96)
    return Case(SmallUNet(base), {"x": torch.randn(rows, 3, pixels, pixels)}, mean_square)


class InPlace(nn.Module):
    """Writes into its own activations, whole and in part, and counts its calls in a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.calls: Tensor
        self.average: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.one(x)
        y.add_(1.0).mul_(0.5)
        y[:, ::2] = y[:, ::2] * 2.0 - 1.0
        y[0].zero_()
        z = F.relu_(self.two(y.clone())) * 1.5
        z[:, : z.shape[1] // 2] += y[:, : y.shape[1] // 2]
        z.clamp_(max=3.0)
        self.average.mul_(0.9).add_(z.detach().mean(0), alpha=0.1)
        return z


def _in_place(tiny: bool) -> Case:
    rows, width = (6, 10) if tiny else (4096, 768)
    return Case(InPlace(width), {"x": torch.randn(rows, width)}, mean_square)


class Outputs(nn.Module):
    """Returns results, views of them, one twice, whole numbers, and an input in a nest of containers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = torch.tanh(self.one(x))
        z = self.two(y)
        left, right = z.chunk(2, -1)
        return {
            "y": y,
            "turned": y.t(),
            "halves": [left, right * 1.0],
            "best": z.argmax(-1),
            "again": (y, x),
            "sum": z.sum(),
            "some": z[:, 1::3],
        }


def _outputs(tiny: bool) -> Case:
    rows, width = (5, 8) if tiny else (4096, 512)
    return Case(Outputs(width), {"x": torch.randn(rows, width)}, mean_square)


class Autocast(nn.Module):
    """Convolution, linear layers and attention in bfloat16, normalisation and softmax in float32, by autocast."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv1d(width, width, 3, padding=1), Block(width, heads)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = F.gelu(self.conv(x.transpose(1, 2)).transpose(1, 2))
            return torch.log_softmax(self.head(self.norm(self.block(y))), -1)


def _autocast(tiny: bool) -> Case:
    rows, length, width, heads = (2, 9, 16, 2) if tiny else (8, 256, 256, 4)
    return Case(Autocast(width, heads), {"x": torch.randn(rows, length, width)}, mean_square)


class Norms(nn.Module):
    """One of each normalisation, with depthwise and strided convolutions between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 2, 2)
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.batch, self.group, self.instance = (
            nn.BatchNorm2d(width, momentum=0.3),
            nn.GroupNorm(2, width),
            nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
        )
        self.layer, self.rms = nn.LayerNorm(width), nn.RMSNorm(width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.batch(self.enter(x))
        y = y + self.group(F.hardswish(self.depth(y)))
        y = F.mish(self.instance(y)).permute(0, 2, 3, 1)
        return self.rms(y + self.scale * F.softplus(self.layer(y))).mean((1, 2))


def _norms(tiny: bool) -> Case:
    width, rows, pixels = (8, 3, 12) if tiny else (64, 16, 96)
    return Case(Norms(width), {"x": torch.randn(rows, 3, pixels, pixels)}, mean_square)


class Shared(nn.Module):
    """The same layer several times, one part without gradients, and a detached branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.fixed, self.head = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.fixed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = x + torch.sin(self.layer(x))
        weight = torch.softmax(self.fixed(x), -1)
        return self.head(x * weight + self.fixed(x.detach()).square())


def _shared(tiny: bool) -> Case:
    rows, width = (6, 12) if tiny else (8192, 384)
    return Case(Shared(width), {"x": torch.randn(rows, width)}, mean_square)


PLAIN: tuple[Entry, ...] = (
    Entry("gpt", _gpt()),
    Entry("gpt_tied", _gpt(tied=True)),
    Entry("gpt_dropout", _gpt(drop=0.2)),
    Entry("gpt_checkpoint", _gpt(CheckpointedGPT)),
    Entry("gpt_breaks", _gpt(BrokenGPT), tags=frozenset({"breaks"})),
    Entry("mlp_bn", _mlp_bn),
    Entry("convnet", _convnet),
    Entry("rnn", _rnn),
    Entry("vae", _vae),
    Entry("translator", _translator),
    Entry("lookup", _lookup),
    Entry("small_unet", _small_unet),
    Entry("in_place", _in_place),
    Entry("outputs", _outputs),
    Entry("autocast", _autocast, tags=frozenset({"half"})),
    Entry("norms", _norms),
    Entry("shared", _shared),
)
