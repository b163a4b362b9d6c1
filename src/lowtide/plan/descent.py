"""Descents: the lowest offset first, as the exact search's rule ``lowest`` places, and never back, but again in a better order.

Comes in: buffers that live in one interval each, and the height (bytes) to stay within. Goes out: offsets in bytes, or None: a
descent ends where a buffer would lie too high for what its sections still have to take, since whatever is placed before it from
then on lifts it by all that it takes out of the way. Promised: sections and units are those of ``plan.sections``.
``Cliques`` in ``repair.cpp`` holds the same, compiled. Vectors of numpy, because every step looks at all buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowtide.core.units import align_up
from lowtide.plan.flat import Flat

Numbers = NDArray[np.int64]
_PLACED = int(np.iinfo(np.int64).max)
DESCENTS = 32  # most descents
_LEFT_OVER, _STUCK = 10, 5  # parts of the whole order that buffers go forward by after a descent failed


@dataclass(slots=True)
class Work:
    """How many numbers may still be looked at, about; whoever looks takes them off. Below 0 where the last one took more."""

    left: int


@dataclass(frozen=True, slots=True)
class Peak:
    """Sizes and alignments in units of ``unit`` bytes, sizes rounded up to the grain; ``real`` in bytes. A buffer covers the
    sections ``lo:hi``. ``total``: units per section."""

    real: Numbers
    size: Numbers
    alignment: Numbers
    lo: Numbers
    hi: Numbers
    total: Numbers
    unit: int
    grain: int


def peak_of(flat: Flat, buffers: Sequence[int]) -> Peak:
    """Some buffers of a problem by themselves; all of them have bytes."""
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
    return Peak(real, size, np.maximum(alignment // unit, 1), lo, hi, np.cumsum(change)[:-1], unit, grain)


def _sections(first: Numbers, end: Numbers) -> tuple[Numbers, Numbers, int]:
    """Per buffer the sections that it covers, and how many there are. One closes where something ends for the first time since
    something began."""
    moments = np.arange(int(end.max()) + 1)
    begins, ends = np.full(len(moments), -1), np.full(len(moments), -1)  # the latest begin and end so far
    begins[first], ends[end] = first, end
    began, ended = (np.concatenate(([-1], np.maximum.accumulate(x)[:-1])) for x in (begins, ends))
    before = np.cumsum((ends == moments) & (began >= 0) & (began >= ended))
    return before[first], before[end], int(before[-1])


def descend(peak: Peak, height: int, work: Work, cost: int, many: int = DESCENTS) -> list[int] | None:
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
        offsets, stuck, left_over = _descent(peak, order, height, work, cost)
        if stuck < 0:
            return (offsets * peak.unit).tolist()
        forward[left_over] += count // _LEFT_OVER
        forward[stuck] += count // _STUCK
    return None


def _descent(peak: Peak, order: Numbers, height: int, work: Work, cost: int) -> tuple[Numbers, int, Numbers]:
    """One descent: offsets in units, the buffer that could not be placed or -1, and what else is not placed in the section that
    keeps it from it."""
    least = np.zeros(len(order), dtype=np.int64)  # in the order, so that the first of the least is the one to place
    offsets, left = np.zeros(len(order), dtype=np.int64), peak.total.copy()  # left: what is still to be placed
    alignment, begins, ends = peak.alignment[order], peak.lo[order], peak.hi[order]
    uneven = bool((alignment != 1).any())
    room = align_up(height, peak.grain) // peak.unit
    limits = (height - peak.real) // peak.unit
    rows = np.column_stack((order, peak.size[order], peak.lo[order], peak.hi[order], limits[order])).tolist()
    for _ in rows:
        k = int(least.argmin())
        at, (i, nbytes, lo, hi, limit) = int(least[k]), rows[k]
        if at > limit or at > room - int(left[lo:hi].max()):
            section = lo + int(left[lo:hi].argmax())
            waiting = order[least != _PLACED]
            return offsets, i, waiting[(peak.lo[waiting] <= section) & (peak.hi[waiting] > section)]
        work.left -= cost
        offsets[i], least[k] = at, _PLACED
        left[lo:hi] -= nbytes
        meets = (begins < hi) & (ends > lo)
        if uneven:
            lifted = meets & (least < at + nbytes)
            least[lifted] = -(-(at + nbytes) // alignment[lifted]) * alignment[lifted]
        else:
            np.maximum(least, at + nbytes, out=least, where=meets)
    return offsets, -1, order[:0]


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
        case _:  # H
            hot = int(peak.total.argmax())
            return -np.maximum(np.maximum(lo - hot, hot - hi), 0)
