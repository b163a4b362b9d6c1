"""Placement anew for every shape: lifetimes stay, sizes change.

Comes in: a plain problem whose sizes are those of one shape. Goes out: a function from sizes (bytes, one per buffer) to a
placement. Promised: correct for any sizes, zero included, because it is computed from them and not from a hint; the answers
of the most recent size vectors are kept, and the layers of recent placements, which are tried first at other sizes. This
replaces an allocation tree over symbolic sizes, whose places are fixed by the hints that it was planned at. Where no layers
serve: greedy orders, then descents (the exact search's way down, without going back), then that search itself a little above
the bound; in milliseconds where it is compiled (``repair.cpp``). In Python the search of 1000 buffers takes a tenth of a second
to a half, and there is none where more than 60,000 pairs meet unless `nodes` is given.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from lowtide.core.errors import UserError
from lowtide.core.units import align_up
from lowtide.plan import compiled, greedy
from lowtide.plan.flat import Flat, flatten, lower_bound, meetings
from lowtide.plan.layers import Layers, layers, settle
from lowtide.plan.problem import PackProblem
from lowtide.plan.reduce import linearise
from lowtide.plan.search import search
from lowtide.plan.sections import Sections, sections_of

_GREEDY = (
    ("size", False),
    ("breadth", True),
)  # order, and whether the tightest hole is taken; one where a search follows
_CLOSE = 200  # within a 200th of the bound nothing more is tried
_NODES, _LEAST = 7, 6000  # of the search: per buffer, and at least
_MEET, _MANY = 60_000, 600_000  # pairs alive at once; with more the search is dear: the last resort, or left out
# Rule and order of the search, and which of them descend before it; where many meet, others are better.
_TRIES = ("lowest:TWA", "lowest:TOL", "lowest:THA", "fullest:FWS", "lowest:HLF", "fullest:WS")
_DENSE = ("lowest:HOL", "lowest:TOL", "lowest:TFL", "lowest:TWA", "lowest:THA", "lowest:HLF")
_BEFORE, _BEFORE_DENSE = slice(1, 2), slice(3)
_BELOW, _ABOVE = 9, 10  # thousandths above the bound that descents and the search aim at
_PATIENCE = 48  # attempts of the search that fail before it goes back and changes its order
_PACKERS = (*(name for name, _ in _GREEDY), "descent", "exact", "layers")
_NEAR, _KNOWN = 100, 24  # layers within a 100th of the bound will do; how many are kept


@dataclass(frozen=True, slots=True)
class Replanned:
    """Offsets in the order of the problem's buffers; height and lower bound in bytes; what found it."""

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    packer: str


def replanner(
    problem: PackProblem, *, recent: int = 16, native: bool = True, long: bool | None = None, nodes: int | None = None
) -> Callable[[Sequence[int]], Replanned]:
    """A function that places the buffers of ``problem`` for other sizes.

    ``recent``: how many size vectors keep their answer; the least recently used one goes first. ``native``: use the compiled
    functions where there is a compiler. ``long``: in the build that is twice as fast and takes longer to make; None: in
    that one as soon as it is there, and before in the other, which gives the same answers. ``nodes``: most steps of the search
    (None: 7 per buffer, 6000 at least; 0 without a compiler where more than 60,000 pairs meet).

    Raises:
        UserError: the problem has windows or merges, whose extents would have to change with the sizes; or (from the
            returned function) a wrong number of sizes, or a negative one.
    """
    if problem.merges or any(b.windows for b in problem.buffers):
        raise UserError("windows and merges cannot be planned anew for other sizes")
    shape = replace(problem, buffers=tuple(replace(b, size=max(b.size, 1)) for b in problem.buffers))
    flat = flatten(linearise(shape))
    owner = [i for i in range(flat.count) for _ in range(flat.segment_of[i], flat.segment_of[i + 1])]
    library = compiled.library(long=bool(long)) if native else None
    met = meetings(flat)
    usual = max(_NODES * flat.count, _LEAST) if library is not None or met <= _MEET else 0
    most = usual if nodes is None else nodes
    simple = flat.plain and max(flat.fixed, default=-1) < 0
    quick = compiled.replanner(flat, owner, _KNOWN) if library is not None and simple else None
    near = _near(flat) if quick is None and simple and flat.single else None
    known: list[Layers] = []
    kept: OrderedDict[tuple[int, ...], Replanned] = OrderedDict()

    def plan(sizes: Sequence[int]) -> Replanned:
        key = tuple(sizes)
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        if len(key) != flat.count or min(key, default=0) < 0:
            raise UserError(f"{flat.count} sizes of at least 0 bytes are expected")
        if quick is not None and library is not None:
            now = (compiled.ready() or library) if long is None else library
            offsets, (height, bound, packer, _) = quick(now, key, most)
            found = Replanned(tuple(offsets), height, bound, _PACKERS[packer])
        else:
            sized = replace(flat, size=list(key), high=[key[i] for i in owner])
            bound = lower_bound(sized)
            again = _again(sized, known, bound) if simple else None
            found = again or _plan(sized, near, bound, most, met)
            if simple and again is None:
                known.insert(0, layers(sized, found.offsets))
                del known[_KNOWN:]
        kept[key] = found
        if len(kept) > recent:
            kept.popitem(last=False)
        return found

    return plan


def _again(flat: Flat, known: list[Layers], bound: int) -> Replanned | None:
    """The lowest of the layers of earlier placements, if one is near the bound; it moves to the front."""
    best: Replanned | None = None
    used = 0
    for k, x in enumerate(known):
        offsets = settle(flat, x, best.height - 1 if best else bound + bound // _NEAR)
        if offsets is None:
            continue
        best, used = _better(flat, best, offsets, bound, "layers"), k
        if best.height <= bound + bound // _CLOSE:
            break
    if best is not None:
        known.insert(0, known.pop(used))
    return best


def _plan(flat: Flat, near: list[list[int]] | None, bound: int, nodes: int, met: int) -> Replanned:
    """The twin of ``lowtide_replan`` after the layers, for every problem. ``near``: who meets whom, where that is all
    that matters; ``met``: how many pairs do."""
    close = bound + bound // _CLOSE
    best: Replanned | None = None
    able = nodes > 0 and near is not None
    searched = able and met <= _MEET
    for name, tight in _GREEDY[: 1 if searched else None]:
        order = greedy.order_by(flat, name)
        plain = near is not None and not tight
        offsets = _place(flat, near or [], order) if plain else greedy.place(flat, order, best=tight)
        best = _better(flat, best, offsets, bound, name)
        if best.height <= close:
            return best
    assert best is not None
    if near is not None:
        best = _descents(flat, best, near, _TRIES[_BEFORE] if searched else _DENSE[_BEFORE_DENSE])
    return _dive(flat, best, nodes, _TRIES if searched else _DENSE) if able and met <= _MANY else best


def _near(flat: Flat) -> list[list[int]]:
    """Per buffer the others that are alive with it."""
    near: list[list[int]] = [[] for _ in range(flat.count)]
    alive: list[int] = []
    for i in sorted(range(flat.count), key=lambda i: flat.first[i]):
        alive = [j for j in alive if flat.end[j] > flat.first[i]]
        for j in alive:
            near[i].append(j)
            near[j].append(i)
        alive.append(i)
    return near


def _place(flat: Flat, near: list[list[int]], order: Sequence[int]) -> list[int]:
    """As ``greedy.place``, quicker where few buffers meet."""
    size, alignment = flat.size, flat.alignment
    offset = [0] * flat.count
    taken: list[list[tuple[int, int]]] = [[] for _ in range(flat.count)]
    for i in order:
        at, nbytes, mine = 0, size[i], taken[i]
        mine.sort()
        for lo, hi in mine:
            if lo - at >= nbytes:
                break
            if hi > at:
                at = -(-hi // alignment[i]) * alignment[i]
        offset[i], entry = at, (at, at + nbytes)
        for j in near[i]:
            taken[j].append(entry)
    return offset


def _aim(flat: Flat, bound: int, above: int) -> int:
    return max(align_up(bound, flat.grain), bound * (1000 + above) // 1000)


def _descents(flat: Flat, best: Replanned, near: list[list[int]], orders: Sequence[str]) -> Replanned:
    held = [i for i in range(flat.count) if flat.size[i]]
    aim = _aim(flat, best.lower_bound, _BELOW)
    for name in orders:
        if best.height <= aim:
            break
        sections = sections_of(_without_empty(flat, held), (name,))
        row = {held[k]: r for r, k in enumerate(sections.buffers)}
        found = _descend(sections, [[row[j] for j in near[held[k]] if j in row] for k in sections.buffers], aim)
        if found is not None:
            best = _better(flat, best, _spread(flat, held, sections, found), best.lower_bound, "descent")
    return best


def _descend(sections: Sections, near: list[list[int]], capacity: int) -> list[int] | None:
    """Lowest offsets first, in the first order, and never back; None where that leaves something too high: whatever is
    placed before it then lifts it by all that it takes out of the way. ``near``: rows that meet each row."""
    rank, size, lo, hi = sections.ranks[0], sections.size, sections.lo, sections.hi
    count, room, limits = len(size), sections.room(capacity), sections.limits(capacity)
    left = [0] * sections.sections  # bytes that are still to be placed
    for i in range(count):
        for s in range(lo[i], hi[i]):
            left[s] += size[i]
    least, placed = [0] * count, [False] * count
    heap = [(0, rank[i], i) for i in range(count)]
    heapify(heap)
    while heap:
        at, _, i = heappop(heap)
        if placed[i] or at != least[i]:
            continue
        if at > limits[i] or at > room - max(left[lo[i] : hi[i]]):
            return None
        placed[i], top = True, at + size[i]
        for s in range(lo[i], hi[i]):
            left[s] -= size[i]
        for j in near[i]:
            if not placed[j] and least[j] < top:
                least[j] = align_up(top, sections.alignment[j])
                heappush(heap, (least[j], rank[j], j))
    return [x * sections.unit for x in least]


def _dive(flat: Flat, best: Replanned, nodes: int, orders: Sequence[str]) -> Replanned:
    """The exact search in a few orders, each for as long as it gets on."""
    aim = _aim(flat, best.lower_bound, _ABOVE)
    if best.height <= aim:
        return best
    held = [i for i in range(flat.count) if flat.size[i]]
    sections = sections_of(_without_empty(flat, held), orders)
    fits, rows, _ = search(sections, aim, nodes, math.inf, _PATIENCE)
    return _better(flat, best, _spread(flat, held, sections, rows), best.lower_bound, "exact") if fits else best


def _spread(flat: Flat, held: list[int], sections: Sections, rows: Sequence[int]) -> list[int]:
    """Offsets of rows as offsets of buffers."""
    offsets = [0] * flat.count
    for k, offset in zip(sections.buffers, rows, strict=True):
        offsets[held[k]] = offset
    return offsets


def _without_empty(flat: Flat, held: list[int]) -> Flat:
    """The same problem without buffers of no bytes."""
    size = [flat.size[i] for i in held]
    return replace(
        flat, size=size, high=size, low=[0] * len(held), alignment=[flat.alignment[i] for i in held],
        fixed=[-1] * len(held), segment_of=list(range(len(held) + 1)), first=[flat.first[i] for i in held],
        end=[flat.end[i] for i in held], excluded_of=[0] * (len(held) + 1),
    )  # fmt: skip


def _better(flat: Flat, best: Replanned | None, offsets: Sequence[int], bound: int, name: str) -> Replanned:
    height = max((x + s for x, s in zip(offsets, flat.size, strict=True) if s), default=0)
    return Replanned(tuple(offsets), height, bound, name) if best is None or height < best.height else best
