"""Train the small GPT under one backend and measure it.

Comes in: a backend's name (None: eager), sizes, a number of steps. Goes out: a frozen ``Run`` with losses, times and
the bytes of one measured iteration. Promised: every backend starts from the same weights and sees the same batches.
Peaks are bytes beyond what the caller holds when the forward call starts, up to the end of the backward call, counted
by the framework's own allocator events.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import lowtide
from lowtide.demo.gpt import GPT, Size
from lowtide.torch_compat import memory_events

SEED = 2024


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured. ``forward`` and ``backward`` are live bytes after each allocation or free of one iteration."""

    name: str
    size: Size
    losses: tuple[float, ...]
    first_seconds: float
    step_seconds: float
    measured_peak_nbytes: int
    promised_peak_nbytes: int | None
    lower_bound_nbytes: int | None
    forward: tuple[int, ...]
    backward: tuple[int, ...]


def train(backend: str | None, text: bytes, size: Size, steps: int, on_step: Callable[[int, float], None]) -> Run:
    """Train for ``steps`` (at least 2) steps of AdamW; ``on_step(step, loss)`` is called after each.

    ``first_seconds`` is the first step with everything that is compiled in it; ``step_seconds`` the median of the rest.
    """
    torch.manual_seed(SEED)
    plain = GPT(size)
    model = plain if backend is None else torch.compile(plain, backend=backend)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    batches = _Batches(text, size)
    losses: list[float] = []
    seconds: list[float] = []
    for step in range(steps):
        given = batches.next()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(*given)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        on_step(step, losses[-1])
        del loss
    given = batches.next()
    optimizer.zero_grad(set_to_none=True)
    forward, backward = _measured(model, given)
    promised = bound = None
    if backend == "lowtide":
        optimizer.zero_grad(set_to_none=True)
        figures = lowtide.memory_analysis(lambda: model(*given).backward())
        promised, bound = figures.promised_peak_bytes, figures.lower_bound_bytes
    return Run(
        backend or "eager",
        size,
        tuple(losses),
        seconds[0],
        statistics.median(seconds[1:]),
        max((0, *forward, *backward)),
        promised,
        bound,
        forward,
        backward,
    )


class _Batches:
    """Random pieces of the text, the same for everyone."""

    def __init__(self, text: bytes, size: Size) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.size, self.random = size, torch.Generator().manual_seed(SEED)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of text and the same text one byte later, both (batch, context) int64."""
        starts = torch.randint(len(self.text) - self.size.context - 1, (self.size.batch,), generator=self.random)
        pieces = torch.stack([self.text[s : s + self.size.context + 1] for s in starts.tolist()]).long()
        return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


def _measured(
    model: Callable[..., torch.Tensor], given: tuple[torch.Tensor, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Live bytes after each allocator event of one forward, and on from there of its backward."""
    lowtide.release_retained()
    loss, there = memory_events(lambda: model(*given))
    forward = tuple(itertools.accumulate(there))
    _, back = memory_events(loss.backward)
    return forward, tuple(itertools.accumulate(back, initial=forward[-1] if forward else 0))[1:]
