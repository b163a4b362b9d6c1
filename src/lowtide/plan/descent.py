"""Descents: the lowest offset first, as the exact search's rule ``lowest`` places, and never back, but again in a better order.

Comes in: buffers that live in one interval each, and the height (bytes) to stay within. Goes out: offsets in bytes, or None: a
descent ends where a buffer would lie too high for what its sections still have to take, since whatever is placed before it from
then on lifts it by all that it takes out of the way. Promised: sections and units are those of ``plan.sections``.
``Cliques`` in ``repair.cpp`` holds the same, compiled. Vectors of numpy, because every step looks at all buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowtide.core.errors import BugError
from lowtide.core.units import align_up
from lowtide.plan.flat import Flat

Numbers = NDArray[np.int64]
Kind = type[np.int64] | type[object]  # of keys: Python's numbers where 64 bits are too few
Keys = NDArray[Any]
DESCENTS = 32  # most descents
_LEFT_OVER, _STUCK = 10, 5  # parts of the whole order that buffers go forward by after a descent failed


@dataclass(slots=True)
class Work:
    """How many numbers may still be looked at, about; whoever looks takes them off. Below 0 where the last one took more."""

    left: int


@dataclass(frozen=True, slots=True)
class Peak:
    """Buffers by birth: sizes and alignments in units of ``unit`` bytes, sizes rounded up to the grain; ``real`` in bytes. A
    buffer covers the sections ``lo:hi``. ``total``: units per section. All that meet a buffer are among the buffers ``[a, z)``.
    ``near``: per buffer what is alive with it, in the numbers of the problem, or nothing at all where that is much; ``row`` has
    for each of those its number in the peak, and for what is not of the peak the number after all of them."""

    real: Numbers
    size: Numbers
    alignment: Numbers
    lo: Numbers
    hi: Numbers
    total: Numbers
    a: Numbers
    z: Numbers
    near: list[Numbers]
    row: Numbers
    unit: int
    grain: int


def peak_of(flat: Flat, near: Sequence[Numbers], buffers: Sequence[int]) -> Peak:
    """Some buffers of a problem by themselves, given by birth; all of them have bytes. ``near``: what is alive with each buffer
    of the problem, or nothing at all where that is much."""
    real, alignment, first, end = (
        np.array([numbers[i] for i in buffers], dtype=np.int64)
        for numbers in (flat.size, flat.alignment, flat.first, flat.end)
    )
    lo, hi, many = _sections(first - int(first.min()), end - int(first.min()))
    size = -(-real // flat.grain) * flat.grain
    unit = int(np.gcd.reduce(np.concatenate((size, alignment[alignment > 1]))))
    size = size // unit
    change = np.zeros(many + 1, dtype=np.int64)
    np.add.at(change, lo, size)
    np.subtract.at(change, hi, size)
    grain = max(flat.grain, unit) if flat.grain > 1 else unit
    row = np.full(flat.count, len(buffers))
    row[buffers] = np.arange(len(buffers))
    a, z = np.searchsorted(np.maximum.accumulate(hi), lo, side="right"), np.searchsorted(lo, hi)
    strides, total = np.maximum(alignment // unit, 1), np.cumsum(change)[:-1]
    return Peak(real, size, strides, lo, hi, total, a, z, [near[i] for i in buffers if near], row, unit, grain)


def _sections(first: Numbers, end: Numbers) -> tuple[Numbers, Numbers, int]:
    """Per buffer the sections that it covers, and how many there are. One closes where something ends for the first time since
    something began."""
    moments = np.arange(int(end.max()) + 1)
    begins, ends = np.full(len(moments), -1), np.full(len(moments), -1)  # the latest begin and end so far
    begins[first], ends[end] = first, end
    began, ended = (np.concatenate(([-1], np.maximum.accumulate(x)[:-1])) for x in (begins, ends))
    before = np.cumsum((ends == moments) & (began >= 0) & (began >= ended))
    return before[first], before[end], int(before[-1])


def descend(peak: Peak, height: int, work: Work, cost: int, many: int) -> list[int] | None:
    """Offsets within ``height`` bytes, or None where none of ``many`` descents found any, or of those for which there was work.

    The first one prefers, of what can lie equally low, what is alive where most is, then what lives long, then what takes most
    bytes and time. What a descent could not place goes forward for the next one, and so does what is left over with it.
    (Squeaky wheel: Joslin and Clements 1999.) ``cost``: how many numbers a step looks at.
    """
    count = len(peak.size)
    preferred = order_of(peak, "TWA")
    forward = np.zeros(count, dtype=np.int64)
    for tried in range(many):
        if tried and work.left <= 0:
            break
        order = preferred[np.argsort(np.arange(count) - forward[preferred], kind="stable")]
        offsets, stuck, left_over = _descent(peak, order, height)
        work.left -= cost * len(offsets)
        if stuck < 0:
            return [offsets[i] * peak.unit for i in range(count)]
        forward[left_over] += count // _LEFT_OVER
        forward[stuck] += count // _STUCK
    return None


def _descent(peak: Peak, order: Numbers, height: int) -> tuple[dict[int, int], int, Numbers]:
    """One descent: offsets in units, the buffer that could not be placed or -1, and what else is not placed in the section that
    keeps it from it.

    The least of the keys, which are offsets times the number of buffers with a place in the order added, is the one to place.
    """
    count, room, alignment = len(order), room_of(peak, height), np.append(peak.alignment, 1)
    most = (room + int(alignment.max()) + 1) * count  # above all keys
    kind = np.int64 if most <= np.iinfo(np.int64).max else object
    rank, key = np.zeros((2, count + 1), dtype=kind)
    rank[order] = np.arange(count)
    key[:count], key[count] = rank[:count], most
    bar, (sizes, limits) = bars(peak, height, kind), by_keys(peak, height, kind)
    begins, ends, uneven = peak.lo.tolist(), peak.hi.tolist(), bool((alignment != 1).any())
    offsets = dict[int, int]()
    for _ in range(count):
        i = int(key.argmin())
        mine, ahead = key.item(i), bar[begins[i] : ends[i]]
        if mine >= limits[i] or mine >= np.minimum.reduce(ahead):
            section = begins[i] + int(ahead.argmin())
            waiting = (key[:count] != most).nonzero()[0]
            return offsets, i, waiting[(peak.lo[waiting] <= section) & (peak.hi[waiting] > section)]
        offsets[i] = at = mine // count
        key[i] = most
        ahead += sizes[i]
        near, met = meeting(peak, i)
        top = at * count + sizes[i]
        lift = -(-(top // count) // alignment[near]) * alignment[near] * count if uneven else top
        key[near] = np.maximum(key[near], rank[near] + lift * met)
    return offsets, -1, order[:0]


def room_of(peak: Peak, height: int) -> int:
    """A height in units, rounded up to a whole grain (all sizes are)."""
    return align_up(height, peak.grain) // peak.unit


def meeting(peak: Peak, i: int) -> tuple[Numbers | slice, NDArray[np.bool_] | int]:
    """Buffers among which are all that meet one, and which of them do (1: all of them)."""
    if peak.near:
        return peak.row[peak.near[i]], 1
    near = slice(peak.a.item(i), peak.z.item(i))
    return near, peak.hi[near] > peak.lo.item(i)


def bars(peak: Peak, height: int, kind: Kind) -> Keys:
    """Per section the least key at which something lies too high for all of it to fit above."""
    total: Keys = peak.total.astype(kind)
    return (room_of(peak, height) + 1 - total) * len(peak.size)


def by_keys(peak: Peak, height: int, kind: Kind) -> tuple[list[int], list[int]]:
    """Per buffer what its size adds to a key, and the least key at which it ends too high."""
    size: Keys = peak.size.astype(kind)
    limit: Keys = ((height - peak.real) // peak.unit + 1).astype(kind)
    return (size * len(size)).tolist(), (limit * len(size)).tolist()


def order_of(peak: Peak, letters: str) -> Numbers:
    """Buffers by up to three features, most first. Letters as in ``plan.sections``, S left out."""
    return np.lexsort([-_feature(peak, letter) for letter in reversed(letters)])


def _feature(peak: Peak, letter: str) -> Numbers:
    """As ``plan.sections`` has it, by vectors."""
    lo, hi = peak.lo, peak.hi
    match letter:
        case "T":
            ranges = np.column_stack((lo, hi)).ravel()
            return np.maximum.reduceat(np.append(peak.total, 0), ranges)[::2]
        case "W":
            return hi - lo
        case "A":
            return (hi - lo) * peak.size
        case "L":
            return hi
        case "F":
            return -lo
        case "O":
            return np.searchsorted(np.sort(lo), hi) - np.searchsorted(np.sort(hi), lo + 1)
        case "H":
            hot = int(peak.total.argmax())
            return -np.maximum(np.maximum(lo - hot, hot - hi), 0)
        case _:
            raise BugError(f"no feature of buffers is called {letter}")
