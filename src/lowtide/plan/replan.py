"""Placement anew for every shape: lifetimes stay, sizes change.

Comes in: a plain problem whose sizes are those of one shape. Goes out: a function from sizes (bytes, one per buffer) to a
placement. Promised: correct for any sizes, zero included, because it is computed from them and not from a hint; the answers
of the most recent size vectors are kept, and the layers of recent placements, of which those made at the sizes of most like
proportions are tried first. This replaces an allocation tree over symbolic sizes, whose places are fixed by the hints that it
was planned at.
Where no layers serve, what lives at the peaks is placed first (``plan.peaks``; compiled in ``replan.cpp``), with one bound on
the work of all stages, which counts what they look at and no time.
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
from lowtide.plan.descent import Work
from lowtide.plan.flat import Flat, flatten, lower_bound, meetings
from lowtide.plan.layers import Layers, layers, settle
from lowtide.plan.problem import PackProblem
from lowtide.plan.reduce import linearise

_LOOKS, _LEAST = 5, 1000  # most work: so many times the square of the number of buffers, of this many at least
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
    problem: PackProblem, *, recent: int = 16, native: bool = True, long: bool | None = None, work: int | None = None,
    back: bool = True,
) -> Callable[[Sequence[int]], Replanned]:  # fmt: skip
    """A function that places the buffers of ``problem`` for other sizes.

    ``recent``: how many size vectors keep their answer; the least recently used one goes first. ``native``: use the compiled
    functions where there is a compiler. ``long``: in the build that is twice as fast and takes longer to make; None: in
    that one as soon as it is there, and before in the other, which gives the same answers. ``work``: about how many
    numbers may be looked at until the best so far has to do (None: 5 times the square of the buffers, of 1000 at least).
    ``back``: descents may go back.

    Raises:
        UserError: the problem has windows or merges, whose extents would have to change with the sizes; or (from the
            returned function) a wrong number of sizes, or a negative one.
    """
    if problem.merges or any(b.windows for b in problem.buffers):
        raise UserError("windows and merges cannot be planned anew for other sizes")
    shape = replace(problem, buffers=tuple(replace(b, size=max(b.size, 1)) for b in problem.buffers))
    flat = flatten(linearise(shape))
    owner = [i for i in range(flat.count) for _ in range(flat.segment_of[i], flat.segment_of[i + 1])]
    most = _LOOKS * max(flat.count, _LEAST) ** 2 if work is None else work
    library = compiled.library(long=bool(long)) if native else None
    if library is not None and flat.plain and max(flat.fixed, default=-1) < 0:
        anew = _compiled(flat, owner, library, long, most, back)
    else:
        anew = _in_python(flat, owner, most, back)
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


def _compiled(
    flat: Flat, owner: Sequence[int], library: ctypes.CDLL, long: bool | None, most: int, back: bool
) -> _Anew:
    twin, known = compiled.replanner(flat, owner), _Known[compiled.Layers](flat.count)

    def anew(sizes: tuple[int, ...]) -> Replanned:
        now = (compiled.ready() or library) if long is None else library
        nearest = known.nearest(sizes)
        offsets, height, bound, packer, used = twin.place(now, sizes, most, back, [known[k] for k in nearest])
        if used >= 0:
            known.use(nearest[used])
        else:
            known.add(sizes, twin.layers(now, sizes, offsets))
        return Replanned(tuple(offsets), height, bound, _PACKERS[packer])

    return anew


def _in_python(flat: Flat, owner: Sequence[int], most: int, back: bool) -> _Anew:
    """The twin of ``replan.cpp``, for every problem."""
    simple = flat.plain and max(flat.fixed, default=-1) < 0
    known = _Known[Layers](flat.count)
    lives = peaks.lives_of(flat) if simple and flat.single and meetings(flat) <= _LISTED else None

    def anew(sizes: tuple[int, ...]) -> Replanned:
        sized = replace(flat, size=list(sizes), high=[sizes[i] for i in owner])
        bound = lower_bound(sized) if lives is None else peaks.lower_bound(sized, lives)
        for k in known.nearest(sizes) if simple else ():
            offsets = settle(sized, known[k], bound + bound // _NEAR)
            if offsets is not None:
                known.use(k)
                return Replanned(tuple(offsets), _height(sized, offsets), bound, "layers")
        best = _placed(sized, bound, lives, most, back)
        if simple:
            known.add(sizes, layers(sized, best.offsets))
        return best

    return anew


def _placed(flat: Flat, bound: int, lives: peaks.Lives | None, most: int, back: bool) -> Replanned:
    """Peaks first, aimed higher where no search reached what will do, and from there down again for as long as that is reached;
    greedy orders as well where no aim was."""
    best: Replanned | None = None
    aims = peaks.aims(flat, bound)
    for aim in aims:
        if lives is None:
            break
        if best is None or best.height > aim.height:
            work = Work(most // aim.part)
            most -= work.left
            for found in peaks.rounds(flat, lives, aim, work, back=back):
                best = _better(flat, bound, best, found)
            most += work.left
        if (best is not None and best.height <= aim.height) == aim.will_do:
            break
    if best is not None and best.height <= max(aim.height for aim in aims):
        return best
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
