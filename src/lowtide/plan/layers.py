"""What lies on what in a placement, and the same layers at other sizes.

Comes in: a plain ``Flat`` with nothing fixed, and offsets that are correct for some sizes. Goes out: ``Layers``, and from
them offsets for any sizes. Promised: correct at any sizes, because every two buffers that are alive at once keep their
order; time linear in the pairs that touch, about two per buffer. Offsets are longest paths over what lies below. A layering
stays tight as long as the sizes keep their proportions roughly. ``replan.cpp`` holds the same functions, compiled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from lowtide.plan.flat import Flat

# From the lowest buffer up: it, and whatever it can touch from above. ``flat.count`` stands for the ground.
Layers = tuple[tuple[int, tuple[int, ...]], ...]


def layers(flat: Flat, offsets: Sequence[int]) -> Layers:
    """The layers of a placement (bytes): a skyline over time, from the lowest offset up."""
    ground = flat.count
    begins, tops = [0], [ground]  # the skyline: from which moment on which buffer is on top
    out: list[tuple[int, tuple[int, ...]]] = []
    for i in sorted(range(flat.count), key=offsets.__getitem__):
        below = {ground}
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            first, end = flat.first[s], flat.end[s]
            a, z = bisect_right(begins, first) - 1, bisect_left(begins, end)
            below.update(tops[a:z])
            a += begins[a] < first  # what begins before stays, up to here
            rest = () if z < len(begins) and begins[z] == end else (end,)
            begins[a:z], tops[a:z] = (first, *rest), (i, *(tops[z - 1] for _ in rest))
        out.append((i, tuple(below)))
    return tuple(out)


def settle(flat: Flat, known: Layers, limit: int) -> list[int] | None:
    """Lowest offsets of the layers at the sizes of ``flat``; None where they need more than ``limit`` bytes."""
    size, alignment = flat.size, flat.alignment
    tops, offsets = [0] * (flat.count + 1), [0] * flat.count
    for i, below in known:
        stride, nbytes = alignment[i], size[i]
        at = -(-max([tops[j] for j in below]) // stride) * stride
        if nbytes and at + nbytes > limit:
            return None
        offsets[i], tops[i] = at, at + nbytes
    return offsets
