"""The exact search in Python: the same tree as ``search.cpp``, node for node. Its oracle in tests, and its stand-in
where there is no compiler.

Comes in: ``Sections`` and a capacity in bytes. Goes out: whether it fits, offsets, the number of nodes. Promised: no
recursion; deterministic but for the deadline.

Place or defer: a placement can be pushed down until every buffer rests on another one, on an obstacle or on the
ground, so at each step some buffer lies at the least offset that what is placed already leaves it. One buffer is
picked and tried there, under everything unplaced that it overlaps; where that fails it is deferred: it must rise above
something unplaced first, and is not asked again until its least offset rises. (Scheduling knows the idea as set-times
branching: Le Pape et al. 1994.) Sections and decomposition are minimalloc's; the bound per section, over all
thresholds, is the one-machine bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lowtide.core.units import align_up
from lowtide.plan.sections import Sections

_MOST = 1 << 90  # above any offset times the number of rows
_LEAST, _PLACED, _DEFERRED, _WOKEN = range(4)  # kinds of changes on the trail


def search(sections: Sections, capacity: int, budget: int, seconds: float) -> tuple[bool | None, list[int], int]:
    """Whether the rows fit the capacity (None: ``budget`` nodes or ``seconds`` spent), their offsets in bytes, nodes.

    The capacity is at least the problem's lower bound: tops of fixed buffers are not looked at here.
    """
    tree = _Tree(sections, capacity, time.perf_counter() + seconds)
    share, nodes = 2 * len(sections.size), 0
    while sections.size:
        for order in range(len(sections.rules)):
            left = budget - nodes
            if left <= 0 or time.perf_counter() > tree.deadline:
                return None, [], nodes
            tree.turn(order)
            tree.reset()
            answer = tree.solve(min(share, left))
            nodes += tree.nodes
            if answer is not None:
                return answer, [x * sections.unit for x in tree.offset] if answer else [], nodes
        share *= 2
    return True, [], nodes


@dataclass(slots=True)
class _Frame:
    """One component of unplaced rows, ``perm[lo:hi]``, sections that cover it, and the row being tried (see ``search.cpp``)."""

    lo: int
    hi: int
    hull: tuple[int, int]
    chosen: int = -1
    mark: int = 0
    pieces: int = 0
    piece: int = -1
    lonely: bool = False


class _Tree:
    """The search's working memory; lives for one call.

    ``first`` and ``reach``: what ``bound_reach`` found after its first and its second round. These, and what belongs to
    sections (``acc``, ``peak``, ``low``, ``count``), are kept from node to node; what may be out of date lies in the sections
    ``stale``.
    """

    def __init__(self, sections: Sections, capacity: int, deadline: float) -> None:
        self.deadline, self.capacity, self.limit = deadline, sections.room(capacity), sections.limits(capacity)
        self.size, self.align, n = sections.size, sections.alignment, len(sections.size)
        starts = sections.range_of
        self.ranges = [list(zip(sections.lo[a:b], sections.hi[a:b], strict=True)) for a, b in pairwise(starts)]
        self.hull = [(r[0][0], r[-1][1]) for r in self.ranges]
        self.at, self.nodes, self.rule = sections, 0, 0
        many = sections.sections
        self.acc, self.peak, self.low, self.count = ([0] * many for _ in range(4))
        self.births = sorted(range(n), key=lambda b: self.hull[b][0])
        self.born = [0] * n
        for k, b in enumerate(self.births):
            self.born[b] = k
        self.birth_of, self.cover, self.near = self.lists()
        self.rank: Sequence[int] = []
        self.before: Sequence[int] = []
        self.waits, self.by_rank = [-1] * n, [0] * n

    def lists(self) -> tuple[list[int], list[list[int]], list[list[int]]]:
        """Where in ``births`` those of each section begin, the rows whose hull covers each, and who meets whom."""
        many, simple = self.at.sections, len(self.at.lo) == len(self.size)
        birth_of, cover, near = [0] * (many + 1), [list[int]() for _ in range(many)], [list[int]() for _ in self.size]
        alive: list[int] = []
        for b in self.births:
            first, end = self.hull[b]
            birth_of[first + 1] += 1
            alive = [a for a in alive if self.hull[a][1] > first]
            met = alive if simple else [a for a in alive if self.meet(a, b)]
            near[b] += met
            for a in met:
                near[a].append(b)
            alive.append(b)
            for s in range(first, end):
                cover[s].append(b)
        for s in range(many):
            birth_of[s + 1] += birth_of[s]
        return birth_of, cover, near

    def meet(self, a: int, b: int) -> bool:
        return any(p < z and y < q for p, q in self.ranges[a] for y, z in self.ranges[b])

    def rows_in(self, lo: int, hi: int) -> list[int]:
        """The unplaced rows whose hull meets a span of sections."""
        if lo >= hi:
            return []
        placed = self.placed
        born = self.births[self.birth_of[lo + 1] : self.birth_of[hi]]
        return [b for b in self.cover[lo] if not placed[b]] + [b for b in born if not placed[b]]

    def within(self, b: int, lo: int, hi: int) -> Iterator[slice]:
        """The sections of b that lie in a span."""
        for x, y in self.ranges[b]:
            if x < hi and lo < y:
                yield slice(max(x, lo), min(y, hi))

    def clear(self, b: int, at: int) -> int:
        """The lowest offset from ``at`` on that is aligned for b and clear of the obstacles in its life."""
        s = self.at
        at = align_up(at, self.align[b])
        moved = s.obstacle_of[b] < s.obstacle_of[b + 1]
        while moved:
            moved = False
            for k in range(s.obstacle_of[b], s.obstacle_of[b + 1]):
                if at + self.size[b] > s.obstacle_lo[k] and at < s.obstacle_hi[k]:
                    at = align_up(s.obstacle_hi[k], self.align[b])
                    moved = True
        return at

    def reset(self) -> None:
        n = len(self.size)
        self.least = [self.clear(i, 0) for i in range(n)]
        self.first, self.reach, self.offset = list(self.least), list(self.least), [0] * n
        self.placed, self.deferred, self.asleep = [False] * n, [False] * n, 0
        self.perm = list(range(n))
        self.cut, self.left = [0] * (self.at.sections + 1), [0] * self.at.sections
        for b in range(n):
            self.occupy(b, 1)
        self.keys = [self.key(b) for b in self.births]
        self.trail: list[tuple[int, int, int]] = []
        self.frames: list[_Frame] = []
        self.splits: list[tuple[int, int]] = []
        self.nodes = 0
        self.stale = _MOST, 0

    def turn(self, order: int) -> None:
        self.rule = self.at.rules[order]
        self.rank, self.before = self.at.ranks[order], self.at.before[order]
        self.waits = [-1] * len(self.size)
        for b, before in enumerate(self.before):
            self.by_rank[self.rank[b]] = b
            if before >= 0:
                self.waits[before] = b

    def key(self, b: int) -> int:
        """What is picked first has the least; ``_MOST`` where b may not be picked."""
        if self.placed[b] or not self.eligible(b):
            return _MOST
        return self.least[b] * len(self.size) + self.rank[b]

    def occupy(self, b: int, times: int) -> None:
        """Count b among what is unplaced in its sections, or no longer."""
        lo, hi = self.hull[b]
        for s in range(lo, hi - 1):
            self.cut[s] += times
        nbytes = self.size[b] * times
        for x, y in self.ranges[b]:
            for s in range(x, y):
                self.left[s] += nbytes

    def grow(self, lo: int, hi: int) -> None:
        left, right = self.stale
        self.stale = (lo if lo < left else left), (hi if hi > right else right)

    def touch(self, b: int) -> None:
        self.grow(*self.hull[b])
        self.keys[self.born[b]] = self.key(b)

    def touch_placed(self, b: int) -> None:
        """b was placed or taken back, so that the equal row that waits for it may be picked, or no longer."""
        self.touch(b)
        if self.waits[b] >= 0:
            self.keys[self.born[self.waits[b]]] = self.key(self.waits[b])

    def set_least(self, b: int, at: int) -> None:
        self.least[b] = self.first[b] = self.reach[b] = at
        self.touch(b)

    def defer_or_wake(self, b: int, asleep: bool) -> None:
        self.deferred[b] = asleep
        self.asleep += 1 if asleep else -1
        self.set_least(b, self.least[b])

    def undo(self, mark: int) -> None:
        while len(self.trail) > mark:
            kind, b, old = self.trail.pop()
            if kind == _LEAST:
                self.set_least(b, old)
            elif kind == _PLACED:
                self.placed[b] = False
                self.occupy(b, 1)
                self.touch_placed(b)
            else:
                self.defer_or_wake(b, kind == _WOKEN)

    def put(self, b: int) -> bool:
        """Place b at its least offset and lift its unplaced neighbours; returns whether it has none."""
        top = self.least[b] + self.size[b]
        self.placed[b], self.offset[b] = True, self.least[b]
        self.trail.append((_PLACED, b, 0))
        self.occupy(b, -1)
        self.touch_placed(b)
        around = [v for v in self.near[b] if not self.placed[v]]
        for v in around:
            if self.least[v] >= top:
                continue
            self.trail.append((_LEAST, v, self.least[v]))
            self.set_least(v, self.clear(v, top))
            if self.deferred[v]:
                self.trail.append((_WOKEN, v, 0))
                self.defer_or_wake(v, False)
        return not around

    def awake(self, lo: int, hi: int) -> bool:
        """Whether a component has a row that is not deferred."""
        return not self.asleep or not all(self.deferred[b] for b in self.perm[lo:hi])

    def bound_reach(self) -> bool:
        """Bound from below the offset that deferred rows can still reach; False if one can never rest. Only rows in stale
        sections can have changed; those grow by whatever did change."""
        if not self.asleep:
            return True
        return self.raise_round(self.least, self.first) and self.raise_round(self.first, self.reach)

    def raise_round(self, before: list[int], after: list[int]) -> bool:
        """One round over the deferred rows in stale sections."""
        rests, changed = True, list[int]()
        for b in [b for b in self.rows_in(*self.stale) if self.deferred[b]]:
            around = [v for v in self.near[b] if not self.placed[v]]
            rests = min((before[v] for v in around), default=_MOST) < self.least[b] + self.size[b]
            now = max(before[b], self.clear(b, min(before[v] + self.size[v] for v in around))) if rests else before[b]
            if now != after[b]:
                after[b] = now
                changed.append(b)
            if not rests:
                break
        for b in changed:
            self.grow(*self.hull[b])
        return rests

    def hopeful(self) -> bool:
        """Whether what is unplaced in stale sections can still fit: in each, what starts at or above an offset must fit
        above it. Brings those sections up to date; if it fails they stay stale."""
        if not self.bound_reach():
            return False
        lo, hi = self.stale
        if lo < hi:
            rows = self.rows_in(lo, hi)
            if any(self.reach[b] > self.limit[b] for b in rows):
                return False
            if not (self.fits_lowest(rows) if self.rule == 0 else self.fits(rows)):
                return False
        self.stale = _MOST, 0
        return True

    def fits(self, rows: list[int]) -> bool:
        """The stale sections, and what may be picked in them: how many rows, and the lowest of their offsets."""
        (lo, hi), acc, peak = self.stale, self.acc, self.peak
        acc[lo:hi] = peak[lo:hi] = self.count[lo:hi] = [0] * (hi - lo)
        self.low[lo:hi] = [_MOST] * (hi - lo)
        for b in sorted(rows, key=lambda b: -self.reach[b]):
            reach, size, most = self.reach[b], self.size[b], 0
            for part in self.within(b, lo, hi):
                for s in range(part.start, part.stop):
                    acc[s] += size
                    most = max(most, acc[s])
                    peak[s] = max(peak[s], acc[s] + reach)
            if most > self.capacity - reach:
                return False
        for b in rows:
            if self.eligible(b):
                for part in self.within(b, lo, hi):
                    for s in range(part.start, part.stop):
                        self.count[s] += self.least[b] + acc[s] <= self.capacity
                        self.low[s] = min(self.low[s], self.least[b])
        return True

    def fits_lowest(self, rows: list[int]) -> bool:
        """The same for the rule that looks at no sections: all that is unplaced fits above most rows, and only the others have
        to be asked what starts above them."""
        room = self.capacity - max((self.reach[b] for b in rows), default=0)
        full = [s for s in range(*self.stale) if self.left[s] > room]
        if not full:
            return True
        lo, hi = full[0], full[-1] + 1
        tight = [b for b in self.rows_in(lo, hi) if self.most_left(b, lo, hi) > self.capacity - self.reach[b]]
        if not tight:
            return True
        lowest = min(self.reach[b] for b in tight)
        lo = max(lo, min(self.hull[b][0] for b in tight))
        hi = min(hi, max(self.hull[b][1] for b in tight))
        acc = self.acc
        acc[lo:hi] = [0] * (hi - lo)
        above = [b for b in self.rows_in(lo, hi) if self.reach[b] >= lowest]
        for b in sorted(above, key=lambda b: -self.reach[b]):
            size, most = self.size[b], 0
            for part in self.within(b, lo, hi):
                acc[part] = [x + size for x in acc[part]]
                most = max(most, *acc[part])
            if most > self.capacity - self.reach[b]:
                return False
        return True

    def most_left(self, b: int, lo: int, hi: int) -> int:
        """The most that is unplaced in a section of b within a span."""
        return max((max(self.left[part]) for part in self.within(b, lo, hi)), default=0)

    def hull_of(self, lo: int, hi: int) -> tuple[int, int]:
        rows = self.perm[lo:hi]
        return min(self.hull[b][0] for b in rows), max(self.hull[b][1] for b in rows)

    def eligible(self, b: int) -> bool:
        before = self.before[b]
        return not self.deferred[b] and (before < 0 or self.placed[before])

    def pivot(self, lo: int, hi: int) -> int:
        """The section of a span to decide on, by the order's rule; -1 if there is none."""

        def key(s: int) -> tuple[int, ...]:
            if self.rule == 3:
                return self.low[s] * 8 // self.capacity, self.count[s], self.low[s], s
            if self.rule == 2:
                return self.low[s], -self.peak[s], self.count[s], s
            return self.low[s], self.count[s], s

        return min((s for s in range(lo, hi) if self.count[s]), key=key, default=-1)

    def pick(self, f: _Frame) -> int:
        """The row to decide on: the lowest of the pivot section, or of all where there is none; -1 if nothing may be picked."""
        lo, hi = f.hull
        section = self.pivot(lo, hi) if self.rule else -1
        if section < 0:
            key = min(self.keys[self.birth_of[lo] : self.birth_of[hi]])
        else:
            covers = (b for b in self.cover[section] if any(x <= section < y for x, y in self.ranges[b]))
            key = min(self.keys[self.born[b]] for b in covers)
        return -1 if key == _MOST else self.by_rank[key % len(self.size)]

    def split(self, lo: int, hi: int) -> int:
        """Split ``perm[lo:hi]`` where no unplaced row crosses; append the parts to splits, return how many."""
        if lo == hi:
            return 0
        rows, part, piece = self.perm[lo:hi], 0, dict[int, int]()
        for s in range(*self.hull_of(lo, hi)):
            piece[s] = part
            part += self.cut[s] == 0
        rows.sort(key=lambda b: piece[self.hull[b][0]])
        self.perm[lo:hi] = rows
        start, many = lo, 0
        for k in range(lo, hi):
            if k + 1 == hi or piece[self.hull[rows[k - lo]][0]] != piece[self.hull[rows[k - lo + 1]][0]]:
                self.splits.append((start, k + 1))
                start, many = k + 1, many + 1
        return many

    def solve(self, budget: int) -> bool | None:
        for r in range(self.split(0, len(self.size))):
            lo, hi = self.splits[r]
            self.stale = self.hull_of(lo, hi)
            if not self.hopeful():
                return False
            self.frames.append(_Frame(lo, hi, self.hull_of(lo, hi)))
            answer = self.component(budget)
            if answer is not True:
                return answer
            self.frames.clear()
        return True

    def component(self, budget: int) -> bool | None:
        frames = self.frames
        while True:
            row = self.pick(frames[-1])
            if row < 0:
                frames.pop()
                if not frames or not self.fail():
                    return False
                continue
            if self.nodes >= budget or (self.nodes & 255 == 255 and time.perf_counter() > self.deadline):
                return None
            self.nodes += 1
            if not self.attempt(row):
                if not self.fail():
                    return False
                continue
            while frames[-1].piece == frames[-1].pieces:  # solved: on to the next piece of its parent
                if len(frames) == 1:
                    return True
                del self.splits[len(self.splits) - frames[-1].pieces :]
                frames.pop()
                self.descend()

    def attempt(self, row: int) -> bool:
        """Place a row of the top frame and open the first piece of what remains, if all pieces can still fit."""
        f, perm = self.frames[-1], self.perm
        k = perm.index(row, f.lo, f.hi)
        perm[k], perm[f.hi - 1] = perm[f.hi - 1], row
        f.chosen, f.mark = row, len(self.trail)
        f.lonely = self.put(row)
        f.pieces, f.piece = self.parts(f), -1
        if not all(self.awake(*part) for part in self.splits[len(self.splits) - f.pieces :]) or not self.hopeful():
            return False
        self.descend()
        return True

    def parts(self, f: _Frame) -> int:
        """The pieces that remain without the row just placed; only where it was can one have become two."""
        lo, hi = self.hull[f.chosen]
        if 0 in self.cut[lo : hi - 1]:
            return self.split(f.lo, f.hi - 1)
        if f.lo < f.hi - 1:
            self.splits.append((f.lo, f.hi - 1))
        return int(f.lo < f.hi - 1)

    def descend(self) -> None:
        """Open the next piece of the top frame, if there is one."""
        f = self.frames[-1]
        f.piece += 1
        if f.piece < f.pieces:
            lo, hi = self.splits[len(self.splits) - f.pieces + f.piece]
            self.frames.append(_Frame(lo, hi, self.hull_of(lo, hi) if f.pieces > 1 else f.hull))

    def fail(self) -> bool:
        """The attempt of the top frame failed: climb to a frame that can go on. False if there is none."""
        while not self.defer():
            self.frames.pop()
            if not self.frames:
                return False
        return True

    def defer(self) -> bool:
        """Take the attempt back and defer its row; False if the component fails with that."""
        f = self.frames[-1]
        self.undo(f.mark)
        del self.splits[len(self.splits) - f.pieces :]
        f.pieces, f.piece = 0, -1
        if f.lonely:
            return False
        self.trail.append((_DEFERRED, f.chosen, 0))
        self.defer_or_wake(f.chosen, True)
        return self.awake(f.lo, f.hi) and self.hopeful()
