"""Greedy packers over sorted orders: no list of overlapping pairs is ever made.

Comes in: a problem as ``Flat`` arrays and an order of its buffers. Goes out: one offset per buffer, in bytes. Promised:
deterministic, correct for windows, exclusions and fixed places; what is placed stays sorted by its lowest byte and is
scanned with an overlap test in time, so memory is linear in the problem. ``search.cpp`` holds the same function,
compiled; this one serves where there is no compiler and is its oracle in tests.

The orders: by size (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", who also give
the order by breadth), by area = size x life, by life, by time of birth (what an allocator would meet at run time).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence

from lowtide.core.errors import UserError
from lowtide.plan.flat import Flat, flatten, lower_bound, occupancy
from lowtide.plan.problem import FEASIBLE, OPTIMAL, PackProblem, PackResult


def pack_greedy(problem: PackProblem) -> PackResult:
    """Place by falling size, each buffer at the lowest offset that is free over its whole life.

    Conditional arms and merges are not made use of (``plan.pack`` does); the result is correct all the same.

    Raises:
        UserError: two fixed places contradict each other.
    """
    started = time.perf_counter()
    flat = flatten(problem)
    offsets = place(flat, order_by(flat, "size"))
    height = height_of(flat, offsets)
    bound = lower_bound(flat)
    named = {b.id: offset for b, offset in zip(problem.buffers, offsets, strict=True)}
    status = OPTIMAL if height == bound else FEASIBLE
    return PackResult(named, height, bound, "size", status, time.perf_counter() - started, (("size", height),))


def height_of(flat: Flat, offsets: Sequence[int]) -> int:
    """Highest byte used; buffers that never hold a byte do not count."""
    at = flat.segment_of
    return max((offsets[i] + flat.size[i] for i in range(flat.count) if at[i] < at[i + 1]), default=0)


ORDERS = ("size", "area", "breadth", "lifetime", "time")


def orders(flat: Flat) -> dict[str, list[int]]:
    """Every order by name."""
    return {name: order_by(flat, name) for name in ORDERS}


def order_by(flat: Flat, name: str) -> list[int]:
    """The buffers in one of ``ORDERS``, first to place first; ties by size, then by place in the problem."""
    size, everyone = flat.size, range(flat.count)
    spans = [flat.span(i) for i in everyone]
    if name == "time":
        return sorted(everyone, key=lambda i: (spans[i][0], -size[i]))
    life = [end - first for first, end in spans]
    if name == "size":
        return sorted(everyone, key=lambda i: (-size[i], -life[i]))
    if name == "area":
        return sorted(everyone, key=lambda i: (-size[i] * life[i], -size[i]))
    if name == "lifetime":
        return sorted(everyone, key=lambda i: (-life[i], -size[i]))
    breadth = _most_alive(occupancy(flat), spans)
    return sorted(everyone, key=lambda i: (-breadth[i], -size[i]))


def _most_alive(alive: list[int], spans: list[tuple[int, int]]) -> list[int]:
    """The most bytes alive anywhere in each span: a table of maxima over powers of two."""
    table = [alive]
    while 2 << (len(table) - 1) <= len(alive):
        below, step = table[-1], 1 << (len(table) - 1)
        table.append([a if a > b else b for a, b in zip(below, below[step:], strict=False)])
    out: list[int] = []
    for first, end in spans:
        level = (end - first).bit_length() - 1
        out.append(0 if level < 0 else max(table[level][first], table[level][end - (1 << level)]))
    return out


def place(flat: Flat, order: Sequence[int], *, best: bool = False) -> list[int]:
    """Offsets when buffers are placed in ``order`` (fixed ones first), each at the lowest free offset or, with
    ``best``, in the tightest free hole (the lowest on ties; above everything where no hole fits).

    Raises:
        UserError: two fixed places contradict each other.
    """
    offsets = [0] * flat.count
    placed: list[tuple[int, int, int, int, int]] = []  # lowest byte, top, first, end, buffer
    for i in (*(i for i in order if flat.fixed[i] >= 0), *(i for i in order if flat.fixed[i] < 0)):
        if flat.segment_of[i] == flat.segment_of[i + 1]:
            offsets[i] = max(flat.fixed[i], 0)
            continue
        barred = _barred(flat, i, placed)
        if flat.fixed[i] >= 0:
            offsets[i] = flat.fixed[i]
            if any(lo < offsets[i] < hi for lo, hi in barred):
                raise UserError(f"the fixed place of buffer number {i} (offset {offsets[i]}) is taken by another one")
        else:
            offsets[i] = _hole(barred, flat.alignment[i], best)
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            at = offsets[i]
            entry = (at + flat.low[s], at + flat.high[s], flat.first[s], flat.end[s], i)
            placed.insert(bisect_left(placed, entry), entry)
    return offsets


def _barred(flat: Flat, i: int, placed: list[tuple[int, int, int, int, int]]) -> list[tuple[int, int]]:
    """Open intervals of offsets that buffer i cannot take, ascending by their lower end."""
    a, b = flat.segment_of[i], flat.segment_of[i + 1]
    friends = flat.excluded[flat.excluded_of[i] : flat.excluded_of[i + 1]]
    if b - a == 1 and not friends:
        first, end, low, high = flat.first[a], flat.end[a], flat.low[a], flat.high[a]
        return [(p[0] - high, p[1] - low) for p in placed if p[2] < end and first < p[3]]
    out: list[tuple[int, int]] = []
    for s in range(a, b):
        first, end, low, high = flat.first[s], flat.end[s], flat.low[s], flat.high[s]
        out += [(p[0] - high, p[1] - low) for p in placed if p[2] < end and first < p[3] and p[4] not in friends]
    out.sort()
    return out


def _hole(barred: list[tuple[int, int]], alignment: int, best: bool) -> int:
    """An offset outside all of the barred intervals: the lowest, or the one in the tightest hole."""
    at = 0
    tightest, found = -1, 0
    for lo, hi in barred:
        if at <= lo:
            if not best:
                return at
            if tightest < 0 or lo - at < tightest:
                tightest, found = lo - at, at
        if hi > at:
            at = -(-hi // alignment) * alignment
    return at if tightest < 0 else found
