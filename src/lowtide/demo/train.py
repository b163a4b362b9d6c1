"""Train the small GPT under several backends, which take turns, and measure them.

Comes in: names of backends (None: eager), sizes, a number of steps. Goes out: per backend a frozen ``Run`` with losses, times
and the bytes of one measured iteration. Promised: every backend starts from the same weights and sees the same batches; step
k of all of them runs before step k + 1 of any, in both directions in turn, so that a machine that becomes slower does so for all.
Peaks are bytes beyond what the caller holds when the forward call starts, up to the end of the backward call, counted
by the framework's own allocator events.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

import lowtide
from lowtide.demo.gpt import GPT, Size
from lowtide.torch_compat import memory_events

SEED = 2024
OURS = "lowtide"


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured. ``seconds``: per step. ``forward`` and ``backward`` are live bytes after each allocation or free of one
    iteration."""

    name: str
    size: Size
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    measured_peak_nbytes: int
    promised_peak_nbytes: int | None
    lower_bound_nbytes: int | None
    forward: tuple[int, ...]
    backward: tuple[int, ...]

    @property
    def first_seconds(self) -> float:
        """The first step, with everything that is compiled in it."""
        return self.seconds[0]

    @property
    def step_seconds(self) -> float:
        """The median of the other steps."""
        return statistics.median(self.seconds[1:])

    def times(self, other: Run) -> float:
        """The median over all steps but the first of this run's time divided by the other's at the same step."""
        return statistics.median(a / b for a, b in zip(self.seconds[1:], other.seconds[1:], strict=True))


def train(
    backends: Sequence[str | None], text: bytes, size: Size, steps: int, on_step: Callable[[int, int, float], None]
) -> tuple[list[Run], dict[str, str]]:
    """Train under each backend for ``steps`` (at least 2) steps of AdamW; ``on_step(k, step, loss)`` is called after each of
    the ``k``-th backend. Returns what was measured, and why foreign backends failed, by name.

    Raises:
        RuntimeError: eager or Lowtide failed.
    """
    going = [_training(b, text, size, steps) for b in backends]
    turns = list(range(len(backends)))
    runs: dict[int, Run] = {}
    refused: dict[str, str] = {}
    for step in range(steps + 1):
        for k in turns if step % 2 else turns[::-1]:
            try:
                on_step(k, step, next(going[k]))
            except StopIteration as e:
                runs[k] = e.value
            except RuntimeError as e:
                name = backends[k]
                if name is None or name == OURS:
                    raise
                refused[name] = str(e).strip().splitlines()[0]
        turns = [k for k in turns if backends[k] not in refused]
    return [runs[k] for k in turns], refused


def _training(backend: str | None, text: bytes, size: Size, steps: int) -> Generator[float, None, Run]:
    """One backend's training: gives the loss of each step, and what was measured at the end."""
    torch.manual_seed(SEED)
    plain = GPT(size)
    model = plain if backend is None else torch.compile(plain, backend=backend)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    batches = _Batches(text, size)
    losses: list[float] = []
    seconds: list[float] = []
    for _ in range(steps):
        given = batches.next()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(*given)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        del loss
        yield losses[-1]
    given = batches.next()
    optimizer.zero_grad(set_to_none=True)
    forward, backward = _measured(model, given)
    promised = bound = None
    if backend == OURS:
        optimizer.zero_grad(set_to_none=True)
        figures = lowtide.memory_analysis(lambda: model(*given).backward())
        promised, bound = figures.promised_peak_bytes, figures.lower_bound_bytes
    peak = max((0, *forward, *backward))
    return Run(backend or "eager", size, tuple(losses), tuple(seconds), peak, promised, bound, forward, backward)


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
