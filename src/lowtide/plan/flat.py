"""A problem as flat integer arrays: what the packers and their compiled twin both read.

Comes in: a ``PackProblem`` without arms and merges (``plan.reduce`` removes them). Goes out: ``Flat`` and the lower
bound. Promised: times are ranks 0, 1, ... of the moments at which something begins or ends, so their number is at most
twice the number of segments; buffers that never hold a byte have no segments; all lists are in the order of the
buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd

from lowtide.core.units import align_up
from lowtide.plan.problem import PackProblem


@dataclass(frozen=True, slots=True)
class Flat:
    """``segment_of[i]:segment_of[i + 1]`` are the segments of buffer i: time ``[first, end)``, bytes ``[low, high)``.

    ``fixed[i]`` is -1 where the packer is free. ``excluded_of``/``excluded`` list, per buffer, the buffers that it may
    overlap in time without conflict. ``grain`` (bytes) divides every offset. ``plain``: no windows, no exclusions.
    """

    size: list[int]
    alignment: list[int]
    fixed: list[int]
    segment_of: list[int]
    first: list[int]
    end: list[int]
    low: list[int]
    high: list[int]
    excluded_of: list[int]
    excluded: list[int]
    moments: int
    grain: int
    plain: bool

    @property
    def count(self) -> int:
        """Number of buffers."""
        return len(self.size)

    @property
    def single(self) -> bool:
        """Whether every buffer has exactly one segment."""
        return len(self.first) == self.count and all(b - a == 1 for a, b in pairwise(self.segment_of))

    def span(self, i: int) -> tuple[int, int]:
        """First and end moment of a buffer, gaps included; (0, 0) if it holds no bytes."""
        a, b = self.segment_of[i], self.segment_of[i + 1]
        return (self.first[a], self.end[b - 1]) if a < b else (0, 0)


def flatten(problem: PackProblem) -> Flat:
    """The arrays of a validated problem."""
    segment_of, first, end, low, high = [0], list[int](), list[int](), list[int](), list[int]()
    windows = False
    for b in problem.buffers:
        if not b.windows and len(b.intervals) == 1 and b.size:
            first.append(b.intervals[0][0])
            end.append(b.intervals[0][1])
            low.append(0)
            high.append(b.size)
        else:
            windows |= any(w is not None for w in b.windows)
            for t0, t1, lo, hi in b.segments():
                first.append(t0)
                end.append(t1)
                low.append(lo)
                high.append(hi)
        segment_of.append(len(first))
    ranks = {t: r for r, t in enumerate(sorted(set(first) | set(end)))}
    excluded_of, excluded = _exclusions(problem)
    grain = 0
    for b in problem.buffers:
        grain = gcd(grain, b.alignment)
    return Flat(
        size=[b.size for b in problem.buffers],
        alignment=[b.alignment for b in problem.buffers],
        fixed=[-1 if b.offset is None else b.offset for b in problem.buffers],
        segment_of=segment_of,
        first=[ranks[t] for t in first],
        end=[ranks[t] for t in end],
        low=low,
        high=high,
        excluded_of=excluded_of,
        excluded=excluded,
        moments=len(ranks),
        grain=1 if windows else max(grain, 1),
        plain=not windows and not excluded,
    )


def _exclusions(problem: PackProblem) -> tuple[list[int], list[int]]:
    if not problem.exclusions:
        return [0] * (len(problem.buffers) + 1), []
    at = {b.id: i for i, b in enumerate(problem.buffers)}
    rows: list[set[int]] = [set() for _ in problem.buffers]
    for a, b in problem.exclusions:
        rows[at[a]].add(at[b])
        rows[at[b]].add(at[a])
    starts = [0, *accumulate(len(r) for r in rows)]
    return starts, [j for row in rows for j in sorted(row)]


def occupancy(flat: Flat) -> list[int]:
    """Bytes alive at every moment (between one rank and the next), windows counted as what they occupy."""
    change = [0] * (flat.moments + 1)
    for s in range(len(flat.first)):
        nbytes = flat.high[s] - flat.low[s]
        change[flat.first[s]] += nbytes
        change[flat.end[s]] -= nbytes
    return list(accumulate(change))[: flat.moments]


def meetings(flat: Flat) -> int:
    """How many pairs of segments are alive at once."""
    born, died = [0] * (flat.moments + 1), [0] * (flat.moments + 1)
    for first, end in zip(flat.first, flat.end, strict=True):
        born[first] += 1
        died[end] += 1
    alive = found = 0
    for b, d in zip(born, died, strict=True):
        alive -= d
        found += b * alive + b * (b - 1) // 2
        alive += b
    return found


def lower_bound(flat: Flat) -> int:
    """Bytes that no placement can go below: the most bytes alive at once, and what fixed places reach.

    Where every offset is a multiple of ``grain``, all buffers but the topmost cost whole grains. With exclusions, only
    sets of buffers without an excluded pair are counted.
    """
    bound = 0
    for i in range(flat.count):
        if flat.fixed[i] >= 0 and flat.segment_of[i] < flat.segment_of[i + 1]:
            bound = max(bound, flat.fixed[i] + flat.size[i])
    if flat.excluded:
        return max(bound, _bound_without_excluded(flat))
    bound = max([bound, *occupancy(flat)])
    if flat.grain > 1:
        padded = [0] * (flat.moments + 1)
        most = 0
        for s in range(len(flat.first)):
            nbytes = flat.high[s] - flat.low[s]
            whole = align_up(nbytes, flat.grain)
            most = max(most, whole - nbytes)
            padded[flat.first[s]] += whole
            padded[flat.end[s]] -= whole
        bound = max(bound, max(accumulate(padded)) - most)
    return bound


def _bound_without_excluded(flat: Flat) -> int:
    """At every moment, take the alive buffers by falling size unless an earlier one excludes them."""
    starts: list[list[tuple[int, int]]] = [[] for _ in range(flat.moments + 1)]
    ends: list[list[tuple[int, int]]] = [[] for _ in range(flat.moments + 1)]
    for i in range(flat.count):
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            starts[flat.first[s]].append((i, flat.high[s] - flat.low[s]))
            ends[flat.end[s]].append((i, flat.high[s] - flat.low[s]))
    enemies = [set(flat.excluded[flat.excluded_of[i] : flat.excluded_of[i + 1]]) for i in range(flat.count)]
    alive: set[tuple[int, int]] = set()
    best = 0
    for t in range(flat.moments):
        alive.difference_update(ends[t])
        alive.update(starts[t])
        if not starts[t]:
            continue
        taken: set[int] = set()
        total = 0
        for i, nbytes in sorted(alive, key=lambda x: (-x[1], x[0])):
            if not taken & enemies[i]:
                taken.add(i)
                total += nbytes
        best = max(best, total)
    return best
