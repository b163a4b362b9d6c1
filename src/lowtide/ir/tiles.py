"""Nests some of whose accesses run across the others: tiles of outer points, in which each reads memory in its own order.

Comes in: a static nest. Goes out: which accesses run through memory along an outer range while they jump along the rows of
their stage, and the tile that holds what those touch (``Tile``). Promised: a function of the loop alone; what is read ahead
is written by nobody in the loop, and what is stored late is read by nobody in it, so that any order of outer points, a
tile at a time too, gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lowtide.ir.graph import ITEMSIZE, int_of
from lowtide.ir.index import affine
from lowtide.ir.loops import Instr, Loop

FEWEST = 16  # points of a range that are worth turning
_LENGTHS = (256, 1024, 2048, 4096, 8192, 1 << 14)  # of a tile's rows: few, so that loops over other sizes have one text
_POINTS = (64, 32, 16)  # outer points of a tile
_UNITS = 8  # tiles to share out


@dataclass(frozen=True, slots=True)
class Tile:
    """``points`` of the outer range ``variable`` at once. ``slots``: per element of a buffer that is touched across (buffer and
    index), in order, the numbers of the instructions that touch it; ``length``: of the rows that are held of each."""

    variable: int
    points: int
    slots: tuple[tuple[int, ...], ...]
    length: tuple[int, ...]

    def nbytes(self, loop: Loop) -> int:
        """Of its arrays."""
        return self.points * _row_nbytes(loop, [held[0] for held in self.slots], self.length)


def steps(x: Instr) -> Mapping[str, int] | None:
    """How far a load or store moves through its buffer with each variable, what was loaded being one; None where it divides."""
    found = affine(x.index) if x.op in ("load", "store") and x.index is not None else None
    return None if found is None else found[0]


def strides(x: Instr) -> Mapping[str, int] | None:
    """The same where nothing that was loaded says where it goes; else None."""
    found = steps(x)
    return None if found is None or any(name[0] == "v" for name in found) else found


def _crossing(loop: Loop) -> dict[int, list[int]]:
    """By outer range, the loads and stores (by number) that run through memory along it and jump along the innermost range of
    their stage."""
    found: dict[int, list[int]] = {}
    for s, first in zip(loop.stages, loop.starts, strict=True):
        last = len(s.inner) - 1
        if last < 0 or int_of(s.inner[last]) < FEWEST:
            continue
        for n, x in enumerate(s.body, first):
            moves = strides(x)
            if moves is None or moves.get(f"r{last}", 0) < 2:
                continue
            for t, size in enumerate(loop.outer):
                if moves.get(f"i{t}") == 1 and int_of(size) >= FEWEST:
                    found.setdefault(t, []).append(n)
    return found


@lru_cache(maxsize=4096)
def tile(loop: Loop, most: int) -> Tile | None:
    """The tile of at most ``most`` bytes in which most of what crosses is turned; None where nothing does, or no tile is as
    small. It holds what stages of one inner range touch, all of that or nothing: one row that is too long, and there is none.
    """
    stages = [k for k, s in enumerate(loop.stages) for _ in s.body]
    best: Tile | None = None
    for t, numbers in sorted(_crossing(loop).items(), reverse=True):
        slots: dict[tuple[object, ...], list[int]] = {}
        for n in numbers:
            x, inner = loop.body[n], loop.stages[stages[n]].inner
            if len(inner) == 1 and apart(loop, x):
                slots.setdefault((x.attr, x.index, inner), []).append(n)
        length = tuple(int_of(loop.stages[stages[held[0]]].inner[0]) for held in slots.values())
        points = _points(loop, [held[0] for held in slots.values()], length, int_of(loop.outer[t]), most)
        if points and (best is None or sum(map(len, slots.values())) > sum(map(len, best.slots))):
            best = Tile(t, points, tuple(map(tuple, slots.values())), length)
    return best


def apart(loop: Loop, x: Instr) -> bool:
    """Whether an access may come earlier or later than its point: a load of what the loop only reads, or the one that touches
    what it stores."""
    others = loop.numbered(int(str(x.attr)))
    if x.op == "load":
        return not x.args and not any(y.writes for _, _, y in others)
    return len(x.args) == 1 and len(others) == 1


def _points(loop: Loop, first: list[int], length: tuple[int, ...], size: int, most: int) -> int:
    """Outer points of a tile that holds these rows; 0 where there is nothing to hold, or too much."""
    if any(n > _LENGTHS[-1] for n in length):
        return 0
    nbytes = _row_nbytes(loop, first, length)
    fitting = [p for p in _POINTS if nbytes and p * nbytes <= most]
    return next((p for p in fitting if size >= p * _UNITS), fitting[-1] if fitting else 0)


def _row_nbytes(loop: Loop, first: Sequence[int], length: Sequence[int]) -> int:
    """Bytes of a row of each array of a tile, and of what lies between it and the next."""
    return sum(pitch(m) * ITEMSIZE[loop.body[n].dtype] for n, m in zip(first, length, strict=True))


def pitch(length: int) -> int:
    """Elements from one held row to the next: no power of two, so that a column does not share one place of a cache."""
    return next(m for m in _LENGTHS if m >= length) + FEWEST


def astray(loop: Loop, most: int) -> int:
    """How many elements, by buffer and index, a nest touches across its rows and holds in no tile of at most ``most`` bytes."""
    found = tile(loop, most)
    held = {n for s in found.slots for n in s} if found is not None else set[int]()
    numbers = {n for listed in _crossing(loop).values() for n in listed} - held
    return len({(loop.body[n].attr, loop.body[n].index) for n in numbers})
