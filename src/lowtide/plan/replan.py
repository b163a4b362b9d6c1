"""Placement anew for every shape: lifetimes stay, sizes change.

Comes in: a plain problem whose sizes are those of one shape. Goes out: a function from sizes (bytes, one per buffer) to a
placement. Promised: correct for any sizes, zero included, because it is computed from them and not from a hint; the answers
of the most recent size vectors are kept. This replaces an allocation tree over symbolic sizes, whose places are fixed by
the hints that it was planned at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import UserError
from lowtide.plan import compiled, greedy
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.problem import PackProblem
from lowtide.plan.reduce import linearise

# Asked in turn until one meets the bound.
_ORDERS = ("size", "breadth", "area", "lifetime", "time")


@dataclass(frozen=True, slots=True)
class Replanned:
    """Offsets in the order of the problem's buffers; height and lower bound in bytes; which greedy order found it."""

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    packer: str


def replanner(problem: PackProblem, *, recent: int = 16, native: bool = True) -> Callable[[Sequence[int]], Replanned]:
    """A function that places the buffers of ``problem`` for other sizes.

    ``recent``: how many size vectors keep their answer; the least recently used one goes first.

    Raises:
        UserError: the problem has windows or merges, whose extents would have to change with the sizes; or (from the
            returned function) a wrong number of sizes, or a negative one.
    """
    if problem.merges or any(b.windows for b in problem.buffers):
        raise UserError("windows and merges cannot be planned anew for other sizes")
    shape = replace(problem, buffers=tuple(replace(b, size=max(b.size, 1)) for b in problem.buffers))
    flat = flatten(linearise(shape))
    owner = [i for i in range(flat.count) for _ in range(flat.segment_of[i], flat.segment_of[i + 1])]
    library = compiled.library() if native else None
    kept: OrderedDict[tuple[int, ...], Replanned] = OrderedDict()

    def plan(sizes: Sequence[int]) -> Replanned:
        key = tuple(sizes)
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        if len(key) != flat.count or min(key, default=0) < 0:
            raise UserError(f"{flat.count} sizes of at least 0 bytes are expected")
        now = replace(flat, size=list(key), high=[key[i] for i in owner])
        bound, place = lower_bound(now), compiled.placer(now, library)
        best: Replanned | None = None
        for name in _ORDERS:
            offsets = place(greedy.order_by(now, name))
            height = max((x + s for x, s in zip(offsets, key, strict=True) if s), default=0)
            if best is None or height < best.height:
                best = Replanned(tuple(offsets), height, bound, name)
            if best.height <= bound:
                break
        assert best is not None
        kept[key] = best
        if len(kept) > recent:
            kept.popitem(last=False)
        return best

    return plan
