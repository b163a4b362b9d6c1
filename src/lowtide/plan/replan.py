"""Placement anew for every shape: lifetimes stay, sizes change.

Comes in: a plain problem whose sizes are those of one shape. Goes out: a function from sizes (bytes, one per buffer) to a
placement. Promised: correct for any sizes, zero included, because it is computed from them and not from a hint; the answers
of the most recent size vectors are kept, and the layers of recent placements, of which those made at the sizes of most like
proportions are tried first. This replaces an allocation tree over symbolic sizes, whose places are fixed by the hints that it
was planned at. Where no layers serve, what lives at the peaks is placed first (``plan.peaks``; compiled in ``replan.cpp``).
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowtide.core.errors import UserError
from lowtide.plan import compiled, greedy, peaks
from lowtide.plan.flat import Flat, flatten, lower_bound, meetings
from lowtide.plan.layers import Layers, layers, settle
from lowtide.plan.problem import PackProblem
from lowtide.plan.reduce import linearise

_NODES, _LEAST = 7, 8000  # steps of descents that go back, per aim: per buffer, and at least
_SMALL, _WORK = 250, 8_000_000  # where steps are cheap: up to so many per buffer, and so many times buffers
_PACKERS = ("size", "breadth", peaks.DESCENT, peaks.BACKTRACK, "layers")
_LISTED = 5_000_000  # pairs of which lists are made in Python; with more only greedy orders are tried there
_NEAR = 100  # layers within a 100th of the bound will do
_KNOWN, _TRIED = 64, 3  # how many layers are kept, and how many of them are tried


@dataclass(frozen=True, slots=True)
class Replanned:
    """Offsets in the order of the problem's buffers; height and lower bound in bytes; what found it."""

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    packer: str


Form = TypeVar("Form")


class _Known(Generic[Form]):
    """Layers of recent placements, in the form that whoever settles them wants, with the sizes that they were made for as
    shares of their sum."""

    def __init__(self, count: int) -> None:
        self._layers: list[Form] = []
        self._shares: NDArray[np.float64] = np.empty((_KNOWN, count))
        self._used = [0] * _KNOWN
        self._clock = 0

    def nearest(self, sizes: Sequence[int]) -> list[int]:
        """Which layers to try, those of the most like proportions first."""
        apart = np.abs(self._shares[: len(self._layers)] - _shares(sizes)).sum(axis=1)
        return [int(k) for k in np.argsort(apart, kind="stable")[:_TRIED]]

    def __getitem__(self, k: int) -> Form:
        return self._layers[k]

    def use(self, k: int) -> None:
        """Layers that served are forgotten last."""
        self._clock += 1
        self._used[k] = self._clock

    def add(self, sizes: Sequence[int], made: Form) -> None:
        """Keep layers, in the place of those that have served no longer where there is no room."""
        if len(self._layers) < _KNOWN:
            k = len(self._layers)
            self._layers.append(made)
        else:
            k = min(range(_KNOWN), key=self._used.__getitem__)
            self._layers[k] = made
        self._shares[k] = _shares(sizes)
        self.use(k)


def _shares(sizes: Sequence[int]) -> NDArray[np.float64]:
    given = np.array(sizes, dtype=np.float64)
    return given / max(float(given.sum()), 1.0)


def replanner(
    problem: PackProblem, *, recent: int = 16, native: bool = True, long: bool | None = None, nodes: int | None = None
) -> Callable[[Sequence[int]], Replanned]:
    """A function that places the buffers of ``problem`` for other sizes.

    ``recent``: how many size vectors keep their answer; the least recently used one goes first. ``native``: use the compiled
    functions where there is a compiler. ``long``: in the build that is twice as fast and takes longer to make; None: in
    that one as soon as it is there, and before in the other, which gives the same answers. ``nodes``: most steps of
    descents that go back, for each aim (None: 7 per buffer, 8000 at least, and up to
    44,600 where there are some hundred buffers).

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
    if library is not None and flat.plain and max(flat.fixed, default=-1) < 0:
        anew = _compiled(flat, owner, library, long, nodes)
    else:
        anew = _in_python(flat, owner, nodes)
    kept: OrderedDict[tuple[int, ...], Replanned] = OrderedDict()

    def plan(sizes: Sequence[int]) -> Replanned:
        key = tuple(sizes)
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        if len(key) != flat.count or min(key, default=0) < 0:
            raise UserError(f"{flat.count} sizes of at least 0 bytes are expected")
        kept[key] = found = anew(key)
        if len(kept) > recent:
            kept.popitem(last=False)
        return found

    return plan


_Anew = Callable[[tuple[int, ...]], Replanned]


def _most(flat: Flat, nodes: int | None) -> int:
    if nodes is not None:
        return nodes
    return max(_NODES * flat.count, _LEAST, min(_SMALL * flat.count, _WORK // max(flat.count, 1)))


def _compiled(flat: Flat, owner: Sequence[int], library: ctypes.CDLL, long: bool | None, nodes: int | None) -> _Anew:
    work, known, most = compiled.replanner(flat, owner), _Known[compiled.Layers](flat.count), _most(flat, nodes)

    def anew(sizes: tuple[int, ...]) -> Replanned:
        now = (compiled.ready() or library) if long is None else library
        nearest = known.nearest(sizes)
        offsets, height, bound, packer, used = work.place(now, sizes, most, [known[k] for k in nearest])
        if used >= 0:
            known.use(nearest[used])
        else:
            known.add(sizes, work.layers(now, sizes, offsets))
        return Replanned(tuple(offsets), height, bound, _PACKERS[packer])

    return anew


def _in_python(flat: Flat, owner: Sequence[int], nodes: int | None) -> _Anew:
    """The twin of ``replan.cpp``, for every problem."""
    simple = flat.plain and max(flat.fixed, default=-1) < 0
    known, most = _Known[Layers](flat.count), _most(flat, nodes)
    lives = peaks.lives_of(flat) if simple and flat.single and meetings(flat) <= _LISTED else None

    def anew(sizes: tuple[int, ...]) -> Replanned:
        sized = replace(flat, size=list(sizes), high=[sizes[i] for i in owner])
        bound = lower_bound(sized) if lives is None else peaks.lower_bound(sized, lives)
        for k in known.nearest(sizes) if simple else ():
            offsets = settle(sized, known[k], bound + bound // _NEAR)
            if offsets is not None:
                known.use(k)
                return Replanned(tuple(offsets), _height(sized, offsets), bound, "layers")
        best = _placed(sized, bound, lives, most)
        if simple:
            known.add(sizes, layers(sized, best.offsets))
        return best

    return anew


def _placed(flat: Flat, bound: int, lives: peaks.Lives | None, nodes: int) -> Replanned:
    """Peaks first, aimed higher only where no search reached what will do, and then greedy orders as well."""
    best: Replanned | None = None
    for aim in peaks.aims(flat, bound):
        if lives is None:
            break
        for found in peaks.rounds(flat, lives, aim, nodes):
            best = _better(flat, bound, best, found)
        if best is not None and best.height <= aim.height:
            if aim.will_do:
                return best
            break
    for found in _greedy(flat):
        best = _better(flat, bound, best, found)
    assert best is not None
    return best


def _better(flat: Flat, bound: int, best: Replanned | None, found: tuple[str, list[int]]) -> Replanned:
    name, offsets = found
    height = _height(flat, offsets)
    return Replanned(tuple(offsets), height, bound, name) if best is None or height < best.height else best


def _greedy(flat: Flat) -> Iterator[tuple[str, list[int]]]:
    for name in ("size", "breadth"):
        yield name, greedy.place(flat, greedy.order_by(flat, name), best=name == "breadth")


def _height(flat: Flat, offsets: Sequence[int]) -> int:
    return max((x + s for x, s in zip(offsets, flat.size, strict=True) if s), default=0)
