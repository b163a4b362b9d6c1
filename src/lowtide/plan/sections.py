"""A plain problem seen as sections (the maximal sets of buffers alive at once), with the static orders of the search.

Comes in: a plain ``Flat``. Goes out: ``Sections``, whole numbers in a common unit. Promised: one section per maximal
clique of the interval graph; a buffer covers one range of sections per segment; rows are the buffers that are free to
move (``buffers`` says which), fixed ones are obstacles to the rows that they overlap. Sections, and orders by width,
area and section total, are ideas of minimalloc (Moffitt, ASPLOS 2023, "MiniMalloc: A Lightweight Memory Allocator for
Hardware-Accelerated Machine Learning"); the rules and the other orders are ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd

from lowtide.core.units import align_up
from lowtide.plan.flat import Flat

# Which section is decided next: none in particular, or the one with the lowest candidate and then the fewest
# candidates, or the fullest, or the fewest among those in the same eighth of the capacity.
RULES = ("lowest", "fewest", "fullest", "eighths")

# Asked in turn. The letters rank buffers: W wide, A large area, S large, T in a full section, O overlaps many, F early,
# L late end, H near the fullest section.
ORDERS = (
    "lowest:TOL",
    "fewest:AS",
    "fewest:FWS",
    "lowest:HSO",
    "fewest:THA",
    "lowest:HLF",
    "lowest:TWA",
    "fullest:TS",
    "eighths:HT",
)

# Asked as well where the least height is sought, and a target may take many tries.
MORE_ORDERS = (
    "fewest:WSL",
    "fewest:O",
    "fewest:FLS",
    "fullest:HT",
    "lowest:THA",
    "lowest:WL",
    "fullest:O",
    "fewest:OWH",
)


@dataclass(frozen=True, slots=True)
class Sections:
    """Row i is flat buffer ``buffers[i]``; it covers the sections ``lo[r]:hi[r]``, r in ``range_of[i]:range_of[i +
    1]``.

    ``real`` is the size in bytes; ``size``, ``alignment`` and obstacles are in units of ``unit`` bytes, ``size``
    rounded up to the ``grain``. ``rules[k]`` is an index of RULES, ``ranks[k][i]`` the place of row i in order k,
    ``before[k][i]`` an equal row that order k places first, or -1.
    """

    buffers: list[int]
    real: list[int]
    size: list[int]
    alignment: list[int]
    range_of: list[int]
    lo: list[int]
    hi: list[int]
    obstacle_of: list[int]
    obstacle_lo: list[int]
    obstacle_hi: list[int]
    sections: int
    unit: int
    grain: int
    rules: list[int]
    ranks: list[list[int]]
    before: list[list[int]]

    def limits(self, capacity: int) -> list[int]:
        """The highest offset of every row, in units, under a capacity in bytes; negative where it never fits."""
        return [(capacity - nbytes) // self.unit for nbytes in self.real]

    def room(self, capacity: int) -> int:
        """The capacity in units, rounded up to a whole grain (all sizes are)."""
        return align_up(capacity, self.grain) // self.unit


def sections_of(flat: Flat, orders: Sequence[str] = ORDERS) -> Sections:
    """Sections, ranges, obstacles and static orders of a plain problem."""
    assert flat.plain
    moments = _moments(flat)
    alive = [i for i in range(flat.count) if flat.segment_of[i] < flat.segment_of[i + 1]]
    buffers = [i for i in alive if flat.fixed[i] < 0]
    range_of, lo, hi = [0], list[int](), list[int]()
    for i in buffers:
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            lo.append(bisect_left(moments, flat.first[s]))
            hi.append(bisect_left(moments, flat.end[s]))
        range_of.append(len(lo))
    obstacle_of, obstacle_lo, obstacle_hi = _obstacles(flat, buffers, [i for i in alive if flat.fixed[i] >= 0])
    grain = flat.grain
    size = [align_up(flat.size[i], grain) for i in buffers]
    strides = [flat.alignment[i] for i in buffers if flat.alignment[i] > 1]
    unit = gcd(*size, *strides, *obstacle_lo, *obstacle_hi) or 1
    ranges = [tuple(zip(lo[a:b], hi[a:b], strict=True)) for a, b in pairwise(range_of)]
    ranks, before = _orders(flat, buffers, size, ranges, len(moments), [name.partition(":")[2] for name in orders])
    return Sections(
        buffers=buffers,
        real=[flat.size[i] for i in buffers],
        size=[s // unit for s in size],
        alignment=[max(flat.alignment[i] // unit, 1) for i in buffers],
        range_of=range_of,
        lo=lo,
        hi=hi,
        obstacle_of=obstacle_of,
        obstacle_lo=[x // unit for x in obstacle_lo],
        obstacle_hi=[x // unit for x in obstacle_hi],
        sections=len(moments),
        unit=unit,
        grain=max(grain, unit) if grain > 1 else unit,
        rules=[RULES.index(name.partition(":")[0]) for name in orders],
        ranks=ranks,
        before=before,
    )


def _moments(flat: Flat) -> list[int]:
    """One moment of every section: those after which something ends for the first time since something began."""
    begins, ends = [False] * (flat.moments + 1), [False] * (flat.moments + 1)
    for s in range(len(flat.first)):
        begins[flat.first[s]] = ends[flat.end[s]] = True
    moments: list[int] = []
    pending = False
    for t in range(flat.moments):
        if pending and ends[t]:
            moments.append(t - 1)
            pending = False
        pending |= begins[t]
    return moments


def _obstacles(flat: Flat, buffers: list[int], fixed: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Per row the byte ranges of the fixed buffers that it overlaps in time."""
    obstacle_of, low, high = [0], list[int](), list[int]()
    at = flat.segment_of
    for i in buffers if fixed else ():
        for j in fixed:
            mine, theirs = range(at[i], at[i + 1]), range(at[j], at[j + 1])
            if any(flat.first[s] < flat.end[t] and flat.first[t] < flat.end[s] for s in mine for t in theirs):
                low.append(flat.fixed[j])
                high.append(flat.fixed[j] + flat.size[j])
        obstacle_of.append(len(low))
    return (obstacle_of if fixed else [0] * (len(buffers) + 1)), low, high


def _orders(
    flat: Flat,
    buffers: list[int],
    size: list[int],
    ranges: list[tuple[tuple[int, int], ...]],
    sections: int,
    names: Sequence[str],
) -> tuple[list[list[int]], list[list[int]]]:
    """Rank and equal predecessor of every row, per order."""
    rows = range(len(buffers))
    hull = [(r[0][0], r[-1][1]) for r in ranges]
    change = [0] * (sections + 1)
    for i in rows:
        for a, b in ranges[i]:
            change[a] += size[i]
            change[b] -= size[i]
    total = list(accumulate(change))[:sections]
    hot = total.index(max(total)) if total else 0
    begins, ends = sorted(a for a, _ in hull), sorted(b for _, b in hull)
    feature = {
        "W": [b - a for a, b in hull],
        "A": [(b - a) * size[i] for i, (a, b) in enumerate(hull)],
        "S": size,
        "T": [max(max(total[a:b]) for a, b in ranges[i]) for i in rows],
        "O": [bisect_left(begins, b) - bisect_left(ends, a + 1) for a, b in hull],
        "F": [-a for a, _ in hull],
        "L": [b for _, b in hull],
        "H": [-max(a - hot, hot - b, 0) for a, b in hull],
    }
    ranks: list[list[int]] = []
    before: list[list[int]] = []
    for name in names:
        rank, earlier = [0] * len(buffers), [-1] * len(buffers)
        twins: dict[object, int] = {}
        for place, i in enumerate(sorted(rows, key=lambda i: (*(-feature[letter][i] for letter in name), i))):
            rank[i] = place
            key = ranges[i], flat.size[buffers[i]], flat.alignment[buffers[i]]
            earlier[i] = twins.get(key, -1)
            twins[key] = i
        ranks.append(rank)
        before.append(earlier)
    return ranks, before
