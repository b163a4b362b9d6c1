"""What really was allocated: the framework allocator's own count while something runs, not the plan's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lowtide.runtime.load import release_retained
from lowtide.torch_compat import memory_events


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes over what was held before: the most at once, what is still held at the end, and how many allocations."""

    peak_nbytes: int
    end_nbytes: int
    allocations: int


def measure(run: Callable[[], Any], *, device: str = "cpu") -> Measured:
    """Run once and count. What earlier calls retained is given back first, so that it counts where it is taken again.

    On CPU every allocation and free of this thread is counted one by one; on CUDA the allocator's own statistics are
    read. The result of ``run`` is dropped before the end is taken.
    """
    release_retained()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        count = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
        run()
        torch.cuda.synchronize()
        after = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
        peak = torch.cuda.max_memory_allocated() - before
        return Measured(peak, torch.cuda.memory_allocated() - before, after - count)
    _, events = memory_events(run)
    live = peak = 0
    for e in events:
        live += e
        peak = max(peak, live)
    return Measured(peak, live, sum(e > 0 for e in events))
