"""Peaks first: what lives where most bytes do is placed by itself, and all the rest around it.

Comes in: a plain ``Flat`` with one interval per buffer and nothing fixed, and its lower bound. Goes out: placements, lower
ones last. Promised: correct at any sizes. Most problems are hard at few moments only, and there each peak is a problem of its
own: what lives at one is placed by a descent, by one that goes back where that fails, and by many descents where too much
lives at once for that. The rest goes by size to the lowest place that is free; whatever then ends too high goes with the peaks in
the next round, together with all that lives at the same time, and peaks that grow into each other are placed as one.
``replan.cpp`` holds the same, compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lowtide.core.units import align_up
from lowtide.plan.backtrack import backtrack, rows_of, serves
from lowtide.plan.descent import DESCENTS, Numbers, Work, descend, peak_of
from lowtide.plan.flat import Flat

DESCENT, BACKTRACK = "descent", "backtrack"  # what placed the peaks
# What is aimed at, in thousandths above the bound, what belongs to a peak, in hundredths of it, and which part of the work that
# is left may be spent. The first aim will do; where it is missed, everything is searched as one peak, and then what is easy
# first, for as long as it is reached.
_TRIES = ((10, 84, 2), (10, 0, 2), (80, 84, 1), (40, 84, 1), (20, 84, 1))
_TURNS = 6  # rounds of one aim; in the last one everything is a peak
_MADE = 64  # numbers that are looked at per buffer to make a problem of its own of a peak
_MANY = 100  # buffers alive with one, on average, from which on vectors of them are quicker than lists


@dataclass(frozen=True, slots=True)
class Lives:
    """What does not change with the sizes. ``births``: the buffers by birth; ``near``: per buffer the others that are alive with
    it, or nothing at all where they are many; ``vectors``: the same for arrays, always; ``life``: in moments."""

    first: Numbers
    end: Numbers
    life: Numbers
    births: list[int]
    near: list[list[int]]
    vectors: list[Numbers]


def lives_of(flat: Flat) -> Lives:
    """Births and meetings of a problem."""
    births = sorted(range(flat.count), key=lambda i: flat.first[i])
    near: list[list[int]] = [[] for _ in births]
    alive: list[int] = []
    for i in births:
        alive = [j for j in alive if flat.end[j] > flat.first[i]]
        for j in alive:
            near[i].append(j)
            near[j].append(i)
        alive.append(i)
    first, end = np.array(flat.first, dtype=np.int64), np.array(flat.end, dtype=np.int64)
    crowded = sum(map(len, near)) > _MANY * flat.count
    vectors = [np.array(x, dtype=np.int64) for x in near]
    return Lives(first, end, end - first, births, [] if crowded else near, vectors)


def lower_bound(flat: Flat, lives: Lives) -> int:
    """As ``flat.lower_bound``."""
    size = np.array(flat.size, dtype=np.int64)
    whole = -(-size // flat.grain) * flat.grain
    padded = _alive(flat, lives, whole) - (whole - size).max(initial=0)
    return int(max(_alive(flat, lives, size).max(initial=0), padded.max(initial=0)))


def _alive(flat: Flat, lives: Lives, size: Numbers) -> Numbers:
    """Bytes alive at every moment."""
    change = np.zeros(flat.moments + 1, dtype=np.int64)
    np.add.at(change, lives.first, size)
    np.subtract.at(change, lives.end, size)
    return np.cumsum(change)[: flat.moments]


@dataclass(frozen=True, slots=True)
class Aim:
    """A height, from how many bytes alive on a moment belongs to a peak, and which part of the work that is left may be spent
    (2: half of it). ``will_do``: no other has to be reached."""

    height: int
    peak: int
    part: int
    will_do: bool


def aims(flat: Flat, bound: int) -> list[Aim]:
    """What to aim at, in turn; no lower than whole grains allow."""
    whole = align_up(bound, flat.grain)
    return [
        Aim(max(whole, bound * (1000 + above) // 1000), bound * hot // 100, part, above == _TRIES[0][0])
        for above, hot, part in _TRIES
    ]


def rounds(flat: Flat, lives: Lives, aim: Aim, work: Work, *, back: bool) -> Iterator[tuple[str, list[int]]]:
    """Placements, until one is no higher than the aim, with the name of what placed their peaks; none where a peak cannot be
    placed, or where there is no work left for it. ``back``: descents may go back."""
    births = [i for i in lives.births if flat.size[i]]
    size = np.array(flat.size, dtype=np.int64)
    by_size = np.lexsort((-lives.life, -size)).tolist()
    hot = (_alive(flat, lives, size) > aim.peak).tolist()
    first, places, name = set[int](), dict[int, int](), DESCENT
    offsets: list[int] = []
    for turn in range(_TURNS):
        before = list(accumulate(hot, initial=0))
        first.update(i for i in births if before[flat.end[i]] > before[flat.first[i]])
        for part in _parts(flat, [i for i in births if i in first]):
            if all(i in places for i in part):
                continue
            found, went_back = (
                _solve(flat, lives, part, aim.height, work, back=back) if work.left > 0 else (None, False)
            )
            name = BACKTRACK if went_back else name
            if found is None:
                return
            places.update(zip(part, found, strict=True))
        offsets = _around(flat, lives, places, by_size, offsets, work)
        yield name, offsets
        high = [i for i in births if offsets[i] + flat.size[i] > aim.height]
        if not high:
            return
        hot = [turn + 2 == _TURNS] * flat.moments
        for i in high:
            hot[flat.first[i] : flat.end[i]] = [True] * (flat.end[i] - flat.first[i])


def _parts(flat: Flat, rows: Sequence[int]) -> list[list[int]]:
    """Rows by birth, parted where nothing lives on."""
    parts: list[list[int]] = []
    end = 0
    for i in rows:
        if not parts or flat.first[i] >= end:
            parts.append([])
        parts[-1].append(i)
        end = max(end, flat.end[i])
    return parts


def _solve(
    flat: Flat, lives: Lives, part: Sequence[int], aim: int, work: Work, *, back: bool
) -> tuple[list[int] | None, bool]:
    """Offsets of one part below an aim, or None if none were found, and whether a descent went back: where one may, it follows
    on the first descent that fails, and else many descents are made."""
    work.left -= _MADE * len(part)
    peak = peak_of(flat, lives.vectors if lives.near else [], part)
    rows = rows_of(peak)
    may = back and serves(rows, aim)
    offsets = descend(peak, aim, work, rows.near // len(part), 1 if may else DESCENTS)
    if offsets is not None or not may:
        return offsets, False
    offsets, tried = backtrack(rows, aim, max(work.left, 0) // rows.cost)
    work.left -= tried * rows.cost
    return offsets, tried > 0


def _around(
    flat: Flat, lives: Lives, places: Mapping[int, int], order: Sequence[int], before: Sequence[int], work: Work
) -> list[int]:
    """Offsets of all: those in ``places``, and around them the others in an order, each as low as it can lie. ``before``:
    offsets of the round before, or nothing: what meets nothing that has moved since then stays."""
    first, end, size = flat.first, flat.end, flat.size
    shelf = (_Lists if lives.near else _Vectors)(flat, lives)
    moved = bytearray(flat.moments)
    for i, at in places.items():
        shelf.lows[i], shelf.tops[i] = at, at + size[i]
        if before and before[i] != at:
            moved[first[i] : end[i]] = b"\1" * (end[i] - first[i])
    for i in order:
        if not size[i] or i in places:
            continue
        if before and moved.find(1, first[i], end[i]) < 0:
            at = before[i]
        else:
            work.left -= flat.count
            at = shelf.lowest(i)
            if before and before[i] != at:
                moved[first[i] : end[i]] = b"\1" * (end[i] - first[i])
        shelf.lows[i], shelf.tops[i] = at, at + size[i]
    return shelf.offsets()


class _Lists:
    """Where buffers begin and end so far (bytes), for problems in which few meet."""

    def __init__(self, flat: Flat, lives: Lives) -> None:
        self.size, self.alignment, self.near = flat.size, flat.alignment, lives.near
        self.lows, self.tops = [0] * flat.count, [-1] * flat.count  # -1: not placed yet

    def lowest(self, i: int) -> int:
        """Where a buffer can lie lowest."""
        at, nbytes, stride, lows, tops = 0, self.size[i], self.alignment[i], self.lows, self.tops
        below = [j for j in self.near[i] if tops[j] >= 0]
        below.sort(key=lows.__getitem__)
        for j in below:
            if lows[j] - at >= nbytes:
                break
            if tops[j] > at:
                at = -(-tops[j] // stride) * stride
        return at

    def offsets(self) -> list[int]:
        """Of all, once all are placed; 0 for those without bytes."""
        return self.lows


class _Vectors:
    """The same for problems in which many meet. ``holes``: room to work in."""

    def __init__(self, flat: Flat, lives: Lives) -> None:
        self.size, self.alignment, self.near = flat.size, flat.alignment, lives.vectors
        self.lows, self.tops = np.zeros(flat.count, dtype=np.int64), np.full(flat.count, -1)
        self.holes = np.zeros(flat.count, dtype=np.int64)

    def lowest(self, i: int) -> int:
        """Where a buffer can lie lowest: a hole begins at the highest top of all that begin no higher than what ends it."""
        below = self.near[i]
        below = below[self.tops[below] >= 0]
        lows = self.lows[below]
        order = lows.argsort()
        holes, stride = self.holes[: len(below) + 1], self.alignment[i]
        np.maximum.accumulate(self.tops[below[order]], out=holes[1:])
        if stride > 1:
            holes[1:] = -(-holes[1:] // stride) * stride
        wide = lows[order] - holes[:-1] >= self.size[i]
        return int(holes[wide.argmax() if wide.any() else -1])

    def offsets(self) -> list[int]:
        """Of all, once all are placed; 0 for those without bytes."""
        return self.lows.tolist()
