"""Noted allocations -> what a planned allocator would need, beside what a caching one needs, and who holds the peak.

Comes in: allocations with the moments at which they begin and end, in bytes. Goes out: a ``MemoryTrace``. Promised: no torch;
the lower bound is proved, the planned bytes come from a placement that the packing engine made, and the caching allocator is
a model of PyTorch's for CUDA (rounding, two pools, best fit, splitting, joining neighbours) fed with the same events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowtide.core.codec import VERSION
from lowtide.core.units import format_bytes
from lowtide.executor.groups import LINE
from lowtide.plan.pack import pack
from lowtide.plan.problem import PackBuffer, PackProblem, PackResult

_NODES = 100_000  # of the search


@dataclass(frozen=True, slots=True)
class Allocation:
    """``nbytes`` alive in the moments ``[first, end)``; ``kept``: not freed while the region ran. ``op`` asked for them, for
    ``line`` of the user's program."""

    nbytes: int
    first: int
    end: int
    kept: bool
    op: str = ""
    line: str = ""


@dataclass(frozen=True)
class MemoryTrace:
    """One run of a region. Bytes over what was there before: ``peak_nbytes`` as it was allocated; ``lower_bound``: no placement
    needs less; ``planned_nbytes``: one slab for what ends within the region, and what is kept beside it; ``caching_nbytes``:
    what PyTorch's caching allocator would reserve for the same requests. ``holders``: what is alive at the peak, by user
    line, largest first. ``placement``: of what ends within the region."""

    allocations: tuple[Allocation, ...]
    moments: int
    peak_nbytes: int
    lower_bound: int
    planned_nbytes: int
    caching_nbytes: int
    kept_nbytes: int
    offsets: tuple[int, ...]
    slab_nbytes: int
    holders: tuple[tuple[str, int], ...]
    placement: PackResult

    def to_json(self) -> dict[str, object]:
        """The version-1 JSON form."""
        return {
            "version": VERSION,
            "peak_nbytes": self.peak_nbytes,
            "lower_bound": self.lower_bound,
            "planned_nbytes": self.planned_nbytes,
            "caching_nbytes": self.caching_nbytes,
            "kept_nbytes": self.kept_nbytes,
            "holders": [{"line": line, "nbytes": nbytes} for line, nbytes in self.holders],
            "allocations": [
                {"nbytes": a.nbytes, "first": a.first, "end": a.end, "kept": a.kept, "op": a.op, "line": a.line}
                for a in self.allocations
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.allocations)} allocations: live peak {format_bytes(self.peak_nbytes)}, "
            f"planned {format_bytes(self.planned_nbytes)}, caching allocator {format_bytes(self.caching_nbytes)}",
            "at the peak:",
        ]
        return "\n".join([*lines, *(f"  {format_bytes(nbytes):>10}  {line}" for line, nbytes in self.holders[:10])])


def problem_of(allocations: Sequence[Allocation]) -> PackProblem:
    """What ends within the region, as a packing problem; ids are positions in ``allocations``."""
    return PackProblem(
        tuple(
            PackBuffer(str(i), a.nbytes, ((a.first, a.end),), LINE, line=a.line or None)
            for i, a in enumerate(allocations)
            if not a.kept and a.nbytes
        )
    )


def analyse(allocations: Sequence[Allocation], moments: int) -> MemoryTrace:
    """Plan one run's allocations and say what they need. ``moments``: how many events there were."""
    found = pack(problem_of(allocations), nodes=_NODES)
    live = _live(allocations, moments)
    peak = max(live, default=0)
    kept = [a for a in allocations if a.kept]
    with_kept = _live(kept, moments)
    held = _live([a for a in allocations if not a.kept], moments)
    slab_first = next((i for i, n in enumerate(held) if n), moments)
    planned = max((n + (found.height if i >= slab_first else 0) for i, n in enumerate(with_kept)), default=found.height)
    offsets = tuple(found.offsets.get(str(i), -1) for i in range(len(allocations)))
    return MemoryTrace(
        tuple(allocations), moments, peak, max(peak, found.lower_bound), planned, caching(allocations, moments),
        sum(a.nbytes for a in kept), offsets, found.height, _holders(allocations, live), found,
    )  # fmt: skip


def _live(allocations: Iterable[Allocation], moments: int) -> list[int]:
    change = [0] * (moments + 1)
    for a in allocations:
        change[a.first] += a.nbytes
        change[a.end] -= a.nbytes
    out: list[int] = []
    now = 0
    for c in change[:moments]:
        now += c
        out.append(now)
    return out


def _holders(allocations: Sequence[Allocation], live: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """Bytes alive at the first moment of the peak, by user line (else by operator)."""
    if not live:
        return ()
    at = live.index(max(live))
    held: dict[str, int] = {}
    for a in allocations:
        if a.first <= at < a.end:
            who = f"{a.line} ({a.op})" if a.line else a.op or "not an operator's"
            held[who] = held.get(who, 0) + a.nbytes
    return tuple(sorted(held.items(), key=lambda x: (-x[1], x[0])))


_ROUND, _SMALL, _SMALL_SEGMENT, _MIDDLE, _MIDDLE_SEGMENT, _LARGE_ROUND = (
    512, 1 << 20, 2 << 20, 10 << 20, 20 << 20, 2 << 20,
)  # fmt: skip


class _Caching:
    """A model of PyTorch's caching allocator: free blocks per pool as (bytes, segment, begin)."""

    def __init__(self) -> None:
        self.free: dict[bool, dict[tuple[int, int], int]] = {True: {}, False: {}}  # (segment, begin) -> bytes
        self.reserved = self.segments = 0

    def take(self, nbytes: int) -> tuple[bool, int, int, int]:
        """The smallest free block that fits, split where enough is left; else a new segment."""
        size = max(-(-nbytes // _ROUND) * _ROUND, _ROUND)
        small = size <= _SMALL
        pool = self.free[small]
        fitting = [(n, at) for at, n in pool.items() if n >= size]
        if fitting:
            whole, (segment, begin) = min(fitting)
            del pool[segment, begin]
        else:
            whole = (
                _SMALL_SEGMENT
                if small
                else _MIDDLE_SEGMENT
                if size < _MIDDLE
                else -(-size // _LARGE_ROUND) * _LARGE_ROUND
            )
            segment, begin = self.segments, 0
            self.segments += 1
            self.reserved += whole
        left = whole - size
        if left >= _ROUND if small else left > _SMALL:
            pool[segment, begin + size] = left
            whole = size
        return small, segment, begin, whole

    def give(self, block: tuple[bool, int, int, int]) -> None:
        """Free a block and join it with free neighbours."""
        small, segment, begin, size = block
        pool = self.free[small]
        after = pool.pop((segment, begin + size), 0)
        before = next((b for (s, b), n in pool.items() if s == segment and b + n == begin), None)
        if before is not None:
            size += pool.pop((segment, before))
            begin = before
        pool[segment, begin] = size + after


def caching(allocations: Sequence[Allocation], moments: int) -> int:
    """Bytes that PyTorch's caching allocator would have reserved in the end, from nothing. Every beginning and end of a life
    is a moment of its own."""
    model = _Caching()
    births: dict[int, int] = {a.first: i for i, a in enumerate(allocations) if a.nbytes}
    deaths: dict[int, int] = {a.end: i for i, a in enumerate(allocations) if a.nbytes and not a.kept}
    blocks: dict[int, tuple[bool, int, int, int]] = {}
    for t in range(moments + 1):
        if t in deaths:
            model.give(blocks.pop(deaths[t]))
        if t in births:
            blocks[births[t]] = model.take(allocations[births[t]].nbytes)
    return model.reserved
