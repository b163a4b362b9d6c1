"""Why a problem does not fit: few buffers that cannot lie together, none of which can be left out of the argument.

Comes in: a problem without arms. Goes out: indices or ids of buffers. Promised: what ``few_that_conflict`` names is
proved not to fit the capacity by itself; it is irreducible where the proof is a bound, and as far as the node budget
reached where it took a search. The idea of the irreducible set is minimalloc's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lowtide.plan import compiled
from lowtide.plan.flat import Flat, flatten, lower_bound, occupancy
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.sections import sections_of

_NODES = 20_000  # per question whether the rest still conflicts
_TOTAL = 2_000_000


def fixed_clash(flat: Flat) -> tuple[int, int] | None:
    """Two fixed buffers that share a byte at some moment, or None."""
    fixed = [i for i in range(flat.count) if flat.fixed[i] >= 0]
    at = flat.segment_of
    events = sorted((flat.first[s], flat.end[s], s, i) for i in fixed for s in range(at[i], at[i + 1]))
    alive: list[tuple[int, int, int]] = []
    for first, end, s, i in events:
        alive = [x for x in alive if x[0] > first]
        low, high = flat.fixed[i] + flat.low[s], flat.fixed[i] + flat.high[s]
        for _, other, j in alive:
            friends = flat.excluded[flat.excluded_of[i] : flat.excluded_of[i + 1]]
            meet = low < flat.fixed[j] + flat.high[other] and flat.fixed[j] + flat.low[other] < high
            if i != j and meet and j not in friends:
                return min(i, j), max(i, j)
        alive.append((end, s, i))
    return None


def few_that_conflict(problem: PackProblem, capacity: int) -> tuple[str, ...]:
    """Ids of buffers that cannot fit together. The problem must have been proved not to fit."""
    flat = flatten(problem)
    single = next((b for b in problem.buffers if b.intervals and (b.offset or 0) + b.size > capacity and b.size), None)
    if single is not None:
        return (single.id,)
    if lower_bound(flat) > capacity and not problem.exclusions:
        alive = occupancy(flat)
        moment = max(range(len(alive)), key=lambda t: alive[t]) if max(alive) > capacity else None
        if moment is not None:
            return _fewest_by_sum(problem, flat, moment, capacity)
    asked, library = [0], compiled.library()
    budget = _NODES if library is not None else _NODES // 20

    def conflicts(buffers: tuple[PackBuffer, ...]) -> bool:
        part = flatten(replace(problem, buffers=buffers, exclusions=_inside(problem, buffers)))
        if lower_bound(part) > capacity:
            return True
        if not part.plain or asked[0] > _TOTAL:
            return False
        fits, _, nodes = compiled.decide(library, sections_of(part), capacity, budget, 60.0)
        asked[0] += nodes
        return fits is False

    return tuple(b.id for b in _shrink(problem.buffers, conflicts))


def _inside(problem: PackProblem, buffers: tuple[PackBuffer, ...]) -> tuple[tuple[str, str], ...]:
    if not problem.exclusions:
        return ()
    names = {b.id for b in buffers}
    return tuple(p for p in problem.exclusions if p[0] in names and p[1] in names)


def _fewest_by_sum(problem: PackProblem, flat: Flat, moment: int, capacity: int) -> tuple[str, ...]:
    """What is alive at a moment, less the smallest as long as the sum stays above the capacity."""
    alive: list[tuple[int, int]] = []
    for i in range(flat.count):
        for s in range(flat.segment_of[i], flat.segment_of[i + 1]):
            if flat.first[s] <= moment < flat.end[s]:
                alive.append((flat.high[s] - flat.low[s], i))
    total = sum(nbytes for nbytes, _ in alive)
    kept: list[int] = []
    for nbytes, i in sorted(alive):
        if total - nbytes > capacity:
            total -= nbytes
        else:
            kept.append(i)
    return tuple(problem.buffers[i].id for i in sorted(kept))


def _shrink(
    buffers: tuple[PackBuffer, ...], conflicts: Callable[[tuple[PackBuffer, ...]], bool]
) -> tuple[PackBuffer, ...]:
    """Leaves out ever smaller runs of buffers for as long as the rest still conflicts."""
    if not conflicts(buffers):
        return buffers
    run = max(len(buffers) // 2, 1)
    while True:
        at = 0
        while at < len(buffers):
            rest = buffers[:at] + buffers[at + run :]
            if rest and conflicts(rest):
                buffers = rest
            else:
                at += run
        if run == 1:
            return buffers
        run = max(run // 2, 1)
