"""What lies on what in a placement, and the same layers at other sizes.

Comes in: a plain ``Flat`` with nothing fixed, and offsets that are correct for some sizes. Goes out: ``Layers``, and from
them offsets for any sizes. Promised: correct at any sizes, because every two buffers that are alive at once keep their
order; time linear in the pairs that touch, about two per buffer. Offsets are longest paths over what lies below. A layering
stays tight as long as the sizes keep their proportions roughly. ``replan.cpp`` holds the same functions, compiled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lowtide.plan.flat import Flat


@dataclass(frozen=True, slots=True)
class Layers:
    """Buffers from the lowest up, and what each can touch from above: ``below[below_of[k]:below_of[k + 1]]`` for ``order[k]``.
    ``flat.count`` stands for the ground. Lists of numbers, since the collector of garbage would look through a tuple per
    buffer."""

    order: list[int]
    below_of: list[int]
    below: list[int]


def layers(flat: Flat, offsets: Sequence[int]) -> Layers:
    """The layers of a placement (bytes): a skyline over time, from the lowest offset up."""
    segment_of, firsts, ends = flat.segment_of, flat.first, flat.end
    begins, tops = [0], [flat.count]  # the skyline: from which moment on which buffer is on top
    order = sorted(range(flat.count), key=offsets.__getitem__)
    below_of, below = [0], list[int]()
    for i in order:
        for s in range(segment_of[i], segment_of[i + 1]):
            first, end = firsts[s], ends[s]
            a = bisect_right(begins, first) - 1
            z = bisect_left(begins, end, a)
            seen = tops[a:z]
            below += seen
            a += begins[a] < first  # what begins before stays, up to here
            if z < len(begins) and begins[z] == end:
                begins[a:z], tops[a:z] = (first,), (i,)
            else:
                begins[a:z], tops[a:z] = (first, end), (i, seen[-1])
        below_of.append(len(below))
    return Layers(order, below_of, below)


def settle(flat: Flat, known: Layers, limit: int) -> list[int] | None:
    """Lowest offsets of the layers at the sizes of ``flat``; None where they need more than ``limit`` bytes."""
    size, alignment, below = flat.size, flat.alignment, known.below
    tops, offsets = [0] * (flat.count + 1), [0] * flat.count
    for i, (a, z) in zip(known.order, pairwise(known.below_of), strict=True):
        at = 0
        for j in below[a:z]:
            if tops[j] > at:
                at = tops[j]
        stride, nbytes = alignment[i], size[i]
        at = -(-at // stride) * stride
        if nbytes and at + nbytes > limit:
            return None
        offsets[i], tops[i] = at, at + nbytes
    return offsets
