"""Conditionals and merges taken out of a problem, so that packers need not know of them.

Comes in: a ``PackProblem``. Goes out: one without ``arms`` or without ``merges`` whose every correct placement gives a
correct placement of the original. Promised: a conditional costs the maximum of its arms, never their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lowtide.plan.problem import PackBuffer, PackProblem


def linearise(problem: PackProblem) -> PackProblem:
    """Lay the arms of every conditional one after the other in time.

    The span of a conditional is repeated once per arm: what stands in an arm keeps its one copy, everything else that
    lives then lives in all copies. Conditionals are taken in order of their first appearance, outermost first.
    """
    while True:
        name = next((b.arms[0][0] for b in problem.buffers if b.arms), None)
        if name is None:
            return problem
        inside = [b for b in problem.buffers if name in dict(b.arms)]
        arms = sorted({dict(b.arms)[name] for b in inside})
        alive = [i for b in inside for i in b.intervals]
        if not alive:
            lo = hi = 0
        else:
            lo, hi = min(a for a, _ in alive), max(b for _, b in alive)
        problem = replace(problem, buffers=tuple(_repeat(b, name, arms, lo, hi) for b in problem.buffers))


def _repeat(b: PackBuffer, name: str, arms: list[int], lo: int, hi: int) -> PackBuffer:
    length, own = hi - lo, dict(b.arms).get(name)
    windows = b.windows or (None,) * len(b.intervals)
    pieces: list[tuple[int, int, tuple[int, int] | None]] = []
    for (first, end), window in zip(b.intervals, windows, strict=True):
        if first < lo:
            pieces.append((first, min(end, lo), window))
        for k, arm in enumerate(arms):
            a, z = max(first, lo), min(end, hi)
            if a < z and own in (None, arm):
                pieces.append((a + k * length, z + k * length, window))
        if end > hi:
            shift = (len(arms) - 1) * length
            pieces.append((max(first, hi) + shift, end + shift, window))
    joined: list[tuple[int, int, tuple[int, int] | None]] = []
    for piece in sorted(pieces, key=lambda p: p[0]):
        if joined and joined[-1][1] == piece[0] and joined[-1][2] == piece[2]:
            joined[-1] = (joined[-1][0], piece[1], piece[2])
        else:
            joined.append(piece)
    return replace(
        b,
        intervals=tuple((a, z) for a, z, _ in joined),
        windows=tuple(w for _, _, w in joined) if any(w is not None for _, _, w in joined) else (),
        arms=tuple(x for x in b.arms if x[0] != name),
    )


@dataclass(frozen=True, slots=True)
class Merged:
    """A problem in which chains of merged buffers are one buffer, named after the first of each chain."""

    problem: PackProblem
    head: Mapping[str, str]

    def spread(self, offsets: Mapping[str, int]) -> dict[str, int]:
        """Offsets of all original buffers."""
        return {name: offsets[head] for name, head in self.head.items()}


def possible_merges(problem: PackProblem) -> list[tuple[str, str]]:
    """The merges that can be used at all, largest first: both sides unfixed and whole, in the same arms, with exactly
    one step in common, the one born outliving it, and the alignment of the one that dies serving both."""
    by_id = {b.id: b for b in problem.buffers}
    out: list[tuple[str, str]] = []
    for pair in problem.merges:
        a, b = by_id[pair[0]], by_id[pair[1]]
        plain = a.offset is None and b.offset is None and not a.windows and not b.windows and bool(a.intervals)
        fits = b.size <= a.size and a.alignment % b.alignment == 0 and a.arms == b.arms
        hands_over = bool(b.intervals) and a.intervals[-1][1] == b.intervals[0][0] + 1
        if plain and fits and hands_over and b.intervals[-1][1] > a.intervals[-1][1]:
            out.append(pair)
    return sorted(out, key=lambda p: -by_id[p[1]].size)


def merge(problem: PackProblem, chosen: Iterable[tuple[str, str]]) -> Merged:
    """Join the chosen pairs; a pair whose dying side is already taken over, or whose born side already takes over
    something, is left out. The one born occupies the front of the one that dies."""
    after: dict[str, str] = {}
    born: set[str] = set()
    for a, b in chosen:
        if a not in after and b not in born:
            after[a] = b
            born.add(b)
    by_id = {b.id: b for b in problem.buffers}
    head: dict[str, str] = {}
    out: list[PackBuffer] = []
    for first in problem.buffers:
        if first.id in born:
            continue
        chain = [first]
        while chain[-1].id in after:
            chain.append(by_id[after[chain[-1].id]])
        head |= {b.id: first.id for b in chain}
        out.append(first if len(chain) == 1 else _joined(chain))
    alone = {b.id for b in problem.buffers if b.id not in after and b.id not in born}
    exclusions = tuple(p for p in problem.exclusions if p[0] in alone and p[1] in alone)
    return Merged(PackProblem(tuple(out), problem.capacity, exclusions), head)


def _joined(chain: list[PackBuffer]) -> PackBuffer:
    intervals: list[tuple[int, int]] = []
    windows: list[tuple[int, int] | None] = []
    for b in chain:
        for first, end in b.intervals:
            if intervals and intervals[-1][1] > first:  # the step in common belongs to the one that dies
                first = intervals[-1][1]
            if first < end:
                intervals.append((first, end))
                windows.append((0, b.size))
    return replace(chain[0], intervals=tuple(intervals), windows=tuple(windows))


def without_handover(problem: PackProblem) -> PackProblem:
    """Every buffer that could take over another begins one step later and stands in no merge: for lower bounds only."""
    born = {b for _, b in possible_merges(problem)}
    buffers: list[PackBuffer] = []
    for b in problem.buffers:
        if b.id in born:
            first, end = b.intervals[0]
            rest = ((first + 1, end),) if first + 1 < end else ()
            windows = b.windows[0 if rest else 1 :] if b.windows else ()
            b = replace(b, intervals=(*rest, *b.intervals[1:]), windows=windows)
        buffers.append(b)
    return replace(problem, buffers=tuple(buffers), merges=())
