"""What really was allocated: the framework allocators' own counts while something runs, not the plan's arithmetic.

Comes in: something to run, and the devices whose bytes count. Goes out: bytes. On the CPU the events of its allocator on this
thread are added up; other devices are asked for the statistics of theirs, which are of the whole process and are reset.
Promised: measurements may run inside each other and side by side; none loses its peak to another's reset.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lowtide.core.errors import UserError
from lowtide.ir.graph import PINNED
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

    def on(self, device: str) -> Measured | None:
        """What was measured of one device; None where it was not among those that count."""
        return self if device == "cpu" else self.elsewhere.get(device)


def measure(run: Callable[[], Any], devices: Iterable[str] = ()) -> Measured:
    """Run once and count every allocation and free that the framework's CPU allocator makes on this thread, and what the
    allocators of ``devices`` (beside the CPU's) make. Pinned memory is counted by nobody: devices have no one way
    to ask for it.

    What earlier calls retained is given back first, so that it counts where it is taken again; so is garbage in cycles, which
    Python would end at some allocation of ``run``.

    Raises:
        UserError: a profiler runs already.
    """
    if profiling():
        raise UserError("memory cannot be measured while a profiler runs on this thread")
    gc.collect()
    release_retained()
    with ExitStack() as begun:
        opened = [begun.enter_context(_counted(d)) for d in devices if d not in ("cpu", PINNED)]
        _, events = memory_events(run)
        elsewhere = {o.device: _so_far(o) for o in opened}
    return Measured(_peak(events), sum(events), sum(e > 0 for e in events), elsewhere)


def peak_of(run: Callable[[], Any], device: str) -> tuple[Any, int]:
    """What ``run`` gives, and the most bytes on ``device`` that it held at once over what was held before."""
    if device == "cpu":
        result, events = memory_events(run)
        return result, _peak(events)
    with _counted(device) as opened:
        result = run()
        return result, _so_far(opened).peak_nbytes


def _peak(events: Iterable[int]) -> int:
    live = peak = 0
    for e in events:
        live += e
        peak = max(peak, live)
    return peak


@dataclass(slots=True, eq=False)
class _Open:
    """A measurement of a device that has begun. ``before``: the statistics of its allocator then. ``seen``: the highest peak
    that later resets took out of them."""

    device: str
    before: Mapping[str, Any]
    seen: int = 0


_open: list[_Open] = []
_lock = threading.Lock()  # from where statistics are read until they are reset


@contextmanager
def _counted(device: str) -> Iterator[_Open]:
    """A measurement, from where the peak counts anew, once all work that was begun on the device is done."""
    torch.accelerator.synchronize(device)
    with _lock:
        for other in (o for o in _open if o.device == device):
            other.seen = max(other.seen, torch.accelerator.memory_stats(device)[_PEAK])
        torch.accelerator.reset_peak_memory_stats(device)
        opened = _Open(device, torch.accelerator.memory_stats(device))
        _open.append(opened)
    try:
        yield opened
    finally:
        with _lock:
            _open.remove(opened)


def _so_far(opened: _Open) -> Measured:
    torch.accelerator.synchronize(opened.device)
    with _lock:
        now = torch.accelerator.memory_stats(opened.device)
        peak = max(opened.seen, now[_PEAK])
    held = opened.before[_NOW]
    return Measured(peak - held, now[_NOW] - held, now[_TIMES] - opened.before[_TIMES], {})
