"""A descent that goes back where it fails: the lowest offset first, and every section asked after each step.

Comes in: a ``Peak`` and the height (bytes) to stay within. Goes out: offsets in bytes, or None. Promised: it ends after as many
steps as it is given. Most peaks in which a descent fails need few other choices, and those shortly before it fails: so the last
step is taken back, and what it placed sleeps until a neighbour lifts it, since it would else lie there again. After some failures
in one order it goes back further, and on in another one.
``backtrack.cpp`` is the same, compiled. Vectors of numpy, because every step looks at all buffers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowtide.plan.descent import Keys, Numbers, Peak, bars, by_keys, meeting, order_of, room_of

ORDERS = ("TLW", "TAW", "TFW", "TOL", "THA", "HLF")  # asked in turn, from the first again after the last
_CROWDED = 3_000_000  # what all steps together look at; with more, many descents that never go back are quicker
_LOOKS = 4  # how often a step looks at what is near it
_NEVER = int(np.iinfo(np.int64).max)
_KEYS = 1 << 61  # what an offset and a rank have to fit in together
_PATIENCE, _BACK = 12, 8  # failures in one order before it goes back further, and how many placements at first


@dataclass(frozen=True, slots=True)
class Rows:
    """The buffers of a peak, which stand by birth. The rows among which are all that meet a row cover the sections
    ``[first, end)``; ``near``: how many they are, for all rows together. ``starts``: per section, how many rows those before it
    have together."""

    peak: Peak
    near: int
    first: Numbers
    end: Numbers
    starts: Numbers

    @property
    def cost(self) -> int:
        """Numbers that a step looks at, on average."""
        return _LOOKS * (self.near + int((self.end - self.first).sum())) // len(self.first)


def rows_of(peak: Peak) -> Rows:
    """What does not depend on the height."""
    lo, hi, a, z = peak.lo, peak.hi, peak.a, peak.z
    alive = np.cumsum(np.bincount(lo, minlength=len(peak.total)) - np.bincount(hi)[: len(peak.total)])
    return Rows(
        peak, int((z - a).sum()), lo[a], np.maximum.accumulate(hi)[z - 1], np.concatenate(([0], np.cumsum(alive)))
    )


def _covers(rows: Rows) -> Numbers:
    """The rows of the first section, of the second and so on, latest births first."""
    lo, hi = rows.peak.lo, rows.peak.hi
    order = np.repeat(np.arange(len(lo)), hi - lo)
    sections = np.arange(len(order)) - np.repeat(np.cumsum(hi - lo) - hi, hi - lo)
    return order[np.argsort(-sections, kind="stable")[::-1]]


def serves(rows: Rows, height: int) -> bool:
    """Whether a peak is small enough: steps are slow where many are alive at once."""
    work = int((rows.starts[rows.end] - rows.starts[rows.first]).sum())
    return work <= _CROWDED and room_of(rows.peak, height) < _KEYS // len(rows.first)


def backtrack(rows: Rows, height: int, nodes: int) -> tuple[list[int] | None, int]:
    """Offsets within ``height`` bytes, which are no fewer than the bound, or None where ``nodes`` placements found none; how many
    placements were tried."""
    state = _State(rows, height)
    tried = failed = order = 0
    patience, back = _PATIENCE, _BACK
    while len(state.steps) < state.count:
        row = state.pick()
        if row >= 0:
            if tried == nodes:
                return None, tried
            tried += 1
            if state.place(row):
                continue
        elif not state.steps:
            return None, tried
        failed += 1
        if failed <= patience:
            if not state.go_back():
                return None, tried
            continue
        state.take_back(max(len(state.steps) - back, 0))
        failed, back, order = 0, 2 * back, (order + 1) % len(ORDERS)
        if not state.steps:
            patience *= 2  # or the same orders would end where they ended before
        state.turn(ORDERS[order])
    return state.offsets(), tried


class _State:
    """The working memory of one call. Rows are buffers by birth; offsets are in units.

    ``key``: per row the lowest offset that is left for it, times their number, and its place in the order added; by it rows are
    picked. A placed row has ``top``, the whole height, which is never picked. ``bar``: per section the least key at which
    something lies too high for all that is still to be placed there. ``covers``: the rows of section after section, the latest
    births of each first, which are lifted and placed last. ``witness``: per section a row that lies low enough as far as is
    known; mostly it still does, and no other has to be looked at. ``steps``: what was placed, at the offsets ``places``;
    ``before``: the keys of all near it, before. ``slept[d]``: what went to sleep after d steps; ``woken[d]``: what the step after
    d others woke; ``asleep``: all that sleep. Lists of numbers, since the collector of garbage would look through a tuple per
    row.
    """

    def __init__(self, rows: Rows, height: int) -> None:
        self.peak, self.count = peak, count = rows.peak, len(rows.first)
        self.alignment = np.append(peak.alignment, 1)
        self.even = bool((self.alignment == 1).all())
        self.room = room_of(peak, height)
        self.top = self.room * count
        self.sizes, self.limits = by_keys(peak, height, np.int64)
        self.lo, self.hi, self.first, self.end = (x.tolist() for x in (peak.lo, peak.hi, rows.first, rows.end))
        self.bar, covers = bars(peak, height, np.int64), _covers(rows)
        self.covers, self.starts = covers.tolist(), rows.starts.tolist()
        self.witness = covers[rows.starts[:-1]]
        self.rank, self.key = np.zeros((2, count + 1), dtype=np.int64)
        self.key[count] = _NEVER
        self.placed = [False] * count
        self.steps, self.places, self.before = list[int](), list[int](), list[Keys]()
        self.slept, self.woken, self.asleep = dict[int, list[int]](), dict[int, list[int]](), set[int]()
        self.turn(ORDERS[0])

    def turn(self, order: str) -> None:
        """Go on in an order."""
        self.rank[order_of(self.peak, order)] = np.arange(self.count)
        self.key[:-1] += self.rank[:-1] - self.key[:-1] % self.count

    def pick(self) -> int:
        """The lowest row; -1 if there is none, or all that its sections still have to take would not fit above its place. As all
        sections can take what is left for them above the lowest of it, that is only so where what is lower sleeps."""
        key = self.key
        if self.asleep:
            key = key.copy()
            key[list(self.asleep)] = _NEVER
        row = int(key.argmin())
        mine = key.item(row)
        if mine == _NEVER or mine >= self.limits[row]:
            return -1
        return -1 if self.asleep and mine >= np.minimum.reduce(self.bar[self.lo[row] : self.hi[row]]) else row

    def place(self, row: int) -> bool:
        """Place a row and lift its neighbours; whether all sections can still take what is left, above the lowest of it."""
        peak, count, key = self.peak, self.count, self.key
        size, (near, met), at = self.sizes[row], meeting(peak, row), key.item(row) // count
        top, before = at * count + size, key[near].copy()
        if self.asleep:
            self.woken[len(self.steps)] = woken = [b for b in self.asleep if key[b] < top and self.meet(row, b)]
            self.asleep.difference_update(woken)
        self.steps.append(row)
        self.places.append(at)
        self.before.append(before)
        ahead = self.bar[self.lo[row] : self.hi[row]]
        ahead += size
        lift = top if self.even else self.lift(near, at + size // count)
        key[near] = np.maximum(before, self.rank[near] + lift * met)
        self.placed[row], key[row] = True, self.top
        return self.all_can(self.first[row], self.end[row])

    def meet(self, row: int, other: int) -> bool:
        """Whether two rows are alive at once."""
        return self.lo[row] < self.hi[other] and self.lo[other] < self.hi[row]

    def lift(self, near: Numbers | slice, top: int) -> Keys:
        """A top as keys, where it allows rows to lie, without their places in the order."""
        stride = self.alignment[near]
        return np.minimum(-(-top // stride) * stride, self.room) * self.count

    def all_can(self, first: int, end: int) -> bool:
        """Whether sections can each take what is left for them, above the lowest offset that is left there."""
        high = self.key[self.witness[first:end]] >= self.bar[first:end]
        if b"\1" not in high.tobytes():
            return True
        for section in (first + high.nonzero()[0]).tolist():
            bar = self.bar.item(section)
            for row in self.covers[self.starts[section] : self.starts[section + 1]]:
                if self.key.item(row) < bar:
                    self.witness[section] = row
                    break
            else:
                return False
        return True

    def take_back(self, depth: int) -> None:
        """Undo all but the first steps; what slept before the next of them goes on sleeping."""
        key, rank, count = self.key, self.rank, self.count
        while len(self.steps) > depth:
            self.asleep.difference_update(self.slept.pop(len(self.steps), ()))
            row, at, before = self.steps.pop(), self.places.pop(), self.before.pop()
            self.bar[self.lo[row] : self.hi[row]] -= self.sizes[row]
            near, _ = meeting(self.peak, row)
            key[near] = before - before % count + rank[near]  # the order may have been another one
            key[row], key[count] = at * count + rank[row], _NEVER
            self.placed[row] = False
            self.asleep.update(self.woken.pop(len(self.steps), ()))

    def go_back(self) -> bool:
        """Undo the last step and let its row sleep, or the one before where nothing could wake it; False if there is none."""
        while self.steps:
            row = self.steps[-1]
            self.take_back(len(self.steps) - 1)
            near = range(self.peak.a.item(row), self.peak.z.item(row))
            if any(b != row and not self.placed[b] and self.meet(row, b) for b in near):
                self.asleep.add(row)
                self.slept.setdefault(len(self.steps), []).append(row)
                return True
        return False

    def offsets(self) -> list[int]:
        """Where all lie, in bytes, once all are placed."""
        at = dict(zip(self.steps, self.places, strict=True))
        return [at[row] * self.peak.unit for row in range(self.count)]
