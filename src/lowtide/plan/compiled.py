"""The compiled twins (``greedy.cpp``, ``search.cpp``, ``repair.cpp``, ``backtrack.cpp``, ``replan.cpp``; one library): built on
first use, called by ctypes; the Python twins serve in their stead.

Comes in: ``Flat`` and ``Sections``. Goes out: placements and answers of the exact search. Promised: the same answers with
and without a compiler (the exact search then reaches fewer nodes in the same time), except where ``replan`` does without its
lists in Python because too many pairs meet; ``why_not()`` says why there is none.
"""

from __future__ import annotations

import ctypes
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Protocol, TypeAlias

from lowtide.core import native
from lowtide.core.errors import UserError
from lowtide.plan import greedy, windows
from lowtide.plan import search as twin
from lowtide.plan.flat import Flat
from lowtide.plan.sections import Sections

SEARCH = native.Library(
    "plan",
    "lowtide.plan",
    ("greedy.cpp", "search.cpp", "repair.cpp", "backtrack.cpp", "replan.cpp"),
    native.QUICK_FLAGS,
)
LONG_SEARCH = SEARCH._replace(flags=native.FLAGS)
_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_ARRAYS = ("size", "alignment", "fixed", "segment_of", "first", "end", "low", "high", "excluded_of", "excluded")
_ROWS = ("size", "alignment", "limit", "range_of", "lo", "hi", "obstacle_of", "obstacle_lo", "obstacle_hi")


class Place(Protocol):
    """As ``greedy.place`` with its problem given."""

    def __call__(self, order: Sequence[int], *, best: bool = False) -> list[int]:
        """Offsets in bytes when buffers are placed in ``order``."""
        ...


class _Flat(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int64), *((name, _NUMBERS) for name in _ARRAYS)]


class _Sections(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "sections", "orders")),
        *((name, _NUMBERS) for name in (*_ROWS, "rule", "rank", "before")),
        ("capacity", ctypes.c_int64),
    ]


def library(*, long: bool = False) -> ctypes.CDLL | None:
    """The loaded library, or None. ``long``: the build for searches of seconds; twice as fast, and it takes longer to make."""
    found = native.opened(LONG_SEARCH if long else SEARCH)[0]
    if found is not None:
        found.lowtide_place.restype = ctypes.c_int64
        found.lowtide_repair.restype = ctypes.c_int64
        found.lowtide_replan.restype = None
        found.lowtide_layers.restype = None
    return found


@cache
def _build_long() -> None:
    native.build_beside(LONG_SEARCH)


def ready() -> ctypes.CDLL | None:
    """The build for long searches as soon as it is there; until then the other one, while that one is built beside."""
    _build_long()
    return library(long=not native.being_built(LONG_SEARCH))


def being_built() -> bool:
    """Whether ``library`` would wait."""
    return native.being_built(SEARCH)


def why_not() -> str:
    """Why there is no library (empty where there is one, or will be)."""
    return "" if being_built() else native.opened(SEARCH)[1]


def _pointer(numbers: array[int]) -> object:
    return ctypes.cast(numbers.buffer_info()[0], _NUMBERS)


def placer(flat: Flat, library: ctypes.CDLL | None, *, scan: bool = False) -> Place:
    """The greedy placement of one problem, compiled or not, for as many calls as wanted.

    Best fit in order of birth takes n log n, unless ``scan`` asks for the way that any order can take.
    It raises UserError where two fixed places contradict each other.
    """
    if library is None:

        def in_python(order: Sequence[int], *, best: bool = False) -> list[int]:
            return greedy.place(flat, order, best=best)

        return in_python

    kept = [array("q", getattr(flat, name)) for name in _ARRAYS]
    struct = _Flat(flat.count, *map(_pointer, kept))

    def place(order: Sequence[int], *, best: bool = False) -> list[int]:
        wanted, offsets = array("q", order), array("q", bytes(8 * len(kept[0])))
        many = ctypes.c_int64(len(wanted))
        fault = library.lowtide_place(
            ctypes.byref(struct), _pointer(wanted), many, int(best), int(scan), _pointer(offsets)
        )
        if fault >= 0:
            raise UserError(
                f"the fixed place of buffer number {fault} (offset {flat.fixed[fault]}) is taken by another one"
            )
        return offsets.tolist()

    return place


def decide(
    library: ctypes.CDLL | None, sections: Sections, capacity: int, budget: int, seconds: float
) -> tuple[bool | None, list[int], int]:
    """As ``search.search``: whether it fits (None: budget spent), offsets per row in bytes, nodes."""
    if library is None or not sections.size:
        return twin.search(sections, capacity, budget, seconds)
    rows = [sections.limits(capacity) if name == "limit" else getattr(sections, name) for name in _ROWS]
    ranks, before = (list(chain.from_iterable(lists)) for lists in (sections.ranks, sections.before))
    kept = [array("q", numbers) for numbers in (*rows, sections.rules, ranks, before)]
    count = len(sections.size)
    struct = _Sections(count, sections.sections, len(sections.rules), *map(_pointer, kept), sections.room(capacity))
    offsets, nodes = array("q", bytes(8 * count)), ctypes.c_int64(0)
    answer = library.lowtide_search(
        ctypes.byref(struct), ctypes.c_int64(budget), ctypes.c_double(seconds), ctypes.byref(nodes), _pointer(offsets)
    )
    fits = None if answer < 0 else bool(answer)
    return fits, [x * sections.unit for x in offsets] if fits else [], nodes.value


def repair(
    library: ctypes.CDLL | None,
    flat: Flat,
    offsets: Sequence[int],
    target: int,
    until: float,
    budget: int = windows.NO_LIMIT,
) -> tuple[list[int], int]:
    """As ``windows.repair``."""
    if library is None:
        return windows.repair(flat, offsets, target, until, budget)
    kept = [array("q", getattr(flat, name)) for name in _ARRAYS]
    struct, out = _Flat(flat.count, *map(_pointer, kept)), array("q", offsets)
    nodes = library.lowtide_repair(
        ctypes.byref(struct), ctypes.c_int64(flat.grain), ctypes.c_int64(target), ctypes.c_int64(budget),
        ctypes.c_double(min(max(until - time.perf_counter(), 0.0), 1e9)), _pointer(out),
    )  # fmt: skip
    return out.tolist(), nodes


class _Layers(ctypes.Structure):
    _fields_ = [(name, _NUMBERS) for name in ("order", "below_of", "below")]


Layers: TypeAlias = "tuple[array[int], array[int], array[int]]"  # the fields of ``_Layers``


@dataclass(frozen=True, slots=True)
class Replanner:
    """The compiled part of ``replan`` for one problem. ``owner``: the buffer of every segment; ``arrays``: of the problem,
    whose sizes are given with every call."""

    flat: Flat
    owner: Sequence[int]
    arrays: Mapping[str, array[int]]

    def place(
        self, library: ctypes.CDLL, sizes: Sequence[int], work: int, back: bool, tried: Sequence[Layers]
    ) -> tuple[list[int], int, int, int, int]:
        """Offsets, height and lower bound in bytes, number of the packer, and which of ``tried`` served or -1. ``work``: about
        how many numbers may be looked at. ``back``: descents may go back."""
        out, found = array("q", bytes(8 * self.flat.count)), array("q", bytes(8 * 4))
        rows = (_Layers * len(tried))(*(_Layers(*map(_pointer, x)) for x in tried))
        given = self._sized(sizes)
        library.lowtide_replan(
            ctypes.byref(self._struct(given)), ctypes.c_int64(self.flat.grain), ctypes.c_int64(work), ctypes.c_int64(back),
            rows, ctypes.c_int64(len(tried)), _pointer(out), _pointer(found),
        )  # fmt: skip
        height, bound, packer, used = found
        return out.tolist(), height, bound, packer, used

    def layers(self, library: ctypes.CDLL, sizes: Sequence[int], offsets: Sequence[int]) -> Layers:
        """As ``layers.layers``."""
        count, segments = self.flat.count, len(self.flat.first)
        order, below_of, below = (array("q", bytes(8 * many)) for many in (count, count + 1, 4 * segments))
        given, placed = self._sized(sizes), array("q", offsets)
        library.lowtide_layers(
            ctypes.byref(self._struct(given)), _pointer(placed), *map(_pointer, (order, below_of, below))
        )
        return order, below_of, below[: below_of[-1]]

    def _sized(self, sizes: Sequence[int]) -> Mapping[str, array[int]]:
        size = array("q", sizes)
        high = size if self.flat.single else array("q", [sizes[i] for i in self.owner])
        return {**self.arrays, "size": size, "high": high}

    def _struct(self, given: Mapping[str, array[int]]) -> _Flat:
        return _Flat(self.flat.count, *(_pointer(given[name]) for name in _ARRAYS))


def replanner(flat: Flat, owner: Sequence[int]) -> Replanner:
    """The compiled part of ``replan`` for ``flat`` with other sizes; ``owner``: the buffer of every segment."""
    return Replanner(flat, owner, {name: array("q", getattr(flat, name)) for name in _ARRAYS})
