"""What really was allocated: the framework allocators' own counts while something runs, not the plan's arithmetic.

Comes in: something to run, and the devices whose bytes count. Goes out: bytes. On the CPU the events of its allocator on this
thread are added up; other devices are asked for the statistics of theirs, which are of the whole process and are reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lowtide.core.errors import UserError
from lowtide.runtime.load import release_retained
from lowtide.torch_compat import memory_events, profiling

_PEAK, _NOW = "allocated_bytes.all.peak", "allocated_bytes.all.current"
_TIMES = "allocation.all.allocated"


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes over what was held before: the most at once, what is still held at the end, and how many allocations.
    ``elsewhere``: by device, the same of further devices."""

    peak_nbytes: int
    end_nbytes: int
    allocations: int
    elsewhere: Mapping[str, Measured]

    def on(self, device: str) -> Measured:
        """What was measured of one device."""
        return self if device == "cpu" else self.elsewhere[device]


def measure(run: Callable[[], Any], devices: Iterable[str] = ()) -> Measured:
    """Run once and count every allocation and free that the framework's CPU allocator makes on this thread, and what the
    allocators of ``devices`` (beside the CPU's) make.

    What earlier calls retained is given back first, so that it counts where it is taken again.

    Raises:
        UserError: a profiler runs already.
    """
    if profiling():
        raise UserError("memory cannot be measured while a profiler runs on this thread")
    release_retained()
    before = {d: _begin(d) for d in devices if d != "cpu"}
    _, events = memory_events(run)
    elsewhere = {d: _end(d, was) for d, was in before.items()}
    return Measured(_peak(events), sum(events), sum(e > 0 for e in events), elsewhere)


def peak_of(run: Callable[[], Any], device: str) -> tuple[Any, int]:
    """What ``run`` gives, and the most bytes on ``device`` that it held at once over what was held before."""
    if device == "cpu":
        result, events = memory_events(run)
        return result, _peak(events)
    before = _begin(device)
    result = run()
    return result, _end(device, before).peak_nbytes


def _peak(events: Iterable[int]) -> int:
    live = peak = 0
    for e in events:
        live += e
        peak = max(peak, live)
    return peak


def _begin(device: str) -> Mapping[str, Any]:
    """The statistics of a device's allocator, from where its peak counts anew, once all work that was begun there is done."""
    torch.accelerator.synchronize(device)
    torch.accelerator.reset_peak_memory_stats(device)
    return torch.accelerator.memory_stats(device)


def _end(device: str, before: Mapping[str, Any]) -> Measured:
    torch.accelerator.synchronize(device)
    now = torch.accelerator.memory_stats(device)
    held = before[_NOW]
    return Measured(now[_PEAK] - held, now[_NOW] - held, now[_TIMES] - before[_TIMES], {})
