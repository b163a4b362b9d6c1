"""A descent that goes back where it fails: the lowest offset first, and every section asked after each step.

Comes in: a ``Peak`` and the height (bytes) to stay within. Goes out: offsets in bytes, or None. Promised: it ends after as many
steps as it is given. Most peaks in which a descent fails need few other choices, and those shortly before it fails: so the last
step is taken back, and what it placed sleeps until a neighbour lifts it, since it would else lie there again. After some failures
in one order it goes back further, and on in another one.
``backtrack.cpp`` is the same, compiled. Vectors of numpy, because every step looks at all buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowtide.core.units import align_up
from lowtide.plan.descent import Numbers, Peak, order_of

ORDERS = ("TLW", "TAW", "TFW", "TOL", "THA", "HLF")  # asked in turn, from the first again after the last
_CROWDED = 3_000_000  # what all steps together look at; with more, many descents that never go back are quicker
_LOOKS = 4  # how often a step looks at what is near it
_NEVER = int(np.iinfo(np.int64).max)
_KEYS = 1 << 61  # what an offset and a rank have to fit in together
_PATIENCE, _BACK = 12, 8  # failures in one order before it goes back further, and how many placements at first


@dataclass(frozen=True, slots=True)
class Rows:
    """The buffers of a peak by the section in which they begin. All that meet a row are among the rows ``[a, z)``, and these
    cover the sections ``[first, end)``. The rows of section after section stand from ``starts[section]`` on (``_covers``)."""

    peak: Peak
    births: Numbers
    a: Numbers
    z: Numbers
    first: Numbers
    end: Numbers
    starts: Numbers

    @property
    def near(self) -> int:
        """How many rows all rows look at where they are placed."""
        return int((self.z - self.a).sum())

    @property
    def cost(self) -> int:
        """Numbers that a step looks at, on average."""
        return _LOOKS * (self.near + int((self.end - self.first).sum())) // len(self.births)


def rows_of(peak: Peak) -> Rows:
    """What does not depend on the height."""
    births = np.argsort(peak.lo, kind="stable")
    lo, hi = peak.lo[births], peak.hi[births]
    latest = np.maximum.accumulate(hi)
    a, z = np.searchsorted(latest, lo, side="right"), np.searchsorted(lo, hi)
    alive = np.cumsum(np.bincount(lo, minlength=len(peak.total)) - np.bincount(hi)[: len(peak.total)])
    return Rows(peak, births, a, z, lo[a], latest[z - 1], np.concatenate(([0], np.cumsum(alive))))


def _covers(lo: Numbers, hi: Numbers) -> Numbers:
    """The rows of the first section, of the second and so on."""
    rows = np.repeat(np.arange(len(lo)), hi - lo)
    sections = np.arange(len(rows)) - np.repeat(np.cumsum(hi - lo) - (hi - lo) - lo, hi - lo)
    return rows[np.argsort(sections, kind="stable")]


def serves(rows: Rows, height: int) -> bool:
    """Whether a peak is small enough: steps are slow where many are alive at once."""
    work = int((rows.starts[rows.end] - rows.starts[rows.first]).sum())
    return work <= _CROWDED and _room(rows.peak, height) < _KEYS // len(rows.births)


def _room(peak: Peak, height: int) -> int:
    """A height in units, rounded up to a whole grain (all sizes are)."""
    return align_up(height, peak.grain) // peak.unit


def backtrack(rows: Rows, height: int, nodes: int) -> tuple[list[int] | None, int]:
    """Offsets within ``height`` bytes, or None where ``nodes`` placements found none; how many placements were tried."""
    state = _State(rows, height)
    tried = failed = order = 0
    patience, back = _PATIENCE, _BACK
    while len(state.steps) < len(state.rows):
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


@dataclass(frozen=True, slots=True)
class _Step:
    """A placement, and what it changed: the least offsets of all that could meet it before, and which rows it woke."""

    row: int
    at: int
    before: Numbers
    woken: list[int]


class _State:
    """The working memory of one call. Rows are buffers by the section in which they begin; offsets are in units.

    ``least``: per row the lowest offset that is left for it, and the whole height where it is placed. ``key``: that and its rank,
    by which rows are picked, or ``_NEVER`` where it is placed or sleeps. ``left``: per section what is still to be placed.
    ``witness``: per section a row that lies low enough as far as is known; mostly it still does, and no other has to be looked
    at. ``slept[d]``: what went to sleep after d steps; ``asleep``: all of them.
    """

    def __init__(self, rows: Rows, height: int) -> None:
        self.peak, self.births = peak, births = rows.peak, rows.births
        size, lo, self.ends, real, self.alignment = (
            x[births] for x in (peak.size, peak.lo, peak.hi, peak.real, peak.alignment)
        )
        self.even = bool((self.alignment == 1).all())
        self.room = _room(peak, height)
        limits = (height - real) // peak.unit
        self.rows = np.column_stack((size, lo, self.ends, limits, rows.a, rows.z, rows.first, rows.end)).tolist()
        self.covers, self.starts = _covers(lo, self.ends), rows.starts.tolist()
        self.witness = self.covers[rows.starts[:-1]]
        self.least, self.key = np.zeros((2, len(self.rows)), dtype=np.int64)
        self.left = peak.total.copy()
        self.steps: list[_Step] = []
        self.slept: list[list[int]] = [[]]
        self.asleep: set[int] = set()
        self.turn(ORDERS[0])

    def turn(self, order: str) -> None:
        """Go on in an order."""
        self.rank = np.argsort(order_of(self.peak, order))[self.births]
        awake = (self.key != _NEVER).nonzero()[0]
        self.key[awake] = self.least[awake] * len(self.rows) + self.rank[awake]

    def pick(self) -> int:
        """The lowest row; -1 if there is none, or all that its sections still have to take would not fit above its place."""
        row = int(self.key.argmin())
        if self.key[row] == _NEVER:
            return -1
        (_, lo, hi, limit, *_), at = self.rows[row], int(self.least[row])
        return -1 if at > limit or at > self.room - int(self.left[lo:hi].max()) else row

    def place(self, row: int) -> bool:
        """Place a row and lift its neighbours; whether all sections can still take what is left, above the lowest of it."""
        (size, lo, hi, _, a, z, first, end), at = self.rows[row], int(self.least[row])
        top, met, least, key = at + size, self.ends[a:z] > lo, self.least[a:z], self.key[a:z]
        woken = (
            [b for b in self.asleep if a <= b < z and self.ends[b] > lo and self.least[b] < top] if self.asleep else []
        )
        self.steps.append(_Step(row, at, least.copy(), woken))
        self.slept.append([])
        self.left[lo:hi] -= size
        self.least[row], self.key[row] = self.room, _NEVER
        lift = top if self.even else np.minimum(-(-top // self.alignment[a:z]) * self.alignment[a:z], self.room)
        np.maximum(least, lift, out=least, where=met)
        np.maximum(key, least * len(self.rows) + self.rank[a:z], out=key, where=met)
        self.wake(woken)
        return self.all_can(first, end)

    def all_can(self, first: int, end: int) -> bool:
        """Whether sections can each take what is left for them, above the lowest offset that is left there."""
        highest = self.room - self.left[first:end]
        for k in (self.least[self.witness[first:end]] > highest).nonzero()[0].tolist():
            rows = self.covers[self.starts[first + k] : self.starts[first + k + 1]]
            lowest = rows[self.least[rows].argmin()]
            if self.least[lowest] > highest[k]:
                return False
            self.witness[first + k] = lowest
        return True

    def wake(self, rows: Sequence[int]) -> None:
        """Let rows be picked again."""
        for b in rows:
            self.key[b] = self.least[b] * len(self.rows) + self.rank[b]
            self.asleep.remove(b)

    def sleep(self, rows: Sequence[int]) -> None:
        """Let rows not be picked."""
        for b in rows:
            self.key[b] = _NEVER
            self.asleep.add(b)

    def take_back(self, depth: int) -> None:
        """Undo all but the first steps; what slept before the next of them goes on sleeping."""
        while len(self.steps) > depth:
            self.wake(self.slept.pop())
            step = self.steps.pop()
            size, lo, hi, _, a, z, _, _ = self.rows[step.row]
            self.left[lo:hi] += size
            self.least[a:z] = step.before
            self.key[step.row] = 0
            awake = a + (self.key[a:z] != _NEVER).nonzero()[0]
            self.key[awake] = self.least[awake] * len(self.rows) + self.rank[awake]
            self.sleep(step.woken)

    def go_back(self) -> bool:
        """Undo the last step and let its row sleep, or the one before where nothing could wake it; False if there is none."""
        while self.steps:
            row = self.steps[-1].row
            self.take_back(len(self.steps) - 1)
            _, lo, _, _, a, z, _, _ = self.rows[row]
            near = a + (self.ends[a:z] > lo).nonzero()[0]
            if any(b != row and (self.key[b] != _NEVER or int(b) in self.asleep) for b in near):
                self.sleep([row])
                self.slept[-1].append(row)
                return True
        return False

    def offsets(self) -> list[int]:
        """Where all lie, in bytes, once all are placed."""
        out = np.empty(len(self.rows), dtype=np.int64)
        out[self.births[[step.row for step in self.steps]]] = [step.at for step in self.steps]
        return (out * self.peak.unit).tolist()
