"""What really was allocated: the framework allocator's own count while something runs, not the plan's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowtide.core.errors import UserError
from lowtide.runtime.load import release_retained
from lowtide.torch_compat import memory_events, profiling


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes over what was held before: the most at once, what is still held at the end, and how many allocations."""

    peak_nbytes: int
    end_nbytes: int
    allocations: int


def measure(run: Callable[[], Any]) -> Measured:
    """Run once and count every allocation and free that the framework's CPU allocator makes on this thread.

    What earlier calls retained is given back first, so that it counts where it is taken again.

    Raises:
        UserError: a profiler runs already.
    """
    if profiling():
        raise UserError("memory cannot be measured while a profiler runs on this thread")
    release_retained()
    _, events = memory_events(run)
    live = peak = 0
    for e in events:
        live += e
        peak = max(peak, live)
    return Measured(peak, live, sum(e > 0 for e in events))
