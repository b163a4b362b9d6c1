"""Peaks first: what lives where most bytes do is placed by itself, and all the rest around it.

Comes in: a plain ``Flat`` with one interval per buffer and nothing fixed, and its lower bound. Goes out: placements, lower
ones last. Promised: correct at any sizes. Most problems are hard at few moments only, and there each peak is a problem of its
own: what lives at one is placed by a descent, by one that goes back where that fails, and by many descents where too much
lives at once for that. The rest goes by size to the lowest place that is free; whatever then ends too high goes with the peaks in
the next round, together with all that lives at the same time, and peaks that grow into each other are placed as one.
``replan.cpp`` holds the same, compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lowtide.core.units import align_up
from lowtide.plan.backtrack import backtrack, serves
from lowtide.plan.descent import DESCENTS, Numbers, descend, peak_of
from lowtide.plan.flat import Flat

DESCENT, BACKTRACK = "descent", "backtrack"  # what placed the peaks
# What is aimed at, in thousandths above the bound, and what belongs to a peak, in hundredths of it. The first aim will do;
# where it is missed, everything is searched as one peak, and then what comes nearest is looked for.
_TRIES = ((10, 84), (10, 0), (20, 84), (40, 84), (80, 84))
_TURNS = 6  # rounds of one aim; in the last one everything is a peak


@dataclass(frozen=True, slots=True)
class Lives:
    """What does not change with the sizes. ``births``: the buffers by birth; ``near``: per buffer the others that are alive with
    it; ``life``: in moments."""

    first: Numbers
    end: Numbers
    life: Numbers
    births: list[int]
    near: list[list[int]]


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
    return Lives(first, end, end - first, births, near)


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
    """A height, and from how many bytes alive on a moment belongs to a peak. ``will_do``: no other has to be reached."""

    height: int
    peak: int
    will_do: bool


def aims(flat: Flat, bound: int) -> list[Aim]:
    """What to aim at, in turn; no lower than whole grains allow."""
    whole = align_up(bound, flat.grain)
    return [
        Aim(max(whole, bound * (1000 + above) // 1000), bound * hot // 100, above == _TRIES[0][0])
        for above, hot in _TRIES
    ]


def rounds(flat: Flat, lives: Lives, aim: Aim, nodes: int) -> Iterator[tuple[str, list[int]]]:
    """Placements, until one is no higher than the aim, with the name of what placed their peaks; none where a peak cannot be
    placed. ``nodes``: steps of descents that go back, in all."""
    births = [i for i in lives.births if flat.size[i]]
    size = np.array(flat.size, dtype=np.int64)
    by_size = np.lexsort((-lives.life, -size)).tolist()
    hot = (_alive(flat, lives, size) > aim.peak).tolist()
    first, places, name = set[int](), dict[int, int](), DESCENT
    for turn in range(_TURNS):
        before = list(accumulate(hot, initial=0))
        first.update(i for i in births if before[flat.end[i]] > before[flat.first[i]])
        for part in _parts(flat, [i for i in births if i in first]):
            if all(i in places for i in part):
                continue
            found, spent = _solve(flat, part, aim.height, nodes)
            nodes -= spent
            name = BACKTRACK if spent else name
            if found is None:
                return
            places.update(zip(part, found, strict=True))
        offsets = _around(flat, lives.near, places, by_size)
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


def _solve(flat: Flat, part: Sequence[int], aim: int, nodes: int) -> tuple[list[int] | None, int]:
    """Offsets of one part below an aim, or None if none were found, and steps of a descent that goes back: where one may, it
    follows on the first descent that fails, and else many descents are made."""
    peak = peak_of(flat, part)
    may = nodes > 0 and serves(peak, aim)
    offsets = descend(peak, aim, 1 if may else DESCENTS)
    return (offsets, 0) if offsets is not None or not may else backtrack(peak, aim, nodes)


def _around(flat: Flat, near: Sequence[Sequence[int]], places: dict[int, int], order: Sequence[int]) -> list[int]:
    """Offsets of all: those in ``places``, and around them the others in an order, each as low as it can lie."""
    size, alignment = flat.size, flat.alignment
    offsets, tops = [0] * flat.count, [-1] * flat.count  # -1: not placed yet
    for i, at in places.items():
        offsets[i], tops[i] = at, at + size[i]
    for i in order:
        if i in places:
            continue
        at, nbytes, stride = 0, size[i], alignment[i]
        below = [j for j in near[i] if tops[j] >= 0]
        below.sort(key=offsets.__getitem__)
        for j in below:
            if offsets[j] - at >= nbytes:
                break
            if tops[j] > at:
                at = -(-tops[j] // stride) * stride
        offsets[i], tops[i] = at, at + nbytes
    return offsets
