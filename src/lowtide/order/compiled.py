"""The compiled twin of the exact search and of the cut bounds: built on first use, called through ctypes.

Comes in: ``memory.flat.Flat``. Goes out: what ``order.exact`` and ``order.bounds`` answer, byte for byte and step for step,
some ten to thirty times sooner. Promised: the same answers with and without a compiler; ``why_not()`` says why there is none.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain

from lowtide.core import native
from lowtide.memory.flat import Flat

SEARCH = native.Library(
    "order", "lowtide.order", ("masks.cpp", "descent.cpp", "implied.cpp", "exact.cpp", "bounds.cpp"), native.QUICK_FLAGS
)
_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_TELL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_ROWS = ("preds", "holds", "makers", "shared")
_PLAIN = ("size", "outlives", "alloc", "workspace")
_EVERY = 500_000  # steps between two looks at the clock
_MOST_BYTES = 1 << 60  # all storages together; beyond, sums might not fit in 64 bits

Tell = Callable[[int, int, int], bool]


class _Flat(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "m", "base")),
        *((x, _NUMBERS) for name in (*_ROWS, "pairs") for x in (f"{name}_of", name)),
        *((name, _NUMBERS) for name in _PLAIN),
    ]


def library() -> ctypes.CDLL | None:
    """The loaded library, or None."""
    return native.opened(SEARCH)[0]


def being_built() -> bool:
    """Whether ``library`` would wait."""
    return native.being_built(SEARCH)


def why_not() -> str:
    """Why there is no library (empty where there is one)."""
    return native.opened(SEARCH)[1]


class Compiled:
    """A graph as the library reads it; keeps the numbers alive."""

    def __init__(self, library: ctypes.CDLL, flat: Flat) -> None:
        self._library = library
        self._kept: list[array[int]] = []
        fields: list[object] = []
        for name in _ROWS:
            fields += self._rows(getattr(flat, name))
        fields += self._rows([list(chain.from_iterable(x)) for x in flat.pairs], 2)
        fields += [self._pointer(getattr(flat, name)) for name in _PLAIN]
        self._flat = _Flat(flat.n, flat.m, flat.base, *fields)

    def _pointer(self, numbers: Iterable[int]) -> object:
        kept = array("q", numbers)
        self._kept.append(kept)
        return ctypes.cast(kept.buffer_info()[0], _NUMBERS)

    def _rows(self, rows: Sequence[Sequence[int]], width: int = 1) -> list[object]:
        starts = accumulate((len(x) // width for x in rows), initial=0)
        return [self._pointer(starts), self._pointer(chain.from_iterable(rows))]

    def close(self, order: Sequence[int], bound: int, steps: int, tell: Tell) -> tuple[list[int], int, int, int]:
        """As ``exact.close`` on this graph: (best order, its peak, bound, steps used)."""
        best, answer = array("q", order), array("q", (0, 0, 0))
        self._library.lowtide_close(
            ctypes.byref(self._flat),
            ctypes.cast(best.buffer_info()[0], _NUMBERS),
            ctypes.c_int64(bound),
            ctypes.c_int64(steps),
            _TELL(lambda *told: int(tell(*told))),
            ctypes.c_int64(_EVERY),
            ctypes.cast(answer.buffer_info()[0], _NUMBERS),
        )
        peak, known, used = answer
        return best.tolist(), peak, known, used

    def cut(
        self, order: Sequence[int], live: Sequence[int], floor: int, steps: int, known: list[int]
    ) -> tuple[int, int, int]:
        """As ``bounds.cut_in_python`` on this graph: (bound, steps used, node or -1); ``known`` is filled."""
        found, answer = array("q", known), array("q", (0, 0, 0))
        given = [array("q", order), array("q", live)]
        self._library.lowtide_cut(
            ctypes.byref(self._flat),
            *(ctypes.cast(x.buffer_info()[0], _NUMBERS) for x in given),
            ctypes.c_int64(floor),
            ctypes.c_int64(steps),
            *(ctypes.cast(x.buffer_info()[0], _NUMBERS) for x in (found, answer)),
        )
        known[:] = found
        bound, used, at = answer
        return bound, used, at


def compiled(flat: Flat) -> Compiled | None:
    """``flat`` for the library; None without one, and where byte counts might not fit into 64 bits."""
    made = library()
    if made is None or flat.base + sum(flat.size) + sum(flat.workspace) > _MOST_BYTES:
        return None
    return Compiled(made, flat)
