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
from dataclasses import dataclass, field
from itertools import pairwise

from lowtide.core.units import align_up
from lowtide.plan.sections import Sections

_MOST = 1 << 62
_BACK = 128  # placements taken back at first when patience ends; twice as many every time


def search(
    sections: Sections, capacity: int, budget: int, seconds: float, patience: int = 0
) -> tuple[bool | None, list[int], int]:
    """Whether the rows fit the capacity (None: ``budget`` nodes or ``seconds`` spent), their offsets in bytes, nodes.

    With ``patience`` no order begins anew: after so many failed attempts the search goes back some way and on in the next
    order; False then proves nothing.
    The capacity is at least the problem's lower bound: tops of fixed buffers are not looked at here.
    """
    tree = _Tree(sections, capacity, time.perf_counter() + seconds, patience)
    share, nodes = 2 * len(sections.size), 0
    while sections.size:
        for order in range(len(sections.rules)):
            left = budget - nodes
            if left <= 0 or time.perf_counter() > tree.deadline:
                return None, [], nodes
            tree.reset(order)
            answer = tree.solve(left if patience else min(share, left))
            nodes += tree.nodes
            if answer is not None or patience:
                return answer, [x * sections.unit for x in tree.offset] if answer else [], nodes
        share *= 2
    return True, [], nodes


@dataclass(slots=True)
class _Frame:
    """One component of unplaced rows, ``perm[lo:hi]``, and the row being tried (see ``search.cpp``)."""

    lo: int
    hi: int
    chosen: int = -1
    mark: int = 0
    pieces: int = 0
    piece: int = -1
    lonely: bool = False


@dataclass(slots=True)
class _Change:
    kind: str
    row: int
    old: int = 0


@dataclass(slots=True)
class _State:
    """What a placement changes."""

    least: list[int] = field(default_factory=list[int])
    offset: list[int] = field(default_factory=list[int])
    placed: list[bool] = field(default_factory=list[bool])
    deferred: list[bool] = field(default_factory=list[bool])
    cut: list[int] = field(default_factory=list[int])
    perm: list[int] = field(default_factory=list[int])
    trail: list[_Change] = field(default_factory=list[_Change])


class _Tree:
    """The search's working memory; lives for one call."""

    def __init__(self, sections: Sections, capacity: int, deadline: float, patience: int) -> None:
        self.patience, self.order, self.failed, self.back = patience, 0, 0, _BACK
        self.deadline, self.capacity, self.limit = deadline, sections.room(capacity), sections.limits(capacity)
        self.size, self.align, n = sections.size, sections.alignment, len(sections.size)
        starts = sections.range_of
        self.ranges = [list(zip(sections.lo[a:b], sections.hi[a:b], strict=True)) for a, b in pairwise(starts)]
        self.hull = [(r[0][0], r[-1][1]) for r in self.ranges]
        self.near = [[b for b in range(n) if b != a and self.meet(a, b)] for a in range(n)]
        self.at = sections
        self.acc, self.peak = [0] * sections.sections, [0] * sections.sections
        self.reach, self.nodes, self.rule = [0] * n, 0, 0
        self.rank: list[int] = []
        self.before: list[int] = []
        self.state = _State()
        self.frames: list[_Frame] = []
        self.splits: list[tuple[int, int]] = []

    @property
    def offset(self) -> list[int]:
        return self.state.offset

    def meet(self, a: int, b: int) -> bool:
        return any(p < z and y < q for p, q in self.ranges[a] for y, z in self.ranges[b])

    def clear(self, b: int, at: int) -> int:
        """The lowest offset from ``at`` on that is aligned for b and clear of the obstacles in its life."""
        s = self.at
        at = align_up(at, self.align[b])
        moved = True
        while moved:
            moved = False
            for k in range(s.obstacle_of[b], s.obstacle_of[b + 1]):
                if at + self.size[b] > s.obstacle_lo[k] and at < s.obstacle_hi[k]:
                    at = align_up(s.obstacle_hi[k], self.align[b])
                    moved = True
        return at

    def turn(self, order: int) -> None:
        self.order, self.rule = order, self.at.rules[order]
        self.rank, self.before = self.at.ranks[order], self.at.before[order]

    def reset(self, order: int) -> None:
        n = len(self.size)
        self.turn(order)
        cut = [0] * (self.at.sections + 1)
        for a, b in self.hull:
            for s in range(a, b - 1):
                cut[s] += 1
        least = [self.clear(i, 0) for i in range(n)]
        self.state = _State(least, [0] * n, [False] * n, [False] * n, cut, list(range(n)))
        self.frames, self.splits, self.nodes = [], [], 0
        self.failed, self.back = 0, _BACK

    def undo(self, mark: int) -> None:
        st = self.state
        while len(st.trail) > mark:
            change = st.trail.pop()
            b = change.row
            if change.kind == "least":
                st.least[b] = change.old
            elif change.kind == "deferred":
                st.deferred[b] = False
            elif change.kind == "woken":
                st.deferred[b] = True
            else:
                st.placed[b] = False
                for s in range(self.hull[b][0], self.hull[b][1] - 1):
                    st.cut[s] += 1

    def put(self, b: int) -> bool:
        """Place b at its least offset and lift its unplaced neighbours; returns whether it has none."""
        st = self.state
        top = st.least[b] + self.size[b]
        st.placed[b], st.offset[b] = True, st.least[b]
        st.trail.append(_Change("placed", b))
        for s in range(self.hull[b][0], self.hull[b][1] - 1):
            st.cut[s] -= 1
        lonely = True
        for v in self.near[b]:
            if st.placed[v]:
                continue
            lonely = False
            if st.least[v] >= top:
                continue
            st.trail.append(_Change("least", v, st.least[v]))
            st.least[v] = self.clear(v, top)
            if st.deferred[v]:
                st.trail.append(_Change("woken", v))
                st.deferred[v] = False
        return lonely

    def bound_reach(self, rows: list[int]) -> bool:
        """Bound from below the offset that every row can still reach; False if one cannot fit."""
        st, reach = self.state, self.reach
        for b in rows:
            reach[b] = st.least[b]
        waiting = [b for b in rows if st.deferred[b]]
        if len(waiting) == len(rows):
            return False
        for _ in range(2):
            raised: list[int] = []
            for b in waiting:
                around = [v for v in self.near[b] if not st.placed[v]]
                if min((reach[v] for v in around), default=_MOST) >= st.least[b] + self.size[b]:
                    return False
                raised.append(max(reach[b], self.clear(b, min(reach[v] + self.size[v] for v in around))))
            for b, new in zip(waiting, raised, strict=True):
                reach[b] = new
        return all(reach[b] <= self.limit[b] for b in rows)

    def hopeful(self, lo: int, hi: int) -> bool:
        """Whether a component can still fit: in every section, what starts at or above an offset must fit above it."""
        rows = self.state.perm[lo:hi]
        if not self.bound_reach(rows):
            return False
        acc, peak, reach = self.acc, self.peak, self.reach
        left, right = self.hull_of(rows)
        acc[left:right] = peak[left:right] = [0] * (right - left)
        for b in sorted(rows, key=lambda b: -reach[b]):
            low, size, most = reach[b], self.size[b], 0
            for x, y in self.ranges[b]:
                for s in range(x, y):
                    acc[s] += size
                    most = max(most, acc[s])
                    peak[s] = max(peak[s], acc[s] + low)
            if most > self.capacity - low:
                return False
        return True

    def hull_of(self, rows: list[int]) -> tuple[int, int]:
        return min(self.hull[b][0] for b in rows), max(self.hull[b][1] for b in rows)

    def eligible(self, b: int) -> bool:
        before = self.before[b]
        return not self.state.deferred[b] and (before < 0 or self.state.placed[before])

    def pivot(self, rows: list[int]) -> int:
        """The section to decide on, by the order's rule; -1 where the rule looks at no sections."""
        if self.rule == 0:
            return -1
        count: dict[int, int] = {}
        low: dict[int, int] = {}
        for b in rows:
            if self.eligible(b):
                for x, y in self.ranges[b]:
                    for s in range(x, y):
                        count[s] = count.get(s, 0) + (self.state.least[b] + self.acc[s] <= self.capacity)
                        low[s] = min(low.get(s, _MOST), self.state.least[b])

        def key(s: int) -> tuple[int, ...]:
            if self.rule == 3:
                return low[s] * 8 // self.capacity, count[s], low[s], s
            if self.rule == 2:
                return low[s], -self.peak[s], count[s], s
            return low[s], count[s], s

        return min((s for s in count if count[s]), key=key, default=-1)

    def pick(self, f: _Frame) -> int:
        """The row to decide on: the lowest of the pivot section, or of all; its place in perm, or -1."""
        st = self.state
        section = self.pivot(st.perm[f.lo : f.hi])
        found, best = -1, (0, 0)
        for k in range(f.lo, f.hi):
            b = st.perm[k]
            covers = section < 0 or any(x <= section < y for x, y in self.ranges[b])
            if covers and self.eligible(b) and (found < 0 or (st.least[b], self.rank[b]) < best):
                found, best = k, (st.least[b], self.rank[b])
        return found

    def split(self, lo: int, hi: int) -> int:
        """Split ``perm[lo:hi]`` where no unplaced row crosses; append the parts to splits, return how many."""
        if lo == hi:
            return 0
        rows, part, piece = self.state.perm[lo:hi], 0, dict[int, int]()
        for s in range(*self.hull_of(rows)):
            piece[s] = part
            part += self.state.cut[s] == 0
        rows.sort(key=lambda b: piece[self.hull[b][0]])
        self.state.perm[lo:hi] = rows
        start, many = lo, 0
        for k in range(lo, hi):
            if k + 1 == hi or piece[self.hull[rows[k - lo]][0]] != piece[self.hull[rows[k - lo + 1]][0]]:
                self.splits.append((start, k + 1))
                start, many = k + 1, many + 1
        return many

    def solve(self, budget: int) -> bool | None:
        for r in range(self.split(0, len(self.size))):
            if not self.open(*self.splits[r]):
                return False
            answer = self.component(budget)
            if answer is not True:
                return answer
            self.frames.clear()
        return True

    def open(self, lo: int, hi: int) -> bool:
        if not self.hopeful(lo, hi):
            return False
        self.frames.append(_Frame(lo, hi))
        return True

    def component(self, budget: int) -> bool | None:
        frames = self.frames
        while True:
            k = self.pick(frames[-1])
            if k < 0:
                frames.pop()
                if not frames or not self.fail():
                    return False
                continue
            if self.nodes >= budget or (self.nodes & 255 == 255 and time.perf_counter() > self.deadline):
                return None
            self.nodes += 1
            if not self.attempt(k):
                self.failed += 1
                if not (self.rewind() if 0 < self.patience < self.failed else self.fail()):
                    return False
                continue
            while frames[-1].piece == frames[-1].pieces:  # solved: on to the next piece of its parent
                if len(frames) == 1:
                    return True
                del self.splits[len(self.splits) - frames[-1].pieces :]
                frames.pop()
                if self.descend():
                    continue
                if not self.fail():
                    return False
                break

    def attempt(self, k: int) -> bool:
        """Place the row at ``perm[k]`` of the top frame and open the first piece of what remains."""
        f, perm = self.frames[-1], self.state.perm
        perm[k], perm[f.hi - 1] = perm[f.hi - 1], perm[k]
        f.chosen, f.mark = perm[f.hi - 1], len(self.state.trail)
        f.lonely = self.put(f.chosen)
        f.pieces = self.split(f.lo, f.hi - 1)
        if f.pieces > 1 and not all(self.hopeful(*part) for part in self.splits[len(self.splits) - f.pieces :]):
            return False
        f.piece = -1
        return self.descend()

    def descend(self) -> bool:
        """Open the next piece of the top frame, if there is one."""
        f = self.frames[-1]
        f.piece += 1
        if f.piece == f.pieces:
            return True
        return self.open(*self.splits[len(self.splits) - f.pieces + f.piece])

    def fail(self) -> bool:
        """The attempt of the top frame failed: climb to a frame that can go on. False if there is none."""
        while not self.defer():
            self.frames.pop()
            if not self.frames:
                return False
        return True

    def rewind(self) -> bool:
        """Take back the last attempts on the way here and go on in the next order; False if that cannot fit."""
        keep = max(len(self.frames) - self.back, 1)
        self.failed, self.back = 0, self.back * 2
        if keep == 1:  # or the same orders would end where they ended before
            self.patience *= 2
        for f in self.frames[keep - 1 :]:
            del self.splits[len(self.splits) - f.pieces :]
        del self.frames[keep:]
        f = self.frames[-1]
        self.undo(f.mark)
        f.pieces, f.piece = 0, -1
        self.turn((self.order + 1) % len(self.at.rules))
        return self.hopeful(f.lo, f.hi)

    def defer(self) -> bool:
        """Take the attempt back and defer its row; False if the component fails with that."""
        f = self.frames[-1]
        self.undo(f.mark)
        if f.pieces:
            del self.splits[len(self.splits) - f.pieces :]
        f.pieces, f.piece = 0, -1
        if f.lonely:
            return False
        self.state.trail.append(_Change("deferred", f.chosen))
        self.state.deferred[f.chosen] = True
        return self.hopeful(f.lo, f.hi)
